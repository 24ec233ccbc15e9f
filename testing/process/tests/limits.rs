//! A process that has no descriptors left gets an error, changes nothing, and continues when
//! descriptors are available again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests stop where they fail, and start processes"
)]

use std::path::Path;
use std::process::Command;

use lithdb_process_tests::{Crashy, skip_or_fail};

fn start_server(root: &Path) -> Crashy {
    let mut crashy =
        Crashy::start(env!("CARGO_BIN_EXE_crashy"), &["obey".into()], &[root.to_owned()]);
    assert_eq!(crashy.line(), "open");
    crashy
}

fn send(crashy: &mut Crashy, order: &str) -> String {
    crashy.send(order);
    crashy.line()
}

fn ok(crashy: &mut Crashy, order: &str) {
    assert_eq!(send(crashy, order), "ok", "{order}");
}

/// Sets the soft limit of open files of a running process; the hard limit stays.
fn limit_files(crashy: &Crashy, soft: &str) {
    let args = ["--pid", &crashy.id().to_string(), &format!("--nofile={soft}:")];
    assert!(Command::new("prlimit").args(args).status().unwrap().success());
}

fn limit_of_this_process() -> Option<String> {
    let output =
        Command::new("prlimit").args(["--nofile", "--noheadings", "--output=SOFT"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Without a descriptor, the error names the limit, nothing latches and nothing is lost.
#[test]
fn descriptor_exhaustion_latches_nothing() {
    let Some(limit) = limit_of_this_process() else {
        return skip_or_fail("limits", "no prlimit", "LITHDB_REQUIRE_PRLIMIT");
    };
    let dir = tempfile::tempdir().unwrap();
    let mut crashy = start_server(dir.path());
    ok(&mut crashy, "table t");
    for key in ["a", "b"] {
        ok(&mut crashy, &format!("put t {key}"));
    }
    ok(&mut crashy, "flush t");
    ok(&mut crashy, "put t c");
    limit_files(&crashy, "3");
    for order in ["seal t", "table another", "seal t"] {
        let answer = send(&mut crashy, order);
        assert!(answer.starts_with("refused Exhausted: "), "{order}: {answer}");
        assert!(answer.contains("ulimit -n"), "{order}: {answer}");
    }
    // Idle files have been closed meanwhile: a flush may need to reopen one.
    ok(&mut crashy, "put t d");
    for order in ["flush t", "get t a", "get t c", "get t d"] {
        let answer = send(&mut crashy, order);
        assert!(answer == "ok" || answer.starts_with("refused Exhausted: "), "{order}: {answer}");
    }
    limit_files(&crashy, &limit);
    for order in ["seal t", "put t e", "flush t", "seal t", "table another", "put another f"] {
        ok(&mut crashy, order);
    }
    for key in ["a", "b", "c", "d", "e"] {
        ok(&mut crashy, &format!("get t {key}"));
    }
    // A table with a refused operation can be dropped like any other.
    ok(&mut crashy, "drop t");
    crashy.end();
}

/// An idle table holds no descriptor.
#[test]
fn tables_may_outnumber_descriptors_threefold() {
    if limit_of_this_process().is_none() {
        return skip_or_fail("limits", "no prlimit", "LITHDB_REQUIRE_PRLIMIT");
    }
    let dir = tempfile::tempdir().unwrap();
    let args = ["--nofile=50:50", env!("CARGO_BIN_EXE_crashy"), "obey"].map(Into::into);
    let mut crashy = Crashy::start("prlimit", &args, &[dir.path().to_owned()]);
    assert_eq!(crashy.line(), "open");
    let names: Vec<_> = (0..150).map(|n| format!("t{n}")).collect();
    for name in &names {
        ok(&mut crashy, &format!("table {name}"));
    }
    for name in &names {
        ok(&mut crashy, &format!("put {name} k0"));
    }
    for name in names.iter().step_by(5) {
        ok(&mut crashy, &format!("seal {name}"));
    }
    for name in &names {
        ok(&mut crashy, &format!("put {name} k1"));
    }
    for name in &names {
        ok(&mut crashy, &format!("get {name} k0"));
        ok(&mut crashy, &format!("get {name} k1"));
    }
    crashy.end();
}
