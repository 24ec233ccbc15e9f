//! Layouts of a store's directory: the current one and the flat one, as files of the repository
//! that every build must open; and the adoption of the flat one, with power loss and failures at
//! every operation.
//!
//! The files in `fixtures` are a store at version 5 (`layout-1`, with a snapshot of version 3) and
//! the engine of its working copy alone (`layout-0/engine`). `Model` and `changes_of` have its
//! contents. They are never changed; a build with another layout gets files of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub)]
#![expect(clippy::let_underscore_must_use, reason = "runs end where the power fails")]

mod support;

use std::path::{Path, PathBuf};

use lithdb::{Components, Db, DbOptions};
use lithdb_env::{FileKind, Fs, OsFs};
use lithdb_sim::{CrashImage, Effort, Fault, SimFs, Tally};
use lithdb_state::{AdoptReport, ErrorKind, Reclone, Result, StateDb, StateOptions, Wal, WalFloor};
use lithdb_state_engine::{Engines, ModelEngines, OpenMode};
use support::model::{Model, change_sets, changes_of};
use support::script::{Op, Run, Script};
use support::{APP, App, DIR, Harness, Tree, check, difference, small, without_openings};

/// The newest version of the fixtures.
const NEWEST: u64 = 5;

fn model() -> Model {
    let mut model = Model::new(1);
    for version in 1..=NEWEST {
        model.commit(&changes_of(0, version));
    }
    model
}

/// Copies a fixture into a directory that can be written to.
fn copy(from: &Path, to: &Path) {
    OsFs.create_dir(to).unwrap();
    for entry in OsFs.list(from).unwrap() {
        let (from, to) = (from.join(&entry.name), to.join(&entry.name));
        match entry.kind {
            FileKind::Dir => copy(&from, &to),
            _ => {
                let bytes = lithdb_env::read_file(&OsFs, &from, 1 << 20).unwrap();
                let file = OsFs.create_new(&to).unwrap();
                lithdb_env::write_all_at(&*file, &bytes, 0).unwrap();
            }
        }
    }
}

fn fixture(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let state = dir.path().join("state");
    copy(&from, &state);
    (dir, state)
}

/// The store works: it goes on, takes a snapshot, goes back.
fn goes_on(db: StateDb, model: &mut Model) {
    for _ in 0..3 {
        let version = model.head() + 1;
        let changes = changes_of(0, version);
        model.commit(&changes);
        db.commit_block(version, &change_sets(&changes)).unwrap();
    }
    assert_eq!(db.snapshot().unwrap().wait().unwrap().version, NEWEST + 3);
    check::view(&db.latest(), model, "gone on");
    check::view(&db.view(NEWEST + 1).unwrap(), model, "gone on");
    let db = db.rollback_to(NEWEST + 2).unwrap();
    check::view(&db.latest(), model, "rolled back");
    db.close().unwrap();
}

#[test]
fn store_of_layout_1_opens() {
    let (_dir, state) = fixture("layout-1");
    let mut model = model();
    check::view(&StateDb::view_only(&state, Some(4)).unwrap(), &model, "beside");
    let db = StateDb::open(&state, StateOptions::new()).unwrap();
    let report = db.opened();
    assert_eq!((report.base, report.replayed), (NEWEST, 0), "{report:?}");
    assert_eq!((&report.recloned, &report.foreign[..]), (&None, &[][..]), "{report:?}");
    check::view(&db.latest(), &model, "opened");
    let snapshots: Vec<u64> = db.snapshots().unwrap().iter().map(|it| it.version).collect();
    assert_eq!(snapshots, [3]);
    for version in 0..=NEWEST {
        check::view(&db.view(version).unwrap(), &model, "a version");
    }
    goes_on(db, &mut model);
}

