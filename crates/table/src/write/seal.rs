//! The one seal that can be pending: the segment before the mutable one, on its way to being durable.
//!
//! It runs on the pool. Nothing in the mutable segment is acknowledged before it is done, so a flush waits for it and,
//! if it failed without a failed write or sync (no space, no descriptor), tries it again.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_env::sync::{Condvar, Mutex};
use lithdb_segment::scan::Totals;
use lithdb_segment::{Position, SealJob, Segment};

use crate::event::Event;
use crate::state::DurableEnd;
use crate::table::{Inner, Mode, WriteSide};

/// The pending seal.
#[derive(Debug, Default)]
pub(crate) struct PendingSeal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: Option<Arc<Pending>>,
    is_running: bool,
}

#[derive(Debug)]
struct Pending {
    job: SealJob,
    /// The segment that took over: its files must be durable before the seal names it.
    next: Arc<Segment>,
    /// What that one holds without any record.
    begun: DurableEnd,
}

impl PendingSeal {
    /// Begins a seal; none may be pending. Called under the writer's lock.
    pub(crate) fn begin(
        &self,
        inner: &Arc<Inner>,
        job: SealJob,
        next: Arc<Segment>,
        begun: DurableEnd,
    ) {
        self.state.lock().pending = Some(Arc::new(Pending { job, next, begun }));
        let inner = Arc::clone(inner);
        let pool = Arc::clone(&inner.env.pool);
        pool.submit(move || {
            if let Mode::Write(side) = &inner.mode {
                #[expect(clippy::let_underscore_must_use, reason = "the next flush reports it")]
                let _ = side.sealing.finish(&inner, side);
            }
        });
    }

    /// What the segment whose seal is pending holds, unless it has its metadata by now.
    pub(crate) fn pending_totals(&self) -> Option<Totals> {
        let state = self.state.lock();
        let pending = state.pending.as_ref()?;
        pending.job.segment.metadata().is_none().then(|| pending.job.totals.clone())
    }

    /// Waits until nobody carries a seal out.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.is_running {
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the pending seal, or carries it out here if nobody does.
    pub(crate) fn finish(&self, inner: &Inner, side: &WriteSide) -> Result<()> {
        let mut state = self.state.lock();
        let pending = loop {
            match &state.pending {
                None => return Ok(()),
                Some(pending) if !state.is_running => break Arc::clone(pending),
                Some(_) => self.changed.wait(&mut state),
            }
        };
        // Asked under the lock that `wait_idle` takes: after closing nothing begins.
        inner.check_open()?;
        inner.latch.check().map_err(|e| inner.in_context(&e))?;
        state.is_running = true;
        drop(state);
        // A panic on the way must not leave others waiting.
        let result = inner.latch_on_panic("the seal", || run(inner, side, &pending));
        let result = result.map_err(|e| inner.fail(&e));
        let mut state = self.state.lock();
        state.is_running = false;
        if result.is_ok() {
            state.pending = None;
        }
        drop(state);
        self.changed.notify_all();
        if result.is_ok() {
            announce(inner, &pending.job);
        }
        result
    }
}

fn run(inner: &Inner, side: &WriteSide, pending: &Pending) -> Result<()> {
    let job = &pending.job;
    side.in_flight.wait_below(Position::new(job.segment.id(), u32::MAX));
    // A large value that failed on its way has latched the table.
    inner.latch.check()?;
    pending.next.sync_everything()?;
    job.run()?;
    // From now on the loss of the seal, or of the segment that took over, is seen. Before anything in there is acknowledged.
    inner.update_state(side, |state| state.begin_segment(pending.begun.clone())).map(drop)
}

fn announce(inner: &Inner, job: &SealJob) {
    let bytes = job.totals.key_end + job.totals.value_ends.iter().sum::<u64>();
    metrics::counter!("lithdb_sealed_segments_total", "table" => inner.name.to_string())
        .increment(1);
    inner.listener.emit(&Event::Sealed {
        table: inner.name.clone(),
        segment: job.segment.id(),
        records: job.totals.records,
        bytes,
    });
}
