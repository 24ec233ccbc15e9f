//! System calls that fail one by one, and processes that are killed instead of making a call.
//!
//! While it runs, the child checks that a failure that does not latch can be repeated, that
//! nothing is accepted after one that does, and that reads go on. Afterwards, without faults:
//! everything acknowledged is there, and the engine is at one version exactly.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use lithdb_process_tests::{Fault, can_trace, sample_of, scratch};
use lithdb_sim::{Effort, Tally};
use lithdb_state_engine::{Engines, OpenMode};

use crate::child::{self, COPIES, VERSIONS};
use crate::rows::{self, engines, read_dir, rows_at, version_of};
use crate::strace::{self, Run};

const fn fault(call: &'static str, names: &'static str, injection: &'static str) -> Fault {
    Fault { call, names, injection }
}

const RENAME: &str = "?rename,?renameat,?renameat2";
const UNLINK: &str = "?unlink,?unlinkat";
const LINK: &str = "?link,?linkat";
const MKDIR: &str = "?mkdir,?mkdirat";

const ERRORS: [Fault; 17] = [
    fault("fsync", "fsync", "error=EIO"),
    fault("fsync", "fsync", "error=ENOSPC"),
    fault("write", "write", "error=EIO"),
    fault("write", "write", "error=ENOSPC"),
    fault("pwrite64", "pwrite64", "error=EIO"),
    fault("pwrite64", "pwrite64", "error=ENOSPC"),
    fault("rename", RENAME, "error=EIO"),
    fault("rename", RENAME, "error=ENOSPC"),
    fault("openat", "openat", "error=EMFILE"),
    fault("openat", "openat", "error=EIO"),
    fault("openat", "openat", "error=ENOSPC"),
    fault("link", LINK, "error=EIO"),
    fault("link", LINK, "error=EMLINK"),
    fault("mkdir", MKDIR, "error=ENOSPC"),
    fault("unlink", UNLINK, "error=EIO"),
    fault("pread64", "pread64", "error=EIO"),
    fault("read", "read", "error=EIO"),
];

const DEATHS: [Fault; 5] = [
    fault("death at fsync", "fsync", "signal=SIGKILL"),
    fault("death at write", "write", "signal=SIGKILL"),
    fault("death at rename", RENAME, "signal=SIGKILL"),
    fault("death at link", LINK, "signal=SIGKILL"),
    fault("death at unlink", UNLINK, "signal=SIGKILL"),
];

