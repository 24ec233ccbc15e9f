//! put: from the caller's bytes to the log and the keymap.
//!
//! Checks and checksums come first, without a lock. Under the writer lock the batch gets its
//! place: records and small values go to the write buffers. Large values are written to their
//! places after the lock is released. Then the keys are published, and the call returns: every
//! thread sees them.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_keymap::KeyHash;
use lithdb_segment::{Appended, Group, Position, SegmentWriter};

use crate::batch::{Batch, SecondaryKey, check_group, show_key};
use crate::options::DuplicateKeys;
use crate::read::source::ReadSource;
use crate::segments::same_key;
use crate::table::Table;
use crate::write::writer::{Log, Writer};

/// Batches of at least this many keys are published together.
const BATCH_PUBLISH_MIN_KEYS: usize = 4096;

impl Table {
    /// Stores `value` under `key`: see `lithdb::Table::put`.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Position> {
        self.put_with(key, value, &[])
    }

    /// Stores `value` under `key` and secondary keys, as one group.
    pub fn put_with(
        &self,
        key: &[u8],
        value: &[u8],
        secondary: &[SecondaryKey<'_>],
    ) -> Result<Position> {
        let writer = self.enter_write()?;
        let aliases = check_group(key, value, secondary.iter().map(SecondaryKey::parts));
        let aliases = aliases.map_err(|e| writer.shared.in_context(&e))?;
        let checksum = crc32c::crc32c(value);
        writer.write(&[Group { key, value, checksum, aliases: &aliases }])
    }

    /// Stores `batch` whole or not at all. Returns the position of the last value's record, or the
    /// end of the log if the batch is empty.
    pub fn put_batch(&self, batch: &Batch) -> Result<Position> {
        let writer = self.enter_write()?;
        if batch.is_empty() {
            return Ok(writer.log.lock().end());
        }
        let written = batch.with_groups(|groups| writer.write(groups));
        written.map_err(|e| writer.shared.in_context(&e))
    }
}

