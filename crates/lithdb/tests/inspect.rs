//! Verification and repair of several tables: what is wrong with one says nothing of another.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::path::Path;

use lithdb::env::{Fs, OpenMode, OsFs, read_exact_at, write_all_at};
use lithdb::{Components, Db, DbOptions, ErrorKind};

/// A database of three tables, each with a sealed segment.
fn three_tables(dir: &Path) -> (DbOptions, Db) {
    let options = DbOptions::new([dir.join("db")]);
    let alone = Components { without_maintenance: true, ..Components::default() };
    let db = Db::open_with(options.clone(), alone).unwrap();
    for name in ["a", "b", "c"] {
        let table = db.table(name, Default::default()).unwrap();
        table.put(b"key", &[7; 300]).unwrap();
        table.seal().unwrap();
    }
    (options, db)
}

/// Makes a table into something of which nothing can be said: its segments are not to be listed.
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
fn a_table_that_cannot_be_looked_at_does_not_hide_the_others() {
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
    // Nor does it keep them from being repaired.
    let plan = Db::plan_repair(&options, None, &mut |_| {}).unwrap();
    assert_eq!(names(plan.tables.iter().map(|plan| &plan.table)), ["b"]);
    assert_eq!(names(plan.refused.iter().map(|refused| &refused.table)), ["a"]);
    let done = plan.apply();
    assert_eq!((done.tables.len(), done.refused.len()), (1, 0));
    let found = Db::verify(&options, Some(&["b".into(), "c".into()]), &mut |_| {}).unwrap();
    assert!(found.is_sound(), "{found:?}");
}

#[test]
fn only_the_tables_that_are_named_are_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    db.close().unwrap();
    damage(dir.path(), "a");
    damage(dir.path(), "b");
    let error = Db::plan_repair(&options, Some(&["b".into(), "x".into()]), &mut |_| {});
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Missing);
    let plan = Db::plan_repair(&options, Some(&["b".into()]), &mut |_| {}).unwrap();
    assert_eq!(plan.apply().tables.len(), 1);
    let found = Db::verify(&options, None, &mut |_| {}).unwrap();
    let sound: Vec<bool> = found.tables.iter().map(|report| report.is_sound()).collect();
    assert_eq!(sound, [false, true, true]);
}

#[test]
fn a_table_that_is_dropped_meanwhile_is_no_failure() {
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
    // Somebody who asked for it by name is told.
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

#[test]
fn a_rollback_that_is_pending_is_reported_and_nothing_is_repaired_before_it_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let (options, db) = three_tables(dir.path());
    db.close().unwrap();
    damage(dir.path(), "b");
    let intent = dir.path().join("db/rollback.intent");
    write_all_at(&*OsFs.create_new(&intent).unwrap(), &b"whatever".repeat(9), 0).unwrap();
    let found = Db::verify(&options, None, &mut |_| {}).unwrap();
    assert_eq!(found.tables.len(), 3);
    assert!(found.pending_rollback.is_some() && !found.is_sound(), "{found:?}");
    let error = Db::plan_repair(&options, None, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RollbackPending, "{error}");
    let mut lines = 0;
    Db::dump(&options, "a", None, &mut |_| {
        lines += 1;
        Ok(())
    })
    .unwrap();
    assert!(lines > 0);
}

/// For programs: paths as text, whether or not they are UTF-8.
#[test]
fn what_is_found_is_given_as_json_with_its_paths() {
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
