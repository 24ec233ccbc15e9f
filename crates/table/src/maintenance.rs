//! What is done for a table now and then: sealing by age, the idle mark, automatic flushes,
//! collection.
//!
//! The owner of the table calls [`Table::tick`] about once a second. A tick never blocks writers
//! for longer than a put does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Reclaim, Result};
use lithdb_segment::STATE_FILE;

use crate::callback::refuse_in_callback;
use crate::open::inventory::Inventory;
use crate::state::{DurableEnd, TableState};
use crate::table::{Inner, Mode, Table, WriteSide};

/// When a table does by itself what it could be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// Flush when so many bytes are not durable; `None` leaves it to the callers.
    pub flush_bytes: Option<u64>,
    /// Flush when something has not been durable for so long; `None` leaves it to the callers.
    pub flush_after: Option<Duration>,
    /// Write the idle mark when nothing was put for so long.
    pub idle_after: Duration,
    /// Collect in this tick.
    pub collect: bool,
}

impl Table {
    /// Does what is due. Returns the first error; the rest is tried all the same.
    pub fn tick(&self, maintenance: &Maintenance) -> Result<()> {
        let side = self.inner.enter_write()?;
        let inner = &self.inner;
        let maintained = inner.latch_on_panic("upkeep", || {
            let timed = inner.record_time(side).map(drop);
            let aged = inner.seal_by_age(side).map(drop);
            let flushed = inner.flush_if_due(side, maintenance);
            let marked = inner.write_mark_if_idle(side, maintenance.idle_after);
            timed.and(aged).and(flushed).and(marked)
        });
        // Without the filter that the application collects with, nothing is collected by itself.
        let may_collect = inner.filter.is_some() || !inner.has_gc_filter;
        let collected = if maintenance.collect && may_collect {
            inner.collect(side).map(|_| ())
        } else {
            Ok(())
        };
        maintained.and(collected)
    }

    /// Seals the mutable segment if its age has come, without waiting until that is durable.
    /// Returns whether it did.
    pub fn seal_if_old(&self) -> Result<bool> {
        let side = self.inner.enter_write()?;
        let inner = &self.inner;
        inner.latch_on_panic("maintenance", || {
            let timed = inner.record_time(side).map(drop);
            let aged = inner.seal_by_age(side);
            timed.and(aged)
        })
    }

    /// Seals the mutable segment if it has records, and waits until that is durable.
    pub fn seal(&self) -> Result<()> {
        let side = self.inner.enter_write()?;
        let inner = &self.inner;
        {
            let mut writer = side.writer.lock();
            if writer.segment.as_ref().is_some_and(|s| s.totals().records > 0) {
                let sealed = inner.latch_on_panic("a seal", || inner.roll_over(side, &mut writer));
                sealed.map_err(|e| inner.fail(&e))?;
            }
        }
        side.sealing.finish(inner, side)
    }

    /// Changes the number of value files, from the next segment on.
    pub fn set_shards(&self, shards: u16) -> Result<()> {
        self.inner.enter_write()?;
        let options = self.inner.options.clone().shards(shards);
        options.validate().map_err(|e| self.inner.in_context(&e))?;
        self.inner.settings.lock().shards = shards;
        Ok(())
    }

    /// Makes everything durable and records the clean close. If that fails, the table is closed
    /// all the same. A second call waits for the first and does nothing.
    pub fn close(&self) -> Result<()> {
        refuse_in_callback()?;
        let Mode::Write(side) = &self.inner.mode else {
            self.set_closed();
            return Ok(());
        };
        let _shutdown_lock = side.shutdown_lock.lock();
        {
            // Whatever was put before this is made durable; whatever comes after is refused.
            let _writer = side.writer.lock();
            if self.is_closed() {
                return Ok(());
            }
            self.inner.closing.store(true, Ordering::Release);
        }
        let left = self.flush().and_then(|()| self.inner.write_mark(side));
        {
            let _writer = side.writer.lock();
            self.set_closed();
        }
        side.quiesce();
        // Nobody appends any more: what the state says now stays true.
        left.and_then(|()| self.inner.record_clean_close(side))
    }
}

impl WriteSide {
    /// The table is closed: waits until whoever was past the door by then has come to an end.
    /// Nothing is written or removed after it.
    pub(crate) fn quiesce(&self) {
        self.in_flight.wait_all();
        self.commit.wait_idle();
        self.sealing.wait_idle();
        drop(self.gc_lock.lock());
        self.unlink_permission.revoke();
    }
}

