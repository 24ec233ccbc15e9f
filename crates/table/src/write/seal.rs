//! The one seal that can be pending: the segment before the mutable one, on its way to being durable.
//!
//! At most one thread carries it out. It stays pending until that succeeds, so whoever needs it can try it again.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_env::sync::{Condvar, Mutex};
use lithdb_segment::scan::Totals;
use lithdb_segment::{SealJob, Segment};

use crate::state::DurableEnd;

/// The pending seal.
#[derive(Debug, Default)]
pub(crate) struct PendingSeal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: Option<Arc<Seal>>,
    is_running: bool,
}

#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) job: SealJob,
    /// The segment that took over: its files must be durable before the seal names it.
    pub(crate) next: Arc<Segment>,
    /// What that one holds without any record.
    pub(crate) begun: DurableEnd,
}

impl PendingSeal {
    /// Makes `seal` the pending one; there must be none. Called under the writer lock.
    pub(crate) fn begin(&self, seal: Seal) {
        let before = self.state.lock().pending.replace(Arc::new(seal));
        assert!(before.is_none(), "a seal began before the one of the segment before was done");
    }

    /// What the segment whose seal is pending holds, unless it has its metadata by now.
    pub(crate) fn pending_totals(&self) -> Option<Totals> {
        let state = self.state.lock();
        let job = &state.pending.as_ref()?.job;
        job.segment.metadata().is_none().then(|| job.totals.clone())
    }

    /// Waits until no thread carries the seal out.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.is_running {
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the pending seal, or carries it out with `seal`, which must not panic, if no thread does. Returns the seal if
    /// this call has carried it out.
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
        // Asked under the lock that `wait_idle` takes: after closing nothing begins.
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
