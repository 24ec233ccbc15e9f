//! The writing side of a table.
//!
//! Lock order: `shutdown` (closing or dropping the table), or `filter_approved` (orders
//! collections; held while the filter runs, so only collections wait for it); `log`, the writer
//! lock (orders writes; held during I/O only when a segment is created or a value is streamed);
//! `state_changes` (state changes other than those under the writer lock; closing waits for it);
//! then those inside `sealing`, `commit`, `in_flight`, `state`, `clock` and `live`, held briefly,
//! that of `state` during its write. Lookups never take `log`, iterators briefly. Listeners may
//! run under any of them (see `callback`), the source of a streamed value under `log`.

use std::time::Duration;

use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicBool, Ordering};
use lithdb_env::{Result, UnixMillis};
use lithdb_segment::{Position, SegmentWriter, UnlinkPermission};

use crate::event::Event;
use crate::gc::clock::{ClockReading, TableClock};
use crate::live::LiveView;
use crate::segments::Snapshot;
use crate::shared::Shared;
use crate::state::{StateFile, TableState};
use crate::write::activity::Activity;
use crate::write::commit::GroupCommit;
use crate::write::in_flight::InFlight;
use crate::write::seal::PendingSeal;

pub(crate) struct Writer {
    pub(crate) shared: Shared,
    pub(crate) live: LiveView,
    pub(crate) state: StateFile,
    pub(crate) log: Mutex<Log>,
    pub(crate) commit: GroupCommit,
    pub(crate) sealing: PendingSeal,
    pub(crate) in_flight: InFlight,
    pub(crate) clock: Mutex<TableClock>,
    pub(crate) activity: Mutex<Activity>,
    /// Held while collected segments are retired, and for other state changes without the writer
    /// lock.
    pub(crate) state_changes: Mutex<UnlinkPermission>,
    /// The filter has approved every key before this. Locked by collections alone.
    pub(crate) filter_approved: Mutex<Position>,
    /// Held while the table is closed or dropped; taken before any other lock.
    pub(crate) shutdown: Mutex<()>,
    /// The table is being closed: puts are refused. Set under the writer lock.
    pub(crate) closing: AtomicBool,
}

/// The end of the log.
pub(crate) struct Log {
    /// The mutable segment; `None` while the table has no segment.
    pub(crate) segment: Option<SegmentWriter>,
    /// The newest primary record; the default if there is none.
    pub(crate) newest: Position,
    /// When (monotonic) the segment got records, and how old it was then.
    pub(crate) begun: Option<(Duration, Duration)>,
    /// The table's time when it was opened.
    pub(crate) opened: UnixMillis,
}

impl Log {
    /// The position of the next record.
    pub(crate) fn end(&self) -> Position {
        self.segment.as_ref().map_or(Position::default(), |writer| {
            Position::new(writer.segment().id(), writer.totals().key_end as u32)
        })
    }

    /// Whether the mutable segment has records.
    pub(crate) fn has_records(&self) -> bool {
        self.segment.as_ref().is_some_and(|segment| segment.totals().records > 0)
    }
}

impl Writer {
    /// Refuses a put that the flush of a close would miss. Called under the writer lock. Also ends
    /// the filter scan of a table that is being closed.
    pub(crate) fn check_accepting_writes(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(self.shared.closed_error());
        }
        self.shared.check_open()
    }

    /// See [`Table::snapshot`](crate::Table::snapshot).
    pub(crate) fn snapshot(&self, at: Position) -> Snapshot {
        // Under the writer lock the list and the end are consistent.
        let log = self.log.lock();
        let (segments, log_end) = (self.live.segments(), log.end());
        let end = self.in_flight.complete_end(at, log_end);
        Snapshot { segments, end, newest: (end == log_end).then_some(log.newest) }
    }

    /// The table's time.
    pub(crate) fn now(&self) -> ClockReading {
        self.clock.lock().read(&*self.shared.env().clock)
    }

    /// Persists seal-time corrections for the current time, before expiry uses it, and the time
    /// itself if a crash would set it back noticeably.
    pub(crate) fn record_time(&self) -> Result<ClockReading> {
        let _state_changes = self.state_changes.lock();
        self.record_time_alone()
    }

    /// As [`record_time`](Self::record_time), for the holder of `state_changes`.
    pub(crate) fn record_time_alone(&self) -> Result<ClockReading> {
        self.shared.check_open()?;
        let reading = self.update_state(|_| ())?;
        let jump = self.clock.lock().take_jump();
        if let Some((before, now, hold)) = jump {
            let table = self.shared.name().clone();
            self.shared.setup.listener.emit(&Event::ClockJump { table, before, now, hold });
        }
        Ok(reading)
    }

    /// Changes the state. Also records the time if that is due, or if the state or a seal-time
    /// correction has changed.
    pub(crate) fn update_state(&self, f: impl FnOnce(&mut TableState)) -> Result<ClockReading> {
        let (mut reading, mut leap) = (self.now(), Duration::ZERO);
        // Dropped after the locks: the last holder of a collected segment unlinks its files.
        let mut segments = None;
        let updated = self.state.update(|state| {
            let before = state.clone();
            f(state);
            let mut clock = self.clock.lock();
            reading = clock.read(&*self.shared.env().clock);
            let segments = segments.insert(self.live.segments());
            leap = clock.record(segments, &before, state, reading);
        });
        if let Err(error) = updated {
            // The next update records it, unless the table is latched.
            self.clock.lock().not_recorded(leap);
            return Err(self.shared.fail(&error));
        }
        Ok(reading)
    }

    /// Waits for the calls that began before the table was closed. Nothing is written or removed
    /// after it.
    pub(crate) fn quiesce(&self) {
        assert!(self.shared.is_closed(), "calls are still accepted");
        self.in_flight.wait_all();
        self.commit.wait_idle();
        self.sealing.wait_idle();
        self.state_changes.lock().revoke();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.state_changes.lock().revoke();
    }
}
