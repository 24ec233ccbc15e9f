//! A table that is open for reading only, beside a writer in another process.
//!
//! What a reader sees is a [`View`] of one moment, at least everything that had been flushed when it was taken;
//! [`Table::refresh`] takes another. A refresh goes on from where the view ends: it reads the state, asks whether the last
//! segment has been sealed and whether it is longer, and reads what is new. Where the files do not continue the view, because
//! the writer has given up some of it, and when the table is opened, all files are looked at. The writer changes them
//! meanwhile, so an error is reported when a second look, with nothing changed in between, repeats it.

use std::path::Path;
use std::sync::Arc;

use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Error, ErrorKind, Fs, Result, exists};
use lithdb_keymap::KeyHash;
use lithdb_segment::{Metadata, Position, Segment, SegmentPaths};

use crate::open::chain::{Access, OpenPlan};
use crate::open::index::same_key;
use crate::open::inventory::Inventory;
use crate::open::new_keymap;
use crate::open::sealed::check_matches_header;
use crate::options::TableOptions;
use crate::read::follow::FollowedSegment;
use crate::read::view::{UnsealedCursor, View};
use crate::state::{TableState, read_state};
use crate::table::{Inner, Mode, Table, TableSetup};
use crate::truncate::INTENT_FILE;
use lithdb_segment::key_file::KeyFile;

/// How often a reader looks at files that keep changing.
const MAX_ATTEMPTS: usize = 8;

/// What only a reader has.
#[derive(Debug)]
pub(crate) struct ReadSide {
    setup: TableSetup,
    /// Held for moments only.
    view: RwLock<Arc<View>>,
    /// Held while a newer view is made. The keys of the view that are not in its keymap: a refresh before failed there.
    refreshing: Mutex<Vec<(KeyHash, Position)>>,
}

/// What one step of a refresh came to.
enum Step {
    UpToDate,
    Advanced,
    /// The files do not continue the view.
    Diverged,
}

/// Looks at all files.
fn read_files(setup: &TableSetup) -> Result<(TableState, OpenPlan)> {
    refuse_rollback(setup)?;
    let state = read_live_state(setup)?;
    let plan = OpenPlan::make(&setup.env, &setup.segment_dirs(), &state, Access::Read)?;
    // What was seen while one began may be neither the old state nor the new one.
    refuse_rollback(setup)?;
    Ok((state, plan))
}

fn read_live_state(setup: &TableSetup) -> Result<TableState> {
    let state = read_state(&*setup.env.fs, &setup.state_path())?.state;
    if state.dropping {
        let message = format!("table {}: it is being dropped", setup.name);
        return Err(Error::new(ErrorKind::Missing, message));
    }
    Ok(state)
}

/// Refuses a database that is being rolled back by another process, or was by one that is gone.
fn refuse_rollback(setup: &TableSetup) -> Result<()> {
    let root = setup.dirs.first().and_then(|dir| dir.parent());
    let Some(path) = root.map(|root| root.join(INTENT_FILE)) else { return Ok(()) };
    if !exists(&*setup.env.fs, &path).map_err(|e| Error::io("look for", &path, e))? {
        return Ok(());
    }
    let message = "a rollback is under way, or was interrupted; if no process is at it, open the database for writing, or `lith rollback --finish`";
    Err(Error::at(ErrorKind::Locked, &path, message).for_pending_rollback())
}

/// Looks until it succeeds, or fails twice with nothing changed in between.
fn retry_until_stable<T>(
    setup: &TableSetup,
    mut read_files: impl FnMut() -> Result<T>,
) -> Result<T> {
    let fs = &*setup.env.fs;
    let mut before = None;
    for _ in 1..MAX_ATTEMPTS {
        let error = match read_files() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // What cannot be read is the same as long as it cannot be read for the same reason.
        let state = read_state(fs, &setup.state_path()).map(|found| found.state);
        let files = Inventory::list(fs, &setup.segment_dirs());
        let now = (state.map_err(|e| e.kind()), files.map_err(|e| e.kind()));
        if before.replace(now.clone()) == Some(now) {
            return Err(error);
        }
    }
    read_files()
}

impl Table {
    /// Opens a table that is there, for reading. The caller holds the shared lock of every root; a writer may be
    /// at work. Nothing is written.
    ///
    /// # Errors
    /// Whatever is not as it must be, named with its file and the remedy.
    pub fn open_read_only(setup: &TableSetup, options: &TableOptions) -> Result<Self> {
        options.validate().map_err(|e| setup.in_context(&e))?;
        retry_until_stable(setup, || open_once(setup, options)).map_err(|e| setup.in_context(&e))
    }

    /// Takes a new view, at the cost of what is new. If it fails, the old view stays. Does nothing
    /// in a table that is open for writing.
    pub fn refresh(&self) -> Result<()> {
        self.inner.enter()?;
        match &self.inner.mode {
            Mode::Write(_) => Ok(()),
            Mode::Read(side) => side.refresh(&self.inner).map_err(|e| self.inner.in_context(&e)),
        }
    }
}

