//! `lith put` from and `lith get` into pipes and devices; `get` over a regular file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use lithdb_env::{Fs, OsFs};
use support::{Fixture, Run, lith, read, run};

/// Runs a shell command in the directory of the fixture; `lith` is the built program.
fn shell(fixture: &Fixture, line: &str) -> Run {
    let program = env!("CARGO_BIN_EXE_lith");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("lith() {{ '{program}' \"$@\"; }}; {line}"));
    command.current_dir(fixture.dir.path()).env_remove("RUST_LOG");
    run(command, b"")
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn put_reads_from_a_pipe_by_any_name() {
    let fixture = Fixture::with(&[]);
    let long: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fixture.write("long", &long);
    fifo(&fixture.path("fifo"));
    shell(&fixture, "cat long | lith put t stdin /dev/stdin --db db").ok();
    shell(&fixture, "cat long >fifo & lith put t fifo fifo --db db").ok();
    shell(&fixture, "lith put t regular /dev/stdin --db db <long").ok();
    for key in ["stdin", "fifo", "regular"] {
        assert!(fixture.lith(&["get", "t", key]).output.stdout == long, "{key}");
    }
}

#[test]
fn get_writes_into_a_pipe_and_a_device() {
    let fixture = Fixture::new();
    let long: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fixture.prepare(|db| {
        db.table("t", Default::default()).unwrap().put(b"k", &long).map(|_| ()).unwrap();
    });
    fifo(&fixture.path("fifo"));
    shell(&fixture, "cat fifo >copy & lith get t k -o fifo --db db && wait").ok();
    assert!(read(&fixture.path("copy")) == long);
    assert!(shell(&fixture, "lith get t k -o /dev/stdout --db db").output.stdout == long);
    fixture.lith(&["get", "t", "k", "-o", "/dev/null"]).ok();
    assert!(fixture.lith(&["get", "t", "k", "-o", "/dev/full"]).failed().contains("/dev/full"));
    // The pipe was not replaced.
    assert_eq!(OsFs.metadata(&fixture.path("fifo")).unwrap().kind, lithdb_env::FileKind::Other);
}

#[test]
fn failed_output_keeps_the_existing_file() {
    let fixture = Fixture::with(&[("k", &[7; 100_000])]);
    let out = fixture.write("dir/out", b"the old content");
    // Files are limited to 16 KiB: like a full disk.
    let run = shell(&fixture, "trap '' XFSZ; ulimit -f 32; lith get t k -o dir/out --db db");
    assert!(run.failed().contains("dir/out: "), "{run:?}");
    assert_eq!(read(&out), b"the old content");
    shell(&fixture, "trap '' XFSZ; ulimit -f 32; lith get t k -o dir/new --db db").failed();
    let left: Vec<_> = OsFs.list(&fixture.path("dir")).unwrap();
    assert_eq!(left.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["out"]);
}

#[test]
fn replaced_file_keeps_permissions_and_symlinks() {
    let fixture = Fixture::with(&[("k", b"secret")]);
    let out = fixture.write("out", b"old");
    std::os::unix::fs::symlink("out", fixture.path("link")).unwrap();
    shell(&fixture, "chmod 600 out").ok();
    fixture.lith(&["get", "t", "k", "-o", fixture.path("link").to_str().unwrap()]).ok();
    assert_eq!(read(&out), b"secret");
    let listed = shell(&fixture, "ls -ld out link").ok();
    assert!(listed.contains("-rw------- ") && listed.contains("link -> out"), "{listed}");
}

#[test]
fn empty_input_is_an_empty_value() {
    let fixture = Fixture::with(&[]);
    let mut command = lith();
    command.args(["put", "t", "empty", "/dev/stdin", "--db"]).arg(fixture.db());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    Run { output }.ok();
    assert_eq!(fixture.lith(&["get", "t", "empty"]).ok(), "");
}
