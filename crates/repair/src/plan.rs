//! Repair plans: what a repair would do to a table, and what would be lost. Planning reads every
//! byte and changes nothing; `apply` carries a plan out.

use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::{Position, SegmentId, TableName};
use serde::Serialize;

use crate::chain_links::ChainLinks;
use crate::examine::{Examined, examine};
use crate::finding::{Finding, show_samples};
use crate::losses::sum;
use crate::segment_headers::SegmentHeaders;
use crate::state_slots::StateSlots;
use crate::{Meter, Progress, counted};
use lithdb_table::TableSetup;
use lithdb_table::open::chain::{Access, OpenPlan};
use lithdb_table::state::{TableState, next_id};

/// What is done to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The key file is whole: rebuild its metadata.
    RebuildMetadata,
    /// Records and metadata are valid: write new headers of value files, or create value files
    /// that held nothing.
    RestoreValueFiles,
    /// Write a new key file with the whole groups only.
    Salvage,
    /// Nothing is left: replace the segment with an empty sealed one, so that the chain stays
    /// linked.
    Placeholder,
    /// Nothing is left of the oldest segment: raise the watermark above it.
    #[serde(rename = "give_up")]
    RaiseWatermark,
}

/// Records between two positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PositionRange {
    /// The first affected position.
    pub from: Position,
    /// The first position after the range.
    pub to: Position,
}

/// What a repair does to one segment, and what is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentRepair {
    /// The segment.
    pub segment: SegmentId,
    /// The action.
    pub action: Action,
    /// The damage that requires it.
    pub reasons: Vec<Finding>,
    /// Values that are kept.
    pub kept_values: u64,
    /// Key records that are kept.
    pub kept_keys: u64,
    /// Key records that are lost; `None` if unknown.
    pub lost_keys: Option<u64>,
    /// Values that are lost; `None` if unknown.
    pub lost_values: Option<u64>,
    /// Bytes that are lost, as far as known; `None` if unknown.
    pub lost_bytes: Option<u64>,
    /// Up to five of the lost keys.
    pub sample_keys: Vec<String>,
    /// The positions of the lost records, unless the whole segment is affected.
    pub lost_at: Vec<PositionRange>,
    /// Set for an unsealed segment that cannot be continued: it is sealed, and this segment
    /// succeeds it.
    pub new_successor: Option<SegmentId>,
}

/// A plan to repair a table. Empty if the table opens without repair.
#[derive(Debug, Serialize)]
pub struct RepairPlan {
    /// The table.
    pub table: TableName,
    /// What the user should know besides the losses.
    pub warnings: Vec<String>,
    /// Missing directories that are created again. What was in them is lost.
    #[serde(serialize_with = "crate::lossy::paths")]
    pub creates_dirs: Vec<PathBuf>,
    /// `table.state` is rewritten: unchanged if a slot is valid, otherwise rebuilt from the
    /// segments.
    pub rebuilds_state: bool,
    /// The watermark is raised to this segment.
    pub raises_watermark: Option<SegmentId>,
    /// Orphan files, not on the chain, that are quarantined.
    #[serde(rename = "strays", serialize_with = "crate::lossy::paths")]
    pub orphans: Vec<PathBuf>,
    /// What is done to segments, oldest first. All others are left as they are.
    pub segments: Vec<SegmentRepair>,
    #[serde(skip)]
    pub(crate) work: Work,
}

/// What `apply` works from.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) table_state: TableState,
    /// The table state is lost, and with it the seed with which keys were hashed.
    pub(crate) is_state_lost: bool,
    /// The files of all roots agree, to the last byte.
    pub(crate) is_certain: bool,
    /// Greater than every id ever used.
    pub(crate) id_floor: SegmentId,
    /// Segments of which nothing is left, and no older segment remains.
    pub(crate) given_up: Vec<SegmentHeaders>,
    /// The others, oldest first.
    pub(crate) members: Vec<Member>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) found: SegmentHeaders,
    pub(crate) examined: Examined,
    pub(crate) action: Option<Action>,
    pub(crate) new_successor: Option<SegmentId>,
}

/// Examines the table and plans the repair after which it opens. Reads every byte; changes
/// nothing. The caller holds the exclusive lock of every root.
///
/// # Errors
/// Cases that repair cannot resolve: a file on two roots, files of another format version, a chain
/// that forks. Read errors.
pub fn plan_repair(setup: &TableSetup, progress: &mut dyn FnMut(Progress)) -> Result<RepairPlan> {
    plan(setup, progress).map_err(|e| setup.in_context(&e))
}

