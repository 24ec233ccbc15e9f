//! The table's time: what files record and expiry goes by. It never goes back by itself, and it
//! never trusts a wall clock that contradicts what is known.
//!
//! It follows the wall clock as long as that agrees with the steady clock; across a stop, which no
//! clock measures, as long as it is ahead of the known time by no more than the limit. If not, the
//! wall clock is *in doubt*: an event says so, and time goes on with the steady clock, which is
//! never too fast. A wall clock that then runs steadily for the hold is followed again: one that
//! is ahead sets the time, one that is behind is followed at an offset. Or the caller accepts it.
//!
//! What is sealed while the clock is in doubt or followed at an offset has an uncertain stamp,
//! which is too early by nobody knows how much once time leaps forward: it counts as the moment at
//! which time is certain again. That, and every other stamp that no longer counts as it stands, is
//! recorded in the table's state ([`Redated`]).

use std::time::Duration;

use lithdb_env::{Clock, Error, ErrorKind, Result, UnixMillis, millis};
use lithdb_segment::{Metadata, SegmentId, Stamp};

use crate::segments::Segments;
use crate::state::{MAX_REDATED, Redated, TableState};

/// A step of less than this is an adjustment.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The known time is recorded when it is behind by this, or by a quarter of the limit.
const RECORD_INTERVAL: Duration = Duration::from_secs(3600);

/// No clock is right that shows a time before 2020, or after 9999.
const PLAUSIBLE: std::ops::RangeInclusive<UnixMillis> =
    UnixMillis(1_577_836_800_000)..=UnixMillis(253_402_300_799_999);

/// Follows the wall clock of one table.
#[derive(Debug)]
pub(crate) struct TableClock {
    /// By how much the wall clock may be ahead after a stop.
    limit: Duration,
    hold: Duration,
    /// The table's time and the steady time at the last reading.
    time: UnixMillis,
    steady: Duration,
    /// The same at the opening, or the last acceptance: small steps add up from here.
    anchor: (UnixMillis, Duration),
    /// By how much the table's time is ahead of the wall clock that it follows.
    offset: Duration,
    /// The difference to be explained is that of a stop.
    is_opening: bool,
    doubt: Option<Doubt>,
    /// Somebody is still to be told of this jump: the times before and after it, and the hold.
    jump: Option<(UnixMillis, UnixMillis, Duration)>,
    /// By so much time has leapt without having passed: what was sealed is to be redated by it.
    leap: Duration,
    /// Some stamps may not count as they stand without the state knowing of it.
    redate_is_due: bool,
}

/// Since when (steady) the wall clock has run steadily, and from which time on.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Duration,
    wall: UnixMillis,
}

/// What a table's clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockReading {
    /// Never later than the true time, if what was known was not.
    pub(crate) time: UnixMillis,
    /// It is the wall clock's time.
    pub(crate) is_certain: bool,
    /// The wall clock is in doubt: for so much longer if it runs steadily.
    pub(crate) held_for: Option<Duration>,
}

impl ClockReading {
    /// What the seal of a segment records that ends now.
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
            redate_is_due: true,
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

    /// Whether the table's time may be this.
    fn is_plausible_time(&self, time: UnixMillis) -> bool {
        let (known, at) = self.anchor;
        let passed = self.steady.saturating_sub(at);
        let expected = known.saturating_add(passed);
        let allowed_drift = allowed_drift(passed);
        let gain =
            if self.is_opening { allowed_drift.saturating_add(self.limit) } else { allowed_drift };
        expected.since(time) <= allowed_drift && time.since(expected) <= gain
    }

    /// From now on the wall clock is followed, and must agree with the steady clock.
    fn follow(&mut self) {
        self.anchor = (self.time, self.steady);
        self.is_opening = false;
        self.doubt = None;
    }

    /// Since when (steady) the wall clock in doubt runs steadily: another jump begins the hold anew.
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

    /// The wall clock has run steadily for the hold. What it is ahead by has passed while the
    /// program was stopped; if it was not stopped, nothing of it has passed.
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

