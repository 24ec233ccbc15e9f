//! A copy of the tracked files in which lines may be broken, and `cargo test` in it.

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

/// A test that runs for longer hangs. Its build is not counted, nor how long others keep the build directory locked.
const TEST_LIMIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How a test went.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// With the first thing that the test said.
    Failed(String),
    Hung,
    /// The filter matched no test.
    NoTests,
    /// With what the compiler said.
    NotBuilt(String),
}

/// The copy; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    target: PathBuf,
}

impl Scratch {
    /// Copies what `git ls-files` names. What is built goes to `target`, or is gone with the copy.
    pub(crate) fn copy(root: &Path, target: Option<&Path>) -> Result<Self> {
        let dir = TempDir::new().map_err(|e| format!("make a scratch directory: {e}"))?;
        let git = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
        let git = git.map_err(|e| format!("run git ls-files: {e}"))?;
        if !git.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&git.stderr)));
        }
        let names = git.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        for name in names.map(|name| Path::new(OsStr::from_bytes(name))) {
            copy_file(&root.join(name), &dir.path().join(name))?;
        }
        let target = match target {
            Some(target) => std::path::absolute(target)
                .map_err(|e| format!("find {}: {e}", target.display()))?,
            None => dir.path().join("target"),
        };
        Ok(Self { dir, target })
    }

    /// Does something with the mutant's file broken, and makes it whole again.
    pub(crate) fn with_mutation<T>(
        &self,
        mutant: &Mutant,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let path = self.dir.path().join(&mutant.file);
        let write = |text: &str| {
            fs::write(&path, text).map_err(|e| format!("write {}: {e}", path.display()))
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
        let built = built.wait_with_output().map_err(|e| format!("run cargo: {e}"))?;
        let said = read_log(&log)?;
        if !built.status.success() {
            let errors = said.lines().filter(|line| line.starts_with("error"));
            return Ok(Outcome::NotBuilt(errors.collect::<Vec<_>>().join("; ")));
        }
        let running = self.cargo_test(&[], args, &log)?;
        let Some(status) = wait(running, &log)? else { return Ok(Outcome::Hung) };
        let said = read_log(&log)?;
        let is_run = |line: &str| line.starts_with("running ") && !line.starts_with("running 0 ");
        let has_passed = |line: &str| {
            line.starts_with("test result: ok. ") && !line.starts_with("test result: ok. 0 passed")
        };
        Ok(match status.success() {
            true if said.lines().any(has_passed) => Outcome::Passed,
            false if said.lines().any(is_run) => Outcome::Failed(first_panic(&said)),
            _ => Outcome::NoTests,
        })
    }

    /// `cargo test`, begun in a process group of its own; all that it says goes to `log`.
    fn cargo_test(&self, first: &[&str], args: &[String], log: &Path) -> Result<Child> {
        let out = File::create(log).map_err(|e| format!("create {}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| format!("open {}: {e}", log.display()))?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--locked"]).args(first).args(args).current_dir(self.dir.path());
        command.env("CARGO_TARGET_DIR", &self.target).env("CARGO_TERM_COLOR", "never");
        // A test that cannot run here must not count as passed, and none may remember how it failed.
        command.env("LITHDB_REQUIRE_STRACE", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        command.spawn().map_err(|e| format!("run cargo: {e}"))
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
    }
    match fs::copy(from, to) {
        // Tracked, and removed from the work tree.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(|_| ()).map_err(|e| format!("copy {}: {e}", from.display())),
    }
}

/// Waits for the child; after the limit it ends it, and all that it started.
fn wait(mut child: Child, log: &Path) -> Result<Option<ExitStatus>> {
    let mut started = None;
    loop {
        let ended = child.try_wait().map_err(|e| format!("wait for cargo: {e}"))?;
        if ended.is_some() {
            return Ok(ended);
        }
        if started.is_none() && read_log(log)?.contains(" Running ") {
            started = Some(Instant::now());
        }
        if started.is_some_and(|started| started.elapsed() > TEST_LIMIT) {
            end(&mut child)?;
            return Ok(None);
        }
        end_if_interrupted(&mut child)?;
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// What a test says need not be text.
fn read_log(log: &Path) -> Result<String> {
    let said = fs::read(log).map_err(|e| format!("read {}: {e}", log.display()))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn first_panic(said: &str) -> String {
    let behind = said.lines().skip_while(|line| !line.contains(" panicked at ")).nth(1);
    let line = behind.unwrap_or("it ended without a word");
    line.chars().take(100).collect()
}
