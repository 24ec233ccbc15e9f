//! Which groups of a segment are whole: their records hold, and the value bytes they name do, too.

use std::collections::BTreeMap;
use std::ops::Range;

use lithdb_env::Result;
use lithdb_segment::record::{Decoded, Flags, KeyRecord, Record};
use lithdb_segment::{HEADER_LEN, ShardId};

use crate::Meter;
use crate::losses::Losses;
use crate::values::ValueFiles;
use crate::walk::{Walk, WalkItem};
use lithdb_segment::window::Window;

/// Whole groups that stand behind each other.
#[derive(Debug)]
pub(crate) struct Span {
    /// From the first record to where the last one ends, with the value it may carry.
    pub(crate) at: Range<u64>,
    /// The epoch of the records.
    pub(crate) epoch: u64,
}

/// A stretch of the key file that holds no whole group, though it should.
#[derive(Debug)]
pub(crate) struct DamagedRange {
    pub(crate) at: Range<u64>,
    pub(crate) reason: String,
    /// The records in it that hold, and are lost with their group.
    pub(crate) losses: Losses,
}

/// Values of one file that were promised and do not hold, with their groups.
#[derive(Debug)]
pub(crate) struct CorruptValues {
    /// Offset in the value file of the first.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) count: u64,
    /// What is wrong with the first.
    pub(crate) reason: String,
    pub(crate) losses: Losses,
}

/// What a segment's key file is worth.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) spans: Vec<Span>,
    /// Key records of whole groups.
    pub(crate) records: u64,
    /// Whole groups.
    pub(crate) values: u64,
    /// Bytes of their values outside of the key file.
    pub(crate) value_bytes: u64,
    /// The furthest ends of their values, per value file.
    pub(crate) value_ends: Vec<u64>,
    pub(crate) damaged: Vec<DamagedRange>,
    /// By shard; [`ShardId::INLINE`] for the key file.
    pub(crate) bad: BTreeMap<ShardId, CorruptValues>,
    /// Key records of whole groups before the newest mark's end.
    pub(crate) records_before_mark: u64,
    /// The start of the first batch behind the promise that is not whole. It was never acknowledged, so nothing of it is
    /// kept, and nothing of it counts as lost.
    pub(crate) torn_batch: Option<u64>,
    /// Bytes of the key file in such batches.
    pub(crate) torn_bytes: u64,
}

impl Groups {
    /// Whether every group is whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.bad.is_empty()
    }
}

/// How much of an unsealed key file is known to be durable; of a sealed one, all of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DurableBounds {
    /// What begins before was acknowledged.
    pub(crate) through: u64,
    /// So much is before the newest mark, which says how many records it holds.
    pub(crate) marked: u64,
}

impl DurableBounds {
    pub(crate) const ALL: Self = Self { through: u64::MAX, marked: u64::MAX };
}

/// Goes through the groups of a key file.
pub(crate) fn examine_groups(
    walk: &Walk<'_>,
    keys: &mut Window,
    values: &mut ValueFiles,
    durable: DurableBounds,
    meter: &mut Meter<'_>,
) -> Result<Groups> {
    let value_ends = vec![HEADER_LEN as u64; values.files.len()];
    let mut group_scanner = GroupScanner {
        found: Groups { value_ends, ..Groups::default() },
        values,
        durable,
        batch_start: HEADER_LEN as u64,
        is_batch_torn: false,
        batch: Vec::new(),
        open: None,
        meter,
    };
    walk.run(keys, &mut |item| group_scanner.take(item))?;
    group_scanner.drop_open_group("the end comes before the group's");
    group_scanner.drop_batch(walk.end);
    Ok(group_scanner.found)
}

struct GroupScanner<'a, 'm> {
    found: Groups,
    values: &'a mut ValueFiles,
    durable: DurableBounds,
    /// Where the batch of the present record began.
    batch_start: u64,
    /// Something of the present batch is missing.
    is_batch_torn: bool,
    /// Its groups behind the promise: they count when the batch has ended whole.
    batch: Vec<Group>,
    /// The group that has begun.
    open: Option<Group>,
    meter: &'a mut Meter<'m>,
}

/// A group, as far as it was read.
struct Group {
    at: Range<u64>,
    epoch: u64,
    shard: ShardId,
    /// Where in its file the value stands.
    value: Range<u64>,
    /// What it would be if it were lost.
    losses: Losses,
    /// The first of its checksums that does not hold.
    bad: Option<(u64, String)>,
}

impl GroupScanner<'_, '_> {
    fn take(&mut self, WalkItem { mut at, epoch, decoded }: WalkItem<'_>) -> Result<()> {
        self.meter.add(at.end - at.start);
        match decoded {
            Err(invalid) => {
                let mut losses = Losses::default();
                if let Some(open) = self.open.take() {
                    (at.start, losses) = (open.at.start, open.losses);
                }
                self.add_damage(at, invalid.to_string(), losses);
            }
            Ok(Decoded { record: Record::Key(record), .. }) => {
                self.key(&record, &at, epoch)?;
                if record.flags.has(Flags::END_OF_BATCH) {
                    self.end_batch(at.end);
                }
            }
            // Within a batch there is nothing but key records.
            Ok(_) => {
                self.drop_open_group("expected the rest of the group");
                self.drop_batch(at.end);
            }
        }
        Ok(())
    }

