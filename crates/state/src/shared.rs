//! What the handles of an open store and its background thread share.
//!
//! Locks, in the order in which they are taken: `closing`, `writer` (one commit at a time; held
//! during its write to the log), `housekeeping` (snapshots come and go), `pending`, `head`, the
//! background's state. Readers take `head`, or `pending` and `head`, and nobody holds those during
//! I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb::{Db, Position};
use lithdb_env::{Env, Error, ErrorKind, FileLock, Latch, Pool, Result};
use lithdb_state_engine::{Engine, Engines};
use parking_lot::Mutex;

use crate::background::Background;
use crate::dirs::Dirs;
use crate::event::{EventQueue, StateEvent};
use crate::files::StoreId;
use crate::head::Head;
use crate::metrics::{Metrics, Shown};
use crate::options::StateOptions;
use crate::overlay::Overlay;
use crate::record::Record;
use crate::totals::Totals;
use crate::wal::{FloorHold, Log};

/// An open store.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dirs: Dirs,
    pub(crate) options: StateOptions,
    pub(crate) env: Env,
    pub(crate) events: EventQueue,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) id: StoreId,
    pub(crate) initial_version: u64,
    pub(crate) log: Log,
    /// The right to raise the log's floor, until the store is closed.
    pub(crate) floor: Mutex<Option<FloorHold>>,
    /// The log's database, if it is the store's own and not closed.
    pub(crate) own_db: Mutex<Option<Db>>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) hash_pool: Pool,
    /// Held while snapshots are taken, removed, or relied upon by a rollback.
    pub(crate) housekeeping: Mutex<()>,
    /// Held while the store is closed; how that went.
    pub(crate) closing: Mutex<Option<Result<()>>>,
    /// Serialises changes.
    pub(crate) writer: Mutex<Writer>,
    pub(crate) pending: Mutex<PendingVersion>,
    pub(crate) head: Mutex<Arc<Head>>,
    /// The newest version that is known to be durable.
    pub(crate) durable: AtomicU64,
    pub(crate) latch: Latch,
    pub(crate) metrics: Metrics,
    pub(crate) background: Background,
    pub(crate) is_closed: AtomicBool,
    /// The store's lock, until it is closed.
    pub(crate) lock: Mutex<Option<Box<dyn FileLock>>>,
}

/// What only the caller that changes the store needs.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// Committed versions that are not known to be durable, with the positions of their records.
    pub(crate) undurable: VecDeque<(u64, Position)>,
    /// The version of the newest sealed memtable.
    pub(crate) sealed_version: u64,
    /// The pending version, if the log has its record, and making that durable was refused.
    pub(crate) accepted: Option<Accepted>,
}

/// A version that the log has accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) record: Record,
    /// The totals after it.
    pub(crate) totals: Totals,
    pub(crate) position: Position,
}

/// The version that is being prepared.
#[derive(Debug, Default)]
pub(crate) struct PendingVersion {
    pub(crate) overlay: Arc<Overlay>,
}

impl Shared {
    /// The newest committed version.
    pub(crate) fn head(&self) -> Arc<Head> {
        Arc::clone(&self.head.lock())
    }

    /// Refuses changes of a store that is closed or has failed.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        self.check_not_failed()
    }

    /// Refuses work for a store that has failed, and closes it for changes.
    pub(crate) fn check_not_failed(&self) -> Result<()> {
        self.latch.check()?;
        match self.failure() {
            Some(failure) => {
                self.latch(&failure);
                self.latch.check()
            }
            None => Ok(()),
        }
    }

    /// Why the store takes no changes any more: its own failure, or that of a part of it, which may
    /// have failed in the background.
    pub(crate) fn failure(&self) -> Option<Error> {
        let own = self.latch.cause().cloned();
        own.or_else(|| self.engine.failure()).or_else(|| self.log.table.failure())
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            let message = format!("the state store {} was closed", self.dirs.root().display());
            return Err(Error::new(ErrorKind::Closed, message));
        }
        Ok(())
    }

    /// Closes the store for changes.
    pub(crate) fn latch(&self, error: &Error) {
        if self.latch.close(error) {
            tracing::error!(%error, "the state store takes no commits until it is reopened");
            self.events.push(StateEvent::Latched { error: error.clone() });
        }
        self.background.wake();
    }

    /// Latches if `error` is one after which the state of a file is unknown, or if the log has
    /// failed: after the failure itself, its table may have met another error.
    pub(crate) fn latch_on(&self, error: Error) -> Error {
        if error.latches() || error.kind() == ErrorKind::Latched {
            self.latch(&error);
        } else if let Some(failure) = self.log.table.failure() {
            self.latch(&failure);
        }
        error
    }

    /// Sets the gauges of a store that has just been opened, whose log begins with `oldest`.
    pub(crate) fn show_opened(&self, oldest: u64) {
        let version = self.head().version;
        self.metrics.begin(Shown {
            pending_ops: 0,
            version,
            durable_version: version,
            snapshot_version: self.background.snapshot_version(),
            oldest,
            l0_runs: self.engine.stats().level_0_runs as u64,
        });
        self.show_log();
    }

    /// Sets the gauge of the log's versions, of which some may have been collected. One thread
    /// collects them at a time.
    pub(crate) fn show_log(&self) {
        match self.log.range() {
            Ok(versions) => {
                let oldest = versions.map_or(0, |versions| *versions.start());
                self.metrics.show(|shown| shown.oldest = oldest);
            }
            Err(error) => tracing::warn!(%error, "the number of the log's versions is not known"),
        }
    }

    /// Sets the gauge of the newest durable version.
    pub(crate) fn show_durable(&self) {
        let durable = self.durable.load(Ordering::Acquire);
        self.metrics.show(|shown| shown.set_durable(durable));
    }

    /// Makes every committed version durable and returns the newest.
    pub(crate) fn flush_log(&self) -> Result<u64> {
        let version = self.head().version;
        self.log.table.flush().map_err(|error| self.latch_on(error))?;
        self.durable.fetch_max(version, Ordering::AcqRel);
        self.show_durable();
        Ok(version)
    }
}
