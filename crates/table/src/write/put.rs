//! put: from the caller's bytes to the log and the keymap.
//!
//! Checks and checksums come first, without any lock. Under the writer's lock the batch gets its place: records and
//! small values are copied into the tails. Large values are written to their places after the lock is released. Then the
//! keys are published, and the call returns: every thread sees them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_keymap::KeyHash;
use lithdb_segment::record::Chain;
use lithdb_segment::scan::Totals;
use lithdb_segment::{Appended, Group, NewSegment, Position, Segment, SegmentId, SegmentWriter};

use crate::batch::{Batch, SecondaryKey, check_group, check_key, show_key};
use crate::gc::clock::ClockReading;
use crate::open::index::same_key;
use crate::open::recover::next_id;
use crate::options::DuplicateKeys;
use crate::state::DurableEnd;
use crate::table::{Inner, Table, TableWriter, WriteSide};

/// Batches of at least so many keys are published together.
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
        let inner = &self.inner;
        inner.enter_write()?;
        let aliases = check_group(key, value, secondary.iter().map(SecondaryKey::parts));
        let aliases = aliases.map_err(|e| inner.in_context(&e))?;
        let checksum = crc32c::crc32c(value);
        inner.write(&[Group { key, value, checksum, aliases: &aliases }])
    }

    /// Stores `batch` whole or not at all. Returns the position of the last value's record, or the
    /// end of the log if the batch is empty.
    pub fn put_batch(&self, batch: &Batch) -> Result<Position> {
        let inner = &self.inner;
        let side = inner.enter_write()?;
        if batch.is_empty() {
            return Ok(side.writer.lock().log_end());
        }
        batch.with_groups(|groups| inner.write(groups)).map_err(|e| inner.in_context(&e))
    }
}

