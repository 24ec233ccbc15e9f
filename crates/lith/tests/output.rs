//! Standard output: closed, full, and for paths that are not UTF-8.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;

use lithdb::{Db, DbOptions};
use lithdb_env::{Fs, OpenMode, OsFs};
use serde_json::Value as Json;
use support::{Fixture, Run, bare, flip, lith, run, without_maintenance};

/// Runs `lith` with standard output on a pipe without a reader.
fn with_closed_stdout(fixture: &Fixture, args: &[&str]) -> Run {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = lith();
    command.args(args).arg("--db").arg(fixture.db()).stdin(Stdio::null()).stdout(writer);
    Run { output: command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap() }
}

/// A database with a damaged key file.
fn damaged() -> Fixture {
    let fixture = Fixture::with(&[("a", b"1"), ("b", b"2")]);
    fixture.prepare(|db| db.existing_table("t").unwrap().seal().unwrap());
    flip(&fixture.db().join("t/segments/1.keys"), 150);
    fixture
}

#[test]
fn exit_status_does_not_depend_on_a_reader() {
    let fixture = damaged();
    for args in [&["verify"][..], &["verify", "--json"], &["info"], &["info", "--json"]] {
        assert!(!with_closed_stdout(&fixture, args).failed().contains("pipe"), "{args:?}");
    }
    assert!(with_closed_stdout(&fixture, &["repair"]).failed().contains("--accept-loss"));
    fixture.write("tree/ok", b"1");
    OsFs.create_new(&fixture.path("tree/huge")).unwrap().set_len((1 << 32) - 1).unwrap();
    let sound = Fixture::with(&[("k", b"v")]);
    let tree = fixture.path("tree");
    let refused = with_closed_stdout(&sound, &["load", "t", tree.to_str().unwrap()]);
    assert_eq!(refused.output.status.code(), Some(1), "{refused:?}");
    for args in [&["verify"][..], &["repair"], &["gc"], &["rebuild-keymap"], &["info"]] {
        assert_eq!(with_closed_stdout(&sound, args).ok(), "", "{args:?}");
    }
}

#[test]
fn repair_is_applied_even_with_closed_stdout() {
    for args in [&["repair", "--accept-loss"][..], &["repair", "--accept-loss", "--json"]] {
        let fixture = damaged();
        fixture.lith(&["verify"]).failed();
        with_closed_stdout(&fixture, args).ok();
        fixture.lith(&["verify"]).ok();
    }
}

#[test]
fn closed_stdout_of_a_result_is_not_a_failure() {
    let fixture = Fixture::with(&[("k", b"v")]);
    for args in [&["get", "t", "k"][..], &["scan", "t"], &["ls"], &["dump", "t"], &["--help"]] {
        with_closed_stdout(&fixture, args).ok();
    }
}

#[test]
fn unwritable_output_is_a_failure() {
    let fixture = Fixture::with(&[("k", b"v")]);
    for args in
        [&["--help"][..], &["--version"], &["ls"], &["get", "t", "k"], &["info"], &["verify"]]
    {
        let full = OsFs.open("/dev/full".as_ref(), OpenMode::ReadWrite).is_ok();
        assert!(full, "this system has no /dev/full");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]).arg(env!("CARGO_BIN_EXE_lith"));
        command.args(args).arg("--db").arg(fixture.db());
        let error = run(command, b"").failed();
        assert!(error.contains("standard output"), "{args:?}: {error}");
    }
}

#[test]
fn reports_and_help_fit_80_columns() {
    let fixture = damaged();
    let fits = |run: &Run| {
        let text = run.text();
        for line in text.lines() {
            // A long word, such as a path, is not wrapped.
            let words = line.split_whitespace().count();
            assert!(line.chars().count() <= 80 || words == 1, "{line}");
        }
        assert!(!text.is_empty());
    };
    for args in [&["verify"][..], &["repair"], &["info"], &["gc"], &["rebuild-keymap"]] {
        fits(&fixture.lith(args));
    }
    fits(&fixture.lith(&["repair", "--accept-loss"]));
    fits(&fixture.lith(&["info"]));
    let commands = ["info", "put", "get", "scan", "load", "verify", "gc", "dump", "repair"];
    for command in commands.iter().chain(&["rollback", "rebuild-keymap", "tour"]) {
        fits(&fixture.lith(&[command, "--help"]));
    }
    fits(&fixture.lith(&["--help"]));
}

/// Creates a database in a directory whose name is not UTF-8.
fn with_non_utf8_name(fixture: &Fixture) -> PathBuf {
    let root = fixture.dir.path().join(OsStr::from_bytes(b"r\xff"));
    let db = Db::open_with(DbOptions::new([&root]), without_maintenance()).unwrap();
    let table = db.table("t", Default::default()).unwrap();
    for (key, len) in [("a", 200), ("b", 5_000)] {
        table.put(key.as_bytes(), vec![7; len]).unwrap();
    }
    table.seal().unwrap();
    db.close().unwrap();
    root
}

#[test]
fn non_utf8_database_path_yields_complete_json() {
    let fixture = Fixture::new();
    let root = with_non_utf8_name(&fixture);
    let on = |args: &[&str]| {
        let mut command = lith();
        command.args(args).arg("--db").arg(&root);
        run(command, b"")
    };
    let info = on(&["info", "--json"]).json();
    assert!(info["roots"][0].as_str().unwrap().ends_with("/r\u{fffd}"), "{info}");
    assert_eq!(on(&["verify", "--json"]).json()["sound"], true);
    assert!(!on(&["dump", "t", "--json"]).json_lines().is_empty());
    let out = fixture.dir.path().join(OsStr::from_bytes(b"out\xff"));
    let mut command = lith();
    command.args(["get", "t", "a", "--json", "-o"]).arg(&out).arg("--db").arg(&root);
    let output = run(command, b"").json();
    assert!(output["output"].as_str().unwrap().ends_with("/out\u{fffd}"), "{output}");
    assert_eq!(support::read(&out), [7; 200]);
    // Damage is found and repaired anyway.
    flip(&root.join("t/segments/1.keys"), 150);
    for args in [&["verify", "--json"][..], &["repair", "--json"]] {
        let run = on(args);
        run.failed();
        let output: Json = serde_json::from_str(&run.text()).unwrap();
        assert!(output.to_string().contains("/r\u{fffd}/t/segments/1.keys"), "{output}");
    }
    on(&["repair"]).failed();
    let output = on(&["repair", "--accept-loss", "--json"]).json();
    assert!(output["report"].to_string().contains("/r\u{fffd}/t/damaged-"), "{output}");
    on(&["verify"]).ok();
}

#[test]
fn tour_of_a_non_utf8_tree_reports_it_in_json() {
    let fixture = Fixture::new();
    let tree = fixture.dir.path().join(OsStr::from_bytes(b"tree\xff"));
    OsFs.create_dir(&tree).unwrap();
    OsFs.create_new(&tree.join("file")).unwrap().set_len(1000).unwrap();
    let mut command = lith();
    command.args(["tour", "--json"]).arg(&tree);
    let output = run(command, b"").json();
    assert!(output["tree"].as_str().unwrap().ends_with("/tree\u{fffd}"), "{output}");
    assert!(bare(&["tour", "--json", tree.to_string_lossy().as_ref()]).failed().contains("tree"));
}
