//! Which snapshots are pruned, and pruning on request.
//!
//! Valid and stale snapshots are pruned, the newest valid one never. Damaged ones stay and hold the
//! log back. Those of other branches were moved aside by opening, and are removed apart.

use lithdb_env::Result;
use serde::Serialize;

use crate::db::StateDb;
use crate::inspect::StateInspection;
use crate::rollback::remove_abandoned;
use crate::snapshot::retain::{self, classified};
use crate::snapshot::{SnapshotClass, SnapshotInfo};

/// Which snapshots are pruned. The newest never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prune {
    /// Those of versions below this one.
    Below(u64),
    /// All but so many beside the newest, as
    /// [`keep_snapshots`](crate::StateOptions::keep_snapshots) does.
    Beyond(usize),
}

/// What pruning would do.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PrunePlan {
    /// The snapshots that would be removed, unless somebody reads them.
    pub removes: Vec<SnapshotInfo>,
    /// The lowest version of the log that would have to stay.
    pub floor: u64,
}

/// What was removed by pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// The versions of the snapshots that were removed.
    pub removed: Vec<u64>,
    /// The versions of those that are in use or could not be removed.
    pub kept: Vec<u64>,
    /// The lowest version of the log that must stay.
    pub floor: u64,
}

impl Prune {
    /// The versions of those among `snapshots`, by version, that are pruned.
    pub(crate) fn select(self, snapshots: &[(u64, SnapshotClass)]) -> Vec<u64> {
        let is_valid = |(_, class): &&(u64, SnapshotClass)| *class == SnapshotClass::Valid;
        let valid: Vec<u64> =
            snapshots.iter().filter(is_valid).map(|(version, _)| *version).collect();
        let below = match self {
            Self::Below(version) => version,
            Self::Beyond(keep) => {
                let kept = valid.iter().rev().take(keep.saturating_add(1));
                let Some(oldest_kept) = kept.min() else { return Vec::new() };
                *oldest_kept
            }
        };
        let is_pruned = |(version, class): &&(u64, SnapshotClass)| {
            let is_removable = matches!(class, SnapshotClass::Valid | SnapshotClass::Stale);
            is_removable && *version < below && Some(version) != valid.last()
        };
        snapshots.iter().filter(is_pruned).map(|(version, _)| *version).collect()
    }
}

impl StateInspection {
    /// What pruning the store would do.
    #[must_use]
    pub fn plan_prune(&self, prune: Prune) -> PrunePlan {
        let classes: Vec<_> = self.snapshots.iter().map(|s| (s.version, s.class)).collect();
        let selected = prune.select(&classes);
        let is_removed = |snapshot: &SnapshotInfo| selected.contains(&snapshot.version);
        let removes = self.snapshots.iter().filter(|snapshot| is_removed(snapshot));
        // Opening moves the abandoned ones aside.
        let stays = |snapshot: &&SnapshotInfo| {
            !is_removed(snapshot) && snapshot.class != SnapshotClass::Abandoned
        };
        let lowest = self.snapshots.iter().filter(stays).map(|snapshot| snapshot.version).min();
        let floor = lowest.unwrap_or(self.oldest_version);
        PrunePlan { removes: removes.cloned().collect(), floor }
    }
}

impl StateDb {
    /// Removes old snapshots, but never the newest, and lets the log's versions go that only they
    /// needed.
    ///
    /// # Errors
    /// `Closed`, `Latched`, `Io`.
    pub fn prune_snapshots(&self, prune: Prune) -> Result<PruneReport> {
        let _events = self.shared.events.begin()?;
        let _housekeeping = self.shared.housekeeping.lock();
        self.shared.check_writable()?;
        let snapshots = classified(&self.shared)?;
        let pruned = retain::prune(&self.shared, &snapshots, prune);
        pruned.map_err(|error| self.shared.latch_on(error))
    }

    /// As [`prune_snapshots`](Self::prune_snapshots) with [`Prune::Below`].
    ///
    /// # Errors
    /// As [`prune_snapshots`](Self::prune_snapshots).
    pub fn prune_snapshots_below(&self, version: u64) -> Result<PruneReport> {
        self.prune_snapshots(Prune::Below(version))
    }

    /// Removes the snapshots of other branches, which opening has moved aside, and returns their
    /// versions.
    ///
    /// # Errors
    /// `Closed`, `Latched`, `Io`.
    pub fn prune_abandoned(&self) -> Result<Vec<u64>> {
        let _events = self.shared.events.begin()?;
        let _housekeeping = self.shared.housekeeping.lock();
        self.shared.check_writable()?;
        let removed = remove_abandoned(&self.shared.env, &self.shared.dirs, |_version| true);
        removed.map_err(|error| self.shared.latch_on(error))
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
