//! Roots whose `root.id` is lost, and permanently lost roots: what a repair does without consent,
//! what it gives up with consent, and that it survives a crash at any point.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use lithdb::repair::{Repair, RootLoss};
use lithdb::{Db, DbOptions, ErrorKind, Result};
use lithdb_rollback::INTENT_FILE;
use lithdb_sim::{CrashImage, Effort, Fault, Tally};
use support::rollback_fixture::{self, Contents, contents, contents_of, image};
use support::scenarios;
use support::{Harness, put, small};

/// Plans a repair of these roots; `lost` are new directories for the lost ones.
fn plan_of(harness: &Harness, roots: &[&str], lost: &[&str]) -> Result<Repair> {
    let lost: Vec<PathBuf> = lost.iter().map(PathBuf::from).collect();
    let options = DbOptions::new(roots.iter().map(PathBuf::from));
    Db::plan_repair_with_lost_roots(&options, &harness.components(), &lost, &mut |_| {})
}

/// Plans a repair of a lost `root.id`.
fn plan(harness: &Harness) -> Result<Repair> {
    plan_of(harness, &["/r1", "/r0"], &[])
}

/// Two tables, one of several segments, and a table without any; closed.
fn database() -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    put(&db.table("t", small()).unwrap(), 0..7);
    put(&db.table("u", small()).unwrap(), 0..3);
    db.table("empty", small()).unwrap();
    db.close().unwrap();
    drop(db);
    harness
}

/// All files but the lock files, to check that nothing changes.
fn files(harness: &Harness) -> Vec<(String, Vec<u8>)> {
    let mut files = image(&harness.fs);
    files.retain(|(path, _)| !path.ends_with(".lock"));
    files
}

fn check(harness: &Harness, expected: &Contents, context: &str) {
    let db = harness.try_open().unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(contents(&db, context) == *expected, "{context}: other contents");
    db.close().unwrap();
}

#[test]
fn lost_root_id_is_rewritten_where_all_files_agree() {
    for root in ["/r0", "/r1"] {
        for loss in [RootLoss::IdLost, RootLoss::IdDamaged] {
            let harness = database();
            let (expected, before) = (contents_of(&harness), files(&harness));
            let id = format!("{root}/root.id");
            let old = harness.fs.read_raw(&id);
            match loss {
                RootLoss::IdLost => harness.fs.remove_raw(&id),
                _ => harness.fs.write_raw(&id, vec![7; old.len()]),
            }
            // All callers get the same remedy.
            let error = harness.try_open().map(drop).unwrap_err();
            assert!(error.message().contains("`lith repair`"), "{error}");
            assert!(error.message().contains(root), "{error}");
            let reading = harness.try_read().map(drop).unwrap_err();
            assert_eq!((error.kind(), error.message()), (reading.kind(), reading.message()));
            let repair = plan(&harness).unwrap();
            assert!(repair.is_lossless() && !repair.is_empty() && repair.tables.is_empty());
            let lost = &repair.roots.as_ref().unwrap().lost;
            assert_eq!((lost[0].path.to_str().unwrap(), lost[0].loss), (root, loss));
            drop(repair);
            assert_eq!(files(&harness), before, "planning changes nothing");
            let done = plan(&harness).unwrap().apply_lossless().unwrap();
            assert_eq!((done.roots.len(), done.tables.len()), (1, 0));
            let kept = harness.files("/damaged-");
            assert_eq!(kept.len(), usize::from(loss == RootLoss::IdDamaged), "{kept:?}");
            // A root that was moved away and comes back is older from now on.
            let back = rollback_fixture::fork(&harness);
            back.fs.write_raw(&id, old);
            let error = back.try_open().map(drop).unwrap_err();
            assert!(error.message().contains("is older than"), "{error}");
            check(&harness, &expected, root);
            assert!(plan(&harness).unwrap().is_empty());
        }
    }
}

