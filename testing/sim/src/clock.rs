//! A clock that advances only when a test says so, and reproducible random numbers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Clock, UnixMillis};
use parking_lot::Mutex;

use crate::choice::splitmix64;

/// A clock that a test controls; clones share it.
#[derive(Debug, Clone)]
pub struct SimClock {
    state: Arc<Mutex<ClockState>>,
}

#[derive(Debug)]
struct ClockState {
    wall: UnixMillis,
    monotonic: Duration,
    random: u64,
}

impl SimClock {
    /// A clock that shows 2023-11-14 22:13:20 UTC; `seed` determines its random numbers.
    pub fn new(seed: u64) -> Self {
        let wall = UnixMillis(1_700_000_000_000);
        let state = ClockState { wall, monotonic: Duration::ZERO, random: seed };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets the wall clock; the monotonic clock does not change.
    pub fn set(&self, wall: UnixMillis) {
        self.state.lock().wall = wall;
    }

    /// Advances both clocks by `duration`.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.state.lock();
        state.wall = state.wall.saturating_add(duration);
        state.monotonic = state.monotonic.saturating_add(duration);
    }

    /// Moves only the wall clock, forwards or (negative) backwards.
    pub fn jump(&self, millis: i64) {
        let mut state = self.state.lock();
        state.wall = UnixMillis(state.wall.0.saturating_add_signed(millis));
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixMillis {
        self.state.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }

    fn random_u64(&self) -> io::Result<u64> {
        Ok(splitmix64(&mut self.state.lock().random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_moves_only_the_wall_clock() {
        let clock = SimClock::new(1);
        clock.set(UnixMillis(1_000));
        clock.advance(Duration::from_millis(500));
        clock.jump(-1_200);
        assert_eq!(clock.now(), UnixMillis(300));
        assert_eq!(clock.monotonic(), Duration::from_millis(500));
    }

    #[test]
    fn seed_gives_a_fixed_sequence_without_repeats() {
        let draw = |seed| {
            let clock = SimClock::new(seed);
            (0..100).map(|_| clock.random_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(draw(7).iter().collect::<std::collections::HashSet<_>>().len(), 100);
    }
}
