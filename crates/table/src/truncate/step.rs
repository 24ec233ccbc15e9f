//! What remains of a truncation once the rollback is decided. It needs no space and may be
//! repeated any number of times.
//!
//! [`check`] verifies that everything the step needs exists before [`apply`] removes the first
//! file. The caller holds the exclusive locks of all roots.

use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, Fs, Result, remove_if_exists, replacement_path};
use lithdb_segment::{HEADER_LEN, Metadata, SegmentId, SegmentPaths, TableName};
use serde::{Deserialize, Serialize};

use crate::open::inventory::{Inventory, SegmentFiles, missing};
use crate::setup::TableSetup;
use crate::state::{RecordedEnd, StateFile, TableState, read_state};
use lithdb_segment::key_file::{self, KeyFile};

/// What to do to one table. The order of the fields is the order of the bytes in the intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncateStep {
    /// The table's name.
    pub table: TableName,
    /// The table's random id.
    pub table_id: u64,
    /// Above every id that the table ever used, including the successor's.
    pub floor: SegmentId,
    /// The newest segment kept; `None` empties the table.
    pub kept: Option<KeptSegment>,
}

/// The newest segment with records that are kept, and what is prepared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Its new revision.
    pub revision: u32,
    /// Whether its key file is replaced; the metadata always is.
    pub rewritten: bool,
    /// The empty segment that becomes its successor.
    pub successor: SegmentId,
    /// The new length of its key file.
    pub key_end: u64,
    /// The new lengths of its value files.
    pub value_ends: Vec<u64>,
    /// The new digest of its key file.
    pub digest: Option<[u8; 16]>,
}

