//! `lith state`: every command on a real directory, beside an open writer, and where it refuses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod apply;
mod beside;
mod read;
mod refusals;
mod rollback;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;
mod verify;
mod whole;

use std::collections::BTreeMap;
use std::path::Path;

use lithdb_env::{FileKind, Fs, OsFs};
use support::state::{commit, open};
use support::{Fixture, read as read_file};

/// Versions up to 50, with snapshots of 25 and 40.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let db = open(&fixture);
    for version in 1..=50 {
        commit(&db, version);
        if version == 25 || version == 40 {
            db.snapshot().unwrap().wait().unwrap();
        }
    }
    db.close().unwrap();
    fixture
}

/// Every file below a directory with its content, but for the lock file, which has the process id.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in OsFs.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        match entry.kind {
            FileKind::Dir => found.extend(contents(&path)),
            _ if entry.name.ends_with(".lock") => {}
            _ => drop(found.insert(path.display().to_string(), read_file(&path))),
        }
    }
    found
}
