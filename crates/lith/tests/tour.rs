//! `lith tour`: its claims, on a small tree.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use lithdb_env::{Fs, OsFs};
use serde_json::{Value as Json, json};
use support::{Fixture, bare, lith, run};

fn grow(fixture: &Fixture, files: usize) {
    for n in 0..files {
        let content: Vec<u8> = (0..n * 300).map(|i| (i * 31 + n) as u8).collect();
        fixture.write(&format!("tree/{}/{n}", n % 7), &content);
    }
    // The same content twice, once in each half.
    fixture.write("tree/0/copy", b"the same");
    fixture.write("tree/6/copy", b"the same");
}

fn tour(fixture: &Fixture, args: &[&str]) -> support::Run {
    if let Err(error) = OsFs.create_dir(&fixture.path("tmp")) {
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    }
    let mut command = lith();
    command.env("TMPDIR", fixture.path("tmp")).arg("tour").arg(fixture.path("tree")).args(args);
    run(command, b"")
}

#[test]
fn tour_compares_everything_and_cleans_up() {
    let fixture = Fixture::new();
    grow(&fixture, 100);
    let output = tour(&fixture, &["--json"]).json();
    assert_eq!((&output["files"], &output["passed"]), (&json!(102), &json!(true)));
    assert_eq!((&output["wrong"], &output["changed"]), (&json!([]), &json!([])));
    let names: Vec<&str> =
        output["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    let expected =
        ["Load", "Read back", "Reopen", "Expire", "Read beside the writer", "Roll back", "Verify"];
    assert_eq!(names[..7], expected);
    assert_eq!(names[7..], ["Commit state", "Kill and reopen", "Roll back the state"]);
    let what = |n: usize| output["steps"][n]["what"].as_str().unwrap();
    assert!(what(0).starts_with("102 files stored"), "{output}");
    assert!(what(1).starts_with("102 files") && what(1).contains("204 records"), "{output}");
    assert!(what(3).contains("files no longer found"), "{output}");
    assert!(output["compared"].as_u64().unwrap() > 300, "{output}");
    assert!(
        what(5).contains(" removed, planned in") && !what(5).contains(": 0 records"),
        "{output}"
    );
    assert!(output["steps"][6]["bytes"].as_u64().unwrap() > 100_000, "{output}");
    // 102 files in fifty shares: two a version, and three in the first two.
    assert!(what(7).starts_with("25 versions with 77 changes committed in "), "{output}");
    assert!(what(7).ends_with("; 53 rows compared: all equal"), "{output}");
    assert!(what(8).contains(", 25 versions replayed from the log; 51 rows compared"), "{output}");
    assert!(what(9).contains(": 5 versions replayed from the snapshot of version 25"), "{output}");
    assert!(what(9).ends_with("; 51 rows hashed: sound"), "{output}");
    assert_eq!(OsFs.list(&fixture.path("tmp")).unwrap(), []);
}

#[test]
fn tour_reports_steps_and_keeps_the_database_on_request() {
    let fixture = Fixture::new();
    grow(&fixture, 20);
    let kept = fixture.path("kept");
    let text = tour(&fixture, &["--keep", kept.to_str().unwrap()]).ok();
    let parts = ["1. Load", "2. Read back", "6. Roll back", "7. Verify", "8. Commit state"];
    for part in parts.into_iter().chain(["10. Roll back the state", "PASSED", "kept"]) {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The kept database works like any other.
    let (a, b) = (kept.join("root-a"), kept.join("root-b"));
    let roots = ["--db", a.to_str().unwrap(), "--db", b.to_str().unwrap()];
    let scanned = bare(&[&["scan", "files"][..], &roots].concat()).ok();
    assert!(scanned.contains("~xxh3://") && !scanned.contains("again://"), "{scanned}");
    let state = kept.join("state");
    let root = bare(&["state", "root", "--dir", state.to_str().unwrap()]).ok();
    assert!(root.starts_with("31 "), "{root}");
    let again = tour(&fixture, &["--keep", kept.to_str().unwrap()]).failed();
    assert!(again.contains("new or empty"), "{again}");
}

#[test]
fn tour_respects_and_reports_its_limit() {
    let fixture = Fixture::new();
    grow(&fixture, 30);
    let output = tour(&fixture, &["--json", "--max-files", "10"]).json();
    assert_eq!(output["files"], 10);
    let output = tour(&fixture, &["--json", "--max-bytes", "20KB"]).json();
    assert!(output["bytes"].as_u64().unwrap() <= 20_000, "{output}");
    let text = tour(&fixture, &["--max-files", "10"]).ok();
    assert!(text.contains("limited to "), "{text}");
}

#[test]
fn tour_handles_empty_and_single_file_trees() {
    let fixture = Fixture::new();
    OsFs.create_dir(&fixture.path("tree")).unwrap();
    let error = tour(&fixture, &[]).failed();
    assert!(error.contains("regular file, found none"), "{error}");
    assert_eq!(OsFs.list(&fixture.path("tmp")).unwrap(), []);
    fixture.write("tree/a", b"");
    let output = tour(&fixture, &["--json"]).json();
    assert_eq!((&output["files"], &output["passed"]), (&json!(1), &json!(true)));
    fixture.write("tree/b", b"");
    assert_eq!(tour(&fixture, &["--json"]).json()["passed"], true);
}

#[test]
fn tour_defaults_to_the_enclosing_project() {
    let fixture = Fixture::new();
    fixture.write("project/Cargo.toml", b"[workspace]");
    fixture.write("project/Cargo.lock", b"# lock");
    fixture.write("project/member/Cargo.toml", b"[package]");
    fixture.write("project/target/built", &[7; 5000]);
    let mut command = lith();
    command.args(["tour", "--json"]).current_dir(fixture.path("project/member"));
    let output: Json = run(command, b"").json();
    assert_eq!((&output["files"], &output["passed"]), (&json!(4), &json!(true)));
    assert!(output["tree"].as_str().unwrap().ends_with("/project"), "{output}");
}

#[test]
fn names_like_the_tours_own_keys_are_no_mismatch() {
    let fixture = Fixture::new();
    grow(&fixture, 30);
    // All in the newer half, of which the tour stores copies; each file twice, with the same
    // content.
    fixture.write("tree/big", &vec![1; 1 << 20]);
    for n in 0..30 {
        fixture.write(&format!("tree/x/{n}"), format!("content {n}").as_bytes());
        fixture.write(&format!("tree/again/x/{n}"), format!("content {n}").as_bytes());
    }
    assert_eq!(tour(&fixture, &["--json"]).json()["passed"], true);
}

#[test]
fn tour_without_files_leaves_the_kept_directory_untouched() {
    let fixture = Fixture::new();
    let kept = fixture.path("kept");
    let args = ["--keep", kept.to_str().unwrap()];
    assert!(tour(&fixture, &args).failed().contains("tree"));
    assert!(OsFs.metadata(&kept).is_err());
    grow(&fixture, 3);
    tour(&fixture, &args).ok();
}

#[test]
fn failed_tour_keeps_its_database_and_says_where() {
    let fixture = Fixture::new();
    grow(&fixture, 30);
    OsFs.create_dir(&fixture.path("tmp")).unwrap();
    // Files are limited to 512 bytes: the first longer write fails.
    let mut command = Command::new("sh");
    let line = "trap '' XFSZ; ulimit -f 1; exec \"$0\" tour tree";
    command.args(["-c", line, env!("CARGO_BIN_EXE_lith")]);
    command
        .env("TMPDIR", fixture.path("tmp"))
        .env_remove("RUST_LOG")
        .current_dir(fixture.dir.path());
    let error = run(command, b"").failed();
    let left = OsFs.list(&fixture.path("tmp")).unwrap();
    assert_eq!(left.len(), 1, "{error}");
    assert!(
        error.contains(&format!(
            "the database is in {}",
            fixture.path("tmp").join(&left[0].name).display()
        )),
        "{error}"
    );
}

#[test]
fn signal_ends_the_tour_and_cleans_up() {
    // A process started in the background or by nohup ignores some signals, and its children do,
    // too.
    let status = Command::new("grep").args(["SigIgn:", "/proc/self/status"]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    let ignored = status.split_whitespace().last().unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        if ignored >> (number - 1) & 1 == 1 {
            println!("{name} is ignored here: not tested");
            continue;
        }
        let fixture = Fixture::new();
        grow(&fixture, 30);
        OsFs.create_dir(&fixture.path("tmp")).unwrap();
        // The pipe is full: the tour blocks at its first line, after it created the directories.
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b'.'; 65_536]).unwrap();
        let mut command = lith();
        command.env("TMPDIR", fixture.path("tmp")).arg("tour").arg(fixture.path("tree"));
        command.stdout(writer).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let is_made = || {
            let made = OsFs.list(&fixture.path("tmp")).unwrap();
            made.first().is_some_and(|dir| {
                OsFs.metadata(&fixture.path("tmp").join(&dir.name).join("root-b")).is_ok()
            })
        };
        while !is_made() {
            assert!(child.try_wait().unwrap().is_none(), "ended before it created the database");
            std::thread::yield_now();
        }
        let kill = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(number), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"), "{ended:?}");
        assert_eq!(OsFs.list(&fixture.path("tmp")).unwrap(), [], "{name}");
        drop(reader);
    }
}
