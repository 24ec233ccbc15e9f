//! Everything of a cut that needs space: it is written beside what it replaces, and synced, before anything is decided.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{
    Error, ErrorKind, File, Fs, Result, remove_if_there, replacement_path, sync_parent,
    write_all_at,
};
use lithdb_segment::envelope::{self, Magic};
use lithdb_segment::record::{Chain, Encoder, Flags, MAX_RECORD_LEN, Record, decode};
use lithdb_segment::scan::Verdict;
use lithdb_segment::{Context, Metadata, NewSegment, Position, Segment, SegmentId};

use super::step::{Kept, Step};
use super::survey::Survey;
use super::walk::{self, Boundary};
use crate::inventory::Inventory;
use crate::keyfile::{KeyFile, read};
use crate::options::TableOptions;
use crate::recovery::{Recovery, next_id};
use crate::sealed::SealedFound;
use crate::state::StateFile;
use crate::table::TableSetup;
use crate::tail::TailFound;

/// So many bytes are copied at a time.
const PIECE: usize = 1 << 20;

/// Where a table is cut.
#[derive(Debug, Clone, Copy)]
pub enum CutAt<'a> {
    /// Behind the group of this record.
    Behind(&'a Boundary),
    /// Before everything: the table becomes empty.
    Everything,
}

/// A cut of which everything is written and durable, and nothing in force.
#[derive(Debug)]
pub struct Prepared {
    fs: Arc<dyn Fs>,
    step: Step,
    position: Option<Position>,
    created: Vec<PathBuf>,
}

impl Prepared {
    /// What remains to be done.
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// Where the record stands behind which the table is cut: recovery may have moved it.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Removes what was written. What cannot be removed now, the next opening of the table removes.
    pub fn abandon(self) {
        remove(&*self.fs, &self.created);
    }
}

fn remove(fs: &dyn Fs, created: &[PathBuf]) {
    for path in created.iter().rev() {
        if let Err(error) = remove_if_there(fs, path) {
            tracing::warn!(%error, "what a rollback had prepared stays until the next opening");
        }
    }
}

/// Writes what a cut at `at` needs beside the old files, and makes it durable. If the boundary lies in the unsealed
/// segment, the table is recovered and that segment sealed first, as opening the table and sealing would.
///
/// # Errors
/// `StorageFull` and what else the file system says: what was written is removed, and the table holds what it held.
pub fn prepare(survey: Survey, at: CutAt<'_>) -> Result<Prepared> {
    let setup = survey.setup.clone();
    prepare_table(survey, at).map_err(|e| setup.in_context(&e))
}

fn prepare_table(survey: Survey, at: CutAt<'_>) -> Result<Prepared> {
    let newest = survey.newest();
    let Survey { setup, plan, .. } = survey;
    let fs = Arc::clone(&setup.env.fs);
    // As an opening: neither the state nor names are believed from the page cache.
    let state = StateFile::open(&fs, &setup.state_path())?;
    for dir in setup.dirs.iter().chain(&setup.segment_dirs()) {
        fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
    }
    let current = state.get();
    let mut step = Step {
        table: setup.name.clone(),
        table_id: current.table_id,
        floor: next_id(newest, current.next_id_floor)?,
        kept: None,
    };
    let CutAt::Behind(boundary) = at else {
        return Ok(Prepared { fs, step, position: None, created: Vec::new() });
    };
    // As an opening: what is prepared goes on behind what the last close left.
    state.update(|state| state.ends_with_tail = false)?;
    let context = setup.context(&current, &TableOptions::default());
    let shards = plan.tail.as_ref().map_or(1, |tail| tail.header.shards);
    let in_tail = |tail: &TailFound| tail.header.identity.segment == boundary.position.segment;
    let is_tail = plan.tail.as_ref().is_some_and(in_tail);
    let mut boundary = boundary.clone();
    let (mut plan, mut successor) = (plan, None);
    if is_tail {
        let now = setup.table_clock(&current).read(&*setup.env.clock);
        let recovery = Recovery { context: &context, state: &state, inline_max: 0, shards, now };
        let mutable = recovery.seal_tail(plan)?;
        step.floor = next_id(mutable, state.get().next_id_floor)?;
        let survey = Survey::take(&setup)?;
        boundary = survey.find_again(&boundary)?;
        plan = survey.plan;
        successor = Some(mutable);
    }
    let segment = boundary.position.segment;
    let sealed = plan.sealed.into_iter().find(|sealed| sealed.metadata.segment == segment);
    let sealed = sealed.ok_or_else(|| no_longer(&setup, segment))?;
    // The mutable segment, which is empty, follows on the one that is cut, unless recovery has moved records to another
    // one between the two.
    let successor = successor.filter(|mutable| sealed.metadata.successor == *mutable);
    let new = successor.is_none().then_some(step.floor);
    if let Some(new) = new {
        // If this goes no further, an opening must be able to tell the successor from what an interrupted roll-over left.
        state.update(|state| {
            state.next_id_floor = new;
            state.highest_id = state.highest_id.max(new);
        })?;
        step.floor = next_id(new, step.floor)?;
    }
    let position = Some(boundary.position);
    let mut cut = Cut { setup: &setup, context, boundary: &boundary, sealed, created: Vec::new() };
    match cut.write(new, successor, shards) {
        Ok(kept) => {
            step.kept = Some(kept);
            Ok(Prepared { created: cut.created, fs, step, position })
        }
        Err(error) => {
            remove(&*fs, &cut.created);
            Err(error)
        }
    }
}