/// The numbers, in the thread that tests, of the calls that concern the child's directory; by the
/// names of the calls.
#[derive(Default)]
struct Numbers(BTreeMap<&'static str, Vec<u64>>);

impl Numbers {
    fn of(&mut self, fault: &Fault) -> &[u64] {
        self.0.entry(fault.names).or_insert_with(|| count(fault))
    }
}

fn count(fault: &Fault) -> Vec<u64> {
    let dir = scratch();
    let root = dir.path().canonicalize().unwrap();
    let options = ["-e".to_owned(), format!("trace=write,{}", fault.names)];
    let run = strace::run(&root, &options);
    assert_eq!(run.marks().last().unwrap(), "end true", "{}", run.stdout());
    let is_mark = |call: &&strace::Call| {
        call.name == "write" && call.strings().concat().starts_with(b"MARK ")
    };
    let pid = run.calls.iter().find(is_mark).unwrap().pid.clone();
    let names: Vec<&str> =
        fault.names.split(',').map(|name| name.trim_start_matches('?')).collect();
    let is_it = |call: &&strace::Call| call.pid == pid && names.contains(&call.name.as_str());
    let calls = run.calls.iter().filter(is_it);
    let ours = calls.zip(1..).filter(|(call, _)| call.is_below(&root));
    let numbers: Vec<u64> = ours.map(|(_, number)| number).collect();
    assert!(!numbers.is_empty(), "{fault:?} never happens");
    numbers
}

/// Runs the child; the calls from `number` on fail, as many as `burst`.
fn run_with(fault: &Fault, number: u64, burst: u64, root: &Path) -> Run {
    let Fault { names, injection, .. } = fault;
    let last = number + burst - 1;
    let options = [
        "-e".to_owned(),
        format!("trace={names}"),
        "-e".to_owned(),
        format!("inject={names}:{injection}:when={number}..{last}"),
    ];
    strace::run(root, &options)
}

/// Checks the child's report, and what it left.
fn check(root: &Path, run: &Run, context: &str) {
    let marks = run.marks();
    let flushed = marks.iter().filter_map(|mark| mark.strip_prefix("ok flush "));
    let flushed: u64 = flushed.map(|version| version.parse().unwrap()).max().unwrap_or(0);
    match read_dir(&root.join("engine"), OpenMode::Write) {
        Ok(found) => {
            let version = version_of(&found);
            assert!(version >= flushed, "{context}: at {version}, {marks:#?}");
            assert!(found == rows_at(version), "{context}: not exactly version {version}");
        }
        Err(error) => {
            let is_created = marks.iter().any(|mark| mark == "ok create");
            assert!(!is_created, "{context}: {error}");
        }
    }
    for version in COPIES {
        let copy = root.join(child::copy_name(version));
        let clone = root.join(child::clone_name(version));
        let has = |what: &str| marks.iter().any(|mark| *mark == format!("ok {what} {version}"));
        assert!(copy.exists() || !has("publish"), "{context}");
        assert!(clone.exists() || !has("publish clone"), "{context}");
        for dir in [copy, clone].iter().filter(|dir| dir.exists()) {
            let found = read_dir(dir, OpenMode::ReadInPlace);
            let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(found == rows_at(version), "{context}: not exactly version {version}");
        }
    }
}

/// An engine that went on has left nothing behind but what its manifest names, and the manifest.
fn assert_tidy(root: &Path, context: &str) {
    for name in ["engine", "copy-4", "copy-9", "clone-9"] {
        let found: Vec<String> = rows::tree(&root.join(name)).into_keys().collect();
        let manifests = found.iter().filter(|name| name.starts_with('v')).count();
        let tables = found.iter().filter(|name| name.starts_with("tables/")).count();
        let stats = engines().open(&root.join(name), OpenMode::ReadInPlace).map(|it| it.stats());
        let stats = stats.unwrap_or_else(|error| panic!("{context}: {error}: {found:#?}"));
        let expected = (1, stats.files, stats.files + 2);
        assert_eq!((manifests, tables, found.len()), expected, "{context}: {found:#?}");
    }
}

/// The files are intact: no report may say otherwise.
fn assert_honest(run: &Run, fault: &Fault, context: &str) {
    let marks = run.marks();
    let stderr = String::from_utf8_lossy(&run.output.stderr);
    assert!(run.output.status.success(), "{context}: {marks:#?}\n{stderr}");
    for mark in marks.iter().filter(|mark| mark.starts_with("error ")) {
        for kind in ["Corrupt", "Foreign", "Missing", "Unsupported", "InvalidArgument"] {
            assert!(!mark.contains(&format!(": {kind} ")), "{context}: {mark}");
        }
        let is_full = mark.contains(": StorageFull ");
        assert!(!is_full || fault.injection.contains("ENOSPC"), "{context}: {mark}");
        assert!(!is_full || mark.contains("latched=false"), "{context}: {mark}");
        assert!(!mark.contains("panicked"), "{context}: {mark}");
    }
    let is_whole = marks.last().unwrap() == "end true";
    let is_latched = marks.iter().any(|mark| mark.contains("latched=true"));
    assert!(is_whole != is_latched, "{context}: {marks:#?}");
    let what = marks.iter().filter(|mark| mark.starts_with("error ")).count();
    // Removing what is superfluous may fail: nothing depends on it.
    assert!(what > 0 || fault.call == "unlink", "{context}: an injected error was not reported");
    if is_whole {
        let flushed = format!("ok flush {VERSIONS}");
        assert!(marks.contains(&flushed), "{context}: {marks:#?}");
    }
}

#[test]
fn failure_of_every_call_is_reported_and_loses_nothing() {
    if !can_trace("failure_of_every_call_is_reported_and_loses_nothing") {
        return;
    }
    let effort = Effort::from_env();
    let mut tally = Tally::new("failing calls of the production engine");
    let mut numbers = Numbers::default();
    for fault in ERRORS {
        let calls = numbers.of(&fault);
        let seed = effort.seed(fault.injection);
        for nth in sample_of(calls.len() as u64, 5, effort.is_deep(), seed) {
            let number = calls[nth as usize - 1];
            // Who lacks descriptors lacks them for the next call, too.
            let burst = if fault.injection.contains("EMFILE") { 2 } else { 1 };
            let dir = scratch();
            let root = dir.path().canonicalize().unwrap();
            let run = run_with(&fault, number, burst, &root);
            let context = format!("{} {} at call {nth} ({number})", fault.call, fault.injection);
            assert!(run.log.contains("INJECTED"), "{context}: nothing was injected");
            assert_honest(&run, &fault, &context);
            if run.marks().last().unwrap() == "end true" && fault.call != "unlink" {
                assert_tidy(&root, &context);
            }
            check(&root, &run, &context);
            tally.add("error points", 1);
            let latched = run.marks().iter().any(|mark| mark.contains("latched=true"));
            tally.add(if latched { "latched" } else { "repeated" }, 1);
        }
    }
}

#[test]
fn process_killed_at_every_call_leaves_one_version() {
    if !can_trace("process_killed_at_every_call_leaves_one_version") {
        return;
    }
    let effort = Effort::from_env();
    let mut tally = Tally::new("killed processes of the production engine");
    let mut numbers = Numbers::default();
    for fault in DEATHS {
        let calls = numbers.of(&fault);
        let seed = effort.seed(fault.call);
        for nth in sample_of(calls.len() as u64, 5, effort.is_deep(), seed) {
            let dir = scratch();
            let root = dir.path().canonicalize().unwrap();
            let run = run_with(&fault, calls[nth as usize - 1], 1, &root);
            let context = format!("{} at call {nth}", fault.call);
            assert_eq!(run.output.status.signal(), Some(9), "{context}: {}", run.stdout());
            check(&root, &run, &context);
            tally.add("deaths", 1);
        }
    }
}
