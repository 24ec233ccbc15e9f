//! The simulated file system: one lock around the tree, the faults, the locks and the trace.
//!
//! Every operation first applies the faults, then does its work, then is traced if it succeeded.
//! No handle may be dropped while the lock is held: its drop takes the lock.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{DirEntry, File, FileKind, FileLock, Fs, LockKind, Metadata, OpenMode};
use parking_lot::{Mutex, MutexGuard};

use crate::errno::{EIO, errno};
use crate::fault::{Fault, FaultAction, Faults, Pages, ReadKind};
use crate::file::SimFile;
use crate::inode::Body;
use crate::lock::{Locks, SimLock};
use crate::trace::{OpKind, Trace, TraceOp};
use crate::tree::Tree;

/// An in-memory file system that can crash and fail; clones share it. It starts with an empty root
/// directory `/`; relative paths start there, too.
///
/// **Counting.** Each call of `create_new`, `write_at`, `set_len`, `allocate`, `sync_data`,
/// `sync_all`, `rename`, `remove_file`, `remove_dir`, `hard_link`, `create_dir` and `sync_dir` is
/// one *mutating operation*, even if it fails. `open`, `list`, `metadata`, `canonicalize`,
/// `free_space`, `try_lock`, `read_at` and `map` are *reads*.
///
/// **Crashing** creates a new file system and leaves the old one dead: all its handles return an
/// error. The images of the dead one stay, so that it can be crashed again with other choices.
#[derive(Clone)]
pub struct SimFs {
    shared: Arc<Mutex<State>>,
}

pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) faults: Faults,
    pub(crate) locks: Locks,
    pub(crate) trace: Trace,
    pub(crate) bus_errors: u64,
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimFs")
    }
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFs {
    /// An empty file system on a disk of unlimited size.
    pub fn new() -> Self {
        Self::from_tree(Tree::new(), Faults::default())
    }

    pub(crate) fn from_tree(tree: Tree, faults: Faults) -> Self {
        let (locks, trace) = (Locks::default(), Trace::default());
        let state = State { tree, faults, locks, trace, bus_errors: 0 };
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// The number of mutating operations so far.
    pub fn ops(&self) -> u64 {
        self.state().faults.ops()
    }

    /// The number of reads so far.
    pub fn reads(&self) -> u64 {
        self.state().faults.reads()
    }

    /// Crashes after `n` more mutating operations: then every call, reads too, fails with
    /// "simulated crash".
    pub fn crash_after(&self, n: u64) {
        self.state().faults.crash_after(n);
    }

    /// Whether the file system has crashed.
    pub fn is_dead(&self) -> bool {
        self.state().faults.alive().is_err()
    }

    /// Fails the `n`-th mutating operation from now (1: the next one) or, if the fault does not
    /// apply to it, the first later one to which it applies. `sticky`: all such operations from
    /// then on.
    pub fn fail_op(&self, n: u64, fault: Fault, sticky: bool) {
        self.state().faults.fail_op(n, fault, sticky);
    }

    /// Fails the `n`-th read from now once (1: the next one), or the first later one to which the
    /// fault applies.
    pub fn fail_read(&self, n: u64, fault: Fault) {
        self.state().faults.fail_read(n, fault, false);
    }

    /// Like [`fail_read`](Self::fail_read), for all such reads from then on.
    pub fn fail_reads_from(&self, n: u64, fault: Fault) {
        self.state().faults.fail_read(n, fault, true);
    }

    /// The number of planned faults that have triggered.
    pub fn faults_hit(&self) -> u64 {
        self.state().faults.hits()
    }

    /// Cancels all planned faults that have not triggered, and the sticky ones.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Shortens each read and write to a few bytes (1 to 512, always the same sequence of
    /// lengths), and interrupts every fifth. Stays on after a crash.
    pub fn short_transfers(&self, on: bool) {
        self.state().faults.set_short(on);
    }

    /// Limits the disk to `bytes`, allocated in blocks of 4 KiB; every file and directory takes
    /// one block for itself. `None`: unlimited. The limit survives a crash.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().tree.set_capacity(bytes);
    }

    /// The write-back of everything unsynced fails, and no later sync reports it: see
    /// [`Pages::Unwritable`]. This happens when the process was killed before and another process
    /// consumed the error.
    pub fn fail_writeback(&self) {
        let mut state = self.state();
        let seq = state.tree.next_seq();
        for node in state.tree.nodes.values_mut() {
            if let Body::File(file) = &mut node.body {
                file.fail_sync(seq, Pages::Unwritable);
            }
        }
    }

    /// Evicts all clean pages, as the kernel may at any time: what a failed sync left readable and
    /// clean now reads as what is on the disk. Unsynced writes stay.
    pub fn evict(&self) {
        for node in self.state().tree.nodes.values_mut() {
            if let Body::File(file) = &mut node.body {
                file.evict();
            }
        }
    }

    /// Releases all advisory locks, as the exit of every process does.
    pub fn release_locks(&self) {
        self.state().locks.release_all();
    }

    /// The number of open files, mappings and locks. Any left after every process has exited is a
    /// leak.
    pub fn open_handles(&self) -> usize {
        self.state().tree.nodes.values().map(|node| node.open).sum()
    }

    /// How often a caller asked a mapping for bytes past the end of its file: a real process would
    /// have died of SIGBUS each time, unless within the last page.
    pub fn bus_errors(&self) -> u64 {
        self.state().bus_errors
    }

    /// The successful mutating operations, in order, since the last call of this function.
    pub fn take_trace(&self) -> Vec<TraceOp> {
        self.state().trace.take()
    }

    /// Runs one operation on names: applies the faults, does the work, records the trace.
    fn name_op<T>(
        &self,
        kind: OpKind,
        path: &Path,
        to: Option<&Path>,
        work: impl FnOnce(&mut Tree) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        state.faults.op(kind, 0)?;
        let done = work(&mut state.tree)?;
        state.trace.push_path(kind, path, to);
        Ok(done)
    }

    fn open_inode(&self, state: &mut State, ino: u64, path: &Path, writable: bool) -> SimFile {
        state.tree.hold(ino);
        SimFile::new(self.clone(), ino, Arc::from(path), writable)
    }
}

