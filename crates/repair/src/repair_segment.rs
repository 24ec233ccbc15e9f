//! Repairs one segment: key file, value files, metadata, successor. Called by `apply`, which
//! defines the order of writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{Error, FileKind, OpenMode, Result, UnixMillis, sync_parent};
use lithdb_segment::record::Chain;
use lithdb_segment::scan::Totals;
use lithdb_segment::{
    Context, HEADER_LEN, Identity, KeyHeader, Metadata, NewSegment, Segment, SegmentId,
    SegmentPaths, ShardId, Stamp, ValueHeader,
};

use crate::examine::Readable;
use crate::interrupted_repair::InterruptedRepair;
use crate::plan::{Action, Member};
use crate::quarantine::quarantined_of;
use crate::rewrite::rewrite;
use crate::segment_headers::SegmentHeaders;
use lithdb_env::exists_as;
use lithdb_segment::key_file::KeyFile;
use lithdb_segment::quarantine::{Quarantine, copy};
use lithdb_table::TableSetup;

/// Repairs segments, one after the other.
#[derive(Debug)]
pub(crate) struct SegmentRepairer<'a> {
    pub(crate) setup: &'a TableSetup,
    pub(crate) context: Arc<Context>,
    pub(crate) quarantine: Quarantine<'a>,
    /// The latest recorded table time.
    pub(crate) latest: UnixMillis,
}

/// The successor of a segment.
#[derive(Debug, Clone, Copy)]
struct NextSegment {
    successor: SegmentId,
    /// The successor does not exist yet.
    is_new: bool,
}

