//! Roots whose `root.id` is lost, and roots that are gone for good: what a repair does without consent, what it gives up with
//! it, and that it may crash anywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::PathBuf;

use lithdb::rollback::INTENT_FILE;
use lithdb::{Db, DbOptions, ErrorKind, Repair, Result, RootLoss};
use lithdb_sim::{CrashImage, Effort, Fault, Tally};
use support::past::{self, Contents, contents, contents_of, image};
use support::scenes;
use support::{World, put, small};

/// What is there to repair with these roots, and places for those that are gone.
fn plan_of(world: &World, roots: &[&str], gone: &[&str]) -> Result<Repair> {
    let gone: Vec<PathBuf> = gone.iter().map(PathBuf::from).collect();
    let options = DbOptions::new(roots.iter().map(PathBuf::from));
    Db::plan_repair_without(&options, &world.components(), &gone, &mut |_| {})
}

/// Of a lost `root.id`.
fn plan(world: &World) -> Result<Repair> {
    plan_of(world, &["/r1", "/r0"], &[])
}

/// Two tables, one of several segments, and a table without any; closed.
fn database() -> World {
    let world = World::new();
    let db = world.open();
    put(&db.table("t", small()).unwrap(), 0..7);
    put(&db.table("u", small()).unwrap(), 0..3);
    db.table("empty", small()).unwrap();
    db.close().unwrap();
    drop(db);
    world
}

/// Nothing is changed, but for the lock files.
fn files(world: &World) -> Vec<(String, Vec<u8>)> {
    let mut files = image(&world.fs);
    files.retain(|(path, _)| !path.ends_with(".lock"));
    files
}

fn check(world: &World, expected: &Contents, context: &str) {
    let db = world.try_open().unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(contents(&db, context) == *expected, "{context}: other contents");
    db.close().unwrap();
}

#[test]
fn lost_root_id_is_written_anew_where_all_files_agree() {
    for root in ["/r0", "/r1"] {
        for loss in [RootLoss::IdLost, RootLoss::IdDamaged] {
            let world = database();
            let (expected, before) = (contents_of(&world), files(&world));
            let id = format!("{root}/root.id");
            let old = world.fs.read_raw(&id);
            match loss {
                RootLoss::IdLost => world.fs.remove_raw(&id),
                _ => world.fs.write_raw(&id, vec![7; old.len()]),
            }
            // Everybody says the same.
            let said = world.try_open().map(drop).unwrap_err();
            assert!(said.message().contains("`lith repair`"), "{said}");
            assert!(said.message().contains(root), "{said}");
            let reading = world.try_read().map(drop).unwrap_err();
            assert_eq!((said.kind(), said.message()), (reading.kind(), reading.message()));
            let repair = plan(&world).unwrap();
            assert!(repair.is_lossless() && !repair.is_empty() && repair.tables.is_empty());
            let lost = &repair.roots.as_ref().unwrap().lost;
            assert_eq!((lost[0].path.to_str().unwrap(), lost[0].loss), (root, loss));
            drop(repair);
            assert_eq!(files(&world), before, "planning changes nothing");
            let done = plan(&world).unwrap().apply_lossless().unwrap();
            assert_eq!((done.roots.len(), done.tables.len()), (1, 0));
            let kept = world.files("/damaged-");
            assert_eq!(kept.len(), usize::from(loss == RootLoss::IdDamaged), "{kept:?}");
            // What was taken away and comes back is older from now on.
            let back = past::fork(&world);
            back.fs.write_raw(&id, old);
            let error = back.try_open().map(drop).unwrap_err();
            assert!(error.message().contains("is older than"), "{error}");
            check(&world, &expected, root);
            assert!(plan(&world).unwrap().is_empty());
        }
    }
}

