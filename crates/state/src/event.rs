//! Events: what a state store does in the background, for logs and alarms.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::Error;

/// Something that happened in a state store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StateEvent {
    /// A snapshot exists.
    SnapshotTaken {
        /// Its version.
        version: u64,
    },
    /// A snapshot could not be taken; it is tried again after the next interval.
    SnapshotFailed {
        /// Its version.
        version: u64,
        /// Why.
        error: Error,
    },
    /// Snapshots were removed.
    SnapshotsPruned {
        /// Their versions.
        versions: Vec<u64>,
    },
    /// A snapshot could not be removed. It is not counted as one that is kept.
    SnapshotNotRemoved {
        /// Its directory.
        path: PathBuf,
        /// Why.
        error: Error,
    },
    /// The log's versions below this one may be collected.
    FloorRaised {
        /// The lowest version that must stay.
        floor: u64,
    },
    /// The flush of the working copy found no space; it is repeated.
    FlushDeferred {
        /// Why.
        error: Error,
    },
    /// The store takes no commits until it is reopened.
    Latched {
        /// Why.
        error: Error,
    },
}

type Listen = dyn Fn(&StateEvent) + Send + Sync;

/// Receives the events of a state store. It is called without a lock, on the thread on which the
/// event happened.
#[derive(Clone, Default)]
pub struct StateListener(Option<Arc<Listen>>);

impl StateListener {
    /// Wraps a function.
    pub fn new(listen: impl Fn(&StateEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listen)))
    }

    pub(crate) fn notify(&self, event: &StateEvent) {
        tracing::debug!(?event, "state store");
        if let Some(listen) = &self.0 {
            listen(event);
        }
    }
}

impl fmt::Debug for StateListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateListener")
    }
}
