//! What a writer and a reader have in common: setup, options, latch, closed flag.
//!
//! The latch and the closed flag never reset. `settings` is locked only briefly.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicBool, Ordering};
use lithdb_env::{Env, Error, ErrorKind, Latch, Result, UnixMillis};
use lithdb_segment::{Context, TableName};

use crate::batch::check_key;
use crate::counters::Counters;
use crate::event::Event;
use crate::options::TableOptions;
use crate::setup::TableSetup;
use crate::state::TableState;

pub(crate) struct Shared {
    pub(crate) setup: TableSetup,
    pub(crate) context: Arc<Context>,
    pub(crate) options: TableOptions,
    pub(crate) settings: Mutex<Settings>,
    pub(crate) hash_seed: u64,
    pub(crate) created: UnixMillis,
    pub(crate) latch: Latch,
    closed: AtomicBool,
    pub(crate) counters: Counters,
    /// The application collects with a filter, whether or not it gave one now.
    pub(crate) has_gc_filter: bool,
}

/// What can change while the table is open.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) ttl: Option<Duration>,
    pub(crate) shards: u16,
}

impl Shared {
    pub(crate) fn new(
        setup: &TableSetup,
        options: &TableOptions,
        state: &TableState,
        shards: u16,
    ) -> Self {
        let ttl = state.ttl_ms.map(Duration::from_millis);
        Self {
            setup: setup.clone(),
            context: setup.context(state, options),
            options: options.clone(),
            settings: Mutex::new(Settings { ttl, shards }),
            hash_seed: state.hash_seed,
            created: state.created,
            latch: Latch::default(),
            closed: AtomicBool::new(false),
            counters: Counters::new(&setup.name),
            has_gc_filter: state.has_gc_filter || setup.filter.is_some(),
        }
    }

    pub(crate) fn name(&self) -> &TableName {
        &self.setup.name
    }

    pub(crate) fn env(&self) -> &Env {
        &self.setup.env
    }

    /// Refuses access to the files of a closed table, for callers that waited for a lock
    /// meanwhile.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(self.closed_error()) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From now on every call is refused. Values and iterators stay valid.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn closed_error(&self) -> Error {
        let message = format!("table {}: it was closed or dropped", self.name());
        Error::new(ErrorKind::Closed, message)
    }

    /// Refuses writes after the first failed write or sync.
    pub(crate) fn check_latch(&self) -> Result<()> {
        self.latch.check().map_err(|e| self.in_context(&e))
    }

    /// Refuses keys of invalid length.
    pub(crate) fn check_lookup_key(&self, key: &[u8]) -> Result<()> {
        check_key(key).map_err(|e| self.in_context(&e))
    }

    /// Prefixes the error with the table's name, once.
    pub(crate) fn in_context(&self, error: &Error) -> Error {
        self.setup.in_context(error)
    }

    /// Adds the table's name to the error. A failed write or sync closes the latch: nothing after
    /// it is acknowledged. Any other failure did nothing and is only passed on.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let error = self.in_context(error);
        if error.latches() && self.latch.close(&error) {
            let table = self.name().clone();
            let event = Event::Latched { table: table.clone(), cause: error.clone() };
            // The listener first: its panics are caught, those of the metrics are not.
            self.setup.listener.emit(&event);
            metrics::counter!("lithdb_latched_total", "table" => table.to_string()).increment(1);
        }
        error
    }

    /// Runs `f`. A panic closes the latch: what it left undone is unknown.
    pub(crate) fn latch_on_panic<T>(&self, what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Io, format!("{what} panicked")).latching();
            // `fail` closes the latch before it calls the metrics recorder and the log, which may
            // panic, too.
            let failed = catch_unwind(AssertUnwindSafe(|| self.fail(&error)));
            Err(failed.unwrap_or_else(|_| self.in_context(&error)))
        })
    }
}
