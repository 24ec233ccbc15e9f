//! What a rollback refuses, without changing anything; pending rollbacks; cancellation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lithdb::rollback::{Phase, through_key};
use lithdb::{
    Db, DbOptions, Error, ErrorKind, GcFilter, NoMatch, Result, Rollback, RollbackPlan, Verdict,
};
use lithdb_env::Fs;
use lithdb_sim::CrashImage;
use parking_lot::Mutex;
use support::rollback_fixture::{
    self, KeepFn, contents_of, env, expected_after, fork, height, image, put_groups, rollback,
};
use support::scenarios;
use support::{Harness, small};

const SIX: KeepFn<'static> = &|_, key, _| height(key) <= 6;

fn database() -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    put_groups(&db.table("t", small()).unwrap(), 0..12);
    put_groups(&db.table("u", small()).unwrap(), 3..9);
    db.close().unwrap();
    harness
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn filter_error_or_panic_at_the_second_table_changes_nothing() {
    let harness = database();
    let before = image(&harness.fs);
    for panics in [false, true] {
        let mut calls = 0;
        let plan = rollback(&harness).plan(|record| {
            calls += 1;
            match record.table() {
                "t" if height(record.key()) <= 6 => Ok(Verdict::Keep),
                "t" => Ok(Verdict::Discard),
                _ if panics => panic!("the filter is broken"),
                _ => Err(Error::new(ErrorKind::Io, "the filter does not know")),
            }
        });
        let says = if panics { "panicked at" } else { "does not know" };
        let kind = if panics { ErrorKind::InvalidArgument } else { ErrorKind::Io };
        assert_refused(plan, kind, says);
        assert!(calls > 5);
        assert!(image(&harness.fs) == before);
    }
    // No lock is held, either.
    rollback_fixture::roll_back(&harness, SIX, NoMatch::Refuse);
}

#[test]
fn planning_writes_nothing() {
    for scenario in
        [scenarios::sealed(), scenarios::unsealed(), scenarios::clear(), scenarios::everything()]
    {
        let harness = scenario.copy();
        harness.fs.remove_raw("/r1/lith.lock"); // as in a copy without lock files
        let before = image(&harness.fs);
        let plan = rollback(&harness).on_no_match(scenario.no_match);
        let plan = plan.plan(rollback_fixture::filter(scenario.keep)).unwrap();
        assert!(!plan.is_empty() && !plan.to_string().is_empty());
        assert!(image(&harness.fs) == before, "{}", scenario.name);
        assert_eq!(harness.fs.ops(), 0, "{}", scenario.name);
    }
}

#[test]
fn plan_and_execute_refuse_a_running_database() {
    let harness = database();
    let plan = rollback(&harness).plan(through_key("h:5")).unwrap();
    let db = harness.open();
    assert_refused(rollback(&harness).plan(through_key("h:5")), ErrorKind::Locked, "this process");
    assert_refused(plan.execute(), ErrorKind::Locked, "/r0");
    assert_refused(rollback(&harness).finish(), ErrorKind::Locked, "/r0");
    // One locked root is enough.
    db.close().unwrap();
    let lock = lithdb_env::Fs::try_lock(
        &harness.fs,
        "/r1/lith.lock".as_ref(),
        lithdb_env::LockKind::Exclusive,
    );
    let lock = lock.unwrap().unwrap();
    assert_refused(rollback(&harness).plan(through_key("h:5")), ErrorKind::Locked, "/r1");
    drop(lock);
    rollback(&harness).plan(through_key("h:5")).unwrap().execute().unwrap();
}

#[test]
fn unknown_table_names_are_refused() {
    let harness = database();
    let plan =
        |names: &[&str]| rollback(&harness).tables(names.to_vec()).plan(|_| Ok(Verdict::Keep));
    assert_refused(plan(&["t", "nobody"]), ErrorKind::Missing, "nobody");
    assert_refused(plan(&["a/b"]), ErrorKind::InvalidArgument, "a/b");
    assert_eq!(plan(&["u", "t", "u"]).unwrap().tables.len(), 2);
}

