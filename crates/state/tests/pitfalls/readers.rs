//! Readers beside the writer, and views that outlive it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb::{DuplicateKeys, TableOptions};
use lithdb_env::spawn;
use lithdb_sim::{Effort, Tally};
use lithdb_state::{
    RootHash, StateComponents, StateDb, StateOptions, Unreachable, VerifyLevel, View,
};
use parking_lot::Mutex;

use crate::fixture::Fixture;
use crate::interleave::InterleaveFs;
use crate::support::model::{Model, change_sets, changes_of, root_of, rows_of};
use crate::support::{DIR, check, small};

/// Snapshots at 4 and 8, the newest version 10.
fn with_two_snapshots() -> Fixture {
    let mut store = Fixture::simulated(small().keep_snapshots(1));
    for version in [4, 8, 10] {
        store.commit_to(version);
        if version < 10 {
            store.snapshot();
        }
    }
    store
}

/// The model of that store after [`go_on`].
fn with_two_snapshots_and_more() -> Model {
    let mut store = with_two_snapshots();
    store.commit_to(14);
    store.model.clone()
}

/// What the writer does while somebody reads: after it, version 4 is gone, and so is its log. If
/// the snapshot is being read, it stays.
fn go_on(db: &StateDb) {
    for version in 11..=14 {
        db.commit_block(version, &change_sets(&changes_of(0, version))).unwrap();
    }
    db.snapshot().unwrap().wait().unwrap();
    assert!([4, 8].contains(&db.stats().floor), "{:?}", db.stats());
}

/// Calls `read` with components whose `n`-th read waits for the writer to go on. Returns whether
/// there were so many reads.
fn interleaved(n: u64, read: impl FnOnce(&Fixture, StateComponents)) -> bool {
    let store = with_two_snapshots();
    let (left, db) = (Arc::new(AtomicU64::new(n)), store.db().clone());
    let reads = Arc::clone(&left);
    let act = move || {
        if left.load(Ordering::SeqCst) > 0 && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            go_on(&db);
        }
    };
    let mut components = store.components();
    let mut env = store.env();
    env.fs = Arc::new(InterleaveFs::new(Arc::clone(&env.fs), act));
    components.env = Some(env.clone());
    components.engines = Some(Arc::new(lithdb_state_engine::ModelEngines::new(env)));
    read(&store, components);
    reads.load(Ordering::SeqCst) == 0
}

/// sei-chain #3337, #3516: a reader looked at the log before it held its snapshot, and skipped the
/// versions that were collected meanwhile.
#[test]
fn a_reader_between_any_two_reads_of_which_the_writer_collects_finds_its_version() {
    let mut tally = Tally::new("reads between which the writer collects");
    let model = with_two_snapshots_and_more();
    let is_version = |view: &View, context: &str| check::view(view, &model, context);
    let mut n = 1;
    while interleaved(n, |_, components| {
        let context = format!("before read {n} of a view of the newest");
        let view = StateDb::view_only_with(DIR, None, components);
        let view = view.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!((10..=14).contains(&view.version()), "{context}: {}", view.version());
        is_version(&view, &context);
        tally.add("views of the newest", 1);
    }) {
        n += 1;
    }
    n = 1;
    while interleaved(n, |_, components| {
        let context = format!("before read {n} of a view of version 9");
        let view = StateDb::view_only_with(DIR, Some(9), components);
        is_version(&view.unwrap_or_else(|e| panic!("{context}: {e}")), &context);
        tally.add("views of a version", 1);
    }) {
        n += 1;
    }
    n = 1;
    while interleaved(n, |_, components| {
        // It can be reached no more: that is said, or it was in time.
        let context = format!("before read {n} of a view of version 6");
        match StateDb::view_only_with(DIR, Some(6), components) {
            Ok(view) => is_version(&view, &context),
            Err(error) => {
                let unreachable = Unreachable::of(&error);
                assert_eq!(unreachable.map(|it| it.target), Some(6), "{context}: {error}");
            }
        }
    }) {
        n += 1;
    }
    for what in ["views of the newest", "views of a version"] {
        assert!(tally.get(what) > 20, "{tally:?}");
    }
}

