//! Flushes, snapshots and compaction of the working copy, beside commits.
//!
//! At most one memtable is sealed and waits to be flushed. Sealing is done under the writer lock,
//! between two commits, so that a memtable never holds part of a version. What is flushed is made
//! durable in the log first: the working copy is never ahead of the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_state_engine::{Compacted, Sealed};
use parking_lot::{Condvar, Mutex};

use crate::commit::last_rows;
use crate::event::StateEvent;
use crate::head::Head;
use crate::options::RETRY_FLUSH_AFTER;
use crate::shared::{Shared, Writer};
use crate::snapshot::{SnapshotTicket, retain, take};

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
    /// Tickets of snapshots that the next seal is for.
    wanted: Vec<SnapshotTicket>,
    /// The version of the newest snapshot, or that of the last attempt.
    snapshot_version: u64,
    snapshot_error: Option<Error>,
    /// The full disk that the job waits for.
    deferred: Option<Error>,
    is_compaction_due: bool,
    is_stopping: bool,
}

/// A sealed memtable that is to be flushed.
#[derive(Debug)]
struct Job {
    sealed: Sealed,
    head: Arc<Head>,
    is_snapshot: bool,
    tickets: Vec<SnapshotTicket>,
}

/// How a job went.
enum Step {
    Done,
    /// There is none, or it waits for space, or the store has failed.
    Nothing,
}

impl Background {
    /// Nothing to do yet. `snapshot_version` is that of the newest snapshot.
    pub(crate) fn new(snapshot_version: u64, has_thread: bool) -> Self {
        let state = State { snapshot_version, ..State::default() };
        Self { state: Mutex::new(state), wake: Condvar::new(), done: Condvar::new(), has_thread }
    }

    pub(crate) fn wake(&self) {
        // Under the lock, or a thread between its check and its wait would miss it.
        let _state = self.state.lock();
        self.wake.notify_all();
        self.done.notify_all();
    }

    /// Asks for a snapshot with the next seal.
    pub(crate) fn want(&self, ticket: SnapshotTicket) {
        self.state.lock().wanted.push(ticket);
    }

