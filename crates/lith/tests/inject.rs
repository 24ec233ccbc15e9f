//! `lith rollback` and `lith repair` with failing system calls, or killed at one: the command
//! reports the true outcome, and the next run can finish. (A call that `strace` injects does not
//! execute, so a sync that fails here lost nothing.)
//!
//! Needs `strace` and the right to trace. Without them the tests print so and are skipped, or fail
//! if `LITHDB_REQUIRE_STRACE` is 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use lithdb::TableOptions;
use lithdb_env::{Fs, OsFs};
use lithdb_process_tests::{Fault, Run, RunResult, can_trace, files_below, sample_of, scratch};
use lithdb_sim::{Effort, Tally};
use support::{Fixture, flip, read};

const fn fault(call: &'static str, names: &'static str, injection: &'static str) -> Fault {
    Fault { call, names, injection }
}

const FAULTS: [Fault; 13] = [
    fault("fdatasync", "fdatasync", "error=EIO"),
    fault("fsync", "fsync", "error=EIO"),
    fault("pwrite64", "pwrite64", "error=EIO"),
    fault("pwrite64", "pwrite64", "error=ENOSPC"),
    fault("rename", "?rename,?renameat,?renameat2", "error=EIO"),
    fault("unlink", "?unlink,?unlinkat", "error=EIO"),
    fault("link", "?link,?linkat", "error=EIO"),
    fault("openat", "openat", "error=EMFILE"),
    fault("death at fsync", "fsync", "signal=SIGKILL"),
    fault("death at pwrite64", "pwrite64", "signal=SIGKILL"),
    fault("death at rename", "?rename,?renameat,?renameat2", "signal=SIGKILL"),
    fault("death at unlink", "?unlink,?unlinkat", "signal=SIGKILL"),
    fault("death at link", "?link,?linkat", "signal=SIGKILL"),
];

fn value(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(1 + n as usize * 37 % 400)
}

/// The numbers in a table; checks their values.
fn numbers(fixture: &Fixture, table: &str) -> Vec<u64> {
    let db = fixture.open();
    let table = db.existing_table(table).unwrap();
    let numbers = table.iter().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let n = u64::from_be_bytes(entry.key().try_into().unwrap());
        assert_eq!(entry.value().unwrap(), value(n)[..]);
        assert_eq!(table.get(entry.key()).unwrap().unwrap(), value(n)[..]);
        n
    });
    numbers.collect()
}

/// Two tables with the numbers 0 to 39, in segments of seven.
fn fixture() -> Fixture {
    let fixture = Fixture { dir: scratch() };
    fixture.prepare(|db| {
        let options = TableOptions::new().segment_keys(7).inline_max_bytes(256);
        for name in ["blocks", "events"] {
            let table = db.table(name, options.clone()).unwrap();
            for n in 0..40_u64 {
                table.put(n.to_be_bytes(), value(n)).unwrap();
            }
        }
    });
    fixture
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// Runs `lith` with `args` on copies of `whole`, with a different failing call each time; `check`
/// examines the result.
fn every_call(
    whole: &Fixture,
    args: &[&str],
    tally: &mut Tally,
    mut check: impl FnMut(&Fixture, &RunResult, &str, &mut Tally),
) -> BTreeMap<&'static str, u64> {
    let effort = Effort::from_env();
    let mut refused = BTreeMap::new();
    for fault in FAULTS {
        let prepare = || {
            let fixture = Fixture { dir: scratch() };
            copy(&whole.db(), &fixture.db());
            let below = OsFs.canonicalize(&fixture.db()).unwrap();
            let args =
                args.iter().map(Into::into).chain([Path::new("--db").to_owned(), fixture.db()]);
            let args: Vec<std::path::PathBuf> = args.collect();
            let run = Run::new(env!("CARGO_BIN_EXE_lith"), args, &below);
            (fixture, run, below)
        };
        let (_fixture, run, base) = prepare();
        let (output, calls, paths) = run.count_calls(fault.names);
        assert!(output.status.success(), "{output:?}");
        for n in sample_of(calls, 2, effort.is_deep(), effort.seed(fault.call)) {
            let (fixture, run, below) = prepare();
            let paths = paths.iter().map(|path| below.join(path.strip_prefix(&base).unwrap()));
            let ran = run.with_fault(fault, &n.to_string(), &paths.collect());
            let context = format!("{fault:?} at {n} of {calls}: {:?}\n{}", ran.output, ran.log);
            let status = ran.output.status;
            let is_killed = fault.injection.starts_with("signal") && status.signal() == Some(9);
            assert!(status.code().is_some_and(|code| code < 2) || is_killed, "{context}");
            tally.add("runs", 1);
            tally.add(fault.call, ran.injected);
            *refused.entry(fault.call).or_default() +=
                u64::from(ran.injected > 0 && !status.success());
            check(&fixture, &ran, &context, tally);
            fixture.lith(&["verify"]).ok();
        }
    }
    refused
}