#[test]
fn missing_or_foreign_root_is_refused_unchanged() {
    let harness = database();
    let other = Harness { clock: lithdb_sim::SimClock::new(99), ..Harness::new() };
    other.open().close().unwrap();
    let before = image(&harness.fs);
    let plan = |roots: &[&str]| {
        Rollback::new(roots.iter().copied()).env(env(&harness)).plan(|_| Ok(Verdict::Keep))
    };
    assert_refused(plan(&["/r0"]), ErrorKind::Missing, "root");
    assert_refused(plan(&["/r1"]), ErrorKind::Missing, "root");
    assert_refused(plan(&["/r0", "/nowhere"]), ErrorKind::Missing, "/nowhere");
    assert!(image(&harness.fs) == before);
    // The order of the roots does not matter.
    assert_eq!(plan(&["/r1", "/r0"]).unwrap().roots, ["/r0", "/r1"].map(std::path::PathBuf::from));
    let stranger = rollback(&harness).plan(through_key("h:5")).unwrap();
    for path in harness.files("/r1/root.id").into_iter().chain(harness.files("/r0/root.id")) {
        harness.fs.write_raw(&path, other.fs.read_raw(&path));
    }
    assert_refused(stranger.execute(), ErrorKind::InvalidArgument, "another database");
}

#[test]
fn missing_root_blocks_finishing_a_pending_rollback() {
    let harness = pending();
    let before = image(&harness.fs);
    for roots in [&["/r0"][..], &["/r1"]] {
        let finish = Rollback::new(roots.iter().copied()).env(env(&harness)).finish();
        assert_refused(finish, ErrorKind::Missing, "root");
        let options = DbOptions::new(roots.iter().copied());
        assert_refused(Db::open_with(options, harness.components()), ErrorKind::Missing, "root");
    }
    assert!(image(&harness.fs) == before);
    harness.open().close().unwrap();
}

#[test]
fn stale_plan_is_refused() {
    type Change = fn(&Harness);
    let changes: [(&str, Change); 6] = [
        ("a put", |harness| {
            harness.open().existing_table("t").unwrap().put(b"h:50", b"50").map(|_| ()).unwrap();
        }),
        ("a collection", |harness| {
            let filter = GcFilter::new(|key, _| Ok(height(key) < 4));
            let db = harness.open();
            let table = db.table_with_filter("t", small(), filter).unwrap();
            assert!(table.run_gc().unwrap().segments > 0);
        }),
        ("a new table", |harness| {
            harness.open().table("z", small()).unwrap();
        }),
        ("a dropped table", |harness| harness.open().drop_table("u").unwrap()),
        ("a table dropped and created", |harness| {
            let db = harness.open();
            db.drop_table("u").unwrap();
            put_groups(&db.table("u", small()).unwrap(), 3..9);
        }),
        ("another rollback", |harness| {
            rollback_fixture::roll_back(harness, &|_, key, _| height(key) <= 8, NoMatch::Refuse);
        }),
    ];
    for (what, change) in changes {
        let harness = database();
        let plan = rollback_fixture::plan(&harness, SIX, NoMatch::Refuse).unwrap();
        change(&harness);
        let before = contents_of(&harness);
        let error = plan.execute().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
        assert!(error.to_string().contains("plan again"), "{what}: {error}");
        assert!(contents_of(&harness) == before, "{what}");
        let new = expected_after(&before, SIX, NoMatch::Keep);
        rollback_fixture::roll_back(&harness, SIX, NoMatch::Keep);
        assert!(contents_of(&harness) == new, "{what}: planned again");
    }
    // A new table does not make a plan for certain tables stale.
    let harness = database();
    let plan = rollback(&harness).tables(["t"]).plan(rollback_fixture::filter(SIX)).unwrap();
    harness.open().table("z", small()).unwrap();
    plan.execute().unwrap();
}

/// A rollback that was decided, with nothing executed.
fn pending() -> Harness {
    let scenario = scenarios::everything();
    let run = scenario.copy();
    scenario.execute(&run).unwrap();
    let total = run.fs.ops();
    for k in 0..total {
        let run = scenario.copy();
        run.fs.crash_after(k);
        scenario.execute(&run).unwrap_err();
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files("/r0/rollback.intent") == ["/r0/rollback.intent"] {
            return after;
        }
    }
    panic!("the rollback was never decided");
}

#[test]
fn pending_rollback_blocks_readers_until_a_writer_finishes_it() {
    let scenario = scenarios::everything();
    let harness = pending();
    let before = image(&harness.fs);
    for result in [
        harness.try_read().map(|_| ()),
        rollback(&harness).plan(rollback_fixture::filter(SIX)).map(|_| ()),
    ] {
        assert_refused(result, ErrorKind::Locked, "/r0/rollback.intent");
    }
    assert_refused(harness.try_read(), ErrorKind::Locked, "lith rollback --finish");
    assert!(image(&harness.fs) == before, "they changed something");
    let opened = fork(&harness);
    opened.open().close().unwrap();
    assert!(opened.files("rollback.intent").is_empty());
    assert!(rollback_fixture::contents(&opened.read(), "finished by an opening") == scenario.new);
    let report = rollback(&harness).finish().unwrap().unwrap();
    assert!(report.finished_later && report.decided.is_some());
    assert_eq!(report.tables.len(), 3, "three tables are affected: {report}");
    assert_eq!(rollback(&harness).finish().unwrap(), None);
    assert!(rollback_fixture::contents(&harness.read(), "finished") == scenario.new);
    rollback_fixture::check_files(&harness, "finished");
}