    /// Lets the thread end after what it is doing.
    pub(crate) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.wake();
    }

    /// Once nobody works any more: the snapshots that have not been taken are not taken.
    pub(crate) fn abandon_tickets(&self, error: &Error) {
        let mut state = self.state.lock();
        let mut tickets = std::mem::take(&mut state.wanted);
        tickets.extend(state.job.iter_mut().flat_map(|job| std::mem::take(&mut job.tickets)));
        drop(state);
        tickets.iter().for_each(|ticket| ticket.resolve(Err(error.clone())));
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
    /// before it is not flushed, or while there are too many sorted runs.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        let limit = self.options.memtable_bytes.saturating_mul(2);
        if self.engine.memtable_bytes() < limit {
            return Ok(());
        }
        if !self.background.has_thread {
            self.run_job();
        }
        let mut state = self.background.state.lock();
        while state.job.is_some() || self.has_too_many_runs(&state) {
            if let Some(full) = &state.deferred {
                return Err(full.context("the working copy cannot be flushed"));
            }
            self.latch.check()?;
            self.check_open()?;
            assert!(self.background.has_thread, "without a thread nothing is left to be done");
            self.background.done.wait(&mut state);
        }
        self.latch.check()
    }

    fn has_too_many_runs(&self, state: &State) -> bool {
        state.is_compaction_due && self.engine.stats().level_0_runs > self.options.stall_l0_runs
    }

    /// Seals the memtable if it is full, or if a snapshot is due or wanted, and no other waits.
    /// Without a thread, also does what follows.
    pub(crate) fn seal_if_due(&self, writer: &mut Writer) -> Result<()> {
        self.seal_when(writer, false)?;
        if !self.background.has_thread {
            while matches!(self.run_job(), Step::Done) {
                self.seal_when(writer, false)?;
            }
            while self.compact() {}
            self.latch.check()?;
        }
        Ok(())
    }

    /// Seals what has been committed since the last seal, and flushes it.
    pub(crate) fn flush_working(&self, writer: &mut Writer) -> Result<()> {
        self.wait_for_job()?;
        if writer.sealed_version < self.head().version {
            self.seal_when(writer, true)?;
            if self.background.has_thread {
                self.wait_for_job()?;
            } else {
                self.run_job();
            }
        }
        if let Some(full) = &self.background.state.lock().deferred {
            return Err(full.clone());
        }
        self.latch.check()
    }

    fn wait_for_job(&self) -> Result<()> {
        let mut state = self.background.state.lock();
        while state.job.is_some() && self.background.has_thread {
            if let Some(full) = &state.deferred {
                return Err(full.clone());
            }
            self.latch.check()?;
            self.background.done.wait(&mut state);
        }
        Ok(())
    }

    fn seal_when(&self, writer: &mut Writer, is_forced: bool) -> Result<()> {
        let head = self.head();
        let mut state = self.background.state.lock();
        let interval = self.options.snapshot_interval;
        let since = head.version.saturating_sub(state.snapshot_version);
        let is_snapshot = !state.wanted.is_empty() || (interval > 0 && since >= interval);
        let is_full = self.engine.memtable_bytes() >= self.options.memtable_bytes;
        if state.job.is_some() || !(is_snapshot || is_full || is_forced) {
            return Ok(());
        }
        let meta = self.meta(&head)?;
        let sealed = self.engine.seal(&last_rows(&meta)).inspect_err(|e| self.latch(e))?;
        writer.sealed_version = head.version;
        let tickets = std::mem::take(&mut state.wanted);
        state.job = Some(Job { sealed, head, is_snapshot, tickets });
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
        if let Err(error) = self.flush_sealed(&sealed, head.version) {
            return self.defer_or_fail(&error);
        }
        let taken = is_snapshot.then(|| take::take(self, &sealed, &head));
        let job = {
            let mut state = self.background.state.lock();
            state.deferred = None;
            state.is_compaction_due = true;
            if let Some(taken) = &taken {
                state.snapshot_version = head.version;
                state.snapshot_error = taken.as_ref().err().cloned();
            }
            state.job.take()
        };
        self.background.done.notify_all();
        if let Some(taken) = taken {
            match &taken {
                Ok(_) => self.listener.notify(&StateEvent::SnapshotTaken { version: head.version }),
                Err(error) => {
                    let (version, error) = (head.version, self.latch_on(error.clone()));
                    self.listener.notify(&StateEvent::SnapshotFailed { version, error });
                }
            }
            let is_taken = taken.is_ok();
            for ticket in job.into_iter().flat_map(|job| job.tickets) {
                ticket.resolve(taken.clone());
            }
            if is_taken && let Err(error) = retain::retain(self) {
                tracing::warn!(error = %self.latch_on(error), "retention of snapshots");
            }
        }
        Step::Done
    }

    fn flush_sealed(&self, sealed: &Sealed, version: u64) -> Result<()> {
        self.latch.check()?;
        let log = self.flush_log()?;
        assert!(log >= version, "the log is durable through the sealed version");
        self.engine.flush(sealed)
    }

    fn defer_or_fail(&self, error: &Error) -> Step {
        let mut state = self.background.state.lock();
        let tickets = match &mut state.job {
            Some(job) => {
                job.is_snapshot = false;
                std::mem::take(&mut job.tickets)
            }
            None => unreachable!("a job was run"),
        };
        if error.kind() == ErrorKind::StorageFull && !error.latches() {
            state.deferred = Some(error.clone());
            drop(state);
            self.listener.notify(&StateEvent::FlushDeferred { error: error.clone() });
        } else {
            state.job = None;
            drop(state);
            self.latch(error);
        }
        tickets.iter().for_each(|ticket| ticket.resolve(Err(error.clone())));
        self.background.done.notify_all();
        Step::Nothing
    }

    /// One step of compaction; returns whether there may be more.
    fn compact(&self) -> bool {
        if self.latch.check().is_err() {
            return false;
        }
        match self.engine.compact_once() {
            Ok(Compacted::Some) => true,
            Ok(Compacted::Nothing) => {
                self.background.state.lock().is_compaction_due = false;
                false
            }
            Err(error) => {
                if error.kind() != ErrorKind::StorageFull || error.latches() {
                    self.latch(&error);
                }
                self.background.state.lock().is_compaction_due = false;
                false
            }
        }
    }

    /// The background thread.
    pub(crate) fn run_background(self: &Arc<Self>) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.background_loop()));
        if ran.is_err() {
            let message = "the background thread of the state store panicked";
            self.latch(&Error::new(ErrorKind::Io, message).latching());
        }
    }

    fn background_loop(&self) {
        while let Some(work) = self.next_work() {
            match work {
                Work::Job => {
                    if matches!(self.run_job(), Step::Done) {
                        let mut writer = self.writer.lock();
                        if let Err(error) = self.seal_when(&mut writer, false) {
                            tracing::error!(%error, "seal the memtable");
                        }
                    }
                }
                Work::Compaction => {
                    self.compact();
                    self.background.done.notify_all();
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
                self.background.abandon_tickets(failure);
                state = self.background.state.lock();
                if !state.is_stopping {
                    self.background.wake.wait(&mut state);
                }
                continue;
            }
            if state.job.is_some() && (state.deferred.is_none() || may_retry) {
                return Some(Work::Job);
            }
            if state.is_compaction_due {
                return Some(Work::Compaction);
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

/// What the background thread does next.
enum Work {
    Job,
    Compaction,
}
