//! Symbolic links below a root: every command refuses them with the same error, and their targets
//! stay unchanged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::os::unix::fs::symlink;

use lithdb::TableOptions;
use lithdb_env::{Fs, OsFs};
use support::{Fixture, read};

/// Two segments; the first is sealed.
fn two_segments() -> Fixture {
    let fixture = Fixture::new();
    fixture.prepare(|db| {
        let table = db.table("t", TableOptions::new()).unwrap();
        table.put(b"a", [1; 3_000]).unwrap();
        table.seal().unwrap();
        table.put(b"b", [2; 3_000]).unwrap();
    });
    fixture
}

const COMMANDS: [&[&str]; 8] = [
    &["get", "t", "a"],
    &["scan", "t"],
    &["verify"],
    &["dump", "t"],
    &["put", "t", "k"],
    &["gc"],
    &["repair"],
    &["repair", "--accept-loss"],
];

#[test]
fn symbolic_link_below_a_root_is_refused_by_every_command() {
    for (name, kind) in [
        ("root.id", "file"),
        ("lith.lock", "file"),
        ("t/table.state", "file"),
        ("t/segments/1.keys", "file"),
        ("t/segments/1.metadata", "file"),
        ("t/segments/1-0.values", "file"),
        ("t/segments/2.keys", "file"),
        ("t/segments", "directory"),
        ("t", "directory"),
    ] {
        for is_dangling in [false, true] {
            let fixture = two_segments();
            let (original, elsewhere) = (fixture.db().join(name), fixture.path("elsewhere"));
            OsFs.rename(&original, &elsewhere).unwrap();
            let target = if is_dangling { fixture.path("nowhere") } else { elsewhere.clone() };
            symlink(target, &original).unwrap();
            let bytes = (kind == "file").then(|| read(&elsewhere));
            for args in COMMANDS {
                let run = fixture.lith(args);
                let error = run.failed() + &run.words();
                let expected = format!("{name}: expected a {kind}, found a symbolic link");
                let context = format!("{name}, dangling: {is_dangling}, {args:?}");
                assert!(error.contains(&expected), "{context}: {error}");
                assert!(!error.contains("DAMAGED"), "{context}: {error}");
                assert!(run.text().is_empty() || !error.contains("--accept-loss"), "{context}");
            }
            assert_eq!((kind == "file").then(|| read(&elsewhere)), bytes, "{name}");
            OsFs.remove_file(&original).unwrap();
            OsFs.rename(&elsewhere, &original).unwrap();
            fixture.lith(&["verify"]).ok();
        }
    }
}

#[test]
fn rollback_of_one_table_beside_a_linked_one_is_refused() {
    let fixture = two_segments();
    let linked = fixture.db().join("linked");
    symlink(fixture.path("nowhere"), &linked).unwrap();
    let back = ["rollback", "--table", "t", "--through-key", "a", "--yes"];
    let error = fixture.lith(&back).failed();
    assert!(error.contains("linked: expected a directory, found a symbolic link"), "{error}");
    OsFs.remove_file(&linked).unwrap();
    fixture.lith(&["get", "t", "b"]).ok();
    fixture.lith(&back).ok();
    fixture.lith(&["get", "t", "a"]).ok();
    fixture.lith(&["get", "t", "b"]).no_such_key();
}
