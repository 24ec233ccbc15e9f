//! Carrying out what opening for writing planned. Every step may be repeated after a crash.
//!
//! The order is that of `docs/FORMAT.md`: discard (floor first), make the tail good (write again what no mark
//! vouches for, cut, new epoch, sync), and only then serve. Nothing that was acknowledged is touched, nothing
//! that could not be verified is written.

use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, File, OpenMode, Result, remove_if_there, write_all_at};
use lithdb_segment::record::{Encoder, Mark};
use lithdb_segment::scan::Totals;
use lithdb_segment::{
    Context, HEADER_LEN, NewSegment, SealJob, Segment, SegmentId, SegmentWriter, ShardId,
    ValueHeader,
};

use crate::keyfile::{KeyFile, read};
use crate::plan::{Plan, SealedFound};
use crate::state::StateFile;
use crate::tail::TailFound;

/// What opening did, for the event and the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Files removed: below the watermark, leftovers, never acknowledged.
    pub removed_files: usize,
    /// Bytes of the tail that were never acknowledged and are gone.
    pub cut_bytes: u64,
    /// Bytes that no mark vouched for, verified and written again.
    pub rewritten_bytes: u64,
    /// Why the tail was torn, if it was.
    pub torn: Option<String>,
    /// The tail was sealed where it ended, because somebody links to it or reads it.
    pub sealed_instead_of_cut: bool,
}

/// A table's segments, ready to be served.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) writer: Option<SegmentWriter>,
    pub(crate) report: RecoveryReport,
}

/// What recovery needs to know beside the plan.
#[derive(Debug)]
pub(crate) struct Recovery<'a> {
    pub(crate) context: &'a Arc<Context>,
    pub(crate) state: &'a StateFile,
    /// Nobody reads in another process, and nobody can begin to.
    pub(crate) may_cut: bool,
    pub(crate) inline_max: u32,
    pub(crate) shards: u16,
}

