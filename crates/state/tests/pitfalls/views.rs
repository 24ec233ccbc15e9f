//! Views of past versions: in the process of the writer and in another, in memory and in a clone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb_env::{FileKind, Fs, LockKind};
use lithdb_sim::{Fault, OpKind, Tally};
use lithdb_state::{ErrorKind, StateDb, StateOptions, Unreachable, View};
use lithdb_state_engine::ModelEngines;

use crate::fixture::{Fixture, path_of, refusing};
use crate::interleave::InterleaveFs;
use crate::readers::{ALL_GO, ONE_GOES};
use crate::support::{DIR, check, small};

/// The names in `views`; `None` if there is no such directory.
fn clones(store: &Fixture) -> Option<Vec<String>> {
    let listed = store.env().fs.list(&store.dir().join("views"));
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        listed => Some(listed.unwrap().into_iter().map(|entry| entry.name).collect()),
    }
}

fn limited(store: &Fixture, limit: u64, version: u64) -> [View; 2] {
    assert_eq!(store.options.view_memory_bytes, limit);
    [store.db().view(version).unwrap(), store.view_only(Some(version)).unwrap()]
}

/// A replay has no bound of its own: 10,000 versions may be 10 TB.
#[test]
fn a_view_that_outgrows_memory_is_replayed_on_disk_and_leaves_nothing_there() {
    let mut tally = Tally::new("views by the limit of their memory");
    for limit in [0, 1, 400, 3_000, 1 << 30] {
        let options = small().memtable_bytes(700).view_memory_bytes(limit);
        for mut store in Fixture::both(&options) {
            store.commit_to(9);
            let mut views: Vec<View> = Vec::new();
            // From the empty state, and then from a snapshot.
            views.extend((0..9).flat_map(|version| limited(&store, limit, version)));
            store.snapshot();
            store.commit_to(20);
            views.extend((9..20).flat_map(|version| limited(&store, limit, version)));
            let has_clones = clones(&store);
            assert_eq!(has_clones.is_some(), limit < 10_000, "{limit}: {has_clones:?}");
            assert_eq!(has_clones.unwrap_or_default(), [""; 0], "{limit}");
            let model = store.model.clone();
            let are_same = |context: &str| {
                for view in &views {
                    check::view(view, &model, context);
                }
            };
            are_same("taken");
            let iter = views[7].iter("bank").unwrap();
            store.roll_back(12);
            store.commit_to(24);
            store.db().prune_snapshots_below(24).unwrap();
            are_same("rolled back");
            store.close();
            are_same("closed");
            let rows: Vec<_> = iter.map(|row| row.unwrap()).collect();
            let again: Vec<_> = views[7].iter("bank").unwrap().map(|row| row.unwrap()).collect();
            assert_eq!(rows, again, "an iterator that was begun before");
            tally.add("views", views.len() as u64);
        }
    }
}

/// Looked at while it is there: locked, and a working copy like any other.
#[test]
fn the_clone_of_a_view_is_locked_while_it_is_there() {
    let mut store = Fixture::simulated(small().view_memory_bytes(0));
    store.commit_to(6);
    store.close();
    let has_seen = Arc::new(AtomicBool::new(false));
    let (sim, seen) = (store.harness().fs.clone(), Arc::clone(&has_seen));
    let views = PathBuf::from(DIR).join("views");
    let act = move |path: &Path| {
        let is_inside = path != views && path.starts_with(&views) && path.parent() != Some(&views);
        if is_inside {
            let entries = sim.list(&views).unwrap();
            let [clone] = &entries[..] else { panic!("{entries:?}") };
            let lock = sim.try_lock(&views.join(&clone.name), LockKind::Exclusive).unwrap();
            assert!(lock.is_none(), "{} is not locked", clone.name);
            seen.store(true, Ordering::SeqCst);
        }
    };
    let fs = Arc::new(store.harness().fs.clone());
    store.harness_mut().wrapped = Some(Arc::new(InterleaveFs::new(fs, act)));
    check::view(&store.open().view(5).unwrap(), &store.model, "with a clone");
    assert!(has_seen.load(Ordering::SeqCst));
}

/// sei-chain #3127: clones of killed processes stayed for ever, or those of living ones were
/// removed.
#[test]
fn clones_of_killed_processes_are_removed_at_the_next_open_and_no_others() {
    let mut store = Fixture::simulated(small());
    store.commit_to(3);
    store.close();
    let fs = store.harness().fs.clone();
    let of = |name: &str| PathBuf::from(DIR).join("views").join(name);
    let (orphan, used, foreign) = (of("00000000000000aa"), of("00000000000000bb"), of("notes"));
    for dir in [&orphan, &used, &foreign] {
        fs.write_raw(dir.join("engine/run-1"), b"rows".to_vec());
    }
    let lock = fs.try_lock(&used, LockKind::Exclusive).unwrap().unwrap();
    let report = store.open().opened().clone();
    assert_eq!(report.leftovers, ["views/00000000000000aa"], "{report:?}");
    let left = Some(vec!["00000000000000bb".to_owned(), "notes".to_owned()]);
    assert_eq!(clones(&store), left);
    assert!(fs.list(&used.join("engine")).unwrap().iter().any(|it| it.kind == FileKind::File));
    // A reader that has ended, in whatever way.
    drop(lock);
    assert_eq!(store.reopen().opened().leftovers, ["views/00000000000000bb"]);
    assert_eq!(clones(&store), Some(vec!["notes".to_owned()]));
    store.check("opened");
}

