//! Time and randomness: the wall clock, a monotonic clock for intervals, random numbers.
//!
//! [`Clock`] is the only source of time in the project; tests substitute a simulated one.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A wall-clock time in milliseconds since 1970-01-01 UTC, the resolution of the file format.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

/// A duration in milliseconds, saturating at `u64::MAX`.
pub fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(u128::from(u64::MAX)) as u64
}

impl UnixMillis {
    /// This time plus `duration`, saturating.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// The source of time and randomness.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock. May jump forwards and backwards.
    fn now(&self) -> UnixMillis;
    /// Time since a fixed moment. Never goes back, and advances while the machine is suspended.
    fn monotonic(&self) -> Duration;
    /// An unpredictable number that does not repeat: table ids, seeds, epochs.
    fn random_u64(&self) -> io::Result<u64>;
}

/// The operating system's clocks and random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsClock;

impl Clock for OsClock {
    // The only place that reads the wall clock.
    #[allow(clippy::disallowed_types, clippy::disallowed_methods)]
    fn now(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 was never set.
        UnixMillis(since.map_or(0, millis))
    }

    fn monotonic(&self) -> Duration {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // The kernel counts up from 0, so neither field is negative.
        Duration::new(since.tv_sec.unsigned_abs(), since.tv_nsec.unsigned_abs() as u32)
    }

    fn random_u64(&self) -> io::Result<u64> {
        getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
    }
}
