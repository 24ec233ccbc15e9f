//! How many cases the tests try, and a tally of what they tried: one code base for the quick and
//! the deep run.
//!
//! Three environment variables make a deep run of the quick one. `LITHDB_SEED` seeds every random
//! choice that is not an enumeration (default 0: the quick run is the same every time).
//! `LITHDB_EFFORT` multiplies the number of random images, rounds and histories (default 1).
//! `LITHDB_TALLY` names a file to which every finished test appends a line of its counts; `cargo
//! xtask tally FILE` adds them up.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::choice::splitmix64;

/// The seed and the multiplier of a run, from the environment.
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
    /// Reads `LITHDB_SEED` and `LITHDB_EFFORT`.
    ///
    /// # Panics
    /// If a variable is set and is not a number: a run with a wrong setting must not silently
    /// become another run.
    pub fn from_env() -> Self {
        Self { seed: number("LITHDB_SEED", 0), factor: number("LITHDB_EFFORT", 1).max(1) }
    }

    /// `count` in a quick run, `count` times `LITHDB_EFFORT` in a deep one.
    pub fn times(self, count: u64) -> u64 {
        count.saturating_mul(self.factor)
    }

    /// Whether this is a deep run.
    pub fn is_deep(self) -> bool {
        self.factor > 1
    }

    /// The seed of the test or scenario of that name: differs for every name and every
    /// `LITHDB_SEED`.
    pub fn seed(self, name: &str) -> u64 {
        name.bytes().fold(self.seed, |mut state, byte| {
            state ^= u64::from(byte);
            splitmix64(&mut state)
        })
    }
}

#[expect(
    clippy::panic,
    reason = "tests call this: a wrong setting must not silently become another run"
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

/// Counts what a test tried, by name. On drop, prints the counts to standard output and appends
/// them to the file that `LITHDB_TALLY` names.
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
    /// An empty tally of the test or scenario of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), counts: BTreeMap::new() }
    }

    /// Adds `count` to `what`: "crash points", "images", "error points", "byte flips", "histories"
    /// and the like.
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    /// The count of `what` so far.
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
        // One append of the whole line, so that the lines of tests that finish at the same time do
        // not mix.
        #[expect(clippy::disallowed_types, reason = "a report, not part of a simulated disk")]
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("{}: cannot append the tally: {error}", path.display());
        }
    }
}