impl Inner {
    fn seal_by_age(self: &Arc<Self>, side: &WriteSide) -> Result<bool> {
        let steady = self.env.clock.monotonic();
        let age = self.options.segment_age_for(self.settings.lock().ttl);
        let mut writer = side.writer.lock();
        let has_records = writer.segment.as_ref().is_some_and(|s| s.totals().records > 0);
        match writer.begun {
            Some((since, before))
                if has_records && steady.saturating_sub(since).saturating_add(before) >= age =>
            {
                self.roll_over(side, &mut writer).map_err(|e| self.fail(&e))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn flush_if_due(self: &Arc<Self>, side: &WriteSide, maintenance: &Maintenance) -> Result<()> {
        let (log_end, bytes) = {
            let writer = side.writer.lock();
            let bytes =
                writer.segment.as_ref().map_or(0, |s| s.bytes() - s.segment().durable_bytes());
            (writer.log_end(), bytes)
        };
        let steady = self.env.clock.monotonic();
        let is_behind = side.commit.durable() < log_end;
        let waited = {
            let mut activity = side.activity.lock();
            if activity.log_end != log_end {
                (activity.log_end, activity.since) = (log_end, steady);
            }
            let waiting = activity.behind.filter(|(end, _)| side.commit.durable() < *end);
            // What is new since the last look may have come right after it.
            let looked = std::mem::replace(&mut activity.looked, steady);
            activity.behind = is_behind.then(|| waiting.unwrap_or((log_end, looked)));
            activity.behind.map_or(Duration::ZERO, |(_, since)| steady.saturating_sub(since))
        };
        let due = maintenance.flush_bytes.is_some_and(|most| bytes >= most)
            || maintenance.flush_after.is_some_and(|after| waited >= after);
        if is_behind && due { self.make_durable(log_end) } else { Ok(()) }
    }

    /// A table on which nothing is put gets its mark written, so that what was flushed last is
    /// vouched for.
    fn write_mark_if_idle(self: &Arc<Self>, side: &WriteSide, idle_after: Duration) -> Result<()> {
        let steady = self.env.clock.monotonic();
        if steady.saturating_sub(side.activity.lock().since) < idle_after {
            return Ok(());
        }
        self.write_mark(side)?;
        self.release_idle_resources(side)
    }

    /// Gives back what an idle table need not hold. The next tick does it if this one could not.
    fn release_idle_resources(&self, side: &WriteSide) -> Result<()> {
        let mut writer = side.writer.lock();
        // Reserved space goes back through the files, which may be another handle's once the
        // table is closed.
        self.check_open()?;
        let Some(segment) = &mut writer.segment else { return Ok(()) };
        segment.release_idle_resources().map_err(|e| self.fail(&e))
    }

    /// Writes out what is in buffers, for their memory, unless somebody else has the writer's
    /// lock.
    fn release_buffers(&self) -> bool {
        let Mode::Write(side) = &self.mode else { return false };
        // Held until the end: closing the table waits for it, and nothing is written afterwards.
        let Some(writer) = side.writer.try_lock() else { return false };
        if self.check_open().is_err() || self.latch.check().is_err() {
            return false;
        }
        let Some(segment) = &writer.segment else { return false };
        segment.segment().release_buffers().unwrap_or_else(|error| {
            // Told to those who use this table, not to the one who wants memory.
            let failed = self.fail(&error);
            tracing::debug!(%failed, "writing out for another table");
            false
        })
    }

    /// Writes the mark that is due, and syncs it.
    pub(crate) fn write_mark(self: &Arc<Self>, side: &WriteSide) -> Result<()> {
        let end = {
            let mut writer = side.writer.lock();
            self.check_open()?;
            let was_durable = side.commit.durable() >= writer.log_end();
            let now = writer.opened;
            let Some(segment) = &mut writer.segment else { return Ok(()) };
            match segment.append_mark(now) {
                Ok(true) if was_durable => {}
                Ok(_) => return Ok(()),
                // The mark is a precaution; the next opening does without.
                Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(self.fail(&error)),
            }
            writer.log_end()
        };
        self.make_durable(end)?;
        // It needs no mark of its own.
        let mut writer = side.writer.lock();
        if writer.log_end() == end
            && let Some(segment) = &mut writer.segment
        {
            segment.clear_pending_mark();
        }
        side.activity.lock().log_end = end;
        Ok(())
    }

    /// The durable tail in the state, and that nothing is behind it: an opening then knows how
    /// long the files must be.
    fn record_clean_close(&self, side: &WriteSide) -> Result<()> {
        self.latch.check().map_err(|e| self.in_context(&e))?;
        let writer = side.writer.lock();
        // What another thread put meanwhile is not promised.
        if side.commit.durable() < writer.log_end() {
            return Ok(());
        }
        let mut left = side.state.get();
        if let Some(segment) = &writer.segment {
            // A length that was cut before a crash may be in the page cache alone.
            segment.segment().sync_everything().map_err(|e| self.fail(&e))?;
            left.durable_end = Some(DurableEnd::of(segment.segment().id(), segment.totals()));
        }
        let tail = left.durable_end.clone();
        if tail.as_ref().is_none_or(|tail| left.highest_id > tail.segment) {
            // What a roll-over that found no space left of the next id is gone for good.
            for dir in &self.context.dirs {
                self.env.fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
            }
        }
        left.closed_cleanly = true;
        // What cannot be measured is not promised; everything is durable all the same.
        let closed_cleanly = self.matches_files(&left).unwrap_or_else(|error| {
            tracing::warn!(%error, table = %self.name, "the files could not be measured at the close");
            false
        });
        let written = self.update_state(side, |state| {
            // The next id has not been given away: whatever has it is newer than this state.
            // Unless it is what a failed roll-over has left, and could not remove.
            if closed_cleanly {
                state.highest_id = tail.as_ref().map_or(state.highest_id, |tail| tail.segment);
            }
            state.durable_end = tail;
            state.closed_cleanly = closed_cleanly;
        });
        written.map(drop)
    }

    /// Whether no file goes on behind what `left` says. A value that failed on its way may have
    /// left bytes.
    fn matches_files(&self, left: &TableState) -> Result<bool> {
        let fs = &*self.env.fs;
        let inventory = Inventory::list(fs, &self.context.dirs)?;
        let live = inventory.segments.range(left.watermark..).map(|(id, found)| (*id, found));
        Ok(left.stale_file_error(fs, Path::new(STATE_FILE), live)?.is_none())
    }
}

/// Gives buffers back when another table needs memory.
impl Reclaim for Inner {
    fn reclaim(self: Arc<Self>) -> bool {
        let is_any = self.release_buffers();
        let pool = Arc::clone(&self.env.pool);
        // What the application gave the table is not dropped under the locks of the one who asks.
        if let Some(last) = Arc::into_inner(self) {
            pool.submit(move || drop(last));
        }
        is_any
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
