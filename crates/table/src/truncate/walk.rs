//! Walks through a table's records from the newest to the oldest, until a filter stops it. Changes
//! nothing.
//!
//! The one scanner reads key files forward, a segment at a time, and checks every record; the walk
//! then visits the offsets backward.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};
use lithdb_segment::record::{Flags, KEY_FIXED_LEN, decode_unchecked};
use lithdb_segment::{HEADER_LEN, Metadata, Position, SegmentId, TableName};

use super::outcome::{Boundary, Discarded, TruncatePoint, WalkOutcome};
use super::stopped_table::{StoppedTable, WalkSegment};
use crate::batch::show_key;
use lithdb_segment::key_file::KeyFile;

/// Records read at a time.
const READ_RECORDS: usize = 256;

/// The filter's decision about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep this record, its whole group and everything older. The walk ends here for this table.
    Keep,
    /// As [`Keep`](Self::Keep), but the filter knows an order (of block heights, for example): it
    /// is also called for everything that is kept. A value of which it then keeps no key is [out
    /// of order](OutOfOrder).
    KeepAndCheck,
    /// Discard this record, unless it belongs to the group that is kept.
    Discard,
}

/// A key record as the rollback filter sees it.
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

    /// Whether the key is the primary key of its value, not an alias.
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// Whether the table has no older record.
    pub fn is_oldest(&self) -> bool {
        self.is_oldest
    }

    /// Whether the record is kept in any case, because a newer one was kept; the filter then only
    /// decides whether it is in order.
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// The segment of the record.
    pub fn segment(&self) -> SegmentId {
        self.position.segment
    }

    /// The position of the record; positions order all records of a table as they were put.
    pub fn position(&self) -> Position {
        self.position
    }

    /// A time before which the record was certainly put: when the first flush that covered it had
    /// returned. Files store no time for single records: a record that was not flushed before its
    /// segment was sealed has the time of the seal, and one for which no file has a time, the time
    /// of planning.
    pub fn written_before(&self) -> UnixMillis {
        self.written_before
    }

    /// The length in bytes of the value, or of the part of it that the key names.
    pub fn value_len(&self) -> u32 {
        self.len_bytes
    }
}

/// The filter, called for every record from the newest on.
pub type Filter<'a> = dyn FnMut(&RecordRef<'_>) -> Result<Verdict> + 'a;

impl StoppedTable {
    /// Calls `filter` for every record from the newest on, until it keeps one; if it checks an
    /// order, for all of them.
    ///
    /// # Errors
    /// The filter's error, or that it panicked. `Corrupt` if a record is damaged.
    /// `InvalidArgument` if the record that the filter keeps has been collected (its file still
    /// exists because the collection was interrupted): what was collected with it cannot be
    /// restored.
    pub fn walk(&self, filter: &mut Filter<'_>) -> Result<WalkOutcome> {
        self.walk_all(filter).map_err(|e| self.setup.in_context(&e))
    }

    fn walk_all(&self, filter: &mut Filter<'_>) -> Result<WalkOutcome> {
        let walked = WalkOutcome::default();
        let mut walk = Walk { table: &self.setup.name, filter, walked, older: self.records() };
        // While the walk visits one segment, the pool scans the next. Defects in segments that are
        // not needed do not matter.
        let segments = self.segments();
        let mut ahead = segments.iter().map(|next| (next, self.begin_scan(next)));
        let mut scans = VecDeque::from_iter(ahead.next());
        while let Some((of, scan)) = scans.pop_front() {
            scans.extend(ahead.next());
            let index = scan.recv().map_err(|_| panicked(of.segment.id()))??;
            if index.offsets.len() as u64 != of.records {
                let found = format!("{} records", index.offsets.len());
                let (path, expected) =
                    (&of.segment.paths().keys, format!("{} records", of.records));
                return Err(Error::corrupt(path, of.end, &expected, &found));
            }
            if walk.segment(of, &index)?.is_break() {
                break;
            }
        }
        let walked = std::mem::take(&mut walk.walked);
        if walked.boundary.is_none() {
            assert_eq!(walk.older, 0, "the filter was not called for every record");
            // The number of collected records is unknown.
            walk.older = u64::MAX;
            self.refuse_collected(&mut walk)?;
        }
        Ok(walked)
    }

