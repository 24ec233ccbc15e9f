//! A file system that lets somebody else act before every read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{DirEntry, File, FileLock, Fs, LockKind, Map, Metadata, OpenMode, Permit};

type Act = Arc<dyn Fn(&Path) + Send + Sync>;

/// Another file system, with somebody who acts before each call that reads.
pub struct InterleaveFs {
    inner: Arc<dyn Fs>,
    act: Act,
}

impl fmt::Debug for InterleaveFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterleaveFs")
    }
}

impl InterleaveFs {
    pub fn new(inner: Arc<dyn Fs>, act: impl Fn(&Path) + Send + Sync + 'static) -> Self {
        Self { inner, act: Arc::new(act) }
    }
}

impl Fs for InterleaveFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.inner.create_new(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        (self.act)(path);
        let (inner, path) = (self.inner.open(path, mode)?, path.to_path_buf());
        Ok(Arc::new(InterleaveFile { inner, path, act: Arc::clone(&self.act) }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        (self.act)(dir);
        self.inner.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        (self.act)(path);
        self.inner.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        self.inner.hard_link(original, link)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        (self.act)(path);
        self.inner.try_lock(path, kind)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        (self.act)(path);
        self.inner.canonicalize(path)
    }
}

struct InterleaveFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    act: Act,
}

impl fmt::Debug for InterleaveFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterleaveFile")
    }
}

impl File for InterleaveFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.act)(&self.path);
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.set_len(len_bytes)
    }
    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.allocate(offset, len_bytes)
    }
    fn len(&self) -> io::Result<u64> {
        (self.act)(&self.path);
        self.inner.len()
    }
    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }
    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>> {
        (self.act)(&self.path);
        self.inner.map(len_bytes, permit)
    }
    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.start_writeback(offset, len_bytes)
    }
}
