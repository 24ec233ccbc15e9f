//! `table.state`: what rules a table, in two slots that are written in turn, in place.
//!
//! The one place that the gc-watermark and the floor of segment ids are read from. Writing needs no space on
//! the disk, so expiry works when it is full. A write is acknowledged after both slots hold it, so that no single
//! damaged slot brings back an older watermark.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::sync::{Mutex, MutexGuard};
use lithdb_env::{
    Error, ErrorKind, File, Fs, OpenMode, Result, UnixMillis, read_file, replace_file, write_all_at,
};
use lithdb_segment::envelope::{self, Magic};
use lithdb_segment::record::Mark;
use lithdb_segment::scan::Totals;
use lithdb_segment::{SegmentId, check_writable};
use serde::{Deserialize, Serialize};

pub(crate) const SLOT_LEN: usize = 4096;
pub(crate) const SLOTS: usize = 2;

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
    /// The latest wall time that was seen.
    pub latest_time: UnixMillis,
    /// This segment is there, at least so long, and none before it is without its seal. Later ones may be there.
    pub durable_tail: Option<DurableTail>,
}

/// How long the mutable segment was when it was begun, or when the table was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableTail {
    /// The segment.
    pub segment: SegmentId,
    /// The length of its key file.
    pub key_end: u32,
    /// The lengths of its value files.
    pub value_ends: Vec<u64>,
}

impl DurableTail {
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
            durable_tail: None,
        }
    }

    /// What is promised of `segment` outside of it, as a mark: by the durable tail, and by the seal before it.
    pub fn promise(&self, segment: SegmentId, by_seal: Option<Mark>) -> Option<Mark> {
        let tail = self.durable_tail.as_ref().filter(|tail| tail.segment == segment);
        let by_state = tail.map(|tail| Mark {
            through: tail.key_end,
            value_ends: tail.value_ends.clone(),
            ..Mark::default()
        });
        by_seal.into_iter().chain(by_state).max_by_key(|mark| mark.through)
    }

    fn slot(&self) -> Result<Vec<u8>> {
        let mut slot = envelope::seal(Magic::STATE, self)?;
        if slot.len() > SLOT_LEN {
            let message = format!("a table state of {} bytes; {SLOT_LEN} is the most", slot.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        slot.resize(SLOT_LEN, 0);
        Ok(slot)
    }
}

/// The state of a table as it was read, with which slots held.
#[derive(Debug, Clone)]
pub struct FoundState {
    /// The state that rules.
    pub state: TableState,
    ruling: usize,
    writable: Result<()>,
}

/// Reads the state file at `path`.
///
/// # Errors
/// `Missing`; `Corrupt` if no slot holds or the length is wrong; `Unsupported`.
pub fn read_state(fs: &dyn Fs, path: &Path) -> Result<FoundState> {
    let limit = 4 * (SLOTS * SLOT_LEN) as u64;
    let bytes = read_file(fs, path, limit).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() != SLOTS * SLOT_LEN {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::corrupt(path, 0, "8192 bytes", &found));
    }
    ruling_slot(path, &bytes)
}

/// The state in the slot that rules, of the bytes of a state file whatever their length.
///
/// # Errors
/// `Corrupt` if no slot holds; `Unsupported`.
pub(crate) fn ruling_slot(path: &Path, bytes: &[u8]) -> Result<FoundState> {
    let mut best: Option<FoundState> = None;
    let mut problem = None;
    for (slot, bytes) in bytes.chunks(SLOT_LEN).take(SLOTS).enumerate() {
        match envelope::open::<TableState>(Magic::STATE, path, bytes) {
            Ok((state, used)) if bytes.iter().skip(used).all(|byte| *byte == 0) => {
                if best.as_ref().is_none_or(|b| b.state.generation < state.generation) {
                    let writable = check_writable(path, bytes);
                    best = Some(FoundState { state, ruling: slot, writable });
                }
            }
            Ok((_, used)) => {
                let at = (slot * SLOT_LEN + used) as u64;
                problem = Some(Error::corrupt(path, at, "zeros behind the slot", "other bytes"));
            }
            Err(error) => problem = Some(error),
        }
    }
    // A version that is not ours is not a torn slot.
    if let Some(error) = problem.take_if(|e| e.kind() == ErrorKind::Unsupported || best.is_none()) {
        return Err(error);
    }
    best.ok_or_else(|| Error::corrupt(path, 0, "a valid slot", "none"))
}

/// The state file of a table that is open for writing.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: Arc<dyn File>,
    current: Mutex<(TableState, usize)>,
}

impl StateFile {
    /// Creates the file, atomically and durably: the table exists from here on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(fs: &dyn Fs, path: &Path, state: &TableState) -> Result<()> {
        let slot = state.slot()?;
        replace_file(fs, path, &slot.repeat(SLOTS))
    }

    /// Opens the file for writing. What was read may be in the page cache alone, so it is written again to both
    /// slots, the ruling one first, before anybody acts on it.
    ///
    /// # Errors
    /// As [`read_state`]; what the file system says.
    pub fn open(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let FoundState { state, ruling, writable } = read_state(fs, path)?;
        writable?;
        let file = fs.open(path, OpenMode::ReadWrite).map_err(|e| Error::io("open", path, e))?;
        let this = Self { path: path.to_owned(), file, current: Mutex::new((state, ruling)) };
        {
            let current = this.current.lock();
            this.write_both(&current.0, ruling)?;
        }
        Ok(this)
    }

    /// The state as it rules now.
    pub fn get(&self) -> TableState {
        self.current.lock().0.clone()
    }

    /// Changes the state and makes the change durable in both slots. If `change` changes nothing, nothing is
    /// written.
    ///
    /// # Errors
    /// What the file system says: which state a reopening finds is then unknown, and the table must take no
    /// more writes.
    pub fn update(&self, change: impl FnOnce(&mut TableState)) -> Result<()> {
        let mut current: MutexGuard<'_, (TableState, usize)> = self.current.lock();
        let mut next = current.0.clone();
        change(&mut next);
        if next == current.0 {
            return Ok(());
        }
        next.generation += 1;
        self.write_both(&next, 0)?;
        *current = (next, 0);
        Ok(())
    }

    fn write_both(&self, state: &TableState, first: usize) -> Result<()> {
        let bytes = state.slot()?;
        for slot in [first, 1 - first.min(1)] {
            write_all_at(&*self.file, &bytes, (slot * SLOT_LEN) as u64)
                .map_err(|e| Error::io("write", &self.path, e))?;
            self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))?;
        }
        Ok(())
    }
}
