//! Snapshots: when they are taken, what they hold back, what is chosen and what is not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb::{Components, Db, DbOptions};
use lithdb_sim::{CrashImage, Effort, OpKind, Tally};
use lithdb_state::{Durability, ErrorKind, SnapshotClass, StateDb, StateEvent, Wal, WalFloor};
use lithdb_state_engine::ModelEngines;

use crate::engines::{Call, HookEngines};
use crate::fixture::{Fixture, refusing};
use crate::support::hook::Gate;
use crate::support::model::{Change, Model, change_sets};
use crate::support::{APP, DIR, Harness, Tree, check, difference, small};

fn path_of(version: u64) -> PathBuf {
    PathBuf::from(DIR).join("snapshots").join(format!("{version:020}"))
}

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
    let is_reported = |event: &StateEvent| matches!(event, StateEvent::SnapshotFailed { version: 5, error } if error.kind() == ErrorKind::Io);
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
            StateEvent::FloorRaised { floor } => {
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

/// sei-chain #4104 and `TestWALDirectoryDeleted`.
#[test]
fn a_lost_wal_is_refused_and_not_taken_for_an_empty_one() {
    for has_snapshot in [false, true] {
        let mut store = Fixture::simulated(small());
        store.commit_to(6);
        if has_snapshot {
            store.snapshot();
        }
        store.close();
        let log = store.log();
        let is_refused = |store: &mut Fixture, what: &str| {
            let without_log = |mut tree: Tree| {
                tree.retain(|path, _| !path.starts_with(format!("{DIR}/wal")));
                tree
            };
            let before = without_log(store.tree());
            for _ in 0..2 {
                let error = store.try_open().map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Missing, "{what}: {error}");
            }
            assert_eq!(difference(&before, &without_log(store.tree())), None, "{what}");
            assert!(store.view_only(None).is_err(), "{what}");
            assert!(store.stopped_rollback().plan(3).is_err(), "{what}");
        };
        store.harness().fs.remove_dir_raw(format!("{DIR}/wal"));
        is_refused(&mut store, "the directory is gone");
        assert!(!store.tree().contains_key(Path::new(&format!("{DIR}/wal"))), "none was created");
        store.harness().fs.make_dirs(format!("{DIR}/wal"));
        store.replace_log(&[]);
        is_refused(&mut store, "the table is empty");
        store.replace_log(&log);
        store.open();
        store.check("the log is back");
    }
}

/// sei-chain #4104: a log in the application's database that is another one than before.
#[test]
fn a_lost_wal_in_a_table_of_the_application_is_refused() {
    let harness = Harness::new(small());
    let open = |root: &str| {
        let components = Components {
            env: Some(harness.env()),
            without_maintenance: true,
            ..Components::default()
        };
        let db = Db::open_with(DbOptions::new([root]), components).unwrap();
        let floor = WalFloor::new();
        let options = harness.options.wal.clone();
        let table = db.table_with_filter("state", options, floor.filter()).unwrap();
        let mut components = harness.components();
        components.wal = Wal::Table { table, floor };
        (StateDb::open_with(DIR, harness.options.clone(), components), db)
    };
    let (state, db) = open(APP);
    let state = state.unwrap();
    state.commit_block(1, &change_sets(&[Change::put("bank", "a", "1")])).unwrap();
    state.close().unwrap();
    db.close().unwrap();
    let before = harness.tree(DIR);
    let (refused, db) = open("/other");
    let error = refused.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    db.close().unwrap();
    // Nor with a log of its own.
    let error = harness.try_open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert_eq!(difference(&before, &harness.tree(DIR)), None);
    let (state, db) = open(APP);
    assert_eq!(state.unwrap().version(), 1);
    drop(db);
}