#[test]
fn database_without_any_root_id_gets_a_new_identity() {
    let harness = database();
    let expected = contents_of(&harness);
    for root in ["/r0", "/r1"] {
        harness.fs.remove_raw(format!("{root}/root.id"));
    }
    // The states of the tables identify the roots.
    let repair = plan(&harness).unwrap();
    let lost = &repair.roots.as_ref().unwrap().lost;
    assert_eq!(lost.iter().find(|root| root.number == 0).unwrap().path.to_str(), Some("/r0"));
    assert!(repair.to_string().contains("new one"), "{repair}");
    assert!(repair.is_lossless());
    repair.apply_lossless().unwrap();
    check(&harness, &expected, "a new identity");
    // A part of a database is not intact.
    for root in ["/r0", "/r1"] {
        harness.fs.remove_raw(format!("{root}/root.id"));
    }
    let repair = plan_of(&harness, &["/r0"], &[]).unwrap();
    assert!(!repair.is_lossless());
    drop(repair);
    let error = plan_of(&harness, &["/r1"], &["/r2"]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
}

/// An old copy of a root, without its id: from two sessions that ended with a close and one that
/// ended with a kill.
#[test]
fn stale_root_without_its_id_needs_consent() {
    for is_killed in [false, true] {
        for root in ["/r0", "/r1"] {
            let harness = database();
            let old = harness.fs.fork();
            let before = contents_of(&harness);
            let db = harness.open();
            put(&db.table("u", small()).unwrap(), 3..4);
            db.flush().unwrap();
            let harness = match is_killed {
                false => {
                    db.close().unwrap();
                    drop(db);
                    harness
                }
                true => harness.on(harness.fs.fork()),
            };
            harness.fs.release_locks();
            let now = contents_of(&harness);
            for path in harness.files(root) {
                harness.fs.remove_raw(path);
            }
            for path in old.file_paths().iter().filter(|path| path.starts_with(root)) {
                harness.fs.write_raw(path, old.read_raw(path));
            }
            harness.fs.remove_raw(format!("{root}/root.id"));
            let context = format!("{root} is old, killed: {is_killed}");
            let (repair, files_before) = (plan(&harness).unwrap(), files(&harness));
            assert!(!repair.is_lossless(), "{context}: {repair}");
            let done = repair.apply_lossless().unwrap();
            assert!(done.roots.is_empty() && done.tables.is_empty(), "{context}");
            assert_eq!(files(&harness), files_before, "{context}: nothing was accepted");
            harness.try_open().map(drop).unwrap_err();
            plan(&harness).unwrap().apply().unwrap();
            let found = contents_of(&harness);
            assert_eq!(found["t"], before["t"], "{context}");
            assert!(now["u"].starts_with(&found["u"]), "{context}");
        }
    }
}

/// A copy of root 0 that was taken while the table was open, idle and durable: of what the session
/// put afterwards, only the value file on the other root shows anything.
#[test]
fn longer_value_file_shows_a_stale_root() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put(&table, 0..4);
    table.flush().unwrap();
    db.maintain().unwrap();
    harness.clock.advance(Duration::from_secs(5));
    db.maintain().unwrap(); // the idle mark
    let copy = harness.fs.fork();
    put(&table, 4..8);
    table.flush().unwrap();
    let killed = harness.on(harness.fs.fork());
    killed.fs.release_locks();
    for path in killed.files("/r0") {
        killed.fs.remove_raw(path);
    }
    for path in copy.file_paths().iter().filter(|path| path.starts_with("/r0")) {
        killed.fs.write_raw(path, copy.read_raw(path));
    }
    killed.fs.remove_raw("/r0/root.id");
    let repair = plan(&killed).unwrap();
    assert!(!repair.is_lossless(), "{repair}");
    assert!(repair.tables.is_empty(), "{repair}");
}

/// The contents without the values on root 1.
fn without_root_1(harness: &Harness) -> Contents {
    let repaired = rollback_fixture::fork(harness);
    plan_of(&repaired, &["/r0"], &["/r1"]).unwrap().apply().unwrap();
    contents_of(&repaired)
}

/// Makes root 1 permanently lost.
fn lose(harness: &Harness, root: &str) {
    harness.files(root).iter().for_each(|path| harness.fs.remove_raw(path));
    harness.fs.remove_dir_raw(root);
}

