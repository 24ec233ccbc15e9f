//! Snapshots: immutable copies of the working copy at one version, made of hard links.
//!
//! A directory `snapshots/<version>` without the suffix `.new` is complete: it was renamed into
//! place after everything in it had been synced. Its files never change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis, millis};
use lithdb_lthash::RootHash;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::event::refuse_in_listener;

pub(crate) mod list;
pub(crate) mod retain;
pub(crate) mod take;

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its version.
    pub version: u64,
    /// The root after that version.
    pub root: RootHash,
    /// Bytes of its files, those included that it shares with others.
    pub bytes: u64,
    /// How long it took in milliseconds, from the flushed memtable to the durable directory.
    pub took_ms: u64,
    /// Its directory.
    #[serde(serialize_with = "lithdb_env::lossy::path")]
    pub path: PathBuf,
}

impl Snapshot {
    pub(crate) fn set_took(&mut self, took: Duration) {
        self.took_ms = millis(took);
    }
}

/// Whether a snapshot can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SnapshotClass {
    /// Its manifest and files are there, and its root is that of the log.
    Valid,
    /// It is of a branch that was rolled back, or newer than the log.
    Abandoned,
    /// The log no longer has the records that it would need.
    Stale,
    /// Its manifest is damaged, or files are missing or have another length.
    Damaged,
}

impl fmt::Display for SnapshotClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Abandoned => "abandoned",
            Self::Stale => "stale",
            Self::Damaged => "damaged",
        })
    }
}

/// A snapshot on disk.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its version.
    pub version: u64,
    /// The root after that version; `None` if its manifest cannot be read.
    pub root: Option<RootHash>,
    /// Whether it can be used.
    pub class: SnapshotClass,
    /// Why it cannot be used.
    pub reason: Option<String>,
    /// When it was taken.
    pub created: Option<UnixMillis>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of those files that other directories share with it.
    pub shared_bytes: u64,
    /// Its directory.
    #[serde(serialize_with = "lithdb_env::lossy::path")]
    pub path: PathBuf,
}

/// A snapshot that was asked for. It exists, and is durable, when [`wait`](Self::wait) returns it.
#[derive(Debug, Clone)]
pub struct SnapshotTicket(Arc<Ticket>);

#[derive(Debug, Default)]
struct Ticket {
    result: Mutex<Option<Result<Snapshot>>>,
    resolved: Condvar,
}

/// The duty to resolve a ticket: whatever becomes of it, nobody waits for ever.
#[derive(Debug, Default)]
pub(crate) struct SnapshotPromise(Arc<Ticket>);

impl SnapshotPromise {
    pub(crate) fn ticket(&self) -> SnapshotTicket {
        SnapshotTicket(Arc::clone(&self.0))
    }

    /// The first result counts.
    pub(crate) fn resolve(&self, result: Result<Snapshot>) {
        self.0.result.lock().get_or_insert(result);
        self.0.resolved.notify_all();
    }
}

impl Drop for SnapshotPromise {
    fn drop(&mut self) {
        let message = "the snapshot was not taken: the state store was closed";
        self.resolve(Err(Error::new(ErrorKind::Closed, message)));
    }
}

impl SnapshotTicket {
    /// Waits until the snapshot exists or has failed.
    ///
    /// # Errors
    /// Why there is no snapshot: `StorageFull`, `Io`, `Closed`. `InvalidArgument` in a listener, if
    /// it would have to wait, perhaps for its own thread.
    pub fn wait(&self) -> Result<Snapshot> {
        let mut result = self.0.result.lock();
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            refuse_in_listener()?;
            self.0.resolved.wait(&mut result);
        }
    }
}
