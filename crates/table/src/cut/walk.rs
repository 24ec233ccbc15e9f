//! Walking through a table's records from the newest to the oldest, until a filter says stop.
//!
//! Key files are scanned forward by the one scanner, a segment at a time, which checks every record; the offsets it met
//! are then gone through backward.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result, UnixMillis};
use lithdb_segment::record::{Flags, KeyRecord, decode_unchecked};
use lithdb_segment::scan::{KeySource, Scanner};
use lithdb_segment::{HEADER_LEN, Metadata, Position, SegmentId, TableName};
use serde::{Deserialize, Serialize};

use super::survey::{Survey, ToWalk};
use crate::batch::show_key;
use crate::keyfile::{KeyFile, read};

/// So many bytes are looked at at a time.
const WINDOW: u64 = 1 << 20;

/// What the filter says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This record stays, with its whole group and everything older. Nothing more is asked about the table.
    Keep,
    /// As [`Keep`](Self::Keep), said by a filter that knows an order, of heights for example: it is asked about everything
    /// that stays, too. A value of which it keeps no key there is [out of order](OutOfOrder).
    KeepAndCheck,
    /// This record goes, unless it is of the group that stays.
    Discard,
}

/// A key record, as a rollback's filter sees it.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    table: &'a TableName,
    key: &'a [u8],
    is_primary: bool,
    is_oldest: bool,
    stays: bool,
    position: Position,
    written_before: UnixMillis,
    len_bytes: u32,
}

impl RecordRef<'_> {
    /// The name of the table.
    pub fn table(&self) -> &str {
        self.table.as_str()
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.key
    }

    /// Whether the key is its value's own, not an alias.
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// Whether the table has no older record.
    pub fn is_oldest(&self) -> bool {
        self.is_oldest
    }

    /// Whether it stays in any case, because a newer record was kept; what is asked is only whether it is in order.
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// The segment that the record stands in.
    pub fn segment(&self) -> SegmentId {
        self.position.segment
    }

    /// Where the record stands; positions order all records of a table as they were put.
    pub fn position(&self) -> Position {
        self.position
    }

    /// A time before which the record was certainly put: when the first flush that covered it had returned. Files record no
    /// time for single records; what was never flushed before its segment was sealed has the time of the seal, and what
    /// no file has a time for, the time of planning.
    pub fn written_before(&self) -> UnixMillis {
        self.written_before
    }

    /// The length in bytes of the value, or of the part of it, that the key names.
    pub fn value_len(&self) -> u32 {
        self.len_bytes
    }
}

/// Where a table is cut: behind the group of the newest record that the filter keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The key that the filter kept.
    pub key: Vec<u8>,
    /// Where its record stands.
    pub position: Position,
    /// When it had certainly been put.
    pub written_before: UnixMillis,
    /// The offset of the last record of its group.
    pub(super) last: u32,
    /// The end of that record, with the value it carries.
    pub(super) end: u32,
    /// Whether no key record of the segment stands behind the group.
    pub(super) ends_segment: bool,
    /// How many key records of the table stand behind the group.
    pub(super) records_behind: u64,
}

impl Boundary {
    /// Whether no record of its segment goes: the segment stays whole.
    pub fn ends_segment(&self) -> bool {
        self.ends_segment
    }
}

/// What a cut takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Discarded {
    /// Key records, primary and secondary.
    pub records: u64,
    /// Values, that is primary records.
    pub values: u64,
    /// Bytes of these values.
    pub bytes: u64,
}

impl Discarded {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.values += other.values;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What stays although its filter would discard it, because it was put before something that is kept: of a chain that was
/// reorganized, the old blocks above the height to roll back to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutOfOrder {
    /// Values of which the filter keeps no key.
    pub values: u64,
    /// Primary keys of the newest of them, at most [`SHOWN`](Self::SHOWN).
    pub newest: Vec<(Vec<u8>, Position)>,
    /// The newest primary key that is older than all of them: a cut there leaves none.
    pub before: Option<(Vec<u8>, Position)>,
}

