//! System calls that fail one by one: a process writes, collects, recovers, reads or rolls back,
//! and in each run one of its calls returns an injected error, or kills the process.
//!
//! During the run, its reports must be honest: nothing is acknowledged after a failed sync, a
//! latched table accepts nothing, and nothing intact is reported as corrupt. After the run,
//! without faults: everything acknowledged exists byte-exact, what exists is a prefix of what was
//! put, collected data never returns, and all tables are rolled back or none.
//!
//! A call that `strace` injects does not run. So a sync that fails here is one that the kernel
//! refused before it did anything: the page cache keeps the pages and still has them when the
//! database is reopened. Whether recovery trusts what only the page cache has is tested on the
//! simulated disk, which loses the pages. The databases are in memory where possible, so that
//! syncs cost nothing.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lithdb::{Components, Db, DbOptions, ErrorKind, Table};
use lithdb_process_tests::{
    Fault, Op, Run, RunResult, can_trace, check_files, newest_key_file, sample_of, scratch,
};
use lithdb_sim::{Effort, Tally};

const fn fault(call: &'static str, names: &'static str, injection: &'static str) -> Fault {
    Fault { call, names, injection }
}

const RENAME: &str = "?rename,?renameat,?renameat2";
const UNLINK: &str = "?unlink,?unlinkat";

/// Errors that must be reported to the caller.
const ERRORS: [Fault; 17] = [
    fault("fdatasync", "fdatasync", "error=EIO"),
    fault("fdatasync", "fdatasync", "error=ENOSPC"),
    fault("fsync", "fsync", "error=EIO"),
    fault("pwrite64", "pwrite64", "error=EIO"),
    fault("pwrite64", "pwrite64", "error=ENOSPC"),
    fault("ftruncate", "ftruncate", "error=EIO"),
    fault("fallocate", "fallocate", "error=EIO"),
    fault("fallocate", "fallocate", "error=ENOSPC"),
    fault("rename", RENAME, "error=EIO"),
    fault("unlink", UNLINK, "error=EIO"),
    fault("openat", "openat", "error=EMFILE"),
    fault("mkdir", "?mkdir,?mkdirat", "error=EIO"),
    fault("mmap", "mmap", "error=ENOMEM"),
    fault("pread64", "pread64", "error=EIO"),
    fault("flock", "flock", "error=ENOLCK"),
    fault("getdents64", "getdents64", "error=EIO"),
    fault("statx", "statx", "error=EIO"),
];

/// Interruptions, which are retried and never reported.
const INTERRUPTED: [Fault; 3] = [
    fault("pwrite64", "pwrite64", "error=EINTR"),
    fault("pread64", "pread64", "error=EINTR"),
    fault("fallocate", "fallocate", "error=EINTR"),
];

/// The process is killed instead of making the call.
const DEATHS: [Fault; 6] = [
    fault("death at pwrite64", "pwrite64", "signal=SIGKILL"),
    fault("death at fdatasync", "fdatasync", "signal=SIGKILL"),
    fault("death at fsync", "fsync", "signal=SIGKILL"),
    fault("death at ftruncate", "ftruncate", "signal=SIGKILL"),
    fault("death at rename", RENAME, "signal=SIGKILL"),
    fault("death at unlink", UNLINK, "signal=SIGKILL"),
];

fn copy(from: &Path, to: &Path) {
    if let Err(error) = std::fs::remove_dir_all(to) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
    }
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

fn crashy(args: &[&str], roots: &[PathBuf]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crashy"));
    command.args(args).args(roots).stdin(Stdio::null()).output().unwrap()
}

/// An initial database, and a working copy to be damaged.
struct Fixture {
    _dir: tempfile::TempDir,
    dir: PathBuf,
    roots: Vec<PathBuf>,
    /// What was acknowledged in the initial database.
    acked: BTreeMap<String, u64>,
}

