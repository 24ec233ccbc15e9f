//! flush: group commit. Callers that come while a round is under way share the next one.
//!
//! A round captures the end of the log, waits for large values below it, and makes the mutable segment durable, all its
//! files at the same time; older segments must be sealed. Only then is the end acknowledged, and its mark handed to the
//! writer, which puts it before the next record.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::Result;
use lithdb_env::sync::{Condvar, Mutex};
use lithdb_segment::Position;

use crate::table::{Inner, Table, WriteSide};

/// What is durable, and whether a round is under way.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    changed: Condvar,
    /// How long a round waits for company before it captures.
    coalesce: Duration,
}

#[derive(Debug)]
struct State {
    durable: Position,
    is_running: bool,
}

impl GroupCommit {
    pub(crate) fn new(durable: Position, coalesce: Duration) -> Self {
        Self {
            state: Mutex::new(State { durable, is_running: false }),
            changed: Condvar::new(),
            coalesce,
        }
    }

    pub(crate) fn durable(&self) -> Position {
        self.state.lock().durable
    }

    /// Waits until no round is under way.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.is_running {
            self.changed.wait(&mut state);
        }
    }

    fn acknowledge(&self, end: Position) {
        let mut state = self.state.lock();
        state.durable = state.durable.max(end);
    }
}

impl Table {
    /// Makes durable every put that returned before this call. `StorageFull` of a seal loses
    /// nothing; a failed write or sync latches.
    pub fn flush(&self) -> Result<()> {
        let side = self.inner.enter_write()?;
        let end = side.writer.lock().log_end();
        self.inner.make_durable(end)
    }

    /// Waits until the record at `at` is durable, flushing if necessary.
    pub fn wait_durable(&self, at: Position) -> Result<()> {
        let side = self.inner.enter_write()?;
        let log_end = side.writer.lock().log_end();
        let end = Position::new(at.segment, at.offset.saturating_add(1));
        self.inner.make_durable(end.min(log_end))
    }

    /// The end of what is durable; for a reader, the end of what it sees.
    pub fn durable_position(&self) -> Position {
        match self.inner.write_side() {
            Ok(side) => side.commit.durable(),
            // The only error: it is a reader.
            Err(_) => self.inner.snapshot(Position::default()).end,
        }
    }
}

impl Inner {
    pub(crate) fn make_durable(self: &Arc<Self>, end: Position) -> Result<()> {
        let side = self.write_side()?;
        let commit = &side.commit;
        let mut state = commit.state.lock();
        loop {
            if state.durable >= end {
                return Ok(());
            }
            self.latch.check().map_err(|e| self.in_context(&e))?;
            if !state.is_running {
                break;
            }
            commit.changed.wait(&mut state);
        }
        state.is_running = true;
        drop(state);
        if !commit.coalesce.is_zero() {
            std::thread::sleep(commit.coalesce);
        }
        let flushed = self.latch_on_panic("a flush", || self.run_round(side));
        commit.state.lock().is_running = false;
        commit.changed.notify_all();
        flushed
    }

    fn run_round(self: &Arc<Self>, side: &WriteSide) -> Result<()> {
        let started = self.env.clock.monotonic();
        let (segment, capture, end) = {
            let writer = side.writer.lock();
            self.check_open()?;
            let segment_writer = writer.segment.as_ref();
            #[expect(clippy::expect_used, reason = "something was put: it is in a segment")]
            let segment_writer = segment_writer.expect("a log with an end has a segment");
            let segment = Arc::clone(segment_writer.segment());
            (segment, segment_writer.totals().clone(), writer.log_end())
        };
        side.in_flight.wait_below(end);
        self.latch.check().map_err(|e| self.in_context(&e))?;
        let made = segment.make_durable(&capture).map_err(|e| self.fail(&e));
        let sealed = side.sealing.finish(self, side);
        made.and(sealed)?;
        // Acknowledged before the mark is due: a mark promises what has been acknowledged.
        side.commit.acknowledge(end);
        let mark = capture.mark(self.now(side).time);
        let mut writer = side.writer.lock();
        if let Some(segment_writer) = &mut writer.segment
            && segment_writer.segment().id() == segment.id()
        {
            segment_writer.set_pending_mark(mark);
        }
        drop(writer);
        let took = self.env.clock.monotonic().saturating_sub(started);
        metrics::histogram!("lithdb_flush_seconds", "table" => self.name.to_string())
            .record(took.as_secs_f64());
        Ok(())
    }
}