#[test]
fn no_root_with_an_id_gets_a_new_identity() {
    let world = database();
    let expected = contents_of(&world);
    for root in ["/r0", "/r1"] {
        world.fs.remove_raw(format!("{root}/root.id"));
    }
    // The roots are told apart by the states of the tables.
    let repair = plan(&world).unwrap();
    let lost = &repair.roots.as_ref().unwrap().lost;
    assert_eq!(lost.iter().find(|root| root.number == 0).unwrap().path.to_str(), Some("/r0"));
    assert!(repair.to_string().contains("new one"), "{repair}");
    assert!(repair.is_lossless());
    repair.apply_lossless().unwrap();
    check(&world, &expected, "a new identity");
    // Half of a database is not whole.
    for root in ["/r0", "/r1"] {
        world.fs.remove_raw(format!("{root}/root.id"));
    }
    let repair = plan_of(&world, &["/r0"], &[]).unwrap();
    assert!(!repair.is_lossless());
    drop(repair);
    let error = plan_of(&world, &["/r1"], &["/r2"]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
}

/// A root as it was, without its id: of two sessions that ended with a close, and of one that a kill ended.
#[test]
fn older_root_without_its_id_needs_consent() {
    for is_killed in [false, true] {
        for root in ["/r0", "/r1"] {
            let world = database();
            let old = world.fs.fork();
            let before = contents_of(&world);
            let db = world.open();
            put(&db.table("u", small()).unwrap(), 3..4);
            db.flush().unwrap();
            let world = match is_killed {
                false => {
                    db.close().unwrap();
                    drop(db);
                    world
                }
                true => world.on(world.fs.fork()),
            };
            world.fs.release_locks();
            let now = contents_of(&world);
            for path in world.files(root) {
                world.fs.remove_raw(path);
            }
            for path in old.file_paths().iter().filter(|path| path.starts_with(root)) {
                world.fs.write_raw(path, old.read_raw(path));
            }
            world.fs.remove_raw(format!("{root}/root.id"));
            let context = format!("{root} is old, killed: {is_killed}");
            let (repair, files_before) = (plan(&world).unwrap(), files(&world));
            assert!(!repair.is_lossless(), "{context}: {repair}");
            let done = repair.apply_lossless().unwrap();
            assert!(done.roots.is_empty() && done.tables.is_empty(), "{context}");
            assert_eq!(files(&world), files_before, "{context}: nothing was accepted");
            world.try_open().map(drop).unwrap_err();
            plan(&world).unwrap().apply().unwrap();
            let found = contents_of(&world);
            assert_eq!(found["t"], before["t"], "{context}");
            assert!(now["u"].starts_with(&found["u"]), "{context}");
        }
    }
}

/// The contents without what had bytes on root 1.
fn without_root_1(world: &World) -> Contents {
    let repaired = past::fork(world);
    plan_of(&repaired, &["/r0"], &["/r1"]).unwrap().apply().unwrap();
    contents_of(&repaired)
}

/// Root 1 as it is if nobody has it any more.
fn lose(world: &World, root: &str) {
    world.files(root).iter().for_each(|path| world.fs.remove_raw(path));
    world.fs.remove_dir_raw(root);
}

#[test]
fn root_gone_for_good_takes_what_was_on_it_and_nothing_else() {
    let world = database();
    let whole = contents_of(&world);
    lose(&world, "/r1");
    let before = files(&world);
    let repair = plan_of(&world, &["/r0"], &["/r1"]).unwrap();
    assert!(!repair.is_lossless(), "{repair}");
    let mut lost = repair.tables.iter().map(|plan| plan.lost_keys().unwrap());
    let lost: u64 = lost.by_ref().sum();
    assert!(repair.apply_lossless().unwrap().tables.is_empty());
    assert_eq!(files(&world), before);
    let expected = without_root_1(&world);
    for (table, records) in &whole {
        // Every other value has its bytes on root 1, but for those that stand in the key file.
        let stays = |record: &&past::Record| expected[table].contains(record);
        let inline = |record: &&past::Record| record.2.len() <= 16;
        assert!(records.iter().filter(inline).all(|record| stays(&record)), "{table}");
        let kept = records.iter().filter(stays).cloned().collect::<Vec<_>>();
        assert_eq!(kept, expected[table], "{table}: in their order, and no others");
        assert!(records.is_empty() || kept.len() < records.len(), "{table}");
    }
    let count = |contents: &Contents| contents.values().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(count(&whole) - count(&expected), lost, "what is lost is counted");
    plan_of(&world, &["/r0"], &["/r1"]).unwrap().apply().unwrap();
    check(&world, &expected, "without root 1");
    let db = world.open();
    put(&db.existing_table("t").unwrap(), 20..26);
    db.flush().unwrap();
    let expected = contents(&db, "written to");
    drop(db);
    check(&world.after_crash(&CrashImage::Nothing), &expected, "written to and crashed");
}

#[test]
fn root_0_gone_for_good_leaves_a_database_without_keys() {
    let world = database();
    let taken = world.files("/r0").into_iter().map(|path| (world.fs.read_raw(&path), path));
    let taken: Vec<_> = taken.collect();
    lose(&world, "/r0");
    let repair = plan_of(&world, &["/r1"], &["/r0"]).unwrap();
    assert!(!repair.is_lossless() && repair.tables.iter().all(|plan| plan.lost_keys().is_none()));
    repair.apply().unwrap();
    let found = contents_of(&world);
    assert!(found.values().all(Vec::is_empty) && found.contains_key("t"), "{found:?}");
    assert!(!world.files("/r1/t/damaged-").is_empty(), "no file is deleted");
    let db = world.open();
    put(&db.table("t", small()).unwrap(), 0..3);
    db.close().unwrap();
    // The root that was gone is found again: it is older.
    taken.into_iter().for_each(|(bytes, path)| world.fs.write_raw(path, bytes));
    let error = world.try_open().map(drop).unwrap_err();
    assert!(error.message().contains("is older than"), "{error}");
}

#[test]
fn what_may_be_a_root_that_is_not_mounted_is_not_repaired() {
    let world = database();
    lose(&world, "/r1");
    world.fs.make_dirs("/r1");
    let before = world.fs.file_paths();
    for roots in [&["/r0", "/r1"][..], &["/r0"], &["/r0", "/r2"]] {
        let error = plan_of(&world, roots, &[]).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.message().contains("`lith repair --lost-root`"), "{error}");
        let options = DbOptions::new(roots.iter().map(PathBuf::from));
        let opened = Db::open_with(options, world.components()).map(drop).unwrap_err();
        assert_eq!(opened.message(), error.message());
    }
    assert_eq!(world.fs.file_paths(), before);
}

