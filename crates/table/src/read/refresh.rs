//! Refreshing a reader's view, and recovery of reads whose files the writer has removed.
//!
//! A refresh continues where the view ends: it reads the state, checks whether the last segment
//! was sealed or has grown, and reads what is new. If the files do not continue the view because
//! the writer discarded part of it, it reads all files as opening does.

use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Fs, Result, exists};
use lithdb_segment::{Metadata, Segment, SegmentPaths};

use crate::open::sealed::check_matches_header;
use crate::options::TableOptions;
use crate::read::follow::FollowedSegment;
use crate::read::reader::{Keys, Reader, refuse_rollback};
use crate::read::source::FailedRead;
use crate::read::view::{UnsealedCursor, View};
use crate::segments::same_key;
use crate::setup::TableSetup;
use crate::state::TableState;
use crate::table::{Role, Table};
use lithdb_segment::key_file::KeyFile;

/// How often a read is repeated because its files were removed meanwhile.
const MAX_CATCH_UPS: usize = 3;

/// The result of one step of a refresh.
enum Step {
    UpToDate,
    Advanced,
    /// The files do not continue the view.
    Diverged,
}

impl Table {
    /// Opens an existing table for reading. Takes no lock, as a writer may be active, and writes
    /// nothing.
    ///
    /// # Errors
    /// Any damage or inconsistency, with its file and the remedy.
    pub fn open_read_only(setup: &TableSetup, options: &TableOptions) -> Result<Self> {
        options.validate().map_err(|e| setup.in_context(&e))?;
        let reader = Reader::open(setup, options).map_err(|e| setup.in_context(&e))?;
        Ok(Self::new(Role::Reader(Arc::new(reader))))
    }

    /// Takes a new view, at a cost proportional to the new data. If it fails, the old view
    /// remains. Does nothing in a table that is open for writing.
    pub fn refresh(&self) -> Result<()> {
        let shared = self.enter()?;
        let Role::Reader(reader) = &self.role else { return Ok(()) };
        reader.refresh().map_err(|e| shared.in_context(&e))
    }
}

impl Reader {
    fn refresh(&self) -> Result<()> {
        let mut unpublished = self.refreshing.lock();
        refuse_rollback(&self.shared.setup)?;
        let is_followed = match self.follow(&mut unpublished) {
            Ok(is_followed) => is_followed,
            // A single attempt may see the writer between two steps: read all files.
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => false,
            Err(error) => return Err(error),
        };
        if is_followed {
            // What was read while a rollback began may be neither the old nor the new state.
            return refuse_rollback(&self.shared.setup);
        }
        self.replace(&mut unpublished)
    }

