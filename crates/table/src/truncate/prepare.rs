//! The part of a truncation that needs space: written beside the files that it replaces, and
//! synced, before the rollback is decided. Until then the table is unchanged, and dropping the
//! [`PreparedTruncation`] removes what was written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{
    Error, ErrorKind, File, Fs, Result, remove_if_exists, replacement_path, sync_parent,
    write_all_at,
};
use lithdb_segment::envelope::{self, Magic};
use lithdb_segment::record::{Encoder, Flags, MAX_RECORD_LEN, Record, decode};
use lithdb_segment::scan::Verdict;
use lithdb_segment::{Context, Metadata, NewSegment, Position, Segment, SegmentId};

use super::outcome::TruncatePoint;
use super::step::{KeptSegment, TruncateStep};
use super::stopped_table::StoppedTable;
use super::walk;
use crate::open::recover::Recovery;
use crate::open::sealed::SealedSegment;
use crate::options::TableOptions;
use crate::setup::TableSetup;
use crate::state::{StateFile, next_id};
use lithdb_segment::key_file::{KeyFile, read};
use lithdb_segment::window::{PIECE, Window};

/// Where a table is truncated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TruncateAt {
    /// After the group of this record.
    After(TruncatePoint),
    /// Before its first record: the table becomes empty.
    Everything,
}

/// A truncation that is written and durable, but not in effect. Dropping it removes its files.
#[derive(Debug)]
pub struct PreparedTruncation {
    step: TruncateStep,
    position: Option<Position>,
    staged: Staged,
}

impl PreparedTruncation {
    /// The step that remains.
    pub fn step(&self) -> &TruncateStep {
        &self.step
    }

    /// The position of the newest record kept. Recovery may have moved it.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Keeps the prepared files, for the step.
    pub fn keep(mut self) {
        self.staged.created.clear();
    }
}

/// The files that were created.
#[derive(Debug)]
struct Staged {
    fs: Arc<dyn Fs>,
    created: Vec<PathBuf>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // In a panic it is unknown whether the rollback was decided. The next open removes
        // unneeded files.
        if std::thread::panicking() {
            return;
        }
        for path in self.created.iter().rev() {
            if let Err(error) = remove_if_exists(&*self.fs, path) {
                tracing::warn!(%error, "cannot remove files of a prepared truncation; the next open removes them");
            }
        }
    }
}

/// Writes what a truncation at `at` needs beside the old files, and makes it durable. If the
/// boundary is in the unsealed segment, this first recovers the table and seals that segment, as
/// an open and a seal would.
///
/// # Errors
/// `StorageFull` and other errors of the file system: what was written is removed, and the table
/// is unchanged.
pub fn prepare(stopped_table: StoppedTable, at: &TruncateAt) -> Result<PreparedTruncation> {
    let setup = stopped_table.setup.clone();
    prepare_table(stopped_table, at).map_err(|e| setup.in_context(&e))
}

