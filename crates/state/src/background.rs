//! Flushes, snapshots and compaction of the working copy, beside commits.
//!
//! At most one memtable is sealed and waits to be flushed. Sealing is done under the writer lock,
//! between two commits, so that a memtable never holds part of a version. What is flushed is made
//! durable in the log first: the working copy is never ahead of the log.
//!
//! The background thread takes the writer lock to seal for a snapshot that is wanted. So whoever
//! waits for the thread releases that lock meanwhile.

use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_state_engine::{Compacted, Sealed};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::commit::last_rows;
use crate::event::StateEvent;
use crate::head::Head;
use crate::metrics::timed;
use crate::shared::{Shared, Writer};
use crate::snapshot::{Snapshot, SnapshotPromise, SnapshotTicket, retain, take};

mod thread;

/// What is to be done in the background, and who does it.
#[derive(Debug)]
pub(crate) struct Background {
    state: Mutex<State>,
    /// Something is to be done, or the thread is to stop.
    wake: Condvar,
    /// Something was done.
    done: Condvar,
    /// Whether a thread does it, not the caller.
    has_thread: bool,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    /// Snapshots that the next seal is for.
    wanted: Vec<SnapshotPromise>,
    /// The version of the newest snapshot, or that of the last attempt.
    snapshot_version: u64,
    snapshot_error: Option<Error>,
    /// The full disk that the job waits for.
    deferred: Option<Error>,
    is_compaction_due: bool,
    /// Sorted runs in level 0 after the last flush or compaction.
    runs: usize,
    is_stopping: bool,
}

/// A sealed memtable that is to be flushed.
#[derive(Debug)]
struct Job {
    sealed: Sealed,
    head: Arc<Head>,
    is_snapshot: bool,
    tickets: Vec<SnapshotPromise>,
}

/// How a job went.
#[derive(PartialEq, Eq)]
enum Step {
    Done,
    /// There is none, or it waits for space, or the store has failed.
    Nothing,
}

impl Background {
    /// A level that compaction has not looked at. `snapshot_version` is that of the newest
    /// snapshot.
    pub(crate) fn new(snapshot_version: u64, has_thread: bool) -> Self {
        let state = State { snapshot_version, is_compaction_due: true, ..State::default() };
        Self { state: Mutex::new(state), wake: Condvar::new(), done: Condvar::new(), has_thread }
    }

    pub(crate) fn wake(&self) {
        // Under the lock, or a thread between its check and its wait would miss it.
        let _state = self.state.lock();
        self.wake.notify_all();
        self.done.notify_all();
    }

    /// Asks for a snapshot with the next seal.
    pub(crate) fn want_snapshot(&self) -> SnapshotTicket {
        let promise = SnapshotPromise::default();
        let ticket = promise.ticket();
        self.state.lock().wanted.push(promise);
        self.wake.notify_all();
        ticket
    }

    /// Lets the thread end after what it is doing.
    pub(crate) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.wake();
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }

    /// Fails the snapshots that have not been taken; returns whether there were any.
    pub(crate) fn abandon_tickets(&self, error: &Error) -> bool {
        let mut state = self.state.lock();
        let mut tickets = std::mem::take(&mut state.wanted);
        tickets.extend(state.job.iter_mut().flat_map(|job| std::mem::take(&mut job.tickets)));
        drop(state);
        tickets.iter().for_each(|ticket| ticket.resolve(Err(error.clone())));
        !tickets.is_empty()
    }

    pub(crate) fn snapshot_error(&self) -> Option<Error> {
        self.state.lock().snapshot_error.clone()
    }

    pub(crate) fn snapshot_version(&self) -> u64 {
        self.state.lock().snapshot_version
    }
}