    /// Somebody says that the wall clock is right: it sets the time, also back.
    ///
    /// # Errors
    /// `InvalidArgument` for a time that no clock can show.
    pub(crate) fn accept(&mut self, clock: &dyn Clock) -> Result<()> {
        let wall = clock.now();
        if !PLAUSIBLE.contains(&wall) {
            let message = format!("the clock shows {wall}: expected a time from 2020 to 9999");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        (self.time, self.offset, self.leap) = (wall, Duration::ZERO, Duration::ZERO);
        (self.steady, self.redate_is_due) = (clock.monotonic(), true);
        self.follow();
        Ok(())
    }

    fn reading(&self) -> ClockReading {
        let held_for = self.doubt.map(|doubt| {
            let ran = self.steady.saturating_sub(doubt.since);
            // One that is not plausible is never followed.
            self.hold.checked_sub(ran).unwrap_or(self.hold)
        });
        let is_certain = held_for.is_none() && self.offset.is_zero();
        ClockReading { time: self.time, is_certain, held_for }
    }

    /// The jump that nobody has been told of yet: the times before and after it, and the hold.
    pub(crate) fn take_jump(&mut self) -> Option<(UnixMillis, UnixMillis, Duration)> {
        self.jump.take()
    }

    /// Records `reading` in `state`, which was `before`, if that or what stamps count as has changed, or if it is due. Returns the
    /// leap that it takes up.
    pub(crate) fn record(
        &mut self,
        segments: &Segments,
        before: &TableState,
        state: &mut TableState,
        reading: ClockReading,
    ) -> Duration {
        let redated = self.redated(segments, state, reading);
        if state != before || redated != state.redated || self.needs_recording(state) {
            state.redated = redated;
            state.latest_time = reading.time;
            state.clock_offset_ms = millis(self.offset);
            state.jumped_while_open = self.jumped_while_open();
        }
        std::mem::take(&mut self.leap)
    }

    /// Whether a crash now would lose more than a little of what is known.
    fn needs_recording(&self, state: &TableState) -> bool {
        let recorded = state.latest_time;
        self.time.since(recorded) >= RECORD_INTERVAL.min(self.limit / 4).max(TOLERANCE)
            || recorded > self.time
            || self.jumped_while_open() != state.jumped_while_open
            || millis(self.offset) != state.clock_offset_ms
    }

    /// As [`redate`], which goes through all segments: only when something may have changed.
    fn redated(
        &mut self,
        segments: &Segments,
        state: &TableState,
        now: ClockReading,
    ) -> Vec<Redated> {
        // As long as time is uncertain, so are the stamps.
        self.redate_is_due |= !now.is_certain;
        if self.leap.is_zero() && !(self.redate_is_due && now.is_certain) {
            let first = segments.front().map(|segment| segment.id());
            let is_there = |redated: &&Redated| Some(redated.last) >= first;
            return state.redated.iter().filter(is_there).copied().collect();
        }
        // One that is on its way to being sealed may get an uncertain stamp.
        let ending = segments.len().checked_sub(2).and_then(|at| segments.get(at));
        self.redate_is_due = ending.is_some_and(|segment| segment.metadata().is_none());
        redate(segments, state, now, self.leap)
    }

    pub(crate) fn not_recorded(&mut self, leap: Duration) {
        self.leap = self.leap.saturating_add(leap);
        self.redate_is_due = true;
    }

    fn jumped_while_open(&self) -> bool {
        self.doubt.is_some() && !self.is_opening
    }
}

/// What the clocks may differ by after `passed`: they run at one rate, steps tell them apart.
fn allowed_drift(passed: Duration) -> Duration {
    TOLERANCE + passed / 50_000
}

impl TableState {
    /// When a segment counts as sealed; and whether that is certain.
    pub(crate) fn sealed_at(&self, metadata: &Metadata) -> (UnixMillis, bool) {
        let stamp = metadata.last_write;
        self.redated(metadata.segment).map_or((stamp.time(), stamp.is_certain()), |at| (at, true))
    }

    fn redated(&self, id: SegmentId) -> Option<UnixMillis> {
        self.redated.iter().find(|r| r.first <= id && id <= r.last).map(|redated| redated.at)
    }
}

/// How the stamps that do not count as they stand count from now on. Time has leapt by `leap`.
fn redate(
    segments: &Segments,
    state: &TableState,
    now: ClockReading,
    leap: Duration,
) -> Vec<Redated> {
    let becomes_certain = now.is_certain || !leap.is_zero();
    let ended = segments.iter().take(segments.len().saturating_sub(1));
    let counted: Vec<(SegmentId, UnixMillis, bool)> = ended
        .filter_map(|segment| {
            let Some(metadata) = segment.metadata() else {
                // It gets the stamp of a moment before the leap.
                let leapt = (!leap.is_zero()).then_some(now.time);
                let at = leapt.or(state.redated(segment.id()));
                return at.map(|at| (segment.id(), at, false));
            };
            let (sealed_at, is_settled) = state.sealed_at(metadata);
            let mut at = sealed_at.saturating_add(leap);
            if becomes_certain && (!is_settled || at > now.time) {
                at = now.time;
            }
            let stamp = metadata.last_write;
            let is_settled = is_settled || becomes_certain;
            let as_stamped = at == stamp.time() && (stamp.is_certain() || !is_settled);
            Some((metadata.segment, at, as_stamped))
        })
        .collect();
    let mut width = Duration::ZERO;
    loop {
        let redated = join(&counted, width);
        if redated.len() <= MAX_REDATED {
            return redated;
        }
        width = (width * 2).max(Duration::from_secs(1));
    }
}

/// Ranges of segments that count as sealed at the latest of times that differ by `width` at most.
fn join(counted: &[(SegmentId, UnixMillis, bool)], width: Duration) -> Vec<Redated> {
    let mut ranges: Vec<(UnixMillis, Redated)> = Vec::new();
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
        ranges.push((at, Redated { first: id, last: id, at }));
    }
    ranges.into_iter().map(|(_, range)| range).collect()
}
