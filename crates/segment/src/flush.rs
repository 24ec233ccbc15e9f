//! Makes a mutable segment durable: drains the write buffers, syncs the files, seals.
//!
//! Nothing here holds the table's writer lock. Any number of threads may write full chunks and
//! drain concurrently; the table orders flushes and the seal of one segment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use lithdb_env::{Error, Result, write_all_at};
use xxhash_rust::xxh3::Xxh3;

use crate::data_file::DataFile;
use crate::handle::OpenFile;
use crate::ids::SegmentId;
use crate::metadata::{Metadata, Stamp};
use crate::record::Mark;
use crate::scan::Totals;
use crate::segment::Segment;
use crate::writer::DirectWrite;

/// Size of the pieces read for the digest.
const DIGEST_PIECE: u64 = 1 << 20;

/// Everything needed to seal a segment.
#[derive(Debug, Clone)]
pub struct SealJob {
    /// The segment.
    pub segment: Arc<Segment>,
    /// What the segment holds.
    pub totals: Totals,
    /// The succeeding segment; its files are durable.
    pub successor: SegmentId,
    /// The time of the seal: the segment's age counts from here.
    pub sealed_at: Stamp,
    /// How much of the successor is durable (`None`: only its start). The mark's time is when the
    /// content of this segment was flushed.
    pub successor_end: Option<Mark>,
}

impl DataFile {
    /// Drains the write buffer and syncs, unless everything up to `end` is already durable.
    fn make_durable(&self, open: &OpenFile, end: u64) -> Result<()> {
        self.serialize_syncs(|| {
            if self.durable() >= end {
                return Ok(());
            }
            self.drain(open)?;
            open.synced(|file| file.sync_data())
                .map_err(|e| Error::failed_write("sync", self.handle.path(), e))?;
            self.durable.fetch_max(end, Ordering::AcqRel);
            Ok(())
        })
    }

    /// Syncs the file and its length unconditionally.
    pub(crate) fn sync_all(&self, open: &OpenFile) -> Result<()> {
        self.serialize_syncs(|| {
            let synced = open.synced(|file| file.sync_all());
            synced.map_err(|e| Error::failed_write("sync", self.handle.path(), e))
        })
    }

    /// The kernel reports a failed write-back to only one sync of a file; the next one succeeds,
    /// whatever is on the disk. So syncs of one file are serialized, and after a failure all later
    /// ones fail.
    fn serialize_syncs(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut failure = self.sync_failure.lock();
        if let Some(failure) = &*failure {
            return Err(failure.clone());
        }
        let result = sync();
        *failure = result.as_ref().err().cloned();
        result
    }
}

impl Segment {
    /// Drains all write buffers to free their memory. The bytes are not durable yet.
    pub(crate) fn write_buffers_to_files(&self) -> Result<()> {
        self.files().try_for_each(|file| file.drain(&*self.open(file)?))
    }

    /// Releases buffers: the empty ones, or, if there are none, drains the others first. Never
    /// waits for a writer. Returns whether anything was released. After a failed write the table
    /// must accept no more writes.
    pub fn release_buffers(&self) -> Result<bool> {
        let write_buffers =
            || self.files().filter_map(|file| Some((file, file.write_buffer.as_ref()?)));
        if write_buffers().fold(false, |is_any, (_, write_buffer)| is_any | write_buffer.release())
        {
            return Ok(true);
        }
        let mut is_any = false;
        for (file, write_buffer) in
            write_buffers().filter(|(_, write_buffer)| !write_buffer.is_empty())
        {
            let written = file.write(&*self.open(file)?, |file| write_buffer.try_drain(file))?;
            is_any |= written.is_some() | write_buffer.release();
        }
        Ok(is_any)
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.values.iter().chain([&self.keys])
    }

    /// Writes a large value to its reserved place, from the caller's memory. If this fails, the
    /// table must accept no more writes: the record that names the value is already in the log.
    pub fn write_direct(&self, place: &DirectWrite, value: &[u8]) -> Result<()> {
        let Some(file) = self.file(place.shard) else {
            unreachable!("a direct write goes to one of the segment's value files")
        };
        file.write(&place.file, |file| write_all_at(file, value, place.offset))?;
        #[expect(clippy::let_underscore_must_use, reason = "only a hint to start write-back")]
        let _ = place.file.file.start_writeback(place.offset, value.len() as u64);
        Ok(())
    }

    /// Writes full chunks of the write buffers to the files, unless another thread is doing so.
    /// Called by the threads that fill the buffers. If this fails, the table must accept no more
    /// writes.
    pub fn write_full_chunks(&self) -> Result<()> {
        for file in self.files() {
            let Some(write_buffer) = &file.write_buffer else { continue };
            if !write_buffer.has_full_chunks() {
                continue;
            }
            // If the file cannot be opened, the chunks stay in memory; the next flush returns the
            // error.
            let Ok(open) = self.open(file) else { continue };
            if let Some((start, end)) =
                file.write(&open, |file| write_buffer.write_full_chunks(file))?
            {
                #[expect(clippy::let_underscore_must_use, reason = "a hint, as in `write_direct`")]
                let _ = open.file.start_writeback(start, end - start);
            }
        }
        Ok(())
    }

