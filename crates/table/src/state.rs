//! `table.state`: the persistent table state, in two slots that are written one after the other,
//! in place.
//!
//! The watermark and the id floor are read from here and nowhere else. Writing needs no space on
//! the disk, so collection works on a full one. A write is acknowledged after both slots hold it,
//! so that no single damaged slot brings back an older watermark.

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

/// The length in bytes of a slot of `table.state`.
pub const SLOT_LEN: usize = slots::SLOT_UNIT;

/// The persistent state of a table. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// Counts writes; the valid slot with the higher generation is current.
    pub generation: u64,
    /// The table's random id.
    pub table_id: u64,
    /// The seed of the key hashes.
    pub hash_seed: u64,
    /// When the table was created.
    pub created: UnixMillis,
    /// The lowest segment that may still be read. Never moves back.
    pub watermark: SegmentId,
    /// No lower id may be used for a new segment.
    pub next_id_floor: SegmentId,
    /// No segment is at or above the watermark: the next one needs no predecessor.
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
    /// How far the table's time is ahead of the wall clock that it follows, in milliseconds.
    pub clock_offset_ms: u64,
    /// The wall clock jumped while the table was open, and is not trusted.
    pub jumped_while_open: bool,
    /// Segments that count as sealed at another time than their metadata records, lowest first.
    pub seal_time_overrides: Vec<SealTimeOverride>,
    /// This segment exists and is at least this long, and every segment before it is sealed. Later
    /// segments may exist.
    pub recorded_end: Option<RecordedEnd>,
    /// The table was closed and nothing was put since: the recorded end is exact, and no file
    /// continues past it. A read-write open clears this before the first put.
    pub closed_cleanly: bool,
}

/// The largest number of seal time overrides that fit into the state.
pub(crate) const MAX_SEAL_TIME_OVERRIDES: usize = 16;

/// A range of segments that count as sealed at one time, whatever their metadata records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealTimeOverride {
    /// The first of them.
    pub first: SegmentId,
    /// The last of them.
    pub last: SegmentId,
    /// When they count as sealed.
    pub at: UnixMillis,
}

/// The length of the mutable segment when it was created or recovered, or the table was closed: a
/// lower bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEnd {
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

impl RecordedEnd {
    /// The recorded end of a segment that durably holds `totals`.
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
            seal_time_overrides: Vec::new(),
            recorded_end: None,
            closed_cleanly: false,
        }
    }

    /// Records that every segment before this one is durably sealed, and that the id after it may
    /// be used.
    pub(crate) fn begin_segment(&mut self, begun: RecordedEnd) {
        let next = begun.segment.next().unwrap_or(begun.segment); // the last id of all has no next
        self.highest_id = self.highest_id.max(next);
        self.recorded_end = Some(begun);
    }

    /// The durable end of `segment` that other files record, as a mark: the greater of the
    /// recorded end in the state and the successor's end in the predecessor's metadata. Its time
    /// and record count may be 0, unknown.
    pub fn external_durable_end(
        &self,
        segment: SegmentId,
        successor_end: Option<Mark>,
    ) -> Option<Mark> {
        let recorded_end = self.recorded_end.as_ref().filter(|end| end.segment == segment);
        let by_state = recorded_end.map(|end| Mark {
            through: end.key_end,
            value_ends: end.value_ends.clone(),
            ..Mark::default()
        });
        successor_end.into_iter().chain(by_state).max_by_key(|mark| mark.through)
    }

    /// A state must fit into a slot of fixed length; one with 256 value files does.
    fn check_len(&self, path: &Path) -> Result<()> {
        let len = slots::slot_of(self)?.len();
        if len == SLOT_LEN {
            return Ok(());
        }
        let message = format_args!("expected a state of at most {SLOT_LEN} bytes, found {len}");
        Err(Error::at(ErrorKind::InvalidArgument, path, message))
    }
}

/// The state of a table as read, and which slot is current.
#[derive(Debug, Clone)]
pub struct LoadedState {
    /// The current state.
    pub state: TableState,
    current_slot: usize,
    writable: Result<()>,
}

/// Reads the state file at `path`.
/// `Missing`; `Corrupt` if no slot is valid or the length is wrong; `Unsupported`.
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

/// As [`read_state`], and refuses a state that this version must not write.
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
    /// The current state. The file is open only while it is written.
    current: Mutex<TableState>,
}

impl StateFile {
    /// Creates the file atomically and durably: from here on the table exists.
    pub fn create(fs: &dyn Fs, path: &Path, state: &TableState) -> Result<()> {
        slots::create(fs, path, state)
    }

    /// Opens the file for writing. What was read may be only in the page cache, so it is written
    /// again to both slots, the current one first, before anything depends on it.
    pub fn open(fs: &Arc<dyn Fs>, path: &Path) -> Result<Self> {
        Self::change(fs, path, read_writable(&**fs, path)?, |_| {})
    }

    /// As [`open`](Self::open), for a state that was read before and has not changed since; writes
    /// to both slots the state after `change`.
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

    /// The current state.
    pub fn get(&self) -> TableState {
        self.current.lock().clone()
    }

    /// Changes the state and makes the change durable in both slots. Writes nothing if `change`
    /// changes nothing. If the write fails, it is unknown which state the next open finds.
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

    /// Records `id` before a new segment uses it: no file has an id above the recorded highest id.
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
        let message = "the table has used all of its 2^32 - 1 segment ids";
        Error::new(ErrorKind::InvalidArgument, message)
    })
}
