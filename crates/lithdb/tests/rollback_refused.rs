//! What a rollback refuses, and that it changes nothing by doing so; what is pending; how one is stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lithdb::env::Fs;
use lithdb::rollback::{Phase, RollbackPlan, through_key};
use lithdb::{Db, DbOptions, Error, ErrorKind, GcFilter, NoMatch, Result, Rollback, Verdict};
use lithdb_sim::CrashImage;
use parking_lot::Mutex;
use support::past::{self, Keep, contents_of, cut, env, fork, height, image, put_groups, rollback};
use support::scenes;
use support::{World, small};

const SIX: Keep<'static> = &|_, key, _| height(key) <= 6;

fn database() -> World {
    let world = World::new();
    let db = world.open();
    put_groups(&db.table("t", small()).unwrap(), 0..12);
    put_groups(&db.table("u", small()).unwrap(), 3..9);
    db.close().unwrap();
    world
}

fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn an_error_or_a_panic_of_the_filter_at_the_second_table_changes_nothing() {
    let world = database();
    let before = image(&world.fs);
    for panics in [false, true] {
        let mut asked = 0;
        let plan = rollback(&world).plan(|record| {
            asked += 1;
            match record.table() {
                "t" if height(record.key()) <= 6 => Ok(Verdict::Keep),
                "t" => Ok(Verdict::Discard),
                _ if panics => panic!("the filter is broken"),
                _ => Err(Error::new(ErrorKind::Io, "the filter does not know")),
            }
        });
        let says = if panics { "panicked at" } else { "does not know" };
        let kind = if panics { ErrorKind::InvalidArgument } else { ErrorKind::Io };
        refused(plan, kind, says);
        assert!(asked > 5);
        assert!(image(&world.fs) == before);
    }
    // Nothing is held, either.
    past::roll_back(&world, SIX, NoMatch::Refuse);
}

#[test]
fn planning_writes_not_one_byte_and_creates_no_file() {
    for scene in [scenes::sealed(), scenes::tail(), scenes::clear(), scenes::everything()] {
        let world = scene.copy();
        world.fs.remove_raw("/r1/lith.lock"); // as after a copy of the files that matter
        let before = image(&world.fs);
        let plan = rollback(&world).on_no_match(scene.no_match);
        let plan = plan.plan(past::filter(scene.keep)).unwrap();
        assert!(!plan.is_empty() && !plan.to_string().is_empty());
        assert!(image(&world.fs) == before, "{}", scene.name);
        assert_eq!(world.fs.ops(), 0, "{}", scene.name);
    }
}

#[test]
fn a_running_database_is_refused_by_both_and_goes_on() {
    let world = database();
    let plan = rollback(&world).plan(through_key("h:5")).unwrap();
    let db = world.open();
    refused(rollback(&world).plan(through_key("h:5")), ErrorKind::Locked, "this process");
    refused(plan.execute(), ErrorKind::Locked, "/r0");
    refused(rollback(&world).finish(), ErrorKind::Locked, "/r0");
    // One root that is held is enough.
    db.close().unwrap();
    let lock = lithdb_env::Fs::try_lock(
        &world.fs,
        "/r1/lith.lock".as_ref(),
        lithdb_env::LockKind::Exclusive,
    );
    let lock = lock.unwrap().unwrap();
    refused(rollback(&world).plan(through_key("h:5")), ErrorKind::Locked, "/r1");
    drop(lock);
    rollback(&world).plan(through_key("h:5")).unwrap().execute().unwrap();
}

#[test]
fn names_of_tables_that_are_not_there_are_refused() {
    let world = database();
    let plan = |names: &[&str]| rollback(&world).tables(names.to_vec()).plan(|_| Ok(Verdict::Keep));
    refused(plan(&["t", "nobody"]), ErrorKind::Missing, "nobody");
    refused(plan(&["a/b"]), ErrorKind::InvalidArgument, "a/b");
    assert_eq!(plan(&["u", "t", "u"]).unwrap().tables.len(), 2);
}