/// On a file system without write permission a view works up to its limit; then the error names it.
#[test]
fn a_view_that_needs_a_clone_and_may_not_write_names_its_limit() {
    let mut store = Fixture::simulated(small().view_memory_bytes(200));
    store.commit_to(4);
    store.snapshot();
    store.commit_to(12);
    let before = store.tree();
    let sim = store.harness().fs.clone();
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        // As another user: nothing at all may be written.
        let refuse = move |_: OpKind, _: &Path| Some(io::Error::from(kind));
        store.harness_mut().wrapped = Some(refusing(&sim, refuse));
        let view = store.view_only(Some(4)).unwrap();
        check::view(&view, &store.model, "in memory");
        let error = store.view_only(Some(11)).unwrap_err();
        assert!(error.is_permission_denied(), "{error}");
        let text = error.to_string();
        let named = ["version 11", "view_memory_bytes (200 bytes", "raise it", "/state/views"];
        assert!(named.iter().all(|part| text.contains(part)), "{text}");
    }
    assert_eq!(store.tree(), before);
    store.harness_mut().wrapped = None;
    check::view(&store.view_only(Some(11)).unwrap(), &store.model, "with permission");
}

/// A full disk refuses the view, and is nothing to the writer.
#[test]
fn a_clone_that_finds_no_space_leaves_the_writer_alone() {
    let mut store = Fixture::simulated(small().view_memory_bytes(0));
    store.commit_to(8);
    for fault in [Fault::NoSpace, Fault::Eio] {
        let fs = store.harness().fs.clone();
        fs.fail_op(3, fault, true);
        let error = store.db().view(7).unwrap_err();
        assert!(fs.faults_hit() > 0);
        fs.clear_faults();
        let kinds = [ErrorKind::StorageFull, ErrorKind::Io];
        assert!(kinds.contains(&error.kind()), "{error}");
        assert!(error.to_string().contains("view_memory_bytes"), "{error}");
        assert_eq!(store.db().stats().failure, None);
        store.commit_to(store.model.head() + 1);
        check::view(&store.db().view(7).unwrap(), &store.model, "again");
    }
    store.reopen();
    assert_eq!(clones(&store), Some(Vec::new()));
}

/// sei-chain #3337, #3516, in the process of the writer: the log is looked at when the snapshot is
/// held.
#[test]
fn a_view_between_any_two_reads_of_which_the_writer_collects_finds_its_version() {
    let mut tally = Tally::new("reads of views between which the writer collects");
    for limit in [1 << 30, 0] {
        let options = |options: StateOptions| options.view_memory_bytes(limit);
        for scenario in [ONE_GOES, ALL_GO] {
            let model = scenario.model();
            for version in [6, scenario.head - 1] {
                let reads = scenario.interleave_open(options, |n, db| {
                    let context = format!("{scenario:?}, {limit}, before read {n} of {version}");
                    match db.view(version) {
                        Ok(view) => {
                            assert_eq!(view.version(), version, "{context}");
                            check::view(&view, &model, &context);
                        }
                        Err(error) => {
                            let unreachable = Unreachable::of(&error).map(|it| it.target);
                            assert_eq!(unreachable, Some(version), "{context}: {error}");
                            // The snapshot below it stays in one of the scenarios.
                            assert!(version == 6 || scenario.last == ALL_GO.last, "{context}");
                        }
                    }
                    assert_eq!(db.stats().failure, None, "{context}");
                });
                tally.add("reads", reads);
            }
        }
    }
}