/// The same of what only looks: what is collected meanwhile is nothing that is wrong.
#[test]
fn inspecting_and_verifying_between_any_two_reads_of_which_the_writer_collects_finds_nothing_wrong()
{
    let mut tally = Tally::new("reads of verifications between which the writer collects");
    let model = with_two_snapshots_and_more();
    let mut n = 1;
    while interleaved(n, |_, components| {
        let context = format!("before read {n} of an inspection");
        let found = StateDb::inspect_with(DIR, components);
        let found = found.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(found.root, model.at(found.version).root, "{context}");
        assert!(found.reach.is_some(), "{context}: {found:?}");
        tally.add("inspections", 1);
    }) {
        n += 1;
    }
    for level in [VerifyLevel::Light, VerifyLevel::Files, VerifyLevel::Content] {
        n = 1;
        while interleaved(n, |_, components| {
            let context = format!("before read {n} of a verification, {level:?}");
            let found = StateDb::verify_with(DIR, level, components, |_| {});
            let found = found.unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(found.is_ok(), "{context}: {:?}", found.findings);
            tally.add("verifications", 1);
        }) {
            n += 1;
        }
    }
    for what in ["inspections", "verifications"] {
        assert!(tally.get(what) > 20, "{tally:?}");
    }
}

/// The same within one process: what can be reached is asked while the log is collected.
#[test]
fn what_can_be_reached_is_answered_between_any_two_reads() {
    let mut n = 1;
    loop {
        let mut store = with_two_snapshots();
        store.close();
        let left = Arc::new(AtomicU64::new(0));
        let (reads, writer) = (Arc::clone(&left), Arc::new(Mutex::new(None::<StateDb>)));
        let db = Arc::clone(&writer);
        let act = move || {
            if reads.load(Ordering::SeqCst) > 0 && reads.fetch_sub(1, Ordering::SeqCst) == 1 {
                let db = db.lock().clone().unwrap();
                go_on(&db);
                assert_eq!(db.stats().floor, 8);
            }
        };
        let fs = Arc::new(store.harness().fs.clone());
        store.harness_mut().wrapped = Some(Arc::new(InterleaveFs::new(fs, act)));
        *writer.lock() = Some(store.open().clone());
        left.store(n, Ordering::SeqCst);
        let reached = store.db().reach(10);
        assert_eq!(reached.unwrap().base.version(), 8, "before read {n}");
        // Version 6 can be reached until the log is collected, and then no more.
        if let Err(error) = store.db().reach(6) {
            assert!(Unreachable::of(&error).is_some(), "before read {n}: {error}");
        }
        store.db().snapshots().unwrap_or_else(|e| panic!("before read {n}: {e}"));
        if left.load(Ordering::SeqCst) > 0 {
            break;
        }
        n += 1;
        *writer.lock() = None;
    }
    assert!(n > 10, "{n} reads");
}

/// What the writer of the next test shares with its readers.
struct Writing {
    /// The newest version that was committed.
    committed: AtomicU64,
    roots: Mutex<BTreeMap<u64, RootHash>>,
    is_over: AtomicBool,
}