impl Recovery<'_> {
    pub(crate) fn apply(&self, plan: Plan) -> Result<Recovered> {
        let mut report = RecoveryReport::default();
        self.remove(&plan, &mut report)?;
        let mut segments = Vec::with_capacity(plan.sealed.len() + 2);
        for sealed in plan.sealed {
            self.trim(&sealed)?;
            let SealedFound { paths, header, metadata, .. } = sealed;
            segments.push(Arc::new(Segment::sealed(self.context, paths, header, metadata)));
        }
        let mut writer = None;
        if let Some(tail) = plan.tail {
            let resumed = self.make_good(tail, &mut segments, &mut report)?;
            segments.push(Arc::clone(resumed.segment()));
            writer = Some(resumed);
        }
        Ok(Recovered { segments, writer, report })
    }

    /// Recovers, and seals what the tail holds: every record then stands in a sealed segment. Returns the id of the
    /// mutable one, which is empty.
    pub(crate) fn seal_tail(&self, plan: Plan) -> Result<SegmentId> {
        let Recovered { mut segments, writer, .. } = self.apply(plan)?;
        let Some(writer) = writer else { return Ok(SegmentId::NONE) };
        if writer.totals().records == 0 {
            return Ok(writer.segment().id());
        }
        let (segment, totals) = (Arc::clone(writer.segment()), writer.totals().clone());
        let next = self.seal_where_it_ends(segment, totals, &mut segments)?;
        Ok(next.segment().id())
    }

    /// Removes what is below the watermark and what was never acknowledged; of the latter the ids first.
    fn remove(&self, plan: &Plan, report: &mut RecoveryReport) -> Result<()> {
        let discarded = plan.discard.clone().unwrap_or_default();
        if discarded.highest.is_some() {
            let floor = discarded.highest.next().ok_or_else(ids_used_up)?;
            self.state.update(|state| state.next_id_floor = state.next_id_floor.max(floor))?;
        }
        let fs = &*self.context.env.fs;
        for path in plan.remove.iter().chain(&discarded.files) {
            remove_if_there(fs, path)?;
            report.removed_files += 1;
        }
        if report.removed_files > 0 {
            for dir in &self.context.dirs {
                fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
            }
        }
        Ok(())
    }

    /// Gives back what a sealed segment's files have behind their end, if nobody can be using it.
    fn trim(&self, sealed: &SealedFound) -> Result<()> {
        if !sealed.is_longer || !self.may_cut {
            return Ok(());
        }
        self.require_seal_holds(sealed)?;
        let ends = sealed.metadata.value_ends.iter().copied();
        let values = sealed.paths.values.iter().zip(ends);
        for (path, end) in values.chain([(&sealed.paths.keys, sealed.metadata.key_end)]) {
            let file = self.open(path)?;
            if is_alone(&*file, path)? && len(&*file, path)? > end {
                file.set_len(end).map_err(|e| Error::io("trim", path, e))?;
            }
        }
        Ok(())
    }

    /// Nothing behind the end of a key file goes away before the seal is known to be that of this file: of another one it
    /// would end records that hold.
    fn require_seal_holds(&self, sealed: &SealedFound) -> Result<()> {
        let (path, metadata) = (&sealed.paths.keys, &sealed.metadata);
        let keys = KeyFile::open(&*self.context.env.fs, path)?;
        let mut scanner = keys.scan(metadata.key_end.min(keys.len), None);
        scanner.run(|_| Ok(()))?;
        scanner.require_clean()?;
        let found = scanner.totals();
        let expected = (metadata.key_end, metadata.records, metadata.running);
        let counted = (found.key_end, found.records, found.running);
        if expected == counted {
            return Ok(());
        }
        let show = |(end, records, running): (u64, u64, u32)| {
            format!("{records} records up to {end}, running checksum {running:08x}")
        };
        Err(Error::corrupt(path, found.key_end, &show(expected), &show(counted)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        let fs = &self.context.env.fs;
        let file = fs.open(path, OpenMode::ReadWrite).map_err(|e| Error::io("open", path, e))?;
        Ok(file)
    }

    fn make_good(
        &self,
        tail: TailFound,
        segments: &mut Vec<Arc<Segment>>,
        report: &mut RecoveryReport,
    ) -> Result<SegmentWriter> {
        let keys = self.open(&tail.paths.keys)?;
        let values: Vec<_> =
            tail.paths.values.iter().map(|path| self.open(path)).collect::<Result<_>>()?;
        report.rewritten_bytes = self.write_again(&tail, &*keys, &values)?;
        report.torn.clone_from(&tail.torn);
        let mut is_linked = !is_alone(&*keys, &tail.paths.keys)?;
        for (file, path) in values.iter().zip(&tail.paths.values) {
            is_linked |= !is_alone(&**file, path)?;
        }
        self.mend_headers(&tail, &values)?;
        let (mut totals, mut epochs) = (tail.keep.clone(), tail.epochs.clone());
        let is_longer = tail.surplus > 0;
        // What others link to does not even grow.
        let ends_here = is_linked || (is_longer && !self.may_cut);
        let is_cut = is_longer && !ends_here;
        if is_cut {
            report.cut_bytes = tail.surplus;
            cut(&*keys, &tail.paths.keys, totals.key_end)?;
            for ((file, path), end) in values.iter().zip(&tail.paths.values).zip(&totals.value_ends)
            {
                cut(&**file, path, *end)?;
            }
            epochs.push(self.append_epoch(&tail, &*keys, &mut totals)?);
        }
        let paths = tail.paths.clone();
        let segment =
            Segment::growing(self.context, paths, tail.header, keys, values, &totals, &epochs);
        let segment = Arc::new(segment);
        segment.sync_everything()?;
        if ends_here {
            report.sealed_instead_of_cut = true;
            return self.seal_where_it_ends(segment, totals, segments);
        }
        let epoch = if is_cut { None } else { Some(self.context.env.random_u64()?) };
        // What was just made durable is like a flush: its mark precedes the next record, unless one says it already.
        let now = self.context.env.clock.now();
        let is_promised = tail.keep.key_end == tail.promised.0 || report.rewritten_bytes == 0;
        let mark = (!is_promised || is_cut).then(|| mark_of(&totals, now));
        Ok(SegmentWriter::new(segment, self.inline_max, totals, epoch, mark))
    }

    /// Writes again every byte that is kept and that no mark vouches for. It may have been read from the page cache
    /// alone. What is written is what was verified.
    fn write_again(
        &self,
        tail: &TailFound,
        keys: &dyn File,
        values: &[Arc<dyn File>],
    ) -> Result<u64> {
        let mut written = tail.unpromised_keys.len() as u64;
        write_all_at(keys, &tail.unpromised_keys, tail.promised.0)
            .map_err(|e| Error::io("write", &tail.paths.keys, e))?;
        for &(shard, offset, len, checksum) in &tail.unpromised_values {
            let index = usize::from(shard.0);
            let (Some(file), Some(path)) = (values.get(index), tail.paths.values.get(index)) else {
                continue;
            };
            let bytes = read(&**file, path, offset, len as usize)?;
            if bytes.len() != len as usize || crc32c::crc32c(&bytes) != checksum {
                let message = format!(
                    "{} at offset {offset}: two reads gave different bytes; open it again",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Io, message));
            }
            write_all_at(&**file, &bytes, offset).map_err(|e| Error::io("write", path, e))?;
            written += u64::from(len);
        }
        Ok(written)
    }

    fn mend_headers(&self, tail: &TailFound, values: &[Arc<dyn File>]) -> Result<()> {
        for shard in &tail.bad_headers {
            let index = usize::from(shard.0);
            let (Some(file), Some(path)) = (values.get(index), tail.paths.values.get(index)) else {
                continue;
            };
            let header = ValueHeader {
                identity: tail.header.identity,
                shard: ShardId(shard.0),
                created: tail.header.created,
            };
            write_all_at(&**file, &header.encode(), 0).map_err(|e| Error::io("write", path, e))?;
        }
        Ok(())
    }

    /// What comes next is seeded with a new epoch: bytes of the life that was cut never pass for it.
    fn append_epoch(
        &self,
        tail: &TailFound,
        keys: &dyn File,
        totals: &mut Totals,
    ) -> Result<(u32, u64)> {
        let epoch = self.context.env.random_u64()?;
        let offset = totals.key_end;
        let mut bytes = Vec::new();
        let mut encoder = Encoder {
            buffer: &mut bytes,
            identity: tail.header.identity,
            epoch: 0,
            running: totals.running,
            offset,
        };
        encoder.epoch(epoch, self.context.env.clock.now());
        (totals.running, totals.key_end) = (encoder.running, encoder.offset);
        write_all_at(keys, &bytes, offset).map_err(|e| Error::io("write", &tail.paths.keys, e))?;
        Ok((offset as u32, epoch))
    }

    /// Somebody links to the tail or reads it: its files stay as they are, and it ends where it is whole.
    fn seal_where_it_ends(
        &self,
        segment: Arc<Segment>,
        totals: Totals,
        segments: &mut Vec<Arc<Segment>>,
    ) -> Result<SegmentWriter> {
        let now = self.context.env.clock.now();
        let state = self.state.get();
        let ended =
            SegmentWriter::new(Arc::clone(&segment), self.inline_max, totals.clone(), None, None);
        let id = next_id(segment.id(), state.next_id_floor)?;
        let new = NewSegment { id, chain: Some(ended.chain()), shards: self.shards, now };
        let (next, next_totals) = Segment::create(self.context, &new)?;
        next.sync_everything()?;
        SealJob { segment: Arc::clone(&segment), totals, successor: id, now }.run()?;
        segments.push(segment);
        Ok(SegmentWriter::new(next, self.inline_max, next_totals, None, None))
    }
}

/// The id for a new segment after `newest`.
pub(crate) fn next_id(newest: SegmentId, floor: SegmentId) -> Result<SegmentId> {
    Ok(newest.next().ok_or_else(ids_used_up)?.max(floor).max(SegmentId::FIRST))
}

fn ids_used_up() -> Error {
    Error::new(ErrorKind::InvalidArgument, "the table has used up its 2^32 segment ids")
}

/// The mark of everything there is.
pub(crate) fn mark_of(totals: &Totals, time: lithdb_env::UnixMillis) -> Mark {
    Mark {
        through: totals.key_end as u32,
        time,
        records: totals.records,
        value_ends: totals.value_ends.clone(),
    }
}

fn len(file: &dyn File, path: &Path) -> Result<u64> {
    file.len().map_err(|e| Error::io("measure", path, e))
}

fn is_alone(file: &dyn File, path: &Path) -> Result<bool> {
    Ok(file.links().map_err(|e| Error::io("look at", path, e))? <= 1)
}

fn cut(file: &dyn File, path: &Path, end: u64) -> Result<()> {
    let found = len(file, path)?;
    if found > end && end >= HEADER_LEN as u64 {
        file.set_len(end).map_err(|e| Error::io("cut", path, e))?;
    }
    Ok(())
}
