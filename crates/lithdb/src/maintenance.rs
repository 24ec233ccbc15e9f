//! The maintenance thread: ages, idle marks, automatic flushes and collection, for all tables of a database.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result, spawn};
use parking_lot::{Condvar, Mutex};

use crate::shared::Shared;

/// How often tables are looked at.
const TICK: Duration = Duration::from_millis(500);

/// The running thread. It holds no share in the database.
#[derive(Debug)]
pub(crate) struct Maintenance {
    stop: Arc<Stop>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Stop {
    is_stopping: Mutex<bool>,
    changed: Condvar,
}

impl Maintenance {
    pub(crate) fn start(db: Weak<Shared>, tick: Duration) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let theirs = Arc::clone(&stop);
        let tick = tick.min(TICK);
        let thread = spawn("lithdb-maintenance", move || run(&db, &theirs, tick)).map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("start the maintenance thread: {e}"), e)
        })?;
        Ok(Self { stop, thread: Mutex::new(Some(thread)) })
    }

    /// Stops the thread and waits for it, unless this is it.
    pub(crate) fn stop(&self) {
        *self.stop.is_stopping.lock() = true;
        self.stop.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

fn run(db: &Weak<Shared>, stop: &Stop, tick: Duration) {
    loop {
        {
            let mut is_stopping = stop.is_stopping.lock();
            if !*is_stopping {
                let _ = stop.changed.wait_for(&mut is_stopping, tick);
            }
            if *is_stopping {
                return;
            }
        }
        let Some(db) = db.upgrade() else { return };
        if let Err(error) = db.maintain() {
            tracing::debug!(%error, "maintenance");
        }
    }
}