    /// Runs `read`. If another process has collected its file, truncated it by a rollback, or
    /// replaced the table by another of the same name, `read` is repeated on a newer view: the key
    /// is absent, or has an older value. Any other error is confirmed by at most one more read.
    pub(crate) fn retry_if_gone<T>(&self, read: impl Fn() -> Result<T, FailedRead>) -> Result<T> {
        let mut left = MAX_CATCH_UPS;
        loop {
            let failed = match read() {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let may_be_gone = matches!(
                failed.error.kind(),
                ErrorKind::Missing | ErrorKind::Corrupt | ErrorKind::Foreign
            );
            if !may_be_gone || left == 0 {
                return Err(failed.error);
            }
            left = if self.catch_up(&failed.segment)? { left - 1 } else { 0 };
        }
    }

    /// Extends the view by the new data. False: the files do not continue it.
    fn follow(&self, unpublished: &mut Keys) -> Result<bool> {
        self.publish_keys(unpublished)?;
        let state = self.read_state()?;
        let view = self.view();
        // The floor rises when the writer discards segments.
        let before = (view.state.next_id_floor, view.state.empty);
        let is_collected = view.unsealed.is_some() && view.end.segment < state.watermark;
        if before != (state.next_id_floor, state.empty) || is_collected {
            return Ok(false);
        }
        loop {
            let view = self.view();
            match self.step(&state, &view, unpublished)? {
                Step::Advanced => {}
                Step::Diverged => return Ok(false),
                Step::UpToDate => break,
            }
        }
        // Collected segments stay readable until the keymap has the keys that were put again.
        if state != view.state {
            self.raise(|view| View {
                state: state.clone(),
                ..view.with_watermark(state.watermark)
            });
        }
        Ok(true)
    }

    /// Reads new data of the view's last segment, or moves on to its successor.
    fn step(&self, state: &TableState, view: &View, unpublished: &mut Keys) -> Result<Step> {
        let (Some(segment), Some(unsealed)) = (view.segments.back(), &view.unsealed) else {
            return Ok(if state.empty { Step::UpToDate } else { Step::Diverged });
        };
        let (fs, paths) = (&*self.shared.env().fs, segment.paths());
        let metadata = read_if_exists(fs, &paths.metadata)?;
        let end = match &metadata {
            Some(metadata) => metadata.key_end,
            None => {
                fs.metadata(&paths.keys).map_err(|e| Error::io("stat", &paths.keys, e))?.len_bytes
            }
        };
        let is_continued = metadata.as_ref().is_none_or(|metadata| metadata.revision == 0);
        if !is_continued || end < unsealed.totals.key_end {
            return Ok(Step::Diverged);
        }
        if end > unsealed.totals.key_end {
            let keys = KeyFile::open(fs, &paths.keys)?;
            if keys.header != *segment.header() || keys.len < end {
                return Ok(Step::Diverged);
            }
            let before = view.segments.len().checked_sub(2).and_then(|n| view.segments.get(n));
            let successor_end = before.and_then(|s| s.metadata()).and_then(Metadata::successor_end);
            let external_end = state.external_durable_end(segment.id(), successor_end);
            let sealed_end = metadata.as_ref().map(|metadata| metadata.key_end);
            let (keys, hash_seed) = (&keys, self.shared.hash_seed);
            let followed = FollowedSegment { fs, keys, paths, hash_seed, external_end, sealed_end };
            let new = followed.read_new(unsealed)?;
            if new.seen.totals.key_end > unsealed.totals.key_end {
                new.seen.extend_readable(segment);
                *unpublished = new.keys;
                // The segment first: a position in the keymap must be readable.
                self.publish(|view| view.extended(new.seen, new.newest));
                self.publish_keys(unpublished)?;
                return Ok(Step::Advanced);
            }
        }
        let Some(metadata) = metadata else {
            // The state may name a later segment: then files are lost, or older than the state.
            let known = state.recorded_end.as_ref().map(|unsealed| unsealed.segment);
            let is_newest = known.is_none_or(|known| known <= segment.id());
            return Ok(if is_newest { Step::UpToDate } else { Step::Diverged });
        };
        check_matches_header(&paths.metadata, &metadata, segment.header())?;
        if !unsealed.matches_metadata(&metadata) {
            return Ok(Step::Diverged);
        }
        let Some((next, begun)) = self.successor(&metadata)? else { return Ok(Step::Diverged) };
        segment.mark_sealed(metadata);
        self.publish(|view| view.with_next_segment(next, begun));
        Ok(Step::Advanced)
    }

    /// The successor that the metadata names, with none of its records read yet; `None` if it is
    /// not in a state a writer produces.
    fn successor(&self, metadata: &Metadata) -> Result<Option<(Arc<Segment>, UnsealedCursor)>> {
        let (fs, dirs) = (&*self.shared.env().fs, &self.shared.context.dirs);
        let path = SegmentPaths::for_new(dirs, metadata.successor, 1).keys;
        let keys = KeyFile::open(fs, &path)?;
        keys.header.belongs_to(&path, self.shared.context.table_id, metadata.successor)?;
        if keys.chain()? != Some(metadata.chain()) {
            return Ok(None);
        }
        let paths = SegmentPaths::for_new(dirs, metadata.successor, keys.header.shards);
        for path in &paths.values {
            if !exists(fs, path).map_err(|e| Error::io("look for", path, e))? {
                return Ok(None);
            }
        }
        let begun = UnsealedCursor::begin(&keys.header);
        let segment = begun.segment(&self.shared.context, paths, keys.header);
        Ok(Some((segment, begun)))
    }

    /// Inserts the keys of the view that its keymap lacks.
    fn publish_keys(&self, unpublished: &mut Keys) -> Result<()> {
        let view = self.view();
        let mut same_key = |new, old| same_key(&view.segments, new, old);
        view.keymap.insert_batch(unpublished, &mut same_key)?;
        unpublished.clear();
        Ok(())
    }

    /// Determines why a read in `failed` failed. True: the segment was collected or discarded by
    /// the writer, and the view is newer now. False: the error stands.
    pub(crate) fn catch_up(&self, failed: &Arc<Segment>) -> Result<bool> {
        let view = self.view();
        if !view.segments.find(failed.id()).is_some_and(|seen| Arc::ptr_eq(seen, failed)) {
            return Ok(true); // the view has been replaced
        }
        let state = self.read_state()?;
        if state.next_id_floor == view.state.next_id_floor {
            if state.watermark > view.watermark {
                self.raise(|view| view.with_watermark(state.watermark));
            }
            if failed.id() < state.watermark {
                return Ok(true);
            }
            if is_metadata_unchanged(&*self.shared.env().fs, failed)? {
                return Ok(false);
            }
        }
        // A rollback: nothing of the view can be kept.
        let mut unpublished = self.refreshing.lock();
        if Arc::ptr_eq(&view, &self.view()) {
            self.replace(&mut unpublished)?;
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

/// Whether the metadata of a segment is what was read before, or still absent.
fn is_metadata_unchanged(fs: &dyn Fs, segment: &Segment) -> Result<bool> {
    let now = read_if_exists(fs, &segment.paths().metadata)?;
    Ok(match (segment.metadata(), now) {
        (Some(seen), Some(now)) => seen.revision == now.revision,
        (Some(_), None) => false,
        (None, Some(now)) => now.revision == 0 && now.key_end >= segment.key_end(),
        (None, None) => true,
    })
}
