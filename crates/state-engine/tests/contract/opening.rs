//! Creating, opening in both modes, checking.

use lithdb_env::{Error, ErrorKind};
use lithdb_state_engine::{CheckLevel, OpenMode};

use crate::bed::{Bed, compact, flush, get, map, overwrite, put};

pub fn create_refuses_an_existing_directory(bed: &Bed) {
    bed.make_dir("engine");
    let error = bed.engines().create(&bed.path("engine")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(bed.tree("engine").len(), 0);
}

pub fn open_refuses_a_missing_directory_and_makes_none(bed: &Bed) {
    for mode in [OpenMode::Write, OpenMode::ReadInPlace] {
        let error = bed.engines().open(&bed.path("engine"), mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        let empty = format!("{mode:?}");
        bed.make_dir(&empty);
        let error = bed.engines().open(&bed.path(&empty), mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert_eq!(bed.tree(&empty).len(), 0);
    }
    assert!(!lithdb_env::exists(&*bed.fs, &bed.path("engine")).unwrap());
}

pub fn read_in_place_writes_nothing_and_refuses_to_maintain(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 4, "old");
    let sealed = flush(&engine);
    engine.checkpoint(&sealed, &bed.make_dir("copy")).unwrap();
    let (tree, rows) = (bed.tree("copy"), map(&engine));
    let reader = bed.read_in_place("copy");
    put(&reader, "only", "in memory");
    assert_eq!(map(&reader).len(), rows.len() + 1);
    assert!(reader.memtable_bytes() > 0);
    let into = bed.make_dir("into");
    let refused = |result: Result<(), Error>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidArgument);
    };
    refused(reader.seal(&[(b"a", b"1")]).map(|_| ()));
    refused(reader.flush(&sealed));
    refused(reader.checkpoint(&sealed, &into).map(|_| ()));
    refused(reader.compact_once().map(|_| ()));
    assert_eq!(map(&reader).len(), rows.len() + 1);
    assert!(reader.failure().is_none());
    drop(reader);
    assert_eq!(bed.tree("copy"), tree);
    assert_eq!(map(&bed.read_in_place("copy")), rows);
}

pub fn read_in_place_survives_the_removal_of_every_file(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 8, "old");
    compact(&engine);
    overwrite(&engine, 1, "newer");
    let sealed = flush(&engine);
    engine.checkpoint(&sealed, &bed.make_dir("copy")).unwrap();
    let rows = map(&engine);
    let reader = bed.read_in_place("copy");
    let pin = reader.pin();
    drop(engine);
    bed.remove("copy");
    bed.remove("engine");
    put(&reader, "key-000", "in memory");
    for (key, value) in &rows {
        assert_eq!(reader.get(&pin, key).unwrap().as_deref(), Some(&value[..]));
    }
    assert_eq!(get(&reader, &reader.pin(), "key-000").as_deref(), Some("in memory"));
    assert_eq!(crate::bed::map_at(&reader, &pin), rows);
}

pub fn leftovers_are_removed_for_writing_only(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 3, "old");
    let rows = map(&engine);
    drop(engine);
    let tree = bed.tree("engine");
    let is_lsm = tree.contains_key("tables/");
    let leftovers: &[&str] = match is_lsm {
        true => &["tables/77", "v77", ".tmpAbC123"],
        false => &["run-77", "manifest.new"],
    };
    for name in leftovers {
        bed.write(&bed.path("engine").join(name), b"half of something");
        let with_it = bed.tree("engine");
        match bed.engines().open(&bed.path("engine"), OpenMode::ReadInPlace) {
            Ok(reader) => assert_eq!(map(&reader), rows),
            // What opening would remove is refused instead.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Foreign),
        }
        assert_eq!(bed.tree("engine"), with_it);
        assert_eq!(map(&bed.open("engine")), rows);
        assert_eq!(bed.tree("engine"), tree, "{name}");
    }
    bed.write(&bed.path("engine").join("notes.txt"), b"foreign");
    drop(bed.open("engine"));
    assert!(bed.tree("engine").contains_key("notes.txt"), "foreign names stay");
}

pub fn check_finds_missing_short_and_changed_files(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 4, "old");
    let sealed = flush(&engine);
    let files = engine.checkpoint(&sealed, &bed.make_dir("copy")).unwrap();
    let check = |files, level| bed.engines().check(&bed.path("copy"), files, level);
    check(None, CheckLevel::Bytes).unwrap();
    for file in &files {
        let path = bed.path("copy").join(&file.name);
        let bytes = bed.tree("copy")[&file.name].clone();
        bed.fs.remove_file(&path).unwrap();
        for files in [None, Some(&files[..])] {
            let error = check(files, CheckLevel::Names).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Missing, "{}", file.name);
        }
        bed.write(&path, &bytes[..bytes.len() - 1]);
        for files in [None, Some(&files[..])] {
            let error = check(files, CheckLevel::Names).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", file.name);
        }
        let mut changed = bytes.clone();
        changed[bytes.len() / 3] ^= 4;
        bed.write(&path, &changed);
        for files in [None, Some(&files[..])] {
            let error = check(files, CheckLevel::Bytes).unwrap_err();
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Missing), "{error}");
        }
        bed.write(&path, &bytes);
        check(Some(&files), CheckLevel::Bytes).unwrap();
    }
}

pub fn open_twice_is_open_once(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 4, "old");
    compact(&engine);
    let rows = map(&engine);
    drop(engine);
    drop(bed.open("engine"));
    let tree = bed.tree("engine");
    for _ in 0..3 {
        assert_eq!(map(&bed.open("engine")), rows);
        assert_eq!(bed.tree("engine"), tree);
    }
}
