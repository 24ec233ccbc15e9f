//! Large values on their way: their records are in the log, their bytes are being written outside of the
//! writer's lock. Flushes and seals wait for them, iterators stop before them.

use std::collections::BTreeSet;
use std::ops::Bound;

use lithdb_segment::Position;
use parking_lot::{Condvar, Mutex};

/// The first positions of batches whose values are not all in the file yet.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    positions: Mutex<BTreeSet<Position>>,
    landed: Condvar,
}

impl InFlight {
    /// A batch at `at` has values that are still to be written. Called under the writer's lock.
    pub(crate) fn begin(&self, at: Position) {
        self.positions.lock().insert(at);
    }

    /// They are written, or the table is latched.
    pub(crate) fn end(&self, at: Position) {
        self.positions.lock().remove(&at);
        self.landed.notify_all();
    }

    /// Waits until nothing below `end` is on its way.
    pub(crate) fn wait_below(&self, end: Position) {
        let mut positions = self.positions.lock();
        while positions.first().is_some_and(|first| *first < end) {
            self.landed.wait(&mut positions);
        }
    }

    /// The end of what is complete behind `at`, given the end of the log.
    pub(crate) fn complete_end(&self, at: Position, log_end: Position) -> Position {
        let behind = (Bound::Excluded(at), Bound::Unbounded);
        let positions = self.positions.lock();
        positions.range(behind).next().copied().map_or(log_end, |first| first.min(log_end))
    }
}