fn prepare_table(mut stopped_table: StoppedTable, at: &TruncateAt) -> Result<PreparedTruncation> {
    let setup = stopped_table.setup.clone();
    let fs = Arc::clone(&setup.env.fs);
    // As at open: neither the state nor directory entries are trusted from the page cache.
    let state = StateFile::open(&fs, &setup.state_path())?;
    for dir in setup.dirs.iter().chain(&setup.segment_dirs()) {
        fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
    }
    let current = state.get();
    let mut step = TruncateStep {
        table: setup.name.clone(),
        table_id: current.table_id,
        floor: next_id(stopped_table.newest(), current.next_id_floor)?,
        kept: None,
    };
    let staged = Staged { fs, created: Vec::new() };
    let TruncateAt::After(point) = at else {
        return Ok(PreparedTruncation { step, position: None, staged });
    };
    // As in an open: what is prepared goes past the end that the last close recorded.
    state.update(|state| state.closed_cleanly = false)?;
    let context = setup.context(&current, &TableOptions::default());
    let unsealed = stopped_table.plan.unsealed.as_ref().map(|unsealed| unsealed.header);
    let shards = unsealed.map_or(1, |unsealed| unsealed.shards);
    let (mut point, mut successor) = (point.clone(), None);
    if unsealed.is_some_and(|unsealed| unsealed.identity.segment == point.boundary.position.segment)
    {
        let now = setup.table_clock(&current).read(&*setup.env.clock);
        let recovery = Recovery { context: &context, state: &state, inline_max: 0, shards, now };
        let mutable = recovery.seal_unsealed(stopped_table.plan)?;
        step.floor = next_id(mutable, state.get().next_id_floor)?;
        stopped_table = StoppedTable::read(&setup)?;
        point = stopped_table.relocate(&point)?;
        successor = Some(mutable);
    }
    let position = point.boundary.position;
    let mut sealed = stopped_table.plan.sealed.into_iter();
    let sealed = sealed.find(|sealed| sealed.metadata.segment == position.segment);
    let sealed = sealed.ok_or_else(|| changed_meanwhile(&setup, position.segment))?;
    // The mutable segment, which is empty, can be the successor of the truncated one, unless
    // recovery has moved records to another segment between the two.
    let successor = successor.filter(|mutable| sealed.metadata.successor == *mutable);
    let new = successor.is_none().then_some(step.floor);
    if let Some(new) = new {
        // If the rollback is not decided, an open must be able to distinguish the successor from
        // what an interrupted roll-over left.
        state.update(|state| {
            state.next_id_floor = new;
            state.highest_id = state.highest_id.max(new);
        })?;
        step.floor = next_id(new, step.floor)?;
    }
    // Leftovers of earlier attempts must not pass for what is prepared now.
    let files = stopped_table.inventory.segments.get(&position.segment);
    for path in files.iter().flat_map(|files| &files.leftovers) {
        remove_if_exists(&*staged.fs, path)?;
        sync_parent(&*staged.fs, path)?;
    }
    let mut truncation = Truncation { context, point: &point, sealed, staged };
    step.kept = Some(truncation.write(new, successor, shards)?);
    Ok(PreparedTruncation { step, position: Some(position), staged: truncation.staged })
}

impl StoppedTable {
    /// The truncation point after recovery has moved its record.
    fn relocate(&self, point: &TruncatePoint) -> Result<TruncatePoint> {
        let mut records_after = 0;
        let walked = self.walk(&mut |record| {
            if records_after >= point.records_after && record.key() == point.boundary.key {
                return Ok(walk::Verdict::Keep);
            }
            records_after += 1;
            Ok(walk::Verdict::Discard)
        })?;
        let found = walked.boundary.filter(|found| found.records_after == point.records_after);
        found.ok_or_else(|| changed_meanwhile(&self.setup, point.boundary.position.segment))
    }
}

fn changed_meanwhile(setup: &TableSetup, segment: SegmentId) -> Error {
    let message = format!(
        "table {}: segment {segment} has changed since it was read; plan again",
        setup.name
    );
    Error::new(ErrorKind::InvalidArgument, message)
}

/// The segment that is truncated.
struct Truncation<'a> {
    context: Arc<Context>,
    point: &'a TruncatePoint,
    sealed: SealedSegment,
    staged: Staged,
}

