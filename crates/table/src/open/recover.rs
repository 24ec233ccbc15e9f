//! Applies the plan of a read-write open. Every step may be repeated after a crash.
//!
//! The order is that of `docs/FORMAT.md`, *Recovery*: discard (id floor first), seal the unsealed
//! segment at its durable end and copy the other complete batches to a new segment, and only then
//! accept calls. Recovery never overwrites or truncates an old file: after a failed write-back its
//! blocks may accept no more writes, and a reader may hold its bytes.

use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, File, OpenMode, Result, UnixMillis, remove_if_exists};
use lithdb_segment::scan::{Totals, Verdict};
use lithdb_segment::{
    Context, Copier, NewSegment, SealJob, Segment, SegmentId, SegmentPaths, SegmentWriter,
};

use crate::event::RecoveryReport;
use crate::gc::clock::ClockReading;
use crate::open::chain::OpenPlan;
use crate::open::unsealed::{UnsealedSegment, changed};
use crate::state::{RecordedEnd, StateFile, id_after, next_id};
use lithdb_segment::key_file::{KeyFile, read};

/// A table's segments after recovery.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) writer: Option<SegmentWriter>,
    pub(crate) report: RecoveryReport,
}

/// The inputs of recovery besides the plan.
#[derive(Debug)]
pub(crate) struct Recovery<'a> {
    pub(crate) context: &'a Arc<Context>,
    pub(crate) state: &'a StateFile,
    pub(crate) inline_max: u32,
    pub(crate) shards: u16,
    pub(crate) now: ClockReading,
}

