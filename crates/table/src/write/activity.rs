//! When the log last grew, and how long data has been non-durable: input for maintenance.

use std::time::Duration;

use lithdb_segment::Position;

/// All times are monotonic.
#[derive(Default)]
pub(crate) struct Activity {
    /// The end of the log at the last tick, and since when it has been there.
    log_end: Position,
    since: Duration,
    /// Everything up to this position has been non-durable since this time, or later.
    unflushed: Option<(Position, Duration)>,
    /// When the last tick was.
    ticked: Duration,
}

impl Activity {
    /// Returns an upper bound on how long data has been non-durable.
    pub(crate) fn tick(&mut self, log_end: Position, durable: Position, now: Duration) -> Duration {
        if self.log_end != log_end {
            (self.log_end, self.since) = (log_end, now);
        }
        // New records may have been put right after the last tick.
        let ticked = std::mem::replace(&mut self.ticked, now);
        let waiting = self.unflushed.filter(|(end, _)| durable < *end);
        self.unflushed = (durable < log_end).then(|| waiting.unwrap_or((log_end, ticked)));
        self.unflushed.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since))
    }

    /// For how long the log has not grown.
    pub(crate) fn idle_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// Ignores growth to `log_end` by the mark of an idle table.
    pub(crate) fn ignore_growth(&mut self, log_end: Position) {
        self.log_end = log_end;
    }
}
