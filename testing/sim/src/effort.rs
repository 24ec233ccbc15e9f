//! How hard the tests try, and what they have tried: one code for the quick run and the deep one.
//!
//! Three variables of the environment turn the one into the other. `LITHDB_SEED` is the seed of every random choice that is
//! not an enumeration (0 unless given: the quick run is the same every time). `LITHDB_EFFORT` multiplies how many random
//! images, rounds and histories are tried (1 unless given). `LITHDB_TALLY` names a file to which every finished test appends
//! a line with what it counted; `cargo xtask tally FILE` adds them up.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::choice::splitmix64;

/// How hard to try, as the environment says.
///
/// ```
/// use lithdb_sim::Effort;
/// let effort = Effort::from_env();
/// assert!(effort.times(50) >= 50);
/// assert_eq!(effort.seed("crashes"), effort.seed("crashes"));
/// assert_ne!(effort.seed("crashes"), effort.seed("faults"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    seed: u64,
    factor: u64,
}

impl Effort {
    /// What `LITHDB_SEED` and `LITHDB_EFFORT` say.
    ///
    /// # Panics
    /// If one of them is given and is not a number: a run that was asked for is not replaced by another.
    pub fn from_env() -> Self {
        Self { seed: number("LITHDB_SEED", 0), factor: number("LITHDB_EFFORT", 1).max(1) }
    }

    /// `count` things in a quick run, as many times that as was asked for in a deep one.
    pub fn times(self, count: u64) -> u64 {
        count.saturating_mul(self.factor)
    }

    /// Whether this is more than the quick run.
    pub fn is_deep(self) -> bool {
        self.factor > 1
    }

    /// The seed of one test or scenario of that name: another for every name and every `LITHDB_SEED`.
    pub fn seed(self, name: &str) -> u64 {
        name.bytes().fold(self.seed, |mut state, byte| {
            state ^= u64::from(byte);
            splitmix64(&mut state)
        })
    }
}

#[expect(
    clippy::panic,
    reason = "tests call this: a run that was asked for is not replaced by another"
)]
fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(given) => match given.parse() {
            Ok(number) => number,
            Err(_) => panic!("{variable}: expected a number, found {given:?}"),
        },
        Err(_) => otherwise,
    }
}

/// What a test tried, by name; told when it is dropped, on standard output and in the file that `LITHDB_TALLY` names.
///
/// ```
/// let mut tally = lithdb_sim::Tally::new("crashes of a table: two puts");
/// tally.add("crash points", 12);
/// tally.add("images", 80);
/// assert_eq!(tally.get("images"), 80);
/// ```
#[derive(Debug)]
pub struct Tally {
    name: String,
    counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Nothing yet, for the test or scenario of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), counts: BTreeMap::new() }
    }

    /// So many more of `what`: "crash points", "images", "error points", "byte flips", "histories" and the like.
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    /// How many of `what` so far.
    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let counts: Vec<String> =
            self.counts.iter().map(|(what, n)| format!("{what}={n}")).collect();
        let line = format!("{}\t{}\n", self.name, counts.join("\t"));
        print!("tally\t{line}");
        let Some(path) = std::env::var_os("LITHDB_TALLY") else { return };
        // One write at the end of the file: the lines of tests that end together do not mix.
        #[expect(clippy::disallowed_types, reason = "a report, not a part of any image of a disk")]
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("{}: the tally could not be kept: {error}", path.display());
        }
    }
}
