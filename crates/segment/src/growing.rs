//! One file of a segment: how much of it is durable, and what of it is still in memory.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use lithdb_env::{Error, Result};

use crate::handle::{Handle, OpenFile, ReadMode};
use crate::tail::Tail;

/// A growing file is mapped in pieces of at least this size, so that it is seldom mapped again.
const MAP_AHEAD: u64 = 1 << 30;

/// A file, how much of it is durable, and, while it grows, its tail.
#[derive(Debug)]
pub(crate) struct GrowingFile {
    pub(crate) handle: Arc<Handle>,
    pub(crate) tail: Option<Tail>,
    /// Bytes below this never change again.
    pub(crate) durable: AtomicU64,
    /// Bytes below this can be read (records that are published may be below or above the durable end).
    pub(crate) end: AtomicU64,
    /// It is written here, and mapped beyond what is in it.
    is_mapped_ahead: AtomicBool,
    /// The first sync that failed; held while one is under way.
    pub(crate) sync_failure: Mutex<Option<Error>>,
}

impl GrowingFile {
    pub(crate) fn sealed(path: PathBuf, end: u64) -> Self {
        Self::new(Handle::closed(path), None, end, end)
    }

    /// A file that another process writes.
    pub(crate) fn followed(path: PathBuf, durable: u64, end: u64) -> Self {
        Self::new(Handle::closed(path), None, durable, end)
    }

    pub(crate) fn growing(handle: Arc<Handle>, tail: Tail, end: u64) -> Self {
        Self::new(handle, Some(tail), end, end)
    }

    fn new(handle: Arc<Handle>, tail: Option<Tail>, durable: u64, end: u64) -> Self {
        Self {
            is_mapped_ahead: tail.is_some().into(),
            handle,
            tail,
            durable: durable.into(),
            end: end.into(),
            sync_failure: Mutex::default(),
        }
    }

    /// How much to map at once: a file that is not written here is read up to its durable end.
    fn map_len(&self) -> u64 {
        if self.is_mapped_ahead.load(Ordering::Relaxed) { MAP_AHEAD } else { self.durable() }
    }

    /// Nothing more is written: from now on it is mapped to its end, and no mapping of more is kept.
    pub(crate) fn seal(&self) {
        self.is_mapped_ahead.store(false, Ordering::Relaxed);
        self.handle.finish_writing();
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// How long the file must be: what is not durable yet may be in the tail.
    pub(crate) fn least_len(&self) -> u64 {
        if self.tail.is_some() { self.durable() } else { self.end() }
    }

    /// Writes out what was appended before the call.
    pub(crate) fn drain(&self, open: &OpenFile) -> Result<()> {
        let Some(tail) = &self.tail else { return Ok(()) };
        let drained = tail.drain(&*open.file);
        open.wrote();
        drained.map_err(|e| Error::failed_write("write", self.handle.path(), e))?;
        Ok(())
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Up to `len` bytes at `offset`; fewer only where the tail in memory and the file meet, or at the end.
    pub(crate) fn read(
        &self,
        open: &OpenFile,
        mode: ReadMode,
        offset: u64,
        len: usize,
    ) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64);
        if mode == ReadMode::Map && end <= self.durable() {
            return open.mapped(self.handle.path(), offset, len, self.map_len());
        }
        if let Some(bytes) = self.tail.as_ref().and_then(|tail| tail.read(offset, len)) {
            return Ok(bytes);
        }
        let len = len.min(self.end().saturating_sub(offset) as usize);
        open.copied(self.handle.path(), offset, len)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lithdb_env::{Budgets, Fs, write_all_at};
    use lithdb_sim::SimFs;

    use super::*;
    use crate::handle::HandleLimit;

    #[test]
    fn only_a_file_that_is_written_here_is_mapped_ahead() {
        let fs = SimFs::new();
        let file = fs.create_new(Path::new("/f")).unwrap();
        write_all_at(&*file, &[7; 100], 0).unwrap();
        let path = || PathBuf::from("/f");
        assert_eq!(GrowingFile::sealed(path(), 100).map_len(), 100);
        assert_eq!(GrowingFile::followed(path(), 60, 100).map_len(), 60);
        let tail = Tail::new(100, &Budgets::default().buffers);
        let growing = GrowingFile::growing(Handle::writing(path(), file), tail, 100);
        assert_eq!(growing.map_len(), MAP_AHEAD);
        let open = growing.handle.get(&fs, &HandleLimit::new(9), |_| Ok(())).unwrap();
        assert_eq!(growing.read(&open, ReadMode::Map, 0, 100).unwrap(), &[7; 100][..]);
        assert!(open.is_mapped());
        growing.seal();
        assert!(!open.is_mapped());
        assert_eq!(growing.map_len(), 100);
        assert_eq!(growing.read(&open, ReadMode::Map, 0, 100).unwrap(), &[7; 100][..]);
    }
}