#[test]
fn missing_prepared_file_stops_finish_before_any_removal() {
    let base = pending();
    let prepared = base.files(".new").into_iter().chain(base.files("/b-open/segments/2"));
    let prepared: Vec<String> = prepared.collect();
    assert!(prepared.len() > 5, "{prepared:?}");
    for path in prepared {
        for damage in [false, true] {
            let harness = fork(&base);
            let mut bytes = harness.fs.read_raw(&path);
            if damage && !path.ends_with(".new") {
                continue; // an empty segment with a torn end is intact
            }
            bytes.truncate(bytes.len() - 1);
            if damage {
                harness.fs.write_raw(&path, bytes);
            } else {
                harness.fs.remove_raw(&path);
            }
            let before = image(&harness.fs);
            let error = rollback(&harness).finish().expect_err(&path);
            let kinds = [ErrorKind::Missing, ErrorKind::Corrupt];
            assert!(kinds.contains(&error.kind()), "{path}: {error}");
            assert!(image(&harness.fs).len() >= before.len(), "{path}: something was removed");
            let open = harness.try_open().map(|_| ()).expect_err(&path);
            assert_eq!(open.kind(), error.kind(), "{path}: {open}");
            // With the file restored it continues.
            harness.fs.write_raw(&path, base.fs.read_raw(&path));
            rollback(&harness).finish().unwrap().unwrap();
            assert!(contents_of(&harness) == scenarios::everything().new);
        }
    }
}

#[test]
fn finish_rewrites_the_intent_durably_before_acting_on_it() {
    let harness = pending();
    harness.fs.take_trace();
    rollback(&harness).finish().unwrap().unwrap();
    let trace: Vec<String> = harness.fs.take_trace().iter().map(|op| format!("{op:?}")).collect();
    let at = |what: &str, file: &str| {
        let is_it = |op: &String| op.contains(what) && op.contains(file);
        trace.iter().position(is_it).unwrap_or_else(|| panic!("{what} {file}: {trace:#?}"))
    };
    let certain = at("SyncAll", "rollback.intent");
    assert!(at("Write", "rollback.intent") < certain);
    assert!(certain < at("Write", "table.state"), "{trace:#?}");
    assert!(certain < at("RemoveFile", "/segments/"), "{trace:#?}");
    assert!(at("Rename", "/segments/") < at("RemoveFile", "rollback.intent"));
}

/// A hard-linked snapshot of the roots, taken while the rollback was pending, stays pending.
#[test]
fn hard_linked_intent_is_replaced() {
    let harness = pending();
    let intent = harness.fs.read_raw("/r0/rollback.intent");
    harness.fs.hard_link(Path::new("/r0/rollback.intent"), Path::new("/copy")).unwrap();
    rollback(&harness).finish().unwrap().unwrap();
    assert_eq!(harness.fs.read_raw("/copy"), intent);
}

#[test]
fn reappearing_intent_removes_nothing_put_since() {
    let base = pending();
    let intent = base.fs.read_raw("/r0/rollback.intent");
    for later in 0..3 {
        let harness = fork(&base);
        let db = harness.open();
        for name in db.tables().unwrap() {
            put_groups(&db.table(name.as_str(), small()).unwrap(), 20..20 + later * 9);
        }
        db.close().unwrap();
        drop(db);
        let expected = contents_of(&harness);
        harness.fs.write_raw("/r0/rollback.intent", intent.clone());
        harness.open().close().unwrap();
        assert!(contents_of(&harness) == expected, "{later}");
        rollback_fixture::check_files(&harness, "an intent that came back");
        rollback_fixture::assert_usable(
            &harness,
            &scenarios::everything().old,
            &expected,
            "an intent that came back",
        );
    }
}

