//! Power loss at every operation of an import and of a reset, and again while it is repeated or
//! finished.

use lithdb_sim::{CrashImage, Effort, Tally};
use lithdb_state::{ErrorKind, StateDb, StateOptions};

use super::origin::{Origin, options};
use super::support::expect::{check_disk, check_open};
use super::support::script::{Op, Run, Script, Store};
use super::support::{DIR, Harness, images, small};

/// Crashes `import` on a copy of `before` after every operation.
fn every_crash(name: &str, before: &Harness, origin: &Origin, nested: u64) -> Tally {
    let mut tally = Tally::new(format!("crashes of an import: {name}"));
    let nested = (nested / Effort::from_env().times(1)).max(1);
    let whole = before.fork();
    whole.import(&origin.export).unwrap();
    let count = whole.fs.ops();
    let mut turn = 0_u64;
    for k in 0..=count {
        let harness = before.fork();
        harness.fs.crash_after(k);
        let is_done = harness.import(&origin.export).is_ok();
        assert_eq!(is_done, k == count, "{name}, crash after {k} of {count}");
        tally.add("crash points", 1);
        for image in images(&harness.fs, name, k, 2) {
            let context = format!("{name}, crash after {k} of {count}, {image:?}");
            let found = harness.after_crash(&image);
            turn += 1;
            if turn.is_multiple_of(nested) {
                crash_again(&found, origin, &context, &mut tally);
            }
            let is_whole = origin.whole_or_refused(&found, &context);
            assert!(is_whole || !is_done, "{context}: an import that was finished is lost");
            tally.add(if is_whole { "whole" } else { "refused" }, 1);
            if turn.is_multiple_of(5) {
                let db = found.try_open_existing().unwrap();
                origin.go_on(&found, db, &context);
                tally.add("gone on", 1);
            }
        }
    }
    tally
}

/// The power fails again, at every operation of opening the store and importing again.
fn crash_again(found: &Harness, origin: &Origin, context: &str, tally: &mut Tally) {
    let run = |harness: &Harness| match harness.try_open_existing() {
        Ok(_) => Ok(()),
        Err(_) => harness.import(&origin.export).map(drop),
    };
    let again = found.fork();
    run(&again).unwrap_or_else(|e| panic!("{context}: {e}"));
    let (count, seed) = (again.fs.ops(), Effort::from_env().seed(context));
    for j in 0..count {
        let again = found.fork();
        again.fs.crash_after(j);
        drop(run(&again));
        let all =
            [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(seed.wrapping_add(j))];
        let image = &all[j as usize % 3];
        let context = format!("{context}; then after {j} of {count}, {image:?}");
        origin.whole_or_refused(&again.after_crash(image), &context);
        tally.add("nested images", 1);
    }
}

#[test]
fn an_import_is_whole_or_refused_after_every_crash() {
    let origin = Origin::new(0, 5);
    let tally = every_crash("import", &Harness::new(options()), &origin, 17);
    for (what, least) in [("whole", 3), ("refused", 150), ("nested images", 500), ("gone on", 40)] {
        assert!(tally.get(what) >= least, "{what}: {tally:?}");
    }
}

/// What an import of another export has left is removed, and never mixed with this one.
#[test]
fn an_import_after_an_interrupted_one_is_whole_or_refused_after_every_crash() {
    let (origin, other) = (Origin::new(0, 4), Origin::new(3, 6));
    let other_whole = Harness::new(options());
    other_whole.import(&other.export).unwrap();
    let count = other_whole.fs.ops();
    // When the last step is missing, and in the middle.
    for k in [count - 2, count / 2] {
        let before = Harness::new(options());
        before.fs.crash_after(k);
        before.import(&other.export).unwrap_err();
        let before = before.after_crash(&CrashImage::Everything).fork();
        before.try_open_existing().unwrap_err();
        let tally = every_crash("import again", &before.fork(), &origin, 61);
        assert!(tally.get("refused") > 150 && tally.get("whole") >= 3, "{tally:?}");
    }
}

