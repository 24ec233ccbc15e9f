//! Applies a repair plan. Together with `repair_segment` and `rewrite`, the only code of the crate
//! that writes.
//!
//! Segments are repaired from the oldest to the newest, because each chain record describes the
//! end of the predecessor. The order within a segment: quarantine the damaged files, durably;
//! create a new successor if one is needed, durably; write metadata that no opening accepts,
//! durably (see `interrupted_repair`); rename the new key file into place; then value files; then
//! the final metadata. A new plan finds what is left to do, so a repair can be interrupted at any
//! point and restarted; in between, opening the table is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Error, Result, sync_parent};
use lithdb_segment::{Metadata, SegmentId, TableName};
use serde::Serialize;

use crate::counted;
use crate::plan::{RepairPlan, Work};
use crate::repair_segment::SegmentRepairer;
use lithdb_segment::quarantine::Quarantine;
use lithdb_table::TableOptions;
use lithdb_table::TableSetup;
use lithdb_table::open::chain::{Access, OpenPlan};
use lithdb_table::state::StateFile;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// The table.
    pub table: TableName,
    /// How many segments were salvaged, rebuilt, replaced or dropped.
    pub segments: usize,
    /// Whether `table.state` was rewritten.
    pub rebuilt_state: bool,
    /// Key records that were lost; `None` if unknown.
    pub lost_keys: Option<u64>,
    /// Bytes that were lost, as far as known; `None` if unknown.
    pub lost_bytes: Option<u64>,
    /// How many files were quarantined.
    #[serde(rename = "kept_files")]
    pub quarantined_files: usize,
    /// The quarantine directories.
    #[serde(rename = "kept_in", serialize_with = "crate::lossy::paths")]
    pub quarantine_dirs: Vec<PathBuf>,
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            segments,
            rebuilt_state,
            lost_keys,
            lost_bytes,
            quarantined_files,
            quarantine_dirs,
        } = self;
        let state = if *rebuilt_state { "table.state and " } else { "" };
        write!(
            f,
            "table {table}: {state}{} repaired, {} and {} lost; {} quarantined",
            counted(*segments as u64, "segment"),
            counted(*lost_keys, "key"),
            counted(*lost_bytes, "byte"),
            counted(*quarantined_files as u64, "file"),
        )?;
        for dir in quarantine_dirs {
            write!(f, "\n  in {}", dir.display())?;
        }
        Ok(())
    }
}

/// Applies the plan. The caller has held the exclusive locks of all roots since planning.
/// Afterwards the table opens. After a failure or an interruption, plan again; only what the plan
/// named is lost.
pub fn apply(plan: RepairPlan, setup: &TableSetup) -> Result<RepairReport> {
    plan.apply_in_order(setup).map_err(|e| setup.in_context(&e))
}

impl RepairPlan {
    fn apply_in_order(self, setup: &TableSetup) -> Result<RepairReport> {
        let mut report = RepairReport {
            table: self.table.clone(),
            segments: self.segments.len(),
            rebuilt_state: self.rebuilds_state,
            lost_keys: self.lost_keys(),
            lost_bytes: self.lost_bytes(),
            quarantined_files: 0,
            quarantine_dirs: Vec::new(),
        };
        if self.is_empty() {
            return Ok(report);
        }
        let env = &setup.env;
        for dir in &self.creates_dirs {
            env.fs.create_dir(dir).map_err(|e| Error::io("create directory", dir, e))?;
            sync_parent(&*env.fs, dir)?;
        }
        // The directory entries that the plan relies on may be in the page cache only.
        for dir in setup.dirs.iter().chain(&setup.segment_dirs()) {
            env.fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
        }
        let mut quarantine = Quarantine::new(env, &setup.dirs)?;
        let state = self.state(setup, &mut quarantine)?;
        let Self { orphans, work, raises_watermark, .. } = self;
        let Work { id_floor, given_up, members, .. } = work;
        let lost: BTreeSet<SegmentId> = given_up.iter().map(|found| found.id).collect();
        state.update(|state| {
            // The id of a quarantined segment is never used again.
            if !orphans.is_empty() || members.is_empty() {
                state.next_id_floor = state.next_id_floor.max(id_floor);
            }
            state.highest_id = state.highest_id.max(id_floor);
            state.closed_cleanly = false;
            state.recorded_end.take_if(|end| lost.contains(&end.segment));
        })?;
        quarantine.move_files(&orphans)?;
        quarantine.move_files(given_up.iter().flat_map(|found| found.files.all()))?;
        state.update(|state| {
            if let Some(watermark) = raises_watermark {
                state.watermark = state.watermark.max(watermark);
                state.next_id_floor = state.next_id_floor.max(watermark);
            }
            state.empty |= members.is_empty();
        })?;
        let context = setup.context(&state.get(), &TableOptions::new());
        let latest = state.get().latest_time;
        let mut repairer = SegmentRepairer { setup, context, quarantine, latest };
        let mut before: Option<Metadata> = None;
        let mut sealed = BTreeSet::new();
        for (n, member) in members.iter().enumerate() {
            let next = members.get(n + 1).map(|next| next.found.id);
            before = repairer.repair_segment(member, before.as_ref(), next)?;
            sealed.extend(before.as_ref().map(|_| member.found.id));
        }
        // The metadata of a sealed segment supersedes its recorded end in the state.
        state.update(|state| {
            state.recorded_end.take_if(|end| sealed.contains(&end.segment));
        })?;
        OpenPlan::make(env, &setup.segment_dirs(), &state.get(), Access::Write)?;
        report.quarantined_files = repairer.quarantine.files;
        report.quarantine_dirs = repairer.quarantine.dirs.into_iter().collect();
        Ok(report)
    }

    /// Opens the state file, after rewriting it if the plan says so.
    fn state(&self, setup: &TableSetup, quarantine: &mut Quarantine<'_>) -> Result<StateFile> {
        let path = setup.state_path();
        let (env, fs) = (&setup.env, &*setup.env.fs);
        if self.rebuilds_state {
            quarantine.link([&path])?;
            let mut state = self.work.table_state.clone();
            if self.work.is_state_lost {
                state.hash_seed = env.random_u64()?;
            }
            if state.table_id == 0 {
                state.table_id = env.random_u64()?; // no file has one
            }
            StateFile::create(fs, &path, &state)?;
        }
        StateFile::open(&env.fs, &path)
    }
}
