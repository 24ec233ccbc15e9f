//! One file of a segment: how much of it is durable, and what of it is still in memory.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicU64, Ordering};
use lithdb_env::{Error, File, Result};

use crate::handle::{Handle, OpenFile, ReadMode};
use crate::ids::ShardId;
use crate::tail::Tail;

/// A growing file is mapped in pieces of at least this size, so that it is seldom mapped again.
const MAP_AHEAD: u64 = 1 << 30;

/// A file, how much of it is durable, and, while it grows, its tail.
#[derive(Debug)]
pub(crate) struct GrowingFile {
    pub(crate) handle: Arc<Handle>,
    /// Which of the segment's files it is; `INLINE` is the key file.
    pub(crate) shard: ShardId,
    pub(crate) tail: Option<Tail>,
    /// Bytes below this never change again.
    pub(crate) durable: AtomicU64,
    /// Bytes below this can be read (records that are published may be below or above the durable end).
    pub(crate) end: AtomicU64,
    /// The file has space up to here; changed by the writer alone.
    pub(crate) reserved: AtomicU64,
    /// The first sync that failed; held while one is under way.
    pub(crate) sync_failure: Mutex<Option<Error>>,
}

impl GrowingFile {
    pub(crate) fn new(
        handle: Arc<Handle>,
        shard: ShardId,
        tail: Option<Tail>,
        durable: u64,
        end: u64,
    ) -> Self {
        Self {
            handle,
            shard,
            tail,
            durable: durable.into(),
            end: end.into(),
            reserved: end.into(),
            sync_failure: Mutex::default(),
        }
    }

    /// How much to map at once: a file that is not written here is read up to its durable end.
    fn map_len(&self) -> u64 {
        if self.handle.is_written() { MAP_AHEAD } else { self.durable() }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// How long the file must be: what is not durable yet may be in the tail.
    pub(crate) fn least_len(&self) -> u64 {
        if self.tail.is_some() { self.durable() } else { self.end() }
    }

    /// The tail of a file that is written.
    #[expect(clippy::expect_used, reason = "only the writer asks")]
    pub(crate) fn written_tail(&self) -> &Tail {
        self.tail.as_ref().expect("a file that is written has a tail")
    }

    /// Writes to the file, which then has something that was not synced.
    pub(crate) fn write<T>(
        &self,
        open: &OpenFile,
        write: impl FnOnce(&dyn File) -> io::Result<T>,
    ) -> Result<T> {
        let written = write(&*open.file);
        open.wrote();
        written.map_err(|e| Error::failed_write("write", self.handle.path(), e))
    }

    /// Writes out what was appended before the call.
    pub(crate) fn drain(&self, open: &OpenFile) -> Result<()> {
        let Some(tail) = &self.tail else { return Ok(()) };
        self.write(open, |file| tail.drain(file)).map(drop)
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
    use std::path::{Path, PathBuf};

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
        let followed =
            |durable| GrowingFile::new(Handle::closed(path()), ShardId(0), None, durable, 100);
        assert_eq!(followed(100).map_len(), 100);
        assert_eq!(followed(60).map_len(), 60);
        let tail = Tail::new(100, &Budgets::default().buffers);
        let handle = Handle::writing(path(), file);
        let growing = GrowingFile::new(handle, ShardId(0), Some(tail), 100, 100);
        assert_eq!(growing.map_len(), MAP_AHEAD);
        let open = growing.handle.get(&fs, &HandleLimit::new(9), |_| Ok(())).unwrap();
        assert_eq!(growing.read(&open, ReadMode::Map, 0, 100).unwrap(), &[7; 100][..]);
        assert!(open.is_mapped());
        growing.handle.finish_writing();
        assert!(!open.is_mapped());
        assert_eq!(growing.map_len(), 100);
        assert_eq!(growing.read(&open, ReadMode::Map, 0, 100).unwrap(), &[7; 100][..]);
    }
}
