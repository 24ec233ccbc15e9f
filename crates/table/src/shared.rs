//! What every handle of an open table shares, whether it writes or reads only: name, options, latch, closed flag.
//!
//! Once the latch is closed or the table is closed, neither opens again. `settings` is held for moments only.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicBool, Ordering};
use lithdb_env::{Env, Error, ErrorKind, Latch, Result, UnixMillis};
use lithdb_segment::{Context, TableName};

use crate::batch::check_key;
use crate::callback::refuse_in_callback;
use crate::counters::Counters;
use crate::event::Event;
use crate::options::TableOptions;
use crate::setup::TableSetup;
use crate::state::TableState;

#[derive(Debug)]
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
    /// The application collects with a filter, whether it was given now or not.
    pub(crate) has_gc_filter: bool,
}

/// What can change while the table is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) ttl: Option<Duration>,
    pub(crate) shards: u16,
}

impl Shared {
    pub(crate) fn new(
        setup: &TableSetup,
        options: &TableOptions,
        context: Arc<Context>,
        state: &TableState,
        shards: u16,
    ) -> Self {
        let ttl = state.ttl_ms.map(Duration::from_millis);
        Self {
            setup: setup.clone(),
            context,
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

    /// Refuses calls from callbacks and on a closed table.
    pub(crate) fn enter(&self) -> Result<()> {
        refuse_in_callback()?;
        self.check_open()
    }

    /// Refuses what would touch files of a closed table, for those who waited for a lock meanwhile.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(self.closed_error()) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From now on every call is refused. Values and iterators that are held stay valid.
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

    /// Refuses keys of a length that no key has.
    pub(crate) fn check_lookup_key(&self, key: &[u8]) -> Result<()> {
        check_key(key).map_err(|e| self.in_context(&e))
    }

    /// The error with the table's name in front, once.
    pub(crate) fn in_context(&self, error: &Error) -> Error {
        self.setup.in_context(error)
    }

    /// The error with the table's name. A failed write or sync closes the latch: nothing after it is acknowledged. Any
    /// other failure did nothing and is only passed on.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let error = self.in_context(error);
        if error.latches() && self.latch.close(&error) {
            let table = self.name().clone();
            metrics::counter!("lithdb_latched_total", "table" => table.to_string()).increment(1);
            self.setup.listener.emit(&Event::Latched { table, cause: error.clone() });
        }
        error
    }

    /// Runs `act`. A panic in it closes the latch: nobody knows what was left undone.
    pub(crate) fn latch_on_panic<T>(
        &self,
        what: &str,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Io, format!("{what} panicked")).latching();
            // `fail` closes the latch first. The metrics recorder and the log may panic after that; the waiting
            // threads of the caller must not.
            let failed = catch_unwind(AssertUnwindSafe(|| self.fail(&error)));
            Err(failed.unwrap_or_else(|_| self.in_context(&error)))
        })
    }
}