impl Shared {
    /// Before a commit: waits while the memtable is twice as large as it should be and the one
    /// before it is not flushed, or while there are too many sorted runs. Releases the writer lock
    /// while it waits.
    pub(crate) fn wait_for_room(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<()> {
        if !self.background.has_thread {
            self.run_job();
        }
        loop {
            {
                let state = self.background.state.lock();
                let is_large =
                    self.engine.memtable_bytes() / 2 >= self.options.memtable_bytes.max(1);
                if is_large && let Some(full) = &state.deferred {
                    return Err(full.context("the working copy cannot be flushed"));
                }
                let waits_for_flush = is_large && state.job.is_some();
                if !waits_for_flush && !self.has_too_many_runs(&state) {
                    return Ok(());
                }
            }
            self.check_writable()?;
            self.wait_for_background(writer);
        }
    }

    fn has_too_many_runs(&self, state: &State) -> bool {
        state.is_compaction_due && state.runs > self.options.stall_l0_runs
    }

    /// Waits until the thread has done something; without a thread does it.
    fn wait_for_background(&self, writer: &mut MutexGuard<'_, Writer>) {
        if !self.background.has_thread {
            self.compact();
            return;
        }
        MutexGuard::unlocked(writer, || {
            let mut state = self.background.state.lock();
            let is_over = state.is_stopping || self.latch.cause().is_some();
            if !is_over && (state.job.is_some() || state.is_compaction_due) {
                self.background.done.wait(&mut state);
            }
        });
    }

    /// Seals the memtable if it is full, or if a snapshot is due or wanted, and no other waits.
    /// Without a thread, also does what follows.
    pub(crate) fn seal_if_due(&self, writer: &mut Writer) -> Result<()> {
        self.seal_when(writer, false)?;
        if !self.background.has_thread {
            while self.run_job() == Step::Done {
                self.seal_when(writer, false)?;
            }
            while self.compact() {}
            self.latch.check()?;
            drop(self.renew_pin(writer));
        }
        Ok(())
    }

    /// Flushes what has been committed, and takes the snapshots that are due or wanted.
    pub(crate) fn flush_working(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<()> {
        loop {
            self.check_not_failed()?;
            if !self.background.has_thread {
                self.run_job();
            }
            let has_job = {
                let state = self.background.state.lock();
                if let Some(full) = &state.deferred {
                    return Err(full.context("the working copy cannot be flushed"));
                }
                state.job.is_some()
            };
            if has_job {
                self.wait_for_background(writer);
            } else if writer.sealed_version < self.head().version {
                self.seal_when(writer, true)?;
            } else {
                return self.latch.check();
            }
        }
    }

    fn seal_when(&self, writer: &mut Writer, is_forced: bool) -> Result<()> {
        let head = self.head();
        let is_full = self.engine.memtable_bytes() >= self.options.memtable_bytes;
        let (is_snapshot, tickets) = {
            let mut state = self.background.state.lock();
            let interval = self.options.snapshot_interval;
            let since = head.version.saturating_sub(state.snapshot_version);
            let is_snapshot = !state.wanted.is_empty() || (interval > 0 && since >= interval);
            if state.job.is_some() || !(is_snapshot || is_full || is_forced) {
                return Ok(());
            }
            (is_snapshot, std::mem::take(&mut state.wanted))
        };
        // Only the holder of the writer lock makes a job, so that there is still none.
        let meta = self.meta(&head);
        let sealed = meta.and_then(|meta| self.engine.seal(&last_rows(&meta)));
        let sealed = sealed.inspect_err(|error| {
            self.latch(error);
            tickets.iter().for_each(|ticket| ticket.resolve(Err(error.clone())));
        })?;
        writer.sealed_version = head.version;
        self.background.state.lock().job = Some(Job { sealed, head, is_snapshot, tickets });
        self.background.wake.notify_all();
        Ok(())
    }

    /// Flushes the sealed memtable, and takes the snapshot that it was sealed for.
    fn run_job(&self) -> Step {
        let (sealed, head, is_snapshot) = {
            let state = self.background.state.lock();
            let Some(job) = &state.job else { return Step::Nothing };
            (job.sealed.clone(), Arc::clone(&job.head), job.is_snapshot)
        };
        let flush = || self.flush_sealed(&sealed, head.version);
        if let Err(error) = timed(&*self.env.clock, &self.metrics.flush, flush) {
            return self.defer_or_fail(&error);
        }
        let housekeeping = self.housekeeping.lock();
        // A rollback relies on the snapshots that are there.
        let is_snapshot = is_snapshot && !self.background.is_stopping();
        let take = || take::take(self, &sealed, &head);
        let taken = is_snapshot.then(|| timed(&*self.env.clock, &self.metrics.snapshot, take));
        let runs = self.show_runs();
        let job = {
            let mut state = self.background.state.lock();
            state.deferred = None;
            state.is_compaction_due = true;
            state.runs = runs;
            if let Some(taken) = &taken {
                state.snapshot_version = head.version;
                state.snapshot_error = taken.as_ref().err().cloned();
            }
            state.job.take()
        };
        self.background.done.notify_all();
        let Some(taken) = taken else { return Step::Done };
        if taken.is_ok() {
            self.metrics.show(|shown| shown.snapshot_version = head.version);
        }
        for ticket in job.into_iter().flat_map(|job| job.tickets) {
            ticket.resolve(taken.clone());
        }
        self.report_snapshot(head.version, taken);
        drop(housekeeping);
        Step::Done
    }

    /// Reports a snapshot that was taken or has failed, and removes older ones.
    fn report_snapshot(&self, version: u64, taken: Result<Snapshot>) {
        match taken {
            Ok(_) => self.events.push(StateEvent::SnapshotTaken { version }),
            Err(error) => {
                let error = self.latch_on(error);
                self.events.push(StateEvent::SnapshotFailed { version, error });
                return;
            }
        }
        if let Err(error) = retain::retain(self) {
            let error = self.latch_on(error);
            self.events.push(StateEvent::RetentionFailed { error });
        }
    }

    fn flush_sealed(&self, sealed: &Sealed, version: u64) -> Result<()> {
        self.latch.check()?;
        let log = self.flush_log()?;
        assert!(log >= version, "the log is durable through the sealed version");
        self.engine.flush(sealed)
    }

    /// A lack of space or descriptors is waited for; anything else closes the store for changes.
    fn defer_or_fail(&self, error: &Error) -> Step {
        let is_transient = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::Exhausted)
            || error.is_permission_denied();
        {
            let mut state = self.background.state.lock();
            if is_transient && !error.latches() {
                state.deferred = Some(error.clone());
                if let Some(job) = &mut state.job {
                    job.is_snapshot = false;
                }
            } else if let Some(job) = state.job.take() {
                // Its snapshots are among those that will not be taken.
                state.wanted.extend(job.tickets);
            }
        }
        if is_transient && !error.latches() {
            self.events.push(StateEvent::FlushDeferred { error: error.clone() });
        } else {
            self.latch(error);
        }
        self.background.abandon_tickets(error);
        self.background.done.notify_all();
        Step::Nothing
    }

    /// The sorted runs in level 0, of which it also sets the gauge.
    fn show_runs(&self) -> usize {
        let runs = self.engine.stats().level_0_runs;
        self.metrics.show(|shown| shown.l0_runs = runs as u64);
        runs
    }

    /// One step of compaction; returns whether there may be more.
    fn compact(&self) -> bool {
        if self.latch.cause().is_some() {
            return false;
        }
        let compacted = self.engine.compact_once();
        let runs = self.show_runs();
        let is_more = match compacted {
            Ok(Compacted::Some) => true,
            Ok(Compacted::Nothing) => false,
            Err(error) => {
                tracing::warn!(%error, "compaction of the working copy");
                self.latch_on(error);
                false
            }
        };
        let mut state = self.background.state.lock();
        (state.is_compaction_due, state.runs) = (is_more, runs);
        is_more
    }
}
