//! What survives, and what compaction may drop.

use lithdb_env::ErrorKind;

use crate::bed::{Bed, compact, delete, flush, get, map, map_at, overwrite, put, seal};

pub fn only_what_was_flushed_survives(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "flushed", "1");
    flush(&engine);
    put(&engine, "sealed", "1");
    seal(&engine);
    put(&engine, "applied", "1");
    drop(engine);
    let engine = bed.open("engine");
    assert_eq!(map(&engine).into_keys().collect::<Vec<_>>(), [b"flushed".to_vec()]);
    assert!(engine.failure().is_none());
}

pub fn flush_makes_earlier_memtables_durable_and_no_later_one(bed: &Bed) {
    let engine = bed.create("engine");
    let sealed: Vec<_> = ["a", "b", "c", "d"]
        .map(|key| {
            put(&engine, key, key);
            put(&engine, "shared", key);
            seal(&engine)
        })
        .into();
    let before = map(&engine);
    assert_eq!(get(&engine, &engine.pin(), "shared").as_deref(), Some("d"));
    engine.flush(&sealed[2]).unwrap();
    assert_eq!(map(&engine), before, "a flush changes no row");
    put(&engine, "e", "e");
    assert_eq!(get(&engine, &engine.pin(), "shared").as_deref(), Some("d"));
    drop(engine);
    let engine = bed.open("engine");
    assert_eq!(get(&engine, &engine.pin(), "shared").as_deref(), Some("c"));
    assert_eq!(map(&engine).len(), 4);
}

pub fn flush_again_does_nothing(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let first = flush(&engine);
    put(&engine, "b", "1");
    let second = flush(&engine);
    let before = bed.tree("engine");
    put(&engine, "c", "1");
    seal(&engine);
    for sealed in [&first, &second, &second, &first] {
        engine.flush(sealed).unwrap();
    }
    assert_eq!(bed.tree("engine"), before);
}

pub fn seal_without_rows_makes_no_moment_and_can_be_flushed(bed: &Bed) {
    let engine = bed.create("engine");
    let pin = engine.pin();
    let before = bed.tree("engine");
    let empty = seal(&engine);
    assert_eq!(engine.pin().moment(), pin.moment());
    engine.flush(&empty).unwrap();
    assert_eq!(bed.tree("engine"), before);
    engine.checkpoint(&empty, &bed.make_dir("copy")).unwrap();
    put(&engine, "a", "1");
    seal(&engine);
    let empty = seal(&engine);
    engine.flush(&empty).unwrap();
    drop(engine);
    assert_eq!(map(&bed.open("engine")).len(), 1, "an empty one flushes earlier ones, too");
    assert_eq!(map(&bed.read_in_place("copy")).len(), 0);
}

pub fn last_rows_of_a_seal_are_a_moment_of_their_own(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let before = engine.pin();
    let sealed = engine.seal(&[(b"meta", b"7"), (b"a", b"2")]).unwrap();
    let after = engine.pin();
    assert_eq!(after.moment(), before.moment() + 1);
    assert_eq!(get(&engine, &before, "meta"), None);
    assert_eq!(get(&engine, &after, "meta").as_deref(), Some("7"));
    put(&engine, "b", "1");
    engine.flush(&sealed).unwrap();
    assert_eq!(get(&engine, &before, "a").as_deref(), Some("1"));
    drop(engine);
    let engine = bed.open("engine");
    let expected = [("a", "2"), ("meta", "7")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(map(&engine), expected.into());
}

pub fn deleted_rows_stay_deleted_after_compaction_and_reopening(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 8, "old");
    compact(&engine);
    for key in 0..100 {
        delete(&engine, &format!("key-{key:03}"));
    }
    flush(&engine);
    for _ in 0..3 {
        assert_eq!(map(&engine).len(), 0);
        assert_eq!(get(&engine, &engine.pin(), "key-050"), None);
        compact(&engine);
    }
    put(&engine, "key-050", "again");
    flush(&engine);
    drop(engine);
    let engine = bed.open("engine");
    compact(&engine);
    assert_eq!(map(&engine).len(), 1);
    assert_eq!(get(&engine, &engine.pin(), "key-050").as_deref(), Some("again"));
}

pub fn memtable_of_another_engine_is_refused(bed: &Bed) {
    let (one, two) = (bed.create("one"), bed.create("two"));
    let sealed = seal(&one);
    put(&two, "a", "1");
    seal(&two);
    assert_eq!(two.flush(&sealed).unwrap_err().kind(), ErrorKind::InvalidArgument);
    one.flush(&sealed).unwrap();
    drop(one);
    // The same directory, opened again.
    let one = bed.open("one");
    put(&one, "a", "1");
    seal(&one);
    assert_eq!(one.flush(&sealed).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let error = one.checkpoint(&sealed, &bed.make_dir("copy")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(one.failure().is_none() && two.failure().is_none());
}

pub fn compaction_ends_and_keeps_every_row(bed: &Bed) {
    let engine = bed.create("engine");
    for round in 0..6 {
        overwrite(&engine, 5, &format!("round {round}"));
        let (pin, before) = (engine.pin(), map(&engine));
        assert!(compact(&engine) > 0);
        assert_eq!(map(&engine), before);
        assert_eq!(map_at(&engine, &pin), before);
        assert_eq!(compact(&engine), 0, "a second time there is nothing to do");
    }
    let expected = map(&engine);
    drop(engine);
    assert_eq!(map(&bed.open("engine")), expected);
}

pub fn compaction_removes_files_when_the_last_pin_drops(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 6, "old");
    let pin = engine.pin();
    overwrite(&engine, 6, "new");
    compact(&engine);
    drop(pin);
    overwrite(&engine, 1, "last");
    compact(&engine);
    let files = bed.tree("engine").into_keys().filter(|name| !name.ends_with('/')).count();
    // Beside those that hold rows there is a manifest, and perhaps the name of one.
    let expected = engine.stats().files;
    assert!((expected + 1..=expected + 2).contains(&files), "{expected}, found {files}");
}