impl OutOfOrder {
    /// So many keys are named at the most.
    pub const SHOWN: usize = 5;

    /// The next older group.
    fn group(&mut self, primary: &RecordRef<'_>, is_kept: bool) {
        let named = || (primary.key.to_vec(), primary.position);
        if is_kept {
            if self.values > 0 {
                self.before.get_or_insert_with(named);
            }
            return;
        }
        self.values += 1;
        self.before = None;
        if self.newest.len() < Self::SHOWN {
            self.newest.push(named());
        }
    }
}

/// What came of a walk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// Where the table is cut; `None` if the filter kept nothing.
    pub boundary: Option<Boundary>,
    /// What stands behind that.
    pub discarded: Discarded,
    /// What of that which stays is out of order; `None` if the filter knows no order.
    pub out_of_order: Option<OutOfOrder>,
}

impl Survey {
    /// Asks `filter` for every record from the newest on, until it keeps one; if it knows an order, for all of them.
    ///
    /// # Errors
    /// What the filter says, or that it panicked. `Corrupt` if a record does not hold. `InvalidArgument` if the record that
    /// the filter keeps has been collected (its file is still there because the collection was interrupted): what was
    /// collected with it cannot be brought back.
    pub fn walk(
        &self,
        filter: &mut dyn FnMut(&RecordRef<'_>) -> Result<Verdict>,
    ) -> Result<Walked> {
        self.walk_all(filter).map_err(|e| self.setup.in_context(&e))
    }

    fn walk_all(
        &self,
        filter: &mut dyn FnMut(&RecordRef<'_>) -> Result<Verdict>,
    ) -> Result<Walked> {
        let mut walk = Walk {
            table: &self.setup.name,
            filter,
            walked: Walked::default(),
            older: self.records(),
        };
        // While one segment is walked through, the next one is scanned. What is wrong with one that is not needed does
        // not matter.
        let segments = self.segments();
        let mut scans = VecDeque::new();
        let mut ahead = segments.iter();
        for ToWalk { segment, records, .. } in &segments {
            while scans.len() < 2
                && let Some(next) = ahead.next()
            {
                scans.push_back(self.begin_scan(next));
            }
            #[expect(
                clippy::expect_used,
                reason = "one was begun for each segment, in their order"
            )]
            let scan = scans.pop_front().expect("a scan of this segment");
            let index = scan.recv().map_err(|_| panicked(segment.id()))??;
            if index.offsets.len() as u64 != *records {
                let found = format!("{} of them", index.offsets.len());
                let path = &segment.paths().keys;
                return Err(Error::corrupt(path, index.end, &format!("{records} records"), &found));
            }
            let read = |offset, len| segment.read_keys(offset, len);
            if walk.segment(segment.id(), &index, &read)?.is_break() {
                break;
            }
        }
        let walked = std::mem::take(&mut walk.walked);
        if walked.boundary.is_some() {
            return Ok(walked);
        }
        assert_eq!(walk.older, 0, "a record was not asked about");
        // Nobody counted what was collected.
        walk.older = u64::MAX;
        self.refuse_collected(&mut walk)?;
        Ok(walked)
    }

