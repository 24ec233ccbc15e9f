//! The wall clock, as far as expiry trusts it.
//!
//! A clock that jumps must not expire everything. The latest wall time is known from the files; if the clock is ahead of
//! it by more than the limit, or gains on the steady clock by more than that, collection is held for a while (of
//! running, not of wall time) and an event says so. Somebody who knows that the clock is right can accept it.

use std::time::Duration;

use lithdb_env::{Clock, Result, UnixMillis};

use crate::table::Table;

/// A step back of less than this is an adjustment, not a jump.
const BACK_TOLERANCE: Duration = Duration::from_secs(60);

/// Watches the wall clock against what was seen before.
#[derive(Debug)]
pub(crate) struct ClockGuard {
    limit: Duration,
    hold: Duration,
    /// The latest wall time, and the steady time when it was seen.
    latest: UnixMillis,
    seen_at: Duration,
    /// Collection is held until this steady time, unless the clock comes back below this wall time.
    held: Option<(Duration, UnixMillis)>,
}

/// What the guard makes of the clock.
pub(crate) enum Judgement {
    Fine,
    Held(Duration),
    Jumped { before: UnixMillis, hold: Duration },
}

impl ClockGuard {
    /// A guard that has seen `latest` at the last, at a steady time that nobody knows.
    pub(crate) fn new(
        limit: Duration,
        hold: Duration,
        latest: UnixMillis,
        steady: Duration,
    ) -> Self {
        Self { limit, hold, latest, seen_at: steady, held: None }
    }

    pub(crate) fn judge(&mut self, clock: &dyn Clock) -> Judgement {
        let (now, steady) = (clock.now(), clock.monotonic());
        if let Some((until, above)) = self.held {
            if now < above {
                // The clock came back: what was seen in between does not count.
                self.held = None;
                (self.latest, self.seen_at) = (now, steady);
                return Judgement::Fine;
            }
            if steady < until {
                return Judgement::Held(until - steady);
            }
            self.held = None;
            (self.latest, self.seen_at) = (now, steady);
            return Judgement::Fine;
        }
        let expected = self.latest.plus(steady.saturating_sub(self.seen_at));
        let before = self.latest;
        if now.since(expected) > self.limit {
            self.held = Some((steady + self.hold, expected.plus(self.limit)));
            return Judgement::Jumped { before, hold: self.hold };
        }
        let went_back = expected.since(now) > BACK_TOLERANCE;
        (self.latest, self.seen_at) = (now, steady);
        if went_back && before.since(now) > BACK_TOLERANCE {
            // Nothing expires too early by a clock that is behind.
            return Judgement::Jumped { before, hold: Duration::ZERO };
        }
        Judgement::Fine
    }

    pub(crate) fn accept(&mut self, clock: &dyn Clock) {
        self.held = None;
        (self.latest, self.seen_at) = (clock.now(), clock.monotonic());
    }
}

impl Table {
    /// Says that the wall clock is right: collection goes on at once after a jump.
    ///
    /// # Errors
    /// `ReadOnly`, `Closed`.
    pub fn accept_clock(&self) -> Result<()> {
        let side = self.inner.enter_write()?;
        side.collecting.lock().accept(&*self.inner.env.clock);
        Ok(())
    }
}
