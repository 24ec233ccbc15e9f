//! put from and get into what is no regular file, and get over one that is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use lithdb::env::{Fs, OsFs};
use support::{Bench, Run, lith, read, run};

/// Runs a line of shell in which `lith` is the built program, in the directory of the bench.
fn shell(bench: &Bench, line: &str) -> Run {
    let program = env!("CARGO_BIN_EXE_lith");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("lith() {{ '{program}' \"$@\"; }}; {line}"));
    command.current_dir(bench.dir.path()).env_remove("RUST_LOG");
    run(command, b"")
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_value_is_taken_from_a_pipe_by_any_name() {
    let bench = Bench::with(&[]);
    let long: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    bench.write("long", &long);
    fifo(&bench.path("fifo"));
    shell(&bench, "cat long | lith put t stdin /dev/stdin --db db").ok();
    shell(&bench, "cat long >fifo & lith put t fifo fifo --db db").ok();
    shell(&bench, "lith put t regular /dev/stdin --db db <long").ok();
    for key in ["stdin", "fifo", "regular"] {
        assert!(bench.lith(&["get", "t", key]).output.stdout == long, "{key}");
    }
}

#[test]
fn a_value_is_written_into_a_pipe_and_a_device() {
    let bench = Bench::new();
    let long: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    bench.prepare(|db| {
        db.table("t", Default::default()).unwrap().put(b"k", &long).map(|_| ()).unwrap();
    });
    fifo(&bench.path("fifo"));
    shell(&bench, "cat fifo >copy & lith get t k -o fifo --db db && wait").ok();
    assert!(read(&bench.path("copy")) == long);
    assert!(shell(&bench, "lith get t k -o /dev/stdout --db db").output.stdout == long);
    bench.lith(&["get", "t", "k", "-o", "/dev/null"]).ok();
    assert!(bench.lith(&["get", "t", "k", "-o", "/dev/full"]).failed().contains("/dev/full"));
    // It is a pipe as before.
    assert_eq!(OsFs.metadata(&bench.path("fifo")).unwrap().kind, lithdb::env::FileKind::Other);
}

#[test]
fn a_file_that_cannot_be_replaced_whole_keeps_its_content() {
    let bench = Bench::with(&[("k", &[7; 100_000])]);
    let out = bench.write("dir/out", b"the old content");
    // No file may become longer than 16 KiB: as on a disk that is full.
    let run = shell(&bench, "trap '' XFSZ; ulimit -f 32; lith get t k -o dir/out --db db");
    assert!(run.failed().contains("dir/out: "), "{run:?}");
    assert_eq!(read(&out), b"the old content");
    shell(&bench, "trap '' XFSZ; ulimit -f 32; lith get t k -o dir/new --db db").failed();
    let left: Vec<_> = OsFs.list(&bench.path("dir")).unwrap();
    assert_eq!(left.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["out"]);
}

#[test]
fn a_file_that_is_replaced_keeps_its_permissions_and_the_links_to_it() {
    let bench = Bench::with(&[("k", b"secret")]);
    let out = bench.write("out", b"old");
    std::os::unix::fs::symlink("out", bench.path("link")).unwrap();
    shell(&bench, "chmod 600 out").ok();
    bench.lith(&["get", "t", "k", "-o", bench.path("link").to_str().unwrap()]).ok();
    assert_eq!(read(&out), b"secret");
    let listed = shell(&bench, "ls -ld out link").ok();
    assert!(listed.contains("-rw------- ") && listed.contains("link -> out"), "{listed}");
}

#[test]
fn an_input_without_anything_is_an_empty_value() {
    let bench = Bench::with(&[]);
    let mut command = lith();
    command.args(["put", "t", "empty", "/dev/stdin", "--db"]).arg(bench.db());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    Run { output }.ok();
    assert_eq!(bench.lith(&["get", "t", "empty"]).ok(), "");
}