    /// Scans a segment on a thread of the pool, if it has any.
    fn begin_scan(&self, next: &ToWalk) -> Receiver<Result<Index>> {
        let (segment, end, written) = (Arc::clone(&next.segment), next.end, next.written);
        let (tell, hear) = channel();
        self.setup.env.pool.submit(move || {
            let scan = || Index::make(segment.scan(end.max(HEADER_LEN as u64))?, end, written);
            #[expect(
                clippy::let_underscore_must_use,
                reason = "nobody waits when the boundary was found in a newer segment"
            )]
            let _ = tell.send(scan());
        });
        hear
    }

    /// What was collected and still has files is looked at only to say that the boundary lies there. It need not hold: its
    /// removal has begun.
    fn refuse_collected(&self, walk: &mut Walk<'_>) -> Result<()> {
        for (id, files) in self.inventory.segments.range(..self.state.watermark).rev() {
            let Some(path) = &files.keys else { continue };
            let fs = &*self.setup.env.fs;
            let Some(file) = KeyFile::open_if_sound(fs, path)? else { continue };
            let metadata = files.metadata.as_ref().map(|path| Metadata::read(fs, path));
            let metadata = metadata.map(unless_corrupt).transpose()?.flatten();
            let now = self.setup.env.clock.now();
            let ends = |m: Metadata| (m.key_end, m.last_write.time());
            let (end, written) = metadata.map_or((file.len, now), ends);
            let index = Index::make(file.scan(end, None), end, written);
            let Some(index) = unless_corrupt(index)? else { continue };
            let read = |offset, len| read(&*file.file, &file.path, offset, len);
            walk.segment(*id, &index, &read).map(drop)?;
            if let Some(boundary) = &walk.walked.boundary {
                let (key, at) = (show_key(&boundary.key), boundary.position);
                let message = format!(
                    "the record to roll back to, {key} at {at}, has been collected: expected one in segment {} or newer",
                    self.state.watermark
                );
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(())
    }
}

fn unless_corrupt<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the records of a key file stand, and when they had been put.
struct Index {
    offsets: Vec<u32>,
    /// What stands before this offset was put before this time; both grow.
    times: Vec<(u32, UnixMillis)>,
    /// The time for what stands behind the last of these.
    written: UnixMillis,
    end: u64,
}

impl Index {
    fn make<S: KeySource>(scanner: Scanner<S>, end: u64, written: UnixMillis) -> Result<Self> {
        let mut scanner = scanner.with_times();
        let mut offsets = Vec::with_capacity(Survey::most_records(end).min(1 << 20));
        while let Some(offset) = scanner.next_entry()?.map(|entry| entry.offset) {
            offsets.push(offset);
        }
        scanner.require_clean()?;
        // Of two marks that promise the same, the first one was written when it was so.
        let mut times: Vec<(u32, UnixMillis)> = Vec::new();
        for &(through, time) in scanner.times() {
            if times.last().is_none_or(|(before, _)| *before < through) {
                times.push((through, time));
            }
        }
        Ok(Self { offsets, times, written, end })
    }

    #[expect(clippy::expect_used, reason = "the caller counts the offsets")]
    fn offset(&self, n: usize) -> u32 {
        *self.offsets.get(n).expect("a record of the segment")
    }

    /// Where the bytes that may belong to the `n`th record end.
    fn bound(&self, n: usize) -> u64 {
        self.offsets.get(n + 1).map_or(self.end, |next| u64::from(*next))
    }
}

/// Reads up to so many bytes at an offset of a key file.
type Read<'a> = &'a dyn Fn(u64, usize) -> Result<Bytes>;

struct Walk<'a> {
    table: &'a TableName,
    filter: &'a mut dyn FnMut(&RecordRef<'_>) -> Result<Verdict>,
    walked: Walked,
    /// Records of the table that were not asked about yet.
    older: u64,
}

