//! What is refused changes nothing: every byte of the disk is as before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb::rollback::max_be_u64;
use lithdb::{Components, Db, DbOptions, Rollback};
use lithdb_env::{DirEntry, File, FileLock, Fs, LockKind, Metadata, OpenMode};
use lithdb_sim::SimFs;
use lithdb_state::{ErrorKind, StateDb, Unreachable, Wal, WalFloor};

use super::support::model::{change_sets, changes_of};
use super::support::script::{Op, Run, Script};
use super::support::{App, DIR, Harness, Tree, check, difference, small, without_openings};

/// A running store, and everything that is on its disk.
fn running<'s>(script: &'s Script) -> (Run<'s>, Tree) {
    let mut run = Run::new(script);
    run.until_error().unwrap();
    let tree = run.harness.tree("/");
    (run, tree)
}

fn unchanged(harness: &Harness, before: &Tree, context: &str) {
    assert_eq!(difference(before, &harness.tree("/")), None, "{context}");
}

/// Refusing `target` leaves every byte, the pending changes and the handle.
fn refuses(run: &Run<'_>, target: u64, what: &str) {
    let before = run.harness.tree("/");
    let db = run.db();
    db.apply(db.version() + 1, &change_sets(&changes_of(7, db.version() + 1))).unwrap();
    let pending = db.pending().root().unwrap();
    let errors = [
        db.reach(target).map(drop).unwrap_err(),
        db.clone().rollback_to(target).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Missing, "{what}: {error}");
        let unreachable = Unreachable::of(&error).unwrap_or_else(|| panic!("{what}: {error}"));
        assert_eq!(unreachable.target, target, "{what}: {unreachable}");
    }
    unchanged(&run.harness, &before, what);
    assert_eq!(db.pending().root().unwrap(), pending, "{what}: the pending changes");
    db.discard_pending();
    check::view(&db.latest(), &run.expect.model, what);
    // The stopped store refuses the same.
    let stopped = run.harness.fork();
    let before = stopped.tree("/");
    let error = stopped.rollback().plan(target).map(drop).unwrap_err();
    assert!(Unreachable::of(&error).is_some(), "{what}: {error}");
    assert_eq!(difference(&without_lock(before), &without_lock(stopped.tree("/"))), None, "{what}");
}

/// The process id in the lock file is written by whoever takes the lock.
fn without_lock(mut tree: Tree) -> Tree {
    tree.retain(|path, _| !path.ends_with("state.lock"));
    tree
}

#[test]
fn unreachable_targets_are_refused_and_every_byte_stays() {
    let ops = [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("not there", small().initial_version(5), &ops);
    let (run, _) = running(&script);
    refuses(&run, 8, "above the head");
    refuses(&run, 3, "below the base");
    refuses(&run, 0, "below the base");
    run.db().reach(4).unwrap();
    let mut options = small().snapshot_interval(2).keep_snapshots(0);
    options.wal = options.wal.segment_keys(1);
    let script = Script::new("collected", options, &[Op::Commit; 7]);
    let (run, _) = running(&script);
    refuses(&run, 1, "collected");
    refuses(&run, 5, "collected");
    run.db().reach(6).unwrap();
    // The snapshot is gone, and the log does not go back far enough.
    let lost = run.harness.fork();
    lost.fs.remove_dir_raw(format!("{DIR}/snapshots"));
    let db = lost.open();
    let before = lost.tree("/");
    let error = db.clone().rollback_to(6).unwrap_err();
    assert_eq!(Unreachable::of(&error).unwrap().base, None, "{error}");
    unchanged(&lost, &before, "no snapshot");
}

/// The log without one of its versions: nobody can make one, so the test copies the others.
fn with_a_hole(harness: &Harness, missing: u64) {
    let db = harness.try_read_log(&format!("{DIR}/wal")).unwrap();
    let table = db.existing_table("wal").unwrap();
    let records: Vec<(Vec<u8>, Vec<u8>)> = table
        .iter()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.key().to_vec(), entry.value().unwrap().to_vec()))
        .collect();
    drop((db, table));
    harness.fs.remove_dir_raw(format!("{DIR}/wal"));
    let components =
        Components { env: Some(harness.env()), without_maintenance: true, ..Components::default() };
    let db = Db::open_with(DbOptions::new([format!("{DIR}/wal")]), components).unwrap();
    let table = db.table("wal", harness.options.wal.clone()).unwrap();
    for (key, value) in records.iter().filter(|(key, _)| **key != missing.to_be_bytes()) {
        table.put(key, value).unwrap();
    }
    db.close().unwrap();
}

