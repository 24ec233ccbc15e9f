//! Snapshots: when they are taken, what they hold back, what is chosen and what is not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_sim::{CrashImage, Effort, OpKind, Tally};
use lithdb_state::{Durability, ErrorKind, StateDb, StateEvent};
use lithdb_state_engine::ModelEngines;

use crate::engines::{Call, HookEngines};
use crate::fixture::{Fixture, path_of, refusing};
use crate::support::hook::Gate;
use crate::support::model::{Change, change_sets};
use crate::support::{DIR, Harness, Tree, check, small};

fn versions(db: &StateDb) -> Vec<u64> {
    db.snapshots().unwrap().iter().map(|snapshot| snapshot.version).collect()
}

/// sei-chain #3337: a clone on another file system copied gigabytes instead of linking.
#[test]
fn another_file_system_is_refused_and_nothing_is_copied() {
    const EXDEV: i32 = 18;
    let mut store = Fixture::simulated(small());
    store.commit_to(3);
    store.snapshot();
    store.commit_to(5);
    store.close();
    let fs = store.harness().fs.clone();
    let refuse =
        |kind, _: &Path| (kind == OpKind::HardLink).then(|| io::Error::from_raw_os_error(EXDEV));
    store.harness_mut().wrapped = Some(refusing(&fs, refuse));
    store.open();
    store.harness().take_events();
    let error = store.db().snapshot().unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let events = store.harness().take_events();
    let is_reported = |event: &StateEvent| match event {
        StateEvent::SnapshotFailed { version, error, .. } => {
            (*version, error.kind()) == (5, ErrorKind::Io)
        }
        _ => false,
    };
    assert!(events.iter().any(is_reported), "{events:?}");
    assert!(store.db().stats().last_snapshot_error.is_some());
    assert_eq!(store.harness().names("snapshots"), [format!("{:020}", 3)], "nothing is left");
    // It is no reason to stop.
    store.commit_to(6);
    store.close();
    fs.remove_dir_raw(format!("{DIR}/working"));
    let before = run_files(&store.tree());
    let error = store.try_open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(run_files(&store.tree()), before, "no file of the engine was copied");
    store.harness_mut().wrapped = None;
    assert_eq!(store.open().opened().base, 3);
    store.check("linked after all");
}

/// The files of the engine with rows.
fn run_files(tree: &Tree) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    tree.keys().filter(|path| name(path).starts_with("run-")).cloned().collect()
}

fn denied(kind: OpKind, path: &Path, denied: &Path) -> Option<io::Error> {
    let is_denied = kind == OpKind::Rename && path == denied;
    is_denied.then(|| io::Error::from(io::ErrorKind::PermissionDenied))
}

/// sei-chain #3887: the failure was ignored, and the remnant took the place of one that is kept.
#[test]
fn a_snapshot_that_cannot_be_removed_is_reported_and_never_chosen_or_counted() {
    let mut store = Fixture::simulated(small().keep_snapshots(1));
    let fs = store.harness().fs.clone();
    let refuse = |kind, path: &Path| denied(kind, path, &path_of(4));
    store.close();
    store.harness_mut().wrapped = Some(refusing(&fs, refuse));
    store.open();
    for version in [4, 8, 12, 16] {
        store.commit_to(version);
        store.snapshot();
        let events = store.harness().take_events();
        let is_reported = events.iter().any(|event| match event {
            StateEvent::SnapshotNotRemoved { path, .. } => *path == path_of(4),
            StateEvent::SnapshotTaken { .. } | StateEvent::SnapshotsPruned { .. } => false,
            StateEvent::FloorRaised { floor, .. } => {
                assert_eq!(*floor, 4, "what stands holds the log back");
                false
            }
            event => panic!("{event:?}"),
        });
        assert_eq!(is_reported, version > 8, "at version {version}: {events:?}");
    }
    assert_eq!(versions(store.db()), [4, 12, 16], "it is not one of the two that are kept");
    assert!(store.db().reach(5).is_ok(), "and while it stands it can be used");
    let report = store.db().prune_snapshots_below(12).unwrap();
    assert_eq!((report.removed, report.kept, report.floor), (vec![], vec![4], 4));
    store.commit_to(17);
    store.check("nothing has failed but the removal");
    store.close();
    store.harness_mut().wrapped = None;
    store.open();
    let report = store.db().prune_snapshots_below(12).unwrap();
    assert_eq!((report.removed, report.floor), (vec![4], 12));
}

