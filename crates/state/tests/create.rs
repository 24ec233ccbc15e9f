//! Where a store is created, and where opening refuses to: a refusal changes nothing.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

use std::os::unix::fs::symlink;
use std::path::Path;

use lithdb_env::{Fs, OsFs};
use lithdb_state::{ChangeSet, ErrorKind, StateDb, StateOptions};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = OsFs.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn store_is_created_only_if_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions::new().create_if_missing(false);
    for path in [dir.path().join("absent/state"), dir.path().to_path_buf()] {
        let error = StateDb::open(path, options.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains("there is no state store"), "{error}");
    }
    assert_eq!(names(dir.path()), [""; 0]);
    let path = dir.path().join("deep/er/state");
    StateDb::open(&path, StateOptions::new()).unwrap().close().unwrap();
    StateDb::open(&path, options).unwrap().close().unwrap();
}

#[test]
fn store_is_not_created_beside_foreign_files() {
    let dir = tempfile::tempdir().unwrap();
    OsFs.create_new(&dir.path().join("notes.txt")).unwrap();
    let error = StateDb::open(dir.path(), StateOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(names(dir.path()), ["notes.txt"]);
    // Beside a store they are reported and left alone.
    OsFs.remove_file(&dir.path().join("notes.txt")).unwrap();
    OsFs.create_dir(&dir.path().join("lost+found")).unwrap();
    StateDb::open(dir.path(), StateOptions::new()).unwrap().close().unwrap();
    OsFs.create_new(&dir.path().join("notes.txt")).unwrap();
    let db = StateDb::open(dir.path(), StateOptions::new()).unwrap();
    let mut foreign = db.opened().foreign.clone();
    foreign.sort();
    assert_eq!(foreign, ["lost+found", "notes.txt"]);
    db.close().unwrap();
    // In its own directories, too.
    for name in ["snapshots", "abandoned", "trash"] {
        let path = dir.path().join(name);
        if OsFs.metadata(&path).is_err() {
            OsFs.create_dir(&path).unwrap();
        }
        OsFs.create_new(&path.join("notes.txt")).unwrap();
    }
    let db = StateDb::open(dir.path(), StateOptions::new()).unwrap();
    let mut foreign = db.opened().foreign.clone();
    foreign.sort();
    let expected = [
        "abandoned/notes.txt",
        "lost+found",
        "notes.txt",
        "snapshots/notes.txt",
        "trash/notes.txt",
    ];
    assert_eq!(foreign, expected);
}

#[test]
fn lost_log_directory_is_refused_and_not_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = StateDb::open(dir.path(), StateOptions::new()).unwrap();
    db.commit_block(1, &[ChangeSet::new("bank").unwrap().put("a", "1")]).unwrap();
    db.close().unwrap();
    drop(db);
    let away = tempfile::tempdir().unwrap();
    OsFs.rename(&dir.path().join("wal"), &away.path().join("wal")).unwrap();
    let before = names(dir.path());
    let error = StateDb::open(dir.path(), StateOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(error.to_string().contains("the directory wal is missing"), "{error}");
    assert_eq!(names(dir.path()), before);
    OsFs.rename(&away.path().join("wal"), &dir.path().join("wal")).unwrap();
    let db = StateDb::open(dir.path(), StateOptions::new()).unwrap();
    assert_eq!(db.latest().get("bank", "a").unwrap().unwrap(), "1");
}

#[test]
fn directory_may_be_named_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    OsFs.create_dir(&dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    for path in ["link", "link/below"] {
        StateDb::open(dir.path().join(path), StateOptions::new()).unwrap().close().unwrap();
    }
    assert!(names(&dir.path().join("real/below")).contains(&"state.id".to_owned()));
}
