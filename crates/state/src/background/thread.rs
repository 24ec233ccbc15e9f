//! The background thread: one job or one step of compaction after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind};

use super::Step;
use crate::options::RETRY_FLUSH_AFTER;
use crate::shared::Shared;

/// What the background thread does next.
enum Work {
    Job,
    Compaction,
}

impl Shared {
    /// The background thread.
    pub(crate) fn run_background(self: &Arc<Self>) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.background_loop()));
        if ran.is_err() {
            let message = "the background thread of the state store panicked";
            let error = Error::new(ErrorKind::Io, message).latching();
            let _events = self.events.deliver_on_drop();
            self.latch(&error);
            self.background.abandon_tickets(&error);
        }
    }

    fn background_loop(&self) {
        while let Some(work) = self.next_work() {
            let _events = self.events.deliver_on_drop();
            match work {
                Work::Job => {
                    if self.run_job() == Step::Done {
                        // Dropped when the lock is released: that may remove files.
                        let _before;
                        let mut writer = self.writer.lock();
                        _before = self.renew_pin(&mut writer);
                        let sealed =
                            self.check_writable().and_then(|()| self.seal_when(&mut writer, false));
                        if let Err(error) = sealed {
                            tracing::debug!(%error, "nothing is sealed");
                        }
                    }
                }
                Work::Compaction => {
                    let is_more = self.compact();
                    self.background.done.notify_all();
                    if !is_more {
                        let before = self.renew_pin(&mut self.writer.lock());
                        drop(before);
                    }
                }
            }
        }
    }

    fn next_work(&self) -> Option<Work> {
        let mut state = self.background.state.lock();
        let mut may_retry = false;
        loop {
            if state.is_stopping {
                return None;
            }
            if let Some(failure) = self.latch.cause() {
                drop(state);
                let had_tickets = self.background.abandon_tickets(failure);
                state = self.background.state.lock();
                if !had_tickets && !state.is_stopping && state.wanted.is_empty() {
                    self.background.wake.wait(&mut state);
                }
                continue;
            }
            let is_job_due = state.job.is_some() && (state.deferred.is_none() || may_retry);
            if state.is_compaction_due && (!is_job_due || self.has_too_many_runs(&state)) {
                return Some(Work::Compaction);
            }
            if is_job_due {
                return Some(Work::Job);
            }
            if state.job.is_some() {
                may_retry =
                    self.background.wake.wait_for(&mut state, RETRY_FLUSH_AFTER).timed_out();
            } else {
                self.background.wake.wait(&mut state);
            }
        }
    }
}
