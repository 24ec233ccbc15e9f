//! What remains of a cut once it is decided: it needs no space, and may be repeated any number of times.

use std::path::Path;

use lithdb_env::{
    Error, ErrorKind, Fs, LEFTOVER_SUFFIX, Result, remove_if_there, replacement_path,
};
use lithdb_segment::{HEADER_LEN, Metadata, SegmentFile, SegmentId, SegmentPaths, TableName};
use serde::{Deserialize, Serialize};

use crate::inventory::{FoundFiles, Inventory, missing};
use crate::keyfile::KeyFile;
use crate::state::{DurableTail, FoundState, StateFile, read_state};
use crate::table::TableSetup;

/// What is to be done to one table. The order of the fields is the order of the bytes in the intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The table's name.
    pub table: TableName,
    /// The table's random id.
    pub table_id: u64,
    /// Above every id that the table ever used, the successor's included.
    pub floor: SegmentId,
    /// The newest segment that stays; `None` empties the table.
    pub kept: Option<Kept>,
}

/// The newest segment with records that stays, and what is prepared for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
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

impl Kept {
    /// Whether this is the metadata that was prepared.
    fn is(&self, metadata: &Metadata) -> bool {
        metadata.segment == self.segment
            && metadata.revision == self.revision
            && metadata.successor == self.successor
            && metadata.key_end == self.key_end
            && metadata.digest == self.digest
    }
}

/// How much has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Done {
    /// Segments that were removed.
    pub segments: u64,
    /// Bytes of the files that were removed.
    pub bytes: u64,
}

/// Makes sure that everything `step` needs is there, in its place or beside it, before anything is removed.
///
/// # Errors
/// `Missing` or `Corrupt` that names the file: then nothing may be carried out.
pub fn check(setup: &TableSetup, step: &Step) -> Result<()> {
    let work = Work { setup, fs: &*setup.env.fs, step, done: Done::default() };
    work.check_prepared().map_err(|e| setup.in_context(&e))
}

/// Carries `step` out; `progress` hears what has been done so far. Value files keep what stands behind their end: somebody
/// may hold it. It goes when the segment does.
///
/// # Errors
/// What the file system says, or that the files are not those that were prepared; it may be repeated.
pub fn carry_out(setup: &TableSetup, step: &Step, progress: &mut dyn FnMut(Done)) -> Result<Done> {
    let mut work = Work { setup, fs: &*setup.env.fs, step, done: Done::default() };
    work.run(progress).map_err(|e| setup.in_context(&e))?;
    Ok(work.done)
}

struct Work<'a> {
    setup: &'a TableSetup,
    fs: &'a dyn Fs,
    step: &'a Step,
    done: Done,
}