fn kind_of(is_dir: bool) -> FileKind {
    if is_dir { FileKind::Dir } else { FileKind::File }
}

impl Fs for SimFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let ino = self.name_op(OpKind::CreateNew, path, None, |tree| {
            let ino = tree.create_file(path)?;
            tree.hold(ino);
            Ok(ino)
        })?;
        Ok(Arc::new(SimFile::new(self.clone(), ino, Arc::from(path), true)))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.faults.read(ReadKind::Open, 0)?;
        let ino = state.tree.resolve(path)?;
        state.tree.node(ino)?.file()?;
        Ok(Arc::new(self.open_inode(&mut state, ino, path, mode == OpenMode::ReadWrite)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.state();
        state.faults.read(ReadKind::List, 0)?;
        let ino = state.tree.resolve(dir)?;
        let mut entries = Vec::new();
        for (name, ino) in &state.tree.node(ino)?.dir()?.live {
            let kind = kind_of(state.tree.node(*ino)?.is_dir());
            let is_exact = name.to_str().is_some();
            entries.push(DirEntry { name: name.to_string_lossy().into_owned(), is_exact, kind });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let mut state = self.state();
        state.faults.read(ReadKind::Metadata, 0)?;
        let ino = state.tree.resolve(path)?;
        let node = state.tree.node(ino)?;
        Ok(Metadata {
            kind: kind_of(node.is_dir()),
            len_bytes: node.file().map_or(0, |file| file.live.len() as u64),
            links: node.links,
            identity: (0x51_4D, ino),
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.name_op(OpKind::Rename, from, Some(to), |tree| tree.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.name_op(OpKind::RemoveFile, path, None, |tree| tree.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.name_op(OpKind::RemoveDir, path, None, |tree| tree.remove_dir(path))
    }

    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        self.name_op(OpKind::HardLink, original, Some(link), |tree| tree.hard_link(original, link))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.name_op(OpKind::CreateDir, path, None, |tree| tree.create_dir(path).map(|_| ()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let action = state.faults.op(OpKind::SyncDir, 0)?;
        let ino = state.tree.resolve(dir)?;
        let node = state.tree.node_mut(ino)?.dir_mut()?;
        if let FaultAction::FailSync(pages) = action {
            node.stuck |= pages == Pages::ReadableAndClean;
            return Err(errno(EIO));
        }
        state.tree.sync_dir(ino)?;
        state.trace.push_path(OpKind::SyncDir, dir, None);
        Ok(())
    }

    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        let mut state = self.state();
        state.faults.read(ReadKind::Lock, 0)?;
        let ino = state.tree.resolve(path)?;
        let Some(number) = state.locks.take(ino, kind) else { return Ok(None) };
        let file = self.open_inode(&mut state, ino, path, true);
        Ok(Some(Box::new(SimLock { fs: self.clone(), ino, number, file })))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.faults.read(ReadKind::Other, 0)?;
        state.tree.resolve(path)?;
        Ok(state.tree.free_bytes())
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        let mut state = self.state();
        state.faults.read(ReadKind::Other, 0)?;
        state.tree.resolve(path)?;
        Ok(std::iter::once("/".into()).chain(crate::tree::names(path)).collect())
    }
}