#[test]
fn what_cannot_be_a_root_is_refused_by_a_repair() {
    let refused = |world: &World, roots: &[&str], gone: &[&str], kind, says: &str| {
        let before = world.fs.file_paths();
        let error = plan_of(world, roots, gone).map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(says), "{error}");
        assert_eq!(world.fs.file_paths(), before);
    };
    let world = database();
    let invalid = ErrorKind::InvalidArgument;
    refused(&world, &["/r0"], &["/r1"], invalid, "/r1 has a root.id: it is not lost");
    world.fs.make_dirs("/r2");
    refused(&world, &["/r0", "/r1"], &["/r2"], ErrorKind::Conflict, "take it off");
    world.fs.remove_raw("/r1/root.id");
    world.fs.write_raw("/r2/letter", b"dear".to_vec());
    refused(&world, &["/r0"], &["/r2"], ErrorKind::Foreign, "\"letter\"");
    // Root 0 of somebody else, which has lost its id, too.
    world.fs.make_dirs("/r3/x");
    world.fs.write_raw("/r3/x/table.state", b"state".to_vec());
    refused(&world, &["/r0", "/r3"], &[], ErrorKind::Foreign, "table.state");
    // Too few for what is absent.
    lose(&world, "/r1");
    refused(&world, &["/r0"], &[], ErrorKind::Missing, "--lost-root");
    let held = world.open_single("/r4");
    world.fs.remove_raw("/r4/root.id");
    refused(&world, &["/r4"], &[], ErrorKind::Locked, "/r4");
    held.close().unwrap();
}

