//! Verification and repair of several tables: problems of one table do not affect the results of
//! another.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lithdb::rollback::{Phase, max_be_u64};
use lithdb::{Components, Db, DbOptions, ErrorKind, Rollback, TableOptions};
use lithdb_env::{Fs, OpenMode, OsFs, read_exact_at, write_all_at};

/// A database of three tables, each with a sealed segment.
fn three_tables(dir: &Path) -> (DbOptions, Db) {
    let options = DbOptions::new([dir.join("db")]);
    let alone = Components { without_maintenance: true, ..Components::default() };
    let db = Db::open_with(options.clone(), alone).unwrap();
    for name in ["a", "b", "c"] {
        let table = db.table(name, Default::default()).unwrap();
        table.put(b"key", [7; 300]).unwrap();
        table.seal().unwrap();
    }
    (options, db)
}

/// Makes a table unverifiable: its segments cannot be listed.
fn hide_segments(dir: &Path, table: &str) {
    let segments = dir.join("db").join(table).join("segments");
    OsFs.rename(&segments, &dir.join("segments-kept")).unwrap();
    OsFs.create_new(&segments).unwrap();
}

fn damage(dir: &Path, table: &str) {
    let keys = dir.join("db").join(table).join("segments/1.keys");
    let file = OsFs.open(&keys, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    read_exact_at(&*file, &mut byte, 150).unwrap();
    write_all_at(&*file, &[!byte[0]], 150).unwrap();
}

fn names<'a>(names: impl Iterator<Item = &'a lithdb::TableName>) -> Vec<&'a str> {
    names.map(lithdb::TableName::as_str).collect()
}

#[test]
fn unverifiable_table_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    db.close().unwrap();
    hide_segments(dir.path(), "a");
    damage(dir.path(), "b");
    let found = Db::verify(&options, None, &mut |_| {}).unwrap();
    assert_eq!(names(found.tables.iter().map(|report| &report.table)), ["b", "c"]);
    assert_eq!((found.tables[0].is_sound(), found.tables[1].is_sound()), (false, true));
    assert_eq!(names(found.refused.iter().map(|refused| &refused.table)), ["a"]);
    assert!(found.refused[0].to_string().contains("a/segments"), "{:?}", found.refused);
    assert!(!found.is_sound());
    // Nor does it prevent their repair.
    let plan = Db::plan_repair(&options, None, &mut |_| {}).unwrap();
    assert_eq!(names(plan.tables.iter().map(|plan| &plan.table)), ["b"]);
    assert_eq!(names(plan.refused.iter().map(|refused| &refused.table)), ["a"]);
    let done = plan.apply().unwrap();
    assert_eq!((done.tables.len(), done.refused.len()), (1, 0));
    let found = Db::verify(&options, Some(&["b".into(), "c".into()]), &mut |_| {}).unwrap();
    assert!(found.is_sound(), "{found:?}");
}

#[test]
fn only_named_tables_are_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    db.close().unwrap();
    damage(dir.path(), "a");
    damage(dir.path(), "b");
    let error = Db::plan_repair(&options, Some(&["b".into(), "x".into()]), &mut |_| {});
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Missing);
    let plan = Db::plan_repair(&options, Some(&["b".into()]), &mut |_| {}).unwrap();
    assert_eq!(plan.apply().unwrap().tables.len(), 1);
    let found = Db::verify(&options, None, &mut |_| {}).unwrap();
    let sound: Vec<bool> = found.tables.iter().map(|report| report.is_sound()).collect();
    assert_eq!(sound, [false, true, true]);
}

#[test]
fn table_dropped_during_verification_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    let found = Db::verify(&options, None, &mut |_| {
        if db.tables().unwrap().len() == 3 {
            db.drop_table("b").unwrap();
        }
    });
    let found = found.unwrap();
    assert_eq!(names(found.tables.iter().map(|report| &report.table)), ["a", "c"]);
    assert!(found.is_sound(), "{found:?}");
    // A caller that names it gets an error.
    let found = Db::verify(&options, Some(&["c".into()]), &mut |_| {
        if db.tables().unwrap().len() == 2 {
            db.drop_table("c").unwrap();
        }
    });
    let found = found.unwrap();
    assert_eq!(names(found.refused.iter().map(|refused| &refused.table)), ["c"]);
    assert_eq!(found.refused[0].error.kind(), ErrorKind::Missing);
    db.close().unwrap();
}