impl Writer {
    fn write(self: &Arc<Self>, groups: &[Group<'_>]) -> Result<Position> {
        let bytes = groups.iter().map(|group| group.value.len() as u64).sum();
        self.write_placed(groups, |log| {
            // The time of the first epoch after the open: earlier records are older than that.
            let now = log.opened;
            let segment = self.ensure_room(log, groups, bytes)?;
            Ok((segment.append(groups, now).map_err(|e| self.shared.fail(&e))?, bytes))
        })
    }

    /// Writes `groups`: `place` appends them to the log and returns the bytes of their values.
    pub(super) fn write_placed(
        &self,
        groups: &[Group<'_>],
        place: impl FnOnce(&mut Log) -> Result<(Appended, u64)>,
    ) -> Result<Position> {
        let shared = &self.shared;
        let rejects = shared.options.duplicate_keys == DuplicateKeys::Reject;
        let mut log = self.log.lock();
        self.check_accepting_writes()?;
        shared.check_latch()?;
        if rejects {
            self.refuse_duplicates(groups)?;
        }
        // Until `in_flight` tracks the put, a panic latches the table here.
        let taken = || {
            let (appended, bytes) = place(&mut log)?;
            let Some(segment_writer) = &log.segment else {
                unreachable!("what was appended is in a segment")
            };
            let segment = Arc::clone(segment_writer.segment());
            self.live.set_counts(segment_writer.totals());
            let aliases = groups.last().map_or(0, |group| group.aliases.len());
            let positions = &appended.positions;
            let (Some(&first), Some(&last_primary)) =
                (positions.first(), positions.iter().rev().nth(aliases))
            else {
                unreachable!("every group has a key, and every key a position")
            };
            log.begun.get_or_insert_with(|| (shared.env().clock.monotonic(), Duration::ZERO));
            log.newest = last_primary;
            let in_flight_put =
                self.in_flight.begin(first, !appended.direct.is_empty(), &shared.latch);
            Ok((appended, bytes, segment, last_primary, in_flight_put))
        };
        let (appended, bytes, segment, last_primary, mut in_flight_put) =
            shared.latch_on_panic("a put", taken)?;
        // If duplicates are refused, the next writer must find these keys.
        let held = rejects.then_some(log);
        for place in &appended.direct {
            #[expect(clippy::indexing_slicing, reason = "it is a group of this batch")]
            let value = groups[place.group].value;
            // If this fails, the log ends before the record: its value is not in the file.
            segment.write_direct(place, value).map_err(|e| shared.fail(&e))?;
        }
        self.publish(&appended.positions, groups)?;
        drop(held);
        in_flight_put.values_written();
        segment.write_full_chunks().map_err(|e| shared.fail(&e))?;
        drop(in_flight_put);
        shared.counters.values_put.increment(groups.len() as u64);
        shared.counters.bytes_put.increment(bytes);
        Ok(last_primary)
    }

    fn publish(&self, positions: &[Position], groups: &[Group<'_>]) -> Result<()> {
        let keys = keys_of(groups).zip(positions);
        let hashed = keys.map(|(key, at)| (KeyHash::of(self.shared.hash_seed, key), *at, key));
        let (count, mut together) = (positions.len(), Vec::new());
        // Without the memory, they are published one by one.
        if count >= BATCH_PUBLISH_MIN_KEYS && together.try_reserve_exact(count).is_ok() {
            together.extend(hashed.map(|(hash, at, _)| (hash, at)));
            #[expect(clippy::disallowed_methods, reason = "an error is no match, as in `has_key`")]
            let mut same_key = |new, old| {
                // The older record may be in a segment that has just begun.
                Ok(same_key(&self.live.segments(), new, old).unwrap_or_default())
            };
            return self.live.keymap.insert_batch(&together, &mut same_key);
        }
        for (hash, at, key) in hashed {
            self.live.keymap.insert(hash, at, &mut |old| Ok(self.live.has_key(old, key)))?;
        }
        Ok(())
    }

    fn refuse_duplicates(&self, groups: &[Group<'_>]) -> Result<()> {
        let mut batch_keys = std::collections::HashSet::new();
        let find =
            |key| ReadSource::live(&self.live).find(KeyHash::of(self.shared.hash_seed, key), key);
        for key in keys_of(groups) {
            if !batch_keys.insert(key) || find(key)?.is_some() {
                let (name, key) = (self.shared.name(), show_key(key));
                let message = format!("table {name}: key {key} already exists");
                return Err(Error::new(ErrorKind::DuplicateKey, message));
            }
        }
        Ok(())
    }

    /// Makes sure that there is a mutable segment with room for the batch and its `value_bytes`.
    pub(super) fn ensure_room<'a>(
        self: &Arc<Self>,
        log: &'a mut Log,
        groups: &[Group<'_>],
        value_bytes: u64,
    ) -> Result<&'a mut SegmentWriter> {
        let made = match &log.segment {
            None => self.create_first_segment(log),
            Some(segment) if self.is_full(segment, groups, value_bytes) => self.roll_over(log),
            Some(_) => Ok(()),
        };
        made.map_err(|e| self.shared.fail(&e))?;
        #[expect(clippy::expect_used, reason = "it was made, or is there")]
        Ok(log.segment.as_mut().expect("a mutable segment"))
    }

    /// Whether a segment that has records has no room for the batch.
    fn is_full(&self, segment: &SegmentWriter, groups: &[Group<'_>], value_bytes: u64) -> bool {
        let (options, held) = (&self.shared.options, segment.totals());
        let key_end = segment.key_end_with(groups);
        let grown = (segment.bytes() - held.key_end + key_end).saturating_add(value_bytes);
        let is_full = key_end > options.segment_key_bytes
            || grown > options.segment_bytes
            || held.records + keys_of(groups).count() as u64 > options.segment_keys;
        held.records > 0 && is_full
    }
}

/// All keys, in the order of their records.
fn keys_of<'a>(groups: &'a [Group<'_>]) -> impl Iterator<Item = &'a [u8]> {
    let keys = |group: &'a Group<'_>| {
        std::iter::once(group.key).chain(group.aliases.iter().map(|alias| alias.key))
    };
    groups.iter().flat_map(keys)
}

#[cfg(test)]
mod tests {
    use lithdb_sim::SimFs;

    use super::*;
    use crate::test_support::{open, setup};

    #[test]
    fn put_waiting_during_a_drop_is_refused() {
        let fs = SimFs::new();
        let setup = setup(&fs);
        let table = open(&setup);
        let writer = table.enter_write().unwrap();
        table.begin_drop().unwrap();
        let group = Group {
            key: b"key",
            value: b"value",
            checksum: crc32c::crc32c(b"value"),
            aliases: &[],
        };
        let refused = writer.write(&[group]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
    }
}
