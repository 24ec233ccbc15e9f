//! `cargo xtask deep`: the tests and fuzzers of the quick run for a given time, with a new seed in
//! every round.
//!
//! Two lanes run in parallel until the time is up: one repeats the drivers of the test suite, the
//! other the fuzzers. Whatever has started is finished. A finding stops nothing: it is reported
//! with its seed and its log, and makes the exit status a failure.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{Ended, wait_at_most};
use crate::tally::Tally;

/// The test drivers of a round: name, arguments of `cargo test`.
const DRIVERS: &[(&str, &[&str])] = &[
    ("model", &["-p", "lithdb", "--test", "model"]),
    ("segment-crash", &["-p", "lithdb-segment", "--test", "crash"]),
    ("table-crash", &["-p", "lithdb-table", "--test", "crash"]),
    ("table-faults", &["-p", "lithdb-table", "--test", "faults"]),
    ("table-double-faults", &["-p", "lithdb-table", "--test", "double_faults"]),
    ("table-damage", &["-p", "lithdb-table", "--test", "corruption", "--test", "stale_blocks"]),
    ("repair", &["-p", "lithdb-repair", "--test", "repair"]),
    ("format-oracle", &["-p", "lithdb-table", "--test", "format_oracle"]),
    (THREADS, &["-p", "lithdb-table", "--test", "threads"]),
    ("rollback-crash", &["-p", "lithdb", "--test", "rollback_crash"]),
    ("rollback-faults", &["-p", "lithdb", "--test", "rollback_faults"]),
    ("stale-files", &["-p", "lithdb", "--test", "stale_files"]),
    ("lost-roots", &["-p", "lithdb", "--test", "lost_roots"]),
    ("bit-flips", &["-p", "lithdb", "--test", "bit_flips"]),
    ("processes", &["-p", "lithdb-process-tests"]),
    (
        "tool-processes",
        &["-p", "lith", "--test", "rollback", "--test", "inject", "--test", "state_killed"],
    ),
    ("sim", &["-p", "lithdb-sim", "--tests"]),
    ("state-crash", &["-p", "lithdb-state", "--test", "crash", "--test", "layouts"]),
    ("state-faults", &["-p", "lithdb-state", "--test", "faults"]),
    ("state-pitfalls", &["-p", "lithdb-state", "--test", "pitfalls"]),
    ("state-model", &["-p", "lithdb-state", "--test", "model"]),
    ("state-import", &["-p", "lithdb-state", "--test", "import"]),
    ("state-threads", &["-p", "lithdb-state", "--test", "concurrency"]),
    ("state-kills", &["-p", "lithdb-state", "--test", "processes", "--", "--skip", "soak"]),
    ("state-soak", &["-p", "lithdb-state", "--test", "processes", "soak"]),
    ("state-engine", &["-p", "lithdb-state-engine", "--tests"]),
];

/// The time allowed for building, in addition to a child's own limit.
const BUILD_LIMIT: Duration = Duration::from_mins(30);

/// The models of threads need other build flags, and so their own target directory.
const THREADS: &str = "threads";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Start nothing new after this many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The seed of the first round; each further one takes the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Multiplier for the random images, rounds and histories of the quick run
    #[arg(long, default_value_t = 4)]
    effort: u64,
    /// Seconds per fuzzer and round; 0: no fuzzing
    #[arg(long, default_value_t = 120)]
    fuzz_seconds: u64,
    /// Only these drivers or fuzzers
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Directory for the logs, the tally, the report and the inputs the fuzzers find
    #[arg(long, value_name = "DIR", default_value = "target/deep")]
    report: PathBuf,
}

/// A run in progress.
struct Deep<'a> {
    root: &'a Path,
    args: &'a Args,
    dir: PathBuf,
    started: Instant,
    findings: Mutex<Vec<String>>,
    fuzzed: Mutex<Vec<FuzzStats>>,
}

/// The statistics of a fuzzer over all its rounds.
#[derive(Debug, Clone, Default)]
struct FuzzStats {
    target: String,
    executions: u64,
    edges: u64,
    seconds: u64,
}