impl Inner {
    fn write(self: &Arc<Self>, groups: &[Group<'_>]) -> Result<Position> {
        self.write_placed(groups, |side, writer| self.place(side, writer, groups))
    }

    /// Writes `groups`: `place` gives them their places in the log and says how many bytes of values they have.
    pub(super) fn write_placed(
        &self,
        groups: &[Group<'_>],
        place: impl FnOnce(&WriteSide, &mut TableWriter) -> Result<(Appended, u64)>,
    ) -> Result<Position> {
        let side = self.write_side()?;
        let rejects = self.options.duplicate_keys == DuplicateKeys::Reject;
        let mut writer = side.writer.lock();
        self.check_accepting_writes()?;
        self.latch.check().map_err(|e| self.in_context(&e))?;
        if rejects {
            self.refuse_duplicates(groups)?;
        }
        // From the first byte until its landing watches over it, a put that panics latches.
        let taken = || {
            let (appended, bytes) = place(side, &mut writer)?;
            let Some(segment_writer) = &writer.segment else {
                unreachable!("what was appended is in a segment")
            };
            let segment = Arc::clone(segment_writer.segment());
            side.counts.set(segment_writer.totals());
            let aliases = groups.last().map_or(0, |group| group.aliases.len());
            let positions = &appended.positions;
            let (Some(&first), Some(&last_primary)) =
                (positions.first(), positions.iter().rev().nth(aliases))
            else {
                unreachable!("every group has a key, and every key a position")
            };
            writer.begun.get_or_insert_with(|| (self.env.clock.monotonic(), Duration::ZERO));
            writer.newest = last_primary;
            let landing = side.in_flight.begin(first, !appended.direct.is_empty(), &self.latch);
            Ok((appended, bytes, segment, last_primary, landing))
        };
        let (appended, bytes, segment, last_primary, mut landing) =
            self.latch_on_panic("a put", taken)?;
        // Where duplicates are refused, the next writer must find these keys.
        let held = rejects.then_some(writer);
        self.write_values_and_publish(side, &segment, &appended, groups)?;
        drop(held);
        landing.values_written();
        segment.write_full_chunks().map_err(|e| self.fail(&e))?;
        drop(landing);
        self.counters.values_put.increment(groups.len() as u64);
        self.counters.bytes_put.increment(bytes);
        Ok(last_primary)
    }

    /// Gives the batch its place in the log. Nothing is done if there is no space.
    fn place(
        self: &Arc<Self>,
        side: &WriteSide,
        writer: &mut TableWriter,
        groups: &[Group<'_>],
    ) -> Result<(Appended, u64)> {
        let bytes = groups.iter().map(|group| group.value.len() as u64).sum();
        // It dates the first epoch after an opening: the records before it are older than that.
        let now = writer.opened;
        let segment = self.ensure_room(side, writer, groups, bytes)?;
        Ok((segment.append(groups, now).map_err(|e| self.fail(&e))?, bytes))
    }

    /// Writes large values to their places and publishes the keys.
    fn write_values_and_publish(
        &self,
        side: &WriteSide,
        segment: &Segment,
        appended: &Appended,
        groups: &[Group<'_>],
    ) -> Result<()> {
        for place in &appended.direct {
            #[expect(clippy::indexing_slicing, reason = "it is a group of this batch")]
            let value = groups[place.group].value;
            // If it fails, the record is in the log and its value is not in the file: the log ends here.
            segment.write_direct(place, value).map_err(|e| self.fail(&e))?;
        }
        self.publish(side, &appended.positions, groups)
    }

    fn publish(
        &self,
        side: &WriteSide,
        positions: &[Position],
        groups: &[Group<'_>],
    ) -> Result<()> {
        let keys = keys_of(groups).zip(positions);
        let hashed = keys.map(|(key, at)| (KeyHash::of(self.hash_seed, key), *at, key));
        let (count, mut together) = (positions.len(), Vec::new());
        // Without the memory for it they are published one by one.
        if count >= BATCH_PUBLISH_MIN_KEYS && together.try_reserve_exact(count).is_ok() {
            together.extend(hashed.map(|(hash, at, _)| (hash, at)));
            #[expect(clippy::disallowed_methods, reason = "an error is no match, as in `has_key`")]
            let mut same_key = |new, old| {
                // A rival may be in a segment that has just begun.
                let segments = side.segments.read().clone();
                Ok(same_key(&segments, new, old).unwrap_or_default())
            };
            return side.keymap.insert_batch(&together, &mut same_key);
        }
        for (hash, at, key) in hashed {
            side.keymap.insert(hash, at, &mut |old| Ok(side.has_key(old, key)))?;
        }
        Ok(())
    }

    fn refuse_duplicates(&self, groups: &[Group<'_>]) -> Result<()> {
        let mut batch_keys = std::collections::HashSet::new();
        for key in keys_of(groups) {
            if !batch_keys.insert(key) || self.find(key)?.is_some() {
                let message =
                    format!("table {}: key {} is there already", self.name, show_key(key));
                return Err(Error::new(ErrorKind::DuplicateKey, message));
            }
        }
        Ok(())
    }

    /// Makes sure that there is a mutable segment and that the batch, with so many bytes of values, fits into it.
    pub(super) fn ensure_room<'a>(
        self: &Arc<Self>,
        side: &WriteSide,
        writer: &'a mut TableWriter,
        groups: &[Group<'_>],
        value_bytes: u64,
    ) -> Result<&'a mut SegmentWriter> {
        let made = match &writer.segment {
            None => self.create_first_segment(side, writer),
            Some(segment) if self.is_full(segment, groups, value_bytes) => {
                self.roll_over(side, writer)
            }
            Some(_) => Ok(()),
        };
        made.map_err(|e| self.fail(&e))?;
        #[expect(clippy::expect_used, reason = "it was made, or is there")]
        Ok(writer.segment.as_mut().expect("a mutable segment"))
    }

    /// Whether a segment with something in it has no room for the batch.
    fn is_full(&self, segment: &SegmentWriter, groups: &[Group<'_>], value_bytes: u64) -> bool {
        let (options, held) = (&self.options, segment.totals());
        let key_end = segment.key_end_with(groups);
        let grown = (segment.bytes() - held.key_end + key_end).saturating_add(value_bytes);
        let is_full = key_end > options.segment_key_bytes
            || grown > options.segment_bytes
            || held.records + keys_of(groups).count() as u64 > options.segment_keys;
        held.records > 0 && is_full
    }

    /// Creates the segment that follows what `chain` describes; nothing of it is durable.
    fn create_segment(
        &self,
        side: &WriteSide,
        chain: Option<Chain>,
        now: ClockReading,
    ) -> Result<(Arc<Segment>, Totals)> {
        let newest = chain.as_ref().map_or(SegmentId::NONE, |chain| chain.predecessor);
        let id = next_id(newest, side.state.get().next_id_floor)?;
        side.state.reserve(id)?;
        let shards = self.settings.lock().shards;
        Segment::create(&self.context, &NewSegment { id, chain, shards, now: now.time })
    }

    /// The first segment of a table: durable before anything is accepted.
    fn create_first_segment(&self, side: &WriteSide, writer: &mut TableWriter) -> Result<()> {
        let (segment, totals) = self.create_segment(side, None, self.now(side))?;
        let id = segment.id();
        let durable = segment.sync_everything().and_then(|()| {
            side.state.update(|state| {
                (state.empty, state.watermark) = (false, id);
                state.begin_segment(DurableEnd::of(id, &totals));
            })
        });
        if let Err(error) = durable {
            // After a failed write or sync only a reopening knows what is durable. Else nothing refers to the files.
            if !error.latches() {
                segment.remove_files();
            }
            return Err(error);
        }
        side.watermark.store(id.0, Ordering::Release);
        side.segments.write().push(Arc::clone(&segment));
        let inline_max = self.options.inline_max_bytes;
        writer.segment = Some(SegmentWriter::new(segment, inline_max, totals, None));
        Ok(())
    }

    /// Ends the mutable segment and begins the next one. The seal goes on in the background; only one can be pending.
    pub(crate) fn roll_over(
        self: &Arc<Self>,
        side: &WriteSide,
        writer: &mut TableWriter,
    ) -> Result<()> {
        // Whoever waited for the writer's lock may find the table closed, dropped or latched.
        self.check_open()?;
        self.latch.check()?;
        let Some(ending) = &writer.segment else { return Ok(()) };
        side.sealing.finish(self, side)?;
        let now = self.now(side);
        let chain = ending.totals().chain(ending.segment().id());
        let (next, next_totals) = self.create_segment(side, Some(chain), now)?;
        let begun = DurableEnd::of(next.id(), &next_totals);
        let job = lithdb_segment::SealJob {
            segment: Arc::clone(ending.segment()),
            totals: ending.totals().clone(),
            successor: next.id(),
            stamp: now.stamp(),
            successor_end: None,
        };
        side.segments.write().push(Arc::clone(&next));
        let inline_max = self.options.inline_max_bytes;
        writer.segment = Some(SegmentWriter::new(Arc::clone(&next), inline_max, next_totals, None));
        writer.begun = None;
        side.counts.set(&Totals::default());
        side.sealing.begin(self, job, next, begun);
        Ok(())
    }

    /// Refuses keys that cannot be, before they are looked for.
    pub(crate) fn check_lookup_key(&self, key: &[u8]) -> Result<()> {
        check_key(key).map_err(|e| self.in_context(&e))
    }
}

impl WriteSide {
    /// Whether the record at `at` has this key. One that cannot be read stays for whoever asks for it.
    fn has_key(&self, at: Position, key: &[u8]) -> bool {
        let segment = self.segments.read().find(at.segment).cloned();
        segment.is_some_and(|segment| matches!(segment.lookup(at.offset, key), Ok(Some(_))))
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
    use std::path::PathBuf;

    use lithdb_sim::SimFs;

    use super::*;
    use crate::test_support::{open, setup};

    /// Who was past the door when the table was dropped, and gets the writer's lock only then.
    #[test]
    fn seal_waiting_during_a_drop_creates_no_segment() {
        let fs = SimFs::new();
        let setup = setup(&fs);
        let table = open(&setup);
        table.put(b"key", b"value").unwrap();
        let side = table.inner.enter_write().unwrap();
        table.begin_drop().unwrap();
        let refused = table.inner.roll_over(side, &mut side.writer.lock()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
        side.sealing.wait_idle();
        drop(table);
        Table::remove(&setup).unwrap();
        assert_eq!(fs.file_paths(), Vec::<PathBuf>::new());
    }

    #[test]
    fn put_waiting_during_a_drop_is_refused() {
        let fs = SimFs::new();
        let setup = setup(&fs);
        let table = open(&setup);
        table.inner.enter_write().unwrap();
        table.begin_drop().unwrap();
        let group = Group {
            key: b"key",
            value: b"value",
            checksum: crc32c::crc32c(b"value"),
            aliases: &[],
        };
        let refused = table.inner.write(&[group]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
    }
}
