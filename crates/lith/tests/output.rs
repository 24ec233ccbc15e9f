//! Standard output that nobody reads, that is full, and what is written to it for names that are not UTF-8.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;

use lithdb::env::{Fs, OpenMode, OsFs};
use lithdb::{Db, DbOptions};
use serde_json::Value as Json;
use support::{Bench, Run, alone, bare, flip, lith, run};

/// Runs `lith` on a pipe from which nobody reads any more.
fn unheard(bench: &Bench, args: &[&str]) -> Run {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = lith();
    command.args(args).arg("--db").arg(bench.db()).stdin(Stdio::null()).stdout(writer);
    Run { output: command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap() }
}

/// A database that has a table with a damaged key file.
fn damaged() -> Bench {
    let bench = Bench::with(&[("a", b"1"), ("b", b"2")]);
    bench.prepare(|db| db.existing_table("t").unwrap().seal().unwrap());
    flip(&bench.db().join("t/segments/1.keys"), 150);
    bench
}

#[test]
fn a_verdict_does_not_depend_on_whether_somebody_reads() {
    let bench = damaged();
    for args in [&["verify"][..], &["verify", "--json"], &["info"], &["info", "--json"]] {
        assert!(!unheard(&bench, args).failed().contains("pipe"), "{args:?}");
    }
    assert!(unheard(&bench, &["repair"]).failed().contains("--accept-loss"));
    bench.write("tree/ok", b"1");
    OsFs.create_new(&bench.path("tree/huge")).unwrap().set_len((1 << 32) - 1).unwrap();
    let sound = Bench::with(&[("k", b"v")]);
    let tree = bench.path("tree");
    let refused = unheard(&sound, &["load", "t", tree.to_str().unwrap()]);
    assert_eq!(refused.output.status.code(), Some(1), "{refused:?}");
    for args in [&["verify"][..], &["repair"], &["gc"], &["rebuild-keymap"], &["info"]] {
        assert_eq!(unheard(&sound, args).ok(), "", "{args:?}");
    }
}

#[test]
fn a_repair_that_was_asked_for_is_done_whether_somebody_reads_or_not() {
    for args in [&["repair", "--accept-loss"][..], &["repair", "--accept-loss", "--json"]] {
        let bench = damaged();
        bench.lith(&["verify"]).failed();
        unheard(&bench, args).ok();
        bench.lith(&["verify"]).ok();
    }
}

#[test]
fn a_result_that_nobody_reads_is_no_failure() {
    let bench = Bench::with(&[("k", b"v")]);
    for args in [&["get", "t", "k"][..], &["scan", "t"], &["ls"], &["dump", "t"], &["--help"]] {
        unheard(&bench, args).ok();
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let bench = Bench::with(&[("k", b"v")]);
    for args in
        [&["--help"][..], &["--version"], &["ls"], &["get", "t", "k"], &["info"], &["verify"]]
    {
        let full = OsFs.open("/dev/full".as_ref(), OpenMode::ReadWrite).is_ok();
        assert!(full, "this system has no /dev/full");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]).arg(env!("CARGO_BIN_EXE_lith"));
        command.args(args).arg("--db").arg(bench.db());
        let said = run(command, b"").failed();
        assert!(said.contains("standard output"), "{args:?}: {said}");
    }
}

#[test]
fn reports_and_help_fit_80_columns() {
    let bench = damaged();
    let fits = |run: &Run| {
        let text = run.text();
        for line in text.lines() {
            // A path is not broken.
            let words = line.split_whitespace().count();
            assert!(line.chars().count() <= 80 || words == 1, "{line}");
        }
        assert!(!text.is_empty());
    };
    for args in [&["verify"][..], &["repair"], &["info"], &["gc"], &["rebuild-keymap"]] {
        fits(&bench.lith(args));
    }
    fits(&bench.lith(&["repair", "--accept-loss"]));
    fits(&bench.lith(&["info"]));
    let commands = ["info", "put", "get", "scan", "load", "verify", "gc", "dump", "repair"];
    for command in commands.iter().chain(&["rollback", "rebuild-keymap", "tour"]) {
        fits(&bench.lith(&[command, "--help"]));
    }
    fits(&bench.lith(&["--help"]));
}

/// A database in a directory whose name is not UTF-8.
fn oddly_named(bench: &Bench) -> PathBuf {
    let root = bench.dir.path().join(OsStr::from_bytes(b"r\xff"));
    let db = Db::open_with(DbOptions::new([&root]), alone()).unwrap();
    let table = db.table("t", Default::default()).unwrap();
    for (key, len) in [("a", 200), ("b", 5_000)] {
        table.put(key.as_bytes(), &vec![7; len]).unwrap();
    }
    table.seal().unwrap();
    db.close().unwrap();
    root
}

#[test]
fn a_database_in_a_directory_that_is_not_utf8_is_described_in_whole_documents() {
    let bench = Bench::new();
    let root = oddly_named(&bench);
    let on = |args: &[&str]| {
        let mut command = lith();
        command.args(args).arg("--db").arg(&root);
        run(command, b"")
    };
    let info = on(&["info", "--json"]).json();
    assert!(info["roots"][0].as_str().unwrap().ends_with("/r\u{fffd}"), "{info}");
    assert_eq!(on(&["verify", "--json"]).json()["sound"], true);
    assert!(!on(&["dump", "t", "--json"]).json_lines().is_empty());
    let out = bench.dir.path().join(OsStr::from_bytes(b"out\xff"));
    let mut command = lith();
    command.args(["get", "t", "a", "--json", "-o"]).arg(&out).arg("--db").arg(&root);
    let told = run(command, b"").json();
    assert!(told["output"].as_str().unwrap().ends_with("/out\u{fffd}"), "{told}");
    assert_eq!(support::read(&out), [7; 200]);
    // Damage is named, planned and mended all the same.
    flip(&root.join("t/segments/1.keys"), 150);
    for args in [&["verify", "--json"][..], &["repair", "--json"]] {
        let run = on(args);
        run.failed();
        let told: Json = serde_json::from_str(&run.text()).unwrap();
        assert!(told.to_string().contains("/r\u{fffd}/t/segments/1.keys"), "{told}");
    }
    on(&["repair"]).failed();
    let told = on(&["repair", "--accept-loss", "--json"]).json();
    assert!(told["report"].to_string().contains("/r\u{fffd}/t/damaged-"), "{told}");
    on(&["verify"]).ok();
}

#[test]
fn the_tour_of_a_tree_that_is_not_utf8_tells_of_it_in_json() {
    let bench = Bench::new();
    let tree = bench.dir.path().join(OsStr::from_bytes(b"tree\xff"));
    OsFs.create_dir(&tree).unwrap();
    OsFs.create_new(&tree.join("file")).unwrap().set_len(1000).unwrap();
    let mut command = lith();
    command.args(["tour", "--json"]).arg(&tree);
    let told = run(command, b"").json();
    assert!(told["tree"].as_str().unwrap().ends_with("/tree\u{fffd}"), "{told}");
    assert!(bare(&["tour", "--json", tree.to_string_lossy().as_ref()]).failed().contains("tree"));
}
