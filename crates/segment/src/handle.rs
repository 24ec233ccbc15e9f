//! Open files, opened when first needed and closed again when there are too many.
//!
//! A [`Handle`] stands for one file of a segment. It is open or not; whoever reads or writes gets a share of what is open,
//! and only what nobody has a share of is closed. [`HandleCache`] closes the handle that was not used for longest
//! (approximately: second chance, as in CLOCK, Corbató 1968). A file with writes that were not synced stays open: the
//! failure of a write-back is reported to those who had the file open.

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
    /// From mapped files: nothing is copied. A device that cannot read a page raises SIGBUS.
    #[default]
    Map,
    /// By positional reads: bytes are copied, and a device that cannot read is an error.
    Pread,
}

/// Keeps the number of open files of segments below a limit, as far as they are idle.
#[derive(Debug)]
pub struct HandleCache {
    limit: usize,
    open: Mutex<VecDeque<Weak<Handle>>>,
}

impl HandleCache {
    /// A limit of so many files, at least 1, those included that are being written.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), open: Mutex::new(VecDeque::new()) }
    }

    /// Number of files that are open now.
    pub fn open_files(&self) -> usize {
        let is_open = |handle: &Weak<Handle>| handle.upgrade().is_some_and(|h| h.is_open());
        self.open.lock().iter().filter(|handle| is_open(handle)).count()
    }

    /// A file that is open counts, and may be closed, from now on.
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
    /// Whether the limit knows of it; changed under its lock.
    is_listed: AtomicBool,
}

/// An open file and its mapping.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn File>,
    map: RwLock<Option<Arc<dyn Map>>>,
    /// Something was written, and no sync begun since.
    unsynced: AtomicBool,
}

impl Handle {
    /// A file that is opened when it is needed.
    pub(crate) fn closed(path: PathBuf) -> Arc<Self> {
        Self::new(path, None, false)
    }

    /// A file that is open for writing, with everything in it synced.
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

    /// Whether the file is written here.
    pub(crate) fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }

    /// Asked under the limit's lock, for which whoever opens the file may be waiting: one that is held counts as open.
    fn is_open(&self) -> bool {
        self.open.try_write().is_none_or(|open| open.is_some())
    }

    /// The open file. `check` sees it right after it was opened.
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

    /// Closes the file if nobody uses it and nothing in it waits for a sync; says whether it is closed.
    fn close_if_idle(&self) -> bool {
        // Whoever holds it is about to use the file.
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

    /// Closes the file if it is idle and was not used since this was last called.
    pub(crate) fn close_if_unused(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.close_if_idle();
        }
    }

    /// From now on the file is opened for reading. A mapping that was made while it grew is left to those who hold it.
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

    /// Something was written; said before this share of the file is let go.
    pub(crate) fn mark_unsynced(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    /// A sync: of what was written before, nothing need be synced any more if it succeeds.
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

    /// Mapped bytes. `map_len` is how much to map if no mapping is long enough; at least up to the end of the range.
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
        // In whole steps: a file that grows is mapped anew once for each, not for each read.
        let end = offset.saturating_add(len as u64);
        let wanted = end.max(1).next_multiple_of(map_len.max(1));
        let map =
            self.file.map(wanted, Permit::default()).map_err(|e| Error::io("map", path, e))?;
        let bytes = match map.bytes(offset, len) {
            Some(bytes) => bytes,
            None => {
                let len_bytes = self.file.len().map_err(|e| Error::io("measure", path, e))?;
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

    /// Whoever opens a file may have to close another one, for which it takes the limit's lock.
    #[test]
    fn open_files_are_counted_while_one_is_opened() {
        let fs = SimFs::new();
        fs.create_new(Path::new("/f")).unwrap();
        let limit = Arc::new(HandleCache::new(1));
        let handle = Handle::closed("/f".into());
        drop(handle.get(&fs, &limit, |_| Ok(())).unwrap());
        for _ in 0..2 {
            handle.close_if_unused(); // closed, and still in the limit's list
        }
        assert_eq!(limit.open_files(), 0);
        let (tell, told) = channel();
        let theirs = Arc::clone(&limit);
        let while_it_opens = |_: &dyn File| {
            lithdb_env::spawn("count", move || tell.send(theirs.open_files()).unwrap()).unwrap();
            assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(1), "it waits for the file");
            assert!(!Arc::clone(&limit).reclaim());
            Ok(())
        };
        handle.get(&fs, &limit, while_it_opens).unwrap();
        assert_eq!(limit.open_files(), 1);
    }
}
