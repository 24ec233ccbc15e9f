//! Removing old snapshots, and letting the log's oldest versions go.
//!
//! The floor is the lowest version of any snapshot directory that stands, damaged ones included:
//! what may still be needed holds history back. It rises only after the removal that allows it is
//! durable.

use lithdb_env::{Error, Result};

use crate::dirs;
use crate::event::StateEvent;
use crate::metrics::{add, timed};
use crate::options::Retention;
use crate::prune::{Prune, PruneReport};
use crate::rollback;
use crate::shared::Shared;
use crate::snapshot::SnapshotClass;
use crate::snapshot::list::{Classified, Reference, classify, list};

/// The snapshots of an open store.
pub(crate) fn classified(shared: &Shared) -> Result<Vec<Classified>> {
    let fs = &*shared.env.fs;
    let found = list(fs, &shared.dirs)?;
    let Some(versions) = shared.log.range()? else {
        unreachable!("the log of an open store has a base record")
    };
    let engines = &*shared.engines;
    classify(fs, found, &Reference { id: shared.id, engines, log: &shared.log, versions })
}

/// Removes snapshots beyond those that are to be kept, raises the floor, and collects the log.
pub(crate) fn retain(shared: &Shared) -> Result<PruneReport> {
    if shared.options.retention == Retention::Manual {
        return Ok(PruneReport::default());
    }
    let snapshots = classified(shared)?;
    let is_valid = |snapshot: &Classified| snapshot.class == SnapshotClass::Valid;
    if !snapshots.iter().any(is_valid) {
        return Ok(PruneReport::default());
    }
    let report = prune(shared, &snapshots, Prune::Beyond(shared.options.keep_snapshots))?;
    // Those of other branches, once a snapshot of this one is above them.
    let newest = snapshots.iter().rev().find(|snapshot| is_valid(snapshot));
    let newest = newest.map(|snapshot| snapshot.found.version);
    let is_passed = |version| Some(version) < newest;
    rollback::remove_abandoned(&shared.env, &shared.dirs, is_passed)?;
    Ok(report)
}

/// Removes snapshots, raises the floor, and collects the log.
pub(crate) fn prune(
    shared: &Shared,
    snapshots: &[Classified],
    prune: Prune,
) -> Result<PruneReport> {
    let (metrics, clock) = (&shared.metrics, &*shared.env.clock);
    let report = timed(clock, &metrics.prune, || prune_selected(shared, snapshots, prune))?;
    add(&metrics.pruned_snapshots, report.removed.len() as u64);
    shared.show_log();
    Ok(report)
}

fn prune_selected(shared: &Shared, snapshots: &[Classified], prune: Prune) -> Result<PruneReport> {
    let classes: Vec<_> = snapshots.iter().map(|s| (s.found.version, s.class)).collect();
    let selected = prune.select(&classes);
    let mut report = PruneReport::default();
    for snapshot in snapshots {
        let found = &snapshot.found;
        if !selected.contains(&found.version) {
            continue;
        }
        match remove(shared, snapshot) {
            Ok(true) => report.removed.push(found.version),
            Ok(false) => report.kept.push(found.version),
            Err(error) if error.latches() => return Err(error),
            Err(error) => {
                report.kept.push(found.version);
                let path = found.path.clone();
                shared.events.push(StateEvent::SnapshotNotRemoved { path, error });
            }
        }
    }
    if !report.removed.is_empty() {
        let versions = report.removed.clone();
        shared.events.push(StateEvent::SnapshotsPruned { versions });
    }
    report.floor = raise_floor(shared)?;
    Ok(report)
}

/// Removes a snapshot; returns `false` if somebody reads it.
pub(crate) fn remove(shared: &Shared, snapshot: &Classified) -> Result<bool> {
    let fs = &*shared.env.fs;
    let found = &snapshot.found;
    let Some(_lock) = found.try_lock(fs)? else { return Ok(false) };
    let what = format!("snapshot-{:020}", found.version);
    dirs::discard(&shared.env, &shared.dirs, &found.path, &what)?;
    Ok(true)
}

/// The lowest version that the log must keep for these snapshots: that of the lowest directory.
/// `None` without a valid snapshot: then the log is all there is.
pub(crate) fn floor(snapshots: &[Classified]) -> Option<u64> {
    let is_valid = |snapshot: &&Classified| snapshot.class == SnapshotClass::Valid;
    snapshots.iter().find(is_valid)?;
    snapshots.iter().map(|snapshot| snapshot.found.version).min()
}

/// Raises the floor to the lowest snapshot, and collects what is below it.
fn raise_floor(shared: &Shared) -> Result<u64> {
    let Some(lowest) = floor(&classified(shared)?) else { return Ok(shared.log.floor.get()) };
    if lowest > shared.log.floor.get() {
        // A removal whose sync failed may not be durable yet.
        let dir = shared.dirs.snapshots();
        shared.env.fs.sync_dir(&dir).map_err(|e| Error::failed_dir_sync(&dir, e))?;
        shared.log.floor.raise(lowest);
        shared.events.push(StateEvent::FloorRaised { floor: lowest });
        if shared.log.table.has_gc_filter() {
            shared.log.table.run_gc()?;
        }
    }
    Ok(shared.log.floor.get())
}