/// `TestUnrepairableSnapshotSurfaces`: healing chose the same damaged snapshot again and again.
#[test]
fn a_damaged_snapshot_is_passed_over_for_an_older_one_and_healing_does_not_loop() {
    let mut store = Fixture::simulated(small());
    store.commit_to(4);
    store.snapshot();
    store.commit_to(9);
    store.snapshot();
    store.commit_to(11);
    store.close();
    let fs = &store.harness().fs;
    let engine = path_of(9).join("engine");
    let run = fs.file_paths().into_iter().rfind(|path| {
        path.starts_with(&engine) && path.file_name().unwrap().to_str().unwrap().starts_with("run")
    });
    let run = run.unwrap();
    let damages: [(&str, Box<dyn Fn(&Fixture)>); 5] = [
        ("manifest", Box::new(|it| it.harness().fs.flip_bit(path_of(9).join("SNAPSHOT"), 40, 3))),
        ("no manifest", Box::new(|it| it.harness().fs.remove_raw(path_of(9).join("SNAPSHOT")))),
        ("short file", {
            let run = run.clone();
            Box::new(move |it| it.harness().fs.truncate_raw(&run, 20))
        }),
        ("lost file", {
            let run = run.clone();
            Box::new(move |it| it.harness().fs.remove_raw(&run))
        }),
        ("engine", Box::new(|it| it.harness().fs.remove_dir_raw(path_of(9).join("engine")))),
    ];
    for (name, damage) in damages {
        let mut copy = store.fork();
        damage(&copy);
        copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
        let report = copy.open().opened().clone();
        assert_eq!((report.base, report.replayed), (4, 7), "{name}: {report:?}");
        assert_eq!(report.damaged.len(), 1, "{name}: {report:?}");
        assert_eq!(report.damaged[0].0, 9, "{name}: {report:?}");
        copy.check(name);
        let found = copy.db().snapshots().unwrap();
        let classes: Vec<_> = found.iter().map(|it| (it.version, it.class)).collect();
        assert_eq!(classes, [(4, SnapshotClass::Valid), (9, SnapshotClass::Damaged)], "{name}");
        // It is not removed, and holds the log back.
        let report = copy.db().prune_snapshots_below(11).unwrap();
        assert!(report.removed.is_empty() && report.floor == 4, "{name}: {report:?}");
    }
    // Damage that only reading finds: each opening ends with an error, none goes on for ever.
    let mut copy = store.fork();
    copy.harness().fs.flip_bit(&run, 30, 0);
    copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
    for _ in 0..3 {
        let error = copy.try_open().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    copy.harness().fs.remove_dir_raw(path_of(9));
    assert_eq!(copy.open().opened().base, 4);
    copy.check("without the damaged snapshot");
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

/// sei-chain #3928 and `TestPerDBLtHashSkewRecovery`: several databases that were at different
/// versions after a crash.
#[test]
fn whatever_survives_a_crash_is_one_version() {
    const STORES: [&str; 5] = ["a", "a-", "bank", "log", "z"];
    let mut tally = Tally::new("versions that survive a crash");
    let effort = Effort::from_env();
    // Every commit is flushed by the engine, and durable in the log only then.
    let options = small().durability(Durability::OnFlush).memtable_bytes(1);
    let changes = |version: u64| -> Vec<Change> {
        STORES.iter().map(|store| Change::put(store, "version", version.to_le_bytes())).collect()
    };
    let run = |store: &mut Fixture| {
        for version in 1..=4 {
            let sets = change_sets(&changes(version));
            if store.db().commit_block(version, &sets).is_err() {
                return;
            }
        }
    };
    let mut model = Model::new(1);
    for version in 1..=4 {
        model.commit(&changes(version));
    }
    let count = {
        let mut store = Fixture::simulated(options.clone());
        run(&mut store);
        store.harness().fs.ops()
    };
    for k in 0..=count {
        let mut store = Fixture::simulated(options.clone());
        let done = store.harness().fs.ops();
        let Some(after) = k.checked_sub(done) else { continue };
        store.harness().fs.crash_after(after);
        run(&mut store);
        let durable = store.db().durable_version();
        drop(store.take_db());
        store.model = model.clone();
        let seeds = (0..effort.times(4)).map(|n| effort.seed("one version") + 1_000 * k + n);
        let images = [CrashImage::Nothing, CrashImage::Everything];
        for image in images.into_iter().chain(seeds.map(CrashImage::Seeded)) {
            let context = format!("crash after {k} of {count}, {image:?}");
            let mut found = store.on(store.harness().fs.crash_with(&image));
            for name in found.harness().names("working") {
                let dir = PathBuf::from(DIR).join("working").join(name);
                let Ok(engine) = check::engine_contents(found.harness(), &dir) else { continue };
                let written: BTreeMap<_, _> =
                    engine.rows.values().map(|(value, at)| (value.clone(), *at)).collect();
                assert!(written.len() <= 1, "{context}: versions {written:?} at once");
                assert_eq!(engine.rows.len(), if engine.version == 0 { 0 } else { 5 }, "{context}");
                assert!(written.values().all(|at| *at == engine.version), "{context}");
            }
            let version = found.open().version();
            assert!((durable..=4).contains(&version), "{context}: {version}, {durable}");
            found.model.roll_back(version);
            found.check(&context);
            tally.add(["0", "1", "2", "3", "4"][version as usize], 1);
        }
    }
    for version in ["0", "1", "2", "3", "4"] {
        assert!(tally.get(version) > 0, "{tally:?}");
    }
}
