//! Quarantine: the directory `damaged-<milliseconds>` beside `segments`, on the same root, for
//! damaged files and those that a repair replaces.
//!
//! The crates `repair` and `roots` use it. This module deletes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lithdb_env::{Env, Error, Fs, Result, exists, sync_parent, write_all_at};

use crate::SEGMENTS_DIR;
use crate::window::{PIECE, Window};

/// Prefix of the name of a quarantine directory; the time in milliseconds follows.
pub const QUARANTINE_PREFIX: &str = "damaged-";

/// Whether this is the name of a quarantine directory.
pub fn is_quarantine_dir(name: &str) -> bool {
    name.strip_prefix(QUARANTINE_PREFIX)
        .is_some_and(|millis| !millis.is_empty() && millis.bytes().all(|b| b.is_ascii_digit()))
}

/// Quarantines files. When a method returns, its effect is durable.
#[derive(Debug)]
pub struct Quarantine<'a> {
    fs: &'a dyn Fs,
    name: String,
    /// The directories created.
    pub dirs: BTreeSet<PathBuf>,
    linked: BTreeSet<PathBuf>,
    /// Number of files quarantined.
    pub files: usize,
}

impl<'a> Quarantine<'a> {
    /// Chooses a directory name that does not exist in any of `tables`, the table's directories.
    pub fn new(env: &'a Env, tables: &[PathBuf]) -> Result<Self> {
        let (fs, mut millis) = (&*env.fs, env.clock.now().0);
        let is_taken = |name: &str| -> Result<bool> {
            for path in tables.iter().map(|table| table.join(name)) {
                if exists(fs, &path).map_err(|e| Error::io("stat", &path, e))? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        while is_taken(&format!("{QUARANTINE_PREFIX}{millis}"))? {
            millis += 1;
        }
        let name = format!("{QUARANTINE_PREFIX}{millis}");
        Ok(Self { fs, name, dirs: BTreeSet::new(), linked: BTreeSet::new(), files: 0 })
    }

    /// The quarantine directory for `path`, created durably if necessary.
    pub fn dir_for(&mut self, path: &Path) -> Result<PathBuf> {
        let parent = path.parent().unwrap_or_else(|| Path::new("."));
        let is_segment = parent.file_name().is_some_and(|name| name == SEGMENTS_DIR);
        let table = if is_segment { parent.parent().unwrap_or(parent) } else { parent };
        let dir = table.join(&self.name);
        if !self.dirs.contains(&dir) {
            self.fs.create_dir(&dir).map_err(|e| Error::io("create directory", &dir, e))?;
            sync_parent(self.fs, &dir)?;
            self.dirs.insert(dir.clone());
        }
        Ok(dir)
    }

    fn place(&mut self, path: &Path) -> Result<PathBuf> {
        Ok(self.dir_for(path)?.join(path.file_name().unwrap_or_default()))
    }

    /// Quarantines files that stay in place until they are replaced: as a hard link, or as a copy
    /// where hard links fail.
    pub fn link<'p>(&mut self, paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<()> {
        for path in paths {
            if self.linked.contains(path)
                || !exists(self.fs, path).map_err(|e| Error::io("stat", path, e))?
            {
                continue;
            }
            let place = self.place(path)?;
            if self.fs.hard_link(path, &place).is_err() {
                copy(self.fs, Some(path), &place, &[], 0)?;
            }
            self.files += 1;
            self.linked.insert(path.clone());
        }
        self.sync(&self.dirs)
    }

    /// Moves files into quarantine.
    pub fn move_files<'p>(&mut self, paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<()> {
        let mut from = BTreeSet::new();
        for path in paths {
            let place = self.place(path)?;
            self.fs.rename(path, &place).map_err(|e| Error::io("quarantine", path, e))?;
            self.files += 1;
            from.extend(path.parent().map(Path::to_owned));
        }
        // First the destination directories, then the source directories: a crash never loses a
        // file from both.
        self.sync(&self.dirs)?;
        self.sync(&from)
    }

    fn sync(&self, dirs: &BTreeSet<PathBuf>) -> Result<()> {
        for dir in dirs {
            self.fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
        }
        Ok(())
    }
}

/// Copies the file at `from`, if any, to a new file with its beginning replaced by `head`, extends
/// the copy to at least `least` bytes and syncs it (not its directory).
pub fn copy(fs: &dyn Fs, from: Option<&PathBuf>, to: &Path, head: &[u8], least: u64) -> Result<()> {
    let mut source = from.map(|from| Window::open(fs, from)).transpose()?;
    let target = fs.create_new(to).map_err(|e| Error::io("create", to, e))?;
    write_all_at(&*target, head, 0).map_err(|e| Error::io("write", to, e))?;
    let mut at = head.len() as u64;
    while let Some(source) = &mut source {
        let piece = source.get(at, PIECE)?;
        if piece.is_empty() {
            break;
        }
        write_all_at(&*target, piece, at).map_err(|e| Error::io("write", to, e))?;
        at += piece.len() as u64;
    }
    if at < least {
        target.set_len(least).map_err(|e| Error::io("extend", to, e))?;
    }
    target.sync_all().map_err(|e| Error::io("sync", to, e))
}