#[test]
fn flat_layout_0_is_adopted() {
    let (_dir, state) = fixture("layout-0");
    let mut model = model();
    let error = StateDb::open(&state, StateOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("lith state adopt"), "{error}");
    let adopted = StateDb::adopt(&state, StateOptions::new()).unwrap();
    let expected = model.at(NEWEST);
    assert_eq!((adopted.version, adopted.root), (NEWEST, expected.root));
    assert_eq!(adopted.rows, expected.rows.len() as u64);
    let names = OsFs.list(&state).unwrap().into_iter().map(|it| it.name).collect::<Vec<_>>();
    assert!(!names.contains(&"engine".to_owned()), "{names:?}");
    let db = StateDb::open(&state, StateOptions::new()).unwrap();
    let report = db.opened();
    assert_eq!((&report.recloned, report.leftovers.len()), (&None, 0), "{report:?}");
    check::view(&db.latest(), &model, "adopted");
    // Its history begins here.
    assert!(db.view(NEWEST - 1).is_err() && db.reach(NEWEST).is_ok());
    goes_on(db, &mut model);
    let verified = StateDb::verify(&state, lithdb_state::VerifyLevel::Content, |_| {}).unwrap();
    assert!(verified.is_ok(), "{:?}", verified.findings);
}

/// A flat layout on a simulated disk.
fn flat() -> Harness {
    let script = Script::new("flat", small(), &[Op::Commit; NEWEST as usize]);
    let mut run = Run::new(&script);
    run.until_error().unwrap();
    run.db().close().unwrap();
    let (from, to) = (run.harness.fs.clone(), SimFs::new());
    let working = Path::new(DIR).join("working");
    for path in from.file_paths().iter().filter(|path| path.starts_with(&working)) {
        let name = path.strip_prefix(&working).unwrap();
        if name.components().count() == 2 {
            let file = Path::new(DIR).join("engine").join(name.file_name().unwrap());
            to.write_raw(file, from.read_raw(path));
        }
    }
    run.harness.on(to)
}

fn adopt(harness: &Harness) -> Result<AdoptReport> {
    StateDb::adopt_with(DIR, harness.options.clone(), harness.components())
}

fn engine_of(harness: &Harness) -> Tree {
    harness.tree(&format!("{DIR}/engine"))
}

/// Adopts the directory, unless that was decided before, and opens it: it holds the version of the
/// flat layout, and nothing else is left; if `is_used`, it goes on.
fn finish(harness: &Harness, is_used: bool, context: &str) {
    let is_decided = harness.fs.file_paths().contains(&PathBuf::from(DIR).join("state.id"));
    if !is_decided {
        adopt(harness).unwrap_or_else(|e| panic!("{context}: adopt again: {e}"));
    }
    let db = harness.try_open().unwrap_or_else(|e| panic!("{context}: open: {e}"));
    check::view(&db.latest(), &model(), context);
    assert_eq!(db.version(), NEWEST, "{context}");
    let report = db.opened();
    assert!(report.foreign.is_empty() && report.damaged.is_empty(), "{context}: {report:?}");
    check::snapshots(&db, &model(), context);
    check::reach(&db, NEWEST, context);
    db.close().unwrap();
    for name in ["engine", "trash", "working.new", "views"] {
        assert_eq!(harness.names(name), [""; 0], "{context}: {name}");
    }
    if is_used {
        goes_on(harness.try_open().unwrap(), &mut model());
    }
}

/// What a power loss left: a flat layout that nothing has touched, or a store.
fn check_disk(harness: &Harness, before: &Tree, context: &str, tally: &mut Tally) {
    if harness.fs.file_paths().contains(&PathBuf::from(DIR).join("state.id")) {
        tally.add("images after the decision", 1);
        let view = StateDb::view_only_with(DIR, None, small(), harness.components());
        check::view(&view.unwrap_or_else(|e| panic!("{context}: {e}")), &model(), context);
        return;
    }
    tally.add("images before the decision", 1);
    let engine = engine_of(harness);
    assert_eq!(difference(before, &engine), None, "{context}: the flat layout");
    let error = harness.try_open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{context}: {error}");
    assert!(error.to_string().contains("lith state adopt"), "{context}: {error}");
}

fn images(fs: &SimFs, seed: u64) -> Vec<CrashImage> {
    let unsynced = fs.unsynced_ops();
    let mut images = vec![CrashImage::Nothing];
    if unsynced > 0 {
        let random = Effort::from_env().seed("adoption").wrapping_add(seed);
        let mut others = vec![CrashImage::Everything, CrashImage::Seeded(random)];
        others.push(CrashImage::Prefix(seed as usize % (unsynced + 1)));
        if !Effort::from_env().is_deep() {
            others.rotate_left(seed as usize % 3);
            others.truncate(1);
        }
        images.extend(others);
    }
    images
}