#[test]
fn a_missing_or_foreign_root_is_refused_and_nothing_is_changed() {
    let world = database();
    let other = World { clock: lithdb_sim::SimClock::new(99), ..World::new() };
    other.open().close().unwrap();
    let before = image(&world.fs);
    let plan = |roots: &[&str]| {
        Rollback::new(roots.iter().copied()).env(env(&world)).plan(|_| Ok(Verdict::Keep))
    };
    refused(plan(&["/r0"]), ErrorKind::Missing, "root");
    refused(plan(&["/r1"]), ErrorKind::Missing, "root");
    refused(plan(&["/r0", "/nowhere"]), ErrorKind::Missing, "/nowhere");
    assert!(image(&world.fs) == before);
    // The order does not matter.
    assert_eq!(plan(&["/r1", "/r0"]).unwrap().roots, ["/r0", "/r1"].map(std::path::PathBuf::from));
    let stranger = rollback(&world).plan(through_key("h:5")).unwrap();
    for path in world.files("/r1/root.id").into_iter().chain(world.files("/r0/root.id")) {
        world.fs.write_raw(&path, other.fs.read_raw(&path));
    }
    refused(stranger.execute(), ErrorKind::Conflict, "another database");
}

#[test]
fn a_missing_root_keeps_what_is_pending_from_being_finished() {
    let world = pending();
    let before = image(&world.fs);
    for roots in [&["/r0"][..], &["/r1"]] {
        let finish = Rollback::new(roots.iter().copied()).env(env(&world)).finish();
        refused(finish, ErrorKind::Missing, "root");
        let options = DbOptions::new(roots.iter().copied());
        refused(Db::open_with(options, world.components()), ErrorKind::Missing, "root");
    }
    assert!(image(&world.fs) == before);
    world.open().close().unwrap();
}

#[test]
fn a_plan_that_no_longer_fits_is_refused() {
    type Change = fn(&World);
    let changes: [(&str, Change); 6] = [
        ("a put", |world| {
            world.open().existing_table("t").unwrap().put(b"h:50", b"50").map(|_| ()).unwrap();
        }),
        ("a collection", |world| {
            let filter = GcFilter::new(|key, _| Ok(height(key) < 4));
            let db = world.open();
            let table = db.table_with_filter("t", small(), filter).unwrap();
            assert!(table.run_gc().unwrap().segments > 0);
        }),
        ("a new table", |world| {
            world.open().table("z", small()).unwrap();
        }),
        ("a dropped table", |world| world.open().drop_table("u").unwrap()),
        ("a table dropped and created", |world| {
            let db = world.open();
            db.drop_table("u").unwrap();
            put_groups(&db.table("u", small()).unwrap(), 3..9);
        }),
        ("another rollback", |world| {
            past::roll_back(world, &|_, key, _| height(key) <= 8, NoMatch::Refuse);
        }),
    ];
    for (what, change) in changes {
        let world = database();
        let plan = past::plan(&world, SIX, NoMatch::Refuse).unwrap();
        change(&world);
        let before = contents_of(&world);
        let error = plan.execute().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
        assert!(error.to_string().contains("plan again"), "{what}: {error}");
        assert!(contents_of(&world) == before, "{what}");
        let new = cut(&before, SIX, NoMatch::Keep);
        past::roll_back(&world, SIX, NoMatch::Keep);
        assert!(contents_of(&world) == new, "{what}: planned again");
    }
    // A new table does not matter to a plan for certain tables.
    let world = database();
    let plan = rollback(&world).tables(["t"]).plan(past::filter(SIX)).unwrap();
    world.open().table("z", small()).unwrap();
    plan.execute().unwrap();
}

/// A rollback that was decided, and of which nothing is done.
fn pending() -> World {
    let scene = scenes::everything();
    let run = scene.copy();
    scene.execute(&run).unwrap();
    let total = run.fs.ops();
    for k in 0..total {
        let run = scene.copy();
        run.fs.crash_after(k);
        scene.execute(&run).unwrap_err();
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files("/r0/rollback.intent") == ["/r0/rollback.intent"] {
            return after;
        }
    }
    panic!("it was never decided");
}