#[test]
fn a_hole_in_the_log_is_named_and_every_byte_stays() {
    let ops = [Op::Commit, Op::Commit, Op::Commit, Op::Commit, Op::Commit, Op::Close];
    let script = Script::new("hole", small(), &ops);
    let (mut run, _) = running(&script);
    drop(run.store.take());
    let holed = run.harness.fork();
    with_a_hole(&holed, 3);
    let holed = holed.fork();
    let db = holed.open();
    let before = holed.tree("/");
    db.reach(2).unwrap();
    for target in [3, 4, 5] {
        let error = db.reach(target).unwrap_err();
        assert_eq!(Unreachable::of(&error).unwrap().gap, Some(3), "{error}");
    }
    let error = db.clone().rollback_to(4).unwrap_err();
    assert_eq!(Unreachable::of(&error).unwrap().gap, Some(3), "{error}");
    unchanged(&holed, &before, "hole");
    drop(db);
    // Without the working copy there is no way to the head.
    holed.fs.remove_dir_raw(format!("{DIR}/working"));
    let before = without_lock(holed.tree("/"));
    let error = holed.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert_eq!(Unreachable::of(&error).unwrap().gap, Some(3), "{error}");
    assert_eq!(difference(&before, &without_lock(holed.tree("/"))), None);
}

/// The newest version cannot be reached, and what an opening would remove or move aside stays where
/// it is.
#[test]
fn an_unreachable_newest_version_is_refused_and_every_byte_stays() {
    let mut options = small();
    options.wal = options.wal.segment_keys(1);
    let four = [Op::Commit; 4];
    let ops =
        [&four[..], &[Op::Snapshot, Op::Commit, Op::Commit, Op::Snapshot, Op::Close]].concat();
    let script = Script::new("unreachable", options, &ops);
    let (mut run, _) = running(&script);
    drop(run.store.take());
    let ahead = run.harness.fork();
    // The log ends below the second snapshot and the working copy, and the first snapshot is lost.
    let rollback = Rollback::new([format!("{DIR}/wal")]).env(ahead.env());
    rollback.plan(max_be_u64(0, 5)).unwrap().execute().unwrap();
    ahead.fs.remove_dir_raw(format!("{DIR}/snapshots/{:020}", 4));
    // What is left of interrupted operations.
    ahead.fs.make_dirs(format!("{DIR}/working.new/engine-00000000"));
    ahead.fs.make_dirs(format!("{DIR}/snapshots/{:020}.new", 8));
    ahead.fs.write_raw(format!("{DIR}/CURRENT.new"), b"half".to_vec());
    let lost = ahead.fork();
    lost.fs.remove_dir_raw(format!("{DIR}/working"));
    // Whether the working copy is of use is known only when the log is open.
    for (harness, kept) in [(lost, without_lock as fn(Tree) -> Tree), (ahead, without_openings)] {
        let before = kept(harness.tree("/"));
        for _ in 0..2 {
            let error = harness.try_open().unwrap_err();
            let unreachable = Unreachable::of(&error).unwrap_or_else(|| panic!("{error}"));
            assert_eq!((unreachable.target, unreachable.base), (5, None), "{error}");
            assert_eq!(difference(&before, &kept(harness.tree("/"))), None);
        }
    }
}