#[test]
fn rollback_with_failing_syscalls_reports_its_outcome() {
    let name = "rollback_with_failing_syscalls_reports_its_outcome";
    if !can_trace(name) {
        return;
    }
    let mut tally = Tally::new(format!("injected: lith: {name}"));
    let whole = fixture();
    let args = ["rollback", "--max-be-u64", "0:24", "--yes"];
    let reported = every_call(&whole, &args, &mut tally, |fixture, ran, context, tally| {
        let found = ["blocks", "events"].map(|table| numbers(fixture, table));
        let is_new = found[0].len() == 25;
        let end = if is_new { 25 } else { 40 };
        let expected = [(); 2].map(|()| (0..end).collect::<Vec<u64>>());
        assert_eq!(found, expected, "{context}");
        let erred = String::from_utf8_lossy(&ran.output.stderr);
        if ran.output.status.success() || erred.contains("the rollback was decided") {
            assert!(is_new, "expected the new state: {context}");
        } else if ran.output.status.code().is_some()
            && !erred.contains("outcome of the rollback is unknown")
        {
            assert!(!is_new, "expected the old state: {context}");
        }
        tally.add(if is_new { "new" } else { "old" }, 1);
    });
    for call in ["fdatasync", "fsync", "pwrite64", "rename", "openat", "death at rename"] {
        assert!(reported.get(call).is_some_and(|count| *count > 0), "{call}: {reported:?}");
    }
    assert!(tally.get("new") > 0 && tally.get("old") > 0, "{tally:?}");
}

#[test]
fn repair_with_failing_syscalls_loses_only_what_it_reported() {
    let name = "repair_with_failing_syscalls_loses_only_what_it_reported";
    if !can_trace(name) {
        return;
    }
    let mut tally = Tally::new(format!("injected: lith: {name}"));
    let whole = fixture();
    flip(&whole.db().join("blocks/segments/2.keys"), 300);
    let damaged = read(&whole.db().join("blocks/segments/2.keys"));
    let repaired = Fixture { dir: scratch() };
    copy(&whole.db(), &repaired.db());
    repaired.lith(&["repair", "--accept-loss"]).ok();
    let left = numbers(&repaired, "blocks");
    assert!(left.len() < 40 && left.len() > 30, "{left:?}");
    let args = ["repair", "--accept-loss"];
    let reported = every_call(&whole, &args, &mut tally, |fixture, _, context, tally| {
        // A second repair finishes whatever the first one did.
        fixture.lith(&["repair", "--accept-loss"]).ok();
        assert_eq!(numbers(fixture, "blocks"), left, "{context}");
        assert_eq!(numbers(fixture, "events").len(), 40, "{context}");
        // The damaged file is in quarantine: as a hard link, or as a copy if linking fails.
        let kept = files_below(&fixture.db().join("blocks")).into_iter().find(|path| {
            let is_quarantine_dir = path.to_string_lossy().contains("/damaged-");
            is_quarantine_dir && path.ends_with("2.keys") && read(path) == damaged
        });
        assert!(kept.is_some(), "{context}");
        tally.add("finished by the next repair", 1);
    });
    for call in ["fsync", "pwrite64", "rename", "openat", "death at link"] {
        assert!(reported.get(call).is_some_and(|count| *count > 0), "{call}: {reported:?}");
    }
    assert!(
        tally.get("link") > 0 && reported["link"] == 0,
        "a copy replaces a failed link: {reported:?}"
    );
}
