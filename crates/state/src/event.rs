//! Events: what a state store does in the background, for logs and alarms.

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use parking_lot::Mutex;

/// Something that happened in a state store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StateEvent {
    /// A snapshot exists.
    #[non_exhaustive]
    SnapshotTaken {
        /// Its version.
        version: u64,
    },
    /// A snapshot could not be taken; it is tried again after the next interval.
    #[non_exhaustive]
    SnapshotFailed {
        /// Its version.
        version: u64,
        /// Why.
        error: Error,
    },
    /// Snapshots were removed.
    #[non_exhaustive]
    SnapshotsPruned {
        /// Their versions.
        versions: Vec<u64>,
    },
    /// A snapshot could not be removed. It is not counted as one that is kept.
    #[non_exhaustive]
    SnapshotNotRemoved {
        /// Its directory.
        path: PathBuf,
        /// Why.
        error: Error,
    },
    /// Old snapshots could not be removed; it is tried again after the next snapshot.
    #[non_exhaustive]
    RetentionFailed {
        /// Why.
        error: Error,
    },
    /// The log's versions below this one may be collected.
    #[non_exhaustive]
    FloorRaised {
        /// The lowest version that must stay.
        floor: u64,
    },
    /// The flush of the working copy found no space, no descriptors or no permission; it is
    /// repeated.
    #[non_exhaustive]
    FlushDeferred {
        /// Why.
        error: Error,
    },
    /// The store takes no commits until it is reopened.
    #[non_exhaustive]
    Latched {
        /// Why.
        error: Error,
    },
}

type Listen = dyn Fn(&StateEvent) + Send + Sync;

/// Receives the events of a state store. It is called without a lock, when the call or the step of
/// the background thread is over in which an event happened, or another one that ends before: on
/// the thread of that one. Two threads may deliver at the same time. Its panics are caught.
///
/// Inside it, calls that change, flush, open or close a state store, or that wait for a snapshot
/// that has not been taken, are refused as `InvalidArgument`. Others work: reading, and
/// [`discard_pending`](crate::StateDb::discard_pending), which may wait for a commit.
#[derive(Clone, Default)]
pub struct StateListener(Option<Arc<Listen>>);

thread_local! {
    /// Whether this thread runs a listener.
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Events that have happened and have not been delivered: they happen under locks.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    listener: StateListener,
    events: Mutex<Vec<StateEvent>>,
}

/// Delivers events when it is dropped: after the locks that are taken later.
#[must_use]
pub(crate) struct DeliverOnDrop<'a>(&'a EventQueue);

impl EventQueue {
    pub(crate) fn new(listener: StateListener) -> Self {
        Self { listener, events: Mutex::default() }
    }

    pub(crate) fn push(&self, event: StateEvent) {
        tracing::debug!(?event, "state store");
        self.events.lock().push(event);
    }

    /// Before a call that changes the store, and before its locks: refuses it in a listener.
    pub(crate) fn begin(&self) -> Result<DeliverOnDrop<'_>> {
        refuse_in_listener()?;
        Ok(self.deliver_on_drop())
    }

    pub(crate) fn deliver_on_drop(&self) -> DeliverOnDrop<'_> {
        DeliverOnDrop(self)
    }
}

impl Drop for DeliverOnDrop<'_> {
    fn drop(&mut self) {
        let events = mem::take(&mut *self.0.events.lock());
        events.iter().for_each(|event| self.0.listener.notify(event));
    }
}

/// Refuses a call that a listener makes.
pub(crate) fn refuse_in_listener() -> Result<()> {
    if IS_LISTENING.get() {
        let message = "a listener of a state store must not change, open or close one, or wait for \
                       one: hand the event to another thread";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

impl StateListener {
    /// Wraps a function.
    pub fn new(listen: impl Fn(&StateEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listen)))
    }

    fn notify(&self, event: &StateEvent) {
        let Some(listen) = &self.0 else { return };
        let is_nested = IS_LISTENING.replace(true);
        let listened = catch_unwind(AssertUnwindSafe(|| listen(event)));
        IS_LISTENING.set(is_nested);
        if listened.is_err() {
            tracing::error!(?event, "a listener of the state store panicked");
        }
    }
}

impl fmt::Debug for StateListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateListener")
    }
}