impl SegmentRepairer<'_> {
    /// Performs the planned action; `before` is the metadata of the predecessor, `next` the id of
    /// the successor. Returns the segment's metadata if it is sealed.
    pub(crate) fn repair_segment(
        &mut self,
        member: &Member,
        before: Option<&Metadata>,
        next: Option<SegmentId>,
    ) -> Result<Option<Metadata>> {
        let Member { found, examined, action, new_successor } = member;
        let next = next.or(*new_successor);
        let next =
            NextSegment { successor: next.unwrap_or_default(), is_new: new_successor.is_some() };
        let sealed = found.metadata().cloned();
        match (action, &examined.readable) {
            (Some(Action::Placeholder | Action::RaiseWatermark), _) => {
                self.replace(found, before, next).map(Some)
            }
            (Some(Action::Salvage), Some(readable)) => {
                self.salvage(found, readable, before, next).map(Some)
            }
            (Some(Action::RebuildMetadata), Some(readable)) => {
                self.rebuild(found, readable, next).map(Some)
            }
            (Some(Action::RestoreValueFiles), Some(readable)) => {
                let paths = self.paths(found, readable);
                self.value_files(&paths, readable, &readable.value_ends)?;
                Ok(sealed)
            }
            (None, _) | (_, None) => Ok(sealed),
        }
    }

    fn now(&self) -> UnixMillis {
        self.setup.env.clock.now()
    }

    fn paths(&self, found: &SegmentHeaders, readable: &Readable) -> SegmentPaths {
        found.paths(&self.context.dirs, readable.key_file.header.shards)
    }

    /// Replaces the key file with one that has the whole groups only.
    fn salvage(
        &mut self,
        found: &SegmentHeaders,
        readable: &Readable,
        before: Option<&Metadata>,
        next: NextSegment,
    ) -> Result<Metadata> {
        let (env, header) = (&self.setup.env, &readable.key_file.header);
        let paths = self.paths(found, readable);
        self.quarantine.link(found.files.finished())?;
        let chain = match before {
            Some(before) => Some(before.chain()),
            None => readable.key_file.chain()?,
        };
        let rewritten = rewrite(env, readable, &paths, chain.as_ref())?;
        // Values that no mark covers are copied to new blocks: the old blocks may fail to be
        // written back.
        for shard in &rewritten.unmarked_shards {
            if let Some(path) = paths.values.get(usize::from(shard.0)) {
                self.value_file(path, *shard, header, 0)?;
            }
        }
        self.sync(&paths.values)?;
        let sealed_at = match found.metadata() {
            Some(metadata) => metadata.sealed_at,
            None if next.is_new => Stamp::uncertain(self.now()),
            None => Stamp::uncertain(self.estimate_sealed_at(readable)),
        };
        let metadata = Metadata {
            epochs: rewritten.epochs,
            digest: Some(rewritten.digest),
            revision: self.next_revision(found)?,
            successor: next.successor,
            ..Metadata::of(header, rewritten.totals, sealed_at)
        };
        self.begin_successor(&metadata, next)?;
        self.begin(found, &metadata, &paths.metadata)?;
        let rename = env.fs.rename(&rewritten.staged, &paths.keys);
        rename.map_err(|e| Error::io("rename into place", &paths.keys, e))?;
        sync_parent(&*env.fs, &paths.keys)?;
        self.value_files(&paths, readable, &metadata.value_ends)?;
        metadata.write(&*env.fs, &paths.metadata)?;
        Ok(metadata)
    }

    /// Marks the repair as begun: until the final metadata is written, no opening accepts the
    /// segment, and a new plan can only continue the repair.
    fn begin(&self, found: &SegmentHeaders, target: &Metadata, path: &Path) -> Result<()> {
        let interrupted_repair =
            InterruptedRepair { target: target.clone(), before: found.metadata.clone() };
        interrupted_repair.metadata()?.write(&*self.setup.env.fs, path)
    }

    /// Rebuilds the metadata of a segment whose key file is whole.
    fn rebuild(
        &mut self,
        found: &SegmentHeaders,
        readable: &Readable,
        next: NextSegment,
    ) -> Result<Metadata> {
        let paths = self.paths(found, readable);
        self.quarantine.link(&found.files.metadata)?;
        self.sync(paths.values.iter().chain([&paths.keys]))?;
        let mut totals = readable.scan.totals.clone();
        let is_confirmed = found.metadata().is_none() && readable.successor_agrees;
        // The successor records what the segment was first sealed with, unless the segment was
        // repaired while it was the newest.
        let is_first = totals.records > 0 && !quarantined_of(self.setup, found.id)?.has_keys;
        let revision = match &found.interrupted_repair {
            // The interrupted repair had already put the new key file in place.
            Some(interrupted_repair) if found.metadata() == Some(&interrupted_repair.target) => {
                interrupted_repair.target.revision
            }
            None if is_confirmed && is_first => 0,
            _ => self.next_revision(found)?,
        };
        if is_confirmed {
            totals.value_ends.clone_from(&readable.value_ends);
        }
        let sealed_at = found.metadata().map(|metadata| metadata.sealed_at);
        let sealed_at =
            sealed_at.unwrap_or_else(|| Stamp::uncertain(self.estimate_sealed_at(readable)));
        let metadata = Metadata {
            epochs: readable.scan.epochs.clone(),
            digest: Some(readable.key_file.digest(totals.key_end)?),
            revision,
            successor: next.successor,
            ..Metadata::of(&readable.key_file.header, totals, sealed_at)
        };
        self.begin_successor(&metadata, next)?;
        self.value_files(&paths, readable, &metadata.value_ends)?;
        metadata.write(&*self.setup.env.fs, &paths.metadata)?;
        Ok(metadata)
    }

    /// A revision that the segment never had, for its new contents. Without metadata the previous
    /// revisions are unknown; then it is the current time in seconds, which exceeds any number
    /// that was counted up, plus the number of repairs that quarantined files of the segment,
    /// because several repairs may fall into one second.
    fn next_revision(&self, found: &SegmentHeaders) -> Result<u32> {
        if let Some(known) = found.revision {
            return Ok(known.saturating_add(1));
        }
        let kept = quarantined_of(self.setup, found.id)?;
        let seconds = (self.now().max(self.latest).0 / 1000).min(u64::from(u32::MAX)) as u32;
        Ok(kept.next_revision.max(seconds.saturating_add(kept.repairs)).max(1))
    }

    /// FORMAT.md, *Write ordering*, 6: the files are durable before the metadata describes them.
    fn sync<'p>(&self, paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<()> {
        let fs = &*self.setup.env.fs;
        for path in paths {
            if exists_as(fs, path, FileKind::File)? {
                let file = fs.open(path, OpenMode::ReadWrite);
                let synced = file.and_then(|file| file.sync_all());
                synced.map_err(|e| Error::io("sync", path, e))?;
            }
        }
        Ok(())
    }

    /// Estimates when a segment without metadata was sealed; its age counts from that time.
    fn estimate_sealed_at(&self, readable: &Readable) -> UnixMillis {
        let marked = readable.scan.mark.as_ref().map(|mark| mark.time).unwrap_or_default();
        let known = readable.ended.max(readable.key_file.header.created).max(marked);
        known.min(self.now())
    }

    /// Replaces a segment of which nothing is left by an empty sealed one, with a new revision: an
    /// id never gets other contents without one, even if the segment was the mutable one.
    fn replace(
        &mut self,
        found: &SegmentHeaders,
        before: Option<&Metadata>,
        next: NextSegment,
    ) -> Result<Metadata> {
        let (fs, files) = (&*self.setup.env.fs, &found.files);
        let now = self.now();
        let shards = before.map_or(1, |before| before.value_ends.len() as u16);
        let path = found.paths(&self.context.dirs, shards).metadata;
        // It must not keep its successors from expiring.
        let sealed_at =
            found.metadata().or(before).map_or(Stamp::uncertain(now), |known| known.sealed_at);
        let revision = self.next_revision(found)?;
        let sealed = |header: &KeyHeader, totals: Totals| Metadata {
            revision,
            successor: next.successor,
            ..Metadata::of(header, totals, sealed_at)
        };
        let identity = Identity { table_id: self.context.table_id, segment: found.id, salt: 0 };
        let predecessor = before.map_or(SegmentId::NONE, |before| before.segment);
        let header = KeyHeader { identity, predecessor, created: now, shards };
        self.quarantine.link(&files.metadata)?;
        self.begin(found, &sealed(&header, Totals::default()), &path)?;
        self.quarantine.move_files(files.values.values().chain(&files.keys))?;
        let (segment, totals) = self.create(found.id, before.map(Metadata::chain), shards)?;
        let mut metadata = sealed(segment.header(), totals);
        self.begin_successor(&metadata, next)?;
        let keys = KeyFile::open(fs, &segment.paths().keys)?;
        metadata.digest = Some(keys.digest(metadata.key_end)?);
        metadata.write(fs, &path)?;
        Ok(metadata)
    }

    /// Creates an empty segment, durably.
    fn create(
        &self,
        id: SegmentId,
        chain: Option<Chain>,
        shards: u16,
    ) -> Result<(Arc<Segment>, Totals)> {
        let new = NewSegment { id, chain, shards, now: self.now() };
        let (segment, totals) = Segment::create(&self.context, &new)?;
        segment.sync_everything()?;
        Ok((segment, totals))
    }

    /// FORMAT.md, *Write ordering*, 6: the successor is durable before the metadata names it.
    fn begin_successor(&self, sealed: &Metadata, next: NextSegment) -> Result<()> {
        if next.is_new {
            let shards = sealed.value_ends.len() as u16;
            self.create(next.successor, Some(sealed.chain()), shards)?;
        }
        Ok(())
    }

    /// Gives every value file a valid header and its minimum length. Files that are replaced are
    /// quarantined; missing files are created: no value that is kept was in them.
    fn value_files(
        &mut self,
        paths: &SegmentPaths,
        readable: &Readable,
        value_ends: &[u64],
    ) -> Result<()> {
        let fs = &*self.setup.env.fs;
        for (n, path) in paths.values.iter().enumerate() {
            let shard = ShardId(n as u16);
            let least = value_ends.get(n).copied().unwrap_or_default().max(HEADER_LEN as u64);
            let len = fs.metadata(path).map_or(0, |found| found.len_bytes);
            if len < least || readable.bad_files.contains(&shard) {
                self.value_file(path, shard, &readable.key_file.header, least)?;
            }
        }
        Ok(())
    }

    /// Replaces a value file by a copy with a valid header and at least `least` bytes, or creates
    /// it.
    fn value_file(
        &mut self,
        path: &PathBuf,
        shard: ShardId,
        header: &KeyHeader,
        least: u64,
    ) -> Result<()> {
        let fs = &*self.setup.env.fs;
        // A value file always has a name: from listing, or made from its segment id.
        let mut staged = self.quarantine.dir_for(path)?.join(path.file_name().unwrap_or_default());
        staged.as_mut_os_string().push(".new");
        let head = ValueHeader { identity: header.identity, shard, created: header.created };
        let old = exists_as(fs, path, FileKind::File)?.then_some(path);
        self.quarantine.link(old)?;
        copy(fs, old, &staged, &head.encode(), least)?;
        fs.rename(&staged, path).map_err(|e| Error::io("rename into place", path, e))?;
        sync_parent(fs, &staged)?;
        sync_parent(fs, path)
    }
}
