//! The writer of a mutable segment.
//!
//! The table owns it and calls it under its writer lock. It assigns offsets and appends records
//! and small values to the write buffers. Everything that waits for the disk happens outside that
//! lock, through the [`Segment`] that readers share (`flush.rs`). Space is reserved before
//! anything is accepted, so a full disk is an error with nothing done; a streamed value that fails
//! is truncated away (`stream.rs`).

mod copy;
mod stream;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};

use crate::data_file::DataFile;
use crate::handle::OpenFile;
use crate::ids::{Position, ShardId};
use crate::record::{EPOCH_LEN, Encoder, Flags, KEY_FIXED_LEN, KeyRecord, Mark, max_mark_len};
use crate::scan::Totals;
use crate::segment::Segment;

pub use copy::Copier;
pub use stream::Stream;

/// Values of at least this many bytes are written directly from the caller's memory.
const DIRECT_LEN: usize = 64 << 10;
/// Capacity limit of the record buffer that is kept between batches.
const MAX_SCRATCH: usize = 256 << 10;
/// Capacity limit of the placement list that is kept between batches.
const MAX_PLACEMENTS: usize = 1024;
/// Leaves room for recovery to copy the key file after a longer chain record and to add marks.
const MAX_KEY_END: u64 = u32::MAX as u64 - (64 << 10);
const MIN_RESERVE: u64 = 256 << 10;
const MAX_RESERVE: u64 = 64 << 20;

/// An alias for a range of a value.
#[derive(Debug, Clone)]
pub struct Alias<'a> {
    /// The secondary key.
    pub key: &'a [u8],
    /// The range of the value that the key names.
    pub range: Range<u32>,
    /// crc32c of these bytes.
    pub checksum: u32,
}

/// A value with all its keys, validated by the caller.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// The primary key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// crc32c of the value.
    pub checksum: u32,
    /// The secondary keys.
    pub aliases: &'a [Alias<'a>],
}

impl Group<'_> {
    fn record_bytes(&self) -> u64 {
        let aliases: usize = self.aliases.iter().map(|a| KEY_FIXED_LEN + a.key.len()).sum();
        (KEY_FIXED_LEN + self.key.len() + aliases) as u64
    }
}

/// A large value with a reserved place, whose bytes the caller writes next, outside the lock. It
/// holds the open file: once its record is in the log, only the write itself can fail.
#[derive(Debug, Clone)]
pub struct DirectWrite {
    /// Index of the group in the batch.
    pub group: usize,
    /// The value file.
    pub shard: ShardId,
    /// The offset in the file.
    pub offset: u64,
    pub(crate) file: Arc<OpenFile>,
}

/// The result of appending a batch.
#[derive(Debug)]
pub struct Appended {
    /// The positions of all key records in order: for each group the primary one, then the
    /// secondary ones.
    pub positions: Vec<Position>,
    /// The values that the caller must write.
    pub direct: Vec<DirectWrite>,
}

/// Appends to a mutable segment.
#[derive(Debug)]
pub struct SegmentWriter {
    segment: Arc<Segment>,
    inline_max: u32,
    totals: Totals,
    epoch: u64,
    pending_epoch: Option<u64>,
    pending_mark: Option<Mark>,
    /// Buffers reused between batches.
    scratch: Vec<u8>,
    placements: Vec<Placement>,
    ends: Vec<u64>,
}

impl SegmentWriter {
    /// A writer that continues after `totals`. If `pending_epoch` is given, an epoch record with
    /// it precedes the next record.
    pub fn new(
        segment: Arc<Segment>,
        inline_max: u32,
        totals: Totals,
        pending_epoch: Option<u64>,
    ) -> Self {
        let epochs = segment.epochs();
        let epoch = epochs.last().map_or(segment.identity().salt, |(_, epoch)| *epoch);
        Self {
            inline_max,
            epoch,
            pending_epoch,
            pending_mark: None,
            scratch: Vec::new(),
            placements: Vec::new(),
            ends: Vec::new(),
            totals,
            segment,
        }
    }

    /// The segment being written.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// What the segment holds now.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Bytes of records and values in all files.
    pub fn bytes(&self) -> u64 {
        self.totals.key_end + self.totals.value_ends.iter().sum::<u64>()
    }

