//! A process as the disk sees it: after its death none of its operations reaches the disk, and the
//! page cache stays.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{
    DirEntry, File, FileKind, FileLock, Fs, LockKind, Map, Metadata, OpenMode, Permit,
};
use lithdb_sim::{Fault, SimFs};
use parking_lot::Mutex;

/// One process's access to the disk.
#[derive(Clone)]
pub struct ProcessFs {
    disk: SimFs,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    killed: bool,
    /// The number of changes until it is killed.
    left: Option<u64>,
    /// The first sync of a file after so many changes fails with this fault.
    failing_sync: Option<(u64, Fault)>,
}

impl fmt::Debug for ProcessFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessFs")
    }
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

impl ProcessFs {
    pub fn new(disk: &SimFs) -> Self {
        Self { disk: disk.clone(), state: Arc::default() }
    }

    /// None of its later operations takes effect.
    pub fn kill(&self) {
        self.state.lock().killed = true;
    }

    /// Kills it after `changes` more changes.
    pub fn kill_after(&self, changes: u64) {
        self.state.lock().left = Some(changes);
    }

    /// Fails the first sync of a file after `changes` more changes.
    pub fn fail_sync_after(&self, changes: u64, fault: Fault) {
        self.state.lock().failing_sync = Some((changes, fault));
    }

    /// Cancels the planned kill and the planned fault.
    pub fn cancel_faults(&self) {
        let mut state = self.state.lock();
        (state.left, state.failing_sync) = (None, None);
    }

    pub fn is_killed(&self) -> bool {
        let state = self.state.lock();
        state.killed || state.left == Some(0)
    }

    fn read(&self) -> io::Result<()> {
        if self.is_killed() { Err(killed()) } else { Ok(()) }
    }

    fn change(&self, is_file_sync: bool) -> io::Result<()> {
        self.read()?;
        let mut state = self.state.lock();
        if let Some(left) = &mut state.left {
            *left -= 1;
        }
        match &mut state.failing_sync {
            Some((0, fault)) if is_file_sync => {
                self.disk.fail_op(1, *fault, false);
                state.failing_sync = None;
            }
            Some((wait, _)) => *wait = wait.saturating_sub(1),
            None => {}
        }
        Ok(())
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(ProcessFile { file, process: self.clone() })
    }
}

impl Fs for ProcessFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.change(false)?;
        Ok(self.wrap(self.disk.create_new(path)?))
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.read()?;
        Ok(self.wrap(self.disk.open(path, mode)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.read()?;
        self.disk.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.read()?;
        self.disk.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(false)?;
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(false)?;
        self.disk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change(false)?;
        self.disk.remove_dir(path)
    }
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        self.change(false)?;
        self.disk.hard_link(original, link)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change(false)?;
        self.disk.create_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(false)?;
        self.disk.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        self.read()?;
        let Some(lock) = self.disk.try_lock(path, kind)? else { return Ok(None) };
        if self.disk.metadata(path)?.kind == FileKind::Dir {
            return Ok(Some(lock)); // a directory is never written to
        }
        let file = self.disk.open(path, OpenMode::ReadWrite)?;
        let file = ProcessFile { file, process: self.clone() };
        Ok(Some(Box::new(ProcessLock { file, _lock: lock })))
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.read()?;
        self.disk.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.read()?;
        self.disk.canonicalize(path)
    }
}

#[derive(Debug)]
struct ProcessFile {
    file: Arc<dyn File>,
    process: ProcessFs,
}

impl File for ProcessFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.process.read()?;
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.process.change(false)?;
        self.file.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.process.change(true)?;
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.process.change(true)?;
        self.file.sync_all()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.process.change(false)?;
        self.file.set_len(len_bytes)
    }
    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.process.change(false)?;
        self.file.allocate(offset, len_bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.process.read()?;
        self.file.len()
    }
    fn links(&self) -> io::Result<u64> {
        self.process.read()?;
        self.file.links()
    }
    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>> {
        self.process.read()?;
        self.file.map(len_bytes, permit)
    }
    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.process.read()?;
        self.file.start_writeback(offset, len_bytes)
    }
}

#[derive(Debug)]
struct ProcessLock {
    file: ProcessFile,
    _lock: Box<dyn FileLock>,
}

impl FileLock for ProcessLock {
    fn file(&self) -> &dyn File {
        &self.file
    }
}