#[test]
fn what_is_pending_is_refused_to_readers_and_planners_and_finished_by_the_next_writer() {
    let scene = scenes::everything();
    let world = pending();
    let before = image(&world.fs);
    for result in
        [world.try_read().map(|_| ()), rollback(&world).plan(past::filter(SIX)).map(|_| ())]
    {
        refused(result, ErrorKind::RollbackPending, "/r0/rollback.intent");
    }
    refused(world.try_read(), ErrorKind::RollbackPending, "lith rollback --finish");
    assert!(image(&world.fs) == before, "they changed something");
    let opened = fork(&world);
    opened.open().close().unwrap();
    assert!(opened.files("rollback.intent").is_empty());
    assert!(past::contents(&opened.read(), "finished by an opening") == scene.new);
    let report = rollback(&world).finish().unwrap().unwrap();
    assert!(report.finished_later && report.decided.is_some());
    assert_eq!(report.tables.len(), 3, "what is done, is done to three tables: {report}");
    assert_eq!(rollback(&world).finish().unwrap(), None);
    assert!(past::contents(&world.read(), "finished") == scene.new);
    past::check_files(&world, "finished");
}

#[test]
fn what_was_prepared_and_is_not_there_stops_it_before_anything_is_removed() {
    let base = pending();
    let prepared = base.files(".new").into_iter().chain(base.files("/b-tail/segments/2"));
    let prepared: Vec<String> = prepared.collect();
    assert!(prepared.len() > 5, "{prepared:?}");
    for path in prepared {
        for damage in [false, true] {
            let world = fork(&base);
            let mut bytes = world.fs.read_raw(&path);
            if damage && !path.ends_with(".new") {
                continue; // an empty segment with a torn end is whole
            }
            bytes.truncate(bytes.len() - 1);
            if damage {
                world.fs.write_raw(&path, bytes);
            } else {
                world.fs.remove_raw(&path);
            }
            let before = image(&world.fs);
            let error = rollback(&world).finish().expect_err(&path);
            let kinds = [ErrorKind::Missing, ErrorKind::Corrupt];
            assert!(kinds.contains(&error.kind()), "{path}: {error}");
            assert!(image(&world.fs).len() >= before.len(), "{path}: something was removed");
            let open = world.try_open().map(|_| ()).expect_err(&path);
            assert_eq!(open.kind(), error.kind(), "{path}: {open}");
            // With the file in its place again it goes on.
            world.fs.write_raw(&path, base.fs.read_raw(&path));
            rollback(&world).finish().unwrap().unwrap();
            assert!(contents_of(&world) == scenes::everything().new);
        }
    }
}