impl Fixture {
    /// An empty initial database.
    fn new() -> Self {
        let tempdir = scratch();
        let dir = tempdir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("template")).unwrap();
        let roots = vec![dir.join("db/r0"), dir.join("db/r1")];
        Self { _dir: tempdir, dir, roots, acked: BTreeMap::new() }
    }

    /// An initial database that a killed process left, with torn bytes at the end of its newest
    /// files.
    fn torn() -> Self {
        let mut fixture = Self::new();
        fixture.begin();
        let output = crashy(&["careful-death", "map"], &fixture.roots);
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        (fixture.acked, _) = parse_output(&stdout);
        assert_eq!(fixture.acked.len(), 2, "{stdout}");
        for table in ["kept", "twin"] {
            let keys = newest_key_file(&fixture.roots, table);
            let mut file = std::fs::File::options().append(true).open(keys).unwrap();
            file.write_all(&[0xA5; 100]).unwrap();
        }
        copy(&fixture.dir.join("db"), &fixture.dir.join("template"));
        fixture
    }

    fn begin(&self) {
        copy(&self.dir.join("template"), &self.dir.join("db"));
    }

    fn run(&self, args: &[&str]) -> Run {
        let args = args.iter().map(PathBuf::from).chain(self.roots.clone());
        Run::new(env!("CARGO_BIN_EXE_crashy"), args, &self.dir.join("db"))
    }

    fn open(&self) -> Db {
        let components = Components { without_maintenance: true, ..Components::default() };
        Db::open_with(DbOptions::new(&self.roots), components).unwrap()
    }
}

/// The last acknowledged number of each table, and the oldest number not collected.
fn parse_output(stdout: &str) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (mut acked, mut collected) = (BTreeMap::new(), BTreeMap::new());
    for line in stdout.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ack", table, seq] => acked.insert(table.to_owned(), seq.parse().unwrap()),
            ["collected", table, seq] => collected.insert(table.to_owned(), seq.parse().unwrap()),
            _ => None,
        };
    }
    (acked, collected)
}

/// Checks that every operation of a table is whole and follows the pattern; returns the first, and
/// the one after the last.
fn stored_range(table: &Table) -> (u64, u64) {
    let name = table.name().to_string();
    let mut entries = table.iter().unwrap().map(|entry| entry.unwrap()).peekable();
    let Some(first) = entries.peek() else { return (0, 0) };
    let begin = Op::seq_of(first.key()).unwrap();
    let mut seq = begin;
    while entries.peek().is_some() {
        for (key, is_primary, value) in Op::new(&name, 0, seq).records() {
            let entry = entries.next().unwrap_or_else(|| panic!("{name}: {seq} is not whole"));
            assert_eq!((entry.key(), entry.is_primary()), (key, is_primary), "{name} at {seq}");
            assert!(entry.value().unwrap() == value, "{name}: wrong bytes at {seq}");
            assert!(table.get(key).unwrap().unwrap() == value, "{name}: get at {seq}");
        }
        seq += 1;
    }
    (begin, seq)
}

/// Checks that the database opens, verifies and accepts puts; `check` gets each table with the
/// range of its operations.
fn check_sound(fixture: &Fixture, mut check: impl FnMut(&str, Option<(u64, u64)>)) {
    let db = fixture.open();
    for name in ["kept", "twin", "expiring"] {
        let table = match db.existing_table(name) {
            Ok(table) => table,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
                check(name, None);
                continue;
            }
        };
        let (begin, end) = stored_range(&table);
        check(name, Some((begin, end)));
        check_files(&fixture.roots, name, table.stats().segments);
        Op::new(name, 0, end).put(&table).unwrap();
        table.flush().unwrap();
        assert_eq!(stored_range(&table).1, end + 1);
    }
    db.close().unwrap();
    drop(db);
    let found = Db::verify(&DbOptions::new(&fixture.roots), None, &mut |_| {}).unwrap();
    assert!(found.is_sound(), "{found:?}");
}

