//! The table's clock: files record its time, and expiry uses it. It never moves backward unless
//! the user accepts the clock, and ignores a wall clock that contradicts it.
//!
//! It follows the wall clock as long as that agrees with the monotonic clock; across downtime,
//! which no clock measures, as long as the wall clock is ahead of the table's time by no more than
//! the limit. Otherwise the wall clock is *not trusted*: an event reports it, and time advances
//! with the monotonic clock, which is never too fast. A wall clock that then runs steadily for the
//! hold is trusted again: one that is ahead sets the time, one that is behind is followed at an
//! offset. Or the caller accepts it.
//!
//! A segment that is sealed while the clock is not trusted, or is followed at an offset, has an
//! uncertain seal time, too early by an unknown amount once the clock is stepped forward: it
//! counts as sealed when time is certain again. That, and every other seal time that does not
//! count as written, is recorded in the table's state ([`SealTimeOverride`]).

use std::time::Duration;

use lithdb_env::{Clock, Error, ErrorKind, Result, UnixMillis, millis};
use lithdb_segment::{Metadata, SegmentId, Stamp};

use crate::segments::Segments;
use crate::state::{MAX_SEAL_TIME_OVERRIDES, SealTimeOverride, TableState};

/// A smaller step of the wall clock is an adjustment, not a jump.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The table time is written when the recorded one lags by this much, or by a quarter of the
/// limit.
const RECORD_INTERVAL: Duration = Duration::from_secs(3600);

/// A clock that shows a time before 2020 or after 9999 is wrong.
const PLAUSIBLE: std::ops::RangeInclusive<UnixMillis> =
    UnixMillis(1_577_836_800_000)..=UnixMillis(253_402_300_799_999);

/// Follows the wall clock of one table.
#[derive(Debug)]
pub(crate) struct TableClock {
    /// How far the wall clock may be ahead of the table's time after downtime.
    limit: Duration,
    hold: Duration,
    /// The table's time and the monotonic time at the last reading.
    time: UnixMillis,
    steady: Duration,
    /// The same at open or when the clock was last resynchronized; drift is measured from here.
    anchor: (UnixMillis, Duration),
    /// How far the table's time is ahead of the wall clock that it follows.
    offset: Duration,
    /// The wall clock is compared across downtime, not across running time.
    is_opening: bool,
    doubt: Option<Doubt>,
    /// A jump not yet reported: the times before and after it, and the hold.
    jump: Option<(UnixMillis, UnixMillis, Duration)>,
    /// Accumulated forward steps that were not elapsed time; seal times are shifted by it.
    leap: Duration,
    /// Some seal times may need an override that the state does not record yet.
    overrides_are_due: bool,
}

/// The monotonic time since which an untrusted wall clock has run steadily, and its reading then.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Duration,
    wall: UnixMillis,
}

/// A reading of a table's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockReading {
    /// Never later than the true time, if the recorded time was not.
    pub(crate) time: UnixMillis,
    /// It is the wall clock's time.
    pub(crate) is_certain: bool,
    /// Set while the wall clock is not trusted: how much longer, if it runs steadily.
    pub(crate) held_for: Option<Duration>,
}

impl ClockReading {
    /// The seal time of a segment that is sealed now.
    pub(crate) fn stamp(self) -> Stamp {
        if self.is_certain { Stamp::certain(self.time) } else { Stamp::uncertain(self.time) }
    }
}

impl TableClock {
    /// The clock of a table that is being opened.
    pub(crate) fn new(
        state: &TableState,
        limit: Duration,
        hold: Duration,
        clock: &dyn Clock,
    ) -> Self {
        let steady = clock.monotonic();
        Self {
            limit,
            hold,
            time: state.latest_time,
            steady,
            anchor: (state.latest_time, steady),
            offset: Duration::from_millis(state.clock_offset_ms),
            is_opening: !state.jumped_while_open,
            doubt: None,
            jump: None,
            leap: Duration::ZERO,
            overrides_are_due: true,
        }
    }

    pub(crate) fn read(&mut self, clock: &dyn Clock) -> ClockReading {
        let (wall, steady) = (clock.now(), clock.monotonic());
        let passed = steady.saturating_sub(self.steady);
        self.steady = steady;
        let is_plausible = PLAUSIBLE.contains(&wall);
        let followed = [Duration::ZERO, self.offset]
            .into_iter()
            .find(|offset| is_plausible && self.is_plausible_time(wall.saturating_add(*offset)));
        if let Some(offset) = followed {
            self.offset = offset;
            self.time = self.time.max(wall.saturating_add(offset));
            self.doubt = None;
            if self.is_opening {
                self.follow();
            }
        } else {
            self.time = self.time.saturating_add(passed);
            let since = self.doubt_since(wall);
            if is_plausible && steady.saturating_sub(since) >= self.hold {
                self.accept_steady(wall);
            }
        }
        self.reading()
    }

