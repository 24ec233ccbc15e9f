//! Time: the wall clock, a steady clock for intervals, and random numbers.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A wall-clock time in milliseconds since 1970-01-01 UTC, the resolution that the files record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

/// A duration in milliseconds; what is longer than can be said is the longest.
pub fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(u128::from(u64::MAX)) as u64
}

impl UnixMillis {
    /// The time that is `duration` later, or the end of time.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// How much later this is than `earlier`; zero if it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// Where time and randomness come from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock: may jump, forwards and backwards.
    fn now(&self) -> UnixMillis;
    /// Time since some fixed moment: never goes back, and goes on while the machine is suspended.
    fn monotonic(&self) -> Duration;
    /// A number that nobody can guess and that does not come twice: table ids, seeds, epochs.
    fn random_u64(&self) -> io::Result<u64>;
}

/// The operating system's clocks and random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsClock;

impl Clock for OsClock {
    #[allow(clippy::disallowed_types, clippy::disallowed_methods)] // this is the door
    fn now(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 is one that nobody has set.
        UnixMillis(since.map_or(0, millis))
    }

    fn monotonic(&self) -> Duration {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // The kernel counts up from 0.
        Duration::new(since.tv_sec.unsigned_abs(), since.tv_nsec.unsigned_abs() as u32)
    }

    fn random_u64(&self) -> io::Result<u64> {
        getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
    }
}
