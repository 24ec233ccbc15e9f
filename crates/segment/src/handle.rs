//! Open files, opened when first needed and closed again when there are too many.
//!
//! A [`Handle`] stands for one file of a segment. It is open or not; whoever reads gets a share of what is
//! open, so closing it never takes bytes from under anybody. [`HandleLimit`] counts what is open and
//! closes the handle that was not used for longest (approximately: second chance, as in CLOCK, Corbató 1968).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use lithdb_env::sync::atomic::{AtomicBool, Ordering};
use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Error, File, Fs, Map, OpenMode, Result, read_up_to_at};
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

/// Keeps the number of open files below a limit.
#[derive(Debug)]
pub struct HandleLimit {
    limit: usize,
    open: Mutex<VecDeque<Weak<Handle>>>,
}

impl HandleLimit {
    /// A limit of so many files, at least 1. Files that are being written do not count.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), open: Mutex::new(VecDeque::new()) }
    }

    /// Number of files that are open now and count.
    pub fn open_files(&self) -> usize {
        self.open.lock().iter().filter(|handle| handle.strong_count() > 0).count()
    }

    fn admit(&self, handle: &Arc<Handle>) {
        let mut open = self.open.lock();
        open.push_back(Arc::downgrade(handle));
        let mut chances = 2 * open.len();
        while open.len() > self.limit && chances > 0 {
            chances -= 1;
            let Some(candidate) = open.pop_front() else { break };
            let Some(oldest) = candidate.upgrade() else { continue };
            // The newcomer is never the one that goes.
            if Arc::ptr_eq(&oldest, handle) || oldest.used.swap(false, Ordering::Relaxed) {
                open.push_back(candidate);
            } else {
                *oldest.open.write() = None;
            }
        }
    }
}

/// One file of a segment.
#[derive(Debug)]
pub(crate) struct Handle {
    path: PathBuf,
    open: RwLock<Option<Arc<OpenFile>>>,
    used: AtomicBool,
}

/// An open file and its mapping.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn File>,
    map: RwLock<Option<Arc<dyn Map>>>,
}

impl Handle {
    /// A file that is opened when it is needed.
    pub(crate) fn closed(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, open: RwLock::new(None), used: AtomicBool::new(true) })
    }

    /// A file that is open for writing and does not count.
    pub(crate) fn writing(path: PathBuf, file: Arc<dyn File>) -> Arc<Self> {
        let open = Arc::new(OpenFile { file, map: RwLock::new(None) });
        Arc::new(Self { path, open: RwLock::new(Some(open)), used: AtomicBool::new(true) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file. `check` sees it once, right after it was opened.
    pub(crate) fn get(
        self: &Arc<Self>,
        fs: &dyn Fs,
        limit: &HandleLimit,
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
            let file = fs
                .open(&self.path, OpenMode::Read)
                .map_err(|e| Error::io("open", &self.path, e))?;
            check(&*file)?;
            let opened = Arc::new(OpenFile { file, map: RwLock::new(None) });
            *slot = Some(Arc::clone(&opened));
            opened
        };
        self.used.store(true, Ordering::Relaxed);
        limit.admit(self);
        Ok(opened)
    }

    /// From now on the file counts among those that may be closed.
    pub(crate) fn finish_writing(self: &Arc<Self>, limit: &HandleLimit) {
        limit.admit(self);
    }
}

impl OpenFile {
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
        let map = self.file.map(wanted).map_err(|e| Error::io("map", path, e))?;
        let bytes = map.bytes(offset, len).ok_or_else(|| {
            let found = format!("a file of {} bytes", self.file.len().unwrap_or_default());
            Error::corrupt(path, offset, &format!("{len} bytes"), &found)
        })?;
        *self.map.write() = Some(map);
        Ok(bytes)
    }

    /// Bytes copied from the file; fewer than `len` only at its end.
    pub(crate) fn copied(&self, path: &Path, offset: u64, len: usize) -> Result<Bytes> {
        let mut buf = vec![0; len];
        let got =
            read_up_to_at(&*self.file, &mut buf, offset).map_err(|e| Error::io("read", path, e))?;
        buf.truncate(got);
        Ok(Bytes::from(buf))
    }
}