    /// Whether `time` agrees with the anchor and what the monotonic clock measured since.
    fn is_plausible_time(&self, time: UnixMillis) -> bool {
        let (known, at) = self.anchor;
        let passed = self.steady.saturating_sub(at);
        let expected = known.saturating_add(passed);
        let allowed_drift = allowed_drift(passed);
        let gain =
            if self.is_opening { allowed_drift.saturating_add(self.limit) } else { allowed_drift };
        expected.since(time) <= allowed_drift && time.since(expected) <= gain
    }

    /// Trusts the wall clock from now on; it must then agree with the monotonic clock.
    fn follow(&mut self) {
        self.anchor = (self.time, self.steady);
        self.is_opening = false;
        self.doubt = None;
    }

    /// The monotonic time since which the untrusted wall clock has run steadily: another jump
    /// restarts the hold.
    fn doubt_since(&mut self, wall: UnixMillis) -> Duration {
        if let Some(doubt) = self.doubt {
            let passed = self.steady.saturating_sub(doubt.since);
            let expected = doubt.wall.saturating_add(passed);
            if expected.since(wall).max(wall.since(expected)) <= allowed_drift(passed) {
                return doubt.since;
            }
            self.is_opening = false;
        }
        self.doubt = Some(Doubt { since: self.steady, wall });
        self.jump = Some((self.time, wall, self.hold));
        self.steady
    }

    /// The wall clock has run steadily for the hold. If it jumped across downtime, the time by
    /// which it is ahead has passed meanwhile; if it jumped while the table was open, none of it
    /// has passed.
    fn accept_steady(&mut self, wall: UnixMillis) {
        if wall < self.time {
            self.offset = self.time.since(wall);
        } else {
            if !self.is_opening {
                self.leap = self.leap.saturating_add(wall.since(self.time));
            }
            (self.time, self.offset) = (wall, Duration::ZERO);
        }
        self.follow();
    }