#[test]
fn an_import_of_nothing_is_whole_or_refused_after_every_crash() {
    let origin = Origin::new(0, 0);
    let harness = Harness::new(small());
    harness.import(&origin.export).unwrap();
    let db = harness.try_open_existing().unwrap();
    assert_eq!((db.version(), db.latest().stores().len()), (6, 0));
    assert!(super::origin::export(&db.latest()) == origin.export);
}

/// A store with snapshots, with some that were moved aside, and a log of several segments.
fn prepared(script: &Script) -> Run<'_> {
    let mut run = Run::new(script);
    run.is_checked = false;
    run.until_error().unwrap();
    run.db().flush().unwrap();
    run.expect.durable = run.expect.model.head();
    drop(run.store.take());
    run.views.clear();
    run
}

/// The names of a store that a reset removes.
fn parts(harness: &Harness) -> Vec<String> {
    let mut names = harness.names("");
    names.retain(|name| !["state.lock", "trash"].contains(&&**name));
    names
}

fn is_interrupted(harness: &Harness) -> bool {
    let read = StateDb::latest_version_with(DIR, harness.components());
    read.is_err_and(|error| error.to_string().contains("a reset was not finished"))
}

/// A crash of a reset left the store as it was, or none: also if it has to be finished first.
fn kept_or_gone(
    script: &Script,
    found: &Harness,
    run: &Run<'_>,
    context: &str,
    tally: &mut Tally,
) -> bool {
    let is_interrupted = is_interrupted(found);
    tally.add("to be finished", u64::from(is_interrupted));
    match found.try_open_existing() {
        Ok(db) => {
            drop(db);
            check_disk(found, &run.expect, context);
            let store = Store::try_open(script, found).unwrap();
            check_open(&store, found, &run.expect, context);
            assert!(!is_interrupted, "{context}");
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Missing, "{context}: {error}");
            assert!(error.to_string().contains("there is no state store"), "{context}: {error}");
            assert_eq!(parts(found), [""; 0], "{context}");
            true
        }
    }
}

