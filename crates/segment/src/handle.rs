//! The cache of open segment files: files are opened when first needed, and closed when there are
//! too many.
//!
//! A [`Handle`] is one file of a segment, open or closed. Readers and the writer share the open
//! file, and only a file that nobody shares is closed. [`HandleCache`] closes the least recently
//! used handle (approximately: second chance, as in CLOCK, Corbató 1968). A file with unsynced
//! writes stays open: the kernel reports a failed write-back only to descriptors open at the time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use lithdb_env::sync::atomic::{AtomicBool, Ordering};
use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Error, File, Fs, Map, OpenMode, Permit, Reclaim, Result, read_up_to_at, zeroed};
use serde::{Deserialize, Serialize};

/// How values and keys are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// From mapped files, without copying. A device that cannot read a page raises SIGBUS.
    #[default]
    Map,
    /// By positional reads. Bytes are copied, and a device that cannot read returns an error.
    Pread,
}

/// Keeps the number of open segment files below a limit, as far as they are idle.
#[derive(Debug)]
pub struct HandleCache {
    limit: usize,
    open: Mutex<VecDeque<Weak<Handle>>>,
}

impl HandleCache {
    /// A cache of up to `limit` open files, at least 1, including those being written.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), open: Mutex::new(VecDeque::new()) }
    }

    /// Number of files currently open.
    pub fn open_files(&self) -> usize {
        let is_open = |handle: &Weak<Handle>| handle.upgrade().is_some_and(|h| h.is_open());
        self.open.lock().iter().filter(|handle| is_open(handle)).count()
    }

    /// Adds an open file, which from now on counts and may be closed.
    pub(crate) fn admit(&self, handle: &Arc<Handle>) {
        let mut open = self.open.lock();
        if !handle.is_listed.swap(true, Ordering::Relaxed) {
            open.push_back(Arc::downgrade(handle));
        }
        while open.len() > self.limit && Self::evict_one(&mut open, Some(handle)) {}
    }

    /// Closes one idle file, but never `just_opened`.
    fn evict_one(open: &mut VecDeque<Weak<Handle>>, just_opened: Option<&Arc<Handle>>) -> bool {
        for _ in 0..2 * open.len() {
            let Some(candidate) = open.pop_front() else { break };
            let Some(oldest) = candidate.upgrade() else { return true };
            let is_newcomer =
                just_opened.is_some_and(|just_opened| Arc::ptr_eq(&oldest, just_opened));
            if is_newcomer || oldest.used.swap(false, Ordering::Relaxed) || !oldest.close_if_idle()
            {
                open.push_back(candidate);
            } else {
                oldest.is_listed.store(false, Ordering::Relaxed);
                return true;
            }
        }
        false
    }
}

impl Reclaim for HandleCache {
    fn reclaim(self: Arc<Self>) -> bool {
        Self::evict_one(&mut self.open.lock(), None)
    }
}

/// One file of a segment.
#[derive(Debug)]
pub(crate) struct Handle {
    path: PathBuf,
    open: RwLock<Option<Arc<OpenFile>>>,
    used: AtomicBool,
    is_written: AtomicBool,
    /// Whether the cache lists the handle; changed under the cache's lock.
    is_listed: AtomicBool,
}

/// An open file and its mapping.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn File>,
    map: RwLock<Option<Arc<dyn Map>>>,
    /// Something was written since the last sync began.
    unsynced: AtomicBool,
}

impl Handle {
    /// A file that is opened when needed.
    pub(crate) fn closed(path: PathBuf) -> Arc<Self> {
        Self::new(path, None, false)
    }

    /// A file open for writing, with everything in it synced.
    pub(crate) fn writing(path: PathBuf, file: Arc<dyn File>) -> Arc<Self> {
        Self::new(path, Some(OpenFile::new(file)), true)
    }