/// Returns whether there were no findings.
pub(crate) fn run(root: &Path, args: &Args) -> Result<bool> {
    let dir = root.join(&args.report);
    fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    let deep = Deep {
        root,
        args,
        dir,
        started: Instant::now(),
        findings: Mutex::default(),
        fuzzed: Mutex::default(),
    };
    let drivers = DRIVERS.iter().filter(|(name, _)| deep.is_selected(name)).collect::<Vec<_>>();
    let is_driver = |only: &String| DRIVERS.iter().any(|(name, _)| name == only);
    let is_drivers_only = !args.only.is_empty() && args.only.iter().all(is_driver);
    let has_fuzzers = args.fuzz_seconds > 0 || !args.only.is_empty();
    let has_fuzzers = has_fuzzers && !is_drivers_only;
    let targets = if has_fuzzers { deep.fuzz_targets()? } else { Vec::new() };
    if let Some(unknown) = args.only.iter().find(|only| !is_driver(only) && !targets.contains(only))
    {
        let names: Vec<&str> = DRIVERS.iter().map(|(name, _)| *name).collect();
        let names = names.into_iter().chain(targets.iter().map(String::as_str));
        let names = names.collect::<Vec<_>>().join(", ");
        return Err(format!("expected some of {names}, found {unknown:?}"));
    }
    let is_to_run = |name: &String| args.fuzz_seconds > 0 && deep.is_selected(name);
    let targets: Vec<_> = targets.into_iter().filter(is_to_run).collect();
    if drivers.is_empty() && targets.is_empty() {
        return Err(
            "nothing to run: only fuzzers were selected, and --fuzz-seconds is 0".to_owned()
        );
    }
    let tally = deep.path("tally.txt");
    File::create(&tally).map_err(|e| format!("cannot create {}: {e}", tally.display()))?;
    let (tests, fuzzers) = std::thread::scope(|scope| {
        let fuzzers =
            scope.spawn(|| deep.run_rounds(&targets, |target, seed| deep.fuzz(target, seed)));
        let tests = deep.run_rounds(&drivers, |driver, seed| deep.test(driver.0, driver.1, seed));
        (tests, fuzzers.join())
    });
    let fuzzers = fuzzers.unwrap_or_else(|_| {
        deep.record_finding("the fuzzer lane panicked".to_owned());
        0
    });
    deep.report(&tally, tests, fuzzers)
}

