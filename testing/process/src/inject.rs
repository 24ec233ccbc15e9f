//! Failing system calls: a process runs under `strace`, which injects errors into its calls.
//!
//! An injected call does not run. So a sync that fails here is one that the kernel *refused*:
//! nothing was written, no page was dropped, and the process goes on reading the same page cache.
//! The simulated disk (`lithdb-sim`) covers syncs that fail and lose the pages.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::skip_or_fail;

fn runs(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether this machine allows tracing; if not, reports it loudly, or fails if
/// `LITHDB_REQUIRE_STRACE` is 1.
pub fn can_trace(test: &str) -> bool {
    if !runs(Command::new("strace").arg("-V")) {
        skip_or_fail(test, "strace is not installed", "LITHDB_REQUIRE_STRACE");
        return false;
    }
    if !runs(Command::new("strace").args(["-f", "-o", "/dev/null", "true"])) {
        skip_or_fail(test, "strace has no permission to trace", "LITHDB_REQUIRE_STRACE");
        return false;
    }
    true
}

/// A system call, by all the names it has on Linux's architectures, and the fault to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The name of the system call in the tally.
    pub call: &'static str,
    /// The set of calls in `strace` syntax.
    pub names: &'static str,
    /// `error=EIO` and the like, or `signal=SIGKILL`: the process is killed instead of making the
    /// call.
    pub injection: &'static str,
}

/// A process to run: program and arguments.
#[derive(Debug, Clone)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    /// Only system calls on files below this directory count.
    below: PathBuf,
}

/// The result of a run.
#[derive(Debug)]
pub struct RunResult {
    /// The exit status and the output.
    pub output: Output,
    /// The number of injected calls; for a signal, whether it was delivered.
    pub injected: u64,
    /// The trace that `strace` wrote.
    pub log: String,
}

impl Run {
    /// Runs `program` with `args`; only calls on files below `below` (a canonical path) count and
    /// fail.
    pub fn new(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        below: &Path,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { program: program.into(), args, below: below.to_owned() }
    }

    fn trace(&self, options: &[String], paths: &BTreeSet<PathBuf>) -> (Output, String) {
        let log = tempfile::NamedTempFile::new().expect("a file for the trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-e", "signal=none"]).args(options);
        command.args(paths.iter().flat_map(|path| [Path::new("-P"), path]));
        command.arg("-o").arg(log.path()).arg(&self.program).args(&self.args);
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        let output = command.output().expect("strace");
        (output, std::fs::read_to_string(log.path()).expect("the trace"))
    }

    /// Runs it without faults: returns how often it makes these calls, and on which files.
    /// `strace` counts each thread separately; a fault hits the call of one number in every
    /// thread.
    pub fn count_calls(&self, names: &str) -> (Output, u64, BTreeSet<PathBuf>) {
        let (output, log) =
            self.trace(&["-e".to_owned(), format!("trace={names}")], &BTreeSet::new());
        let below = self.below.to_str().expect("a path in UTF-8");
        let (mut calls, mut paths) = (0, BTreeSet::new());
        for line in log.lines().filter(|line| !line.contains("resumed>")) {
            let ours: Vec<PathBuf> = line
                .match_indices(below)
                .filter_map(|(at, _)| line.get(at..)?.split(['>', '"']).next())
                .map(PathBuf::from)
                .filter(|path| path.starts_with(&self.below))
                .collect();
            calls += u64::from(!ours.is_empty());
            paths.extend(ours);
        }
        (output, calls, paths)
    }

    /// Runs it and injects `fault` into the calls on `paths` that `when` selects (`3`: the third,
    /// `3+`: all from the third on).
    pub fn with_fault(&self, fault: Fault, when: &str, paths: &BTreeSet<PathBuf>) -> RunResult {
        let Fault { names, injection, .. } = fault;
        let inject = format!("inject={names}:{injection}:when={when}");
        let options = ["-e", &format!("trace={names}"), "-e", &inject].map(str::to_owned);
        let (output, log) = self.trace(&options, paths);
        let is_killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
        let answered = log.lines().filter(|line| line.contains("(INJECTED)")).count() as u64;
        let injected = answered + u64::from(is_killed);
        RunResult { output, injected, log }
    }
}

/// A sample of the numbers from 1 to `calls`; all of them in a deep run. Otherwise the first, the
/// last, and others in even steps from an offset that `seed` determines.
pub fn sample_of(calls: u64, most: u64, is_deep: bool, seed: u64) -> Vec<u64> {
    let step = if is_deep { 1 } else { calls.div_ceil(most.max(1)).max(1) };
    let inner = (1..=calls).skip((seed % step) as usize).step_by(step as usize);
    let ends = [1, calls].into_iter().filter(|n| (1..=calls).contains(n));
    inner.chain(ends).collect::<BTreeSet<_>>().into_iter().collect()
}