#[test]
fn plan_older_than_an_interrupted_rollback_is_refused() {
    let scenario = scenarios::everything();
    let harness = scenario.copy();
    let plan = |harness: &Harness| -> RollbackPlan {
        rollback_fixture::plan(harness, scenario.keep, scenario.no_match).unwrap()
    };
    let (first, second) = (plan(&harness), plan(&harness));
    let stop = Arc::new(Mutex::new(0));
    let count = Arc::clone(&stop);
    // The disk dies while the first table is being changed.
    let fs = harness.fs.clone();
    let result = first.execute_with(move |progress| {
        if progress.phase == Phase::Applying {
            *count.lock() += 1;
            fs.fail_op(1, lithdb_sim::Fault::Eio, true);
        }
        ControlFlow::Continue(())
    });
    assert_refused(result, ErrorKind::Io, "decided and is not finished");
    assert_eq!(*stop.lock(), 1);
    harness.fs.clear_faults();
    assert_refused(second.execute(), ErrorKind::Locked, "rollback.intent");
    harness.open().close().unwrap();
    assert!(contents_of(&harness) == scenario.new);
}

#[test]
fn cancelling_before_the_decision_leaves_nothing_behind() {
    for scenario in
        [scenarios::sealed(), scenarios::unsealed(), scenarios::clear(), scenarios::everything()]
    {
        let plan = |harness: &Harness| {
            rollback_fixture::plan(harness, scenario.keep, scenario.no_match).unwrap()
        };
        let mut reports = Vec::new();
        let whole = plan(&scenario.copy()).execute_with(|progress| {
            reports.push(progress.clone());
            ControlFlow::Continue(())
        });
        whole.unwrap();
        let preparing = reports.iter().filter(|p| p.phase == Phase::Preparing).count();
        assert!(preparing >= 2, "{reports:?}");
        for stop in 0..preparing {
            let harness = scenario.copy();
            let mut n = 0;
            let stopped = plan(&harness).execute_with(|_| {
                n += 1;
                if n > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let context = format!("{}, stopped at {stop}", scenario.name);
            assert_eq!(stopped.unwrap(), None, "{context}");
            let left = harness.files(".new").into_iter().chain(harness.files("rollback.intent"));
            assert_eq!(left.count(), 0, "{context}");
            assert_eq!(*scenario.check_all(&harness, false, &context), scenario.old, "{context}");
        }
        // After the decision it is too late to cancel.
        let harness = scenario.copy();
        let report = plan(&harness).execute_with(|progress| match progress.phase {
            Phase::Preparing => ControlFlow::Continue(()),
            Phase::Applying => ControlFlow::Break(()),
        });
        assert!(report.unwrap().unwrap().decided.is_some());
        assert_eq!(*scenario.check_all(&harness, true, scenario.name), scenario.new);
        // Progress increases up to what was planned and what the report states.
        let done: Vec<u64> = reports.iter().map(|p| p.segments_done).collect();
        assert!(done.is_sorted() && reports.iter().all(|p| p.segments_done <= p.segments_total));
        assert_eq!(done.last(), reports.last().map(|p| &p.segments_total), "{}", scenario.name);
    }
}

/// A database whose segments 1 and 2 of table `t` have been collected.
fn collected() -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().ttl(Duration::from_secs(60))).unwrap();
    put_groups(&table, (1..16).step_by(2));
    table.seal().unwrap();
    harness.clock.advance(Duration::from_secs(61));
    put_groups(&table, (17..60).step_by(2));
    assert!(table.run_gc().unwrap().segments >= 2);
    table.set_ttl(None).unwrap();
    db.close().unwrap();
    harness
}

#[test]
fn rollback_boundaries_above_at_and_below_the_watermark() {
    let harness = collected();
    let first = height(&contents_of(&harness)["t"][0].0);
    assert_eq!(first, 17);
    for last in [17, 19, 23, 25, 31] {
        let harness = fork(&harness);
        let keep: KeepFn<'_> = &|_, key, _| height(key) <= last;
        let new = expected_after(&contents_of(&harness), keep, NoMatch::Refuse);
        rollback_fixture::roll_back(&harness, keep, NoMatch::Refuse);
        assert!(contents_of(&harness) == new, "{last}");
        assert!(new["t"].len() as u64 == (last - 15) / 2);
    }
    let below: KeepFn<'_> = &|_, key, _| height(key) <= 15;
    assert_refused(
        rollback_fixture::plan(&harness, below, NoMatch::Refuse),
        ErrorKind::InvalidArgument,
        "collected",
    );
    let old = contents_of(&harness);
    rollback_fixture::roll_back(&fork(&harness), below, NoMatch::Keep);
    assert!(contents_of(&harness) == old);
    rollback_fixture::roll_back(&harness, below, NoMatch::Clear);
    assert!(contents_of(&harness)["t"].is_empty());
}

