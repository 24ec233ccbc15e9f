//! `cargo xtask mutants`: applies every mutation in turn. A test that passes on its mutant tests
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Result;
use crate::list::{Mutant, read};
use crate::scratch::{Outcome, Scratch};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these mutants
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Only print the list
    #[arg(long)]
    list: bool,
    /// Continue after a mutant that survives or does not build
    #[arg(long)]
    keep_going: bool,
    /// Keep the build output in this directory, for the next run
    #[arg(long, value_name = "DIR")]
    jobs_target_dir: Option<PathBuf>,
}

/// The result of a mutant, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MutantResult {
    Killed,
    /// The test hangs, which counts as killed, too.
    Hang,
    Survived,
    /// The mutant does not build, or no test runs.
    Broken,
}

/// Returns whether every mutant was killed.
pub(crate) fn run(root: &Path, args: &Args) -> Result<bool> {
    let mut mutants = read(root)?;
    if let Some(name) = args.only.iter().find(|name| mutants.iter().all(|m| m.name != **name)) {
        return Err(format!("expected a name from testing/mutants.toml, found {name}"));
    }
    mutants.retain(|m| args.only.is_empty() || args.only.contains(&m.name));
    if args.list {
        mutants.iter().for_each(|m| println!("{:>2}  {:<56} {}", m.guarantee, m.name, m.why));
        return Ok(true);
    }
    let started = Instant::now();
    let scratch = Scratch::copy(root, args.jobs_target_dir.as_deref())?;
    check_unmutated(&scratch, &mutants)?;
    println!("\n{:<9} {:>6}   g  {:<56} test; message", "outcome", "time", "mutant");
    let mut results = Vec::with_capacity(mutants.len());
    for mutant in &mutants {
        let result = scratch.with_mutation(mutant, || try_mutant(&scratch, mutant))?;
        results.push(result);
        if result >= MutantResult::Survived && !args.keep_going {
            break;
        }
    }
    let count = |result: MutantResult| results.iter().filter(|f| **f == result).count();
    println!(
        "\n{} of {} mutants: {} killed, {} of them hung; {} survived; {} broken; {} s",
        results.len(),
        mutants.len(),
        count(MutantResult::Killed) + count(MutantResult::Hang),
        count(MutantResult::Hang),
        count(MutantResult::Survived),
        count(MutantResult::Broken),
        started.elapsed().as_secs()
    );
    Ok(results.iter().all(|result| *result < MutantResult::Survived))
}

/// Checks that every test passes without a mutation; those of one test binary in one run.
fn check_unmutated(scratch: &Scratch, mutants: &[Mutant]) -> Result<()> {
    let mut binaries: BTreeMap<&[String], BTreeSet<&str>> = BTreeMap::new();
    for (filter, binary) in mutants.iter().flat_map(Mutant::tests).filter_map(<[_]>::split_last) {
        binaries.entry(binary).or_default().insert(filter);
    }
    for (binary, filters) in binaries {
        let (started, name) = (Instant::now(), binary.join(" "));
        for filter in scratch.passing(binary, &filters)? {
            say(&format!("passes    {:>4} s  {name} {filter}", seconds(started)));
        }
    }
    Ok(())
}

fn try_mutant(scratch: &Scratch, mutant: &Mutant) -> Result<MutantResult> {
    let mut worst = MutantResult::Killed;
    for test in mutant.tests() {
        let started = Instant::now();
        let (result, outcome, message) = match scratch.test(test)? {
            Outcome::Failed(message) => (MutantResult::Killed, "killed", message),
            Outcome::Hung => (MutantResult::Hang, "hang", String::new()),
            Outcome::Passed => (MutantResult::Survived, "SURVIVED", mutant.why.clone()),
            Outcome::NoTests => (MutantResult::Broken, "BROKEN", "no test ran".to_owned()),
            Outcome::NotBuilt(errors) => (MutantResult::Broken, "BROKEN", errors),
        };
        worst = worst.max(result);
        let (time, guarantee, name) = (seconds(started), mutant.guarantee, &mutant.name);
        let test = test.last().map_or("", String::as_str);
        say(&format!("{outcome:<9} {time:>4} s  {guarantee:>2}  {name:<56} {test}; {message}"));
    }
    Ok(worst)
}

fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

/// Prints a line and flushes it, so that it appears in a log at once.
fn say(line: &str) {
    println!("{line}");
    #[expect(clippy::let_underscore_must_use, reason = "`println` would have failed first")]
    let _ = std::io::stdout().flush();
}
