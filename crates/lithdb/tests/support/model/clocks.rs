//! What a wrong clock may do to a table, and what it may not.
//!
//! A table's time is behind the true one, or ahead of it by the error of an accepted clock: one
//! that the caller accepted, or that had been ahead for the hold since before the table was
//! opened. All clocks here are wrong by more than the limit, or not at all.

use std::time::Duration;

use super::op::{TABLES, WallClock};
use super::run::{Run, count};

const DAY_MILLIS: i64 = 86_400_000;
/// How long the clock must run steadily.
const HOLD_MILLIS: u64 = 3_600_000;

impl WallClock {
    /// How many milliseconds it is ahead.
    pub fn ahead(self) -> i64 {
        match self {
            Self::Right => 0,
            Self::Off(days) => days * DAY_MILLIS,
        }
    }
}

impl Run {
    /// Makes the wall clock ahead by `ahead` from now on.
    pub fn set_wall(&mut self, ahead: i64) {
        self.note_hold_elapsed();
        self.clock.jump(ahead - self.wall_ahead);
        self.wall_ahead = ahead;
        self.was_wrong |= ahead != 0;
        for expected in &mut self.expected {
            expected.was_held = true;
            if ahead <= expected.clock_error {
                expected.ahead_since = None;
            }
        }
    }

    /// The tables have seen the wall clock's time and made it durable; or they are just being
    /// opened.
    pub fn note_wall_clock_seen(&mut self, is_opening: bool) {
        let now = self.true_now();
        for expected in &mut self.expected {
            let was_opening = expected.ahead_since.is_some_and(|(_, is_opening)| is_opening);
            let is_ahead = self.wall_ahead > expected.clock_error;
            let since = (now, is_opening || was_opening);
            expected.ahead_since = is_ahead.then_some(since);
        }
    }

    /// A clock that has run steadily for the hold is accepted: what it gained while the process
    /// was stopped makes everything older, what it gained while it ran does not.
    pub fn note_hold_elapsed(&mut self) {
        let now = self.true_now();
        for expected in &mut self.expected {
            if let Some((since, is_opening)) = expected.ahead_since
                && now - since >= HOLD_MILLIS
            {
                expected.adopt_wall_clock(self.wall_ahead, is_opening);
                count("clocks accepted");
            }
        }
    }

    /// Runs for `secs` seconds, with maintenance now and then.
    pub fn run_for(&mut self, secs: u64) {
        for part in [secs / 2, secs - secs / 2] {
            self.clock.advance(Duration::from_secs(part));
            self.maintenance();
        }
    }

    /// Whatever the clock did: when it has run steadily for the hold, and the TTL has passed since
    /// the seal, everything is collected.
    pub fn check_everything_expires(&mut self) {
        self.maintenance();
        self.run_for(HOLD_MILLIS / 1000 + 1);
        for n in 0..TABLES {
            let Some(table) = self.table(n) else { continue };
            let ([Some(ttl)], None) = (&self.expected[n].ttls[..], table.failure()) else {
                continue;
            };
            let ttl = *ttl;
            table.seal().unwrap();
            self.all_durable(n);
            self.clock.advance(Duration::from_millis(ttl));
            self.gc(n);
            let left = self.expected[n].batches.len();
            assert_eq!(left, 0, "{}: batches of table {n} never expire", self.context);
            count("tables emptied by their TTL");
        }
    }
}