impl Truncation<'_> {
    /// Writes the new key file (if records are discarded), the new metadata, and the successor (if
    /// there is none).
    fn write(
        &mut self,
        new: Option<SegmentId>,
        successor: Option<SegmentId>,
        shards: u16,
    ) -> Result<KeptSegment> {
        let old = &self.sealed.metadata;
        let revision = old.revision.checked_add(1).ok_or_else(|| {
            let message = "the segment has used all of its 2^32 revisions";
            Error::new(ErrorKind::InvalidArgument, message)
        })?;
        // Without a successor the field is 0, which means none.
        let successor = new.or(successor).unwrap_or_default();
        let mut metadata = Metadata { revision, successor, ..old.clone() };
        // The end recorded here was that of the old successor.
        metadata.set_successor_end(None);
        let rewritten = !self.point.ends_segment;
        if rewritten {
            self.write_keys(&mut metadata)?;
        }
        if let Some(id) = new {
            self.create_successor(id, shards)?;
        }
        let path = replacement_path(&self.sealed.paths.metadata);
        let file = self.create(&path)?;
        let bytes = envelope::encode(Magic::METADATA, &metadata)?;
        write_all_at(&*file, &bytes, 0).map_err(|e| Error::io("write", &path, e))?;
        file.sync_all().map_err(|e| Error::io("sync", &path, e))?;
        for path in [&self.sealed.paths.keys, &self.sealed.paths.metadata] {
            sync_parent(&*self.staged.fs, path)?;
        }
        Ok(KeptSegment {
            segment: metadata.segment,
            revision,
            rewritten,
            successor,
            key_end: metadata.key_end,
            value_ends: metadata.value_ends,
            digest: metadata.digest,
        })
    }

    /// The chain record describes the segment as it was before the truncation. From revision 1 on
    /// only the id is compared, and a repair that finds no metadata must not take the truncated
    /// content for revision 0.
    fn create_successor(&mut self, id: SegmentId, shards: u16) -> Result<()> {
        let (chain, now) = (self.sealed.metadata.chain(), self.context.env.clock.now());
        let new = NewSegment { id, chain: Some(chain), shards, now };
        let (segment, _) = Segment::create(&self.context, &new)?;
        self.staged.created.extend(segment.paths().all().map(Path::to_owned));
        segment.sync_everything()
    }

    /// Creates a file and registers it for removal if the truncation is not decided.
    fn create(&mut self, path: &Path) -> Result<Arc<dyn File>> {
        let file = self.staged.fs.create_new(path).map_err(|e| Error::io("create", path, e))?;
        self.staged.created.push(path.to_owned());
        Ok(file)
    }

    /// Writes the key file up to the boundary: the same bytes, except that the last record ends
    /// its batch.
    fn write_keys(&mut self, metadata: &mut Metadata) -> Result<()> {
        let source = KeyFile::open(&*self.staged.fs, &self.sealed.paths.keys)?;
        let staged = replacement_path(&source.path);
        let file = self.create(&staged)?;
        let (last, end) = (u64::from(self.point.last), u64::from(self.point.end));
        let mut keys = Window::of(&source);
        let mut at = 0;
        while at < end {
            let piece = keys.get(at, (end - at).min(PIECE as u64) as usize)?;
            if piece.is_empty() {
                let expected = format!("{end} bytes");
                return Err(Error::corrupt(&source.path, at, &expected, "the end of the file"));
            }
            write_all_at(&*file, piece, at).map_err(|e| Error::io("write", &staged, e))?;
            at += piece.len() as u64;
        }
        let record = self.last_record(&source)?;
        write_all_at(&*file, &record, last).map_err(|e| Error::io("write", &staged, e))?;
        file.sync_all().map_err(|e| Error::io("sync", &staged, e))?;
        // The written file is the one that will be used: read it again before anything depends on
        // it.
        let keys = KeyFile::open(&*self.staged.fs, &staged)?;
        let mut scanner = keys.scan(keys.len, None);
        if scanner.run(|_| Ok(()))? != Verdict::Clean || keys.len != end {
            scanner.require_clean()?;
            let found = format!("{} bytes", keys.len);
            return Err(Error::corrupt(&staged, keys.len, &format!("{end} bytes"), &found));
        }
        let totals = scanner.totals().clone();
        metadata.key_end = totals.key_end;
        metadata.records = totals.records;
        metadata.primaries = totals.primaries;
        metadata.running = totals.running;
        metadata.value_ends = totals.value_ends;
        metadata.epochs = scanner.epochs().to_vec();
        metadata.digest = Some(keys.digest(end)?);
        Ok(())
    }

    /// Encodes the last record kept as the last one of its batch (without an inline value, which
    /// does not change).
    fn last_record(&self, source: &KeyFile) -> Result<Vec<u8>> {
        let (last, identity) = (self.point.last, source.header.identity);
        let offset = u64::from(last);
        let bytes = read(&*source.file, &source.path, offset, MAX_RECORD_LEN)?;
        let epochs = &self.sealed.metadata.epochs;
        let epoch = epochs.iter().rev().find(|(at, _)| *at < last);
        let epoch = epoch.map_or(identity.salt, |(_, epoch)| *epoch);
        let corrupt =
            |expected: &str, found: &str| Error::corrupt(&source.path, offset, expected, found);
        let decoded = decode(&identity, epoch, last, &bytes)
            .map_err(|invalid| corrupt("a valid key record", &invalid.to_string()))?;
        let Record::Key(mut record) = decoded.record else {
            return Err(corrupt("a key record", "another record"));
        };
        record.flags = record.flags.with(Flags::END_OF_BATCH);
        let mut buffer = Vec::new();
        Encoder { buffer: &mut buffer, identity, epoch, running: 0, offset }.key(&record);
        Ok(buffer)
    }
}
