//! tour: everything that it claims, on a small tree.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use lithdb::env::{Fs, OsFs};
use serde_json::{Value as Json, json};
use support::{Bench, bare, lith, run};

fn grow(bench: &Bench, files: usize) {
    for n in 0..files {
        let content: Vec<u8> = (0..n * 300).map(|i| (i * 31 + n) as u8).collect();
        bench.write(&format!("tree/{}/{n}", n % 7), &content);
    }
    // Contents that are there twice, and in both halves.
    bench.write("tree/0/copy", b"the same");
    bench.write("tree/6/copy", b"the same");
}

fn tour(bench: &Bench, args: &[&str]) -> support::Run {
    if let Err(error) = OsFs.create_dir(&bench.path("tmp")) {
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    }
    let mut command = lith();
    command.env("TMPDIR", bench.path("tmp")).arg("tour").arg(bench.path("tree")).args(args);
    run(command, b"")
}

#[test]
fn the_tour_compares_everything_and_leaves_nothing_behind() {
    let bench = Bench::new();
    grow(&bench, 100);
    let told = tour(&bench, &["--json"]).json();
    assert_eq!((&told["files"], &told["passed"]), (&json!(102), &json!(true)));
    assert_eq!((&told["wrong"], &told["changed"]), (&json!([]), &json!([])));
    let names: Vec<&str> =
        told["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    let expected =
        ["Load", "Read back", "Reopen", "Expire", "Read beside the writer", "Roll back", "Verify"];
    assert_eq!(names, expected);
    let what = |n: usize| told["steps"][n]["what"].as_str().unwrap();
    assert!(what(0).starts_with("102 files stored"), "{told}");
    assert!(what(1).starts_with("102 files") && what(1).contains("204 records"), "{told}");
    assert!(what(3).contains("files are not found any more"), "{told}");
    assert!(told["compared"].as_u64().unwrap() > 300, "{told}");
    assert!(
        what(5).contains(" gone that came later") && !what(5).contains(": 0 records"),
        "{told}"
    );
    assert!(told["steps"][6]["bytes"].as_u64().unwrap() > 100_000, "{told}");
    assert_eq!(OsFs.list(&bench.path("tmp")).unwrap(), []);
}

#[test]
fn the_tour_tells_people_what_it_did_and_keeps_the_database_if_asked() {
    let bench = Bench::new();
    grow(&bench, 20);
    let kept = bench.path("kept");
    let text = tour(&bench, &["--keep", kept.to_str().unwrap()]).ok();
    for part in ["1. Load", "2. Read back", "6. Roll back", "7. Verify", "All as promised", "kept"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    // What is left can be used like any other database.
    let (a, b) = (kept.join("root-a"), kept.join("root-b"));
    let roots = ["--db", a.to_str().unwrap(), "--db", b.to_str().unwrap()];
    let scanned = bare(&[&["scan", "files"][..], &roots].concat()).ok();
    assert!(scanned.contains("~xxh3://") && !scanned.contains("again://"), "{scanned}");
    let again = tour(&bench, &["--keep", kept.to_str().unwrap()]).failed();
    assert!(again.contains("new or empty"), "{again}");
}

#[test]
fn a_limit_is_kept_and_said() {
    let bench = Bench::new();
    grow(&bench, 30);
    let told = tour(&bench, &["--json", "--max-files", "10"]).json();
    assert_eq!(told["files"], 10);
    let told = tour(&bench, &["--json", "--max-bytes", "20KB"]).json();
    assert!(told["bytes"].as_u64().unwrap() <= 20_000, "{told}");
    let text = tour(&bench, &["--max-files", "10"]).ok();
    assert!(text.contains("not all of it"), "{text}");
}

#[test]
fn trees_of_no_file_one_file_and_only_empty_files() {
    let bench = Bench::new();
    OsFs.create_dir(&bench.path("tree")).unwrap();
    let said = tour(&bench, &[]).failed();
    assert!(said.contains("expected files"), "{said}");
    assert_eq!(OsFs.list(&bench.path("tmp")).unwrap(), []);
    bench.write("tree/a", b"");
    let told = tour(&bench, &["--json"]).json();
    assert_eq!((&told["files"], &told["passed"]), (&json!(1), &json!(true)));
    bench.write("tree/b", b"");
    assert_eq!(tour(&bench, &["--json"]).json()["passed"], true);
}

#[test]
fn without_a_path_the_project_around_is_taken() {
    let bench = Bench::new();
    bench.write("project/Cargo.toml", b"[workspace]");
    bench.write("project/Cargo.lock", b"# lock");
    bench.write("project/member/Cargo.toml", b"[package]");
    bench.write("project/target/built", &[7; 5000]);
    let mut command = lith();
    command.args(["tour", "--json"]).current_dir(bench.path("project/member"));
    let told: Json = run(command, b"").json();
    assert_eq!((&told["files"], &told["passed"]), (&json!(4), &json!(true)));
    assert!(told["tree"].as_str().unwrap().ends_with("/project"), "{told}");
}

#[test]
fn a_tree_with_names_like_the_tours_own_keys_is_no_mismatch() {
    let bench = Bench::new();
    grow(&bench, 30);
    // All of it in the newer half, of which the tour stores some again; each file twice, with the same content.
    bench.write("tree/big", &vec![1; 1 << 20]);
    for n in 0..30 {
        bench.write(&format!("tree/x/{n}"), format!("content {n}").as_bytes());
        bench.write(&format!("tree/again/x/{n}"), format!("content {n}").as_bytes());
    }
    assert_eq!(tour(&bench, &["--json"]).json()["passed"], true);
}

#[test]
fn a_directory_to_keep_is_not_spoiled_by_a_tour_that_has_nothing_to_show() {
    let bench = Bench::new();
    let kept = bench.path("kept");
    let args = ["--keep", kept.to_str().unwrap()];
    assert!(tour(&bench, &args).failed().contains("tree"));
    assert!(OsFs.metadata(&kept).is_err());
    grow(&bench, 3);
    tour(&bench, &args).ok();
}

#[test]
fn a_tour_that_the_engine_ended_leaves_the_evidence_and_says_where() {
    let bench = Bench::new();
    grow(&bench, 30);
    OsFs.create_dir(&bench.path("tmp")).unwrap();
    // No file may become longer than 512 bytes: the first write of any length fails.
    let mut command = Command::new("sh");
    let line = "trap '' XFSZ; ulimit -f 1; exec \"$0\" tour tree";
    command.args(["-c", line, env!("CARGO_BIN_EXE_lith")]);
    command.env("TMPDIR", bench.path("tmp")).env_remove("RUST_LOG").current_dir(bench.dir.path());
    let said = run(command, b"").failed();
    let left = OsFs.list(&bench.path("tmp")).unwrap();
    assert_eq!(left.len(), 1, "{said}");
    assert!(
        said.contains(&format!(
            "the database is in {}",
            bench.path("tmp").join(&left[0].name).display()
        )),
        "{said}"
    );
}

#[test]
fn a_signal_ends_the_tour_and_leaves_nothing_behind() {
    // Who is started in the background, or by nohup, ignores some signals, and so do its children, the tour as well.
    let status = Command::new("grep").args(["SigIgn:", "/proc/self/status"]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    let ignored = status.split_whitespace().last().unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        if ignored >> (number - 1) & 1 == 1 {
            println!("{name} is ignored here, and was not tried");
            continue;
        }
        let bench = Bench::new();
        grow(&bench, 30);
        OsFs.create_dir(&bench.path("tmp")).unwrap();
        // The tour's first words do not fit into the pipe: it waits with the database made.
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b'.'; 65_536]).unwrap();
        let mut command = lith();
        command.env("TMPDIR", bench.path("tmp")).arg("tour").arg(bench.path("tree"));
        command.stdout(writer).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let is_made = || {
            let made = OsFs.list(&bench.path("tmp")).unwrap();
            made.first().is_some_and(|dir| {
                OsFs.metadata(&bench.path("tmp").join(&dir.name).join("root-b")).is_ok()
            })
        };
        while !is_made() {
            assert!(child.try_wait().unwrap().is_none(), "ended before it made the database");
            std::thread::yield_now();
        }
        let kill = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(number), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"), "{ended:?}");
        assert_eq!(OsFs.list(&bench.path("tmp")).unwrap(), [], "{name}");
        drop(reader);
    }
}
