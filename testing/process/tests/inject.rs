//! System calls that fail, one by one: a process writes, collects, recovers, reads or rolls back, and each of its calls is
//! answered with an error in the kernel's place, or is where it is killed.
//!
//! What it says while that lasts must be honest: nothing is acknowledged after a sync that failed, a latched table takes
//! nothing, and nothing is called damaged that is not. What is there afterwards, without any fault: all that was
//! acknowledged, to the byte, and a beginning of what was put; what was collected stays away; all tables are rolled back or
//! none.
//!
//! A call that is answered by `strace` does not run. So a sync that fails here is one that the kernel refused before it did
//! anything: the page cache keeps the pages, and still has them when the database is opened again. Whether an opening trusts
//! what only the page cache has is tested on the simulated disk, which loses the pages. The databases are in memory, where
//! that is possible: no sync is waited for.

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

/// Errors that have to be told to whoever called.
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

/// Interruptions, which nobody hears of.
const INTERRUPTED: [Fault; 3] = [
    fault("pwrite64", "pwrite64", "error=EINTR"),
    fault("pread64", "pread64", "error=EINTR"),
    fault("fallocate", "fallocate", "error=EINTR"),
];

/// The process dies where it would have made the call.
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

/// A database to begin with, and a place for one to be broken.
struct Fixture {
    _dir: tempfile::TempDir,
    dir: PathBuf,
    roots: Vec<PathBuf>,
    /// What was acknowledged in the one to begin with.
    acked: BTreeMap<String, u64>,
}

impl Fixture {
    /// Nothing to begin with.
    fn new() -> Self {
        let tempdir = scratch();
        let dir = tempdir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("template")).unwrap();
        let roots = vec![dir.join("db/r0"), dir.join("db/r1")];
        Self { _dir: tempdir, dir, roots, acked: BTreeMap::new() }
    }

    /// What a killed process leaves, with bytes behind the end of its newest files that nobody finished.
    fn torn() -> Self {
        let mut fixture = Self::new();
        fixture.begin();
        let output = crashy(&["careful-death", "map"], &fixture.roots);
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        (fixture.acked, _) = parse_output(&said);
        assert_eq!(fixture.acked.len(), 2, "{said}");
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

/// The last acknowledged number of each table, and where what was not collected begins.
fn parse_output(said: &str) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (mut acked, mut gone) = (BTreeMap::new(), BTreeMap::new());
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ack", table, seq] => acked.insert(table.to_owned(), seq.parse().unwrap()),
            ["gone", table, seq] => gone.insert(table.to_owned(), seq.parse().unwrap()),
            _ => None,
        };
    }
    (acked, gone)
}

/// The operations that a table holds, each of them whole and by the pattern: the first, and the one after the last.
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