#[test]
fn a_reset_is_done_or_not_after_every_crash() {
    let ops =
        [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("reset", small(), &ops);
    let run = prepared(&script);
    let before = run.harness.fork();
    let whole = before.fork();
    whole.reset().unwrap();
    let count = whole.fs.ops();
    let mut tally = Tally::new("crashes of a reset");
    let origin = Origin::new(2, 3);
    let mut turn = 0_u64;
    for k in 0..=count {
        let harness = before.fork();
        harness.fs.crash_after(k);
        let is_done = harness.reset().is_ok();
        for image in images(&harness.fs, "reset", k, 3) {
            let context = format!("reset, crash after {k} of {count}, {image:?}");
            let found = harness.after_crash(&image);
            turn += 1;
            let (again, import) = (found.fork(), found.fork());
            if turn.is_multiple_of(13) {
                crash_in_finishing(&script, &found, &run, &context, &mut tally);
            }
            let is_gone = kept_or_gone(&script, &found, &run, &context, &mut tally);
            assert!(is_gone || !is_done, "{context}: the store is still there");
            tally.add(if is_gone { "gone" } else { "kept" }, 1);
            if is_gone {
                // A new store, from opening or from an import.
                let db = found.try_open().unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_eq!((db.version(), db.latest().stores().len()), (0, 0), "{context}");
                drop(db);
                import.import(&origin.export).unwrap_or_else(|e| panic!("{context}: {e}"));
                assert!(origin.whole_or_refused(&import, &context), "{context}");
            }
            // Unless it is gone, the reset can be repeated.
            match again.reset() {
                Ok(_) => assert_eq!(parts(&again), [""; 0], "{context}"),
                Err(error) => assert!(is_gone && error.kind() == ErrorKind::Missing, "{context}"),
            }
        }
    }
    for (what, least) in [("kept", 10), ("gone", 60), ("to be finished", 40), ("nested", 60)] {
        assert!(tally.get(what) >= least, "{what}: {tally:?}");
    }
}

fn crash_in_finishing(
    script: &Script,
    found: &Harness,
    run: &Run<'_>,
    context: &str,
    tally: &mut Tally,
) {
    let opened = found.fork();
    drop(opened.try_open_existing());
    for j in 0..opened.fs.ops() {
        let again = found.fork();
        again.fs.crash_after(j);
        drop(again.try_open_existing());
        for image in [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(j)] {
            let context = format!("{context}; then after {j} of opening, {image:?}");
            kept_or_gone(script, &again.after_crash(&image), run, &context, tally);
            tally.add("nested", 1);
        }
    }
    let reset = found.fork();
    drop(reset.reset());
    for j in 0..reset.fs.ops() {
        let again = found.fork();
        again.fs.crash_after(j);
        drop(again.reset());
        for image in [CrashImage::Nothing, CrashImage::Everything] {
            let context = format!("{context}; then after {j} of resetting again, {image:?}");
            kept_or_gone(script, &again.after_crash(&image), run, &context, tally);
            tally.add("nested", 1);
        }
    }
}

/// The wipe of an interrupted reset with snapshots that were moved aside, by an import.
#[test]
fn an_import_finishes_an_interrupted_reset_at_every_crash() {
    let ops = [Op::Commit, Op::Snapshot, Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("reset and import", small(), &ops);
    let run = prepared(&script);
    let whole = run.harness.fork();
    whole.reset().unwrap();
    let before = run.harness.fork();
    before.fs.crash_after(whole.fs.ops() / 2);
    before.reset().unwrap_err();
    let before = before.after_crash(&CrashImage::Everything);
    assert!(is_interrupted(&before));
    let origin = Origin::new(1, 3);
    let before = Harness { options: options(), ..before.fork() };
    for k in 0.. {
        let harness = before.fork();
        harness.fs.crash_after(k);
        let is_done = harness.import(&origin.export).is_ok();
        for image in images(&harness.fs, "reset and import", k, 1) {
            let context = format!("reset and import, crash after {k}, {image:?}");
            let found = harness.after_crash(&image);
            let is_whole = origin.whole_or_refused(&found, &context);
            assert!(is_whole || !is_done, "{context}");
        }
        if is_done {
            assert!(k > 50, "{k}");
            return;
        }
    }
}

/// A store whose log is a table of the application's database.
#[test]
fn a_log_of_the_application_is_imported_and_reset() {
    use lithdb::{DbOptions, DuplicateKeys, TableOptions};
    use lithdb_state::{Wal, WalFloor};

    let origin = Origin::new(0, 4);
    let harness = Harness::new(small());
    let components = |name: &str| {
        let mut components = harness.components();
        let db = lithdb::Components {
            env: Some(harness.env()),
            without_maintenance: true,
            ..lithdb::Components::default()
        };
        let db = lithdb::Db::open_with(DbOptions::new(["/app"]), db).unwrap();
        let floor = WalFloor::new();
        let options = TableOptions::new().duplicate_keys(DuplicateKeys::Reject);
        let table = db.table_with_filter(name, options, floor.filter()).unwrap();
        components.wal = Wal::Table { table, floor };
        (db, components)
    };
    let (db, first) = components("state");
    let import =
        |components| StateDb::import_with(DIR, &origin.export[..], small(), None, components);
    import(first.clone()).unwrap();
    let open = |components| {
        StateDb::open_with(DIR, StateOptions::create_if_missing(small(), false), components)
    };
    origin.check(&open(first.clone()).unwrap(), "imported");
    let report = harness.reset().unwrap();
    assert!(report.is_log_elsewhere, "{report:?}");
    // The table still has the records of the store that is gone.
    let error = import(first.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("is not empty: drop it"), "{error}");
    let error = StateDb::open_with(DIR, small(), first.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    let error = harness.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "nothing was created: {error}");
    drop((first, db));
    let (_db, second) = components("state2");
    import(second.clone()).unwrap();
    origin.check(&open(second).unwrap(), "imported again");
}