/// sei-chain #3887. Two histories of one version may have one root and differ in when their rows
/// were written: so the snapshot of the old one must be out of the way before the new one begins.
#[test]
fn a_snapshot_of_an_abandoned_branch_that_cannot_be_moved_aside_is_never_chosen() {
    let mut store = Fixture::simulated(small());
    store.commit(&[Change::put("bank", "a", "1")]);
    store.commit(&[Change::put("bank", "b", "2")]);
    store.commit(&[]);
    store.snapshot();
    store.close();
    store.truncate_log(1);
    let fs = store.harness().fs.clone();
    let refuse = |kind, path: &Path| denied(kind, path, &path_of(3));
    store.harness_mut().wrapped = Some(refusing(&fs, refuse));
    let before = fs.read_raw(path_of(3).join("SNAPSHOT"));
    for _ in 0..2 {
        let error = store.try_open().map(drop).unwrap_err();
        assert!(error.is_permission_denied(), "{error}");
        assert!(error.to_string().contains(&format!("{:020}", 3)), "{error}");
    }
    assert_eq!(fs.read_raw(path_of(3).join("SNAPSHOT")), before, "and nothing has happened to it");
    store.harness_mut().wrapped = None;
    assert_eq!(store.open().opened().abandoned, [3]);
    store.commit(&[]);
    store.commit(&[Change::put("bank", "b", "2")]);
    store.close();
    store.harness().fs.remove_dir_raw(format!("{DIR}/working"));
    store.open();
    assert_eq!(store.db().latest().modified_at("bank", "b").unwrap(), Some(3));
    store.check("of the new branch");
}

/// sei-chain #3904: the floor was computed from heads that were not durable.
#[test]
fn the_floor_is_raised_only_for_what_is_durable() {
    let mut tally = Tally::new("crashes while the log is collected");
    let effort = Effort::from_env();
    for (name, before) in [("the first snapshot", 0), ("a later snapshot", 3)] {
        let options = small().keep_snapshots(0).durability(Durability::OnFlush);
        let mut store = Fixture::simulated(options);
        if before > 0 {
            store.commit_to(before);
            store.snapshot();
        }
        store.commit_to(13);
        let floor = store.db().stats().floor;
        store.db().flush().unwrap();
        store.close();
        let count = {
            let mut copy = store.fork();
            copy.open();
            let ops = copy.harness().fs.ops();
            copy.snapshot();
            assert!(copy.db().stats().floor > floor, "{name}: the log is collected");
            copy.harness().fs.ops() - ops
        };
        for k in 0..=count {
            let mut copy = store.fork();
            let db = copy.open().clone();
            copy.harness().fs.crash_after(k);
            let taken = db.snapshot().and_then(|ticket| ticket.wait());
            assert!(taken.is_ok() || k < count, "{name}: {taken:?}");
            drop((db, copy.take_db()));
            let seeds = (0..effort.times(2)).map(|n| effort.seed(name) + 1_000 * k + n);
            let images = [CrashImage::Nothing, CrashImage::Everything];
            for image in images.into_iter().chain(seeds.map(CrashImage::Seeded)) {
                let context = format!("{name}, crash after {k} of {count}, {image:?}");
                let mut found = store.on(copy.harness().fs.crash_with(&image));
                // All that is left is what the floor was raised for.
                found.harness().fs.remove_dir_raw(format!("{DIR}/working"));
                found.open();
                found.check(&context);
                let is_collected = found.db().reach(before).is_err();
                tally.add(if is_collected { "collected" } else { "whole" }, 1);
                let is_there = versions(found.db()).contains(&13);
                assert!(taken.is_err() || is_there, "{context}");
            }
        }
    }
    assert!(tally.get("collected") > 5 && tally.get("whole") > 5, "{tally:?}");
}