#[test]
fn adopting_a_flat_layout_is_done_or_not_after_every_crash() {
    let base = flat();
    let before = engine_of(&base);
    let whole = base.fork();
    assert_eq!(adopt(&whole).unwrap().version, NEWEST);
    let count = whole.fs.ops();
    finish(&whole, true, "without a crash");
    let mut tally = Tally::new("crashes of an adoption");
    let mut turn = 0_u64;
    for k in 0..=count {
        let harness = base.fork();
        harness.fs.crash_after(k);
        let _ = adopt(&harness);
        for image in images(&harness.fs, k) {
            let context = format!("crash after {k} of {count}, {image:?}");
            let found = harness.after_crash(&image);
            check_disk(&found.fork(), &before, &context, &mut tally);
            let raw = found.fork();
            turn += 1;
            finish(&found, turn.is_multiple_of(6), &context);
            tally.add("images", 1);
            if Effort::from_env().is_deep() || turn.is_multiple_of(41) {
                crash_again(&raw, &before, &context, &mut tally);
            }
        }
    }
    assert!(tally.get("images before the decision") > 60, "{tally:?}");
    assert!(tally.get("images after the decision") > 40, "{tally:?}");
    assert!(tally.get("nested images") > 100, "{tally:?}");
}

/// The power fails again at every operation of what finishes it.
fn crash_again(raw: &Harness, before: &Tree, context: &str, tally: &mut Tally) {
    let go_on = |harness: &Harness| {
        if !harness.fs.file_paths().contains(&PathBuf::from(DIR).join("state.id")) {
            adopt(harness)?;
        }
        harness.try_open().map(drop)
    };
    let whole = raw.fork();
    go_on(&whole).unwrap();
    for j in 0..whole.fs.ops() {
        let again = raw.fork();
        again.fs.crash_after(j);
        let _ = go_on(&again);
        let all = images(&again.fs, j);
        let image = &all[j as usize % all.len()];
        let context = format!("{context}; then after {j}, {image:?}");
        let found = again.after_crash(image);
        check_disk(&found.fork(), before, &context, tally);
        finish(&found, j % 16 == 0, &context);
        tally.add("nested images", 1);
    }
}

/// Every operation and every read fails; then the process tries again.
#[test]
fn adopting_a_flat_layout_is_done_or_not_after_every_failure() {
    let base = flat();
    let before = engine_of(&base);
    let whole = base.fork();
    let first_read = whole.fs.reads();
    adopt(&whole).unwrap();
    let (ops, reads) = (whole.fs.ops(), whole.fs.reads() - first_read);
    let mut tally = Tally::new("failures of an adoption");
    let of_op = |n: u64| [Fault::Eio, Fault::NoSpace][n as usize % 2];
    let of_read = |n: u64| [Fault::Eio, Fault::Denied, Fault::TooManyFiles][n as usize % 3];
    let all = (1..=ops).map(|n| (false, n, of_op(n)));
    for (is_read, n, fault) in all.chain((1..=reads).map(|n| (true, n, of_read(n)))) {
        let harness = base.fork();
        let is_sticky = n % 3 == 0;
        match (is_read, is_sticky) {
            (true, true) => harness.fs.fail_reads_from(n, fault),
            (true, false) => harness.fs.fail_read(n, fault),
            (false, _) => harness.fs.fail_op(n, fault, is_sticky),
        }
        let adopted = adopt(&harness);
        let context = format!("{fault:?} at {n}, a read: {is_read}, sticky: {is_sticky}");
        assert!(harness.fs.faults_hit() > 0, "{context}");
        harness.fs.clear_faults();
        if let Err(error) = adopted {
            let kinds = [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Exhausted];
            assert!(kinds.contains(&error.kind()), "{context}: {error}");
            tally.add("failed", 1);
        }
        let live = harness.fork();
        let crashed = harness.after_crash(&CrashImage::Nothing);
        for (found, how) in [(live, "tried again"), (crashed, "crashed")] {
            let context = format!("{context}, {how}");
            check_disk(&found.fork(), &before, &context, &mut tally);
            finish(&found, n % 8 == 0, &context);
        }
        tally.add("failures", 1);
    }
    assert!(tally.get("failed") > 100, "{tally:?}");
}

