//! What remains of a cut once it is decided: it needs no space, and may be repeated any number of times.

use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, Fs, Result, remove_if_exists, replacement_path};
use lithdb_segment::{HEADER_LEN, Metadata, SegmentId, SegmentPaths, TableName};
use serde::{Deserialize, Serialize};

use crate::open::inventory::{Inventory, SegmentFiles, missing};
use crate::setup::TableSetup;
use crate::state::{DurableEnd, StateFile, TableState, read_state};
use lithdb_segment::key_file::{self, KeyFile};

/// What is to be done to one table. The order of the fields is the order of the bytes in the intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncateStep {
    /// The table's name.
    pub table: TableName,
    /// The table's random id.
    pub table_id: u64,
    /// Above every id that the table ever used, the successor's included.
    pub floor: SegmentId,
    /// The newest segment that stays; `None` empties the table.
    pub kept: Option<KeptSegment>,
}

/// The newest segment with records that stays, and what is prepared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Its revision from now on.
    pub revision: u32,
    /// Whether its key file is replaced; the metadata is in any case.
    pub rewritten: bool,
    /// The empty segment that takes over.
    pub successor: SegmentId,
    /// The length of its key file from now on.
    pub key_end: u64,
    /// The lengths of its value files from now on.
    pub value_ends: Vec<u64>,
    /// The digest of its key file from now on.
    pub digest: Option<[u8; 16]>,
}

impl KeptSegment {
    /// Whether this is the metadata that was prepared.
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
    /// Counts more in.
    pub fn add(&mut self, more: Self) {
        self.segments += more.segments;
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Makes sure that everything `step` needs is there, in its place or beside it, before anything is removed.
///
/// # Errors
/// `Missing` or `Corrupt` that names the file: then nothing may be carried out.
pub fn check(setup: &TableSetup, step: &TruncateStep) -> Result<()> {
    check_prepared(setup, step).map_err(|e| setup.in_context(&e))
}

/// Carries `step` out; `progress` hears of each segment that was removed. Value files keep what stands behind their end:
/// somebody may hold it. It goes when the segment does.
///
/// # Errors
/// What the file system says, or that the files are not those that were prepared; it may be repeated.
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
    // Here a keymap on disk would lose what stands behind the boundary; the one in memory is made from what stays.
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

/// What is prepared is there. If the segment has been collected, or cut once more, the step was carried out long ago.
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
    // One that was written anew ends there; without its replacement, the old, longer one is not it.
    if found < kept.key_end || (kept.rewritten && found > kept.key_end) {
        let expected = format!("{} bytes, which a rollback had prepared", kept.key_end);
        return Err(Error::corrupt(keys, found, &expected, &format!("{found} bytes")));
    }
    let paths = files.paths(&dirs, kept.segment, kept.value_ends.len() as u16)?;
    for (path, end) in paths.values.iter().zip(&kept.value_ends) {
        let (_, found) = key_file::open(fs, path)?;
        if found < *end {
            let expected = format!("at least {end} bytes, as a rollback is to leave it");
            return Err(Error::corrupt(path, found, &expected, "the end of the file"));
        }
    }
    let (successor, keys) = files_of(&inventory, &dirs, kept.successor)?;
    let shards = KeyFile::open(fs, keys)?.header.shards;
    successor.paths(&dirs, kept.successor, shards).map(drop)
}

/// The files of a segment that must be there, and its key file.
fn files_of<'a>(
    inventory: &'a Inventory,
    dirs: &[PathBuf],
    id: SegmentId,
) -> Result<(&'a SegmentFiles, &'a Path)> {
    let files = inventory.segments.get(&id);
    let found = files.and_then(|files| Some((files, files.keys.as_deref()?)));
    found.ok_or_else(|| missing(&SegmentPaths::for_new(dirs, id, 1).keys))
}

/// The state, if it is that of the table that the step is for.
fn read_own_state(setup: &TableSetup, step: &TruncateStep) -> Result<TableState> {
    let path = setup.state_path();
    let state = read_state(&*setup.env.fs, &path)?.state;
    if state.table_id == step.table_id {
        return Ok(state);
    }
    let message = format!(
        "{}: expected table {:016x}, which a rollback is about to cut, found {:016x}",
        path.display(),
        step.table_id,
        state.table_id
    );
    Err(Error::new(ErrorKind::Foreign, message))
}

/// No id that was used before is used again; an emptied table begins above all of them.
fn raise_floor(setup: &TableSetup, step: &TruncateStep, inventory: &Inventory) -> Result<()> {
    read_own_state(setup, step)?;
    let state = StateFile::open(&setup.env.fs, &setup.state_path())?;
    let TruncateStep { floor, kept, .. } = step;
    let tail = match kept {
        Some(kept) if state.get().next_id_floor < *floor => {
            Some(successor_durable_end(setup, inventory, kept.successor)?)
        }
        _ => None,
    };
    state.update(|state| {
        state.next_id_floor = state.next_id_floor.max(*floor);
        match kept {
            // Of what goes nothing is promised any more. That there is a successor is: without it the segment that
            // stays could, its seal lost, pass for one that was never sealed.
            Some(_) => {
                state.closed_cleanly |= tail.is_some();
                state.durable_end = tail.or(state.durable_end.take());
            }
            // Below the floor there may be something; at or above it only what was put after this step.
            None if state.watermark < *floor => {
                state.durable_end = None;
                (state.empty, state.closed_cleanly) = (true, true);
                state.watermark = *floor;
            }
            None => {}
        }
    })
}

/// The successor as it was made: headers and a chain record.
fn successor_durable_end(
    setup: &TableSetup,
    inventory: &Inventory,
    successor: SegmentId,
) -> Result<DurableEnd> {
    let (_, keys) = files_of(inventory, &setup.segment_dirs(), successor)?;
    let file = KeyFile::open(&*setup.env.fs, keys)?;
    Ok(DurableEnd {
        segment: successor,
        key_end: file.len as u32,
        value_ends: vec![HEADER_LEN as u64; usize::from(file.header.shards)],
    })
}

/// Renames what is prepared into place. What is in place already was renamed before a crash. The metadata first: a
/// reader that looks between the two finds a key file that is longer than it needs to be, and not one that is cut short.
fn rename_into_place(fs: &dyn Fs, kept: &KeptSegment, files: &SegmentFiles) -> Result<()> {
    for path in files.metadata.iter().chain(files.keys.iter().filter(|_| kept.rewritten)) {
        let staged = replacement_path(path);
        if files.leftovers.contains(&staged) {
            fs.rename(&staged, path).map_err(|e| Error::io("rename into place", path, e))?;
        }
    }
    Ok(())
}