/// Review of sei-chain #3788: `version % interval == 0` was skipped over.
#[test]
fn a_snapshot_comes_after_the_interval_even_if_no_version_is_a_multiple() {
    let options = small().initial_version(1_003).snapshot_interval(7).keep_snapshots(99);
    let mut store = Fixture::simulated(options);
    store.commit_to(1_008);
    assert_eq!(versions(store.db()), []);
    store.commit_to(1_017);
    assert_eq!(versions(store.db()), [1_009, 1_016]);
    store.snapshot();
    store.commit_to(1_023);
    assert_eq!(versions(store.db()), [1_009, 1_016, 1_017], "counted from the newest");
    store.reopen();
    store.commit_to(1_024);
    assert_eq!(versions(store.db()), [1_009, 1_016, 1_017, 1_024]);
    store.roll_back(1_012);
    store.commit_to(1_015);
    assert_eq!(versions(store.db()), [1_009]);
    store.commit_to(1_016);
    assert_eq!(versions(store.db()), [1_009, 1_016]);
    // The version at which one is due passes while the disk is busy with another memtable.
    let gate = Arc::new(Gate::default());
    let hook_gate = Arc::clone(&gate);
    let harness = Harness::new(small().snapshot_interval(5).memtable_bytes(2_000));
    let mut components = harness.components();
    let engines = HookEngines::new(Arc::new(ModelEngines::new(harness.env())), move |call| {
        if call == Call::Flush {
            hook_gate.pass();
        }
        Ok(())
    });
    components.engines = Some(Arc::new(engines));
    components.without_background = false;
    let db = StateDb::open_with(DIR, harness.options.clone(), components).unwrap();
    let commit = |version: u64| {
        let changes = [Change::put("bank", "k", "v".repeat(500))];
        db.commit_block(version, &change_sets(&changes)).unwrap();
    };
    (1..=3).for_each(commit);
    let shut = gate.shut_until_dropped();
    commit(4);
    gate.wait_for(1);
    (5..=7).for_each(commit);
    drop(shut);
    commit(8);
    while versions(&db).is_empty() {
        std::thread::yield_now();
    }
    let first = versions(&db)[0];
    assert!(first > 5, "version {first}");
    db.close().unwrap();
}

/// sei-chain #2972: a pointer that leads to another snapshot than the files say.
#[test]
fn a_wrong_current_is_believed_by_nobody_and_written_again() {
    let mut store = Fixture::simulated(small());
    let current = PathBuf::from(DIR).join("CURRENT");
    store.commit_to(4);
    store.snapshot();
    let older = store.harness().fs.read_raw(&current);
    store.commit_to(8);
    store.snapshot();
    store.commit_to(10);
    store.close();
    let newest = store.harness().fs.read_raw(&current);
    assert_ne!(older, newest);
    for wrong in [Some(older), Some(b"not a pointer".to_vec()), Some(Vec::new()), None] {
        let mut copy = store.fork();
        match &wrong {
            Some(bytes) => copy.harness().fs.write_raw(&current, bytes.clone()),
            None => copy.harness().fs.remove_raw(&current),
        }
        copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
        check::view(&copy.view_only(Some(9)).unwrap(), &copy.model, "beside");
        let report = copy.open().opened();
        assert_eq!((report.base, report.replayed), (8, 2), "{wrong:?}: {report:?}");
        copy.check("opened with a wrong CURRENT");
        assert_eq!(copy.harness().fs.read_raw(&current), newest, "{wrong:?}");
    }
}

/// FlatKV's `WriteSnapshot` removes a snapshot before it renames the new one into its place.
#[test]
fn a_snapshot_taken_again_at_its_version_is_never_absent_meanwhile() {
    let mut store = Fixture::simulated(small());
    store.commit_to(4);
    let first = store.snapshot();
    store.close();
    let mut copy = store.fork();
    copy.open();
    copy.harness().fs.take_trace();
    let again = copy.snapshot();
    assert_eq!((again.root, &again.path, again.bytes), (first.root, &first.path, first.bytes));
    for op in copy.harness().fs.take_trace() {
        let is_inside = |path: &Path| path.starts_with(&first.path);
        let touches = is_inside(&op.path) || op.to.as_deref().is_some_and(is_inside);
        assert!(!touches, "{op:?}");
    }
    let count = copy.harness().fs.ops();
    for k in 0..=count {
        let mut copy = store.fork();
        copy.harness().fs.crash_after(k);
        if let Ok(db) = copy.try_open() {
            drop(db.clone().snapshot().and_then(|ticket| ticket.wait()));
        }
        for image in [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(k)] {
            let context = format!("crash after {k} of {count}, {image:?}");
            let mut found = store.on(copy.harness().fs.crash_with(&image));
            let dirs = check::snapshot_dirs(found.harness());
            assert!(dirs.contains_key(&4), "{context}");
            found.open();
            assert_eq!(versions(found.db()), [4], "{context}");
            found.check(&context);
        }
    }
}
