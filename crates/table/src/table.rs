//! The table itself: what its parts share, and how they are reached.
//!
//! Locks, in the order in which they may be taken: `shutdown_lock` (held while the table is closed or dropped), or `filter_approved` (orders
//! collections; held while the filter is asked, so nobody else waits for it); `writer` (orders writes; held during I/O only
//! when a segment is created or a value comes in pieces); `gc_lock` (changes of the state but for those of the writer; what closing waits for); then
//! `sealing` or `segments` or the keymap's. `segments` is held for moments only, and `clock`,
//! which is taken last. Flushes are ordered by `commit`. No reader takes `writer` (iterators do,
//! for a moment), and a listener may be called under any of them (see `callback`),
//! the source of a value under `writer`.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Env, Error, ErrorKind, Latch, Result, UnixMillis};
use lithdb_keymap::Keymap;
use lithdb_segment::scan::Totals;
use lithdb_segment::{Context, Position, SegmentId, SegmentWriter, TableName, UnlinkPermission};

use crate::callback::refuse_in_callback;
use crate::counters::Counters;
use crate::event::{Event, EventListener};
use crate::gc::clock::TableClock;
use crate::gc::filter::GcFilter;
use crate::options::TableOptions;
use crate::segments::Segments;
use crate::state::StateFile;
use crate::write::commit::GroupCommit;
use crate::write::in_flight::InFlight;
use crate::write::seal::PendingSeal;

/// A table that is open. Cheap to clone; all clones are the same table.
#[derive(Clone)]
pub struct Table {
    pub(crate) inner: Arc<Inner>,
    /// Kept alive by this handle: whoever holds the locks.
    pub(crate) _keepalive: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) name: TableName,
    pub(crate) env: Env,
    pub(crate) context: Arc<Context>,
    pub(crate) options: TableOptions,
    pub(crate) settings: Mutex<Settings>,
    pub(crate) hash_seed: u64,
    pub(crate) created: UnixMillis,
    pub(crate) mode: Mode,
    pub(crate) latch: Latch,
    pub(crate) closed: AtomicBool,
    /// It is being closed: nothing more is put. Set under the writer's lock.
    pub(crate) closing: AtomicBool,
    pub(crate) listener: EventListener,
    pub(crate) filter: Option<GcFilter>,
    pub(crate) counters: Counters,
    /// The application collects with a filter, whether it was given now or not.
    pub(crate) has_gc_filter: bool,
}

/// What can change while the table is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) ttl: Option<Duration>,
    pub(crate) shards: u16,
}

#[derive(Debug)]
pub(crate) enum Mode {
    Write(Box<WriteSide>),
    Read(Box<crate::read::refresh::ReadSide>),
}

/// What only a table that is open for writing has.
#[derive(Debug)]
pub(crate) struct WriteSide {
    pub(crate) keymap: Arc<dyn Keymap>,
    /// The last one is mutable.
    pub(crate) segments: RwLock<Segments>,
    pub(crate) watermark: AtomicU32,
    pub(crate) unlink_permission: UnlinkPermission,
    pub(crate) state: StateFile,
    pub(crate) writer: Mutex<TableWriter>,
    pub(crate) commit: GroupCommit,
    pub(crate) sealing: PendingSeal,
    pub(crate) in_flight: InFlight,
    pub(crate) gc_lock: Mutex<()>,
    /// The filter has said yes to every key before this. Held while it is asked, by collections alone.
    pub(crate) filter_approved: Mutex<Position>,
    pub(crate) clock: Mutex<TableClock>,
    pub(crate) activity: Mutex<Activity>,
    pub(crate) counts: Counts,
    /// Held while the table is being closed or dropped, before any other lock.
    pub(crate) shutdown_lock: Mutex<()>,
}

/// The records and the primary ones among them of the mutable segment, for those who do not take the writer's lock. Both
/// stay below 2^32: a key file does.
#[derive(Debug, Default)]
pub(crate) struct Counts(AtomicU64);