#[test]
fn what_is_pending_is_made_certain_before_anything_is_done_on_the_strength_of_it() {
    let world = pending();
    world.fs.take_trace();
    rollback(&world).finish().unwrap().unwrap();
    let trace: Vec<String> = world.fs.take_trace().iter().map(|op| format!("{op:?}")).collect();
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

/// A snapshot of the roots that was taken by links while the rollback was pending stays pending.
#[test]
fn an_intent_that_somebody_links_to_is_replaced() {
    let world = pending();
    let intent = world.fs.read_raw("/r0/rollback.intent");
    world.fs.hard_link(Path::new("/r0/rollback.intent"), Path::new("/copy")).unwrap();
    rollback(&world).finish().unwrap().unwrap();
    assert_eq!(world.fs.read_raw("/copy"), intent);
}

#[test]
fn an_intent_that_comes_back_from_the_dead_takes_nothing_that_was_put_since() {
    let base = pending();
    let intent = base.fs.read_raw("/r0/rollback.intent");
    for later in 0..3 {
        let world = fork(&base);
        let db = world.open();
        for name in db.tables().unwrap() {
            put_groups(&db.table(name.as_str(), small()).unwrap(), 20..20 + later * 9);
        }
        db.close().unwrap();
        drop(db);
        let expected = contents_of(&world);
        world.fs.write_raw("/r0/rollback.intent", intent.clone());
        world.open().close().unwrap();
        assert!(contents_of(&world) == expected, "{later}");
        past::check_files(&world, "an intent that came back");
        past::goes_on(&world, &scenes::everything().old, &expected, "an intent that came back");
    }
}

#[test]
fn a_plan_made_before_another_rollback_was_interrupted_is_refused() {
    let scene = scenes::everything();
    let world = scene.copy();
    let plan =
        |world: &World| -> RollbackPlan { past::plan(world, scene.keep, scene.no_match).unwrap() };
    let (first, second) = (plan(&world), plan(&world));
    let stop = Arc::new(Mutex::new(0));
    let count = Arc::clone(&stop);
    // The disk dies when the first table is being changed.
    let fs = world.fs.clone();
    let result = first.execute_with(move |progress| {
        if progress.phase == Phase::Applying {
            *count.lock() += 1;
            fs.fail_op(1, lithdb_sim::Fault::Eio, true);
        }
        ControlFlow::Continue(())
    });
    refused(result, ErrorKind::Io, "decided and is not finished");
    assert_eq!(*stop.lock(), 1);
    world.fs.clear_faults();
    refused(second.execute(), ErrorKind::RollbackPending, "rollback.intent");
    world.open().close().unwrap();
    assert!(contents_of(&world) == scene.new);
}

#[test]
fn stopping_it_before_it_is_decided_leaves_nothing_behind() {
    for scene in [scenes::sealed(), scenes::tail(), scenes::clear(), scenes::everything()] {
        let plan = |world: &World| past::plan(world, scene.keep, scene.no_match).unwrap();
        let mut told = Vec::new();
        let whole = plan(&scene.copy()).execute_with(|progress| {
            told.push(progress.clone());
            ControlFlow::Continue(())
        });
        whole.unwrap();
        let preparing = told.iter().filter(|p| p.phase == Phase::Preparing).count();
        assert!(preparing >= 2, "{told:?}");
        for stop in 0..preparing {
            let world = scene.copy();
            let mut n = 0;
            let stopped = plan(&world).execute_with(|_| {
                n += 1;
                if n > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            refused(stopped, ErrorKind::Cancelled, "nothing was changed");
            let context = format!("{}, stopped at {stop}", scene.name);
            let left = world.files(".new").into_iter().chain(world.files("rollback.intent"));
            assert_eq!(left.count(), 0, "{context}");
            assert_eq!(*scene.check_all(&world, false, &context), scene.old, "{context}");
        }
        // Later it is too late.
        let world = scene.copy();
        let report = plan(&world).execute_with(|progress| match progress.phase {
            Phase::Preparing => ControlFlow::Continue(()),
            Phase::Applying => ControlFlow::Break(()),
        });
        assert!(report.unwrap().decided.is_some());
        assert_eq!(*scene.check_all(&world, true, scene.name), scene.new);
        // What is told grows, to what was planned and what the report says.
        let done: Vec<u64> = told.iter().map(|p| p.segments_done).collect();
        assert!(done.is_sorted() && told.iter().all(|p| p.segments_done <= p.segments_total));
        assert_eq!(done.last(), told.last().map(|p| &p.segments_total), "{}", scene.name);
    }
}

/// A database of which segments 1 and 2 of table `t` have been collected.
fn collected() -> World {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small().ttl(Duration::from_secs(60))).unwrap();
    put_groups(&table, (1..16).step_by(2));
    table.seal().unwrap();
    world.clock.advance(Duration::from_secs(61));
    put_groups(&table, (17..60).step_by(2));
    assert!(table.run_gc().unwrap().segments >= 2);
    table.set_ttl(None).unwrap();
    db.close().unwrap();
    world
}

#[test]
fn boundaries_above_the_watermark_at_it_and_below_it() {
    let world = collected();
    let first = height(&contents_of(&world)["t"][0].0);
    assert_eq!(first, 17);
    for last in [17, 19, 23, 25, 31] {
        let world = fork(&world);
        let keep: Keep<'_> = &|_, key, _| height(key) <= last;
        let new = cut(&contents_of(&world), keep, NoMatch::Refuse);
        past::roll_back(&world, keep, NoMatch::Refuse);
        assert!(contents_of(&world) == new, "{last}");
        assert!(new["t"].len() as u64 == (last - 15) / 2);
    }
    let below: Keep<'_> = &|_, key, _| height(key) <= 15;
    refused(past::plan(&world, below, NoMatch::Refuse), ErrorKind::InvalidArgument, "collected");
    let old = contents_of(&world);
    past::roll_back(&fork(&world), below, NoMatch::Keep);
    assert!(contents_of(&world) == old);
    past::roll_back(&world, below, NoMatch::Clear);
    assert!(contents_of(&world)["t"].is_empty());
}

#[test]
fn collected_segments_that_are_still_on_disk_refuse_a_boundary_among_them() {
    // A collection that was interrupted: the watermark is raised, the files are there.
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small()).unwrap();
    put_groups(&table, (1..40).step_by(2));
    table.set_ttl(Some(Duration::from_secs(60))).unwrap();
    db.close().unwrap();
    drop((table, db));
    world.clock.advance(Duration::from_secs(61));
    let before = fork(&world);
    let db = world.open();
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
            world.fs.write_raw(&path, before.fs.read_raw(&path));
        }
    }
    let at = rollback(&world).plan(through_key("h:9"));
    let image_before = image(&world.fs);
    refused(at, ErrorKind::InvalidArgument, "has been collected");
    for no_match in [NoMatch::Clear, NoMatch::Keep, NoMatch::Refuse] {
        let below: Keep<'_> = &|_, key, _| height(key) <= 15;
        let plan = past::plan(&world, below, no_match);
        refused(plan, ErrorKind::InvalidArgument, "has been collected");
    }
    assert!(image(&world.fs) == image_before);
    // A boundary above them does not mind them; an emptying takes them along.
    let above: Keep<'_> = &|_, key, _| height(key) <= 45;
    let old = contents_of(&world);
    let run = fork(&world);
    past::roll_back(&run, above, NoMatch::Refuse);
    assert!(contents_of(&run) == cut(&old, above, NoMatch::Refuse));
    past::goes_on(&run, &old, &cut(&old, above, NoMatch::Refuse), "an interrupted collection");
    past::roll_back(&world, &|_, _, _| false, NoMatch::Clear);
    assert!(world.files("/t/segments/").is_empty());
    past::goes_on(&world, &old, &cut(&old, &|_, _, _| false, NoMatch::Clear), "emptied");
}