    /// The caller accepts the wall clock: it sets the time, also backward.
    pub(crate) fn accept(&mut self, clock: &dyn Clock) -> Result<()> {
        let wall = clock.now();
        if !PLAUSIBLE.contains(&wall) {
            let message = format!(
                "the wall clock shows {wall}: expected a time from 2020 to 9999; set the clock and repeat"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        (self.time, self.offset, self.leap) = (wall, Duration::ZERO, Duration::ZERO);
        (self.steady, self.overrides_are_due) = (clock.monotonic(), true);
        self.follow();
        Ok(())
    }

    fn reading(&self) -> ClockReading {
        let held_for = self.doubt.map(|doubt| {
            let ran = self.steady.saturating_sub(doubt.since);
            // An implausible clock is never trusted.
            self.hold.checked_sub(ran).unwrap_or(self.hold)
        });
        let is_certain = held_for.is_none() && self.offset.is_zero();
        ClockReading { time: self.time, is_certain, held_for }
    }

    /// Takes the jump that is not reported yet: the times before and after it, and the hold.
    pub(crate) fn take_jump(&mut self) -> Option<(UnixMillis, UnixMillis, Duration)> {
        self.jump.take()
    }

    /// Records `reading` in `state`, which was `before`, if the state or the overrides have
    /// changed, or if recording the time is due. Returns the forward step that the overrides now
    /// contain.
    pub(crate) fn record(
        &mut self,
        segments: &Segments,
        before: &TableState,
        state: &mut TableState,
        reading: ClockReading,
    ) -> Duration {
        let overrides = self.seal_time_overrides(segments, state, reading);
        if state != before || overrides != state.seal_time_overrides || self.needs_recording(state)
        {
            state.seal_time_overrides = overrides;
            state.latest_time = reading.time;
            state.clock_offset_ms = millis(self.offset);
            state.jumped_while_open = self.jumped_while_open();
        }
        std::mem::take(&mut self.leap)
    }

    /// Whether a crash now would set the table's time back noticeably.
    fn needs_recording(&self, state: &TableState) -> bool {
        let recorded = state.latest_time;
        self.time.since(recorded) >= RECORD_INTERVAL.min(self.limit / 4).max(TOLERANCE)
            || recorded > self.time
            || self.jumped_while_open() != state.jumped_while_open
            || millis(self.offset) != state.clock_offset_ms
    }

    /// As [`compute_overrides`], but visits all segments only if something may have changed.
    fn seal_time_overrides(
        &mut self,
        segments: &Segments,
        state: &TableState,
        now: ClockReading,
    ) -> Vec<SealTimeOverride> {
        // While time is uncertain, so are the seal times.
        self.overrides_are_due |= !now.is_certain;
        if self.leap.is_zero() && !(self.overrides_are_due && now.is_certain) {
            let first = segments.front().map(|segment| segment.id());
            let exists = |range: &&SealTimeOverride| Some(range.last) >= first;
            return state.seal_time_overrides.iter().filter(exists).copied().collect();
        }
        // A segment whose seal is pending may get an uncertain seal time.
        let ending = segments.len().checked_sub(2).and_then(|at| segments.get(at));
        self.overrides_are_due = ending.is_some_and(|segment| segment.metadata().is_none());
        compute_overrides(segments, state, now, self.leap)
    }

    pub(crate) fn not_recorded(&mut self, leap: Duration) {
        self.leap = self.leap.saturating_add(leap);
        self.overrides_are_due = true;
    }

    fn jumped_while_open(&self) -> bool {
        self.doubt.is_some() && !self.is_opening
    }
}

/// How far the clocks may differ after `passed`: they run at one rate, but adjustments shift them.
fn allowed_drift(passed: Duration) -> Duration {
    TOLERANCE + passed / 50_000
}

impl TableState {
    /// When a segment counts as sealed, and whether that is certain.
    pub(crate) fn sealed_at(&self, metadata: &Metadata) -> (UnixMillis, bool) {
        let stamp = metadata.sealed_at;
        self.seal_time_override(metadata.segment)
            .map_or((stamp.time(), stamp.is_certain()), |at| (at, true))
    }

    fn seal_time_override(&self, id: SegmentId) -> Option<UnixMillis> {
        self.seal_time_overrides
            .iter()
            .find(|r| r.first <= id && id <= r.last)
            .map(|range| range.at)
    }
}

/// The segments whose seal times do not count as written. `leap`: forward step of the clock.
fn compute_overrides(
    segments: &Segments,
    state: &TableState,
    now: ClockReading,
    leap: Duration,
) -> Vec<SealTimeOverride> {
    let becomes_certain = now.is_certain || !leap.is_zero();
    let ended = segments.iter().take(segments.len().saturating_sub(1));
    let counted: Vec<(SegmentId, UnixMillis, bool)> = ended
        .filter_map(|segment| {
            let Some(metadata) = segment.metadata() else {
                // Its seal is pending: it gets a seal time from before the step.
                let leapt = (!leap.is_zero()).then_some(now.time);
                let at = leapt.or(state.seal_time_override(segment.id()));
                return at.map(|at| (segment.id(), at, false));
            };
            let (sealed_at, is_settled) = state.sealed_at(metadata);
            let mut at = sealed_at.saturating_add(leap);
            if becomes_certain && (!is_settled || at > now.time) {
                at = now.time;
            }
            let stamp = metadata.sealed_at;
            let is_settled = is_settled || becomes_certain;
            let as_stamped = at == stamp.time() && (stamp.is_certain() || !is_settled);
            Some((metadata.segment, at, as_stamped))
        })
        .collect();
    let mut width = Duration::ZERO;
    loop {
        let overrides = join(&counted, width);
        if overrides.len() <= MAX_SEAL_TIME_OVERRIDES {
            return overrides;
        }
        width = (width * 2).max(Duration::from_secs(1));
    }
}

/// Joins segments to ranges that count as sealed at the latest of their times, which differ by at
/// most `width`.
fn join(counted: &[(SegmentId, UnixMillis, bool)], width: Duration) -> Vec<SealTimeOverride> {
    let mut ranges: Vec<(UnixMillis, SealTimeOverride)> = Vec::new();
    let mut between = UnixMillis::default();
    for &(id, at, as_stamped) in counted {
        if as_stamped {
            between = between.max(at);
            continue;
        }
        let between = std::mem::take(&mut between);
        if let Some((least, range)) = ranges.last_mut() {
            let joined = range.at.max(between).max(at);
            if joined.since((*least).min(at)) <= width {
                (range.last, range.at, *least) = (id, joined, (*least).min(at));
                continue;
            }
        }
        ranges.push((at, SealTimeOverride { first: id, last: id, at }));
    }
    ranges.into_iter().map(|(_, range)| range).collect()
}
