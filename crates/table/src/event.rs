//! What happens to a table, for whoever wants to know. Never on a path that decides durability.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Error, UnixMillis};
use lithdb_segment::{SegmentId, TableName};

use crate::callback::call;
use crate::open::recover::RecoveryReport;

/// Something happened to a table.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A segment was sealed and is durable.
    Sealed {
        /// The table.
        table: TableName,
        /// The segment.
        segment: SegmentId,
        /// Its key records.
        records: u64,
        /// Its bytes, keys and values.
        bytes: u64,
    },
    /// Segments were collected: their keys are gone.
    Collected {
        /// The table.
        table: TableName,
        /// How many segments.
        segments: usize,
        /// Their key records.
        records: u64,
        /// Their bytes, keys and values.
        bytes: u64,
        /// The lowest segment that may still be read.
        watermark: SegmentId,
    },
    /// The first failed write or sync closed the table for writing.
    Latched {
        /// The table.
        table: TableName,
        /// What failed.
        cause: Error,
    },
    /// Opening found a tail that was not closed cleanly, or removed something.
    Recovered {
        /// The table.
        table: TableName,
        /// What was done.
        report: RecoveryReport,
    },
    /// The wall clock jumped and is in doubt: expiry goes by the steady clock until the jump is
    /// accepted or undone, or the hold has passed.
    ClockJump {
        /// The table.
        table: TableName,
        /// The table's time.
        before: UnixMillis,
        /// What the wall clock shows.
        now: UnixMillis,
        /// For how long it must run steadily to be followed again.
        hold: Duration,
    },
    /// The table's filter failed: nothing of the table is collected until the next attempt.
    GcPaused {
        /// The table.
        table: TableName,
        /// What the filter said.
        cause: Error,
    },
}

impl Event {
    /// The table that the event is about.
    pub fn table(&self) -> &TableName {
        match self {
            Self::Sealed { table, .. }
            | Self::Collected { table, .. }
            | Self::Latched { table, .. }
            | Self::Recovered { table, .. }
            | Self::ClockJump { table, .. }
            | Self::GcPaused { table, .. } => table,
        }
    }
}

/// Is called with every event, on the thread where it happened, which may hold locks of the table: it must be quick. Calls
/// of the database are refused in it, with `InvalidArgument`: hand the event to a channel. What it panics with is dropped.
#[derive(Clone)]
pub struct EventListener(Arc<dyn Fn(&Event) + Send + Sync>);

impl EventListener {
    /// Wraps a function.
    pub fn new(listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Hands `event` to the listener, then to the log, which may panic.
    pub(crate) fn emit(&self, event: &Event) {
        let called = call("an event listener", || (self.0)(event));
        match event {
            Event::Latched { table, cause } => {
                tracing::error!(%table, %cause, "closed for writing")
            }
            Event::ClockJump { .. } | Event::GcPaused { .. } => tracing::warn!(?event),
            _ => tracing::info!(?event),
        }
        if called.is_err() {
            tracing::warn!("the event listener panicked");
        }
    }
}

impl Default for EventListener {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for EventListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventListener")
    }
}
