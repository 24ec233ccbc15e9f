//! `table.state`: what rules a table, in two slots that are written one after the other, in place.
//!
//! The one place that the gc-watermark and the floor of segment ids are read from. Writing needs no space on
//! the disk, so expiry works when it is full. A write is acknowledged after both slots hold it, so that no single
//! damaged slot brings back an older watermark.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::sync::Mutex;
use lithdb_env::{Error, ErrorKind, Fs, Result, UnixMillis, read_file};
use lithdb_segment::SegmentId;
use lithdb_segment::envelope::Magic;
use lithdb_segment::record::Mark;
use lithdb_segment::scan::Totals;
use serde::{Deserialize, Serialize};

use lithdb_segment::slots::{self, CurrentSlot, SLOTS, Slotted};

/// The length of a slot of `table.state`.
pub const SLOT_LEN: usize = slots::SLOT_UNIT;

/// What rules a table. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// Counts writes; the higher valid one rules.
    pub generation: u64,
    /// The table's random id.
    pub table_id: u64,
    /// Seeds the hashes of keys.
    pub hash_seed: u64,
    /// When the table was created.
    pub created: UnixMillis,
    /// The lowest segment that may still be read. Never moves back.
    pub watermark: SegmentId,
    /// No lower id may be given to a new segment.
    pub next_id_floor: SegmentId,
    /// There is no segment at or above the watermark: the next one needs no predecessor.
    pub empty: bool,
    /// The table is being removed.
    pub dropping: bool,
    /// How long values are kept after their segment was sealed, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Whether the application collects with a filter.
    pub has_gc_filter: bool,
    /// The table's time when it was last recorded; only an accepted clock sets it back.
    pub latest_time: UnixMillis,
    /// No file of a higher id was ever created.
    pub highest_id: SegmentId,
    /// By how much the table's time is ahead of the wall clock that it follows, in milliseconds.
    pub clock_offset_ms: u64,
    /// The wall clock has jumped while the table was open, and is in doubt.
    pub jumped_while_open: bool,
    /// Segments that count as sealed at another time than they record, lowest first.
    pub redated: Vec<Redated>,
    /// This segment is there, at least so long, and none before it is without its seal. Later ones may be there.
    pub durable_end: Option<DurableEnd>,
    /// The table was closed, and nothing was put since: it ends with the durable tail, no file goes on behind it. An opening
    /// for writing clears this before anything is put.
    pub closed_cleanly: bool,
}

/// The most ranges of segments that the state has room for.
pub(crate) const MAX_REDATED: usize = 16;

/// Segments that count as sealed at one time, whatever their metadata record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redated {
    /// The first of them.
    pub first: SegmentId,
    /// The last of them.
    pub last: SegmentId,
    /// When they count as sealed.
    pub at: UnixMillis,
}

/// How long the mutable segment was when it was begun, or when the table was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableEnd {
    /// The segment.
    pub segment: SegmentId,
    /// The length of its key file.
    pub key_end: u32,
    /// The lengths of its value files.
    pub value_ends: Vec<u64>,
}

impl Slotted for TableState {
    const MAGIC: Magic = Magic::STATE;

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl DurableEnd {
    /// Of a segment that durably holds `totals`.
    pub(crate) fn of(segment: SegmentId, totals: &Totals) -> Self {
        let (key_end, value_ends) = (totals.key_end as u32, totals.value_ends.clone());
        Self { segment, key_end, value_ends }
    }
}

impl TableState {
    /// The state of a table that has just been created.
    pub fn new(table_id: u64, hash_seed: u64, now: UnixMillis) -> Self {
        Self {
            generation: 1,
            table_id,
            hash_seed,
            created: now,
            watermark: SegmentId::FIRST,
            next_id_floor: SegmentId::FIRST,
            empty: true,
            dropping: false,
            ttl_ms: None,
            has_gc_filter: false,
            latest_time: now,
            highest_id: SegmentId::FIRST,
            clock_offset_ms: 0,
            jumped_while_open: false,
            redated: Vec::new(),
            durable_end: None,
            closed_cleanly: false,
        }
    }

    /// Everything before this segment is sealed, durably, and the id that follows may be given away.
    pub(crate) fn begin_segment(&mut self, begun: DurableEnd) {
        let next = begun.segment.next().unwrap_or(begun.segment); // the last id of all has no next
        self.highest_id = self.highest_id.max(next);
        self.durable_end = Some(begun);
    }

    /// What is promised of `segment` outside of it, as a mark: by the durable tail, and by the seal before it.
    pub fn durable_mark(&self, segment: SegmentId, sealed_mark: Option<Mark>) -> Option<Mark> {
        let tail = self.durable_end.as_ref().filter(|tail| tail.segment == segment);
        let by_state = tail.map(|tail| Mark {
            through: tail.key_end,
            value_ends: tail.value_ends.clone(),
            ..Mark::default()
        });
        sealed_mark.into_iter().chain(by_state).max_by_key(|mark| mark.through)
    }

