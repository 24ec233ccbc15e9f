//! Checkpoints and clones.

use std::sync::Arc;

use lithdb_env::{ErrorKind, Fs};
use lithdb_state_engine::{CheckLevel, Engine, EngineFile};
use xxhash_rust::xxh3::xxh3_128;

use crate::bed::{self, Bed, compact, delete, flush, map, overwrite, put, seal};

fn checkpoint(bed: &Bed, engine: &Arc<dyn Engine>, name: &str) -> Vec<EngineFile> {
    let sealed = flush(engine);
    engine.checkpoint(&sealed, &bed.make_dir(name)).unwrap()
}

pub fn checkpoint_of_a_sealed_memtable_opens_as_exactly_that_moment(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 5, "old");
    put(&engine, "last", "1");
    let (expected, sealed) = (map(&engine), seal(&engine));
    put(&engine, "later", "1");
    engine.flush(&sealed).unwrap();
    engine.checkpoint(&sealed, &bed.make_dir("copy")).unwrap();
    put(&engine, "even later", "1");
    overwrite(&engine, 5, "new");
    compact(&engine);
    assert_eq!(map(&bed.read_in_place("copy")), expected);
    drop(engine);
    bed.remove("engine");
    assert_eq!(map(&bed.open("copy")), expected);
}

pub fn checkpoint_links_what_is_never_written_and_lists_every_file(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 5, "old");
    compact(&engine);
    let files = checkpoint(bed, &engine, "copy");
    let tree = bed.tree("copy");
    let mut listed: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
    listed.sort();
    let found: Vec<_> = tree.keys().filter(|name| !name.ends_with('/')).cloned().collect();
    assert_eq!(listed, found);
    assert!(files.iter().any(|file| file.is_linked) && files.iter().any(|file| !file.is_linked));
    for file in &files {
        let bytes = &tree[&file.name];
        assert_eq!((file.len, file.digest), (bytes.len() as u64, xxh3_128(bytes)), "{}", file.name);
        let id = |name: &str| bed.fs.metadata(&bed.path(name).join(&file.name)).unwrap().identity;
        assert_eq!(id("engine") == id("copy"), file.is_linked, "{}", file.name);
    }
    bed.engines().check(&bed.path("copy"), Some(&files), CheckLevel::Bytes).unwrap();
}

pub fn checkpoint_never_changes(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 6, "old");
    let files = checkpoint(bed, &engine, "copy");
    let (tree, rows) = (bed.tree("copy"), map(&engine));
    for round in 0..4 {
        overwrite(&engine, 6, &format!("round {round}"));
        for key in 0..100 {
            delete(&engine, &format!("key-{key:03}"));
        }
        flush(&engine);
        compact(&engine);
        assert_eq!(bed.tree("copy"), tree);
    }
    drop(engine);
    drop(bed.open("engine"));
    let reader = bed.read_in_place("copy");
    assert_eq!(map(&reader), rows);
    bed.engines().clone_into(&bed.path("copy"), &files, &bed.path("clone")).unwrap();
    let clone = bed.open("clone");
    overwrite(&clone, 6, "clone");
    compact(&clone);
    drop((clone, reader));
    assert_eq!(bed.tree("copy"), tree);
}

pub fn checkpoint_of_an_empty_engine_opens(bed: &Bed) {
    let engine = bed.create("engine");
    let files = checkpoint(bed, &engine, "copy");
    assert!(!files.is_empty());
    assert_eq!(map(&bed.read_in_place("copy")).len(), 0);
    bed.engines().clone_into(&bed.path("copy"), &files, &bed.path("clone")).unwrap();
    let clone = bed.open("clone");
    put(&clone, "a", "1");
    flush(&clone);
    assert_eq!(map(&clone).len(), 1);
}

pub fn checkpoint_that_is_not_the_newest_flushed_moment_is_refused(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let first = seal(&engine);
    let refused = |sealed, name: &str| {
        let into = bed.make_dir(name);
        let error = engine.checkpoint(sealed, &into).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(bed.tree(name).len(), 0);
    };
    refused(&first, "not flushed");
    engine.flush(&first).unwrap();
    put(&engine, "b", "1");
    let second = seal(&engine);
    refused(&first, "sealed after it");
    engine.flush(&second).unwrap();
    refused(&first, "flushed after it");
    engine.checkpoint(&second, &bed.make_dir("copy")).unwrap();
    assert!(engine.failure().is_none());
}

pub fn checkpoint_into_a_directory_with_files_is_refused(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let sealed = flush(&engine);
    let into = bed.make_dir("copy");
    bed.write(&into.join("something"), b"else");
    let error = engine.checkpoint(&sealed, &into).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(bed.tree("copy").len(), 1);
    let error = engine.checkpoint(&sealed, &bed.path("missing")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(engine.failure().is_none());
}

pub fn clone_has_the_same_rows_and_leaves_its_original_alone(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 6, "old");
    let files = checkpoint(bed, &engine, "copy");
    let (tree, rows) = (bed.tree("copy"), map(&engine));
    bed.engines().clone_into(&bed.path("copy"), &files, &bed.path("clone")).unwrap();
    assert_eq!(bed.tree("clone"), tree);
    for file in &files {
        let id = |name: &str| bed.fs.metadata(&bed.path(name).join(&file.name)).unwrap().identity;
        assert_eq!(id("clone") == id("copy"), file.is_linked, "{}", file.name);
    }
    let clone = bed.open("clone");
    assert_eq!(map(&clone), rows);
    overwrite(&clone, 6, "new");
    compact(&clone);
    assert_ne!(map(&clone), rows);
    let changed = map(&clone);
    drop(clone);
    assert_eq!(map(&bed.open("clone")), changed);
    assert_eq!(bed.tree("copy"), tree);
    assert_eq!(map(&engine), rows);
}