#[test]
fn permanently_lost_root_loses_only_its_own_data() {
    let harness = database();
    let whole = contents_of(&harness);
    lose(&harness, "/r1");
    let before = files(&harness);
    let repair = plan_of(&harness, &["/r0"], &["/r1"]).unwrap();
    assert!(!repair.is_lossless(), "{repair}");
    let mut lost = repair.tables.iter().map(|plan| plan.lost_keys().unwrap());
    let lost: u64 = lost.by_ref().sum();
    assert!(repair.apply_lossless().unwrap().tables.is_empty());
    assert_eq!(files(&harness), before);
    let expected = without_root_1(&harness);
    for (table, records) in &whole {
        // Every other value is on root 1, except inline ones.
        let stays = |record: &&rollback_fixture::Record| expected[table].contains(record);
        let inline = |record: &&rollback_fixture::Record| record.2.len() <= 16;
        assert!(records.iter().filter(inline).all(|record| stays(&record)), "{table}");
        let kept = records.iter().filter(stays).cloned().collect::<Vec<_>>();
        assert_eq!(kept, expected[table], "{table}: in their order, and no others");
        assert!(records.is_empty() || kept.len() < records.len(), "{table}");
    }
    let count = |contents: &Contents| contents.values().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(count(&whole) - count(&expected), lost, "what is lost is counted");
    plan_of(&harness, &["/r0"], &["/r1"]).unwrap().apply().unwrap();
    check(&harness, &expected, "without root 1");
    let db = harness.open();
    put(&db.existing_table("t").unwrap(), 20..26);
    db.flush().unwrap();
    let expected = contents(&db, "written to");
    drop(db);
    check(&harness.after_crash(&CrashImage::Nothing), &expected, "written to and crashed");
}

#[test]
fn losing_root_0_permanently_leaves_a_database_without_keys() {
    let harness = database();
    let taken = harness.files("/r0").into_iter().map(|path| (harness.fs.read_raw(&path), path));
    let taken: Vec<_> = taken.collect();
    lose(&harness, "/r0");
    let repair = plan_of(&harness, &["/r1"], &["/r0"]).unwrap();
    assert!(!repair.is_lossless() && repair.tables.iter().all(|plan| plan.lost_keys().is_none()));
    repair.apply().unwrap();
    let found = contents_of(&harness);
    assert!(found.values().all(Vec::is_empty) && found.contains_key("t"), "{found:?}");
    assert!(!harness.files("/r1/t/damaged-").is_empty(), "no file is deleted");
    let db = harness.open();
    put(&db.table("t", small()).unwrap(), 0..3);
    db.close().unwrap();
    // The lost root reappears: it is older.
    taken.into_iter().for_each(|(bytes, path)| harness.fs.write_raw(path, bytes));
    let error = harness.try_open().map(drop).unwrap_err();
    assert!(error.message().contains("is older than"), "{error}");
}

#[test]
fn possibly_unmounted_root_is_not_repaired() {
    let harness = database();
    lose(&harness, "/r1");
    harness.fs.make_dirs("/r1");
    let before = harness.fs.file_paths();
    for roots in [&["/r0", "/r1"][..], &["/r0"], &["/r0", "/r2"]] {
        let error = plan_of(&harness, roots, &[]).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.message().contains("`lith repair --lost-root`"), "{error}");
        let options = DbOptions::new(roots.iter().map(PathBuf::from));
        let opened = Db::open_with(options, harness.components()).map(drop).unwrap_err();
        assert_eq!(opened.message(), error.message());
    }
    assert_eq!(harness.fs.file_paths(), before);
}

#[test]
fn repair_refuses_a_directory_that_cannot_be_a_root() {
    let refused = |harness: &Harness, roots: &[&str], lost: &[&str], kind, says: &str| {
        let before = harness.fs.file_paths();
        let error = plan_of(harness, roots, lost).map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(says), "{error}");
        assert_eq!(harness.fs.file_paths(), before);
    };
    let harness = database();
    let invalid = ErrorKind::InvalidArgument;
    refused(&harness, &["/r0"], &["/r1"], invalid, "/r1 has a root.id: it is not lost");
    harness.fs.make_dirs("/r2");
    refused(&harness, &["/r0", "/r1"], &["/r2"], ErrorKind::Foreign, "remove it from the list");
    harness.fs.remove_raw("/r1/root.id");
    harness.fs.write_raw("/r2/letter", b"dear".to_vec());
    refused(&harness, &["/r0"], &["/r2"], ErrorKind::Foreign, "\"letter\"");
    // Root 0 of another database, which has lost its id, too.
    harness.fs.make_dirs("/r3/x");
    harness.fs.write_raw("/r3/x/table.state", b"state".to_vec());
    refused(&harness, &["/r0", "/r3"], &[], ErrorKind::Foreign, "table.state");
    // Fewer roots than are missing.
    lose(&harness, "/r1");
    refused(&harness, &["/r0"], &[], ErrorKind::Missing, "--lost-root");
    let held = harness.open_single("/r4");
    harness.fs.remove_raw("/r4/root.id");
    refused(&harness, &["/r4"], &[], ErrorKind::Locked, "/r4");
    held.close().unwrap();
}

