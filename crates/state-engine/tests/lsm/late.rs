//! Tables that outlive their engine: `lsm-tree` removes their files by path when the last view of
//! them is dropped.

use lithdb_env::ErrorKind;
use lithdb_state_engine::{CheckLevel, Compacted, Engines, OpenMode};

use crate::rows::{self, engines, read_at, rows_at};

fn commit(engine: &std::sync::Arc<dyn lithdb_state_engine::Engine>, version: u64) {
    rows::apply(engine, version).unwrap();
    let sealed = engine.seal(&[(rows::META, &rows::meta_of(version))]).unwrap();
    engine.flush(&sealed).unwrap();
}

#[test]
fn table_that_is_dropped_late_does_not_take_a_new_one_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    let engine = engines().create(&path).unwrap();
    (1..=8).for_each(|version| commit(&engine, version));
    let pin = engine.pin();
    // Everything is deleted: no table is left, and so no trace of the ids that were given.
    let everything = rows_at(8);
    let mut deleted = everything.keys().map(|key| (&key[..], None));
    engine.apply(&mut deleted).unwrap();
    engine.flush(&engine.seal(&[]).unwrap()).unwrap();
    while engine.compact_once().unwrap() == Compacted::Some {}
    assert_eq!(engine.stats().files, 0);
    assert_eq!(read_at(&engine, &pin).unwrap(), rows_at(8));
    drop(engine);

    let engine = engines().open(&path, OpenMode::Write).unwrap();
    (1..=8).for_each(|version| commit(&engine, version));
    let files = rows::tree(&path);
    drop(pin);
    assert_eq!(rows::tree(&path), files, "the old tables took no new one with them");
    drop(engine);
    engines().check(&path, None, CheckLevel::Bytes).unwrap();
    assert_eq!(rows::read_dir(&path, OpenMode::Write).unwrap(), rows_at(8));
}

#[test]
fn engine_at_the_path_of_one_that_is_still_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    let engine = engines().create(&path).unwrap();
    commit(&engine, 1);
    let sealed = engine.seal(&[]).unwrap();
    engine.flush(&sealed).unwrap();
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let files = engine.checkpoint(&sealed, &copy).unwrap();
    let pin = engine.pin();
    drop(engine);
    std::fs::rename(&path, dir.path().join("trash")).unwrap();
    let clone = || Engines::clone_into(&engines(), &copy, &files, &path);
    assert_eq!(engines().create(&path).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(clone().unwrap_err().kind(), ErrorKind::Locked);
    assert!(!path.exists());
    drop(pin);
    clone().unwrap();
    assert_eq!(rows::read_dir(&path, OpenMode::Write).unwrap(), rows_at(1));
}