impl Counts {
    /// Set under the writer's lock.
    pub(crate) fn set(&self, totals: &Totals) {
        self.0.store(totals.records << 32 | totals.primaries, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> (u64, u64) {
        let packed = self.0.load(Ordering::Relaxed);
        (packed >> 32, packed & u64::from(u32::MAX))
    }
}

/// The writer of the mutable segment; `None` while the table has no segment.
#[derive(Debug)]
pub(crate) struct TableWriter {
    pub(crate) segment: Option<SegmentWriter>,
    /// The newest primary record, the default while there is none.
    pub(crate) newest: Position,
    /// Since when (monotonic) the segment has held records, and how old it was then.
    pub(crate) begun: Option<(Duration, Duration)>,
    /// The table's time when it was opened.
    pub(crate) opened: UnixMillis,
}

/// What may be seen of a table at one moment.
pub(crate) struct Snapshot {
    pub(crate) segments: Segments,
    /// The end of what may be seen of the last one.
    pub(crate) end: Position,
    /// The newest primary record; `None` if that is not known because large values are on their way.
    pub(crate) newest: Option<Position>,
}

/// What the maintenance thread goes by.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// The end of the log at the last look, and since when (monotonic) it has been there.
    pub(crate) log_end: Position,
    pub(crate) since: Duration,
    /// Everything up to this position has not been durable since then (monotonic), at the longest.
    pub(crate) behind: Option<(Position, Duration)>,
    /// When (monotonic) the last look was.
    pub(crate) looked: Duration,
}

/// Everything a table needs to be opened, beside its options.
#[derive(Debug, Clone)]
pub struct TableSetup {
    /// The table's name.
    pub name: TableName,
    /// Disk, clock and threads.
    pub env: Env,
    /// The table's directory on every root, in the order of the roots.
    pub dirs: Vec<PathBuf>,
    /// How files are read.
    pub read_mode: lithdb_segment::ReadMode,
    /// The limit on open files, shared by all tables.
    pub handles: Arc<lithdb_segment::HandleCache>,
    /// Who hears of events.
    pub listener: EventListener,
    /// What may be collected, beside the TTL.
    pub filter: Option<GcFilter>,
    /// By how much the wall clock may be ahead after a stop before it is in doubt.
    pub clock_jump_limit: Duration,
    /// For how long it must then run steadily to be followed again.
    pub clock_jump_hold: Duration,
}

impl TableSetup {
    /// What it takes to look at the files of a table, below these roots, without serving it.
    pub fn for_files(name: TableName, env: &Env, roots: &[PathBuf]) -> Self {
        Self {
            dirs: roots.iter().map(|root| root.join(name.as_str())).collect(),
            name,
            env: env.clone(),
            read_mode: lithdb_segment::ReadMode::default(),
            handles: Arc::new(lithdb_segment::HandleCache::new(64)),
            listener: EventListener::default(),
            filter: None,
            clock_jump_limit: Duration::from_secs(24 * 3600),
            clock_jump_hold: Duration::MAX,
        }
    }
}

impl Table {
    /// The table's name.
    pub fn name(&self) -> &TableName {
        &self.inner.name
    }

    /// The options that the table was opened with.
    pub fn options(&self) -> &TableOptions {
        &self.inner.options
    }

    /// Whether both are handles of one open table.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// A handle that keeps `keeper` alive as long as it or a clone of it lives.
    #[must_use]
    pub fn with_keepalive(&self, keeper: Arc<dyn Any + Send + Sync>) -> Self {
        Self { inner: Arc::clone(&self.inner), _keepalive: Some(keeper) }
    }

    /// Whether the application collects this table with a filter: recorded when one was first given.
    pub fn has_gc_filter(&self) -> bool {
        self.inner.has_gc_filter || self.inner.filter.is_some()
    }

    /// Whether the table was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        matches!(self.inner.mode, Mode::Read(_))
    }

    /// The first failure, if there was one: the table takes no more writes.
    pub fn failure(&self) -> Option<Error> {
        self.inner.latch.cause().cloned()
    }

    /// Whether the table was closed or dropped: every call is refused. Values and iterators that are held stay good.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire)
    }

    /// From now on every call is refused. Values and iterators that are held stay good.
    pub(crate) fn set_closed(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }
}