trait Single {
    fn open_single(&self, root: &str) -> Db;
}

impl Single for Harness {
    /// A database of one root, with a value.
    fn open_single(&self, root: &str) -> Db {
        let db = Db::open_with(DbOptions::new([root]), self.components()).unwrap();
        put(&db.table("t", small()).unwrap(), 0..2);
        db.flush().unwrap();
        db
    }
}

#[test]
fn single_root_gets_a_new_identity_if_its_tables_are_intact() {
    let harness = Harness::new();
    harness.open_single("/one").close().unwrap();
    harness.fs.remove_raw("/one/root.id");
    let creating = DbOptions::new(["/one"]);
    let error = Db::open_with(creating.clone(), harness.components()).map(drop).unwrap_err();
    assert!(error.message().contains("`lith repair`"), "no database is created there: {error}");
    // Nor where a table is damaged.
    let damaged = rollback_fixture::fork(&harness);
    damaged.fs.flip_bit("/one/t/segments/1-0.values", 90, 1);
    assert!(!plan_of(&damaged, &["/one"], &[]).unwrap().is_lossless());
    plan_of(&harness, &["/one"], &[]).unwrap().apply_lossless().unwrap();
    let db = Db::open_with(creating, harness.components()).unwrap();
    support::check(&db.existing_table("t").unwrap(), 0..2);
}

#[test]
fn pending_rollback_is_finished_after_root_id_repair() {
    let scenario = scenarios::sealed();
    // Killed right after its decision.
    let decided = (1..).map(|k| {
        let harness = scenario.copy();
        harness.fs.crash_after(k);
        scenario.execute(&harness).unwrap_err();
        harness.after_crash(&CrashImage::Nothing)
    });
    let mut decided =
        decided.filter(|harness| !harness.files(&format!("/{INTENT_FILE}")).is_empty());
    let decided = decided.find(|harness| harness.try_read().is_err()).unwrap();
    for root in ["/r0", "/r1"] {
        let harness = rollback_fixture::fork(&decided);
        harness.fs.remove_raw(format!("{root}/root.id"));
        let repair = plan(&harness).unwrap();
        assert!(!repair.is_lossless() && repair.tables.is_empty(), "{repair}");
        assert!(repair.to_string().contains("`lith rollback --finish`"), "{repair}");
        repair.apply().unwrap();
        assert!(scenario.check_all(&harness, true, root) == &scenario.new);
    }
}

#[test]
fn roots_are_not_repaired_if_a_table_is_unreadable() {
    let harness = database();
    harness.fs.remove_raw("/r1/root.id");
    let before = files(&harness);
    let reads = |harness: &Harness| {
        let from = harness.fs.reads();
        plan(harness).unwrap();
        from..harness.fs.reads()
    };
    let mut refused = 0;
    for n in reads(&rollback_fixture::fork(&harness)) {
        let harness = rollback_fixture::fork(&harness);
        harness.fs.fail_reads_from(harness.fs.reads() + n, Fault::Denied);
        match plan(&harness) {
            Err(error) => assert!(error.is_permission_denied(), "{n}: {error}"),
            Ok(repair) => assert!(repair.is_lossless(), "{n}: {repair}"),
        }
        refused += usize::from(plan(&harness).is_err());
        harness.fs.clear_faults();
        assert_eq!(files(&harness), before, "{n}");
    }
    assert!(refused > 10, "{refused}");
}

/// A loss and its repair.
struct LostRootCase {
    name: &'static str,
    harness: Harness,
    roots: &'static [&'static str],
    lost: &'static [&'static str],
    expected: Contents,
}