fn open_once(setup: &TableSetup, options: &TableOptions) -> Result<Table> {
    let (state, plan) = read_files(setup)?;
    let context = setup.context(&state, options);
    let keymap = new_keymap(options.keymap.unwrap_or_default());
    let view = Arc::new(View::from_plan(&context, state.clone(), plan, keymap)?);
    let side =
        ReadSide { setup: setup.clone(), view: RwLock::new(view), refreshing: Mutex::default() };
    Ok(Table::assemble(setup, options, context, &state, Mode::Read(Box::new(side))))
}

impl ReadSide {
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Makes what `change` makes of the view the one that is seen.
    pub(crate) fn publish(&self, change: impl FnOnce(&View) -> View) {
        let mut view = self.view.write();
        let next = Arc::new(change(&view));
        let before = std::mem::replace(&mut *view, next);
        drop(view);
        // Whoever held the last segments that are gone lets go of them without the lock.
        drop(before);
    }

    fn read_state(&self, inner: &Inner) -> Result<TableState> {
        let state = read_live_state(&self.setup)?;
        // A table of the same name that was created after this one had been dropped is another table.
        if state.table_id == inner.context.table_id {
            return Ok(state);
        }
        let message = "the table was dropped, and another one was created with its name: open that";
        Err(Error::new(ErrorKind::Closed, message))
    }

    fn refresh(&self, inner: &Inner) -> Result<()> {
        let mut unpublished = self.refreshing.lock();
        refuse_rollback(&self.setup)?;
        let is_followed = match self.follow(inner, &mut unpublished) {
            Ok(is_followed) => is_followed,
            // What one look finds may come from the writer's steps: all files tell.
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => false,
            Err(error) => return Err(error),
        };
        if is_followed {
            // What was seen while one began may be neither the old state nor the new one.
            return refuse_rollback(&self.setup);
        }
        self.replace(inner, &mut unpublished)
    }

    /// Takes a view of all files in the place of the present one.
    fn replace(&self, inner: &Inner, unpublished: &mut Vec<(KeyHash, Position)>) -> Result<()> {
        let view = retry_until_stable(&self.setup, || {
            self.read_state(inner)?;
            let (state, plan) = read_files(&self.setup)?;
            let keymap = new_keymap(inner.options.keymap.unwrap_or_default());
            View::from_plan(&inner.context, state, plan, keymap)
        })?;
        unpublished.clear();
        self.publish(|_| view);
        Ok(())
    }

    /// Goes on from the view with what is new. False: the files do not continue it.
    fn follow(&self, inner: &Inner, unpublished: &mut Vec<(KeyHash, Position)>) -> Result<bool> {
        self.publish_keys(unpublished)?;
        let state = self.read_state(inner)?;
        let view = self.view();
        // The floor rises when segments are given up.
        let before = (view.state.next_id_floor, view.state.empty);
        let is_collected = view.unsealed.is_some() && view.end.segment < state.watermark;
        if before != (state.next_id_floor, state.empty) || is_collected {
            return Ok(false);
        }
        loop {
            let view = self.view();
            match self.step(inner, &state, &view, unpublished)? {
                Step::Advanced => {}
                Step::Diverged => return Ok(false),
                Step::UpToDate => break,
            }
        }
        // What was collected stays good until the keymap knows where its keys were put again.
        if state != view.state {
            self.raise(|view| View {
                state: state.clone(),
                ..view.with_watermark(state.watermark)
            });
        }
        Ok(true)
    }

    /// Makes a view with a higher watermark the one that is seen.
    fn raise(&self, change: impl FnOnce(&View) -> View) {
        self.publish(change);
        let view = self.view();
        view.keymap.raise_watermark(view.watermark);
    }

