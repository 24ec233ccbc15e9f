//! Sources of the decisions that a crash makes.
//!
//! A crash asks one question after the other, each with a number of options; option 0 is always
//! "lost". The same answers give the same image.

/// A source of decisions.
pub trait Choice {
    /// A number below `options`, which is at least 1.
    fn choose(&mut self, options: usize) -> usize;
}

/// The next number of a splitmix64 sequence, the simulation's only random number generator.
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random decisions, reproducible from a printed seed.
#[derive(Debug, Clone)]
pub struct SeededChoice {
    seed: u64,
    state: u64,
}

impl SeededChoice {
    /// The decisions that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The seed to print when a test fails.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next random number, for tests that need more than decisions.
    pub fn next_u64(&mut self) -> u64 {
        splitmix64(&mut self.state)
    }
}

impl Choice for SeededChoice {
    fn choose(&mut self, options: usize) -> usize {
        (self.next_u64() % options.max(1) as u64) as usize
    }
}

/// Decisions from a fuzzer's bytes, one byte each; 0 when there are no more.
#[derive(Debug, Clone)]
pub struct BytesChoice<'a> {
    bytes: &'a [u8],
}

impl<'a> BytesChoice<'a> {
    /// The decisions that `bytes` encode.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
}

impl Choice for BytesChoice<'_> {
    fn choose(&mut self, options: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first) % options.max(1)
    }
}

/// Decisions written down in a test; 0 when there are no more.
#[derive(Debug, Clone)]
pub struct ScriptedChoice {
    script: std::vec::IntoIter<usize>,
}

impl ScriptedChoice {
    /// These decisions, in order.
    pub fn new(script: Vec<usize>) -> Self {
        Self { script: script.into_iter() }
    }
}

impl Choice for ScriptedChoice {
    fn choose(&mut self, options: usize) -> usize {
        self.script.next().map_or(0, |answer| answer % options.max(1))
    }
}

/// Every combination of decisions, one per round, like an odometer: start with all zeros, call
/// [`advance`](Self::advance) after each round and stop when it returns `false`.
///
/// ```
/// use lithdb_sim::{Choice, ExhaustiveChoice};
/// let (mut choice, mut seen) = (ExhaustiveChoice::new(), Vec::new());
/// loop {
///     seen.push((choice.choose(2), choice.choose(3)));
///     if !choice.advance() { break }
/// }
/// assert_eq!(seen, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ExhaustiveChoice {
    /// The answer given to each question of this round, and how many options it had.
    digits: Vec<(usize, usize)>,
    answered: usize,
    rounds: u64,
    limit: Option<u64>,
}

impl ExhaustiveChoice {
    /// All combinations.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most `rounds` combinations, for scenarios with too many to enumerate.
    pub fn with_limit(rounds: u64) -> Self {
        Self { limit: Some(rounds), ..Self::default() }
    }

    /// Advances to the next combination; returns `false` if there is none or the limit is reached.
    pub fn advance(&mut self) -> bool {
        self.rounds += 1;
        self.digits.truncate(self.answered);
        self.answered = 0;
        if self.limit.is_some_and(|limit| self.rounds >= limit) {
            return false;
        }
        while let Some((answer, options)) = self.digits.pop() {
            if answer + 1 < options {
                self.digits.push((answer + 1, options));
                return true;
            }
        }
        false
    }

    /// The number of finished rounds.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }
}

impl Choice for ExhaustiveChoice {
    fn choose(&mut self, options: usize) -> usize {
        let at = self.answered;
        self.answered += 1;
        if let Some((answer, _)) = self.digits.get(at) {
            return (*answer).min(options.saturating_sub(1));
        }
        self.digits.push((0, options));
        0
    }
}