impl Work<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(Done)) -> Result<()> {
        self.raise()?;
        // Here a keymap on disk would lose what stands behind the boundary; the one in memory is made from what stays.
        let dirs = self.setup.segment_dirs();
        let mut inventory = Inventory::list(self.fs, &dirs)?;
        let kept = self.step.kept.as_ref();
        let kept_files = kept.and_then(|kept| inventory.segments.remove(&kept.segment));
        let lowest = kept.map_or(SegmentId::NONE, |kept| kept.segment);
        let successor = kept.map_or(SegmentId::NONE, |kept| kept.successor);
        for (id, files) in inventory.segments.iter().rev() {
            if *id > lowest && *id != successor && *id < self.step.floor {
                self.remove(files)?;
                progress(self.done);
            }
        }
        if let (Some(kept), Some(files)) = (kept, kept_files) {
            self.swap_in(kept, &files)?;
        }
        for dir in &dirs {
            self.fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
        }
        Ok(())
    }

    /// What is prepared is there. If the segment has been collected, or cut once more, the step was carried out long ago.
    fn check_prepared(&self) -> Result<()> {
        let state = self.state()?.state;
        let Some(kept) = self.step.kept.as_ref().filter(|kept| kept.segment >= state.watermark)
        else {
            return Ok(());
        };
        let dirs = self.setup.segment_dirs();
        let inventory = Inventory::list(self.fs, &dirs)?;
        let expected = SegmentPaths::for_new(&dirs, kept.segment, 1);
        let files = inventory.segments.get(&kept.segment);
        let files = files.ok_or_else(|| missing(&expected.keys))?;
        let path = files.metadata.as_ref().ok_or_else(|| missing(&expected.metadata))?;
        let in_place = Metadata::read(self.fs, path)?;
        if in_place.revision > kept.revision {
            return Ok(());
        }
        let staged = replacement_path(path);
        let is_staged = files.leftovers.contains(&staged);
        let prepared = if is_staged { Metadata::read(self.fs, &staged)? } else { in_place.clone() };
        if !kept.is(&prepared) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{}: expected revision {} of segment {}, which a rollback had prepared, found revision {}",
                    staged.display(),
                    kept.revision,
                    kept.segment,
                    prepared.revision
                ),
            ));
        }
        let keys = files.keys.as_ref().ok_or_else(|| missing(&expected.keys))?;
        let staged = replacement_path(keys);
        let is_staged = files.leftovers.contains(&staged);
        let keys = if is_staged { &staged } else { keys };
        let found = KeyFile::open(self.fs, keys)?.len;
        // One that was written anew ends there; without its replacement, the old, longer one is not it.
        if found < kept.key_end || (kept.rewritten && found > kept.key_end) {
            let expected = format!("{} bytes, which a rollback had prepared", kept.key_end);
            return Err(Error::corrupt(keys, found, &expected, &format!("{found} bytes")));
        }
        let shards = kept.value_ends.len() as u16;
        let paths = files.paths(&dirs, kept.segment, shards)?;
        for (path, end) in paths.values.iter().zip(&kept.value_ends) {
            let (_, found) = crate::keyfile::open(self.fs, path)?;
            if found < *end {
                let expected = format!("at least {end} bytes, as a rollback is to leave it");
                return Err(Error::corrupt(path, found, &expected, "the end of the file"));
            }
        }
        let successor = inventory.segments.get(&kept.successor);
        let expected = SegmentPaths::for_new(&dirs, kept.successor, 1);
        let successor = successor.ok_or_else(|| missing(&expected.keys))?;
        let keys = successor.keys.as_ref().ok_or_else(|| missing(&expected.keys))?;
        let shards = KeyFile::open(self.fs, keys)?.header.shards;
        successor.paths(&dirs, kept.successor, shards).map(|_| ())
    }

    /// The state, if it is that of the table that the step is for.
    fn state(&self) -> Result<FoundState> {
        let path = self.setup.state_path();
        let found = read_state(self.fs, &path)?;
        let (expected, table_id) = (self.step.table_id, found.state.table_id);
        if expected == table_id {
            return Ok(found);
        }
        let path = path.display();
        let message = format!(
            "{path}: expected table {expected:016x}, which a rollback is about to cut, found {table_id:016x}"
        );
        Err(Error::new(ErrorKind::Foreign, message))
    }

    /// No id that was used before is used again; an emptied table begins above all of them.
    fn raise(&self) -> Result<()> {
        self.state()?;
        let state = StateFile::open(&self.setup.env.fs, &self.setup.state_path())?;
        let Step { floor, kept, .. } = self.step;
        let tail = match kept {
            Some(kept) if state.get().next_id_floor < *floor => Some(self.successor_tail(kept)?),
            _ => None,
        };
        state.update(|state| {
            state.next_id_floor = state.next_id_floor.max(*floor);
            match kept {
                // Of what goes nothing is promised any more. That there is a successor is: without it the segment that
                // stays could, its seal lost, pass for one that was never sealed.
                Some(_) => {
                    state.ends_with_tail |= tail.is_some();
                    state.durable_tail = tail.or(state.durable_tail.take());
                }
                // Below the floor there may be something; at or above it only what was put after this step.
                None if state.watermark < *floor => {
                    state.durable_tail = None;
                    (state.empty, state.ends_with_tail) = (true, true);
                    state.watermark = *floor;
                }
                None => {}
            }
        })
    }

    /// The successor as it was made: headers and a chain record.
    fn successor_tail(&self, kept: &Kept) -> Result<DurableTail> {
        let dirs = self.setup.segment_dirs();
        let inventory = Inventory::list(self.fs, &dirs)?;
        let keys = inventory.segments.get(&kept.successor).and_then(|files| files.keys.as_ref());
        let absent = || missing(&SegmentPaths::for_new(&dirs, kept.successor, 1).keys);
        let file = KeyFile::open(self.fs, keys.ok_or_else(absent)?)?;
        Ok(DurableTail {
            segment: kept.successor,
            key_end: file.len as u32,
            value_ends: vec![HEADER_LEN as u64; usize::from(file.header.shards)],
        })
    }

    fn remove(&mut self, files: &FoundFiles) -> Result<()> {
        self.done.bytes = self.done.bytes.saturating_add(files.bytes(self.fs)?);
        for path in files.all() {
            remove_if_there(self.fs, path)?;
        }
        self.done.segments += 1;
        Ok(())
    }

    /// Renames what is prepared into place. What is in place already was renamed before a crash. The metadata first: a
    /// reader that looks between the two finds a key file that is longer than it needs to be, and not one that is cut short.
    fn swap_in(&self, kept: &Kept, files: &FoundFiles) -> Result<()> {
        let is_keys = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            matches!(SegmentFile::parse(name), Some(SegmentFile::KeysLeftover(_)))
        };
        let (keys, metadata): (Vec<_>, Vec<_>) =
            files.leftovers.iter().partition(|path| is_keys(path));
        for staged in metadata.into_iter().chain(keys.into_iter().filter(|_| kept.rewritten)) {
            let name = staged.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let path = staged.with_file_name(name.trim_end_matches(LEFTOVER_SUFFIX));
            self.fs.rename(staged, &path).map_err(|e| Error::io("rename into place", &path, e))?;
        }
        Ok(())
    }
}
