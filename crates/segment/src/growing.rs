//! One file of a segment: how much of it is durable, and what of it is still in memory.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicU64, Ordering};
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
    /// How much to map at once.
    map_len: AtomicU64,
    /// The first sync that failed; held while one is under way.
    pub(crate) sync_failure: Mutex<Option<Error>>,
}

impl GrowingFile {
    pub(crate) fn sealed(path: PathBuf, end: u64) -> Self {
        Self::new(Handle::closed(path), None, end, end, end)
    }

    /// A file that another process writes.
    pub(crate) fn followed(path: PathBuf, durable: u64, end: u64) -> Self {
        Self::new(Handle::closed(path), None, durable, end, MAP_AHEAD)
    }

    pub(crate) fn growing(handle: Arc<Handle>, tail: Tail, end: u64) -> Self {
        Self::new(handle, Some(tail), end, end, MAP_AHEAD)
    }

    pub(crate) fn new(
        handle: Arc<Handle>,
        tail: Option<Tail>,
        durable: u64,
        end: u64,
        map_len: u64,
    ) -> Self {
        Self {
            handle,
            tail,
            durable: durable.into(),
            end: end.into(),
            map_len: map_len.into(),
            sync_failure: Mutex::default(),
        }
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
            let map_len = self.map_len.load(Ordering::Relaxed);
            return open.mapped(self.handle.path(), offset, len, map_len);
        }
        if let Some(bytes) = self.tail.as_ref().and_then(|tail| tail.read(offset, len)) {
            return Ok(bytes);
        }
        let len = len.min(self.end().saturating_sub(offset) as usize);
        open.copied(self.handle.path(), offset, len)
    }
}
