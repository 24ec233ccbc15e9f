//! The writer of the one mutable segment.
//!
//! Owned by the table and used under its writer lock: it decides offsets and puts records and small values
//! into the tails. Everything that waits for the disk happens outside of that lock, through the [`Segment`]
//! that readers share (`flush.rs`). Space is reserved before anything is accepted, so a full disk is an error
//! with nothing done, save a value that comes in pieces: what is written of it is cut off again (`stream.rs`).

mod copy;
mod stream;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};

use crate::growing::GrowingFile;
use crate::handle::OpenFile;
use crate::header::HEADER_LEN;
use crate::ids::{Position, ShardId};
use crate::record::{
    Chain, EPOCH_LEN, Encoder, Flags, KEY_FIXED_LEN, KeyRecord, Mark, max_mark_len,
};
use crate::scan::Totals;
use crate::segment::Segment;

pub use copy::Copier;
pub use stream::Stream;

/// Values of at least this many bytes go to their file directly from the caller's memory.
const DIRECT_LEN: usize = 64 << 10;
/// The largest buffer for records that is kept from one batch to the next.
const MAX_SCRATCH: usize = 256 << 10;
/// Recovery may have to copy a key file behind a longer chain record and leave room for marks.
const MAX_KEY_END: u64 = u32::MAX as u64 - (64 << 10);
const MIN_RESERVE: u64 = 256 << 10;
const MAX_RESERVE: u64 = 64 << 20;

/// An alias for a range of a value.
#[derive(Debug, Clone)]
pub struct Alias<'a> {
    /// The secondary key.
    pub key: &'a [u8],
    /// The bytes of the value that it names; inside of the value.
    pub range: Range<u32>,
    /// crc32c of these bytes.
    pub checksum: u32,
}

/// A value with all its keys, checked by the caller.
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

/// A large value whose place is reserved and whose bytes the caller writes next, outside of the lock. It holds the open
/// file: once its record is in the log, nothing but the write itself can fail.
#[derive(Debug, Clone)]
pub struct DirectWrite {
    /// Which group of the batch.
    pub group: usize,
    /// The value file.
    pub shard: ShardId,
    /// Where it goes.
    pub offset: u64,
    pub(crate) file: Arc<OpenFile>,
}

/// What a segment held at one moment: what a flush makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The key file's length, the number of records, the lengths of the value files.
    pub totals: Totals,
}

impl Capture {
    /// The mark that vouches for it.
    pub fn mark(&self, time: UnixMillis) -> Mark {
        Mark {
            through: self.totals.key_end as u32,
            time,
            records: self.totals.records,
            value_ends: self.totals.value_ends.clone(),
        }
    }
}

/// Appends to a mutable segment.
#[derive(Debug)]
pub struct SegmentWriter {
    segment: Arc<Segment>,
    inline_max: u32,
    totals: Totals,
    epoch: u64,
    epoch_due: Option<u64>,
    mark_due: Option<Mark>,
    key_reserved: u64,
    value_reserved: Vec<u64>,
    scratch: Vec<u8>,
}

impl SegmentWriter {
    /// A writer that goes on behind `totals`. If `epoch_due` is given, an epoch record with it precedes the
    /// next record; if `mark_due` is, that mark does.
    pub fn new(
        segment: Arc<Segment>,
        inline_max: u32,
        totals: Totals,
        epoch_due: Option<u64>,
        mark_due: Option<Mark>,
    ) -> Self {
        let epochs = segment.epochs();
        let epoch = epochs.last().map_or(segment.identity().salt, |(_, epoch)| *epoch);
        Self {
            inline_max,
            epoch,
            epoch_due,
            mark_due,
            key_reserved: totals.key_end,
            value_reserved: totals.value_ends.clone(),
            scratch: Vec::new(),
            totals,
            segment,
        }
    }

    /// The segment that is written.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// What the segment holds now.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What the segment holds now, to make it durable.
    pub fn capture(&self) -> Capture {
        Capture { totals: self.totals.clone() }
    }

    /// Bytes of records and values in all files.
    pub fn bytes(&self) -> u64 {
        self.totals.key_end + self.totals.value_ends.iter().sum::<u64>()
    }

    /// The mark that is to be written before the next record.
    pub fn mark_due(&self) -> Option<&Mark> {
        self.mark_due.as_ref()
    }

    /// A flush up to this mark has succeeded: it precedes the next record.
    pub fn set_mark_due(&mut self, mark: Mark) {
        self.mark_due = Some(mark);
    }

    /// What is behind the last flush is a mark that is durable: no other need follow.
    pub fn clear_mark_due(&mut self) {
        self.mark_due = None;
    }