    /// Scans a segment on a thread of the pool, if it has any.
    fn begin_scan(&self, next: &WalkSegment) -> Receiver<Result<Index>> {
        let (next, (sender, receiver)) = (next.clone(), channel());
        self.setup.env.pool.submit(move || {
            #[expect(
                clippy::let_underscore_must_use,
                reason = "the receiver is gone when the boundary was found in a newer segment"
            )]
            let _ = sender.send(Index::make(&next));
        });
        receiver
    }

    /// Reads collected segments that still have files, only to report that the boundary is in one
    /// of them. They may be damaged: their removal has started.
    fn refuse_collected(&self, walk: &mut Walk<'_>) -> Result<()> {
        let fs = &*self.setup.env.fs;
        for (id, files) in self.inventory.segments.range(..self.state.watermark).rev() {
            let Some(path) = &files.keys else { continue };
            let Some(file) = KeyFile::open_if_valid(fs, path)? else { continue };
            if file.header.identity.segment != *id {
                continue;
            }
            let metadata = files.metadata.as_ref().map(|path| Metadata::read(fs, path));
            let metadata = metadata.map(unless_corrupt).transpose()?.flatten();
            let now = self.setup.env.clock.now();
            let ends = |m: Metadata| (m.key_end, m.sealed_at.time());
            let (end, written) = metadata.map_or((file.len, now), ends);
            let of = self.collected(&file, end.min(file.len), written);
            let Some(index) = unless_corrupt(Index::make(&of))? else { continue };
            walk.segment(&of, &index).map(drop)?;
            if let Some(TruncatePoint { boundary, .. }) = &walk.walked.boundary {
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

/// The offsets of the records of a key file, and times by which they had been put.
struct Index {
    offsets: Vec<u32>,
    /// The records before this offset were put before this time; both increase.
    times: Vec<(u32, UnixMillis)>,
}

impl Index {
    fn make(of: &WalkSegment) -> Result<Self> {
        let mut scanner = of.segment.scan(of.end.max(HEADER_LEN as u64))?.with_mark_times();
        let mut offsets = Vec::with_capacity((of.end as usize / KEY_FIXED_LEN).min(1 << 20));
        scanner.run(|entry| {
            offsets.push(entry.offset);
            Ok(())
        })?;
        scanner.require_clean()?;
        // Of two marks with the same `through`, the first has the time of the flush.
        let mut times: Vec<(u32, UnixMillis)> = Vec::new();
        for &(through, time) in scanner.mark_times() {
            if times.last().is_none_or(|(before, _)| *before < through) {
                times.push((through, time));
            }
        }
        Ok(Self { offsets, times })
    }
}

struct Walk<'a> {
    table: &'a TableName,
    filter: &'a mut Filter<'a>,
    walked: WalkOutcome,
    /// Records of the table that the filter has not seen yet.
    older: u64,
}

impl Walk<'_> {
    /// Visits one segment backward. Breaks when the walk is complete.
    fn segment(&mut self, of: &WalkSegment, index: &Index) -> Result<ControlFlow<()>> {
        let id = of.segment.id();
        let (mut times, mut written) = (index.times.as_slice(), of.written);
        // Of the group being visited: what is discarded if the group is, whether the filter keeps
        // any of it, and where its last record begins and ends.
        let (mut group, mut is_kept, mut last) = (Discarded::default(), false, (0, 0));
        let mut end = of.end;
        for offsets in index.offsets.rchunks(READ_RECORDS) {
            let start = offsets.first().copied().map_or(end, u64::from);
            let bytes = of.segment.read_keys(start, (end - start) as usize)?;
            end = start;
            for offset in offsets.iter().rev() {
                let record = bytes.get((u64::from(*offset) - start) as usize..);
                let record =
                    record.and_then(decode_unchecked).ok_or_else(|| changed(id, *offset))?;
                while let [earlier @ .., (through, time)] = times
                    && through > offset
                {
                    (times, written) = (earlier, *time);
                }
                if record.flags.has(Flags::END_OF_GROUP) {
                    last = (*offset, offset.saturating_add(record.encoded_len() as u32));
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
                let verdict = self.call_filter(&seen)?;
                is_kept |= verdict != Verdict::Discard;
                if is_kept && self.walked.boundary.is_none() {
                    self.walked.boundary = Some(TruncatePoint {
                        boundary: Boundary {
                            key: record.key.to_vec(),
                            position: seen.position,
                            written_before: written,
                        },
                        last: last.0,
                        end: last.1,
                        ends_segment: index.offsets.last() == Some(&last.0),
                        records_after: self.walked.discarded.records,
                    });
                    if verdict == Verdict::Keep {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if self.walked.boundary.is_none() {
                    group.count(seen.is_primary, seen.len_bytes);
                    if seen.is_primary {
                        self.walked.discarded.add(std::mem::take(&mut group));
                    }
                } else if seen.is_primary {
                    let out_of_order = self.walked.out_of_order.get_or_insert_default();
                    out_of_order.group(seen.key, seen.position, std::mem::take(&mut is_kept));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A panic in the filter is an error; nothing has been changed.
    fn call_filter(&mut self, record: &RecordRef<'_>) -> Result<Verdict> {
        let answer = catch_unwind(AssertUnwindSafe(|| (self.filter)(record)));
        answer.unwrap_or_else(|_| {
            let (key, at) = (show_key(record.key), record.position);
            let message = format!("the filter panicked at {key}, {at}; nothing was changed");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        })
    }
}

fn panicked(id: SegmentId) -> Error {
    Error::new(ErrorKind::Io, format!("scanning segment {id} panicked"))
}

fn changed(id: SegmentId, offset: u32) -> Error {
    let at = Position::new(id, offset);
    Error::new(ErrorKind::Io, format!("the record at {at}: two reads gave different bytes"))
}
