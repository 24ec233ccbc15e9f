//! Group commit: which thread runs a flush round, and what is durable.
//!
//! At most one round runs at a time; callers that arrive meanwhile share the next one. `durable`
//! never moves back.

use std::time::Duration;

use lithdb_env::Result;
use lithdb_env::sync::{Condvar, Mutex};
use lithdb_segment::Position;

/// What is durable, and whether a round is running.
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    changed: Condvar,
    /// How long a round waits for more callers before it starts.
    coalesce: Duration,
}

struct State {
    durable: Position,
    is_running: bool,
}

impl GroupCommit {
    pub(crate) fn new(durable: Position, coalesce: Duration) -> Self {
        let state = Mutex::new(State { durable, is_running: false });
        Self { state, changed: Condvar::new(), coalesce }
    }

    pub(crate) fn durable(&self) -> Position {
        self.state.lock().durable
    }

    /// Waits until no round is running.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.is_running {
            self.changed.wait(&mut state);
        }
    }

    /// Returns when everything before `end` is durable: waits for the round of another thread or
    /// runs `round`, which must not panic. Calls `check` before it waits or runs.
    pub(crate) fn commit(
        &self,
        end: Position,
        check: impl Fn() -> Result<()>,
        round: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if state.durable >= end {
                return Ok(());
            }
            check()?;
            if !state.is_running {
                break;
            }
            self.changed.wait(&mut state);
        }
        state.is_running = true;
        drop(state);
        if !self.coalesce.is_zero() {
            std::thread::sleep(self.coalesce);
        }
        let flushed = round();
        self.state.lock().is_running = false;
        self.changed.notify_all();
        flushed
    }

    /// Everything before `end` is durable. Called within a round.
    pub(crate) fn acknowledge(&self, end: Position) {
        let mut state = self.state.lock();
        assert!(state.is_running, "{end}: acknowledged outside of a round");
        state.durable = state.durable.max(end);
    }
}