/// Three tables of several segments, and a rollback that stops at a step: some files are as before
/// it, some as after it, some are prepared.
fn stopped_rollback(dir: &Path, steps: usize) -> (DbOptions, bool) {
    let options = DbOptions::new([dir.join("db")]);
    let db = Db::open_with(
        options.clone(),
        Components { without_maintenance: true, ..Default::default() },
    );
    let db = db.unwrap();
    for name in ["a", "b", "c"] {
        let table = db.table(name, TableOptions::new().segment_keys(3)).unwrap();
        for n in 0..10_u64 {
            table.put(n.to_be_bytes(), [7; 900]).unwrap();
        }
    }
    db.close().unwrap();
    drop(db);
    let plan = Rollback::new([dir.join("db")]).plan(max_be_u64(0, 3)).unwrap();
    let mut step = 0;
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        plan.execute_with(|progress| {
            step += usize::from(progress.phase == Phase::Applying);
            assert!(step < steps, "stopped");
            ControlFlow::Continue(())
        })
    }));
    (options, stopped.is_err())
}

#[test]
fn pending_rollback_suppresses_all_other_findings() {
    for steps in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let (options, is_stopped) = stopped_rollback(dir.path(), steps);
        if !is_stopped {
            assert!(steps > 6, "{steps}");
            break;
        }
        let found = Db::verify(&options, None, &mut |_| {}).unwrap();
        assert!(found.tables.is_empty() && found.refused.is_empty(), "{steps}: {found:?}");
        assert!(!found.is_sound());
        let pending = found.pending_rollback.unwrap();
        assert!(pending.obstacle.is_none(), "{pending}");
        assert_eq!(names(pending.tables.iter().map(|report| &report.table)), ["a", "b", "c"]);
        let nothing = |_: &lithdb::inspect::DumpLine| panic!("a record");
        for refused in [
            Db::plan_repair(&options, None, &mut |_| {}).map(drop),
            Db::dump(&options, "a", None, &mut { nothing }),
            Db::open_read_only(options.clone()).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(error.is_rollback_pending(), "{error}");
            for part in ["rollback.intent", "a, b, c", "`lith rollback --finish`"] {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
        Rollback::new([dir.path().join("db")]).finish().unwrap().unwrap();
        let found = Db::verify(&options, None, &mut |_| {}).unwrap();
        assert!(
            found.is_sound() && found.tables.iter().all(|t| t.findings.is_empty()),
            "{found:?}"
        );
    }
}

/// The rollback starts while the files are being read: findings about them are not reported.
#[test]
fn rollback_started_during_verification_suppresses_findings() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    db.close().unwrap();
    let intent = dir.path().join("db/rollback.intent");
    let found = Db::verify(&options, None, &mut |_| {
        if OsFs.metadata(&intent).is_err() {
            drop(OsFs.create_new(&intent).unwrap());
        }
    });
    let found = found.unwrap();
    assert!(found.tables.is_empty() && found.pending_rollback.is_some(), "{found:?}");
    OsFs.remove_file(&intent).unwrap();
    let mut lines = 0;
    let dumped = Db::dump(&options, "a", None, &mut |_| {
        lines += 1;
        if lines == 1 {
            drop(OsFs.create_new(&intent).unwrap());
        }
        Ok(())
    });
    assert!(dumped.unwrap_err().is_rollback_pending());
}

/// For programs: paths as text, even if they are not UTF-8.
#[test]
fn findings_serialize_to_json_with_paths() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    db.close().unwrap();
    damage(dir.path(), "b");
    let found = Db::verify(&options, None, &mut |_| {}).unwrap();
    let json = serde_json::to_value(&found.tables[1]).unwrap();
    let path = json["findings"][0]["path"].as_str().unwrap();
    assert!(path.ends_with("/b/segments/1.keys"), "{json}");
    let plan = Db::plan_repair(&options, None, &mut |_| {}).unwrap();
    let json = serde_json::to_value(&plan.tables[0]).unwrap();
    assert!(json.to_string().contains("/b/"), "{json}");
}