impl Deep<'_> {
    fn is_selected(&self, name: &str) -> bool {
        self.args.only.is_empty() || self.args.only.iter().any(|only| only == name)
    }

    fn is_time_up(&self) -> bool {
        self.started.elapsed() >= Duration::from_secs(60 * self.args.minutes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn record_finding(&self, finding: String) {
        self.say(&format!("FOUND: {finding}"));
        lock(&self.findings).push(finding);
    }

    fn say(&self, what: &str) {
        println!("{:>6} s  {what}", self.started.elapsed().as_secs());
        #[expect(clippy::let_underscore_must_use, reason = "`println` would have failed first")]
        let _ = std::io::stdout().flush();
    }

    /// Runs round after round until the time is up or an error, which is a finding, stops the
    /// lane; returns the number of rounds started.
    fn run_rounds<T>(&self, steps: &[T], step: impl Fn(&T, u64) -> Result<()>) -> u64 {
        let mut rounds = 0;
        while !steps.is_empty() && !self.is_time_up() {
            let seed = self.args.seed.wrapping_add(rounds);
            rounds += 1;
            for one in steps {
                if self.is_time_up() {
                    break;
                }
                if let Err(error) = step(one, seed) {
                    self.record_finding(error);
                    return rounds;
                }
            }
        }
        rounds
    }

    /// Runs a command with its output in a log, for at most `limit` plus the build limit.
    fn logged(&self, command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
        let out = File::create(log).map_err(|e| format!("cannot create {}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| format!("cannot open {}: {e}", log.display()))?;
        command.current_dir(self.root).env("CARGO_TERM_COLOR", "never").env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        wait_at_most(command, limit.saturating_add(BUILD_LIMIT))
    }

    fn test(&self, name: &str, args: &[&str], seed: u64) -> Result<()> {
        let (began, effort) = (Instant::now(), self.args.effort);
        let log = self.path(&format!("{name}-{seed}.log"));
        // Not the path in `CARGO`: another path to cargo would rebuild everything.
        let mut command = Command::new("cargo");
        command.args(["test", "--locked"]).args(args).env_remove("CARGO");
        if name == THREADS {
            command.args(["--release", "--target-dir", "target/shuttle"]);
            command.env("RUSTFLAGS", "--cfg lithdb_shuttle");
        }
        command.env("LITHDB_SEED", seed.to_string()).env("LITHDB_EFFORT", effort.to_string());
        command.env("LITHDB_TALLY", self.path("tally.txt"));
        // No test run depends on earlier findings, and a test that cannot run here is a finding,
        // too.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.env("LITHDB_REQUIRE_STRACE", "1").env("LITHDB_REQUIRE_TMPFS", "1");
        let limit = Duration::from_secs(effort.saturating_mul(600));
        let ended = self.logged(&mut command, &log, limit)?;
        let seconds = began.elapsed().as_secs();
        match ended {
            Ended::Passed => self.say(&format!("{name}, seed {seed}: passed in {seconds} s")),
            other => self.record_finding(format!(
                "{name}: {other} with LITHDB_SEED={seed} LITHDB_EFFORT={effort}, see {}",
                log.display()
            )),
        }
        Ok(())
    }

    fn fuzz_targets(&self) -> Result<Vec<String>> {
        let mut command = nightly_fuzz("list");
        let output = command.current_dir(self.root).output();
        let output = output.map_err(|e| format!("cannot run cargo fuzz: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo fuzz list: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let listed = String::from_utf8_lossy(&output.stdout);
        Ok(listed.lines().map(str::to_owned).collect())
    }

    fn fuzz(&self, target: &str, seed: u64) -> Result<()> {
        let log = self.path(&format!("fuzz-{target}-{seed}.log"));
        // New inputs go next to the report, not into the committed corpus.
        let corpus = self.path("corpus").join(target);
        fs::create_dir_all(&corpus)
            .map_err(|e| format!("cannot create {}: {e}", corpus.display()))?;
        let mut command = nightly_fuzz("run");
        command.arg(target).arg(&corpus);
        command.arg(Path::new("fuzz/corpus").join(target)).arg("--");
        command.arg(format!("-max_total_time={}", self.args.fuzz_seconds));
        // The seed 0 makes libFuzzer choose a random seed.
        command.arg(format!("-seed={}", (seed & 0x7FFF_FFFF).max(1)));
        command.args(["-print_final_stats=1", "-rss_limit_mb=2048", "-verbosity=1"]);
        if matches!(target, "crash_recovery" | "rollback") {
            command.args(["-len_control=0", "-max_len=600"]);
        }
        let limit = Duration::from_secs(self.args.fuzz_seconds.saturating_add(300));
        let ended = self.logged(&mut command, &log, limit)?;
        let output = String::from_utf8_lossy(&read(&log)?).into_owned();
        let did = FuzzStats::parse(target, &output);
        match ended {
            Ended::Passed => self.say(&format!(
                "fuzz {target}, seed {seed}: {} executions, {} edges",
                did.executions, did.edges
            )),
            other => self.record_finding(format!(
                "fuzz {target}: {other}, seed {seed}, see {}",
                log.display()
            )),
        }
        let mut all = lock(&self.fuzzed);
        match all.iter_mut().find(|fuzzed| fuzzed.target == target) {
            Some(before) => before.add(&did),
            None => all.push(did),
        }
        Ok(())
    }

    fn report(&self, tally: &Path, test_rounds: u64, fuzz_rounds: u64) -> Result<bool> {
        let (args, findings) = (self.args, lock(&self.findings));
        let mut text = format!(
            "{} s; seeds from {}, effort {}; rounds started: {test_rounds} of tests, {fuzz_rounds} of fuzzers\n\
             (Crash points, error points, flips and lengths are enumerated: every round tries and counts the same ones.)\n\n{}",
            self.started.elapsed().as_secs(),
            args.seed,
            args.effort,
            Tally::read(tally)?
        );
        for did in lock(&self.fuzzed).iter() {
            text += &format!(
                "fuzz {}: {} executions, {} edges, {} s\n",
                did.target, did.executions, did.edges, did.seconds
            );
        }
        text += &format!("\n{} findings\n", findings.len());
        findings.iter().for_each(|finding| text += &format!("{finding}\n"));
        print!("\n{text}");
        let path = self.path("report.txt");
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(findings.is_empty())
    }
}

impl FuzzStats {
    /// Parses libFuzzer's final statistics.
    fn parse(target: &str, output: &str) -> Self {
        let number_after = |mark: &str| {
            let rest = output.rsplit(mark).next().filter(|_| output.contains(mark))?;
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        Self {
            target: target.to_owned(),
            executions: number_after("stat::number_of_executed_units:").unwrap_or(0),
            edges: number_after(" cov: ").unwrap_or(0),
            seconds: number_after(" runs in ").unwrap_or(0),
        }
    }

    fn add(&mut self, more: &Self) {
        self.executions += more.executions;
        self.edges = self.edges.max(more.edges);
        self.seconds += more.seconds;
    }
}

/// `cargo fuzz` on nightly, whatever toolchain runs this program.
fn nightly_fuzz(what: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", what]).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// A lane that panicked leaves nothing inconsistent behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzzer_output_is_parsed() {
        let output = "#2\tINITED cov: 10 ft: 11 corp: 1/1b\n#512\tDONE   cov: 831 ft: 2190 corp: 9/1Kb lim: 4 exec/s: 0\n\
                    Done 512 runs in 21 second(s)\nstat::number_of_executed_units: 512\nstat::average: 1\n";
        let mut did = FuzzStats::parse("names", output);
        assert_eq!((did.executions, did.edges, did.seconds), (512, 831, 21));
        did.add(&FuzzStats::parse("names", "nothing"));
        assert_eq!((did.executions, did.edges, did.seconds), (512, 831, 21));
    }

    #[test]
    fn every_driver_names_an_existing_test() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (name, args) in DRIVERS {
            let package = args.get(1).unwrap();
            let dir = match *package {
                "lithdb" => "crates/lithdb".to_owned(),
                "lithdb-process-tests" => "testing/process".to_owned(),
                "lith" => "crates/lith".to_owned(),
                other => ["crates", "testing"]
                    .map(|dir| other.replace("lithdb-", &format!("{dir}/")))
                    .into_iter()
                    .find(|dir| root.join(dir).exists())
                    .unwrap(),
            };
            let dir = root.join(dir);
            assert!(dir.join("Cargo.toml").exists(), "{name}: no package {package}");
            for pair in args.windows(2).filter(|pair| pair[0] == "--test") {
                let test = dir.join("tests").join(pair[1]);
                let is_there = test.with_extension("rs").exists() || test.join("main.rs").exists();
                assert!(is_there, "{name}: no test {}", pair[1]);
            }
        }
    }
}