#[test]
fn segment_files_that_are_symbolic_links_are_refused() {
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
        refused(plan, ErrorKind::Foreign, part);
        lithdb_env::Fs::rename(&fs, &elsewhere, &path).unwrap();
    }
    // A table that is a link would be left out in silence.
    std::os::unix::fs::symlink(dir.path(), roots[1].join("linked")).unwrap();
    refused(Rollback::new(&roots).plan(through_key("h:3")), ErrorKind::Foreign, "linked");
    lithdb_env::Fs::remove_file(&lithdb_env::OsFs, &roots[1].join("linked")).unwrap();
    let plan = Rollback::new(&roots).plan(through_key("h:3")).unwrap();
    // They become links in between.
    let (path, elsewhere) = (roots[0].join("t/segments/2.keys"), dir.path().join("elsewhere"));
    lithdb_env::Fs::rename(&lithdb_env::OsFs, &path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    refused(plan.execute(), ErrorKind::Foreign, "2.keys");
    lithdb_env::Fs::rename(&lithdb_env::OsFs, &elsewhere, &path).unwrap();
    // On a real file system it works, too.
    Rollback::new(&roots).plan(through_key("h:3")).unwrap().execute().unwrap();
    let db = Db::open(DbOptions::new(&roots)).unwrap();
    let table = db.existing_table("t").unwrap();
    assert_eq!(past::records(&table, "on disk").last().unwrap().0, b"h:3");
}