/// The database opens, verifies and goes on; `check` sees each table with the operations that it holds.
fn check_sound(fixture: &Fixture, mut check: impl FnMut(&str, Option<(u64, u64)>)) {
    let db = fixture.open();
    for name in ["kept", "twin", "gone"] {
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

/// Shown if the test fails while it lives.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Whether a process that ended so, and said that, was honest.
fn assert_no_violation(ran: &RunResult, said: &str, fault: Fault) {
    assert!(!said.contains("dishonest"));
    let status = ran.output.status;
    let is_killed = fault.injection.starts_with("signal") && status.signal() == Some(9);
    assert!(status.success() || is_killed, "{status:?}");
    if fault.injection == "error=EINTR" {
        assert!(!said.contains("error "), "an interruption is no failure");
    }
}

/// How often calls of one name were answered in the kernel's place, and in how many runs somebody was told of it.
type FaultCounts = BTreeMap<&'static str, [u64; 2]>;

/// Runs `args` again and again on a copy of the database, each time with another of its calls failing, and lets `check`
/// look at what it said and left.
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
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.contains("error"), "{output:?}");
        let seed = effort.seed(fault.call);
        // Of the syncs, on which everything depends, more than of the others.
        let most =
            if fault.call.ends_with("sync") && fault.injection == "error=EIO" { 10 } else { 1 };
        let once = sample_of(calls, most, is_deep, seed);
        let mut whens: Vec<String> = once.iter().map(u64::to_string).collect();
        if fault.injection.starts_with("error") && fault.injection != "error=EINTR" {
            // And for good from then on.
            let begins = if is_deep { once } else { vec![calls.div_ceil(2)] };
            whens.extend(begins.iter().filter(|n| **n > 0).map(|n| format!("{n}+")));
        }
        for when in whens {
            fixture.begin();
            let ran = run.with_fault(*fault, &when, &paths);
            let said = String::from_utf8_lossy(&ran.output.stdout).into_owned();
            let erred = String::from_utf8_lossy(&ran.output.stderr);
            let _shown = Context(format!("{fault:?} at {when}:\n{said}\n{erred}\n{}", ran.log));
            assert_no_violation(&ran, &said, *fault);
            check(&said, tally);
            let errors = said.lines().filter(|line| line.starts_with("error ")).count() as u64;
            if fault.call.ends_with("sync") && fault.injection.starts_with("error") {
                assert!(
                    ran.injected == 0 || errors > 0,
                    "nobody was reported of a sync that failed"
                );
            }
            let [injected, honest] = reported.entry(fault.call).or_default();
            *injected += ran.injected;
            *honest += u64::from(ran.injected > 0 && errors > 0);
            tally.add("runs", 1);
            tally.add(fault.call, ran.injected);
            tally.add("errors told", errors);
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

/// Faults of each of these calls have struck, and led to errors.
fn assert_all_reported(reported: &FaultCounts, calls: &[&str]) {
    for call in calls {
        assert!(
            reported.get(call).is_some_and(|[injected, reported]| *injected > 0 && *reported > 0),
            "{call}: {reported:?}"
        );
    }
}

/// After a process that wrote: what it had acknowledged is there.
fn check_written(fixture: &Fixture, said: &str) {
    let (now, gone) = parse_output(said);
    let mut acked = fixture.acked.clone();
    acked.extend(now);
    check_sound(fixture, |name, found| {
        let (begin, end) = match (acked.get(name), found) {
            (None, None) => return,
            (Some(acked), None) => panic!("{name}: {acked} was acknowledged, and it is gone"),
            (_, Some(found)) => found,
        };
        let floor = gone.get(name).copied().unwrap_or(0);
        assert!(end == 0 || begin >= floor, "{name}: {begin} came back, {floor} is the oldest");
        let Some(acked) = acked.get(name) else { return };
        // All of what had been sealed when it was collected, and nothing since.
        let is_collected = name == "gone" && end == 0 && *acked < 10;
        assert!(end > *acked || is_collected, "{name}: {acked} was acknowledged, {end} is the end");
        assert!(begin == 0 || name == "gone", "{name}: {begin} is the oldest");
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
    let check = |said: &str, _: &mut Tally| check_written(&fixture, said);
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
    let check = |said: &str, _: &mut Tally| check_written(&fixture, said);
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
        ("gone".to_owned(), None),
    ]);
    let check = |said: &str, tally: &mut Tally| {
        let is_pending = fixture.roots[0].join("rollback.intent").exists();
        let mut found = BTreeMap::new();
        check_sound(&fixture, |name, held| found.extend([(name.to_owned(), held)]));
        let is_new = found == new;
        assert!(is_new || found == old, "{found:?} is neither {old:?} nor {new:?}");
        if said.contains("rolled back") || said.contains("the rollback was decided") {
            assert!(is_new, "it was to happen");
        } else if said.contains("error ") && !said.contains("outcome of the rollback is unknown") {
            assert!(!is_new, "it was not to happen");
        }
        tally.add(if is_new { "new" } else { "old" }, 1);
        tally.add("finished by the next opening", u64::from(is_pending));
    };
    let reported = every_call(&fixture, &["roll-back", "5"], &mut tally, check);
    assert_all_reported(
        &reported,
        &["fdatasync", "fsync", "pwrite64", "rename", "openat", "pread64"],
    );
    for what in ["new", "old", "finished by the next opening"] {
        assert!(tally.get(what) > 0, "{what}: {tally:?}");
    }
}
