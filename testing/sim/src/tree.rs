//! The inode graph: path lookup, inode lifetime and disk space.
//!
//! Invariants: an inode exists as long as a live name, a handle, a durable entry or an unsynced
//! directory operation refers to it. Its space is freed earlier, with the last live name and
//! handle. Callers hold the file system's single lock.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};

use crate::dir::{DirChange, DirNode, DirOp};
use crate::errno::{EBUSY, EFBIG, ENOENT, ENOSPC, errno};
use crate::freed::FreedBytes;
use crate::inode::{Body, FileChange, FileNode, Ino, Node};
use crate::space::{BLOCK_BYTES, blocks_of};

pub(crate) const ROOT: Ino = 1;

/// Longer files are refused: files are held in memory.
const MAX_FILE_BYTES: u64 = 1 << 32;

/// The free space that an unlimited disk reports.
const UNLIMITED_BYTES: u64 = 1 << 50;

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Ino, Node>,
    pub(crate) next_ino: Ino,
    next_seq: u64,
    capacity_bytes: Option<u64>,
    used_blocks: u64,
    /// Inodes without live names or handles that a durable directory may still refer to.
    orphans: BTreeSet<Ino>,
    pub(crate) freed: FreedBytes,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node { links: 1, open: 0, body: Body::Dir(DirNode::default()) };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next_ino: ROOT + 1,
            next_seq: 0,
            capacity_bytes: None,
            used_blocks: 0,
            orphans: BTreeSet::new(),
            freed: FreedBytes::default(),
        }
    }

    /// A tree of fully synced nodes, on a disk of the same capacity as `self`'s.
    pub(crate) fn with_nodes(&self, nodes: BTreeMap<Ino, Node>) -> Self {
        // The root takes no block.
        let used_blocks = nodes.values().map(blocks_of_node).sum::<u64>().saturating_sub(1);
        Self {
            nodes,
            next_ino: self.next_ino,
            next_seq: self.next_seq,
            capacity_bytes: self.capacity_bytes,
            used_blocks,
            orphans: BTreeSet::new(),
            freed: self.freed.clone(),
        }
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    pub(crate) fn node(&self, ino: Ino) -> io::Result<&Node> {
        self.nodes.get(&ino).ok_or_else(|| errno(ENOENT))
    }

    pub(crate) fn node_mut(&mut self, ino: Ino) -> io::Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or_else(|| errno(ENOENT))
    }

    /// The inode that `path` names. Paths start at the root directory; there are no symbolic
    /// links.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<Ino> {
        self.walk(&names(path))
    }

    /// The directory that holds `path`, and the last component of it.
    pub(crate) fn parent(&self, path: &Path) -> io::Result<(Ino, OsString)> {
        let mut names = names(path);
        let last = names.pop().ok_or_else(|| errno(EBUSY))?;
        let dir = self.walk(&names)?;
        self.node(dir)?.dir()?;
        Ok((dir, last))
    }

    fn walk(&self, names: &[OsString]) -> io::Result<Ino> {
        let mut at = ROOT;
        for name in names {
            at = *self.node(at)?.dir()?.live.get(name).ok_or_else(|| errno(ENOENT))?;
        }
        Ok(at)
    }

    pub(crate) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity_bytes = bytes;
    }

    fn free_blocks(&self) -> u64 {
        let capacity = self.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
        (capacity / BLOCK_BYTES).saturating_sub(self.used_blocks)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_blocks() * BLOCK_BYTES
    }

    /// Adds an inode, which takes one block for itself.
    pub(crate) fn add(&mut self, body: Body) -> io::Result<Ino> {
        if self.free_blocks() == 0 {
            return Err(errno(ENOSPC));
        }
        self.used_blocks += 1;
        let ino = self.next_ino;
        self.next_ino += 1;
        self.nodes.insert(ino, Node { links: 1, open: 0, body });
        Ok(ino)
    }

    /// Reserves space for a range of bytes, all or nothing.
    pub(crate) fn reserve(&mut self, ino: Ino, offset: u64, len_bytes: u64) -> io::Result<()> {
        let free = self.free_blocks();
        let file = self.node_mut(ino)?.file_mut()?;
        let range = blocks_of(offset, len_bytes);
        let missing = file.extents.missing(&range);
        if missing > free {
            return Err(errno(ENOSPC));
        }
        file.extents.insert(range);
        self.used_blocks += missing;
        Ok(())
    }

    /// Writes as much of `data` as there is space for, at least one byte; returns the number of
    /// bytes written.
    pub(crate) fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let end = offset.saturating_add(data.len() as u64);
        if end > MAX_FILE_BYTES {
            return Err(errno(EFBIG));
        }
        let free = self.free_blocks();
        let extents = &self.node(ino)?.file()?.extents;
        let mut fits = end;
        while fits > offset && extents.missing(&blocks_of(offset, fits - offset)) > free {
            fits = (fits - 1) / BLOCK_BYTES * BLOCK_BYTES;
        }
        if fits <= offset {
            return Err(errno(ENOSPC));
        }
        let len = (fits - offset) as usize;
        self.reserve(ino, offset, len as u64)?;
        let seq = self.next_seq();
        let data = data.get(..len).unwrap_or(data).to_vec();
        let change = FileChange::Write { offset: offset as usize, data };
        self.node_mut(ino)?.file_mut()?.change(seq, change);
        Ok(len)
    }

    pub(crate) fn set_len(&mut self, ino: Ino, len_bytes: u64) -> io::Result<()> {
        if len_bytes > MAX_FILE_BYTES {
            return Err(errno(EFBIG));
        }
        let seq = self.next_seq();
        let file = self.node(ino)?.file()?;
        let cut = file.live.get(len_bytes as usize..).unwrap_or_default().to_vec();
        self.freed.add(ino, len_bytes as usize, &cut);
        let file = self.node_mut(ino)?.file_mut()?;
        file.change(seq, FileChange::SetLen(len_bytes as usize));
        let given_back = file.extents.truncate(len_bytes.div_ceil(BLOCK_BYTES));
        self.used_blocks = self.used_blocks.saturating_sub(given_back);
        Ok(())
    }

    /// Replaces both images of a file at once, which no program can do.
    pub(crate) fn overwrite(&mut self, ino: Ino, bytes: Vec<u8>) -> io::Result<()> {
        let file = self.node_mut(ino)?.file_mut()?;
        let before = file.extents.count();
        let mut extents = crate::space::Extents::default();
        extents.insert(blocks_of(0, bytes.len() as u64));
        let after = extents.count();
        *file = FileNode::fully_synced(bytes, extents, std::mem::take(&mut file.older));
        self.used_blocks = (self.used_blocks + after).saturating_sub(before);
        Ok(())
    }

    pub(crate) fn hold(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.open += 1;
        }
    }

    /// A handle was dropped.
    pub(crate) fn release(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.open = node.open.saturating_sub(1);
        }
        self.free_if_unreferenced(ino);
        self.collect();
    }

    /// A live name was removed.
    pub(crate) fn unlink(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.links = node.links.saturating_sub(1);
        }
        self.free_if_unreferenced(ino);
    }

    fn free_if_unreferenced(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        if node.links > 0 || node.open > 0 || !self.orphans.insert(ino) {
            return;
        }
        self.used_blocks = self.used_blocks.saturating_sub(blocks_of_node(node));
        if let Body::File(file) = &node.body {
            self.freed.add(ino, 0, &file.live);
        }
    }

    /// Drops the orphans that no crash can bring back.
    pub(crate) fn collect(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        let referenced = self.referenced();
        let lost = self.orphans.extract_if(.., |ino| !referenced.contains(ino));
        for ino in lost {
            self.nodes.remove(&ino);
        }
    }

    /// Every inode that a directory refers to now, durably, or possibly after a crash.
    pub(crate) fn referenced(&self) -> BTreeSet<Ino> {
        let mut all = BTreeSet::from([ROOT]);
        #[expect(clippy::disallowed_methods, reason = "only directories refer to inodes")]
        let dirs = self.nodes.values().filter_map(|node| node.dir().ok());
        for dir in dirs {
            all.extend(dir.live.values().chain(dir.durable.values()));
            all.extend(dir.log.iter().map(|DirOp { change, .. }| match change {
                DirChange::Link { ino, .. }
                | DirChange::Unlink { ino, .. }
                | DirChange::Rename { ino, .. } => *ino,
            }));
        }
        all
    }
}

/// The number of blocks an inode takes: one for itself, and those of its bytes.
fn blocks_of_node(node: &Node) -> u64 {
    1 + node.file().map_or(0, |file| file.extents.count())
}

/// The components of `path`; `.` and `..` are resolved lexically.
pub(crate) fn names(path: &Path) -> Vec<OsString> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_os_string()),
            Component::ParentDir => {
                names.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}