impl Drop for WriteSide {
    fn drop(&mut self) {
        self.unlink_permission.revoke();
    }
}

impl Inner {
    /// Every public call begins here.
    pub(crate) fn enter(&self) -> Result<()> {
        refuse_in_callback()?;
        self.check_open()
    }

    /// Refuses what would touch files of a table that is closed, for those who waited for a lock meanwhile.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(self.closed_error()) } else { Ok(()) }
    }

    /// Refuses a put that the flush of a close would not see. Called under the writer's lock. Ends a scan whose outcome a
    /// table that is closed has no use for.
    pub(crate) fn check_accepting_writes(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            Err(self.closed_error())
        } else {
            self.check_open()
        }
    }

    fn closed_error(&self) -> Error {
        let message = format!("table {}: it was closed or dropped", self.name);
        Error::new(ErrorKind::Closed, message)
    }

    pub(crate) fn write_side(&self) -> Result<&WriteSide> {
        if let Mode::Write(side) = &self.mode {
            return Ok(side);
        }
        let message = format!("table {}: the database was opened for reading only", self.name);
        Err(Error::new(ErrorKind::ReadOnly, message))
    }

    /// Every public call that writes begins here.
    pub(crate) fn enter_write(&self) -> Result<&WriteSide> {
        self.enter()?;
        let side = self.write_side()?;
        self.latch.check().map_err(|e| self.in_context(&e))?;
        Ok(side)
    }

    /// The error with the table's name in front, once.
    pub(crate) fn in_context(&self, error: &Error) -> Error {
        in_context(&self.name, error)
    }

    /// The error with the table's name. If it is a failed write or sync, nothing after it is acknowledged; whatever else
    /// failed has done nothing, and is only passed on.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let error = self.in_context(error);
        if error.latches() && self.latch.close(&error) {
            // The listener first: its panics are caught, those of the metrics are not.
            self.listener.emit(&Event::Latched { table: self.name.clone(), cause: error.clone() });
            metrics::counter!("lithdb_latched_total", "table" => self.name.to_string())
                .increment(1);
        }
        error
    }

    /// Does what a thread of the database's own does with the table. A panic latches it: nobody knows what was left undone.
    pub(crate) fn latch_on_panic<T>(
        &self,
        what: &str,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Io, format!("{what} panicked")).latching();
            // It closes the latch first. Metrics and log may panic, too; others wait for the caller.
            let failed = catch_unwind(AssertUnwindSafe(|| self.fail(&error)));
            Err(failed.unwrap_or_else(|_| self.in_context(&error)))
        })
    }

    pub(crate) fn watermark(&self) -> SegmentId {
        match &self.mode {
            Mode::Write(side) => SegmentId(side.watermark.load(Ordering::Acquire)),
            Mode::Read(side) => side.view().watermark,
        }
    }

    /// What may be seen by somebody who begins at `at`, where a record is: large values that are on their way before it do
    /// not matter.
    pub(crate) fn snapshot(&self, at: Position) -> Snapshot {
        match &self.mode {
            Mode::Read(side) => {
                let view = side.view();
                let (segments, end) = (view.segments.clone(), view.end);
                Snapshot { segments, end, newest: Some(view.newest) }
            }
            Mode::Write(side) => {
                // Under the writer's lock the list and the end belong together.
                let writer = side.writer.lock();
                let (segments, log_end) = (side.segments.read().clone(), writer.log_end());
                let end = side.in_flight.complete_end(at, log_end);
                Snapshot { segments, end, newest: (end == log_end).then_some(writer.newest) }
            }
        }
    }
}

/// The error with the table's name in front, once.
pub(crate) fn in_context(name: &TableName, error: &Error) -> Error {
    let context = format!("table {name}");
    let rest = error.message().strip_prefix(&context);
    if rest.is_some_and(|rest| rest.starts_with(": ")) {
        return error.clone();
    }
    error.context(context)
}

impl TableWriter {
    /// Where the next record goes.
    pub(crate) fn log_end(&self) -> Position {
        self.segment.as_ref().map_or(Position::default(), |writer| {
            Position::new(writer.segment().id(), writer.totals().key_end as u32)
        })
    }
}
