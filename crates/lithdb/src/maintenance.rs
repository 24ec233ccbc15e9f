//! The background threads of a database: maintenance (sealing by age, idle marks, automatic
//! flushes, collection by TTL) and filters. `open` starts them and `close` stops and joins them.
//!
//! Threads of a kind take turns visiting all tables. While one blocks on a table, the next visits
//! the others. Each kind starts with one thread and adds another whenever none is left waiting, up
//! to one more than there are tables.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result, spawn};
use parking_lot::{Condvar, Mutex};

use crate::shared::Shared;

/// The longest interval between maintenance rounds.
const TICK: Duration = Duration::from_millis(500);

/// The running threads. They hold only weak references to the database.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_stopping: bool,
    handles: Vec<JoinHandle<()>>,
}

/// The threads of one kind.
struct ThreadGroup {
    db: Weak<Shared>,
    threads: Arc<Threads>,
    name: &'static str,
    /// Held by the thread that waits for the next round.
    turn: Mutex<()>,
    /// Number of threads that hold the turn or wait for it.
    waiting: AtomicUsize,
    total: AtomicUsize,
    tick: Duration,
    round: fn(&Shared),
}

/// Starts the threads of a database.
pub(crate) fn start(db: &Arc<Shared>) -> Result<()> {
    let options = &db.options;
    let tick = options.gc_interval.min(options.idle_after).min(TICK);
    let tick = options.flush_after.map_or(tick, |after| tick.min(after));
    let begin = |name, tick: Duration, round| {
        let group = ThreadGroup {
            db: Arc::downgrade(db),
            threads: Arc::clone(&db.threads),
            name,
            turn: Mutex::default(),
            waiting: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
            tick: tick.max(Duration::from_millis(1)),
            round,
        };
        Arc::new(group).add()
    };
    begin("lithdb-maintain", tick, Shared::run_maintenance)?;
    begin("lithdb-filter", options.gc_interval, Shared::run_filters)
}

impl Threads {
    /// Tells all threads to stop.
    pub(crate) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.stopped.notify_all();
    }

    /// Joins all threads except the current one.
    pub(crate) fn join(&self) {
        let handles = std::mem::take(&mut self.state.lock().handles);
        for thread in handles {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }
}

impl ThreadGroup {
    /// Adds a thread unless stopping.
    fn add(self: &Arc<Self>) -> Result<()> {
        let mut state = self.threads.state.lock();
        if state.is_stopping {
            return Ok(());
        }
        let (theirs, name) = (Arc::clone(self), self.name);
        let thread = spawn(name, move || theirs.run()).map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("start the thread {name}: {e}"), e)
        })?;
        state.handles.push(thread);
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn run(self: &Arc<Self>) {
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            {
                let _turn = self.turn.lock();
                let mut state = self.threads.state.lock();
                if !state.is_stopping {
                    // A spurious wake-up starts the round early.
                    let _ = self.threads.stopped.wait_for(&mut state, self.tick);
                }
                if state.is_stopping {
                    return;
                }
            }
            let Some(db) = self.db.upgrade() else { return };
            let is_last = self.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
            // Each table blocks at most one thread.
            if is_last
                && self.total.load(Ordering::Relaxed) <= db.tables.all().len()
                && let Err(error) = self.add()
            {
                tracing::warn!(%error, "cannot start another thread; tables wait behind a blocked one");
            }
            // A panic in maintenance or collection latches the table; any other panic only ends
            // this round.
            if catch_unwind(AssertUnwindSafe(|| (self.round)(&db))).is_err() {
                tracing::error!("a round of maintenance panicked");
            }
        }
    }
}

/// Runs `act` unless another thread holds `busy`.
pub(crate) fn run_unless_busy(busy: &Mutex<()>, act: impl FnOnce() -> Result<()>) {
    let Some(_busy) = busy.try_lock() else { return };
    if let Err(error) = act() {
        // Also reported by an event, by `failure`, or by the next flush.
        tracing::debug!(%error, "maintenance failed");
    }
}