/// sei-chain #3337, #3516. With the production engine, in threads.
#[test]
fn a_reader_beside_snapshots_retention_and_collection_always_finds_its_version() {
    let rounds = Effort::from_env().times(300);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let wal = TableOptions::new().segment_keys(3).duplicate_keys(DuplicateKeys::Reject);
    let options = StateOptions::new().snapshot_interval(3).keep_snapshots(0).wal(wal);
    let db = StateDb::open(&path, options.hash_threads(1)).unwrap();
    let writing = Arc::new(Writing {
        committed: AtomicU64::new(0),
        roots: Mutex::new([(0, db.root())].into()),
        is_over: AtomicBool::new(false),
    });
    let (theirs, writer_db) = (Arc::clone(&writing), db.clone());
    let writer = spawn("writer", move || {
        let mut version = 0;
        while !theirs.is_over.load(Ordering::SeqCst) {
            version += 1;
            let sets = change_sets(&changes_of(0, version));
            writer_db.apply(version, &sets).unwrap();
            // Before anybody can see the version.
            theirs.roots.lock().insert(version, writer_db.pending().root().unwrap());
            writer_db.commit(version).unwrap();
            theirs.committed.store(version, Ordering::SeqCst);
            if version % 50 == 0 {
                let newest = writer_db.stats().snapshot_version;
                writer_db.prune_snapshots_below(newest).unwrap();
            }
        }
    });
    let readers: Vec<_> = (0..2)
        .map(|number| {
            let (writing, path, db) = (Arc::clone(&writing), path.clone(), db.clone());
            let read = move || {
                (0..rounds / 2).map(|round| read_once(&writing, &path, &db, round)).sum::<u64>()
            };
            let found = Arc::new(AtomicU64::new(0));
            let sum = Arc::clone(&found);
            let thread = spawn(&format!("reader {number}"), move || {
                sum.store(read(), Ordering::SeqCst);
            });
            (thread.unwrap(), found)
        })
        .collect();
    let ended: Vec<_> = readers.into_iter().map(|(thread, sum)| (thread.join(), sum)).collect();
    writing.is_over.store(true, Ordering::SeqCst);
    writer.unwrap().join().unwrap();
    let mut tally = Tally::new("readers beside the writer");
    for (result, sum) in ended {
        result.unwrap();
        tally.add("views from snapshots", sum.load(Ordering::SeqCst));
    }
    tally.add("rounds", rounds);
    tally.add("versions", db.version());
    assert!(db.stats().floor > 3, "the log was collected: {:?}", db.stats());
    assert!(tally.get("views from snapshots") > rounds / 4, "{tally:?}");
    db.close().unwrap();
}

/// One round of a reader; returns how many of its views began with a snapshot.
fn read_once(writing: &Writing, path: &std::path::Path, db: &StateDb, round: u64) -> u64 {
    let before = writing.committed.load(Ordering::SeqCst);
    let version = (round % 3 == 2).then_some(before);
    match StateDb::view_only(path, version) {
        Ok(view) => {
            let expected = version.map_or(before..=u64::MAX, |version| version..=version);
            assert!(expected.contains(&view.version()), "{}, {expected:?}", view.version());
            assert_eq!(view.root(), writing.roots.lock()[&view.version()]);
            assert_eq!(root_of(&rows_of(&view)), view.root(), "version {}", view.version());
            u64::from(view.version() > 3)
        }
        Err(error) => {
            // A version that was asked for may have been collected.
            let unreachable = Unreachable::of(&error).unwrap_or_else(|| panic!("{error}"));
            assert_eq!(Some(unreachable.target), version, "round {round}: {error}");
            assert!(db.stats().floor > unreachable.target, "{error}, floor {}", db.stats().floor);
            0
        }
    }
}

/// sei-chain #3447: a store that was loaded for reading reported its height as the writer's; and
/// views of a store that was closed.
#[test]
fn views_outlive_close_and_do_not_touch_the_writers_gauges() {
    for mut store in Fixture::both(&small().keep_snapshots(0)) {
        store.commit_to(6);
        store.snapshot();
        store.commit_to(9);
        let model = store.model.clone();
        let stats = |store: &Fixture| format!("{:?}", store.db().stats());
        let before = stats(&store);
        let newest = store.db().latest();
        let then = store.view_only(Some(7)).unwrap();
        let pending = store.db().pending();
        let mut rows = newest.iter("bank").unwrap();
        let first = rows.next().unwrap().unwrap();
        assert_eq!(stats(&store), before, "reading changes nothing that is reported");
        let are_same = |context: &str| {
            check::view(&newest, &model, context);
            check::view(&then, &model, context);
            assert_eq!((newest.version(), then.version()), (9, 7), "{context}");
            assert_eq!(pending.root().unwrap(), newest.root(), "{context}");
        };
        store.commit_to(20);
        store.snapshot();
        are_same("the writer went on");
        let floor = store.db().stats().floor;
        assert!(store.db().reach(floor - 1).is_err(), "their versions are gone");
        store.close();
        are_same("closed");
        store.open();
        store.roll_back(20);
        store.commit_to(22);
        store.roll_back(21);
        are_same("rolled back");
        let left: Vec<_> = rows.map(|row| row.unwrap()).collect();
        let expected: Vec<_> = newest.iter("bank").unwrap().map(|row| row.unwrap()).collect();
        assert_eq!([vec![first], left].concat(), expected, "an iterator that was begun");
        drop(store.take_db());
        are_same("dropped");
        assert!(store.view_only(Some(7)).is_err(), "nobody can take them again");
    }
}