#[test]
fn a_version_out_of_turn_is_refused_and_every_byte_stays() {
    let script = Script::new("out of turn", small(), &[Op::Commit, Op::Commit, Op::Apply]);
    let (run, before) = running(&script);
    let db = run.db();
    let pending = db.pending().root().unwrap();
    for version in [0, 1, 2, 4, u64::MAX] {
        let sets = change_sets(&changes_of(3, 3));
        for refused in [
            db.apply(version, &sets),
            db.commit(version).map(drop),
            db.commit_block(version, &sets).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{version}: {error}");
        }
    }
    unchanged(&run.harness, &before, "out of turn");
    assert_eq!(db.pending().root().unwrap(), pending);
    db.commit(3).unwrap();
}

#[test]
fn an_open_store_is_locked_and_every_byte_stays() {
    let script = Script::new("locked", small(), &[Op::Commit, Op::Snapshot, Op::Commit]);
    let (run, before) = running(&script);
    let harness = Harness { clock: run.harness.on(SimFs::new()).clock, ..run.harness.clone() };
    let error = harness.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    let error = harness.rollback().plan(1).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    unchanged(&run.harness, &before, "locked");
}

/// A rollback would remove a snapshot that somebody reads.
#[test]
fn a_snapshot_in_use_refuses_a_rollback_and_every_byte_stays() {
    let script = Script::new("in use", small(), &[Op::Commit, Op::Commit, Op::Snapshot]);
    let (run, before) = running(&script);
    let dir = Path::new(DIR).join("snapshots/00000000000000000002");
    let reader = run.harness.fs.try_lock(&dir, LockKind::Shared).unwrap().unwrap();
    let error = run.db().clone().rollback_to(1).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    unchanged(&run.harness, &before, "in use");
    check::view(&run.db().latest(), &run.expect.model, "in use");
    drop(reader);
    assert_eq!(run.db().clone().rollback_to(1).unwrap().version(), 1);
}

#[test]
fn a_log_of_the_application_refuses_rollback_and_every_byte_stays() {
    let script = Script::shared("of the application", small(), &[Op::Commit, Op::Commit]);
    let (run, before) = running(&script);
    let error = run.db().clone().rollback_to(1).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    unchanged(&run.harness, &before, "of the application");
    run.db().commit(3).unwrap();
}

