//! flush: makes the log durable up to its current end.
//!
//! A round captures the end of the log, waits for large values before it, and syncs all files of
//! the mutable segment in parallel; older segments must be sealed. Only then is the end
//! acknowledged; its mark is queued and written before the next record.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_segment::Position;

use crate::table::{Role, Table};
use crate::write::writer::Writer;

impl Table {
    /// Makes everything durable whose put returned before this call: when it returns `Ok`, that
    /// survives power loss. Does nothing if nothing is new. Concurrent calls share syncs.
    ///
    /// # Errors
    /// `StorageFull` if there was no space to seal an older segment: nothing is lost, call again.
    /// `Io` for a failed write or sync, which latches the table.
    pub fn flush(&self) -> Result<()> {
        let writer = self.enter_write()?;
        let end = writer.log.lock().end();
        writer.make_durable(end)
    }

    /// Returns when the record at `at` (the result of a put) is durable, flushing if necessary.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn wait_durable(&self, at: Position) -> Result<()> {
        let writer = self.enter_write()?;
        let log_end = writer.log.lock().end();
        let end = Position::new(at.segment, at.offset.saturating_add(1));
        writer.make_durable(end.min(log_end))
    }

    /// The durable end: everything before this position survives power loss. For a reader, the end
    /// of its view.
    pub fn durable_position(&self) -> Position {
        match &self.role {
            Role::Writer(writer) => writer.commit.durable(),
            Role::Reader(reader) => reader.view().end,
        }
    }
}

impl Writer {
    pub(crate) fn make_durable(&self, end: Position) -> Result<()> {
        let round = || self.shared.latch_on_panic("a flush", || self.run_round());
        self.commit.commit(end, || self.shared.check_latch(), round)
    }

    fn run_round(&self) -> Result<()> {
        let (shared, clock) = (&self.shared, &self.shared.env().clock);
        let started = clock.monotonic();
        let (segment, capture, end) = {
            let log = self.log.lock();
            shared.check_open()?;
            #[expect(clippy::expect_used, reason = "something was put: it is in a segment")]
            let segment_writer = log.segment.as_ref().expect("a log with an end has a segment");
            let segment = Arc::clone(segment_writer.segment());
            (segment, segment_writer.totals().clone(), log.end())
        };
        self.in_flight.wait_below(end);
        shared.check_latch()?;
        let made = segment.make_durable(&capture).map_err(|e| shared.fail(&e));
        let sealed = self.finish_seal();
        made.and(sealed)?;
        // Acknowledge before handing on the mark: a mark records what was acknowledged.
        self.commit.acknowledge(end);
        let mark = capture.mark(self.now().time);
        let mut log = self.log.lock();
        if let Some(segment_writer) = &mut log.segment
            && segment_writer.segment().id() == segment.id()
        {
            segment_writer.set_pending_mark(mark);
        }
        drop(log);
        let took = clock.monotonic().saturating_sub(started);
        metrics::histogram!("lithdb_flush_seconds", "table" => shared.name().to_string())
            .record(took.as_secs_f64());
        Ok(())
    }
}
