//! What only a process that writes has of a table.
//!
//! Lock order. `shutdown` (held while the table is closed or dropped), or `filter_approved` (orders collections; held while
//! the filter is asked, so nobody else waits for it); `log`, the writer lock (orders writes; held during I/O only when a
//! segment is created or a value comes in pieces); `gc` (changes of the state but for those under the writer lock; closing
//! waits for it); then those inside of `sealing`, `commit`, `in_flight`, `state`, `clock` and `live`, which are held for
//! moments, but for that of `state`: during the write. No reader takes `log` (iterators do, for a moment). A listener may be
//! called under any of them (see `callback`), the source of a streamed value under `log`.

use std::time::Duration;

use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicBool, Ordering};
use lithdb_env::{Result, UnixMillis};
use lithdb_segment::{Position, SegmentWriter, UnlinkPermission};

use crate::gc::clock::TableClock;
use crate::live::LiveView;
use crate::segments::Snapshot;
use crate::shared::Shared;
use crate::state::StateFile;
use crate::write::activity::Activity;
use crate::write::commit::GroupCommit;
use crate::write::in_flight::InFlight;
use crate::write::seal::PendingSeal;

#[derive(Debug)]
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
    /// Held while collected segments are given up, and whenever else the state is changed without the writer lock.
    pub(crate) gc: Mutex<UnlinkPermission>,
    /// The filter has said yes to every key before this. Held while it is asked, by collections alone.
    pub(crate) filter_approved: Mutex<Position>,
    /// Held while the table is being closed or dropped, before any other lock.
    pub(crate) shutdown: Mutex<()>,
    /// The table is being closed: nothing more is put. Set under the writer lock.
    pub(crate) closing: AtomicBool,
}

/// The end of the log: the mutable segment, `None` while the table has no segment.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) segment: Option<SegmentWriter>,
    /// The newest primary record, the default while there is none.
    pub(crate) newest: Position,
    /// Since when (monotonic) the segment has held records, and how old it was then.
    pub(crate) begun: Option<(Duration, Duration)>,
    /// The table's time when it was opened.
    pub(crate) opened: UnixMillis,
}

impl Log {
    /// Where the next record goes.
    pub(crate) fn end(&self) -> Position {
        self.segment.as_ref().map_or(Position::default(), |writer| {
            Position::new(writer.segment().id(), writer.totals().key_end as u32)
        })
    }

    /// Whether there is anything in the mutable segment.
    pub(crate) fn has_records(&self) -> bool {
        self.segment.as_ref().is_some_and(|segment| segment.totals().records > 0)
    }
}

impl Writer {
    /// Refuses a put that the flush of a close would not see. Called under the writer lock. Also ends a filter's scan that
    /// is of no use to a closed table.
    pub(crate) fn check_accepting_writes(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(self.shared.closed_error());
        }
        self.shared.check_open()
    }

    /// See [`Table::snapshot`](crate::Table::snapshot).
    pub(crate) fn snapshot(&self, at: Position) -> Snapshot {
        // Under the writer lock the list and the end belong together.
        let log = self.log.lock();
        let (segments, log_end) = (self.live.segments(), log.end());
        let end = self.in_flight.complete_end(at, log_end);
        Snapshot { segments, end, newest: (end == log_end).then_some(log.newest) }
    }

    /// The table is closed: waits for the calls that were let in before. Nothing is written or removed after it.
    pub(crate) fn quiesce(&self) {
        assert!(self.shared.is_closed(), "calls are still let in");
        self.in_flight.wait_all();
        self.commit.wait_idle();
        self.sealing.wait_idle();
        self.gc.lock().revoke();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.gc.lock().revoke();
    }
}