/// A stopped store with a snapshot and versions to replay.
fn stopped() -> (Script, Harness) {
    let ops = [Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("stopped", small(), &ops);
    let mut run = Run::new(&script);
    run.until_error().unwrap();
    drop(run.store.take());
    let harness = run.harness.fork();
    drop(run);
    (script, harness)
}

#[test]
fn a_missing_log_is_refused_and_every_byte_stays() {
    let (_, harness) = stopped();
    harness.fs.remove_dir_raw(format!("{DIR}/wal"));
    let before = without_lock(harness.tree("/"));
    let error = harness.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(harness.rollback().plan(1).is_err());
    assert_eq!(difference(&before, &without_lock(harness.tree("/"))), None);
    // Nor is it taken for a new store without snapshots and working copy.
    for part in ["working", "snapshots"] {
        harness.fs.remove_dir_raw(format!("{DIR}/{part}"));
        assert_eq!(harness.try_open().unwrap_err().kind(), ErrorKind::Missing, "{part}");
        assert!(harness.fs.list(&Path::new(DIR).join("wal")).is_err(), "{part}: a log was made");
    }
    // An empty log is no log.
    let (_, harness) = stopped();
    harness.fs.remove_dir_raw(format!("{DIR}/wal"));
    harness.fs.make_dirs(format!("{DIR}/wal"));
    let before = without_lock(harness.tree("/"));
    let error = harness.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert_eq!(difference(&before, &without_lock(harness.tree("/"))), None);
}

#[test]
fn a_foreign_log_is_refused_and_every_byte_stays() {
    let (_, harness) = stopped();
    let mut other = harness.fork();
    other.clock = lithdb_sim::SimClock::new(99);
    let db = StateDb::open_with("/other", other.options.clone(), other.components()).unwrap();
    for version in 1..=3 {
        db.commit_block(version, &change_sets(&changes_of(0, version))).unwrap();
    }
    db.close().unwrap();
    drop(db);
    let swapped = other.fork();
    swapped.fs.swap_raw(format!("{DIR}/wal"), "/other/wal");
    let before = without_lock(swapped.tree("/"));
    let error = swapped.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(swapped.rollback().plan(1).is_err());
    assert_eq!(difference(&before, &without_lock(swapped.tree("/"))), None);
    // In its place again, everything is there.
    swapped.fs.swap_raw(format!("{DIR}/wal"), "/other/wal");
    assert_eq!(swapped.open().version(), 2);
}

/// A table of the application's database that cannot be the log of a new state store.
#[test]
fn an_unfit_table_creates_no_store_and_every_byte_stays() {
    let harness = Harness::new(small());
    let app = App::open(&harness).unwrap();
    app.state.commit_block(1, &change_sets(&changes_of(0, 1))).unwrap();
    let log = app.db.existing_table("state").unwrap();
    let before = harness.tree("/");
    for (table, floor, expected) in [
        (log.clone(), app.floor.clone(), ErrorKind::Foreign),
        (log, WalFloor::new(), ErrorKind::InvalidArgument),
        (app.blocks.clone(), WalFloor::new(), ErrorKind::InvalidArgument),
    ] {
        let mut components = harness.components();
        components.wal = Wal::Table { table, floor };
        let opened = StateDb::open_with("/new", harness.options.clone(), components);
        let error = opened.map(drop).unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        unchanged(&harness, &before, "unfit");
    }
}

/// No links between directories: as if they were on different file systems.
#[derive(Debug)]
struct CrossDevice(SimFs);

impl Fs for CrossDevice {
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        match original.parent() == link.parent() {
            true => self.0.hard_link(original, link),
            false => Err(io::Error::from_raw_os_error(18)),
        }
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.create_new(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.0.open(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.0.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        self.0.try_lock(path, kind)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.0.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.canonicalize(path)
    }
}

#[test]
fn another_file_system_is_refused_and_nothing_is_copied() {
    let (script, harness) = stopped();
    let crossing = |harness: &Harness| {
        let mut crossing = harness.fork();
        crossing.wrapped = Some(Arc::new(CrossDevice(crossing.fs.clone())));
        crossing
    };
    // A snapshot: the memtable is flushed, and that is all.
    let harness_of_snapshot = crossing(&harness);
    let db = harness_of_snapshot.open();
    let before = harness_of_snapshot.tree(&format!("{DIR}/snapshots"));
    let error = db.snapshot().unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let after = harness_of_snapshot.tree(&format!("{DIR}/snapshots"));
    assert_eq!(difference(&before, &after), None);
    db.commit_block(3, &change_sets(&changes_of(0, 3))).unwrap();
    drop(db);
    // A clone: the store is not opened.
    let lost = crossing(&harness);
    lost.fs.remove_dir_raw(format!("{DIR}/working"));
    let before = without_openings(lost.tree("/"));
    for _ in 0..2 {
        let error = lost.try_open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
    let mut after = without_openings(lost.tree("/"));
    after.retain(|path, _| !path.starts_with(Path::new(DIR).join("working.new")));
    assert_eq!(difference(&before, &after), None);
    let whole = lost.fork();
    assert_eq!(whole.open().version(), 2);
    drop(script);
}

/// Files that are not a store's are not touched, and no store is created beside them.
#[test]
fn a_directory_of_others_is_refused_and_every_byte_stays() {
    let harness = Harness::new(small());
    harness.fs.write_raw(format!("{DIR}/notes.txt"), b"mine".to_vec());
    let before = harness.tree("/");
    let error = harness.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    unchanged(&harness, &before, "notes");
    // In an existing store they are reported.
    let (_, harness) = stopped();
    harness.fs.write_raw(format!("{DIR}/notes.txt"), b"mine".to_vec());
    let db = harness.open();
    assert_eq!(db.opened().foreign, ["notes.txt"]);
    assert_eq!(harness.fs.read_raw(format!("{DIR}/notes.txt")), b"mine");
}