#[test]
fn boundary_in_a_collected_segment_still_on_disk_is_refused() {
    // An interrupted collection: the watermark is raised, the files still exist.
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    put_groups(&table, (1..40).step_by(2));
    table.set_ttl(Some(Duration::from_secs(60))).unwrap();
    db.close().unwrap();
    drop((table, db));
    harness.clock.advance(Duration::from_secs(61));
    let before = fork(&harness);
    let db = harness.open();
    let table = db.existing_table("t").unwrap();
    put_groups(&table, (41..60).step_by(2));
    table.run_gc().unwrap();
    let watermark = table.stats().watermark.0;
    table.set_ttl(None).unwrap();
    db.close().unwrap();
    drop((table, db));
    assert!(watermark > 4);
    for path in before.files("/t/segments/") {
        let id: u32 =
            path.rsplit('/').next().unwrap().split(['.', '-']).next().unwrap().parse().unwrap();
        if id < watermark {
            harness.fs.write_raw(&path, before.fs.read_raw(&path));
        }
    }
    let at = rollback(&harness).plan(through_key("h:9"));
    let image_before = image(&harness.fs);
    assert_refused(at, ErrorKind::InvalidArgument, "has been collected");
    for no_match in [NoMatch::Clear, NoMatch::Keep, NoMatch::Refuse] {
        let below: KeepFn<'_> = &|_, key, _| height(key) <= 15;
        let plan = rollback_fixture::plan(&harness, below, no_match);
        assert_refused(plan, ErrorKind::InvalidArgument, "has been collected");
    }
    assert!(image(&harness.fs) == image_before);
    // A boundary above them ignores them; clearing the table removes them, too.
    let above: KeepFn<'_> = &|_, key, _| height(key) <= 45;
    let old = contents_of(&harness);
    let run = fork(&harness);
    rollback_fixture::roll_back(&run, above, NoMatch::Refuse);
    assert!(contents_of(&run) == expected_after(&old, above, NoMatch::Refuse));
    rollback_fixture::assert_usable(
        &run,
        &old,
        &expected_after(&old, above, NoMatch::Refuse),
        "an interrupted collection",
    );
    rollback_fixture::roll_back(&harness, &|_, _, _| false, NoMatch::Clear);
    assert!(harness.files("/t/segments/").is_empty());
    rollback_fixture::assert_usable(
        &harness,
        &old,
        &expected_after(&old, &|_, _, _| false, NoMatch::Clear),
        "emptied",
    );
}

#[test]
fn symlinked_segment_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let roots = [dir.path().join("r0"), dir.path().join("r1")];
    let db = Db::open(DbOptions::new(&roots)).unwrap();
    put_groups(&db.table("t", small()).unwrap(), 0..12);
    db.close().unwrap();
    drop(db);
    for part in ["t/segments/2.keys", "t/segments/1.metadata"] {
        let (path, elsewhere) = (roots[0].join(part), dir.path().join("elsewhere"));
        let fs = lithdb_env::OsFs;
        lithdb_env::Fs::rename(&fs, &path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let plan = Rollback::new(&roots).plan(through_key("h:3"));
        assert_refused(plan, ErrorKind::Foreign, part);
        lithdb_env::Fs::rename(&fs, &elsewhere, &path).unwrap();
    }
    // A table directory that is a link would be left out silently.
    std::os::unix::fs::symlink(dir.path(), roots[1].join("linked")).unwrap();
    assert_refused(Rollback::new(&roots).plan(through_key("h:3")), ErrorKind::Foreign, "linked");
    lithdb_env::Fs::remove_file(&lithdb_env::OsFs, &roots[1].join("linked")).unwrap();
    let plan = Rollback::new(&roots).plan(through_key("h:3")).unwrap();
    // Links created after planning.
    let (path, elsewhere) = (roots[0].join("t/segments/2.keys"), dir.path().join("elsewhere"));
    lithdb_env::Fs::rename(&lithdb_env::OsFs, &path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert_refused(plan.execute(), ErrorKind::Foreign, "2.keys");
    lithdb_env::Fs::rename(&lithdb_env::OsFs, &elsewhere, &path).unwrap();
    // Control: on a real file system a rollback works.
    Rollback::new(&roots).plan(through_key("h:3")).unwrap().execute().unwrap();
    let db = Db::open(DbOptions::new(&roots)).unwrap();
    let table = db.existing_table("t").unwrap();
    assert_eq!(rollback_fixture::records(&table, "on disk").last().unwrap().0, b"h:3");
}
