//! Statistics of an open store.

use lithdb_lthash::RootHash;
use lithdb_state_engine::EngineStats;
use serde::Serialize;

use crate::db::StateDb;
use crate::store_name::StoreName;

/// The statistics of an open store. Costs a few locks, no I/O.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StateStats {
    /// The newest committed version.
    pub version: u64,
    /// Its root.
    pub root: RootHash,
    /// The newest version that survives a power loss.
    pub durable_version: u64,
    /// The version of the newest snapshot, or that of the last attempt at one.
    pub snapshot_version: u64,
    /// The lowest version that the log must keep.
    pub floor: u64,
    /// Stores, each with its keys and the bytes of its keys and values.
    pub stores: Vec<(StoreName, u64, u64)>,
    /// Bytes of the pending changes.
    pub pending_bytes: u64,
    /// The working copy.
    pub engine: EngineStats,
    /// Why the last snapshot failed; `None` if it succeeded.
    pub last_snapshot_error: Option<String>,
    /// Why the store takes no commits any more.
    pub failure: Option<String>,
}

impl StateDb {
    /// The statistics of the store.
    #[must_use]
    pub fn stats(&self) -> StateStats {
        let shared = &self.shared;
        // In this order: what is durable is not above the newest version.
        let (durable_version, view) = (self.durable_version(), self.latest());
        StateStats {
            version: view.version(),
            root: view.root(),
            durable_version,
            snapshot_version: shared.background.snapshot_version(),
            floor: shared.log.floor.get(),
            stores: view.stores(),
            pending_bytes: shared.pending.lock().overlay.bytes(),
            engine: shared.engine.stats(),
            last_snapshot_error: shared.background.snapshot_error().map(|e| e.to_string()),
            failure: shared.failure().map(|failure| failure.to_string()),
        }
    }
}