pub fn clone_into_an_existing_directory_is_refused(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let files = checkpoint(bed, &engine, "copy");
    bed.make_dir("clone");
    let clone = || bed.engines().clone_into(&bed.path("copy"), &files, &bed.path("clone"));
    assert_eq!(clone().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(bed.tree("clone").len(), 0);
    bed.remove("clone");
    let linked = files.iter().find(|file| file.is_linked).unwrap();
    bed.fs.remove_file(&bed.path("copy").join(&linked.name)).unwrap();
    assert_eq!(clone().unwrap_err().kind(), ErrorKind::Missing);
    bed.write(&bed.path("copy").join(&linked.name), b"another length");
    assert_eq!(clone().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!lithdb_env::exists(&*bed.fs, &bed.path("clone")).unwrap());
}

pub fn clone_of_a_changed_file_is_refused(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let files = checkpoint(bed, &engine, "copy");
    let copied = files.iter().find(|file| !file.is_linked).unwrap();
    let path = bed.path("copy").join(&copied.name);
    let mut bytes = bed.tree("copy")[&copied.name].clone();
    bytes[copied.len as usize / 2] ^= 1;
    bed.write(&path, &bytes);
    let clone = bed.engines().clone_into(&bed.path("copy"), &files, &bed.path("clone"));
    assert_eq!(clone.unwrap_err().kind(), ErrorKind::Corrupt);
}

pub fn clone_of_names_that_lead_elsewhere_is_refused(bed: &Bed) {
    let engine = bed.create("engine");
    let files = checkpoint(bed, &engine, "copy");
    for name in ["../engine/current", "/etc/hostname", "a/b/c", "", ".", "tables/..", "x\0"] {
        let file = EngineFile { name: name.to_owned(), ..files[0].clone() };
        let clone = bed.engines().clone_into(
            &bed.path("copy"),
            std::slice::from_ref(&file),
            &bed.path("clone"),
        );
        assert_eq!(clone.unwrap_err().kind(), ErrorKind::Corrupt, "{name:?}");
        let check = bed.engines().check(&bed.path("copy"), Some(&[file]), CheckLevel::Names);
        assert_eq!(check.unwrap_err().kind(), ErrorKind::Corrupt, "{name:?}");
    }
}

pub fn another_file_system_is_refused_and_nothing_is_copied(bed: &Bed) {
    // Only real disks have another one beside them.
    let on_disk = bed::model_on_disk();
    let bed = if bed.path("") == std::path::Path::new("/") { &on_disk } else { bed };
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
    let engine = bed.create("engine");
    let device = |path: &std::path::Path| bed.fs.metadata(path).unwrap().identity.0;
    if device(other.path()) == device(&bed.path("engine")) {
        eprintln!("skipped: /dev/shm is not another file system");
        return;
    }
    overwrite(&engine, 2, "old");
    let sealed = flush(&engine);
    let error = engine.checkpoint(&sealed, other.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>();
    assert_eq!(source.unwrap().kind(), std::io::ErrorKind::CrossesDevices);
    let left = lithdb_env::OsFs.list(other.path()).unwrap();
    assert!(left.iter().all(|entry| entry.kind == lithdb_env::FileKind::Dir), "{left:?}");
    let files = engine.checkpoint(&sealed, &bed.make_dir("copy")).unwrap();
    let clone = bed.engines().clone_into(&bed.path("copy"), &files, &other.path().join("clone"));
    assert_eq!(clone.unwrap_err().kind(), ErrorKind::Io);
    assert!(engine.failure().is_none(), "nothing was written");
}

pub fn copy_beside_a_writer_is_its_newest_flushed_moment(bed: &Bed) {
    let engine = bed.create("engine");
    let copy = |name: &str| bed.engines().copy_beside_writer(&bed.path("engine"), &bed.path(name));
    copy("nothing").unwrap();
    assert_eq!(map(&bed.read_in_place("nothing")).len(), 0);
    overwrite(&engine, 6, "old");
    flush(&engine);
    let (rows, tree) = (map(&engine), bed.tree("engine"));
    put(&engine, "key-000", "in the memtable");
    seal(&engine);
    put(&engine, "key-001", "in the memtable after it");
    copy("copy").unwrap();
    assert!(bed.tree("engine") == tree, "the writer's files are as they were");
    let reader = bed.read_in_place("copy");
    assert_eq!(map(&reader), rows);
    let error = copy("copy").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    flush(&engine);
    compact(&engine);
    bed.remove("copy");
    assert_eq!(map(&reader), rows, "neither the writer nor a removal matters");
    drop(reader);
    bed.write(&bed.path("engine").join("orphan"), b"what an interrupted write left");
    copy("again").unwrap();
    assert!(!bed.tree("again").contains_key("orphan"), "only what the manifest names");
    assert_eq!(map(&bed.read_in_place("again")), map(&engine));
}