    /// Makes everything in `totals` durable: syncs in parallel the files that have something new.
    /// If this fails, the table must accept no more writes.
    pub fn make_durable(self: &Arc<Self>, totals: &Totals) -> Result<()> {
        let ends = totals.value_ends.iter().chain([&totals.key_end]);
        let dirty = self.files().zip(ends).enumerate();
        let dirty = dirty.filter(|(_, (file, end))| file.durable() < **end);
        let tasks = dirty.map(|(n, (_, end))| {
            let (segment, end) = (Arc::clone(self), *end);
            move || {
                let Some(file) = segment.files().nth(n) else { return Ok(()) };
                match segment.open(file) {
                    Ok(open) => file.make_durable(&open, end),
                    // The segment was sealed meanwhile and is durable; its file may be closed,
                    // collected or dropped.
                    Err(_) if file.durable() >= end => Ok(()),
                    Err(error) => Err(error),
                }
            }
        });
        self.context().env.pool.run_all(tasks.collect())
    }

    /// Syncs all files and their directories unconditionally.
    pub fn sync_everything(self: &Arc<Self>) -> Result<()> {
        let tasks: Vec<_> = (0..=self.values.len())
            .map(|n| {
                let segment = Arc::clone(self);
                move || {
                    let Some(file) = segment.files().nth(n) else { return Ok(()) };
                    file.sync_all(&*segment.open(file)?)
                }
            })
            .collect();
        let env = &self.context().env;
        env.pool.run_all(tasks)?;
        for dir in self.paths().dirs() {
            env.fs.sync_dir(&dir).map_err(|e| Error::failed_dir_sync(&dir, e))?;
        }
        Ok(())
    }

    /// Releases space that was reserved and not used. No file changes its length.
    pub fn release_reserved_space(&self) -> Result<()> {
        self.files().try_for_each(|file| self.release_reserved_space_of(file))
    }

    pub(crate) fn release_reserved_space_of(&self, file: &DataFile) -> Result<()> {
        let (open, path) = (self.open(file)?, file.handle.path());
        let len = open.file.len().map_err(|e| Error::io("get the length of", path, e))?;
        open.file.set_len(len).map_err(|e| Error::io("release reserved space of", path, e))
    }

    fn digest(&self, end: u64) -> Result<[u8; 16]> {
        // Read by copying: a seal must not depend on a mapping.
        let open = self.open(&self.keys)?;
        let path = &self.paths().keys;
        digest_of(path, end, |offset, len| open.copied(path, offset, len))
    }
}

/// The content digest of the key file at `path` up to `end`. `read` returns its bytes in pieces.
/// `Corrupt` if it returns fewer.
pub fn digest_of(
    path: &Path,
    end: u64,
    read: impl Fn(u64, usize) -> Result<Bytes>,
) -> Result<[u8; 16]> {
    let mut hasher = Xxh3::new();
    let mut offset = 0;
    while offset < end {
        let piece = read(offset, (end - offset).min(DIGEST_PIECE) as usize)?;
        if piece.is_empty() {
            return Err(Error::corrupt(path, offset, "more bytes", "the end of the file"));
        }
        hasher.update(&piece);
        offset += piece.len() as u64;
    }
    Ok(hasher.digest128().to_le_bytes())
}

impl SealJob {
    /// Makes the segment durable and writes its metadata. The successor's files and directory
    /// entries must already be durable. May be repeated after a failure that does not latch;
    /// nothing is lost unless the error latches.
    pub fn run(&self) -> Result<()> {
        let segment = &self.segment;
        if segment.metadata().is_some() {
            return Ok(()); // durably sealed by an earlier attempt that failed later
        }
        segment.make_durable(&self.totals)?;
        segment.release_reserved_space()?;
        let metadata = self.metadata(segment.digest(self.totals.key_end)?);
        metadata.write(&*segment.context().env.fs, &segment.paths().metadata)?;
        segment.set_sealed(metadata);
        for file in segment.files() {
            file.handle.finish_writing();
            segment.context().handles.admit(&file.handle);
            // A sealed segment may live as long as the process, so it keeps no buffers.
            if let Some(write_buffer) = &file.write_buffer {
                write_buffer.release();
            }
        }
        Ok(())
    }

    fn metadata(&self, digest: [u8; 16]) -> Metadata {
        let mut metadata = Metadata {
            successor: self.successor,
            epochs: self.segment.epochs().to_vec(),
            digest: Some(digest),
            ..Metadata::of(self.segment.header(), self.totals.clone(), self.sealed_at)
        };
        metadata.set_successor_end(self.successor_end.as_ref());
        metadata
    }
}
