//! When the log last grew, and how long something has not been durable: what maintenance decides
//! by.

use std::time::Duration;

use lithdb_segment::Position;

/// All times are monotonic.
#[derive(Default)]
pub(crate) struct Activity {
    /// The end of the log at the last tick, and since when it has been there.
    log_end: Position,
    since: Duration,
    /// Everything up to this position has not been durable since then at the earliest.
    behind: Option<(Position, Duration)>,
    /// When the last tick was.
    ticked: Duration,
}

impl Activity {
    /// Returns the longest that something may have been not durable.
    pub(crate) fn tick(&mut self, log_end: Position, durable: Position, now: Duration) -> Duration {
        if self.log_end != log_end {
            (self.log_end, self.since) = (log_end, now);
        }
        // New records may have been put right after the last tick.
        let ticked = std::mem::replace(&mut self.ticked, now);
        let waiting = self.behind.filter(|(end, _)| durable < *end);
        self.behind = (durable < log_end).then(|| waiting.unwrap_or((log_end, ticked)));
        self.behind.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since))
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