/// Printed if the test fails while this value lives.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Asserts that the process reported honestly and exited as expected.
fn assert_no_violation(ran: &RunResult, stdout: &str, fault: Fault) {
    assert!(!stdout.contains("violation"));
    let status = ran.output.status;
    let is_killed = fault.injection.starts_with("signal") && status.signal() == Some(9);
    assert!(status.success() || is_killed, "{status:?}");
    if fault.injection == "error=EINTR" {
        assert!(!stdout.contains("error "), "an interruption was reported");
    }
}

/// For each call: the number of injected faults, and the number of runs that reported an error.
type FaultCounts = BTreeMap<&'static str, [u64; 2]>;

/// Runs `args` repeatedly on a copy of the database, each time with another of its calls failing;
/// `check` inspects the output and the files.
fn every_call(
    fixture: &Fixture,
    args: &[&str],
    tally: &mut Tally,
    mut check: impl FnMut(&str, &mut Tally),
) -> FaultCounts {
    let effort = Effort::from_env();
    let is_deep = effort.is_deep();
    let mut reported = FaultCounts::new();
    for fault in ERRORS.iter().chain(&INTERRUPTED).chain(&DEATHS) {
        fixture.begin();
        let run = fixture.run(args);
        let (output, calls, paths) = run.count_calls(fault.names);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !stdout.contains("error"), "{output:?}");
        let seed = effort.seed(fault.call);
        // More syncs than other calls, because everything depends on them.
        let most =
            if fault.call.ends_with("sync") && fault.injection == "error=EIO" { 10 } else { 1 };
        let once = sample_of(calls, most, is_deep, seed);
        let mut whens: Vec<String> = once.iter().map(u64::to_string).collect();
        if fault.injection.starts_with("error") && fault.injection != "error=EINTR" {
            // And all calls from then on.
            let begins = if is_deep { once } else { vec![calls.div_ceil(2)] };
            whens.extend(begins.iter().filter(|n| **n > 0).map(|n| format!("{n}+")));
        }
        for when in whens {
            fixture.begin();
            let ran = run.with_fault(*fault, &when, &paths);
            let stdout = String::from_utf8_lossy(&ran.output.stdout).into_owned();
            let stderr = String::from_utf8_lossy(&ran.output.stderr);
            let _shown = Context(format!("{fault:?} at {when}:\n{stdout}\n{stderr}\n{}", ran.log));
            assert_no_violation(&ran, &stdout, *fault);
            check(&stdout, tally);
            let errors = stdout.lines().filter(|line| line.starts_with("error ")).count() as u64;
            if fault.call.ends_with("sync") && fault.injection.starts_with("error") {
                assert!(ran.injected == 0 || errors > 0, "a failed sync was not reported");
            }
            let [injected, honest] = reported.entry(fault.call).or_default();
            *injected += ran.injected;
            *honest += u64::from(ran.injected > 0 && errors > 0);
            tally.add("runs", 1);
            tally.add(fault.call, ran.injected);
            tally.add("errors reported", errors);
        }
    }
    for death in DEATHS {
        assert!(
            reported.get(death.call).is_none_or(|[injected, _]| *injected > 0),
            "{death:?}: {reported:?}"
        );
    }
    reported
}

/// Asserts that faults of each of these calls were injected and led to errors.
fn assert_all_reported(reported: &FaultCounts, calls: &[&str]) {
    for call in calls {
        assert!(
            reported.get(call).is_some_and(|[injected, reported]| *injected > 0 && *reported > 0),
            "{call}: {reported:?}"
        );
    }
}

