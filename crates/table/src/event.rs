//! Events of a table, and the listener that receives them. Events never affect durability: errors
//! and panics of a listener are ignored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Error, UnixMillis};
use lithdb_segment::{SegmentId, TableName};

use crate::callback::call;

/// An event of a table.
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
    /// Segments were collected: their keys no longer exist.
    Collected {
        /// The table.
        table: TableName,
        /// Number of segments.
        segments: usize,
        /// Their key records.
        records: u64,
        /// Their bytes, keys and values.
        bytes: u64,
        /// The lowest segment that may still be read.
        watermark: SegmentId,
    },
    /// The first failed write or sync, or a panic, closed the table for writing.
    Latched {
        /// The table.
        table: TableName,
        /// What failed.
        cause: Error,
    },
    /// An open recovered a segment that was not closed cleanly, or removed files.
    Recovered {
        /// The table.
        table: TableName,
        /// What recovery did.
        report: RecoveryReport,
    },
    /// The wall clock jumped and is not trusted: expiry follows the monotonic clock until the jump
    /// is accepted or undone, or the hold has passed.
    ClockJump {
        /// The table.
        table: TableName,
        /// The table's time.
        before: UnixMillis,
        /// What the wall clock shows.
        now: UnixMillis,
        /// How long it must run steadily before it is trusted again.
        hold: Duration,
    },
    /// The table's filter failed: nothing in the table is collected until the next attempt.
    GcPaused {
        /// The table.
        table: TableName,
        /// The filter's error.
        cause: Error,
    },
}

/// What recovery did, for the event and the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Files removed: below the watermark, leftovers, never acknowledged.
    pub removed_files: usize,
    /// Bytes after the last complete batch: never acknowledged, ignored. The space is freed when
    /// the segment expires.
    pub torn_bytes: u64,
    /// Bytes of records and values past the durable end, verified and copied to a new segment.
    pub copied_bytes: u64,
    /// Why the end of the unsealed segment was torn, if it was.
    pub torn: Option<String>,
}

impl Event {
    /// The table of the event.
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

/// Receives every event, on the thread where it happened. That thread may hold locks of the table,
/// so the listener must be quick. Calls of the database inside it are refused with
/// `InvalidArgument`: send the event to a channel instead. A panic in it is logged and ignored.
#[derive(Clone)]
pub struct EventListener(Arc<dyn Fn(&Event) + Send + Sync>);

impl EventListener {
    /// Wraps a function.
    pub fn new(listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Passes `event` to the listener, then to the log, which may panic.
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