    fn new(path: PathBuf, open: Option<Arc<OpenFile>>, is_written: bool) -> Arc<Self> {
        Arc::new(Self {
            path,
            open: RwLock::new(open),
            used: AtomicBool::new(true),
            is_written: is_written.into(),
            is_listed: AtomicBool::new(false),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process writes the file.
    pub(crate) fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }

    /// Called under the cache's lock, which a thread that is opening the file may be waiting for:
    /// a handle whose lock is held counts as open.
    fn is_open(&self) -> bool {
        self.open.try_write().is_none_or(|open| open.is_some())
    }

    /// The open file, opened if necessary. `check` runs on a newly opened file.
    pub(crate) fn get(
        self: &Arc<Self>,
        fs: &dyn Fs,
        limit: &HandleCache,
        check: impl FnOnce(&dyn File) -> Result<()>,
    ) -> Result<Arc<OpenFile>> {
        if let Some(open) = &*self.open.read() {
            if !self.used.load(Ordering::Relaxed) {
                self.used.store(true, Ordering::Relaxed);
            }
            return Ok(Arc::clone(open));
        }
        let opened = {
            let mut slot = self.open.write();
            if let Some(open) = &*slot {
                return Ok(Arc::clone(open));
            }
            let mode = if self.is_written() { OpenMode::ReadWrite } else { OpenMode::Read };
            let file = fs.open(&self.path, mode).map_err(|e| Error::io("open", &self.path, e))?;
            check(&*file)?;
            let opened = OpenFile::new(file);
            *slot = Some(Arc::clone(&opened));
            opened
        };
        self.used.store(true, Ordering::Relaxed);
        limit.admit(self);
        Ok(opened)
    }

    /// Closes the file if it is not in use and has nothing unsynced; returns whether it is closed.
    fn close_if_idle(&self) -> bool {
        // Whoever holds the lock is about to use the file.
        let Some(mut slot) = self.open.try_write() else { return false };
        let is_in_use = |open: &mut Arc<OpenFile>| {
            Arc::get_mut(open).is_none_or(|open| *open.unsynced.get_mut())
        };
        if slot.as_mut().is_some_and(is_in_use) {
            return false;
        }
        *slot = None;
        true
    }

    /// Closes the file if it is idle and was not used since the last call.
    pub(crate) fn close_if_unused(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.close_if_idle();
        }
    }

    /// Marks the file as no longer written: it will be opened for reading. A mapping made while it
    /// grew stays with its current holders only.
    pub(crate) fn finish_writing(&self) {
        self.is_written.store(false, Ordering::Relaxed);
        if let Some(open) = &*self.open.read() {
            *open.map.write() = None;
        }
    }
}

impl OpenFile {
    fn new(file: Arc<dyn File>) -> Arc<Self> {
        let (map, unsynced) = (RwLock::new(None), AtomicBool::new(false));
        Arc::new(Self { file, map, unsynced })
    }

    #[cfg(test)]
    pub(crate) fn is_mapped(&self) -> bool {
        self.map.read().is_some()
    }

    /// Records a write; called before this share of the file is released.
    pub(crate) fn mark_unsynced(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    /// Runs a sync. If it succeeds, nothing written before it is unsynced.
    pub(crate) fn synced(
        &self,
        sync: impl FnOnce(&dyn File) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.unsynced.store(false, Ordering::Release);
        let synced = sync(&*self.file);
        if synced.is_err() {
            self.mark_unsynced();
        }
        synced
    }

    /// Mapped bytes. If no mapping is long enough, maps a multiple of `map_len` that reaches the
    /// end of the range.
    pub(crate) fn mapped(
        &self,
        path: &Path,
        offset: u64,
        len: usize,
        map_len: u64,
    ) -> Result<Bytes> {
        if let Some(bytes) = self.map.read().as_ref().and_then(|map| map.bytes(offset, len)) {
            return Ok(bytes);
        }
        // In whole steps: a growing file is remapped once per step, not per read.
        let end = offset.saturating_add(len as u64);
        let wanted = end.max(1).next_multiple_of(map_len.max(1));
        let map =
            self.file.map(wanted, Permit::default()).map_err(|e| Error::io("map", path, e))?;
        let bytes = match map.bytes(offset, len) {
            Some(bytes) => bytes,
            None => {
                let len_bytes =
                    self.file.len().map_err(|e| Error::io("get the length of", path, e))?;
                let found = format!("a file of {len_bytes} bytes");
                return Err(Error::corrupt(path, offset, &format!("{len} bytes"), &found));
            }
        };
        *self.map.write() = Some(map);
        Ok(bytes)
    }

    /// Bytes copied from the file; fewer than `len` only at its end.
    pub(crate) fn copied(&self, path: &Path, offset: u64, len: usize) -> Result<Bytes> {
        let io = |e| Error::io("read", path, e);
        let mut buf = zeroed(len).map_err(io)?;
        let got = read_up_to_at(&*self.file, &mut buf, offset).map_err(io)?;
        buf.truncate(got);
        Ok(Bytes::from(buf))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use lithdb_sim::SimFs;

    use super::*;

    /// Opening a file may have to close another one, which takes the cache's lock.
    #[test]
    fn open_files_are_counted_while_one_is_opened() {
        let fs = SimFs::new();
        fs.create_new(Path::new("/f")).unwrap();
        let limit = Arc::new(HandleCache::new(1));
        let handle = Handle::closed("/f".into());
        drop(handle.get(&fs, &limit, |_| Ok(())).unwrap());
        for _ in 0..2 {
            handle.close_if_unused(); // closed, and still listed in the cache
        }
        assert_eq!(limit.open_files(), 0);
        let (sender, receiver) = channel();
        let theirs = Arc::clone(&limit);
        let while_it_opens = |_: &dyn File| {
            lithdb_env::spawn("count", move || sender.send(theirs.open_files()).unwrap()).unwrap();
            assert_eq!(
                receiver.recv_timeout(Duration::from_secs(20)),
                Ok(1),
                "it waits for the file"
            );
            assert!(!Arc::clone(&limit).reclaim());
            Ok(())
        };
        handle.get(&fs, &limit, while_it_opens).unwrap();
        assert_eq!(limit.open_files(), 1);
    }
}