fn plan(setup: &TableSetup, progress: &mut dyn FnMut(Progress)) -> Result<RepairPlan> {
    let chain_links = ChainLinks::load(setup)?;
    for found in &chain_links.members {
        found.require_writable(&*setup.env.fs)?;
    }
    let mut meter = Meter::new(progress, chain_links.bytes(setup));
    let members = 0..chain_links.members.len();
    let examined = members.map(|index| examine(setup, &chain_links, index, &mut meter));
    let examined = examined.collect::<Result<Vec<_>>>()?;
    meter.finish();
    if let Some(unrepairable) = examined.iter().find_map(|examined| examined.unrepairable.as_ref())
    {
        return Err(Error::at(ErrorKind::Corrupt, &unrepairable.path, &unrepairable.what));
    }
    let newest =
        chain_links.highest.max(chain_links.members.last().map_or(SegmentId::NONE, |m| m.id));
    let id_floor = next_id(newest, chain_links.table_state.next_id_floor)?;
    let ChainLinks { table_state, slots, members: found, orphans, absent_dirs, .. } = chain_links;
    let is_certain = orphans.is_empty() && !examined.iter().any(|examined| examined.ends_differ);
    let is_state_lost = matches!(slots, StateSlots::Lost(_));
    let (given_up, members) = (Vec::new(), Vec::new());
    let mut plan = RepairPlan {
        table: setup.name.clone(),
        warnings: Vec::new(),
        creates_dirs: absent_dirs,
        rebuilds_state: matches!(slots, StateSlots::Lost(_) | StateSlots::WrongLength(_)),
        raises_watermark: None,
        orphans: Vec::new(),
        segments: Vec::new(),
        work: Work { table_state, is_state_lost, is_certain, id_floor, given_up, members },
    };
    let last = found.len().checked_sub(1);
    for (n, (found, examined)) in found.into_iter().zip(examined).enumerate() {
        plan.add(found, examined, Some(n) == last);
    }
    if !plan.work.given_up.is_empty() {
        let first = plan.work.members.first();
        plan.raises_watermark = Some(first.map_or(id_floor, |member| member.found.id));
    }
    match &slots {
        StateSlots::Lost(error) => plan.warn_of_lost_state(error),
        StateSlots::WrongLength(error) => {
            plan.warnings.push(format!("{}; one slot is valid, no state is lost", error.message()));
        }
        StateSlots::BothValid | StateSlots::OneValid(_) => {}
    }
    let is_refused = orphans.iter().any(|orphan| orphan.is_refused);
    let files: Vec<_> =
        orphans.iter().flat_map(|orphan| orphan.found.files.all()).cloned().collect();
    if is_refused || !plan.is_empty() {
        plan.orphans = files;
        return Ok(plan);
    }
    // With an undamaged chain, only orphan files can prevent opening.
    let opening =
        OpenPlan::make(&setup.env, &setup.segment_dirs(), &plan.work.table_state, Access::Write);
    if let Err(error) = opening {
        if files.is_empty() {
            return Err(error);
        }
        plan.warnings.push(format!("opening fails: {}", error.message()));
        plan.orphans = files;
    }
    Ok(plan)
}

fn decide(found: &SegmentHeaders, examined: &Examined, is_last: bool) -> Option<Action> {
    if !examined.is_damaged() {
        return None;
    }
    let Some(readable) = &examined.readable else { return Some(Action::Placeholder) };
    let is_unsealed = is_last && found.metadata.is_none();
    Some(match (readable.keys_valid, readable.metadata_valid || is_unsealed) {
        (false, _) => Action::Salvage,
        (true, false) => Action::RebuildMetadata,
        // Replaces the metadata that an interrupted repair left, too: salvage writes its own.
        (true, true) if found.interrupted_repair.is_some() => Action::Salvage,
        (true, true) => Action::RestoreValueFiles,
    })
}

impl RepairPlan {
    fn add(&mut self, found: SegmentHeaders, examined: Examined, is_last: bool) {
        let work = &mut self.work;
        let mut action = decide(&found, &examined, is_last);
        if action == Some(Action::Placeholder) && work.members.is_empty() {
            action = Some(Action::RaiseWatermark);
        }
        let is_sealed_now =
            matches!(action, Some(Action::Salvage | Action::RebuildMetadata | Action::Placeholder));
        let new_successor = (is_last && is_sealed_now).then_some(work.id_floor);
        if let Some(action) = action {
            self.segments.push(describe(&examined, action, new_successor));
        }
        match action {
            Some(Action::RaiseWatermark) => work.given_up.push(found),
            _ => work.members.push(Member { found, examined, action, new_successor }),
        }
    }

    fn warn_of_lost_state(&mut self, error: &Error) {
        self.warnings.push(format!("the table state is lost: {}", error.message()));
        let follows = [
            "the durable end of the newest segment is unknown: losses after its last mark, or in \
             segments after it, are not counted",
            "the TTL is lost: the table keeps everything until it is set again",
            "it is unknown whether the application collects with a filter: until it opens the \
             table with its filter again, others collect without one",
            "expired segments whose files still exist become readable again",
            "keys are hashed with a new seed: a keymap on disk is rebuilt",
        ];
        self.warnings.extend(follows.map(str::to_owned));
    }

