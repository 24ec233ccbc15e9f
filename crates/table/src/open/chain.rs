//! The plan of an open: reads and checks everything recovery depends on; changes nothing.
//!
//! It implements `docs/FORMAT.md`, *Recovery*. [`OpenPlan`] is a plain value: recovery applies it,
//! a reader takes its view from it, verification reports it.

use std::path::{Path, PathBuf};

use lithdb_env::{Env, Error, ErrorKind, Fs, OpenMode, Result};
use lithdb_segment::envelope::ENVELOPE_LEN;
use lithdb_segment::record::Chain;
use lithdb_segment::{Metadata, STATE_FILE, SegmentId, SegmentPaths, ShardId, check_writable};

use crate::open::inventory::{Inventory, SegmentFiles, missing};
pub use crate::open::sealed::SealedSegment;
use crate::open::sealed::{LiveSegments, read_sealed};
use crate::open::unsealed::UnsealedSegment;
use crate::state::TableState;
pub use lithdb_segment::key_file::Access;
use lithdb_segment::key_file::{self, KeyFile, KeyFiles};

/// Files to remove because nothing in them was ever acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discard {
    /// The highest id among them. Recovery raises the id floor above it before it removes the
    /// files.
    pub highest: SegmentId,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// What opening a table found, and what it would do.
#[derive(Debug, Clone, Default)]
pub struct OpenPlan {
    /// Files of segments below the watermark, and leftovers of interrupted replacements.
    pub remove: Vec<PathBuf>,
    /// Segments that were never acknowledged.
    pub discard: Option<Discard>,
    /// The sealed segments, oldest first.
    pub sealed: Vec<SealedSegment>,
    /// The unsealed segment; `None` only if the table is empty.
    pub unsealed: Option<UnsealedSegment>,
    /// Unknown files, which LithDB ignores.
    pub foreign: Vec<PathBuf>,
}

impl OpenPlan {
    /// Makes the plan for the table with these `segments` directories. Returns the first problem
    /// as an error that names the file and the remedy.
    pub fn make(env: &Env, dirs: &[PathBuf], state: &TableState, access: Access) -> Result<Self> {
        let inventory = Inventory::list(&*env.fs, dirs)?;
        let mut plan = Self { foreign: inventory.foreign, ..Self::default() };
        let mut below = inventory.segments;
        let live: LiveSegments = below.split_off(&state.watermark).into_iter().collect();
        for found in below.values() {
            found.require_table(&*env.fs, state.table_id)?;
        }
        plan.remove = below.values().flat_map(SegmentFiles::all).cloned().collect();
        for (_, found) in &*live {
            plan.remove.extend(found.leftovers.iter().cloned());
        }
        let mut chain = ChainWalk { env, dirs, state, access, plan: &mut plan };
        chain.walk(&live)?;
        #[expect(clippy::expect_used, reason = "a database has a root, and segments a table")]
        let table = dirs.first().and_then(|dir| dir.parent()).expect("the table's directory");
        let live = live.iter().map(|(id, found)| (*id, found));
        match stale_file_error(state, &*env.fs, &table.join(STATE_FILE), live)? {
            Some(error) => Err(error),
            None => Ok(plan),
        }
    }

    /// Adds `id` and its files to what is discarded.
    fn add_discarded(&mut self, id: SegmentId, found: &SegmentFiles) {
        let discard = self.discard.get_or_insert_default();
        discard.highest = discard.highest.max(id);
        discard.files.extend(found.finished().cloned());
    }

    /// Takes the contents of the sealed segments' key files that were read completely, so that
    /// they are not read again.
    pub(crate) fn take_key_files(&mut self) -> KeyFiles {
        let take = |s: &mut SealedSegment| s.keys.take().map(|keys| (s.metadata.segment, keys));
        self.sealed.iter_mut().filter_map(take).collect()
    }
}

/// Follows the chain of segments from the lowest id to the newest.
struct ChainWalk<'a> {
    env: &'a Env,
    dirs: &'a [PathBuf],
    state: &'a TableState,
    access: Access,
    plan: &'a mut OpenPlan,
}

