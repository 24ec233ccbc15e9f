//! What an application sees: apply, commit, read, close, open, snapshots and rollback.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

#[path = "basics/tree.rs"]
mod tree;

use std::path::Path;

use lithdb_env::{FileKind, Fs, OsFs, spawn};
use lithdb_state::{
    ChangeSet, ErrorKind, Prune, Retention, RootHash, StateComponents, StateDb, StateOptions,
    Unreachable,
};

fn set(store: &str) -> ChangeSet {
    ChangeSet::new(store).unwrap()
}

fn open(dir: &Path) -> StateDb {
    StateDb::open(dir.join("state"), StateOptions::new()).unwrap()
}

/// Commits versions up to `last`: key `k<version mod 7>` gets the version, `once` the first.
fn commit_to(db: &StateDb, last: u64) -> Vec<RootHash> {
    (db.version() + 1..=last)
        .map(|version| {
            let key = format!("k{}", version % 7);
            let changes = set("bank").put(key, version.to_string()).delete("once");
            let changes = [changes, set("log").put(version.to_be_bytes(), "")];
            db.commit_block(version, &changes).unwrap().root
        })
        .collect()
}

#[test]
fn committed_versions_are_read_and_survive_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    assert_eq!((db.version(), db.opened().replayed), (0, 0));
    let roots = commit_to(&db, 10);
    let then = db.latest();
    commit_to(&db, 12);
    assert_eq!(then.get("bank", "k3").unwrap().unwrap(), "10");
    assert_eq!(then.modified_at("bank", "k3").unwrap(), Some(10));
    assert_eq!(then.root(), roots[9]);
    let rows: Vec<_> = then.iter("bank").unwrap().map(|row| row.unwrap().key).collect();
    assert_eq!(rows, ["k0", "k1", "k2", "k3", "k4", "k5", "k6"]);
    db.close().unwrap();
    assert_eq!(db.commit(13).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(then.get("bank", "k3").unwrap().unwrap(), "10", "a view outlives the close");
    let db = open(dir.path());
    assert_eq!((db.version(), db.opened().replayed), (12, 0));
    assert_eq!(db.opened().recloned, None);
    assert_eq!(db.latest().get("log", 12u64.to_be_bytes()).unwrap().unwrap(), "");
    assert_eq!(db.latest().stores()[1].1, 12);
}

#[test]
fn versions_that_were_not_flushed_are_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let roots = commit_to(&db, 10);
    drop(db);
    let db = open(dir.path());
    assert_eq!((db.version(), db.opened().replayed), (10, 10));
    assert_eq!(db.root(), roots[9]);
}

#[test]
fn rollback_goes_to_the_root_of_that_commit_and_versions_are_committed_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let mut roots = commit_to(&db, 20);
    let snapshot = db.snapshot().unwrap().wait().unwrap();
    assert_eq!((snapshot.version, snapshot.root), (20, roots[19]));
    roots.extend(commit_to(&db, 30));
    db.snapshot().unwrap().wait().unwrap();
    let error = db.reach(31).unwrap_err();
    assert_eq!(Unreachable::of(&error).unwrap().needs, 31..=31);
    let db = db.rollback_to(25).unwrap();
    assert_eq!(db.version(), 25);
    assert_eq!(db.opened().abandoned, [30]);
    assert_eq!(db.opened().base, 20);
    let again = db.commit_block(26, &[set("bank").put("k0", "other")]).unwrap();
    assert_eq!(db.latest().get("bank", "k0").unwrap().unwrap(), "other");
    assert_eq!(db.snapshots().unwrap().len(), 1);
    let db = db.rollback_to(3).unwrap();
    assert_eq!((db.version(), db.root()), (3, roots[2]));
    assert_eq!(db.opened().abandoned, [20]);
    assert_ne!(commit_to(&db, 26)[22], again.root);
    assert_eq!(db.root(), roots[25], "the same changes give the same root");
    db.close().unwrap();
}

