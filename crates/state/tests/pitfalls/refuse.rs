//! A file system that refuses some operations on names.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{DirEntry, File, FileLock, Fs, LockKind, Metadata, OpenMode};
use lithdb_sim::OpKind;

type Refuses = dyn Fn(OpKind, &Path) -> Option<io::Error> + Send + Sync;

/// Another file system, asked before each change of a name whether it is refused.
pub struct RefuseFs {
    inner: Arc<dyn Fs>,
    refuses: Box<Refuses>,
}

impl fmt::Debug for RefuseFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefuseFs")
    }
}

impl RefuseFs {
    pub fn new(
        inner: Arc<dyn Fs>,
        refuses: impl Fn(OpKind, &Path) -> Option<io::Error> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, refuses: Box::new(refuses) }
    }

    fn ask(&self, kind: OpKind, path: &Path) -> io::Result<()> {
        (self.refuses)(kind, path).map_or(Ok(()), Err)
    }
}

impl Fs for RefuseFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.ask(OpKind::CreateNew, path)?;
        self.inner.create_new(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.inner.open(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(OpKind::Rename, from)?;
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ask(OpKind::RemoveFile, path)?;
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(OpKind::RemoveDir, path)?;
        self.inner.remove_dir(path)
    }
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        self.ask(OpKind::HardLink, original)?;
        self.inner.hard_link(original, link)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(OpKind::CreateDir, path)?;
        self.inner.create_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.ask(OpKind::SyncDir, dir)?;
        self.inner.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        self.inner.try_lock(path, kind)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.canonicalize(path)
    }
}
