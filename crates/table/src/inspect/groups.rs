//! Which groups of a segment are whole: their records hold, and the value bytes they name do, too.

use std::collections::BTreeMap;

use lithdb_env::Result;
use lithdb_segment::record::{Flags, KeyRecord, Record};
use lithdb_segment::{HEADER_LEN, ShardId};

use super::Meter;
use super::losses::Losses;
use super::values::ValueFiles;
use super::walk::{Step, Walk};
use crate::window::Window;

/// Whole groups that stand behind each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset of the first record.
    pub(super) start: u32,
    /// Where the last one ends, with the value it may carry.
    pub(super) end: u32,
    /// The epoch of the records.
    pub(super) epoch: u64,
}

/// A stretch of the key file that holds no whole group, though it should.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) reason: String,
    /// The records in it that hold, and are lost with their group.
    pub(super) losses: Losses,
}

/// Values of one file that do not hold, with their groups.
#[derive(Debug, Clone)]
pub(super) struct BadValues {
    /// Offset in the value file of the first.
    pub(super) offset: u64,
    /// How many.
    pub(super) count: u64,
    /// What is wrong with the first.
    pub(super) reason: String,
    pub(super) losses: Losses,
}

/// What a segment's key file is worth.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    pub(super) spans: Vec<Span>,
    /// Key records of whole groups.
    pub(super) records: u64,
    /// Whole groups.
    pub(super) values: u64,
    /// Bytes of their values outside of the key file.
    pub(super) value_bytes: u64,
    /// The furthest ends of their values, per value file.
    pub(super) value_ends: Vec<u64>,
    pub(super) broken: Vec<Broken>,
    /// By shard; [`ShardId::INLINE`] for the key file.
    pub(super) bad: BTreeMap<ShardId, BadValues>,
    /// Key records of whole groups before the newest mark's end.
    pub(super) records_marked: u64,
    /// Some bad value was promised.
    pub(super) is_promise_broken: bool,
    /// The start of the first batch behind the promise that is not whole. It was never acknowledged, so nothing of it is
    /// kept, and nothing of it counts as lost.
    pub(super) torn_batch: Option<u64>,
    /// Bytes of the key file in such batches.
    pub(super) torn_bytes: u64,
}

impl Groups {
    /// Whether every group is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.broken.is_empty() && self.bad.is_empty()
    }
}

/// How much of an unsealed key file is known to be durable; of a sealed one, all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promised {
    /// What begins before was acknowledged.
    pub(super) through: u64,
    /// So much is before the newest mark, which says how many records it holds.
    pub(super) marked: u64,
}

impl Promised {
    pub(super) const ALL: Self = Self { through: u64::MAX, marked: u64::MAX };
}

/// Goes through the groups of a key file.
pub(super) fn examine_groups(
    walk: &Walk<'_>,
    keys: &mut Window,
    values: &mut ValueFiles,
    promised: Promised,
    meter: &mut Meter<'_>,
) -> Result<Groups> {
    let value_ends = vec![HEADER_LEN as u64; values.files.len()];
    let found = Groups { value_ends, ..Groups::default() };
    let mut sorting = Sorting {
        found,
        values,
        promised,
        batch_start: HEADER_LEN as u64,
        is_batch_torn: false,
        batch: Vec::new(),
        open: None,
        meter,
    };
    walk.run(keys, &mut |step| sorting.take(step))?;
    sorting.break_open(walk.end, "the end comes before the group's");
    sorting.tear_batch(walk.end);
    Ok(sorting.found)
}

struct Sorting<'a, 'm> {
    found: Groups,
    values: &'a mut ValueFiles,
    promised: Promised,
    /// Where the batch of the present record began.
    batch_start: u64,
    /// Something of the present batch is missing.
    is_batch_torn: bool,
    /// Its groups behind the promise: they count when the batch has ended whole.
    batch: Vec<Whole>,
    open: Option<Open>,
    meter: &'a mut Meter<'m>,
}

/// A group that has begun.
struct Open {
    start: u64,
    epoch: u64,
    shard: ShardId,
    range: std::ops::Range<u64>,
    /// What it would be if it were lost.
    losses: Losses,
    /// The first of its checksums that does not hold.
    bad: Option<(u64, String)>,
}

/// A group that is whole.
struct Whole {
    at: Span,
    shard: ShardId,
    value_end: u64,
    keys: u64,
    bytes: u64,
}

impl Sorting<'_, '_> {
    fn take(&mut self, step: Step<'_>) -> Result<()> {
        match step {
            Step::Damage { start, end, reason } => {
                self.meter.add(end - start);
                let start = self.open.as_ref().map_or(start, |open| open.start);
                let losses = self.open.take().map(|open| open.losses).unwrap_or_default();
                self.break_up(Broken { start, end, reason, losses });
                Ok(())
            }
            Step::Record { offset, epoch, decoded, bytes } => {
                let start = u64::from(offset);
                let end = start + bytes.len() as u64;
                self.meter.add(bytes.len() as u64);
                match &decoded.record {
                    Record::Key(record) => self.key(record, start..end, epoch),
                    _ => {
                        self.break_open(start, "expected the rest of the group");
                        // Within a batch there is nothing but key records.
                        self.tear_batch(start);
                        self.begin_batch(end);
                        Ok(())
                    }
                }
            }
        }
    }

    /// The group that has begun, if there is one, does not end: it is lost.
    fn break_open(&mut self, end: u64, reason: &str) {
        let Some(open) = self.open.take() else { return };
        let (start, reason) = (open.start, reason.to_owned());
        self.break_up(Broken { start, end, reason, losses: open.losses });
    }