/// What cannot be adopted is refused, and every byte stays.
#[test]
fn what_is_no_flat_layout_or_is_beside_something_else_is_not_adopted() {
    let base = flat();
    let refused = |harness: &Harness, kind: ErrorKind, part: &str| {
        let before = without_openings(harness.tree("/"));
        let error = adopt(harness).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        let after = without_openings(harness.tree("/"));
        assert_eq!(difference(&before, &after), None, "{error}");
    };
    let empty = base.on(SimFs::new());
    empty.fs.make_dirs(DIR);
    refused(&empty, ErrorKind::Missing, "no flat layout");
    assert!(empty.fs.file_paths().is_empty());

    let adopted = base.fork();
    adopt(&adopted).unwrap();
    refused(&adopted, ErrorKind::InvalidArgument, "nothing to adopt");
    adopted.fs.make_dirs(format!("{DIR}/engine"));
    refused(&adopted, ErrorKind::InvalidArgument, "nothing to adopt");

    // Of another store, whose log has been lost or brought here.
    let other = base.fork();
    for path in adopted.fs.file_paths() {
        if path.starts_with(format!("{DIR}/working")) {
            other.fs.write_raw(&path, adopted.fs.read_raw(&path));
        }
    }
    refused(&other, ErrorKind::Missing, "state.id is missing beside working");
    let strange = Harness::new(small()).on(SimFs::new());
    strange.clock.jump(1_000_000);
    let db = StateDb::open_with(DIR, small().initial_version(9), strange.components()).unwrap();
    db.close().unwrap();
    let log = base.fork();
    for path in strange.fs.file_paths() {
        if path.starts_with(format!("{DIR}/wal")) {
            log.fs.write_raw(&path, strange.fs.read_raw(&path));
        }
    }
    refused(&log, ErrorKind::Foreign, "log");
    let snapshot = base.fork();
    snapshot.fs.make_dirs(format!("{DIR}/snapshots/{:020}", NEWEST - 1));
    let error = adopt(&snapshot).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("the snapshot of version 4"), "{error}");

    let damaged = base.fork();
    let file = damaged.fs.file_paths().into_iter().next_back().unwrap();
    damaged.fs.truncate_raw(&file, 3);
    refused(&damaged, ErrorKind::Corrupt, "engine");
}

/// The root is that of the rows, or nothing is adopted.
#[test]
fn a_flat_layout_whose_rows_are_not_those_of_its_root_is_not_adopted() {
    let harness = flat();
    let engines = ModelEngines::new(harness.env());
    let dir = Path::new(DIR).join("engine");
    let engine = engines.open(&dir, OpenMode::Write).unwrap();
    let row: [(&[u8], Option<&[u8]>); 1] = [(b"bank/zzz", Some(b"\x05\0\0\0\0\0\0\0more"))];
    engine.apply(&mut row.into_iter()).unwrap();
    let sealed = engine.seal(&[]).unwrap();
    engine.flush(&sealed).unwrap();
    drop(engine);
    let before = engine_of(&harness);
    let error = adopt(&harness).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("the rows of the flat layout"), "{error}");
    assert_eq!(difference(&before, &engine_of(&harness)), None);
    assert_eq!(harness.names(""), ["engine", "state.lock"], "nothing was made beside it");
}

/// The log of a store that was adopted may be a table of the application's database.
#[test]
fn a_flat_layout_is_adopted_with_a_log_in_the_applications_database() {
    let harness = flat();
    let components =
        Components { env: Some(harness.env()), without_maintenance: true, ..Components::default() };
    let db = Db::open_with(DbOptions::new([APP]), components).unwrap();
    let floor = WalFloor::new();
    let table = db.table_with_filter("state", harness.options.wal.clone(), floor.filter()).unwrap();
    let mut components = harness.components();
    components.wal = Wal::Table { table, floor };
    let report = StateDb::adopt_with(DIR, harness.options.clone(), components).unwrap();
    assert_eq!(report.version, NEWEST);
    db.close().unwrap();
    let app = App::open(&harness).unwrap();
    assert_eq!(app.state.opened().recloned, None::<Reclone>);
    check::view(&app.state.latest(), &model(), "in the application");
    app.state.close().unwrap();
    app.db.close().unwrap();
}
