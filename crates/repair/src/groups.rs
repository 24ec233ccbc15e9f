//! Finds the whole groups of a segment: all their records and value bytes are valid. Used by
//! `examine`.
//!
//! Damage before the durable end is a loss. After it, an incomplete batch was never acknowledged:
//! nothing of it is kept and nothing of it counts as lost.

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

/// Consecutive whole groups.
#[derive(Debug)]
pub(crate) struct Span {
    /// From the first record to the end of the last one, including its inline value.
    pub(crate) at: Range<u64>,
    /// The epoch of the records.
    pub(crate) epoch: u64,
}

/// A range of the key file that should hold whole groups and does not.
#[derive(Debug)]
pub(crate) struct DamagedRange {
    pub(crate) at: Range<u64>,
    pub(crate) reason: String,
    /// The valid records in it, which are lost with their group.
    pub(crate) losses: Losses,
}

/// The acknowledged values of one file that are corrupt, with their groups.
#[derive(Debug)]
pub(crate) struct CorruptValues {
    /// The offset of the first in its file.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) count: u64,
    /// What is wrong with the first.
    pub(crate) reason: String,
    pub(crate) losses: Losses,
}

/// What is whole in a segment, and what is not.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) spans: Vec<Span>,
    /// Key records of whole groups.
    pub(crate) records: u64,
    /// Whole groups.
    pub(crate) values: u64,
    /// Bytes of their values in value files.
    pub(crate) value_bytes: u64,
    /// The furthest end of their values, per value file.
    pub(crate) value_ends: Vec<u64>,
    pub(crate) damaged: Vec<DamagedRange>,
    /// By shard; [`ShardId::INLINE`] for the key file.
    pub(crate) bad: BTreeMap<ShardId, CorruptValues>,
    /// Key records of whole groups before the newest mark's end.
    pub(crate) records_before_mark: u64,
    /// The start of the first incomplete batch after the durable end.
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

/// How much of a key file is known to be durable: all of it if the segment is sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DurableBounds {
    /// The durable end: a record that begins before it was acknowledged.
    pub(crate) through: u64,
    /// The end that the newest mark covers, with a record count.
    pub(crate) marked: u64,
}

impl DurableBounds {
    pub(crate) const ALL: Self = Self { through: u64::MAX, marked: u64::MAX };
}

/// Examines the groups of a key file.
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
    group_scanner.drop_open_group("expected the rest of the group, found the end");
    group_scanner.drop_batch(walk.end);
    Ok(group_scanner.found)
}

struct GroupScanner<'a, 'm> {
    found: Groups,
    values: &'a mut ValueFiles,
    durable: DurableBounds,
    /// The start of the current batch.
    batch_start: u64,
    /// Part of the current batch is missing.
    is_batch_torn: bool,
    /// Its groups after the durable end: they count only if the batch is complete.
    batch: Vec<Group>,
    /// The group that is being read.
    open: Option<Group>,
    meter: &'a mut Meter<'m>,
}

/// A group, as far as it has been read.
struct Group {
    at: Range<u64>,
    epoch: u64,
    shard: ShardId,
    /// The range of the value in its file.
    value: Range<u64>,
    /// What is lost if the group is.
    losses: Losses,
    /// The first checksum mismatch: the value offset and the reason.
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
            // A batch consists of key records only.
            Ok(_) => {
                self.drop_open_group("expected the rest of the group");
                self.drop_batch(at.end);
            }
        }
        Ok(())
    }

    /// The group that is being read, if any, has no end: it is lost.
    fn drop_open_group(&mut self, reason: &str) {
        if let Some(open) = self.open.take() {
            self.add_damage(open.at, reason.to_owned(), open.losses);
        }
    }

    /// A range holds no whole group. Before the durable end, that is a loss.
    fn add_damage(&mut self, at: Range<u64>, reason: String, losses: Losses) {
        self.is_batch_torn = true;
        if at.start < self.durable.through {
            self.found.damaged.push(DamagedRange { at, reason, losses });
        } else {
            self.discard_bytes(at.end - at.start);
        }
    }

    /// Counts bytes of the current batch that are not kept.
    fn discard_bytes(&mut self, bytes: u64) {
        self.found.torn_batch.get_or_insert(self.batch_start.max(self.durable.through));
        self.found.torn_bytes += bytes;
    }

    /// The current batch ends here without an end flag: after the durable end, nothing of it is
    /// kept.
    fn drop_batch(&mut self, end: u64) {
        self.is_batch_torn |= !self.batch.is_empty();
        self.end_batch(end);
    }

    /// Ends the current batch: counts its groups if it is complete, discards them if it is torn.
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
            self.drop_open_group("expected a range inside the primary record's value");
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