/// From the moment at which it holds its snapshot, no collection makes a view begin again.
#[test]
fn a_view_that_holds_its_snapshot_is_not_overtaken_by_collection() {
    let model = ALL_GO.model();
    for limit in [1_u64 << 30, 0] {
        let reads = (1..).find(|n| {
            let context = format!("{limit}, before read {n}");
            let store = ALL_GO.store();
            let (db, snapshot) = (store.db().clone(), path_of(4));
            let (seen, left) = (AtomicU64::new(0), Arc::new(AtomicU64::new(*n)));
            let rest = Arc::clone(&left);
            let act = move |path: &Path| {
                // The snapshot is looked for under its name, locked, and looked for again.
                if path == snapshot {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                let is_held = seen.load(Ordering::SeqCst) > 2;
                if is_held
                    && rest.load(Ordering::SeqCst) > 0
                    && rest.fetch_sub(1, Ordering::SeqCst) == 1
                {
                    ALL_GO.go_on(&db);
                }
            };
            let (mut components, mut env) = (store.components(), store.env());
            env.fs = Arc::new(InterleaveFs::new(Arc::clone(&env.fs), act));
            components.env = Some(env.clone());
            components.engines = Some(Arc::new(ModelEngines::new(env)));
            let options = small().view_memory_bytes(limit);
            let view = StateDb::view_only_with(DIR, Some(6), options, components);
            check::view(&view.unwrap_or_else(|e| panic!("{context}: {e}")), &model, &context);
            left.load(Ordering::SeqCst) > 0
        });
        assert!(reads > Some(10), "{reads:?} reads");
    }
}

/// Its record may be in the log, and nobody knows whether it is durable.
#[test]
fn a_version_whose_commit_failed_is_neither_viewed_nor_reached() {
    let mut tally = Tally::new("commits that failed");
    for n in 1..12 {
        let mut store = Fixture::simulated(small());
        store.commit_to(5);
        let fs = store.harness().fs.clone();
        fs.fail_op(n, Fault::Eio, false);
        let committed = store.db().commit(6);
        if fs.faults_hit() == 0 {
            break;
        }
        fs.clear_faults();
        let Err(error) = committed else { continue };
        let context = format!("operation {n}: {error}");
        let db = store.db();
        assert!(db.stats().failure.is_some(), "{context}");
        for error in [db.view(6).unwrap_err(), db.reach(6).unwrap_err()] {
            let unreachable = Unreachable::of(&error).unwrap_or_else(|| panic!("{error}"));
            let found = (unreachable.target, unreachable.has.clone());
            assert_eq!(found, (6, Some(0..=5)), "{context}");
        }
        check::view(&db.view(4).unwrap(), &store.model, "a store that has failed can be read");
        let error = db.clone().rollback_to(6).unwrap_err();
        assert!(Unreachable::of(&error).is_some(), "{context}: {error}");
        drop(store.take_db());
        let is_there = store.open().version() == 6;
        tally.add(if is_there { "in the log" } else { "not in the log" }, 1);
    }
    assert!(tally.get("in the log") > 0, "{tally:?}");
}

/// A view of the writer's holds no snapshot once it exists.
#[test]
fn a_view_of_a_past_version_keeps_no_snapshot_and_refuses_no_rollback() {
    for limit in [1 << 30, 0] {
        for mut store in Fixture::both(&small().keep_snapshots(0).view_memory_bytes(limit)) {
            store.commit_to(3);
            store.snapshot();
            store.commit_to(6);
            let view = store.db().view(5).unwrap();
            store.snapshot();
            // Waits for the retention in the background.
            store.db().prune_snapshots_below(6).unwrap();
            let versions = |store: &Fixture| -> Vec<u64> {
                store.db().snapshots().unwrap().iter().map(|it| it.version).collect()
            };
            assert_eq!(versions(&store), [6], "retention has removed that of version 3");
            let other = store.db().view(6).unwrap();
            store.commit_to(8);
            let third = store.db().view(7).unwrap();
            store.roll_back(6);
            for view in [&view, &other, &third] {
                check::view(view, &store_model(&store, view), "rolled back");
            }
            store.close();
            assert!(store.env().fs.list(&path_in(&store, 6)).is_ok());
        }
    }
}

/// The model with the versions that were rolled back.
fn store_model(store: &Fixture, view: &View) -> crate::support::model::Model {
    let mut model = store.model.clone();
    while model.head() < view.version() {
        model.commit(&crate::support::model::changes_of(0, model.head() + 1));
    }
    model
}

fn path_in(store: &Fixture, version: u64) -> PathBuf {
    store.dir().join(path_of(version).strip_prefix(DIR).unwrap())
}

/// Closing beside a view that is being taken: the view or `Closed`, and nothing is left.
#[test]
fn closing_while_a_view_is_being_taken_ends_it_or_lets_it_end() {
    let mut store = Fixture::on_disk(small().view_memory_bytes(0));
    store.commit_to(30);
    let model = store.model.clone();
    for round in 0..20 {
        let db = store.db().clone();
        let (viewed, theirs) = (Arc::new(parking_lot::Mutex::new(None)), db.clone());
        let result = Arc::clone(&viewed);
        let thread = lithdb_env::spawn("viewer", move || {
            *result.lock() = Some(theirs.view(20 + round % 9));
        });
        if round % 2 == 0 {
            std::thread::yield_now();
        }
        db.close().unwrap();
        thread.unwrap().join().unwrap();
        match viewed.lock().take().unwrap() {
            Ok(view) => check::view(&view, &model, "beside closing"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
        }
        drop(store.take_db());
        let left = clones(&store).unwrap_or_default();
        assert_eq!(left, [""; 0]);
        store.open();
    }
}