    /// The mark that will precede the next record.
    pub fn pending_mark(&self) -> Option<&Mark> {
        self.pending_mark.as_ref()
    }

    /// Sets the mark that will precede the next record: a flush up to it has succeeded.
    pub fn set_pending_mark(&mut self, mark: Mark) {
        self.pending_mark = Some(mark);
    }

    /// Clears the pending mark: only a durable mark follows the last flush, so no other is needed.
    pub fn clear_pending_mark(&mut self) {
        self.pending_mark = None;
    }

    /// The length of the key file with these groups appended (an upper bound).
    pub fn key_end_with(&self, groups: &[Group<'_>]) -> u64 {
        let inline =
            |g: &Group<'_>| if self.is_inline(g.value.len()) { g.value.len() as u64 } else { 0 };
        let records: u64 = groups.iter().map(|g| g.record_bytes() + inline(g)).sum();
        self.totals.key_end + records + self.record_overhead()
    }

    /// Releases what an idle table does not need: buffers, reserved space, descriptors. Does
    /// nothing until everything is durable and no mark is pending. Nothing is lost if it fails.
    pub fn release_idle_resources(&mut self) -> Result<()> {
        let segment = &self.segment;
        if self.pending_mark.is_some() || segment.files().any(|file| file.durable() < file.end()) {
            return Ok(());
        }
        self.scratch = Vec::new();
        for file in segment.files() {
            file.expect_write_buffer().release();
            if file.reserved.load(Ordering::Relaxed) > file.end() {
                segment.release_reserved_space_of(file)?;
                file.reserved.store(file.end(), Ordering::Relaxed);
            }
            file.handle.close_if_unused();
        }
        Ok(())
    }

    fn is_inline(&self, len: usize) -> bool {
        len <= self.inline_max as usize
    }

    /// Room for an epoch record, a mark before the next records and one after them.
    fn record_overhead(&self) -> u64 {
        EPOCH_LEN as u64 + 2 * max_mark_len(self.segment.header().shards)
    }

    /// Appends a batch. `StorageFull` with nothing done.
    pub fn append(&mut self, groups: &[Group<'_>], now: UnixMillis) -> Result<Appended> {
        let keys = groups.iter().map(|g| 1 + g.aliases.len()).sum();
        let (mut positions, mut direct) = (Vec::new(), Vec::new());
        let reserved = positions.try_reserve_exact(keys);
        reserved.map_err(|_| Error::out_of_memory("the positions of keys", keys))?;
        let mut placements = std::mem::take(&mut self.placements);
        self.place(groups, &mut placements)?;
        self.append_pending(now);
        for (n, (group, place)) in groups.iter().zip(&mut placements).enumerate() {
            let &mut Placement { shard, offset, .. } = place;
            let Some(file) = self.segment.values.get(usize::from(shard.0)) else { continue };
            match place.file.take() {
                Some(file) => direct.push(DirectWrite { group: n, shard, offset, file }),
                None => file.expect_write_buffer().append(offset, group.value),
            }
            self.set_value_end(shard, offset + group.value.len() as u64);
        }
        let id = self.segment.id();
        self.push_records(|encoder| {
            for (n, (group, place)) in groups.iter().zip(&placements).enumerate() {
                let shard = place.shard;
                let offset = match shard {
                    ShardId::INLINE => encoder.offset + (KEY_FIXED_LEN + group.key.len()) as u64,
                    _ => place.offset,
                };
                let record = |key, range: Range<u32>, value_checksum, flags: Flags| KeyRecord {
                    flags,
                    key,
                    stored_len: range.end - range.start,
                    raw_len: range.end - range.start,
                    value_checksum,
                    shard,
                    offset: offset + u64::from(range.start),
                    codec: 0,
                };
                let is_last_group = n + 1 == groups.len();
                let flags_of = |is_last_key: bool| match (is_last_key, is_last_group) {
                    (true, true) => Flags::END_OF_GROUP.with(Flags::END_OF_BATCH),
                    (true, false) => Flags::END_OF_GROUP,
                    (false, _) => Flags::default(),
                };
                let flags = Flags::PRIMARY.with(flags_of(group.aliases.is_empty()));
                positions.push(Position::new(id, encoder.offset as u32));
                encoder.key(&record(group.key, 0..group.value.len() as u32, group.checksum, flags));
                if shard == ShardId::INLINE {
                    encoder.inline(group.value);
                }
                for (a, alias) in group.aliases.iter().enumerate() {
                    let flags = flags_of(a + 1 == group.aliases.len());
                    positions.push(Position::new(id, encoder.offset as u32));
                    encoder.key(&record(alias.key, alias.range.clone(), alias.checksum, flags));
                }
            }
        });
        self.totals.records += keys as u64;
        self.totals.primaries += groups.len() as u64;
        placements.clear();
        placements.shrink_to(MAX_PLACEMENTS);
        self.placements = placements;
        Ok(Appended { positions, direct })
    }

    #[expect(clippy::indexing_slicing, reason = "a shard is one of the segment's value files")]
    fn set_value_end(&mut self, shard: ShardId, end: u64) {
        let index = usize::from(shard.0);
        self.totals.value_ends[index] = end;
        self.segment.values[index].end.store(end, Ordering::Release);
    }

    /// Appends the records that `write` encodes.
    fn push_records<T>(&mut self, write: impl FnOnce(&mut Encoder<'_>) -> T) -> T {
        let start = self.totals.key_end;
        self.scratch.clear();
        let mut encoder = Encoder {
            buffer: &mut self.scratch,
            identity: *self.segment.identity(),
            epoch: self.epoch,
            running: self.totals.running,
            offset: start,
        };
        let answer = write(&mut encoder);
        (self.epoch, self.totals.running) = (encoder.epoch, encoder.running);
        self.totals.key_end = encoder.offset;
        let keys = &self.segment.keys;
        keys.expect_write_buffer().append(start, &self.scratch);
        keys.end.store(self.totals.key_end, Ordering::Release);
        // Drop the buffer of an unusually large batch.
        if self.scratch.capacity() > MAX_SCRATCH {
            self.scratch = Vec::new();
        }
        answer
    }

    /// Appends the pending epoch record and mark.
    fn append_pending(&mut self, now: UnixMillis) {
        let (epoch, mark) = (self.pending_epoch.take(), self.pending_mark.take());
        if epoch.is_none() && mark.is_none() {
            return;
        }
        let segment = Arc::clone(&self.segment);
        self.push_records(|encoder| {
            if let Some(epoch) = epoch {
                segment.add_epoch(encoder.offset as u32, epoch);
                encoder.epoch(epoch, now);
            }
            if let Some(mark) = mark {
                encoder.mark(&mark);
            }
        });
    }

    /// Appends the pending mark, for a table that goes idle or closes; returns whether there was
    /// one. `StorageFull` with nothing done.
    pub fn append_mark(&mut self, now: UnixMillis) -> Result<bool> {
        if self.pending_mark.is_none() {
            return Ok(false);
        }
        // No more than the last record left for it: a full disk must not keep a table from
        // closing.
        let epoch = if self.pending_epoch.is_some() { EPOCH_LEN as u64 } else { 0 };
        let mark = max_mark_len(self.segment.header().shards);
        self.reserve_key_space(self.totals.key_end + epoch + mark)?;
        self.append_pending(now);
        Ok(true)
    }

    /// Chooses the place of every value (`INLINE` or the shard with the fewest bytes), reserves
    /// the space and the memory for small values, and opens the files of values that are written
    /// directly.
    fn place(&mut self, groups: &[Group<'_>], placements: &mut Vec<Placement>) -> Result<()> {
        let key_end = self.key_end_with(groups);
        if key_end > MAX_KEY_END {
            return Err(too_long(key_end, MAX_KEY_END));
        }
        self.reserve_key_space_and_memory(key_end)?;
        self.ends.clone_from(&self.totals.value_ends);
        for group in groups {
            let len = group.value.len();
            if self.is_inline(len) {
                placements.push(Placement { shard: ShardId::INLINE, offset: 0, file: None });
                continue;
            }
            let (file, end) = smallest_value_file(&self.segment, &mut self.ends);
            let offset = *end;
            *end += len as u64;
            self.segment.reserve(file, *end)?;
            let is_direct = len >= DIRECT_LEN;
            let open = is_direct.then(|| self.segment.open(file)).transpose()?;
            placements.push(Placement { shard: file.shard, offset, file: open });
        }
        for file in &self.segment.values {
            let is_here = |place: &Placement| place.shard == file.shard && place.file.is_none();
            let small = groups.iter().zip(&*placements).filter(|(_, place)| is_here(place));
            let len = small.map(|(group, _)| group.value.len()).sum();
            if len == 0 {
                continue;
            }
            if let Some(open) = self.reserve_value_memory(file, len)? {
                for place in placements.iter_mut().filter(|place| is_here(place)) {
                    place.file = Some(Arc::clone(&open));
                }
            }
        }
        Ok(())
    }

    /// Reserves memory for records; drains this segment's buffers, then reclaims from others, if
    /// necessary.
    fn reserve_record_memory(&self, len: usize) -> Result<()> {
        let file = &self.segment.keys;
        let write_buffer = file.expect_write_buffer();
        if write_buffer.has_room(len) {
            return Ok(());
        }
        self.segment.write_buffers_to_files()?;
        for file in self.segment.files() {
            file.expect_write_buffer().release();
        }
        let made = write_buffer.make_room_over_budget(len);
        made.map_err(|e| Error::io("buffer bytes for", file.handle.path(), e))
    }

    /// Reserves memory for small values, or returns the file that they are written to directly.
    fn reserve_value_memory(&self, file: &DataFile, len: usize) -> Result<Option<Arc<OpenFile>>> {
        let write_buffer = file.expect_write_buffer();
        if write_buffer.has_room(len) {
            return Ok(None);
        }
        let open = self.segment.open(file)?;
        // Only this file: room in the others is already reserved.
        file.drain(&open)?;
        Ok(write_buffer.make_room(len).is_err().then_some(open))
    }

    /// Reserves disk space and memory for records up to `end`.
    fn reserve_key_space_and_memory(&mut self, end: u64) -> Result<()> {
        self.reserve_key_space(end)?;
        let len = (end - self.totals.key_end) as usize;
        self.reserve_record_memory(len)?;
        self.scratch.clear();
        let reserved = self.scratch.try_reserve(len);
        reserved.map_err(|_| Error::out_of_memory("the records of a batch", len))
    }

    fn reserve_key_space(&self, end: u64) -> Result<()> {
        if end > u64::from(u32::MAX) {
            return Err(too_long(end, u32::MAX.into()));
        }
        self.segment.reserve(&self.segment.keys, end)
    }
}

fn too_long(end: u64, most: u64) -> Error {
    let message = format!("a key file of {end} bytes; the limit is {most} bytes");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// The place of a value.
#[derive(Debug)]
struct Placement {
    shard: ShardId,
    /// Its offset in a value file.
    offset: u64,
    /// The open file, for a value that is written directly.
    file: Option<Arc<OpenFile>>,
}

/// The value file with the fewest bytes, by `ends`.
#[expect(clippy::expect_used, reason = "a segment has at least one value file")]
fn smallest_value_file<'a>(
    segment: &'a Segment,
    ends: &'a mut [u64],
) -> (&'a DataFile, &'a mut u64) {
    segment.values.iter().zip(ends).min_by_key(|(_, end)| **end).expect("a value file")
}

impl Segment {
    /// Reserves disk space for the file up to `end`, in steps of a quarter of its size (256 KiB to
    /// 64 MiB). If the disk has no room for a step, reserves just what is needed.
    fn reserve(&self, file: &DataFile, end: u64) -> Result<()> {
        let reserved = file.reserved.load(Ordering::Relaxed);
        if end <= reserved {
            return Ok(());
        }
        let open = self.open(file)?;
        let from = reserved.max(file.end());
        let step = (end / 4).clamp(MIN_RESERVE, MAX_RESERVE);
        let target = end.saturating_add(step);
        let allocate = |target: u64| open.file.allocate(from, target.saturating_sub(from));
        let answer = match allocate(target) {
            Err(error) if is_full(&error) => allocate(end).map(|()| end),
            answer => answer.map(|()| target),
        };
        let reserved = answer.map_err(|e| Error::failed_reservation(file.handle.path(), e))?;
        file.reserved.store(reserved, Ordering::Relaxed);
        Ok(())
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