    /// Reads on in the last segment of the view, or goes over to its successor.
    fn step(
        &self,
        inner: &Inner,
        state: &TableState,
        view: &View,
        unpublished: &mut Vec<(KeyHash, Position)>,
    ) -> Result<Step> {
        let (Some(segment), Some(unsealed)) = (view.segments.back(), &view.unsealed) else {
            return Ok(if state.empty { Step::UpToDate } else { Step::Diverged });
        };
        let (fs, paths) = (&*inner.env.fs, segment.paths());
        let seal = read_if_exists(fs, &paths.metadata)?;
        let end = match &seal {
            Some(seal) => seal.key_end,
            None => {
                fs.metadata(&paths.keys)
                    .map_err(|e| Error::io("look at", &paths.keys, e))?
                    .len_bytes
            }
        };
        let is_continued = seal.as_ref().is_none_or(|seal| seal.revision == 0);
        if !is_continued || end < unsealed.totals.key_end {
            return Ok(Step::Diverged);
        }
        if end > unsealed.totals.key_end {
            let keys = KeyFile::open(fs, &paths.keys)?;
            if keys.header != *segment.header() || keys.len < end {
                return Ok(Step::Diverged);
            }
            let before = view.segments.len().checked_sub(2).and_then(|n| view.segments.get(n));
            let sealed_mark = before.and_then(|s| s.metadata()).and_then(Metadata::successor_end);
            let durable_mark = state.durable_mark(segment.id(), sealed_mark);
            let sealed_end = seal.as_ref().map(|seal| seal.key_end);
            let hash_seed = inner.hash_seed;
            let followed =
                FollowedSegment { fs, keys: &keys, paths, hash_seed, durable_mark, sealed_end };
            let new = followed.read_new(unsealed)?;
            if new.seen.totals.key_end > unsealed.totals.key_end {
                new.seen.extend_readable(segment);
                *unpublished = new.keys;
                // The segment first: a position that the keymap gets must be one that can be read.
                self.publish(|view| view.extended(new.seen, new.newest));
                self.publish_keys(unpublished)?;
                return Ok(Step::Advanced);
            }
        }
        let Some(seal) = seal else {
            // The state may know a later one: then files are lost, or older than it.
            let known = state.durable_end.as_ref().map(|unsealed| unsealed.segment);
            let is_newest = known.is_none_or(|known| known <= segment.id());
            return Ok(if is_newest { Step::UpToDate } else { Step::Diverged });
        };
        check_matches_header(&paths.metadata, &seal, segment.header())?;
        if !unsealed.matches_seal(&seal) {
            return Ok(Step::Diverged);
        }
        let Some((next, begun)) = self.successor(inner, &seal)? else { return Ok(Step::Diverged) };
        segment.mark_sealed(seal);
        self.publish(|view| view.with_next_segment(next, begun));
        Ok(Step::Advanced)
    }

    /// The segment that a seal names, of which nothing was seen yet; `None` if it is not as a writer leaves it.
    fn successor(
        &self,
        inner: &Inner,
        seal: &Metadata,
    ) -> Result<Option<(Arc<Segment>, UnsealedCursor)>> {
        let (fs, dirs) = (&*inner.env.fs, &inner.context.dirs);
        let path = SegmentPaths::for_new(dirs, seal.successor, 1).keys;
        let keys = KeyFile::open(fs, &path)?;
        keys.header.belongs_to(&path, inner.context.table_id, seal.successor)?;
        if keys.chain()? != Some(seal.chain()) {
            return Ok(None);
        }
        let paths = SegmentPaths::for_new(dirs, seal.successor, keys.header.shards);
        for path in &paths.values {
            if !exists(fs, path).map_err(|e| Error::io("look for", path, e))? {
                return Ok(None);
            }
        }
        let begun = UnsealedCursor::begin(&keys.header);
        let segment = begun.segment(&inner.context, paths, keys.header);
        Ok(Some((segment, begun)))
    }

    /// Puts the keys of the view that are not in its keymap there.
    fn publish_keys(&self, unpublished: &mut Vec<(KeyHash, Position)>) -> Result<()> {
        let view = self.view();
        let mut same_key = |new, old| same_key(&view.segments, new, old);
        view.keymap.insert_batch(unpublished, &mut same_key)?;
        unpublished.clear();
        Ok(())
    }

    /// Finds out why something in `failed` could not be read, or is not what it was: collected, or given up by the writer.
    /// False: neither, the finding is what it is.
    pub(crate) fn catch_up(&self, inner: &Inner, failed: &Arc<Segment>) -> Result<bool> {
        let view = self.view();
        if !view.segments.find(failed.id()).is_some_and(|seen| Arc::ptr_eq(seen, failed)) {
            return Ok(true); // another view is seen by now
        }
        let state = self.read_state(inner)?;
        if state.next_id_floor == view.state.next_id_floor {
            if state.watermark > view.watermark {
                self.raise(|view| view.with_watermark(state.watermark));
            }
            if failed.id() < state.watermark {
                return Ok(true);
            }
            if is_seal_unchanged(inner, failed)? {
                return Ok(false);
            }
        }
        // A rollback: there is nothing left of the view that could be held on to.
        let mut unpublished = self.refreshing.lock();
        if Arc::ptr_eq(&view, &self.view()) {
            self.replace(inner, &mut unpublished)?;
        }
        Ok(true)
    }
}

fn read_if_exists(fs: &dyn Fs, path: &Path) -> Result<Option<Metadata>> {
    match Metadata::read(fs, path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the seal of a segment says what it said, or there is none yet of what was seen.
fn is_seal_unchanged(inner: &Inner, segment: &Segment) -> Result<bool> {
    let now = read_if_exists(&*inner.env.fs, &segment.paths().metadata)?;
    Ok(match (segment.metadata(), now) {
        (Some(seen), Some(now)) => seen.revision == now.revision,
        (Some(_), None) => false,
        (None, Some(now)) => now.revision == 0 && now.key_end >= segment.key_end(),
        (None, None) => true,
    })
}
