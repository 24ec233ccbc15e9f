//! One file of a segment: its durable and readable ends and, while it grows, its write buffer.
//!
//! Invariant: bytes below the durable end never change; only they are returned zero-copy from a
//! mapping.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicU64, Ordering};
use lithdb_env::{Error, File, Result};

use crate::handle::{Handle, OpenFile, ReadMode};
use crate::ids::ShardId;
use crate::write_buffer::WriteBuffer;

/// A growing file is mapped in steps of this size, so that it is seldom remapped.
const MAP_AHEAD: u64 = 1 << 30;

/// A file, its ends and, while it grows, its write buffer.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) handle: Arc<Handle>,
    /// Which of the segment's files it is; `INLINE` is the key file.
    pub(crate) shard: ShardId,
    pub(crate) write_buffer: Option<WriteBuffer>,
    /// Bytes below this never change again.
    pub(crate) durable: AtomicU64,
    /// Bytes below this can be read (published records may be below or above the durable end).
    pub(crate) end: AtomicU64,
    /// Disk space is reserved up to here; changed only by the writer.
    pub(crate) reserved: AtomicU64,
    /// The first failed sync; locked while a sync is in progress.
    pub(crate) sync_failure: Mutex<Option<Error>>,
}

impl DataFile {
    pub(crate) fn new(
        handle: Arc<Handle>,
        shard: ShardId,
        write_buffer: Option<WriteBuffer>,
        durable: u64,
        end: u64,
    ) -> Self {
        Self {
            handle,
            shard,
            write_buffer,
            durable: durable.into(),
            end: end.into(),
            reserved: end.into(),
            sync_failure: Mutex::default(),
        }
    }

    /// How much to map at once: a file that this process does not write is read up to its durable
    /// end.
    fn map_len(&self) -> u64 {
        if self.handle.is_written() { MAP_AHEAD } else { self.durable() }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The minimum length of the file: bytes that are not durable may still be in the write
    /// buffer.
    pub(crate) fn min_len(&self) -> u64 {
        if self.write_buffer.is_some() { self.durable() } else { self.end() }
    }

    /// The write buffer of a file that is being written.
    #[expect(clippy::expect_used, reason = "called by the writer only")]
    pub(crate) fn expect_write_buffer(&self) -> &WriteBuffer {
        self.write_buffer.as_ref().expect("a file being written has a write buffer")
    }

    /// Writes to the file and marks it as unsynced.
    pub(crate) fn write<T>(
        &self,
        open: &OpenFile,
        write: impl FnOnce(&dyn File) -> io::Result<T>,
    ) -> Result<T> {
        let written = write(&*open.file);
        open.mark_unsynced();
        written.map_err(|e| Error::failed_write("write", self.handle.path(), e))
    }

    /// Writes to the file what was appended before the call.
    pub(crate) fn drain(&self, open: &OpenFile) -> Result<()> {
        let Some(write_buffer) = &self.write_buffer else { return Ok(()) };
        self.write(open, |file| write_buffer.drain(file)).map(drop)
    }

    /// Up to `len` bytes at `offset`; fewer only where file and write buffer, or two chunks, meet,
    /// or at the end.
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
        if let Some(bytes) =
            self.write_buffer.as_ref().and_then(|write_buffer| write_buffer.read(offset, len))
        {
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
    use crate::handle::HandleCache;

    #[test]
    fn only_writable_files_are_mapped_ahead() {
        let fs = SimFs::new();
        let file = fs.create_new(Path::new("/f")).unwrap();
        write_all_at(&*file, &[7; 100], 0).unwrap();
        let path = || PathBuf::from("/f");
        let followed =
            |durable| DataFile::new(Handle::closed(path()), ShardId(0), None, durable, 100);
        assert_eq!(followed(100).map_len(), 100);
        assert_eq!(followed(60).map_len(), 60);
        let write_buffer = WriteBuffer::new(100, &Budgets::default().buffers);
        let handle = Handle::writing(path(), file);
        let growing = DataFile::new(handle, ShardId(0), Some(write_buffer), 100, 100);
        assert_eq!(growing.map_len(), MAP_AHEAD);
        let open = growing.handle.get(&fs, &HandleCache::new(9), |_| Ok(())).unwrap();
        assert_eq!(growing.read(&open, ReadMode::Map, 0, 100).unwrap(), &[7; 100][..]);
        assert!(open.is_mapped());
        growing.handle.finish_writing();
        assert!(!open.is_mapped());
        assert_eq!(growing.map_len(), 100);
        assert_eq!(growing.read(&open, ReadMode::Map, 0, 100).unwrap(), &[7; 100][..]);
    }
}