impl Walk<'_> {
    /// Goes through one segment, backward. Breaks if nothing more is to be asked.
    fn segment(&mut self, id: SegmentId, index: &Index, read: Read<'_>) -> Result<ControlFlow<()>> {
        let mut window = Window { bytes: Bytes::new(), start: index.end };
        let mut times = index.times.as_slice();
        let mut written = index.written;
        // Of the group that is being walked through: what goes if it does, and whether the filter keeps any of it.
        let (mut group, mut is_kept) = (Discarded::default(), false);
        for (n, offset) in index.offsets.iter().enumerate().rev() {
            let bytes = window.at(u64::from(*offset), index.bound(n), read)?;
            let record = decode_unchecked(bytes).ok_or_else(|| changed(id, *offset))?;
            while let [earlier @ .., (through, time)] = times
                && through > offset
            {
                (times, written) = (earlier, *time);
            }
            self.older -= 1;
            let seen = RecordRef {
                table: self.table,
                key: record.key,
                is_primary: record.is_primary(),
                is_oldest: self.older == 0,
                stays: self.walked.boundary.is_some(),
                position: Position::new(id, *offset),
                written_before: written,
                len_bytes: record.stored_len,
            };
            let verdict = self.ask(&seen)?;
            is_kept |= verdict != Verdict::Discard;
            if is_kept && self.walked.boundary.is_none() {
                let (last, end) = group_end(id, index, n, read)?;
                self.walked.boundary = Some(Boundary {
                    key: record.key.to_vec(),
                    position: seen.position,
                    written_before: written,
                    last: index.offset(last),
                    end,
                    ends_segment: last + 1 == index.offsets.len(),
                    records_behind: self.walked.discarded.records,
                });
                if verdict == Verdict::Keep {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if self.walked.boundary.is_none() {
                group.add(weight(&record));
                if seen.is_primary {
                    self.walked.discarded.add(std::mem::take(&mut group));
                }
            } else if seen.is_primary {
                let is_kept = std::mem::take(&mut is_kept);
                self.walked.out_of_order.get_or_insert_default().group(&seen, is_kept);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A panic in the filter is an error; nothing has been changed.
    fn ask(&mut self, record: &RecordRef<'_>) -> Result<Verdict> {
        let answer = catch_unwind(AssertUnwindSafe(|| (self.filter)(record)));
        answer.unwrap_or_else(|_| {
            let (key, at) = (show_key(record.key), record.position);
            let message = format!("the filter panicked at {key}, {at}; nothing was changed");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        })
    }
}

fn weight(record: &KeyRecord<'_>) -> Discarded {
    let is_primary = record.is_primary();
    Discarded {
        records: 1,
        values: u64::from(is_primary),
        bytes: if is_primary { u64::from(record.stored_len) } else { 0 },
    }
}

/// The last record of the group that the `n`th belongs to: its number, and its end in bytes.
fn group_end(id: SegmentId, index: &Index, n: usize, read: Read<'_>) -> Result<(usize, u32)> {
    for (last, offset) in index.offsets.iter().enumerate().skip(n) {
        let len = index.bound(last).saturating_sub(u64::from(*offset));
        let bytes = read(u64::from(*offset), len as usize)?;
        let record = decode_unchecked(&bytes).ok_or_else(|| changed(id, *offset))?;
        if record.flags.has(Flags::END_OF_GROUP) {
            return Ok((last, offset.saturating_add(record.encoded_len() as u32)));
        }
    }
    Err(changed(id, index.offset(n)))
}

fn panicked(id: SegmentId) -> Error {
    Error::new(ErrorKind::Io, format!("scanning segment {id} panicked"))
}

fn changed(id: SegmentId, offset: u32) -> Error {
    let at = Position::new(id, offset);
    Error::new(ErrorKind::Io, format!("the record at {at}: two reads gave different bytes"))
}

/// The part of a key file that is being looked at, from its end to its beginning.
struct Window {
    bytes: Bytes,
    start: u64,
}

impl Window {
    /// The bytes from `offset` on, up to `bound` at least.
    fn at(&mut self, offset: u64, bound: u64, read: Read<'_>) -> Result<&[u8]> {
        if offset < self.start {
            self.start = bound.saturating_sub(WINDOW).max(HEADER_LEN as u64).min(offset);
            self.bytes = read(self.start, (bound - self.start) as usize)?;
        }
        // Nothing is there where the file was cut short meanwhile: then there is no record.
        Ok(self.bytes.get((offset - self.start) as usize..).unwrap_or_default())
    }
}