    /// What the successor says of this segment, if it ends here.
    pub fn chain(&self) -> Chain {
        Chain {
            predecessor: self.segment.id(),
            key_end: self.totals.key_end as u32,
            records: self.totals.records,
            running: self.totals.running,
            value_ends: self.totals.value_ends.clone(),
        }
    }

    /// How long the key file would be with these groups in it (an upper bound).
    pub fn key_end_with(&self, groups: &[Group<'_>]) -> u64 {
        let inline =
            |g: &Group<'_>| if self.is_inline(g.value.len()) { g.value.len() as u64 } else { 0 };
        let records: u64 = groups.iter().map(|g| g.record_bytes() + inline(g)).sum();
        self.totals.key_end + records + self.slack()
    }

    /// Gives back what an idle table does not need: buffers, reserved space, descriptors. Does nothing before everything
    /// is durable and vouched for.
    ///
    /// # Errors
    /// What the file system says; nothing is lost.
    pub fn rest(&mut self) -> Result<()> {
        let segment = &self.segment;
        if self.mark_due.is_some() || segment.files().any(|file| file.durable() < file.end()) {
            return Ok(());
        }
        self.scratch = Vec::new();
        let reserved = self.value_reserved.iter_mut().chain([&mut self.key_reserved]);
        for (file, reserved) in segment.files().zip(reserved) {
            if let Some(tail) = &file.tail {
                tail.release();
            }
            if *reserved > file.end() {
                segment.give_back_of(file)?;
                *reserved = file.end();
            }
            file.handle.rest();
        }
        Ok(())
    }

    fn is_inline(&self, len: usize) -> bool {
        len <= self.inline_max as usize
    }

    /// Room for an epoch record, the mark before the next records and the one behind them.
    fn slack(&self) -> u64 {
        EPOCH_LEN as u64 + 2 * max_mark_len(self.segment.header().shards)
    }

    /// Appends a batch. `placed` is called for every key record with the number of its group, the number of its
    /// key in the group (0 is the primary one) and its position. Values that the caller must write itself
    /// are added to `direct`.
    ///
    /// # Errors
    /// `StorageFull` with nothing done, or what the file system says.
    pub fn append(
        &mut self,
        groups: &[Group<'_>],
        now: UnixMillis,
        direct: &mut Vec<DirectWrite>,
        mut placed: impl FnMut(usize, usize, Position),
    ) -> Result<()> {
        let mut places = self.place(groups)?;
        self.append_due(now);
        let start = self.totals.key_end;
        let segment = Arc::clone(&self.segment);
        let id = segment.id();
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut encoder = Encoder {
            buffer: &mut scratch,
            identity: *segment.identity(),
            epoch: self.epoch,
            running: self.totals.running,
            offset: start,
        };
        for (n, group) in groups.iter().enumerate() {
            let is_last_group = n + 1 == groups.len();
            let inline_at = encoder.offset + (KEY_FIXED_LEN + group.key.len()) as u64;
            let (shard, offset) = match places.take(n) {
                Place { shard: ShardId::INLINE, .. } => (ShardId::INLINE, inline_at),
                place => self.take_value_space(n, place, group, direct),
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
            let flags_of = |is_last_key: bool| match (is_last_key, is_last_group) {
                (true, true) => Flags::END_OF_GROUP.with(Flags::END_OF_BATCH),
                (true, false) => Flags::END_OF_GROUP,
                (false, _) => Flags::default(),
            };
            let flags = Flags::PRIMARY.with(flags_of(group.aliases.is_empty()));
            placed(n, 0, Position::new(id, encoder.offset as u32));
            encoder.key(&record(group.key, 0..group.value.len() as u32, group.checksum, flags));
            if shard == ShardId::INLINE {
                encoder.inline(group.value);
            }
            for (a, alias) in group.aliases.iter().enumerate() {
                let flags = flags_of(a + 1 == group.aliases.len());
                placed(n, a + 1, Position::new(id, encoder.offset as u32));
                encoder.key(&record(alias.key, alias.range.clone(), alias.checksum, flags));
            }
            self.totals.records += 1 + group.aliases.len() as u64;
            self.totals.primaries += 1;
        }
        self.totals.running = encoder.running;
        self.totals.key_end = encoder.offset;
        self.push_keys(start, scratch);
        Ok(())
    }

    /// Takes the place of a value in its file; a small one goes into the tail at once.
    fn take_value_space(
        &mut self,
        n: usize,
        place: Place,
        group: &Group<'_>,
        direct: &mut Vec<DirectWrite>,
    ) -> (ShardId, u64) {
        let shard = place.shard;
        let index = usize::from(shard.0);
        let (Some(end), Some(file)) =
            (self.totals.value_ends.get_mut(index), self.segment.values.get(index))
        else {
            unreachable!("a place is in one of the segment's value files")
        };
        let offset = *end;
        *end += group.value.len() as u64;
        match (place.file, &file.tail) {
            (Some(file), _) => direct.push(DirectWrite { group: n, shard, offset, file }),
            (None, Some(tail)) => tail.append(offset, group.value),
            (None, None) => unreachable!("a file that is written has a tail"),
        }
        file.end.store(*end, Ordering::Release);
        (shard, offset)
    }

    fn push_keys(&mut self, start: u64, bytes: Vec<u8>) {
        if let Some(tail) = &self.segment.keys.tail {
            tail.append(start, &bytes);
        }
        self.segment.keys.end.store(self.totals.key_end, Ordering::Release);
        // The buffer of an unusually large batch is not kept.
        self.scratch = if bytes.capacity() <= MAX_SCRATCH { bytes } else { Vec::new() };
    }

    /// Appends the epoch record and the mark that are due.
    fn append_due(&mut self, now: UnixMillis) {
        if self.epoch_due.is_none() && self.mark_due.is_none() {
            return;
        }
        let start = self.totals.key_end;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut encoder = Encoder {
            buffer: &mut scratch,
            identity: *self.segment.identity(),
            epoch: self.epoch,
            running: self.totals.running,
            offset: start,
        };
        if let Some(epoch) = self.epoch_due.take() {
            self.segment.add_epoch(encoder.offset as u32, epoch);
            encoder.epoch(epoch, now);
        }
        if let Some(mark) = self.mark_due.take() {
            encoder.mark(&mark);
        }
        self.epoch = encoder.epoch;
        self.totals.running = encoder.running;
        self.totals.key_end = encoder.offset;
        self.push_keys(start, scratch);
    }

    /// Appends the mark that is due now, for a table that goes idle or closes; says whether there was one.
    ///
    /// # Errors
    /// `StorageFull` with nothing done.
    pub fn append_mark(&mut self, now: UnixMillis) -> Result<bool> {
        if self.mark_due.is_none() {
            return Ok(false);
        }
        // Not more than what the last record left for it: a full disk must not keep a table from closing.
        let epoch = if self.epoch_due.is_some() { EPOCH_LEN as u64 } else { 0 };
        let mark = max_mark_len(self.segment.header().shards);
        self.reserve_keys(self.totals.key_end + epoch + mark)?;
        self.append_due(now);
        Ok(true)
    }

    /// Chooses where every value goes (`INLINE` or the shard with the least in it) and makes sure of the space, of memory
    /// for small ones, and of the open files of values that are written directly.
    fn place(&mut self, groups: &[Group<'_>]) -> Result<Places> {
        let key_end = self.key_end_with(groups);
        if key_end > MAX_KEY_END {
            return Err(too_long(key_end, MAX_KEY_END));
        }
        self.reserve_key_bytes(key_end)?;
        let place_one = |writer: &mut Self, len: usize, ends: Option<&mut Vec<u64>>| {
            if writer.is_inline(len) {
                return Ok(Place { shard: ShardId::INLINE, file: None });
            }
            let ends = match ends {
                Some(ends) => ends,
                None => &mut writer.totals.value_ends.clone(),
            };
            let least = ends.iter_mut().enumerate().min_by_key(|(_, end)| **end);
            let Some((index, end)) = least else {
                return Err(Error::new(ErrorKind::InvalidArgument, "a segment without shards"));
            };
            *end += len as u64;
            let end = *end;
            writer.reserve_values(index, end)?;
            let is_direct = len >= DIRECT_LEN;
            let file = writer.segment.values.get(index).filter(|_| is_direct);
            let file = file.map(|file| writer.segment.writing(file)).transpose()?;
            Ok(Place { shard: ShardId(index as u16), file })
        };
        let is_small = |place: &Place| place.shard != ShardId::INLINE && place.file.is_none();
        if let [group] = groups {
            let mut place = place_one(self, group.value.len(), None)?;
            if is_small(&place)
                && let Some(file) = self.segment.values.get(usize::from(place.shard.0))
            {
                place.file = self.room_for_values(file, group.value.len())?;
            }
            return Ok(Places::One(place));
        }
        let mut ends = self.totals.value_ends.clone();
        let places = groups.iter().map(|g| place_one(self, g.value.len(), Some(&mut ends)));
        let mut places: Vec<Place> = places.collect::<Result<_>>()?;
        for (shard, file) in self.segment.values.iter().enumerate() {
            let here = |place: &Place| usize::from(place.shard.0) == shard && is_small(place);
            let small = groups.iter().zip(&places).filter(|(_, place)| here(place));
            let len = small.map(|(group, _)| group.value.len()).sum();
            if let Some(open) = self.room_for_values(file, len)? {
                for place in places.iter_mut().filter(|place| here(place)) {
                    place.file = Some(Arc::clone(&open));
                }
            }
        }
        Ok(Places::Many(places))
    }

    /// Makes sure of memory for records. If the budget is used up, what this segment holds is written out first, and then
    /// what others hold.
    fn room_for_records(&self, len: usize) -> Result<()> {
        let file = &self.segment.keys;
        let Some(tail) = &file.tail else { unreachable!("a file that is written has a tail") };
        if tail.has_room(len) {
            return Ok(());
        }
        self.segment.write_out()?;
        for tail in self.segment.files().filter_map(|file| file.tail.as_ref()) {
            tail.release();
        }
        let made = tail.make_room_at_any_rate(len);
        made.map_err(|e| Error::io("buffer bytes for", file.handle.path(), e))
    }

    /// Makes sure of memory for small values of one file. If there is none, they are written directly, as large ones are:
    /// to the open file that is returned.
    fn room_for_values(&self, file: &GrowingFile, len: usize) -> Result<Option<Arc<OpenFile>>> {
        let Some(tail) = &file.tail else { unreachable!("a file that is written has a tail") };
        if tail.has_room(len) {
            return Ok(None);
        }
        let open = self.segment.writing(file)?;
        // Of this file alone: for the others room has been made.
        file.drain(&open)?;
        Ok(tail.make_room(len).is_err().then_some(open))
    }

    /// Makes sure of the space and of the memory for records up to `end`.
    fn reserve_key_bytes(&mut self, end: u64) -> Result<()> {
        self.reserve_keys(end)?;
        let len = (end - self.totals.key_end) as usize;
        self.room_for_records(len)?;
        self.scratch.clear();
        let reserved = self.scratch.try_reserve(len);
        reserved.map_err(|_| Error::out_of_memory("the records of a batch", len))
    }

    fn reserve_keys(&mut self, end: u64) -> Result<()> {
        if end > u64::from(u32::MAX) {
            return Err(too_long(end, u32::MAX.into()));
        }
        let file = &self.segment.keys;
        reserve(&self.segment, file, &mut self.key_reserved, self.totals.key_end, end)
    }

    fn reserve_values(&mut self, index: usize, end: u64) -> Result<()> {
        let (Some(file), Some(reserved)) =
            (self.segment.values.get(index), self.value_reserved.get_mut(index))
        else {
            unreachable!("a shard is one of the segment's value files")
        };
        let from = self.totals.value_ends.get(index).copied().unwrap_or(HEADER_LEN as u64);
        reserve(&self.segment, file, reserved, from, end)
    }
}

fn too_long(end: u64, most: u64) -> Error {
    let message = format!("a key file of {end} bytes; at most {most} are possible");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Where a value goes.
struct Place {
    shard: ShardId,
    /// The open file, of a value that is written directly.
    file: Option<Arc<OpenFile>>,
}

/// The places of the values of a batch.
enum Places {
    One(Place),
    Many(Vec<Place>),
}

impl Places {
    /// The place of group `n`; asked for once.
    fn take(&mut self, n: usize) -> Place {
        let place = match self {
            Self::One(place) => Some(place),
            Self::Many(places) => places.get_mut(n),
        };
        let Some(place) = place else { unreachable!("every group has its place") };
        Place { shard: place.shard, file: place.file.take() }
    }
}

/// Makes sure that the file has space up to `end`, in steps of a quarter of what is in it. If the disk has no room
/// for a step, it is asked for just what is needed.
fn reserve(
    segment: &Segment,
    file: &GrowingFile,
    reserved: &mut u64,
    used: u64,
    end: u64,
) -> Result<()> {
    if end <= *reserved {
        return Ok(());
    }
    let open = segment.writing(file)?;
    let from = (*reserved).max(used);
    let step = (end / 4).clamp(MIN_RESERVE, MAX_RESERVE);
    let target = end.saturating_add(step);
    let allocate = |target: u64| open.file.allocate(from, target.saturating_sub(from));
    let answer = match allocate(target) {
        Err(error) if is_full(&error) => allocate(end).map(|()| end),
        answer => answer.map(|()| target),
    };
    *reserved = answer.map_err(|e| Error::failed_reservation(file.handle.path(), e))?;
    Ok(())
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