    /// Whether there is nothing to repair: the table opens as it is.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
            && !self.rebuilds_state
            && self.orphans.is_empty()
            && self.creates_dirs.is_empty()
    }

    /// Whether the repair loses nothing: no key, no value and no setting, and it quarantines no
    /// file that may have been acknowledged.
    pub fn is_lossless(&self) -> bool {
        let keeps_all = (self.lost_keys(), self.lost_bytes()) == (Some(0), Some(0));
        keeps_all
            && !self.work.is_state_lost
            && self.orphans.is_empty()
            && self.creates_dirs.is_empty()
    }

    /// Whether the repair is lossless and the files of all roots agree to the last byte, as after
    /// a clean close: no root is older than the others or has more data. Otherwise the latest puts
    /// may be lost undetected.
    pub fn is_certain(&self) -> bool {
        self.is_lossless() && self.work.is_certain
    }

    /// Key records that would be lost; `None` if unknown.
    pub fn lost_keys(&self) -> Option<u64> {
        sum(self.segments.iter().map(|segment| segment.lost_keys))
    }

    /// Bytes that would be lost, as far as known; `None` if unknown.
    pub fn lost_bytes(&self) -> Option<u64> {
        sum(self.segments.iter().map(|segment| segment.lost_bytes))
    }
}

fn describe(
    examined: &Examined,
    action: Action,
    new_successor: Option<SegmentId>,
) -> SegmentRepair {
    let at = |offset: u64| Position::new(examined.id, offset as u32);
    let ranges = examined.losses.ranges.iter();
    SegmentRepair {
        segment: examined.id,
        action,
        reasons: examined.findings.iter().filter(|finding| finding.is_damage()).cloned().collect(),
        kept_values: examined.values,
        kept_keys: examined.records,
        lost_keys: examined.lost_keys,
        lost_values: examined.lost_values,
        lost_bytes: examined.lost_bytes,
        sample_keys: examined.losses.sample_keys.clone(),
        lost_at: ranges.map(|r| PositionRange { from: at(r.start), to: at(r.end) }).collect(),
        new_successor,
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RebuildMetadata => "rebuild its metadata",
            Self::RestoreValueFiles => "restore the headers of its value files",
            Self::Salvage => "salvage its intact groups into a new key file",
            Self::Placeholder => "replace it with an empty sealed segment",
            Self::RaiseWatermark => "raise the watermark above it",
        })
    }
}

impl fmt::Display for SegmentRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, action, lost_keys, lost_values, lost_bytes, kept_keys, .. } = self;
        write!(f, "segment {segment}: {action}: {} kept, ", counted(*kept_keys, "key"))?;
        match lost_keys {
            Some(lost) => write!(f, "{lost} lost")?,
            None => f.write_str("an unknown number lost")?,
        }
        show_samples(f, &self.sample_keys, *lost_keys)?;
        if (*lost_keys, *lost_bytes) != (Some(0), Some(0)) {
            let (values, bytes) = (counted(*lost_values, "value"), counted(*lost_bytes, "byte"));
            write!(f, ", {values} and {bytes} lost as far as known")?;
        }
        if let Some(successor) = self.new_successor {
            write!(f, "; segment {successor} succeeds it")?;
        }
        const MOST: usize = 8;
        for PositionRange { from, to } in self.lost_at.iter().take(MOST) {
            write!(f, "\n    from {from} to {to}")?;
        }
        if self.lost_at.len() > MOST {
            write!(f, "\n    and {} more ranges", self.lost_at.len() - MOST)?;
        }
        for reason in &self.reasons {
            write!(f, "\n    {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &self.table;
        if self.is_empty() {
            return write!(f, "table {table}: nothing to repair");
        }
        let (keys, bytes) = (counted(self.lost_keys(), "key"), counted(self.lost_bytes(), "byte"));
        match self.is_lossless() {
            true => write!(f, "table {table}: the repair is lossless")?,
            false => write!(f, "table {table}: the repair loses {keys} and {bytes}")?,
        }
        for dir in &self.creates_dirs {
            write!(f, "\n  {} is missing and is created again", dir.display())?;
        }
        if self.rebuilds_state {
            write!(f, "\n  table.state is rebuilt")?;
        }
        if let Some(watermark) = self.raises_watermark {
            write!(f, "\n  the watermark is raised to segment {watermark}")?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning: {warning}")?;
        }
        for orphan in &self.orphans {
            write!(f, "\n  {} is quarantined", orphan.display())?;
        }
        for segment in &self.segments {
            write!(f, "\n  {segment}")?;
        }
        Ok(())
    }
}
