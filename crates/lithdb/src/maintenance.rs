//! The database's own threads: upkeep (ages, idle marks, automatic flushes, collection by the TTL) and filters.
//!
//! The threads of a kind take turns in making the rounds of all tables. While one is held up by a table, the next one goes
//! round, and passes that table over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result, spawn};
use parking_lot::{Condvar, Mutex};

use crate::shared::Shared;

/// Tables are looked at this often or more often.
const TICK: Duration = Duration::from_millis(500);
const UPKEEP_THREADS: usize = 3;
const FILTER_THREADS: usize = 2;

/// The running threads. They hold no share in the database.
#[derive(Debug)]
pub(crate) struct Maintenance {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    is_stopping: Mutex<bool>,
    changed: Condvar,
}

/// The threads of one kind.
struct Crew {
    db: Weak<Shared>,
    stop: Arc<Stop>,
    /// Held by the thread that waits for the next round.
    turn: Mutex<()>,
    tick: Duration,
    round: fn(&Shared),
}

impl Maintenance {
    pub(crate) fn start(db: &Arc<Shared>) -> Result<Self> {
        let mut this = Self { stop: Arc::default(), threads: Vec::new() };
        let options = &db.options;
        let tick = options.gc_interval.min(options.idle_after).min(TICK);
        let tick = options.flush_after.map_or(tick, |after| tick.min(after));
        this.add(db, "lithdb-upkeep", UPKEEP_THREADS, tick, Shared::keep_up)?;
        this.add(db, "lithdb-filter", FILTER_THREADS, options.gc_interval, Shared::ask_filters)?;
        Ok(this)
    }

    fn add(
        &mut self,
        db: &Arc<Shared>,
        name: &str,
        threads: usize,
        tick: Duration,
        round: fn(&Shared),
    ) -> Result<()> {
        let (db, stop) = (Arc::downgrade(db), Arc::clone(&self.stop));
        let tick = tick.max(Duration::from_millis(1));
        let crew = Arc::new(Crew { db, stop, turn: Mutex::default(), tick, round });
        for _ in 0..threads {
            let theirs = Arc::clone(&crew);
            let thread = spawn(name, move || theirs.run()).map_err(|e| {
                Error::with_source(ErrorKind::Io, format!("start the thread {name}: {e}"), e)
            })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// No thread begins another round.
    pub(crate) fn stop(&self) {
        *self.stop.is_stopping.lock() = true;
        self.stop.changed.notify_all();
    }
}

impl Drop for Maintenance {
    /// Waits for all threads, but for the one that does this.
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}

impl Crew {
    fn run(&self) {
        loop {
            {
                let _turn = self.turn.lock();
                let mut is_stopping = self.stop.is_stopping.lock();
                if !*is_stopping {
                    // Woken early, it goes round early.
                    let _ = self.stop.changed.wait_for(&mut is_stopping, self.tick);
                }
                if *is_stopping {
                    return;
                }
            }
            let Some(db) = self.db.upgrade() else { return };
            // Upkeep and collection latch their table if they panic; whatever else does, the next round is made.
            if catch_unwind(AssertUnwindSafe(|| (self.round)(&db))).is_err() {
                tracing::error!("a round of maintenance panicked");
            }
        }
    }
}

/// Does something that no other thread does at this moment; `is_busy` says so.
pub(crate) fn unless_busy(is_busy: &AtomicBool, act: impl FnOnce() -> Result<()>) {
    struct Busy<'a>(&'a AtomicBool);
    impl Drop for Busy<'_> {
        fn drop(&mut self) {
            self.0.store(false, Ordering::Release);
        }
    }
    if is_busy.swap(true, Ordering::Acquire) {
        return;
    }
    let _busy = Busy(is_busy);
    if let Err(error) = act() {
        // Told by an event, by the table's failure, or by the next flush.
        tracing::debug!(%error, "maintenance");
    }
}