impl ChainWalk<'_> {
    fn walk(&mut self, live: &LiveSegments) -> Result<()> {
        if self.state.empty {
            for (id, found) in live.iter().filter(|(_, found)| !found.is_leftover()) {
                self.refuse_empty_state(found)?;
                self.discard(*id, found)?;
            }
            return self.require_known_ids(live);
        }
        let newest_sealed = live.iter().rev().find(|(_, found)| found.metadata.is_some());
        let newest_sealed = newest_sealed.map(|(id, _)| *id);
        let sealed = read_sealed(self.env, self.dirs, self.state.table_id, self.access, live)?;
        for ((id, found), sealed) in live.iter().zip(sealed) {
            let id = *id;
            if found.is_leftover() {
                continue;
            }
            if self.plan.unsealed.is_some() {
                self.discard_unacknowledged(id, found)?;
            } else if let Some(sealed) = sealed {
                self.sealed(id, sealed)?;
            } else if !self.is_expected(id)
                && (id < self.successor() || newest_sealed.is_some_and(|newest| id < newest))
            {
                let follows = self.successor();
                let is_followed = live.iter().any(|(id, _)| *id == follows);
                self.orphan(id, found, is_followed)?;
            } else {
                self.unsealed_segment(id, found)?;
            }
        }
        self.require_recorded_end(live)?;
        self.require_known_ids(live)?;
        if self.plan.unsealed.is_some() {
            return Ok(());
        }
        // Every sealed segment has a successor, and a table that is not empty has a segment.
        Err(self.missing(self.successor()))
    }

    /// The segment of the state's recorded end must exist, unless it is below the watermark.
    fn require_recorded_end(&self, live: &[(SegmentId, SegmentFiles)]) -> Result<()> {
        let unsealed = self.state.recorded_end.as_ref();
        let Some(unsealed) = unsealed.filter(|unsealed| unsealed.segment >= self.state.watermark)
        else {
            return Ok(());
        };
        let is_there = |(id, found): &(SegmentId, SegmentFiles)| {
            *id == unsealed.segment && found.keys.is_some()
        };
        if live.iter().any(is_there) {
            return Ok(());
        }
        let absent = self.missing(unsealed.segment);
        Err(absent.context(format_args!(
            "table.state names segment {} as durable: the newest files are lost or older than table.state",
            unsealed.segment
        )))
    }

    /// No file was ever created with an id above the state's highest id: a segment above it means
    /// that the state is an older copy.
    fn require_known_ids(&self, live: &[(SegmentId, SegmentFiles)]) -> Result<()> {
        let highest = self.state.highest_id;
        let above = live.iter().filter(|(id, _)| *id > highest);
        let mut named = above.flat_map(|(_, found)| found.finished());
        let Some(path) = named.next() else { return Ok(()) };
        let message = format_args!(
            "expected no segment above {highest}, the highest id in table.state: table.state is older than the segments; restore the newest table.state, or see `lith repair`"
        );
        Err(Error::at(ErrorKind::Corrupt, path, message))
    }

    /// Discards an id in which nothing was acknowledged. A roll-over begins only when the previous
    /// one is complete, and ids discarded earlier are below the floor: of two ids at or above the
    /// floor, one was acknowledged.
    fn discard(&mut self, id: SegmentId, found: &SegmentFiles) -> Result<()> {
        let floor = self.state.next_id_floor;
        let before = self.plan.discard.as_ref().map_or(SegmentId::NONE, |found| found.highest);
        if id >= floor && before >= floor {
            let message = format!(
                "segments {before} and {id} are both newer than table.state and the metadata of the other segments: expected at most one; restore the lost metadata or the right table.state, or see `lith repair`"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.plan.add_discarded(id, found);
        Ok(())
    }

    /// The state says that nothing was ever acknowledged. A foreign or stale state file may say
    /// the same.
    fn refuse_empty_state(&self, found: &SegmentFiles) -> Result<()> {
        found.require_table(&*self.env.fs, self.state.table_id)?;
        let marked = self.has_valid_mark(found, |_| true)?;
        let Some(path) = found.metadata.as_ref().or(found.keys.as_ref().filter(|_| marked)) else {
            return Ok(());
        };
        let message = "expected no segment because table.state says that the table is empty, found acknowledged data; restore the right table.state, or see `lith repair`";
        Err(Error::at(ErrorKind::Corrupt, path, message))
    }

    /// Whether the segment has a valid key file that satisfies `counts` and contains a mark.
    fn has_valid_mark(
        &self,
        found: &SegmentFiles,
        counts: impl Fn(&KeyFile) -> bool,
    ) -> Result<bool> {
        let Some(path) = &found.keys else { return Ok(false) };
        let file = KeyFile::open_if_valid(&*self.env.fs, path)?.filter(counts);
        file.map_or(Ok(false), |file| file.has_mark())
    }

    /// The error for a segment without a key file.
    fn missing(&self, id: SegmentId) -> Error {
        missing(&SegmentPaths::for_new(self.dirs, id, 1).keys)
    }

    /// The metadata of the preceding sealed segment, which describes the next one.
    fn predecessor(&self) -> Option<&Metadata> {
        self.plan.sealed.last().map(|sealed| &sealed.metadata)
    }

    /// Whether `id` is the next segment of the chain.
    fn is_expected(&self, id: SegmentId) -> bool {
        match self.predecessor() {
            Some(before) => before.successor == id,
            None => self.state.watermark == id,
        }
    }

    /// The id of the next segment of the chain.
    fn successor(&self) -> SegmentId {
        self.predecessor().map_or(self.state.watermark, |m| m.successor)
    }

    fn require_expected(&self, id: SegmentId) -> Result<()> {
        if self.is_expected(id) {
            return Ok(());
        }
        Err(self.missing(self.successor()))
    }

    fn sealed(&mut self, id: SegmentId, found: Result<SealedSegment>) -> Result<()> {
        self.require_expected(id)?;
        let found = found?;
        self.require_follows(&found.paths.keys, found.chain.as_ref())?;
        self.plan.sealed.push(found);
        Ok(())
    }

    /// Checks that a key file's chain record agrees with the preceding segment.
    fn require_follows(&self, path: &Path, found: Option<&Chain>) -> Result<()> {
        let Some(before) = self.predecessor() else { return Ok(()) };
        let expected = before.chain();
        let agrees = match found {
            Some(found) if before.revision == 0 => *found == expected,
            Some(found) => found.predecessor == before.segment,
            None => false,
        };
        if agrees {
            return Ok(());
        }
        let found = found.map_or("no chain record".to_owned(), |found| format!("{found:?}"));
        Err(Error::corrupt(path, 64, &format!("{expected:?}"), &found))
    }

    fn unsealed_segment(&mut self, id: SegmentId, found: &SegmentFiles) -> Result<()> {
        self.require_expected(id)?;
        let Some(keys) = &found.keys else {
            return Err(self.missing(id));
        };
        let of = (self.state.table_id, id);
        let key_file = KeyFile::open_checked_for(&*self.env.fs, keys, of, self.access)?;
        self.require_follows(keys, key_file.chain()?.as_ref())?;
        let paths = found.paths(self.dirs, id, key_file.header.shards)?;
        let before = self.predecessor();
        let external_end =
            self.state.external_durable_end(id, before.and_then(Metadata::successor_end));
        let unsealed = UnsealedSegment::examine(self.env, paths, &key_file, external_end)?;
        if self.access == Access::Write {
            let values = &mut unsealed.paths.values.iter();
            values.try_for_each(|path| require_writable(&*self.env.fs, path))?;
        }
        self.plan.unsealed = Some(unsealed);
        Ok(())
    }

    /// Discards a segment above an unsealed one. Its predecessor was never sealed, so nothing in
    /// it was acknowledged; if a mark, its metadata or the recorded end says otherwise, it is an
    /// error.
    fn discard_unacknowledged(&mut self, id: SegmentId, found: &SegmentFiles) -> Result<()> {
        let is_recorded = self.state.external_durable_end(id, None).is_some();
        // A file that was never synced may show old content of its blocks: a collected segment of
        // this table.
        let is_collected = |file: &KeyFile| {
            let shown = file.header.identity;
            shown.table_id == self.state.table_id && shown.segment < self.state.watermark
        };
        let marked = self.has_valid_mark(found, |file| !is_collected(file))?;
        if !is_recorded && !marked && found.metadata.is_none() {
            return self.discard(id, found);
        }
        // The fallback is never used: the walk has found an unsealed segment before it calls this.
        let unsealed = self.plan.unsealed.as_ref().map_or(id, |t| t.header.identity.segment);
        let message = format!(
            "segment {id} holds acknowledged data, but segment {unsealed} before it has no metadata: expected {}; restore it, or see `lith repair`",
            SegmentPaths::for_new(self.dirs, unsealed, 1).metadata.display()
        );
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// Handles an id between sealed segments that no segment names: discarded earlier, but the
    /// removal was not durable. `is_followed`: the next segment of the chain exists.
    fn orphan(&mut self, id: SegmentId, found: &SegmentFiles, is_followed: bool) -> Result<()> {
        if id < self.state.next_id_floor && self.state.external_durable_end(id, None).is_none() {
            self.plan.add_discarded(id, found);
            return Ok(());
        }
        let Some(path) = found.finished().next().filter(|_| is_followed) else {
            return self.require_expected(id);
        };
        let message = "no segment names this one as its successor, but it may hold acknowledged data; see `lith repair`";
        Err(Error::at(ErrorKind::Corrupt, path, message))
    }
}

/// Checks that the feature flags of a file with a valid header do not forbid writing.
pub fn require_writable(fs: &dyn Fs, path: &Path) -> Result<()> {
    let file = fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))?;
    check_writable(path, &key_file::read(&*file, path, 0, ENVELOPE_LEN)?)
}

