//! Puts in flight: their records are in the log, but the calls have not returned. Those with large
//! values are tracked by position: flushes and seals wait for them, iterators stop before them.
//! Closing waits for all.

use std::collections::BTreeSet;
use std::ops::Bound;

use lithdb_env::sync::{Condvar, Mutex};
use lithdb_env::{Error, ErrorKind, Latch};
use lithdb_segment::Position;

/// The puts in flight.
#[derive(Default)]
pub(crate) struct InFlight {
    state: Mutex<State>,
    values_written: Condvar,
}

#[derive(Default)]
struct State {
    /// First positions of batches with values that are not all in the file yet.
    positions: BTreeSet<Position>,
    /// Puts that have not returned.
    puts: usize,
    /// First positions of batches with values that were never written: the table is latched, and
    /// iterators stop before them.
    lost: BTreeSet<Position>,
}

/// One put in flight, until dropped.
#[must_use = "the put counts as in flight while this guard lives"]
pub(crate) struct InFlightPut<'a> {
    in_flight: &'a InFlight,
    latch: &'a Latch,
    /// The position of its first record, until all its values are in the file.
    at: Option<Position>,
}

impl InFlight {
    /// Registers a batch at `at`, with or without values yet to be written. Called under the
    /// writer lock.
    pub(crate) fn begin<'a>(
        &'a self,
        at: Position,
        has_values: bool,
        latch: &'a Latch,
    ) -> InFlightPut<'a> {
        let mut state = self.state.lock();
        state.puts += 1;
        if has_values {
            state.positions.insert(at);
        }
        InFlightPut { in_flight: self, latch, at: has_values.then_some(at) }
    }

    /// Waits until no value before `end` is in flight.
    pub(crate) fn wait_below(&self, end: Position) {
        let mut state = self.state.lock();
        while state.positions.first().is_some_and(|first| *first < end) {
            self.values_written.wait(&mut state);
        }
    }

    /// Waits until every put has returned. No new one may begin.
    pub(crate) fn wait_all(&self) {
        let mut state = self.state.lock();
        while state.puts > 0 {
            self.values_written.wait(&mut state);
        }
    }

    /// The end of what is complete after `at`, given the end of the log.
    pub(crate) fn complete_end(&self, at: Position, log_end: Position) -> Position {
        let later = (Bound::Excluded(at), Bound::Unbounded);
        let state = self.state.lock();
        let first = [&state.positions, &state.lost].map(|at| at.range(later).next().copied());
        first.into_iter().flatten().fold(log_end, Position::min)
    }
}

impl InFlightPut<'_> {
    /// All values are in the file, and the keys are published.
    pub(crate) fn values_written(&mut self) {
        let Some(at) = self.at.take() else { return };
        self.in_flight.state.lock().positions.remove(&at);
        self.in_flight.values_written.notify_all();
    }
}

impl Drop for InFlightPut<'_> {
    fn drop(&mut self) {
        if self.at.is_some() && std::thread::panicking() {
            // Its records are in the log, but its values may not be in the file.
            let panicked = "a put panicked before its values were written";
            self.latch.close(&Error::new(ErrorKind::Io, panicked));
        }
        let mut state = self.in_flight.state.lock();
        if let Some(at) = self.at.take() {
            state.positions.remove(&at);
            if self.latch.cause().is_some() {
                state.lost.insert(at);
            }
        }
        state.puts = state.puts.saturating_sub(1);
        self.in_flight.values_written.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lost large values with a complete one in between: a scan that starts after the first
    /// loss ends before the second.
    #[test]
    fn scan_ends_before_the_first_lost_value_after_its_start() {
        let (in_flight, latch) = (InFlight::default(), Latch::default());
        let at = |offset: u32| Position::new(lithdb_segment::SegmentId(1), offset);
        let (first, second) =
            (in_flight.begin(at(100), true, &latch), in_flight.begin(at(300), true, &latch));
        assert_eq!(in_flight.complete_end(at(200), at(400)), at(300), "on its way");
        latch.close(&Error::new(ErrorKind::Io, "no such luck"));
        drop((second, first));
        assert_eq!(in_flight.complete_end(at(200), at(400)), at(300));
        assert_eq!(in_flight.complete_end(at(0), at(400)), at(100));
        assert_eq!(in_flight.complete_end(at(300), at(400)), at(400));
    }
}