/// After a writing process: everything it acknowledged exists.
fn check_written(fixture: &Fixture, stdout: &str) {
    let (now, collected) = parse_output(stdout);
    let mut acked = fixture.acked.clone();
    acked.extend(now);
    check_sound(fixture, |name, found| {
        let (begin, end) = match (acked.get(name), found) {
            (None, None) => return,
            (Some(acked), None) => panic!("{name}: {acked} was acknowledged and is lost"),
            (_, Some(found)) => found,
        };
        let floor = collected.get(name).copied().unwrap_or(0);
        assert!(end == 0 || begin >= floor, "{name}: {begin} came back, {floor} is the oldest");
        let Some(acked) = acked.get(name) else { return };
        // All that was sealed when the collection ran, and nothing newer.
        let is_collected = name == "expiring" && end == 0 && *acked < 10;
        assert!(end > *acked || is_collected, "{name}: {acked} was acknowledged, {end} is the end");
        assert!(begin == 0 || name == "expiring", "{name}: {begin} is the oldest");
    });
}

#[test]
fn writer_with_failing_syscalls_reports_and_loses_nothing() {
    let name = "writer_with_failing_syscalls_reports_and_loses_nothing";
    if !can_trace(name) {
        return;
    }
    let mut tally = Tally::new(format!("injected: {name}"));
    let fixture = Fixture::new();
    let check = |stdout: &str, _: &mut Tally| check_written(&fixture, stdout);
    let mapped = every_call(&fixture, &["careful", "map"], &mut tally, check);
    assert_all_reported(
        &mapped,
        &[
            "fdatasync",
            "fsync",
            "pwrite64",
            "ftruncate",
            "fallocate",
            "rename",
            "openat",
            "mkdir",
            "mmap",
        ],
    );
    assert_all_reported(&mapped, &["flock", "getdents64", "statx"]);
}

#[test]
fn recovery_with_failing_syscalls_reports_and_loses_nothing() {
    let name = "recovery_with_failing_syscalls_reports_and_loses_nothing";
    if !can_trace(name) {
        return;
    }
    let mut tally = Tally::new(format!("injected: {name}"));
    let fixture = Fixture::torn();
    let check = |stdout: &str, _: &mut Tally| check_written(&fixture, stdout);
    let reported = every_call(&fixture, &["careful", "pread"], &mut tally, check);
    assert_all_reported(
        &reported,
        &["fdatasync", "fsync", "pwrite64", "ftruncate", "openat", "pread64", "getdents64"],
    );
}

#[test]
fn rollback_with_failing_syscalls_is_all_tables_or_none() {
    let name = "rollback_with_failing_syscalls_is_all_tables_or_none";
    if !can_trace(name) {
        return;
    }
    let mut tally = Tally::new(format!("injected: {name}"));
    let fixture = Fixture::torn();
    fixture.begin();
    let mut old = BTreeMap::new();
    check_sound(&fixture, |name, found| old.extend([(name.to_owned(), found)]));
    assert!(old["kept"].unwrap().1 > 14 && old["twin"].unwrap().1 == 16, "{old:?}");
    let new = BTreeMap::from([
        ("kept".to_owned(), Some((0, 6))),
        ("twin".to_owned(), Some((0, 6))),
        ("expiring".to_owned(), None),
    ]);
    let check = |stdout: &str, tally: &mut Tally| {
        let is_pending = fixture.roots[0].join("rollback.intent").exists();
        let mut found = BTreeMap::new();
        check_sound(&fixture, |name, held| found.extend([(name.to_owned(), held)]));
        let is_new = found == new;
        assert!(is_new || found == old, "{found:?} is neither {old:?} nor {new:?}");
        if stdout.contains("rolled back") || stdout.contains("the rollback was decided") {
            assert!(is_new, "a decided rollback did not happen");
        } else if stdout.contains("error ")
            && !stdout.contains("outcome of the rollback is unknown")
        {
            assert!(!is_new, "an undecided rollback happened");
        }
        tally.add(if is_new { "new" } else { "old" }, 1);
        tally.add("finished by the next open", u64::from(is_pending));
    };
    let reported = every_call(&fixture, &["roll-back", "5"], &mut tally, check);
    assert_all_reported(
        &reported,
        &["fdatasync", "fsync", "pwrite64", "rename", "openat", "pread64"],
    );
    for what in ["new", "old", "finished by the next open"] {
        assert!(tally.get(what) > 0, "{what}: {tally:?}");
    }
}