/// Checks the state of a cleanly closed table: returns an error if a file continues past the end
/// that the close recorded, which means that the state is older than the file. `live`: the files
/// of segments at or above the watermark.
pub fn stale_file_error<'a>(
    state: &TableState,
    fs: &dyn Fs,
    path: &Path,
    live: impl Iterator<Item = (SegmentId, &'a SegmentFiles)>,
) -> Result<Option<Error>> {
    let recorded_end = state.recorded_end.as_ref();
    if !state.closed_cleanly || (recorded_end.is_none() && !state.empty) {
        return Ok(None);
    }
    for (id, found) in live.filter(|(id, _)| recorded_end.is_none_or(|end| *id >= end.segment)) {
        let recorded_end = recorded_end.filter(|end| end.segment == id);
        let value_end =
            |shard: ShardId| recorded_end?.value_ends.get(usize::from(shard.0)).copied();
        // A key file may be longer: the scan of its records decides about the rest.
        let keys = found.keys.iter().filter(|_| recorded_end.is_none()).map(|path| (path, None));
        let values = found.values.iter().map(|(shard, path)| (path, value_end(*shard)));
        let metadata = found.metadata.iter().map(|path| (path, None));
        for (file, end) in keys.chain(values).chain(metadata) {
            let (_, len) = key_file::open(fs, file)?;
            if end.is_some_and(|end| len <= end) {
                continue;
            }
            let expected = end.map_or("no such file".to_owned(), |end| format!("{end} bytes"));
            let message = format_args!(
                "expected {expected}, as the last close recorded in {}, found {len} bytes: that state, and whatever was restored with it, is older than this file; restore the newest version of all files, or see `lith repair`",
                path.display()
            );
            return Ok(Some(Error::at(ErrorKind::Corrupt, file, message)));
        }
    }
    Ok(None)
}