impl Recovery<'_> {
    pub(crate) fn apply(&self, plan: OpenPlan) -> Result<Recovered> {
        let mut report = RecoveryReport::default();
        self.remove(&plan, &mut report)?;
        let sealed = plan.sealed.into_iter().map(|sealed| sealed.into_segment(self.context));
        let mut segments: Vec<_> = sealed.collect();
        let mut writer = None;
        if let Some(unsealed) = plan.unsealed {
            let resumed = self.resume(unsealed, &mut segments, &mut report)?;
            segments.push(Arc::clone(resumed.segment()));
            writer = Some(resumed);
        }
        Ok(Recovered { segments, writer, report })
    }

    /// Recovers the table and seals the unsealed segment, so that every record is in a sealed
    /// segment. Returns the id of the mutable segment, which is empty.
    pub(crate) fn seal_unsealed(&self, plan: OpenPlan) -> Result<SegmentId> {
        let Some(writer) = self.apply(plan)?.writer else { return Ok(SegmentId::NONE) };
        if writer.totals().records == 0 {
            return Ok(writer.segment().id());
        }
        let next = self.seal_and_begin_next(writer.segment(), writer.totals(), None)?;
        Ok(next.segment().id())
    }

    /// Removes files below the watermark and files that were never acknowledged. For the latter it
    /// raises the id floor first. Makes the removals durable.
    fn remove(&self, plan: &OpenPlan, report: &mut RecoveryReport) -> Result<()> {
        let discarded = plan.discard.clone().unwrap_or_default();
        if discarded.highest.is_some() {
            let floor = id_after(discarded.highest)?;
            self.state.update(|state| state.next_id_floor = state.next_id_floor.max(floor))?;
        }
        let fs = &*self.context.env.fs;
        for path in plan.remove.iter().chain(&discarded.files) {
            remove_if_exists(fs, path)?;
            report.removed_files += 1;
        }
        if report.removed_files > 0 { self.sync_dirs() } else { Ok(()) }
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        let fs = &self.context.env.fs;
        fs.open(path, OpenMode::ReadWrite).map_err(|e| Error::io("open", path, e))
    }

    /// Resumes the unsealed segment, or seals it and continues in a new one. Bytes past the
    /// durable end may not be durable, even if they can be read and a sync succeeds.
    fn resume(
        &self,
        unsealed: UnsealedSegment,
        segments: &mut Vec<Arc<Segment>>,
        report: &mut RecoveryReport,
    ) -> Result<SegmentWriter> {
        let keys = self.open(&unsealed.paths.keys)?;
        let values = unsealed.paths.values.iter().map(|path| self.open(path));
        let values = values.collect::<Result<Vec<_>>>()?;
        let mut is_linked = is_linked(&*keys, &unsealed.paths.keys)?;
        for (file, path) in values.iter().zip(&unsealed.paths.values) {
            is_linked |= self::is_linked(&**file, path)?;
        }
        let (paths, header, epochs) =
            (unsealed.paths.clone(), unsealed.header, unsealed.durable_epochs());
        let segment =
            Segment::mutable(self.context, paths, header, keys, values, &unsealed.durable, epochs);
        let segment = Arc::new(segment.with_waiting_bytes(unsealed.unacknowledged_bytes));
        // A file with other hard links is not appended to.
        if unsealed.unacknowledged_bytes == 0 && !is_linked {
            let epoch = Some(self.context.env.random_u64()?);
            return Ok(SegmentWriter::new(segment, self.inline_max, unsealed.durable, epoch));
        }
        report.torn.clone_from(&unsealed.torn);
        report.torn_bytes = unsealed.torn_bytes;
        let next = self.seal_and_begin_next(&segment, &unsealed.durable, Some(&unsealed))?;
        if next.totals().records > 0 {
            report.copied_bytes = next.bytes();
        }
        segments.push(segment);
        Ok(next)
    }

    /// Seals `segment` at `totals`, which is durable, and begins the next segment with the kept
    /// records of `unsealed` after that. The seal is the commit point: before it is durable, the
    /// new segment counts as never acknowledged.
    fn seal_and_begin_next(
        &self,
        segment: &Arc<Segment>,
        totals: &Totals,
        unsealed: Option<&UnsealedSegment>,
    ) -> Result<SegmentWriter> {
        // On a full disk, the new segment may need this space.
        segment.release_reserved_space()?;
        let id = next_id(segment.id(), self.state.get().next_id_floor)?;
        // If this fails, the id is not reused for other content.
        let floor = id_after(id)?;
        self.state.update(|state| state.next_id_floor = floor)?;
        let next = self.begin(segment, totals, id, unsealed).and_then(|mut next| {
            if next.totals().records > 0 {
                next.set_pending_mark(next.totals().mark(self.now.time));
            }
            let flushed = unsealed.map_or_else(UnixMillis::default, |unsealed| unsealed.durable_at);
            let successor_end = Some(next.totals().mark(flushed));
            let (segment, totals) = (Arc::clone(segment), totals.clone());
            let sealed_at = self.now.stamp();
            SealJob { segment, totals, successor: id, sealed_at, successor_end }.run()?;
            Ok(next)
        });
        let next = match next {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.remove_unfinished(id)?;
                let bytes = unsealed.map_or(0, |unsealed| unsealed.unacknowledged_bytes);
                return Err(error.context(format_args!(
                    "the new segment {id} needs about {bytes} bytes for the records after the durable end; meanwhile the table can be opened for reading"
                )));
            }
            next => next?,
        };
        // The metadata records it, too; if that is lost, acknowledged data must not look
        // unacknowledged.
        let unsealed = RecordedEnd::of(id, next.totals());
        self.state.update(|state| state.recorded_end = Some(unsealed))?;
        Ok(next)
    }

    /// Creates the segment `id` as the successor of `segment`, copies the kept records of
    /// `unsealed` to it, and makes it durable.
    fn begin(
        &self,
        segment: &Arc<Segment>,
        totals: &Totals,
        id: SegmentId,
        unsealed: Option<&UnsealedSegment>,
    ) -> Result<SegmentWriter> {
        let chain = Some(totals.chain(segment.id()));
        let new = NewSegment { id, chain, shards: self.shards, now: self.now.time };
        let (next, next_totals) = Segment::create(self.context, &new)?;
        let writer = SegmentWriter::new(next, self.inline_max, next_totals, None);
        let mut copier = Copier::new(writer);
        if let Some(unsealed) = unsealed {
            self.copy(unsealed, &mut copier)?;
        }
        copier.finish()
    }

    fn copy(&self, unsealed: &UnsealedSegment, to: &mut Copier) -> Result<()> {
        let fs = &*self.context.env.fs;
        let keys = KeyFile::open(fs, &unsealed.paths.keys)?;
        let open = |path| fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e));
        let values = unsealed.paths.values.iter().map(|path| Ok((open(path)?, path)));
        let values = values.collect::<Result<Vec<_>>>()?;
        let scanner = keys.scan(unsealed.keep.key_end, None);
        let mut scanner = scanner.resume_after(&unsealed.durable, unsealed.durable_epochs());
        while let Some(entry) = scanner.next_entry()? {
            let record = &entry.record;
            // The scanner has checked the shard number: one without a file means the key file
            // (inline).
            let file = values.get(usize::from(record.shard.0));
            let (file, path) = file.map_or((&keys.file, &keys.path), |(file, path)| (file, path));
            to.record(record, path, |offset, len| read(&**file, path, offset, len))?;
        }
        let is_same =
            scanner.verdict() == Some(&Verdict::Clean) && *scanner.totals() == unsealed.keep;
        if is_same { Ok(()) } else { Err(changed(&keys.path, unsealed.durable.key_end)) }
    }

    /// Removes the files of segment `id`, for which there was no space. The floor is above its id.
    fn remove_unfinished(&self, id: SegmentId) -> Result<()> {
        let fs = &*self.context.env.fs;
        for path in SegmentPaths::for_new(&self.context.dirs, id, self.shards).all() {
            remove_if_exists(fs, path)?;
        }
        self.sync_dirs()
    }

    fn sync_dirs(&self) -> Result<()> {
        let fs = &*self.context.env.fs;
        let mut dirs = self.context.dirs.iter();
        dirs.try_for_each(|dir| fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e)))
    }
}

fn is_linked(file: &dyn File, path: &Path) -> Result<bool> {
    Ok(file.links().map_err(|e| Error::io("stat", path, e))? > 1)
}
