//! A file system that calls a hook before every change, which may delay it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{DirEntry, File, FileLock, Fs, LockKind, Map, Metadata, OpenMode, Permit};
use lithdb_sim::OpKind;
use parking_lot::{Condvar, Mutex};

/// Receives a change before it is made: the operation, the path, and for a write the number of
/// bytes.
pub type Hook = Arc<dyn Fn(OpKind, &Path, usize) + Send + Sync>;

/// Another file system with a hook in front of every change.
#[derive(Clone)]
pub struct HookFs {
    inner: Arc<dyn Fs>,
    hook: Hook,
}

impl fmt::Debug for HookFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookFs")
    }
}

impl HookFs {
    pub fn new(
        inner: Arc<dyn Fs>,
        hook: impl Fn(OpKind, &Path, usize) + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HookFile { inner: file, path: path.to_owned(), hook: Arc::clone(&self.hook) })
    }
}

impl Fs for HookFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        (self.hook)(OpKind::CreateNew, path, 0);
        Ok(self.wrap(path, self.inner.create_new(path)?))
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.inner.open(path, mode)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.hook)(OpKind::Rename, from, 0);
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.hook)(OpKind::RemoveFile, path, 0);
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        (self.hook)(OpKind::RemoveDir, path, 0);
        self.inner.remove_dir(path)
    }
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        (self.hook)(OpKind::HardLink, original, 0);
        self.inner.hard_link(original, link)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        (self.hook)(OpKind::CreateDir, path, 0);
        self.inner.create_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        (self.hook)(OpKind::SyncDir, dir, 0);
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

struct HookFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    hook: Hook,
}

impl fmt::Debug for HookFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookFile").field(&self.path).finish()
    }
}

impl File for HookFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        (self.hook)(OpKind::Write, &self.path, buf.len());
        self.inner.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(OpKind::SyncData, &self.path, 0);
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        (self.hook)(OpKind::SyncAll, &self.path, 0);
        self.inner.sync_all()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        (self.hook)(OpKind::SetLen, &self.path, 0);
        self.inner.set_len(len_bytes)
    }
    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        (self.hook)(OpKind::Allocate, &self.path, 0);
        self.inner.allocate(offset, len_bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }
    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>> {
        self.inner.map(len_bytes, permit)
    }
    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.start_writeback(offset, len_bytes)
    }
}

/// A gate at which threads wait while it is closed.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    shut: bool,
    waiting: usize,
}

impl Gate {
    pub fn shut(&self) {
        self.state.lock().shut = true;
    }

    pub fn open(&self) {
        self.state.lock().shut = false;
        self.changed.notify_all();
    }

    /// Shuts the gate until the guard is dropped: a test that fails in between must not wait for
    /// the threads that stand at it.
    pub fn shut_until_dropped(self: &Arc<Self>) -> OpenOnDrop {
        self.shut();
        OpenOnDrop(Arc::clone(self))
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        let mut state = self.state.lock();
        if !state.shut {
            return;
        }
        state.waiting += 1;
        self.changed.notify_all();
        while state.shut {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
    }

    /// Waits until `count` threads wait at the gate.
    pub fn wait_for(&self, count: usize) {
        let mut state = self.state.lock();
        while state.waiting < count {
            self.changed.wait(&mut state);
        }
    }
}

/// Opens the gate when it is dropped.
#[derive(Debug)]
pub struct OpenOnDrop(Arc<Gate>);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A file system on which the values of a flush are written and synced last, as may happen when
/// threads sync all files of a segment at the same time. (Without threads the key file is last.)
#[derive(Clone)]
pub struct LateValues {
    inner: Arc<dyn Fs>,
    late: Arc<Mutex<Vec<LateOp>>>,
}

type LateOp = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl fmt::Debug for LateValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LateValues")
    }
}

impl LateValues {
    pub fn new(inner: Arc<dyn Fs>) -> Self {
        Self { inner, late: Arc::default() }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let is_values = path.extension().is_some_and(|e| e == "values");
        let is_keys = path.extension().is_some_and(|e| e == "keys");
        Arc::new(LateFile { inner: file, late: Arc::clone(&self.late), is_values, is_keys })
    }
}

impl Fs for LateValues {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.inner.create_new(path)?))
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, self.inner.open(path, mode)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
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
        self.inner.try_lock(path, kind)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.canonicalize(path)
    }
}

struct LateFile {
    inner: Arc<dyn File>,
    late: Arc<Mutex<Vec<LateOp>>>,
    is_values: bool,
    is_keys: bool,
}

impl fmt::Debug for LateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LateFile")
    }
}

impl LateFile {
    fn catch_up(&self) -> io::Result<()> {
        let late = std::mem::take(&mut *self.late.lock());
        late.into_iter().try_for_each(|op| op())
    }
}

impl File for LateFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.catch_up()?;
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if !self.is_values {
            return self.inner.write_at(buf, offset);
        }
        let (inner, bytes) = (Arc::clone(&self.inner), buf.to_vec());
        self.late.lock().push(Box::new(move || lithdb_env::write_all_at(&*inner, &bytes, offset)));
        Ok(buf.len())
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.is_values {
            let inner = Arc::clone(&self.inner);
            self.late.lock().push(Box::new(move || inner.sync_data()));
            return Ok(());
        }
        self.inner.sync_data()?;
        if self.is_keys { self.catch_up() } else { Ok(()) }
    }
    fn sync_all(&self) -> io::Result<()> {
        self.catch_up()?;
        self.inner.sync_all()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.catch_up()?;
        self.inner.set_len(len_bytes)
    }
    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.allocate(offset, len_bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.catch_up()?;
        self.inner.len()
    }
    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }
    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>> {
        self.catch_up()?;
        self.inner.map(len_bytes, permit)
    }
    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.start_writeback(offset, len_bytes)
    }
}