impl LostRootCase {
    fn repair(&self, harness: &Harness) -> Result<()> {
        let done = plan_of(harness, self.roots, self.lost)?.apply()?;
        done.refused.into_iter().next().map_or(Ok(()), |refused| Err(refused.error))
    }

    /// An open between attempts is refused or finds the expected contents.
    fn open_between_attempts(&self, harness: &Harness, context: &str) {
        let harness = rollback_fixture::fork(harness);
        if let Ok(db) = harness.try_open() {
            assert!(contents(&db, context) == self.expected, "{context}: opened half-way");
        }
    }

    fn check(&self, harness: &Harness, context: &str) {
        match self.repair(harness) {
            Err(error) if error.kind() == ErrorKind::InvalidArgument && !self.lost.is_empty() => {
                assert!(error.message().contains("not lost"), "{context}: {error}");
                harness.try_open().map(drop).unwrap_or_else(|e| panic!("{context}: {e}"));
            }
            done => done.unwrap_or_else(|e| panic!("{context}: repair: {e}")),
        }
        check(harness, &self.expected, context);
    }
}

fn lost() -> Vec<LostRootCase> {
    let whole = contents_of(&database());
    let both: &[&str] = &["/r0", "/r1"];
    let mut all = Vec::new();
    for (name, root, damaged) in [
        ("id of root 0", "/r0", false),
        ("id of root 1", "/r1", false),
        ("damaged id", "/r1", true),
    ] {
        let harness = rollback_fixture::fork(&database());
        let path = format!("{root}/root.id");
        harness.fs.remove_raw(&path);
        if damaged {
            harness.fs.write_raw(&path, vec![1; 8192]);
        }
        let expected = whole.clone();
        all.push(LostRootCase {
            name,
            harness: rollback_fixture::fork(&harness),
            roots: both,
            lost: &[],
            expected,
        });
    }
    let harness = database();
    lose(&harness, "/r1");
    let harness = rollback_fixture::fork(&harness);
    let expected = without_root_1(&harness);
    all.push(LostRootCase { name: "root 1", harness, roots: &["/r0"], lost: &["/r1"], expected });
    all
}

#[test]
fn lost_root_repair_survives_every_crash() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("crashes of a repair of roots");
    for lost in lost() {
        let run = rollback_fixture::fork(&lost.harness);
        lost.repair(&run).unwrap();
        let total = run.fs.ops();
        for k in 0..total {
            let run = rollback_fixture::fork(&lost.harness);
            run.fs.crash_after(k);
            let is_done = lost.repair(&run).is_ok();
            let mut images = vec![CrashImage::Nothing, CrashImage::Everything];
            if run.fs.unsynced_ops() > 0 {
                images.extend((0..effort.times(1)).map(|n| CrashImage::Seeded(k * 7 + n)));
            }
            for (n, image) in images.iter().enumerate() {
                let context = format!("{}, crash after {k} of {total}, {image:?}", lost.name);
                let after = run.after_crash(image);
                lost.open_between_attempts(&after, &context);
                assert!(
                    !is_done || rollback_fixture::fork(&after).try_open().is_ok(),
                    "{context}: it was done"
                );
                tally.add("images", 1);
                // And inside the second attempt.
                let step = if effort.is_deep() { 3 } else { 67 };
                for m in (0..total).skip((k as usize + n) % step).step_by(step) {
                    let again = rollback_fixture::fork(&after);
                    again.fs.crash_after(m);
                    if lost.repair(&again).is_ok() {
                        break;
                    }
                    let context = format!("{context}, again after {m}");
                    let again = again.after_crash(&CrashImage::Seeded(m));
                    lost.open_between_attempts(&again, &context);
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
fn lost_root_repair_can_be_repeated_after_any_failure() {
    for lost in lost() {
        let run = rollback_fixture::fork(&lost.harness);
        lost.repair(&run).unwrap();
        for n in 0..run.fs.ops() {
            let run = rollback_fixture::fork(&lost.harness);
            run.fs.fail_op(n, Fault::Eio, false);
            let done = lost.repair(&run).is_ok();
            let context = format!("{}, failure of {n}", lost.name);
            lost.open_between_attempts(&run, &context);
            assert!(
                !done || rollback_fixture::fork(&run).try_open().is_ok(),
                "{context}: it was done"
            );
            run.fs.clear_faults();
            lost.check(&run, &context);
        }
    }
}