#[test]
fn pending_changes_are_seen_only_by_pending_reads() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    commit_to(&db, 7);
    db.apply(8, &[set("bank").put("k1", "new").delete("k2").put("k9", "9")]).unwrap();
    db.apply(8, &[set("bank").delete("k9").put("k35", "between")]).unwrap();
    let pending = db.pending();
    let rows = |rows: lithdb_state::Rows| -> Vec<_> { rows.map(|row| row.unwrap().key).collect() };
    let keys = ["k0", "k1", "k3", "k35", "k4", "k5", "k6"];
    assert_eq!(rows(pending.prefix("bank", "k").unwrap()), keys);
    let backwards = pending.prefix("bank", "k").unwrap().rev().map(|row| row.unwrap().key);
    assert_eq!(backwards.collect::<Vec<_>>(), keys.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(rows(pending.range("bank", "k1".."k4").unwrap()), ["k1", "k3", "k35"]);
    assert_eq!(rows(pending.iter("bank").unwrap()), keys);
    let modified_at = |key: &str| pending.modified_at("bank", key).unwrap();
    assert_eq!(["k1", "k2", "k3", "k9"].map(modified_at), [Some(8), None, Some(3), None]);
    let (mut begun, mut begun_back) =
        (pending.iter("bank").unwrap(), pending.iter("bank").unwrap().rev());
    assert_eq!(begun.next().unwrap().unwrap().key, keys[0]);
    assert_eq!(begun_back.next().unwrap().unwrap().key, keys[6]);
    assert_eq!(db.latest().get("bank", "k1").unwrap().unwrap(), "1");
    let root = pending.root().unwrap();
    assert_eq!(db.commit(8).unwrap().root, root);
    assert_eq!(rows(db.latest().iter("bank").unwrap()), keys);
    // Iterators that were begun do not see what happens next.
    db.commit_block(9, &[set("bank").delete("k1").put("k2", "").put("k36", "")]).unwrap();
    assert_eq!(rows(begun), keys[1..]);
    let rest: Vec<_> = begun_back.map(|row| row.unwrap().key).collect();
    assert_eq!(rest, keys[..6].iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(rows(pending.iter("bank").unwrap()), keys);
}

/// What an application with a retention of its own asks: how far the state can go back.
#[test]
#[expect(clippy::disallowed_methods, reason = "an operator removes the snapshots by hand")]
fn rollback_floor_is_the_lowest_version_that_can_be_reached() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StateOptions::new().initial_version(5).retention(Retention::Manual);
    options.wal = options.wal.segment_keys(1);
    let db = StateDb::open(dir.path().join("state"), options).unwrap();
    let check = |floor| {
        assert_eq!(db.rollback_floor().unwrap(), floor);
        assert!(db.reach(floor).is_ok(), "{floor}");
        assert!(floor == 0 || db.reach(floor - 1).is_err(), "{floor}");
    };
    // The empty state with which the history begins.
    check(4);
    commit_to(&db, 7);
    let snapshot = || db.snapshot().unwrap().wait().unwrap();
    snapshot();
    commit_to(&db, 9);
    check(4);
    snapshot();
    let report = db.prune_snapshots(Prune::Below(9)).unwrap();
    assert_eq!((report.removed, report.floor), (vec![7], 9));
    // The versions below the snapshot have been collected.
    check(9);
    commit_to(&db, 12);
    check(9);
    // Without a snapshot and without the beginning of the log nothing can be reached.
    std::fs::remove_dir_all(dir.path().join("state/snapshots")).unwrap();
    let (floor, newest) = (db.rollback_floor().unwrap_err(), db.reach(12).unwrap_err());
    assert_eq!(Unreachable::of(&floor), Unreachable::of(&newest));
    assert_eq!(
        db.close().and_then(|()| db.rollback_floor()).unwrap_err().kind(),
        ErrorKind::Closed
    );
}

/// Commits when it is dropped.
struct CommitsWhenDropped(StateDb);

impl Drop for CommitsWhenDropped {
    fn drop(&mut self) {
        self.0.commit_block(1, &[set("bank").put("alice", "7")]).unwrap();
    }
}

#[test]
fn a_commit_by_a_destructor_while_its_thread_panics_does_not_close_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let theirs = CommitsWhenDropped(db.clone());
    let thread = spawn("application", move || {
        let _theirs = theirs;
        panic!("of the application");
    });
    thread.unwrap().join().unwrap_err();
    assert_eq!((db.version(), db.stats().failure), (1, None));
    db.commit(2).unwrap();
}

#[test]
fn an_idle_store_keeps_no_table_that_compaction_has_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut components = StateComponents::default();
    components.without_background = true;
    let options = StateOptions::new().memtable_bytes(1).snapshot_interval(0);
    let db = StateDb::open_with(dir.path().join("state"), options, components).unwrap();
    commit_to(&db, 40);
    let working = dir.path().join("state/working");
    let entries = OsFs.list(&working).unwrap();
    let engine = entries.iter().find(|entry| entry.kind == FileKind::Dir).unwrap();
    let tables = OsFs.list(&working.join(&engine.name).join("tables")).unwrap().len();
    assert!(tables < 40, "{tables} tables");
    assert_eq!(tables, db.stats().engine.files, "what is on disk is what is read");
}

#[test]
fn stores_are_counted_as_they_are_after_the_changes() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let store = |n: u32| set(&format!("s{n}"));
    let all: Vec<_> = (0..4_096).map(|n| store(n).put("k", "v")).collect();
    db.commit_block(1, &all).unwrap();
    let error = db.apply(2, &[store(4_096).put("k", "v")]).unwrap_err();
    assert!(error.to_string().contains("4097 stores"), "{error}");
    db.commit_block(2, &[store(7).delete("k"), store(4_096).put("k", "v")]).unwrap();
    assert_eq!(db.latest().stores().len(), 4_096);
    assert_eq!(db.latest().store_hash("s7").unwrap(), None);
    // In two calls: what is pending counts.
    db.apply(3, &[store(8).delete("k")]).unwrap();
    db.apply(3, &[store(7).put("k", "v")]).unwrap();
    assert!(db.apply(3, &[store(8).put("k", "v")]).is_err());
    db.commit(3).unwrap();
    assert_eq!(db.latest().stores().len(), 4_096);
}