impl KeptSegment {
    /// Whether `metadata` is the prepared one.
    fn is(&self, metadata: &Metadata) -> bool {
        metadata.segment == self.segment
            && metadata.revision == self.revision
            && metadata.successor == self.successor
            && metadata.key_end == self.key_end
            && metadata.digest == self.digest
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

impl Removed {
    /// Adds `more`.
    pub fn add(&mut self, more: Self) {
        self.segments += more.segments;
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Checks that everything `step` needs exists, in its place or beside it, before anything is
/// removed.
///
/// # Errors
/// `Missing` or `Corrupt` with the name of the file: then no step may be applied.
pub fn check(setup: &TableSetup, step: &TruncateStep) -> Result<()> {
    check_prepared(setup, step).map_err(|e| setup.in_context(&e))
}

/// Applies `step`, and calls `progress` for each segment it removed. Value files keep their bytes
/// past the new end, because readers may hold them; the space is freed when the segment expires.
///
/// # Errors
/// Errors of the file system, or that the files are not the prepared ones; it may be repeated.
pub fn apply(
    setup: &TableSetup,
    step: &TruncateStep,
    progress: &mut dyn FnMut(Removed),
) -> Result<()> {
    run(setup, step, progress).map_err(|e| setup.in_context(&e))
}

fn run(setup: &TableSetup, step: &TruncateStep, progress: &mut dyn FnMut(Removed)) -> Result<()> {
    let (fs, dirs) = (&*setup.env.fs, setup.segment_dirs());
    let inventory = Inventory::list(fs, &dirs)?;
    raise_floor(setup, step, &inventory)?;
    // A keymap on disk would have to drop the keys after the boundary here; the one in memory is
    // rebuilt from the kept records.
    let kept = step.kept.as_ref();
    let lowest = kept.map_or(SegmentId::NONE, |kept| kept.segment);
    let successor = kept.map_or(SegmentId::NONE, |kept| kept.successor);
    for (id, files) in inventory.segments.iter().rev() {
        if *id > lowest && *id != successor && *id < step.floor {
            let bytes = files.bytes(fs)?;
            files.all().try_for_each(|path| remove_if_exists(fs, path))?;
            progress(Removed { segments: 1, bytes });
        }
    }
    if let Some(kept) = kept
        && let Some(files) = inventory.segments.get(&kept.segment)
    {
        rename_into_place(fs, kept, files)?;
    }
    for dir in &dirs {
        fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
    }
    Ok(())
}

/// Checks the prepared files. If the segment has been collected or truncated again, the step was
/// applied earlier.
fn check_prepared(setup: &TableSetup, step: &TruncateStep) -> Result<()> {
    let (fs, state) = (&*setup.env.fs, read_own_state(setup, step)?);
    let Some(kept) = step.kept.as_ref().filter(|kept| kept.segment >= state.watermark) else {
        return Ok(());
    };
    let dirs = setup.segment_dirs();
    let inventory = Inventory::list(fs, &dirs)?;
    let (files, keys) = files_of(&inventory, &dirs, kept.segment)?;
    let absent = || missing(&SegmentPaths::for_new(&dirs, kept.segment, 1).metadata);
    let path = files.metadata.as_ref().ok_or_else(absent)?;
    let in_place = Metadata::read(fs, path)?;
    if in_place.revision > kept.revision {
        return Ok(());
    }
    let staged = replacement_path(path);
    let is_staged = files.leftovers.contains(&staged);
    let prepared = if is_staged { Metadata::read(fs, &staged)? } else { in_place };
    if !kept.is(&prepared) {
        let message = format_args!(
            "expected revision {} of segment {}, which a rollback had prepared, found revision {}",
            kept.revision, kept.segment, prepared.revision
        );
        return Err(Error::at(ErrorKind::Corrupt, &staged, message));
    }
    let staged = replacement_path(keys);
    let keys = if files.leftovers.contains(&staged) { &staged } else { keys };
    let found = KeyFile::open(fs, keys)?.len;
    // A rewritten key file ends exactly there; without its replacement, the old, longer file is
    // the wrong one.
    if found < kept.key_end || (kept.rewritten && found > kept.key_end) {
        let expected = format!("{} bytes, which a rollback had prepared", kept.key_end);
        return Err(Error::corrupt(keys, found, &expected, &format!("{found} bytes")));
    }
    let paths = files.paths(&dirs, kept.segment, kept.value_ends.len() as u16)?;
    for (path, end) in paths.values.iter().zip(&kept.value_ends) {
        let (_, found) = key_file::open(fs, path)?;
        if found < *end {
            let expected = format!("at least {end} bytes, which a rollback keeps");
            return Err(Error::corrupt(path, found, &expected, "the end of the file"));
        }
    }
    let (successor, keys) = files_of(&inventory, &dirs, kept.successor)?;
    let shards = KeyFile::open(fs, keys)?.header.shards;
    successor.paths(&dirs, kept.successor, shards).map(drop)
}

/// The files of a segment that must exist, and its key file.
fn files_of<'a>(
    inventory: &'a Inventory,
    dirs: &[PathBuf],
    id: SegmentId,
) -> Result<(&'a SegmentFiles, &'a Path)> {
    let files = inventory.segments.get(&id);
    let found = files.and_then(|files| Some((files, files.keys.as_deref()?)));
    found.ok_or_else(|| missing(&SegmentPaths::for_new(dirs, id, 1).keys))
}

/// Reads the state; `Foreign` if it is not the state of the step's table.
fn read_own_state(setup: &TableSetup, step: &TruncateStep) -> Result<TableState> {
    let path = setup.state_path();
    let state = read_state(&*setup.env.fs, &path)?.state;
    if state.table_id == step.table_id {
        return Ok(state);
    }
    let message = format!(
        "{}: expected table {:016x}, which a rollback is about to truncate, found {:016x}",
        path.display(),
        step.table_id,
        state.table_id
    );
    Err(Error::new(ErrorKind::Foreign, message))
}

/// Raises the id floor, so that no used id is used again. An emptied table begins above all of
/// them.
fn raise_floor(setup: &TableSetup, step: &TruncateStep, inventory: &Inventory) -> Result<()> {
    read_own_state(setup, step)?;
    let state = StateFile::open(&setup.env.fs, &setup.state_path())?;
    let TruncateStep { floor, kept, .. } = step;
    let recorded_end = match kept {
        Some(kept) if state.get().next_id_floor < *floor => {
            Some(successor_recorded_end(setup, inventory, kept.successor)?)
        }
        _ => None,
    };
    state.update(|state| {
        state.next_id_floor = state.next_id_floor.max(*floor);
        match kept {
            // The recorded end no longer covers what is discarded, but it names the successor:
            // without that, the last segment kept could, if its metadata were lost, pass for one
            // that was never sealed.
            Some(_) => {
                state.closed_cleanly |= recorded_end.is_some();
                state.recorded_end = recorded_end.or(state.recorded_end.take());
            }
            // Below the floor there may be segments; at or above it only what was put after this
            // step.
            None if state.watermark < *floor => {
                state.recorded_end = None;
                (state.empty, state.closed_cleanly) = (true, true);
                state.watermark = *floor;
            }
            None => {}
        }
    })
}

/// The recorded end of the successor as created: headers and a chain record.
fn successor_recorded_end(
    setup: &TableSetup,
    inventory: &Inventory,
    successor: SegmentId,
) -> Result<RecordedEnd> {
    let (_, keys) = files_of(inventory, &setup.segment_dirs(), successor)?;
    let file = KeyFile::open(&*setup.env.fs, keys)?;
    Ok(RecordedEnd {
        segment: successor,
        key_end: file.len as u32,
        value_ends: vec![HEADER_LEN as u64; usize::from(file.header.shards)],
    })
}

/// Renames the prepared files into place; those already in place were renamed before a crash. The
/// metadata goes first: a reader between the two renames finds a key file that is longer than
/// needed, not one that is too short.
fn rename_into_place(fs: &dyn Fs, kept: &KeptSegment, files: &SegmentFiles) -> Result<()> {
    for path in files.metadata.iter().chain(files.keys.iter().filter(|_| kept.rewritten)) {
        let staged = replacement_path(path);
        if files.leftovers.contains(&staged) {
            fs.rename(&staged, path).map_err(|e| Error::io("rename into place", path, e))?;
        }
    }
    Ok(())
}