    /// The group that has begun, if there is one, does not end: it is lost.
    fn drop_open_group(&mut self, reason: &str) {
        if let Some(open) = self.open.take() {
            self.add_damage(open.at, reason.to_owned(), open.losses);
        }
    }

    /// A stretch holds no whole group. That is a loss only of what was promised.
    fn add_damage(&mut self, at: Range<u64>, reason: String, losses: Losses) {
        self.is_batch_torn = true;
        if at.start < self.durable.through {
            self.found.damaged.push(DamagedRange { at, reason, losses });
        } else {
            self.discard_bytes(at.end - at.start);
        }
    }

    /// So many bytes of the present batch are not kept.
    fn discard_bytes(&mut self, bytes: u64) {
        self.found.torn_batch.get_or_insert(self.batch_start.max(self.durable.through));
        self.found.torn_bytes += bytes;
    }

    /// The present batch ends here, and not as a batch ends: behind the promise nothing of it is kept.
    fn drop_batch(&mut self, end: u64) {
        self.is_batch_torn |= !self.batch.is_empty();
        self.end_batch(end);
    }

    /// The present batch is over.
    fn end_batch(&mut self, end: u64) {
        let batch = std::mem::take(&mut self.batch);
        if std::mem::take(&mut self.is_batch_torn) && !batch.is_empty() {
            self.discard_bytes(batch.iter().map(|group| group.at.end - group.at.start).sum());
        } else {
            batch.iter().for_each(|group| self.count(group));
        }
        self.batch_start = end;
    }

    fn key(&mut self, record: &KeyRecord<'_>, at: &Range<u64>, epoch: u64) -> Result<()> {
        let (shard, is_primary) = (record.shard, record.is_primary());
        let value = record.offset..record.offset.saturating_add(u64::from(record.stored_len));
        if is_primary {
            self.drop_open_group("expected the rest of the group");
            let (at, value, losses) = (at.clone(), value.clone(), Losses::default());
            self.open = Some(Group { at, epoch, shard, value, losses, bad: None });
        }
        let Some(open) = &mut self.open else {
            self.alias_without_primary(record, at);
            return Ok(());
        };
        open.at.end = at.end;
        open.losses.add_record(record.key, is_primary.then_some(record.stored_len));
        let is_inside =
            shard == open.shard && open.value.start <= value.start && value.end <= open.value.end;
        if !is_inside {
            self.drop_open_group("expected a range inside of the primary record's value");
            return Ok(());
        }
        if open.bad.is_none() {
            open.bad = self.values.check(record)?.map(|wrong| (record.offset, wrong));
        }
        if is_primary && shard != ShardId::INLINE {
            self.meter.add(u64::from(record.stored_len));
        }
        if record.flags.has(Flags::END_OF_GROUP) {
            self.close_group();
        }
        Ok(())
    }

    /// An alias whose primary record is damaged.
    fn alias_without_primary(&mut self, record: &KeyRecord<'_>, at: &Range<u64>) {
        match self.found.damaged.last_mut() {
            Some(last) if last.at.end == at.start && at.start < self.durable.through => {
                last.at.end = at.end;
                last.losses.add_record(record.key, None);
            }
            _ => {
                let mut losses = Losses::default();
                losses.add_record(record.key, None);
                self.add_damage(
                    at.clone(),
                    "expected a primary record before it".to_owned(),
                    losses,
                );
            }
        }
    }

    fn close_group(&mut self) {
        let Some(group) = self.open.take() else { return };
        let is_durable = group.at.start < self.durable.through;
        match group.bad {
            Some((offset, reason)) if is_durable => {
                let new = || CorruptValues { offset, count: 0, reason, losses: Losses::default() };
                let bad = self.found.bad.entry(group.shard).or_insert_with(new);
                bad.count += 1;
                bad.losses.add(&group.losses);
                bad.losses.add_range(group.at);
            }
            Some((_, reason)) => self.add_damage(group.at, reason, group.losses),
            None if is_durable => self.count(&group),
            None => self.batch.push(group),
        }
    }

    fn count(&mut self, group: &Group) {
        let found = &mut self.found;
        found.values += 1;
        found.records += group.losses.keys;
        if group.at.start < self.durable.marked {
            found.records_before_mark += group.losses.keys;
        }
        if let Some(value_end) = found.value_ends.get_mut(usize::from(group.shard.0)) {
            *value_end = (*value_end).max(group.value.end);
            found.value_bytes += group.losses.bytes;
        }
        match found.spans.last_mut() {
            Some(last) if last.at.end == group.at.start && last.epoch == group.epoch => {
                last.at.end = group.at.end;
            }
            _ => found.spans.push(Span { at: group.at.clone(), epoch: group.epoch }),
        }
    }
}
