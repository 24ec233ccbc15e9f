//! The database's own threads: maintenance (ages, idle marks, automatic flushes, collection by the TTL) and filters.
//!
//! The threads of a kind take turns in making the rounds of all tables. While one is held up by a table, the next one goes
//! round, and passes that table over. There are two of a kind, and as many more as tables have held up at the same time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result, spawn};
use parking_lot::{Condvar, Mutex};

use crate::shared::Shared;

/// Tables are looked at this often or more often.
const TICK: Duration = Duration::from_millis(500);

/// The running threads. They hold no share in the database.
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
    /// Those that have the turn or wait for it.
    waiting: AtomicUsize,
    all: AtomicUsize,
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
            all: AtomicUsize::new(0),
            tick: tick.max(Duration::from_millis(1)),
            round,
        };
        Arc::new(group).add()
    };
    begin("lithdb-maintain", tick, Shared::run_maintenance)?;
    begin("lithdb-filter", options.gc_interval, Shared::run_filters)
}

impl Threads {
    /// No thread begins another round.
    pub(crate) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.stopped.notify_all();
    }

    /// Waits for all threads, but for the one that does this.
    pub(crate) fn join(&self) {
        let handles = std::mem::take(&mut self.state.lock().handles);
        for thread in handles {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}

impl ThreadGroup {
    /// One thread more, unless they are being stopped.
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
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn run(self: &Arc<Self>) {
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            {
                let _turn = self.turn.lock();
                let mut state = self.threads.state.lock();
                if !state.is_stopping {
                    // Woken early, it goes round early.
                    let _ = self.threads.stopped.wait_for(&mut state, self.tick);
                }
                if state.is_stopping {
                    return;
                }
            }
            let Some(db) = self.db.upgrade() else { return };
            let is_last = self.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
            // Each table holds up one of them at the most.
            if is_last
                && self.all.load(Ordering::Relaxed) <= db.tables.all().len()
                && let Err(error) = self.add()
            {
                tracing::warn!(%error, "tables wait for one that is held up");
            }
            // Upkeep and collection latch their table if they panic; whatever else does, the next round is made.
            if catch_unwind(AssertUnwindSafe(|| (self.round)(&db))).is_err() {
                tracing::error!("a round of maintenance panicked");
            }
        }
    }
}

/// Does something that no other thread does at this moment.
pub(crate) fn run_unless_busy(busy: &Mutex<()>, act: impl FnOnce() -> Result<()>) {
    let Some(_busy) = busy.try_lock() else { return };
    if let Err(error) = act() {
        // Told by an event, by the table's failure, or by the next flush.
        tracing::debug!(%error, "maintenance");
    }
}
