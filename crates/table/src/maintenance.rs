//! Periodic maintenance of a table: sealing by age, idle marks, automatic flushes, collection; and
//! returning write buffers to other tables.
//!
//! The owner calls [`Table::tick`] about every half second. A tick never blocks writers longer
//! than a put does.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{ErrorKind, Reclaim, Result};

use crate::table::Table;
use crate::write::writer::Writer;

/// When a table flushes, marks and collects automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// Flush when this many bytes are not durable; `None`: only on request.
    pub flush_bytes: Option<u64>,
    /// Flush when something has not been durable for this long; `None`: only on request.
    pub flush_after: Option<Duration>,
    /// Write the idle mark when nothing was put for this long.
    pub idle_after: Duration,
    /// Collect in this tick.
    pub collect: bool,
}

impl Table {
    /// Does what is due. Returns the first error; the remaining tasks still run.
    pub fn tick(&self, maintenance: &Maintenance) -> Result<()> {
        let writer = self.enter_write()?;
        let shared = &writer.shared;
        let maintained = shared.latch_on_panic("maintenance", || {
            let timed = writer.record_time().map(drop);
            let aged = writer.seal_by_age().map(drop);
            let flushed = writer.flush_if_due(maintenance);
            let marked = writer.write_mark_if_idle(maintenance.idle_after);
            timed.and(aged).and(flushed).and(marked)
        });
        // A table collected with a filter is not collected automatically without it.
        let may_collect = shared.setup.filter.is_some() || !shared.has_gc_filter;
        let collected =
            if maintenance.collect && may_collect { writer.collect().map(drop) } else { Ok(()) };
        maintained.and(collected)
    }

    /// Seals the mutable segment if it is old enough, without waiting until that is durable.
    /// Returns whether it did.
    pub fn seal_if_old(&self) -> Result<bool> {
        let writer = self.enter_write()?;
        writer.shared.latch_on_panic("maintenance", || {
            let timed = writer.record_time().map(drop);
            let aged = writer.seal_by_age();
            timed.and(aged)
        })
    }

    /// Accepts the wall clock after a jump, durably: what was sealed later than it shows, or at an
    /// untrusted time, counts as sealed now. `InvalidArgument` before 2020 or after 9999; a failed
    /// write latches.
    pub fn accept_clock(&self) -> Result<()> {
        let writer = self.enter_write()?;
        let accepted = writer.clock.lock().accept(&*writer.shared.env().clock);
        accepted.map_err(|e| writer.shared.in_context(&e))?;
        writer.record_time().map(drop)
    }

    /// Changes the number of value files, from the next segment on.
    pub fn set_shards(&self, shards: u16) -> Result<()> {
        let shared = &self.enter_write()?.shared;
        let options = shared.options.clone().shards(shards);
        options.validate().map_err(|e| shared.in_context(&e))?;
        shared.settings.lock().shards = shards;
        Ok(())
    }
}

impl Writer {
    fn seal_by_age(self: &Arc<Self>) -> Result<bool> {
        let shared = &self.shared;
        let steady = shared.env().clock.monotonic();
        let age = shared.options.segment_age_for(shared.settings.lock().ttl);
        let mut log = self.log.lock();
        let reached = |(since, before)| steady.saturating_sub(since).saturating_add(before) >= age;
        if !log.has_records() || !log.begun.is_some_and(reached) {
            return Ok(false);
        }
        self.roll_over(&mut log).map_err(|e| shared.fail(&e))?;
        Ok(true)
    }

    fn flush_if_due(&self, maintenance: &Maintenance) -> Result<()> {
        let (log_end, bytes) = {
            let log = self.log.lock();
            let unflushed = log.segment.as_ref().map(|s| s.bytes() - s.segment().durable_bytes());
            (log.end(), unflushed.unwrap_or_default())
        };
        let (durable, now) = (self.commit.durable(), self.shared.env().clock.monotonic());
        let waited = self.activity.lock().tick(log_end, durable, now);
        let due = maintenance.flush_bytes.is_some_and(|most| bytes >= most)
            || maintenance.flush_after.is_some_and(|after| waited >= after);
        if durable < log_end && due { self.make_durable(log_end) } else { Ok(()) }
    }

    /// Writes the mark of an idle table, which covers its last flush.
    fn write_mark_if_idle(&self, idle_after: Duration) -> Result<()> {
        let now = self.shared.env().clock.monotonic();
        if self.activity.lock().idle_for(now) < idle_after {
            return Ok(());
        }
        self.write_mark()?;
        self.release_idle_resources()
    }

    /// Releases what an idle table need not hold. If this fails, the next tick tries again.
    fn release_idle_resources(&self) -> Result<()> {
        let mut log = self.log.lock();
        // Releasing reserved space writes to the files, which another handle may own once the
        // table is closed.
        self.shared.check_open()?;
        let Some(segment) = &mut log.segment else { return Ok(()) };
        segment.release_idle_resources().map_err(|e| self.shared.fail(&e))
    }

    /// Writes out the write buffers to free their memory, unless another thread has the writer
    /// lock.
    fn release_buffers(&self) -> bool {
        // Held until the end: closing the table waits for it, and nothing is written afterwards.
        let Some(log) = self.log.try_lock() else { return false };
        if self.shared.check_open().is_err() || self.shared.latch.check().is_err() {
            return false;
        }
        let Some(segment) = &log.segment else { return false };
        segment.segment().release_buffers().unwrap_or_else(|error| {
            // The error belongs to this table, not to the one that needs memory.
            let failed = self.shared.fail(&error);
            tracing::debug!(%failed, "cannot free buffers for another table");
            false
        })
    }

    /// Writes the mark that is due, and syncs it.
    pub(crate) fn write_mark(&self) -> Result<()> {
        let end = {
            let mut log = self.log.lock();
            self.shared.check_open()?;
            let was_durable = self.commit.durable() >= log.end();
            let now = log.opened;
            let Some(segment) = &mut log.segment else { return Ok(()) };
            match segment.append_mark(now) {
                Ok(true) if was_durable => {}
                Ok(_) => return Ok(()),
                // The mark is a precaution; recovery works without it.
                Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(self.shared.fail(&error)),
            }
            log.end()
        };
        self.make_durable(end)?;
        // This flush needs no mark of its own.
        let mut log = self.log.lock();
        if log.end() == end
            && let Some(segment) = &mut log.segment
        {
            segment.clear_pending_mark();
        }
        self.activity.lock().ignore_growth(end);
        Ok(())
    }
}

/// Frees write buffers when another table needs memory.
impl Reclaim for Writer {
    fn reclaim(self: Arc<Self>) -> bool {
        let is_any = self.release_buffers();
        let pool = Arc::clone(&self.shared.env().pool);
        // The caller may hold locks, so the application's filter and listener are dropped
        // elsewhere.
        if let Some(last) = Arc::into_inner(self) {
            pool.submit(move || drop(last));
        }
        is_any
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
