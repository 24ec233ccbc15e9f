//! Operations on names, and what a directory sync makes durable.
//!
//! Every operation changes the live entries and appends itself to the log of each directory it
//! touches. The checks are in the same order as in Linux, so that the errors are the same, too.

use std::io;
use std::path::Path;

use crate::dir::{DirChange, DirNode, DirOp, NameRef};
use crate::errno::{EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, errno};
use crate::inode::{Body, FileNode, Ino};
use crate::tree::{ROOT, Tree};

impl Tree {
    fn entry(&self, place: &NameRef) -> io::Result<Option<Ino>> {
        Ok(self.node(place.0)?.dir()?.live.get(&place.1).copied())
    }

    fn expect_entry(&self, place: &NameRef) -> io::Result<Ino> {
        self.entry(place)?.ok_or_else(|| errno(ENOENT))
    }

    /// Applies `change` to the live entries and logs it.
    fn record(&mut self, change: &DirChange) -> io::Result<()> {
        let seq = self.next_seq();
        let mut dirs: Vec<Ino> = change.places().map(|place| place.0).collect();
        dirs.dedup();
        for dir in dirs {
            let node = self.node_mut(dir)?.dir_mut()?;
            change.apply(dir, &mut node.live);
            node.log.push(DirOp { seq, change: change.clone() });
        }
        Ok(())
    }

    pub(crate) fn create_file(&mut self, path: &Path) -> io::Result<Ino> {
        self.create(path, Body::File(FileNode::default()))
    }

    pub(crate) fn create_dir(&mut self, path: &Path) -> io::Result<Ino> {
        self.create(path, Body::Dir(DirNode::default()))
    }

    fn create(&mut self, path: &Path, body: Body) -> io::Result<Ino> {
        if matches!(self.resolve(path), Ok(ROOT)) {
            return Err(errno(EEXIST));
        }
        let at = self.parent(path)?;
        if self.entry(&at)?.is_some() {
            return Err(errno(EEXIST));
        }
        let ino = self.add(body)?;
        self.record(&DirChange::Link { at, ino })?;
        Ok(ino)
    }

    pub(crate) fn hard_link(&mut self, original: &Path, link: &Path) -> io::Result<()> {
        let ino = self.resolve(original)?;
        let at = self.parent(link)?;
        if self.entry(&at)?.is_some() {
            return Err(errno(EEXIST));
        }
        if self.node(ino)?.is_dir() {
            return Err(errno(EPERM));
        }
        self.node_mut(ino)?.links += 1;
        self.record(&DirChange::Link { at, ino })
    }

    pub(crate) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let at = self.parent(path)?;
        let ino = self.expect_entry(&at)?;
        self.node(ino)?.file()?;
        self.record(&DirChange::Unlink { at, ino })?;
        self.unlink(ino);
        Ok(())
    }

    pub(crate) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let at = self.parent(path)?;
        let ino = self.expect_entry(&at)?;
        if !self.node(ino)?.dir()?.live.is_empty() {
            return Err(errno(ENOTEMPTY));
        }
        self.record(&DirChange::Unlink { at, ino })?;
        self.unlink(ino);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.parent(from)?, self.parent(to)?);
        let ino = self.expect_entry(&from)?;
        let is_dir = self.node(ino)?.is_dir();
        if is_dir && self.is_within(to.0, ino)? {
            return Err(errno(EINVAL));
        }
        let replaced = self.entry(&to)?;
        if let Some(replaced) = replaced {
            if self.is_within(from.0, replaced)? {
                return Err(errno(ENOTEMPTY));
            }
            if replaced == ino {
                return Ok(());
            }
            let node = self.node(replaced)?;
            match (is_dir, node.dir()) {
                (true, Err(_)) => return Err(errno(ENOTDIR)),
                (false, Ok(_)) => return Err(errno(EISDIR)),
                (true, Ok(dir)) if !dir.live.is_empty() => return Err(errno(ENOTEMPTY)),
                (true, Ok(_)) | (false, Err(_)) => {}
            }
        }
        self.record(&DirChange::Rename { from, to, ino })?;
        if let Some(replaced) = replaced {
            self.unlink(replaced);
        }
        Ok(())
    }

    /// Whether directory `inner` is `outer` or a descendant of it.
    fn is_within(&self, inner: Ino, outer: Ino) -> io::Result<bool> {
        if inner == outer {
            return Ok(true);
        }
        let Ok(dir) = self.node(outer)?.dir() else { return Ok(false) };
        for child in dir.live.values() {
            if self.node(*child)?.is_dir() && self.is_within(inner, *child)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the entries of `dir` durable. A rename out of or into another directory is atomic on
    /// the disk: it also persists the earlier operations of the other directory.
    pub(crate) fn sync_dir(&mut self, dir: Ino) -> io::Result<()> {
        if self.node(dir)?.dir()?.stuck {
            return Ok(());
        }
        let mut work = vec![(dir, u64::MAX)];
        while let Some((dir, up_to)) = work.pop() {
            let Some(node) = self.nodes.get_mut(&dir) else { continue };
            let node = node.dir_mut()?;
            let count = node.log.partition_point(|op| op.seq <= up_to);
            for op in node.log.drain(..count) {
                op.change.apply(dir, &mut node.durable);
                work.extend(
                    op.change.places().filter(|place| place.0 != dir).map(|p| (p.0, op.seq)),
                );
            }
        }
        self.collect();
        Ok(())
    }

    /// Makes the entries of `dir` durable, even if a failed sync left it stuck.
    pub(crate) fn force_sync_names(&mut self, dir: Ino) -> io::Result<()> {
        self.node_mut(dir)?.dir_mut()?.stuck = false;
        self.sync_dir(dir)
    }

    /// Creates the missing directories of `path`.
    pub(crate) fn make_dirs(&mut self, path: &Path) -> io::Result<Ino> {
        let mut at = ROOT;
        let mut walked = std::path::PathBuf::from("/");
        for name in crate::tree::names(path) {
            walked.push(&name);
            let next = match self.entry(&(at, name))? {
                Some(ino) => ino,
                None => {
                    let ino = self.create_dir(&walked)?;
                    self.force_sync_names(at)?;
                    ino
                }
            };
            self.node(next)?.dir().map_err(|_| errno(EBUSY))?;
            at = next;
        }
        Ok(at)
    }
}