trait Single {
    fn open_single(&self, root: &str) -> Db;
}

impl Single for World {
    /// A database of one root, with a value.
    fn open_single(&self, root: &str) -> Db {
        let db = Db::open_with(DbOptions::new([root]), self.components()).unwrap();
        put(&db.table("t", small()).unwrap(), 0..2);
        db.flush().unwrap();
        db
    }
}

#[test]
fn one_root_alone_gets_a_new_identity_if_its_tables_are_whole() {
    let world = World::new();
    world.open_single("/one").close().unwrap();
    world.fs.remove_raw("/one/root.id");
    let creating = DbOptions::new(["/one"]);
    let error = Db::open_with(creating.clone(), world.components()).map(drop).unwrap_err();
    assert!(error.message().contains("`lith repair`"), "no database is created there: {error}");
    // Nor where a table is damaged.
    let damaged = past::fork(&world);
    damaged.fs.flip_bit("/one/t/segments/1-0.values", 90, 1);
    assert!(!plan_of(&damaged, &["/one"], &[]).unwrap().is_lossless());
    plan_of(&world, &["/one"], &[]).unwrap().apply_lossless().unwrap();
    let db = Db::open_with(creating, world.components()).unwrap();
    support::check(&db.existing_table("t").unwrap(), 0..2);
}

#[test]
fn rollback_that_lost_a_root_id_is_finished_after_the_repair() {
    let scene = scenes::sealed();
    // Killed as soon as it is decided.
    let decided = (1..).map(|k| {
        let world = scene.copy();
        world.fs.crash_after(k);
        scene.execute(&world).unwrap_err();
        world.after_crash(&CrashImage::Nothing)
    });
    let mut decided = decided.filter(|world| !world.files(&format!("/{INTENT_FILE}")).is_empty());
    let decided = decided.find(|world| world.try_read().is_err()).unwrap();
    for root in ["/r0", "/r1"] {
        let world = past::fork(&decided);
        world.fs.remove_raw(format!("{root}/root.id"));
        let repair = plan(&world).unwrap();
        assert!(!repair.is_lossless() && repair.tables.is_empty(), "{repair}");
        assert!(repair.to_string().contains("`lith rollback --finish`"), "{repair}");
        repair.apply().unwrap();
        assert!(scene.check_all(&world, true, root) == &scene.new);
    }
}

#[test]
fn roots_are_not_repaired_where_a_table_may_not_be_read() {
    let world = database();
    world.fs.remove_raw("/r1/root.id");
    let before = files(&world);
    let reads = |world: &World| {
        let from = world.fs.reads();
        plan(world).unwrap();
        from..world.fs.reads()
    };
    let mut refused = 0;
    for n in reads(&past::fork(&world)) {
        let world = past::fork(&world);
        world.fs.fail_reads_from(world.fs.reads() + n, Fault::Denied);
        match plan(&world) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{n}: {error}"),
            Ok(repair) => assert!(repair.is_lossless(), "{n}: {repair}"),
        }
        refused += usize::from(plan(&world).is_err());
        world.fs.clear_faults();
        assert_eq!(files(&world), before, "{n}");
    }
    assert!(refused > 10, "{refused}");
}

/// What was lost, and how it is repaired.
struct Lost {
    name: &'static str,
    world: World,
    roots: &'static [&'static str],
    gone: &'static [&'static str],
    expected: Contents,
}

impl Lost {
    fn repair(&self, world: &World) -> Result<()> {
        let done = plan_of(world, self.roots, self.gone)?.apply()?;
        done.refused.into_iter().next().map_or(Ok(()), |refused| Err(refused.error))
    }

