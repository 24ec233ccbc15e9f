//! One seal at most can be pending: that of the segment before the mutable one.
//!
//! At most one thread runs it. It stays pending until it succeeds, so it can be retried.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_env::sync::{Condvar, Mutex};
use lithdb_segment::scan::Totals;
use lithdb_segment::{SealJob, Segment};

use crate::state::RecordedEnd;

#[derive(Default)]
pub(crate) struct PendingSeal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: Option<Arc<Seal>>,
    is_running: bool,
}

pub(crate) struct Seal {
    pub(crate) job: SealJob,
    /// The next segment: its files must be durable before the seal names it.
    pub(crate) next: Arc<Segment>,
    /// The end of the next segment without any record.
    pub(crate) begun: RecordedEnd,
}

impl PendingSeal {
    /// Makes `seal` pending; there must be no other. Called under the writer lock.
    pub(crate) fn begin(&self, seal: Seal) {
        let before = self.state.lock().pending.replace(Arc::new(seal));
        assert!(before.is_none(), "a seal began while the previous one was pending");
    }

    /// The totals of the segment with a pending seal, unless it has its metadata already.
    pub(crate) fn pending_totals(&self) -> Option<Totals> {
        let state = self.state.lock();
        let job = &state.pending.as_ref()?.job;
        job.segment.metadata().is_none().then(|| job.totals.clone())
    }

    /// Waits until no thread runs the seal.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.is_running {
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the pending seal, or runs it with `seal`, which must not panic. Returns the seal
    /// if this call has run it.
    pub(crate) fn finish(
        &self,
        check: impl FnOnce() -> Result<()>,
        seal: impl FnOnce(&Seal) -> Result<()>,
    ) -> Result<Option<Arc<Seal>>> {
        let mut state = self.state.lock();
        let pending = loop {
            match &state.pending {
                None => return Ok(None),
                Some(pending) if !state.is_running => break Arc::clone(pending),
                Some(_) => self.changed.wait(&mut state),
            }
        };
        // Checked under the lock that `wait_idle` takes: after a close no seal starts.
        check()?;
        state.is_running = true;
        drop(state);
        let result = seal(&pending);
        let mut state = self.state.lock();
        state.is_running = false;
        if result.is_ok() {
            state.pending = None;
        }
        drop(state);
        self.changed.notify_all();
        result.map(|()| Some(pending))
    }
}
