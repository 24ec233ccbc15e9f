//! Making a mutable segment durable: drain the tails, sync the files, seal.
//!
//! Nothing here holds the table's writer lock. Any number of threads may relieve and drain; flushes and the seal of
//! one segment are ordered by the table.

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

/// Bytes are read in pieces of this size for the digest.
const DIGEST_PIECE: u64 = 1 << 20;

/// Everything that is known of a segment that ends.
#[derive(Debug, Clone)]
pub struct SealJob {
    /// The segment.
    pub segment: Arc<Segment>,
    /// What it holds.
    pub totals: Totals,
    /// The segment that took over; its files are durable.
    pub successor: SegmentId,
    /// When it ended: its age counts from here.
    pub stamp: Stamp,
    /// So much of the successor is durable (`None`: its beginning); its time is when what the segment holds was flushed.
    pub successor_end: Option<Mark>,
}

impl DataFile {
    /// Writes the tail out and syncs, unless everything up to `end` is durable.
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

    /// Syncs the file with its length, whatever is known of it.
    pub(crate) fn sync_all(&self, open: &OpenFile) -> Result<()> {
        self.serialize_syncs(|| {
            let synced = open.synced(|file| file.sync_all());
            synced.map_err(|e| Error::failed_write("sync", self.handle.path(), e))
        })
    }

    /// A failed write-back is reported to one sync of a file alone: the next one succeeds, whatever is on the disk. So
    /// syncs of one file take turns, and after a failure all of them fail.
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
    /// Writes out what was accepted, for its memory: not yet durable.
    pub(crate) fn write_buffers_to_files(&self) -> Result<()> {
        self.files().try_for_each(|file| file.drain(&*self.open(file)?))
    }

    /// Gives back buffers: those that are empty, or else what is in them is written out. Waits for nobody who writes; says
    /// whether there was something. After a failed write the table must take no more.
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

    /// Writes a large value to its reserved place, from the caller's memory.
    /// If it fails, the table must take no more writes: the record that names the value is in the
    /// log already.
    pub fn write_direct(&self, place: &DirectWrite, value: &[u8]) -> Result<()> {
        let Some(file) = self.file(place.shard) else {
            unreachable!("a place is in one of the segment's value files")
        };
        file.write(&place.file, |file| write_all_at(file, value, place.offset))?;
        #[expect(clippy::let_underscore_must_use, reason = "a hint: keeps the disk busy")]
        let _ = place.file.file.start_writeback(place.offset, value.len() as u64);
        Ok(())
    }

    /// Writes full chunks of the tails to the files if it is nobody else's turn. Called by those who fill them.
    /// If it fails, the table must take no more writes.
    pub fn write_full_chunks(&self) -> Result<()> {
        for file in self.files() {
            let Some(write_buffer) = &file.write_buffer else { continue };
            if !write_buffer.has_full_chunks() {
                continue;
            }
            // What cannot be written now stays in memory; the next flush says why.
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

    /// Makes everything in `totals` durable: all files at the same time, and only those with
    /// something new.
    /// If it fails, the table must take no more writes.
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
                    // Sealed meanwhile, it is durable: it may have been closed, and collected or dropped.
                    Err(_) if file.durable() >= end => Ok(()),
                    Err(error) => Err(error),
                }
            }
        });
        self.context().env.pool.run_all(tasks.collect())
    }

    /// Syncs all files and the directories they are in, whatever is known of them.
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

    /// Gives back space that was reserved and not used. No file gets another length.
    pub fn release_reserved_space(&self) -> Result<()> {
        self.files().try_for_each(|file| self.release_reserved_space_of(file))
    }

    pub(crate) fn release_reserved_space_of(&self, file: &DataFile) -> Result<()> {
        let (open, path) = (self.open(file)?, file.handle.path());
        let len = open.file.len().map_err(|e| Error::io("measure", path, e))?;
        open.file.set_len(len).map_err(|e| Error::io("give space back", path, e))
    }

    fn digest(&self, end: u64) -> Result<[u8; 16]> {
        // Copied: a seal must not depend on a mapping.
        let open = self.open(&self.keys)?;
        let path = &self.paths().keys;
        digest_of(path, end, |offset, len| open.copied(path, offset, len))
    }
}

/// The content digest of the key file at `path` up to `end`, whose bytes `read` gives in pieces.
/// `Corrupt` if it gives less.
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
    /// Makes the segment durable and writes its metadata. The successor's files and directory entries must be
    /// durable. May be repeated after a failure that does not latch.
    /// Nothing is lost unless the error latches.
    pub fn run(&self) -> Result<()> {
        let segment = &self.segment;
        if segment.metadata().is_some() {
            return Ok(()); // it is sealed, durably: what failed came afterwards
        }
        segment.make_durable(&self.totals)?;
        segment.release_reserved_space()?;
        let metadata = self.metadata(segment.digest(self.totals.key_end)?);
        metadata.write(&*segment.context().env.fs, &segment.paths().metadata)?;
        segment.set_sealed(metadata);
        for file in segment.files() {
            file.handle.finish_writing();
            segment.context().handles.admit(&file.handle);
            // A sealed segment may live as long as the process.
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
            ..Metadata::of(self.segment.header(), self.totals.clone(), self.stamp)
        };
        metadata.set_successor_end(self.successor_end.as_ref());
        metadata
    }
}