    /// Whoever opens it is refused, or finds what is to be there.
    fn open_between(&self, world: &World, context: &str) {
        let world = past::fork(world);
        if let Ok(db) = world.try_open() {
            assert!(contents(&db, context) == self.expected, "{context}: opened half-way");
        }
    }

    fn check(&self, world: &World, context: &str) {
        match self.repair(world) {
            Err(error) if error.kind() == ErrorKind::InvalidArgument && !self.gone.is_empty() => {
                assert!(error.message().contains("not lost"), "{context}: {error}");
                world.try_open().map(drop).unwrap_or_else(|e| panic!("{context}: {e}"));
            }
            done => done.unwrap_or_else(|e| panic!("{context}: repair: {e}")),
        }
        check(world, &self.expected, context);
    }
}

fn lost() -> Vec<Lost> {
    let whole = contents_of(&database());
    let both: &[&str] = &["/r0", "/r1"];
    let mut all = Vec::new();
    for (name, root, damaged) in [
        ("id of root 0", "/r0", false),
        ("id of root 1", "/r1", false),
        ("damaged id", "/r1", true),
    ] {
        let world = past::fork(&database());
        let path = format!("{root}/root.id");
        world.fs.remove_raw(&path);
        if damaged {
            world.fs.write_raw(&path, vec![1; 8192]);
        }
        let expected = whole.clone();
        all.push(Lost { name, world: past::fork(&world), roots: both, gone: &[], expected });
    }
    let world = database();
    lose(&world, "/r1");
    let world = past::fork(&world);
    let expected = without_root_1(&world);
    all.push(Lost { name: "root 1", world, roots: &["/r0"], gone: &["/r1"], expected });
    all
}

#[test]
fn repair_of_lost_roots_survives_every_crash() {
    let effort = Effort::given();
    let mut tally = Tally::new("crashes of a repair of roots");
    for lost in lost() {
        let run = past::fork(&lost.world);
        lost.repair(&run).unwrap();
        let total = run.fs.ops();
        for k in 0..total {
            let run = past::fork(&lost.world);
            run.fs.crash_after(k);
            let is_done = lost.repair(&run).is_ok();
            let mut images = vec![CrashImage::Nothing, CrashImage::Everything];
            if run.fs.unsynced_ops() > 0 {
                images.extend((0..effort.times(1)).map(|n| CrashImage::Seeded(k * 7 + n)));
            }
            for (n, image) in images.iter().enumerate() {
                let context = format!("{}, crash after {k} of {total}, {image:?}", lost.name);
                let after = run.after_crash(image);
                lost.open_between(&after, &context);
                assert!(
                    !is_done || past::fork(&after).try_open().is_ok(),
                    "{context}: it was done"
                );
                tally.add("images", 1);
                // And inside the second attempt.
                let step = if effort.is_deep() { 3 } else { 67 };
                for m in (0..total).skip((k as usize + n) % step).step_by(step) {
                    let again = past::fork(&after);
                    again.fs.crash_after(m);
                    if lost.repair(&again).is_ok() {
                        break;
                    }
                    let context = format!("{context}, again after {m}");
                    let again = again.after_crash(&CrashImage::Seeded(m));
                    lost.open_between(&again, &context);
                    lost.check(&again, &context);
                    tally.add("nested images", 1);
                }
                lost.check(&after, &context);
            }
        }
    }
    assert!(tally.get("images") > 200);
}

#[test]
fn repair_of_lost_roots_may_fail_anywhere_and_goes_on() {
    for lost in lost() {
        let run = past::fork(&lost.world);
        lost.repair(&run).unwrap();
        for n in 0..run.fs.ops() {
            let run = past::fork(&lost.world);
            run.fs.fail_op(n, Fault::Eio, false);
            let done = lost.repair(&run).is_ok();
            let context = format!("{}, failure of {n}", lost.name);
            lost.open_between(&run, &context);
            assert!(!done || past::fork(&run).try_open().is_ok(), "{context}: it was done");
            run.fs.clear_faults();
            lost.check(&run, &context);
        }
    }
}
