//! A copy of the tracked files to apply mutations in, and `cargo test` in it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::list::{Mutant, read_text};
use crate::process::{end, end_if_interrupted};

/// A test that runs longer counts as hung. The limit excludes the build and the wait for the build
/// directory's lock.
const TEST_LIMIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The result of a test.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// With the first panic message.
    Failed(String),
    Hung,
    /// The filter matched no test.
    NoTests,
    /// With the compiler's errors.
    NotBuilt(String),
}

/// The copy; removed on drop.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    target: PathBuf,
}

impl Scratch {
    /// Copies the files that `git ls-files` lists. Build output goes to `target`, or is removed
    /// with the copy.
    pub(crate) fn copy(root: &Path, target: Option<&Path>) -> Result<Self> {
        let dir = TempDir::new().map_err(|e| format!("cannot create a scratch directory: {e}"))?;
        let git = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
        let git = git.map_err(|e| format!("cannot run git ls-files: {e}"))?;
        if !git.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&git.stderr)));
        }
        let names = git.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        for name in names.map(|name| Path::new(OsStr::from_bytes(name))) {
            copy_file(&root.join(name), &dir.path().join(name))?;
        }
        let target = match target {
            Some(target) => std::path::absolute(target)
                .map_err(|e| format!("cannot find {}: {e}", target.display()))?,
            None => dir.path().join("target"),
        };
        Ok(Self { dir, target })
    }

    /// Calls `work` with the mutation applied to its file, then restores the file.
    pub(crate) fn with_mutation<T>(
        &self,
        mutant: &Mutant,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let path = self.dir.path().join(&mutant.file);
        let write = |text: &str| {
            fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
        };
        let text = read_text(&path)?;
        write(&mutant.apply(&text)?)?;
        let done = work();
        write(&text)?;
        done
    }

    /// Builds the test and runs it.
    pub(crate) fn test(&self, args: &[String]) -> Result<Outcome> {
        let log = self.dir.path().join("test.log");
        let built = self.cargo_test(&["--no-run"], args, &log)?;
        let built = built.wait_with_output().map_err(|e| format!("cannot run cargo: {e}"))?;
        let output = read_log(&log)?;
        if !built.status.success() {
            let errors = output.lines().filter(|line| line.starts_with("error"));
            return Ok(Outcome::NotBuilt(errors.collect::<Vec<_>>().join("; ")));
        }
        let running = self.cargo_test(&[], args, &log)?;
        let Some(status) = wait(running, &log, TEST_LIMIT)? else { return Ok(Outcome::Hung) };
        let output = read_log(&log)?;
        let is_run = |line: &str| line.starts_with("running ") && !line.starts_with("running 0 ");
        let has_passed = |line: &str| {
            line.starts_with("test result: ok. ") && !line.starts_with("test result: ok. 0 passed")
        };
        Ok(match status.success() {
            true if output.lines().any(has_passed) => Outcome::Passed,
            false if output.lines().any(is_run) => Outcome::Failed(first_panic(&output)),
            _ => Outcome::NoTests,
        })
    }

    /// Runs several tests of one test binary: the first arguments of `cargo test`, and the filters.
    /// Returns the filters; fails unless each of them has a test, and all tests pass.
    pub(crate) fn passing<'f>(
        &self,
        binary: &[String],
        filters: &BTreeSet<&'f str>,
    ) -> Result<Vec<&'f str>> {
        let log = self.dir.path().join("test.log");
        let mut args = binary.to_vec();
        args.push("--".to_owned());
        args.extend(filters.iter().map(|filter| (*filter).to_owned()));
        let ran = self.cargo_test(&[], &args, &log)?;
        let status = wait(ran, &log, TEST_LIMIT * filters.len() as u32)?;
        let output = read_log(&log)?;
        let passed = |filter: &&str| {
            let is_it = |line: &str| {
                let test = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... ok"));
                test.is_some_and(|test| test.contains(*filter))
            };
            output.lines().any(is_it)
        };
        let passed: Vec<&str> = filters.iter().copied().filter(passed).collect();
        if status.is_some_and(|status| status.success()) && passed.len() == filters.len() {
            return Ok(passed);
        }
        let found = match status {
            None => "it hangs".to_owned(),
            Some(status) => format!("{} of {}, {status}", passed.len(), filters.len()),
        };
        let panic = first_panic(&output);
        Err(format!(
            "cargo test {}: expected all tests to pass, found {found}: {panic}",
            args.join(" ")
        ))
    }

    /// Starts `cargo test` in a process group of its own; all its output goes to `log`.
    fn cargo_test(&self, first: &[&str], args: &[String], log: &Path) -> Result<Child> {
        let out = File::create(log).map_err(|e| format!("cannot create {}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| format!("cannot open {}: {e}", log.display()))?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--locked"]).args(first).args(args).current_dir(self.dir.path());
        command.env("CARGO_TARGET_DIR", &self.target).env("CARGO_TERM_COLOR", "never");
        // A test that cannot run here must not count as passed, and no test may remember a
        // failure.
        command.env("LITHDB_REQUIRE_STRACE", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        command.spawn().map_err(|e| format!("cannot run cargo: {e}"))
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    }
    match fs::copy(from, to) {
        // Tracked, but removed from the work tree.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(|_| ()).map_err(|e| format!("cannot copy {}: {e}", from.display())),
    }
}

/// Waits for the child; when its tests have run for `limit`, ends it and its descendants.
fn wait(mut child: Child, log: &Path, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut started = None;
    loop {
        let ended = child.try_wait().map_err(|e| format!("cannot wait for cargo: {e}"))?;
        if ended.is_some() {
            return Ok(ended);
        }
        if started.is_none() && read_log(log)?.contains(" Running ") {
            started = Some(Instant::now());
        }
        if started.is_some_and(|started| started.elapsed() > limit) {
            end(&mut child)?;
            return Ok(None);
        }
        end_if_interrupted(&mut child)?;
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The output of a test need not be UTF-8.
fn read_log(log: &Path) -> Result<String> {
    let output = fs::read(log).map_err(|e| format!("cannot read {}: {e}", log.display()))?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

fn first_panic(output: &str) -> String {
    let message = output.lines().skip_while(|line| !line.contains(" panicked at ")).nth(1);
    let line = message.unwrap_or("no panic message");
    line.chars().take(100).collect()
}
