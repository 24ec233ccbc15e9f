//! A stopped table, as its next read-write open would find it. Nothing here writes. The caller
//! holds the exclusive locks of all roots.

use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::{Result, UnixMillis};
use lithdb_segment::{Context, ReadMode, Segment, SegmentId, SegmentPaths};

use crate::open::chain::{Access, OpenPlan};
use crate::open::inventory::Inventory;
use crate::options::TableOptions;
use crate::setup::TableSetup;
use crate::state::{TableState, read_state};
use lithdb_segment::key_file::KeyFile;

/// A stopped table as read.
#[derive(Debug)]
pub struct StoppedTable {
    pub(super) setup: TableSetup,
    pub(super) state: TableState,
    pub(super) plan: OpenPlan,
    /// All files, including those of segments below the watermark if a collection was interrupted.
    pub(super) inventory: Inventory,
}

/// The content of a table, as far as truncation is concerned: if two are equal, nothing was put or
/// collected in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFingerprint {
    table_id: u64,
    watermark: SegmentId,
    /// Id, revision, end, number of records and running checksum of every segment; the unsealed
    /// one is last.
    segments: Vec<(SegmentId, u32, u64, u64, u32)>,
}

/// A segment to walk through.
#[derive(Clone)]
pub(super) struct WalkSegment {
    pub(super) segment: Arc<Segment>,
    /// The end of its records in the key file.
    pub(super) end: u64,
    /// Number of its key records.
    pub(super) records: u64,
    /// All of it was written no later than this.
    pub(super) written: UnixMillis,
}

impl StoppedTable {
    /// Reads the table as its next read-write open would, and changes nothing.
    ///
    /// # Errors
    /// The errors of an open: damage, missing files, symbolic links.
    pub fn read(setup: &TableSetup) -> Result<Self> {
        let read = || {
            let (env, dirs) = (&setup.env, setup.segment_dirs());
            let state = read_state(&*env.fs, &setup.state_path())?.state;
            let plan = OpenPlan::make(env, &dirs, &state, Access::Write)?;
            let inventory = Inventory::list(&*env.fs, &dirs)?;
            Ok(Self { setup: setup.clone(), state, plan, inventory })
        };
        read().map_err(|e| setup.in_context(&e))
    }

    /// The content of the table, for comparison with a later one.
    pub fn fingerprint(&self) -> TableFingerprint {
        let sealed = self.plan.sealed.iter().map(|sealed| {
            let m = &sealed.metadata;
            (m.segment, m.revision, m.key_end, m.records, m.running)
        });
        let unsealed = self.plan.unsealed.iter().map(|unsealed| {
            let (id, keep) = (unsealed.header.identity.segment, &unsealed.keep);
            (id, 0, keep.key_end, keep.records, keep.running)
        });
        let segments = sealed.chain(unsealed).collect();
        TableFingerprint {
            table_id: self.state.table_id,
            watermark: self.state.watermark,
            segments,
        }
    }

    /// Whether anything was ever collected from this table.
    pub fn has_collected(&self) -> bool {
        self.state.watermark > SegmentId::FIRST
    }

    /// Number of key records.
    pub fn records(&self) -> u64 {
        let sealed = self.plan.sealed.iter().map(|sealed| sealed.metadata.records);
        let unsealed = self.plan.unsealed.iter().map(|unsealed| unsealed.keep.records);
        sealed.chain(unsealed).fold(0, u64::saturating_add)
    }

    /// The number of segments of any kind after `segment`, and the bytes of their files: what a
    /// truncation there removes.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn removed_by_truncation(&self, segment: SegmentId) -> Result<(u64, u64)> {
        let later = self.inventory.segments.iter().filter(|(id, _)| **id > segment);
        later
            .map(|(_, files)| files.bytes(&*self.setup.env.fs))
            .try_fold((0, 0), |(n, sum), bytes| Ok((n + 1, bytes?.saturating_add(sum))))
    }

    /// The highest id of any file.
    pub(super) fn newest(&self) -> SegmentId {
        self.inventory.segments.keys().next_back().copied().unwrap_or_default()
    }

    fn context(&self) -> Arc<Context> {
        self.setup.context(&self.state, &TableOptions::default())
    }

    /// The segments to walk through, newest first.
    pub(super) fn segments(&self) -> Vec<WalkSegment> {
        let (context, now) = (self.context(), self.setup.env.clock.now());
        let unsealed = self.plan.unsealed.iter().map(|unsealed| {
            let keep = &unsealed.keep;
            let (ends, paths) = ((keep.key_end, &*keep.value_ends), unsealed.paths.clone());
            let segment = Segment::unsealed_for_reader(
                &context,
                paths,
                unsealed.header,
                ends,
                ends,
                &unsealed.epochs,
            );
            let (end, records) = (keep.key_end, keep.records);
            WalkSegment { segment: Arc::new(segment), end, records, written: now }
        });
        let sealed = self.plan.sealed.iter().rev().map(|sealed| {
            let metadata = sealed.metadata.clone();
            let (end, records) = (metadata.key_end, metadata.records);
            let (sealed_at, is_certain) = self.state.sealed_at(&metadata);
            let written = metadata.flushed().unwrap_or(if is_certain { sealed_at } else { now });
            let segment = Segment::sealed(&context, sealed.paths.clone(), sealed.header, metadata);
            WalkSegment { segment: Arc::new(segment), end, records, written }
        });
        unsealed.chain(sealed).collect()
    }

    /// The key file of a collected segment, up to `end`.
    pub(super) fn collected(&self, file: &KeyFile, end: u64, written: UnixMillis) -> WalkSegment {
        let ends: (u64, &[u64]) = (end, &[]);
        let (keys, metadata) = (file.path.clone(), PathBuf::new());
        let paths = SegmentPaths { keys, values: Vec::new(), metadata };
        // The file may be damaged, so it is not mapped: a page that cannot be read must be an
        // error, not a signal.
        let setup = TableSetup { read_mode: ReadMode::Pread, ..self.setup.clone() };
        let context = setup.context(&self.state, &TableOptions::default());
        let segment = Segment::unsealed_for_reader(&context, paths, file.header, ends, ends, &[]);
        WalkSegment { segment: Arc::new(segment), end, records: 0, written }
    }
}