    /// A stretch holds no whole group. That is a loss only of what was promised.
    fn break_up(&mut self, broken: Broken) {
        if broken.start < self.promised.through {
            self.is_batch_torn = true;
            self.found.broken.push(broken);
            return;
        }
        self.found.torn_batch.get_or_insert(self.batch_start.max(self.promised.through));
        self.found.torn_bytes += broken.end - broken.start;
        self.is_batch_torn = true;
    }

    /// The present batch ends here, and not as a batch ends: behind the promise nothing of it is kept.
    fn tear_batch(&mut self, end: u64) {
        self.is_batch_torn |= !self.batch.is_empty();
        self.end_batch(end);
    }

    /// The present batch is over.
    fn end_batch(&mut self, end: u64) {
        let batch = std::mem::take(&mut self.batch);
        if self.is_batch_torn && !batch.is_empty() {
            self.found.torn_batch.get_or_insert(self.batch_start.max(self.promised.through));
            let bytes = |group: &Whole| u64::from(group.at.end - group.at.start);
            self.found.torn_bytes += batch.iter().map(bytes).sum::<u64>();
        } else {
            batch.iter().for_each(|group| self.count(group));
        }
        self.begin_batch(end);
    }

    fn begin_batch(&mut self, start: u64) {
        (self.batch_start, self.is_batch_torn) = (start, false);
    }

    fn key(&mut self, record: &KeyRecord<'_>, at: std::ops::Range<u64>, epoch: u64) -> Result<()> {
        let value = record.offset..record.offset.saturating_add(u64::from(record.stored_len));
        if record.is_primary() {
            self.break_open(at.start, "expected the rest of the group");
            let shard = record.shard;
            self.open = Some(Open {
                start: at.start,
                epoch,
                shard,
                range: value.clone(),
                losses: Losses::default(),
                bad: None,
            });
        }
        let Some(open) = &mut self.open else {
            self.orphan(record, &at);
            if record.flags.has(Flags::END_OF_BATCH) {
                self.end_batch(at.end);
            }
            return Ok(());
        };
        let primary_bytes = record.is_primary().then_some(record.stored_len);
        open.losses.add_record(record.key, primary_bytes);
        let is_inside = record.shard == open.shard
            && open.range.start <= value.start
            && value.end <= open.range.end;
        if !is_inside {
            self.break_open(at.end, "expected a range inside of the primary record's value");
            if record.flags.has(Flags::END_OF_BATCH) {
                self.end_batch(at.end);
            }
            return Ok(());
        }
        if open.bad.is_none() {
            let wrong = self.values.check(
                record.shard,
                record.offset,
                record.stored_len,
                record.value_checksum,
            )?;
            open.bad = wrong.map(|wrong| (record.offset, wrong));
        }
        if record.is_primary() && record.shard != ShardId::INLINE {
            self.meter.add(u64::from(record.stored_len));
        }
        if record.flags.has(Flags::END_OF_GROUP) {
            self.close_group(at.end);
        }
        if record.flags.has(Flags::END_OF_BATCH) {
            self.end_batch(at.end);
        }
        Ok(())
    }

    /// An alias whose primary record is damaged.
    fn orphan(&mut self, record: &KeyRecord<'_>, at: &std::ops::Range<u64>) {
        let reason = "expected a primary record before it";
        match self.found.broken.last_mut() {
            Some(last) if last.end == at.start && at.start < self.promised.through => {
                last.end = at.end;
                last.losses.add_record(record.key, None);
            }
            _ => {
                let mut losses = Losses::default();
                losses.add_record(record.key, None);
                let (start, end) = (at.start, at.end);
                self.break_up(Broken { start, end, reason: reason.to_owned(), losses });
            }
        }
    }

    fn close_group(&mut self, end: u64) {
        let Some(open) = self.open.take() else { return };
        let is_promised = open.start < self.promised.through;
        if let Some((_, reason)) = open.bad.as_ref().filter(|_| !is_promised) {
            let (start, reason) = (open.start, reason.clone());
            self.break_up(Broken { start, end, reason, losses: open.losses });
            return;
        }
        if let Some((offset, reason)) = open.bad {
            self.found.is_promise_broken = true;
            let bad = self.found.bad.entry(open.shard).or_insert_with(|| BadValues {
                offset,
                count: 0,
                reason,
                losses: Losses::default(),
            });
            bad.count += 1;
            bad.losses.add(&open.losses);
            bad.losses.add_range(open.start..end);
            return;
        }
        let group = Whole {
            at: Span { start: open.start as u32, end: end as u32, epoch: open.epoch },
            shard: open.shard,
            value_end: open.range.end,
            keys: open.losses.keys,
            bytes: open.losses.bytes,
        };
        if is_promised {
            self.count(&group);
        } else {
            self.batch.push(group);
        }
    }

    fn count(&mut self, group: &Whole) {
        let found = &mut self.found;
        found.values += 1;
        found.records += group.keys;
        if u64::from(group.at.start) < self.promised.marked {
            found.records_marked += group.keys;
        }
        if let Some(value_end) = found.value_ends.get_mut(usize::from(group.shard.0)) {
            *value_end = (*value_end).max(group.value_end);
            found.value_bytes += group.bytes;
        }
        let Span { start, end, epoch } = group.at;
        match found.spans.last_mut() {
            Some(last) if last.end == start && last.epoch == epoch => last.end = end,
            _ => found.spans.push(group.at),
        }
    }
}