    /// The slots of a state have one length; 256 value files fit.
    fn check_len(&self, path: &Path) -> Result<()> {
        let len = slots::slot_of(self)?.len();
        if len == SLOT_LEN {
            return Ok(());
        }
        let message = format_args!("a slot of {len} bytes; {SLOT_LEN} is the most");
        Err(Error::at(ErrorKind::InvalidArgument, path, message))
    }
}

/// The state of a table as it was read, with which slots held.
#[derive(Debug, Clone)]
pub struct LoadedState {
    /// The state that rules.
    pub state: TableState,
    current_slot: usize,
    writable: Result<()>,
}

/// Reads the state file at `path`.
/// `Missing`; `Corrupt` if no slot holds or the length is wrong; `Unsupported`.
pub fn read_state(fs: &dyn Fs, path: &Path) -> Result<LoadedState> {
    let limit = 4 * (SLOTS * SLOT_LEN) as u64;
    let bytes = read_file(fs, path, limit).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() != SLOTS * SLOT_LEN {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::corrupt(path, 0, "8192 bytes", &found));
    }
    let CurrentSlot { record: state, slot: current_slot, writable } =
        slots::current_slot(path, &bytes, SLOT_LEN)?;
    Ok(LoadedState { state, current_slot, writable })
}

/// As [`read_state`], and refuses what this version must not write to.
pub(crate) fn read_writable(fs: &dyn Fs, path: &Path) -> Result<LoadedState> {
    let found = read_state(fs, path)?;
    found.writable.clone()?;
    Ok(found)
}

/// The state file of a table that is open for writing.
#[derive(Debug)]
pub struct StateFile {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// What rules. The file is open only while it is written.
    current: Mutex<TableState>,
}

impl StateFile {
    /// Creates the file, atomically and durably: the table exists from here on.
    pub fn create(fs: &dyn Fs, path: &Path, state: &TableState) -> Result<()> {
        slots::create(fs, path, state)
    }

    /// Opens the file for writing. What was read may be in the page cache alone, so it is written again to both
    /// slots, the ruling one first, before anybody acts on it.
    pub fn open(fs: &Arc<dyn Fs>, path: &Path) -> Result<Self> {
        Self::change(fs, path, read_writable(&**fs, path)?, |_| {})
    }

    /// As [`open`](Self::open), for a state that was read before and that nobody has changed since; what is written to both
    /// slots is what `change` makes of it.
    pub(crate) fn change(
        fs: &Arc<dyn Fs>,
        path: &Path,
        found: LoadedState,
        change: impl FnOnce(&mut TableState),
    ) -> Result<Self> {
        let LoadedState { state: before, current_slot, .. } = found;
        let mut state = before.clone();
        change(&mut state);
        if state == before {
            slots::write_both(&**fs, path, &state, current_slot)?;
        } else {
            state.generation += 1;
            state.check_len(path)?;
            slots::write_after(&**fs, path, &before, &state, current_slot)?;
        }
        Ok(Self { fs: Arc::clone(fs), path: path.to_owned(), current: Mutex::new(state) })
    }

    /// The state as it rules now.
    pub fn get(&self) -> TableState {
        self.current.lock().clone()
    }

    /// Changes the state and makes the change durable in both slots. If `change` changes nothing, nothing is
    /// written. If it latches, which state a reopening finds is unknown.
    pub fn update(&self, change: impl FnOnce(&mut TableState)) -> Result<()> {
        let mut current = self.current.lock();
        let mut next = current.clone();
        change(&mut next);
        next.highest_id = next.highest_id.max(SegmentId(next.next_id_floor.0.saturating_sub(1)));
        if next == *current {
            return Ok(());
        }
        next.generation += 1;
        next.check_len(&self.path)?;
        slots::write_both(&*self.fs, &self.path, &next, 0)?;
        *current = next;
        Ok(())
    }

    /// Notes `id` before it is given to a new segment: no file has an id that the state does not know.
    pub(crate) fn reserve(&self, id: SegmentId) -> Result<()> {
        self.update(|state| state.highest_id = state.highest_id.max(id))
    }
}

/// The id for a new segment after `newest`.
pub fn next_id(newest: SegmentId, floor: SegmentId) -> Result<SegmentId> {
    Ok(id_after(newest)?.max(floor).max(SegmentId::FIRST))
}

/// The id after `id`; refused if that is the last of all.
pub(crate) fn id_after(id: SegmentId) -> Result<SegmentId> {
    id.next().ok_or_else(|| {
        let message = "the table has used up its 2^32 segment ids";
        Error::new(ErrorKind::InvalidArgument, message)
    })
}