impl Survey {
    /// The boundary, where recovery has left its record.
    fn find_again(&self, boundary: &Boundary) -> Result<Boundary> {
        let mut behind = 0;
        let walked = self.walk(&mut |record| {
            if behind >= boundary.records_behind && record.key() == boundary.key {
                return Ok(walk::Verdict::Keep);
            }
            behind += 1;
            Ok(walk::Verdict::Discard)
        })?;
        let found = walked.boundary.filter(|b| b.records_behind == boundary.records_behind);
        found.ok_or_else(|| no_longer(&self.setup, boundary.position.segment))
    }
}

fn no_longer(setup: &TableSetup, segment: SegmentId) -> Error {
    let message =
        format!("table {}: segment {segment} is not what it was a moment ago", setup.name);
    Error::new(ErrorKind::Conflict, message)
}

/// The segment that is cut.
struct Cut<'a> {
    setup: &'a TableSetup,
    context: Arc<Context>,
    boundary: &'a Boundary,
    sealed: SealedFound,
    created: Vec<PathBuf>,
}

impl Cut<'_> {
    /// Writes the new key file (if records go), the new metadata, and the segment that takes over (if there is none).
    fn write(
        &mut self,
        new: Option<SegmentId>,
        successor: Option<SegmentId>,
        shards: u16,
    ) -> Result<Kept> {
        let fs = &*self.setup.env.fs;
        self.remove_leftovers()?;
        let old = &self.sealed.metadata;
        let mut metadata = Metadata {
            revision: old.revision.checked_add(1).ok_or_else(revisions_used_up)?,
            successor: new.or(successor).unwrap_or_default(),
            ..old.clone()
        };
        // That of the old successor.
        metadata.set_successor_end(None);
        let rewritten = !self.boundary.ends_segment;
        if rewritten {
            self.write_keys(&mut metadata)?;
        }
        if let Some(id) = new {
            // What the segment was, not what it will be: from the first revision on only the id is compared, and a
            // repair that finds no metadata must not take what was cut for the first one.
            let chain = self.sealed.metadata.chain();
            self.create_successor(id, chain, shards)?;
        }
        let bytes = envelope::seal(Magic::METADATA, &metadata)?;
        self.write_file(&replacement_path(&self.sealed.paths.metadata), &bytes)?;
        for path in [&self.sealed.paths.keys, &self.sealed.paths.metadata] {
            sync_parent(fs, path)?;
        }
        Ok(Kept {
            segment: metadata.segment,
            revision: metadata.revision,
            rewritten,
            successor: metadata.successor,
            key_end: metadata.key_end,
            value_ends: metadata.value_ends,
            digest: metadata.digest,
        })
    }

    /// Removes what earlier attempts left of the segment's replacements, on whichever root: durably, so that none of it
    /// is taken for what is prepared now.
    fn remove_leftovers(&self) -> Result<()> {
        let (fs, dirs) = (&*self.setup.env.fs, self.setup.segment_dirs());
        let inventory = Inventory::list(fs, &dirs)?;
        let files = inventory.segments.get(&self.sealed.metadata.segment);
        for path in files.iter().flat_map(|files| &files.leftovers) {
            remove_if_there(fs, path)?;
            sync_parent(fs, path)?;
        }
        Ok(())
    }

    fn create_successor(&mut self, id: SegmentId, chain: Chain, shards: u16) -> Result<()> {
        let now = self.setup.env.clock.now();
        let new = NewSegment { id, chain: Some(chain), shards, now };
        let (segment, _) = Segment::create(&self.context, &new)?;
        self.created.extend(segment.paths().all().map(Path::to_owned));
        segment.sync_everything()
    }

    /// Creates a file; it is removed with everything else if the cut comes to nothing.
    fn create(&mut self, path: &Path) -> Result<Arc<dyn File>> {
        let fs = &self.setup.env.fs;
        let file = fs.create_new(path).map_err(|e| Error::io("create", path, e))?;
        self.created.push(path.to_owned());
        Ok(file)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.create(path)?;
        write_all_at(&*file, bytes, 0).map_err(|e| Error::io("write", path, e))?;
        file.sync_all().map_err(|e| Error::io("sync", path, e))
    }

    /// The key file up to the boundary: the same bytes, but that the last record ends its batch.
    fn write_keys(&mut self, metadata: &mut Metadata) -> Result<()> {
        let source = KeyFile::open(&*self.setup.env.fs, &self.sealed.paths.keys)?;
        let staged = replacement_path(&source.path);
        let file = self.create(&staged)?;
        let (last, end) = (self.boundary.last, u64::from(self.boundary.end));
        let mut at = 0;
        while at < end {
            let len = (end - at).min(PIECE as u64) as usize;
            let bytes = read(&*source.file, &source.path, at, len)?;
            if bytes.is_empty() {
                let expected = format!("{end} bytes");
                return Err(Error::corrupt(&source.path, at, &expected, "the end of the file"));
            }
            write_all_at(&*file, &bytes, at).map_err(|e| Error::io("write", &staged, e))?;
            at += bytes.len() as u64;
        }
        let record = self.last_record(&source)?;
        write_all_at(&*file, &record, u64::from(last))
            .map_err(|e| Error::io("write", &staged, e))?;
        file.sync_all().map_err(|e| Error::io("sync", &staged, e))?;
        // What was written is what will rule: it is read again before anything depends on it.
        let keys = KeyFile::open(&*self.setup.env.fs, &staged)?;
        let mut scanner = keys.scan(keys.len, None);
        if scanner.run(|_| Ok(()))? != Verdict::Clean || keys.len != end {
            scanner.require_clean()?;
            let found = format!("{} bytes", keys.len);
            return Err(Error::corrupt(&staged, keys.len, &format!("{end} bytes"), &found));
        }
        let totals = scanner.totals();
        metadata.key_end = totals.key_end;
        metadata.records = totals.records;
        metadata.primaries = totals.primaries;
        metadata.running = totals.running;
        metadata.value_ends.clone_from(&totals.value_ends);
        metadata.epochs = scanner.epochs().to_vec();
        metadata.digest = Some(keys.digest(end)?);
        Ok(())
    }

    /// The last record that stays, as the last one of its batch (without an inline value, which does not change).
    fn last_record(&self, source: &KeyFile) -> Result<Vec<u8>> {
        let (last, identity) = (self.boundary.last, source.header.identity);
        let bytes = read(&*source.file, &source.path, u64::from(last), MAX_RECORD_LEN)?;
        let epochs = &self.sealed.metadata.epochs;
        let epoch = epochs.iter().rev().find(|(at, _)| *at < last);
        let epoch = epoch.map_or(identity.salt, |(_, epoch)| *epoch);
        let decoded = decode(&identity, epoch, last, &bytes).map_err(|invalid| {
            let reason = invalid.to_string();
            Error::corrupt(&source.path, u64::from(last), "a sound key record", &reason)
        })?;
        let Record::Key(mut record) = decoded.record else {
            let message = "another record";
            return Err(Error::corrupt(&source.path, u64::from(last), "a key record", message));
        };
        record.flags = record.flags.with(Flags::END_OF_BATCH);
        let mut buffer = Vec::new();
        let offset = u64::from(last);
        Encoder { buffer: &mut buffer, identity, epoch, running: 0, offset }.key(&record);
        Ok(buffer)
    }
}

fn revisions_used_up() -> Error {
    Error::new(ErrorKind::InvalidArgument, "the segment has used up its 2^32 revisions")
}
