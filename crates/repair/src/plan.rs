//! What a repair would do, and what would be given up. A plan changes nothing.

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
    /// The key file is whole: its metadata is written anew.
    RebuildMetadata,
    /// Records and metadata hold: value files get a new header, or are created anew where nothing was in them.
    RestoreValueFiles,
    /// The key file is written anew with the whole groups alone.
    Salvage,
    /// Nothing is left: an empty sealed segment takes the place, so that the chain holds.
    Placeholder,
    /// Nothing is left of the oldest segment: the watermark is raised above it.
    GiveUp,
}

/// Records between two positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PositionRange {
    /// The first that is affected.
    pub from: Position,
    /// The first that is not.
    pub to: Position,
}

/// What is done to one segment, and what is given up with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentRepair {
    /// The segment.
    pub segment: SegmentId,
    /// What is done.
    pub action: Action,
    /// Why.
    pub reasons: Vec<Finding>,
    /// Values that are kept.
    pub kept_values: u64,
    /// Key records that are kept.
    pub kept_keys: u64,
    /// Key records that are given up; `None` if nothing says how many.
    pub lost_keys: Option<u64>,
    /// Values that are given up; `None` if nothing says how many.
    pub lost_values: Option<u64>,
    /// Bytes that are given up, as far as is known; `None` if nothing says how many.
    pub lost_bytes: Option<u64>,
    /// Up to five of the keys.
    pub sample_keys: Vec<String>,
    /// Where they stood, if not the whole segment is affected.
    pub lost_at: Vec<PositionRange>,
    /// An unsealed segment that cannot go on: it is sealed, and this one takes over.
    pub new_successor: Option<SegmentId>,
}

/// A plan to repair a table. Empty if opening needs no help.
#[derive(Debug, Serialize)]
pub struct RepairPlan {
    /// The table.
    pub table: TableName,
    /// What the user should know beside the losses.
    pub warnings: Vec<String>,
    /// Directories that are gone and are created anew. What was in them is lost.
    #[serde(serialize_with = "crate::lossy::paths")]
    pub creates_dirs: Vec<PathBuf>,
    /// `table.state` is written anew: as it was if a slot holds, otherwise from what the segments say.
    pub rebuilds_state: bool,
    /// The watermark is raised to this segment.
    pub raises_watermark: Option<SegmentId>,
    /// Files off the chain that are moved aside.
    #[serde(serialize_with = "crate::lossy::paths")]
    pub strays: Vec<PathBuf>,
    /// What is done to segments, oldest first. Others stay as they are.
    pub segments: Vec<SegmentRepair>,
    #[serde(skip)]
    pub(crate) work: Work,
}

/// What applying a plan goes by.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) table_state: TableState,
    /// Nobody knows with which seed keys were hashed.
    pub(crate) is_state_lost: bool,
    /// What is there agrees on all roots, to the last byte.
    pub(crate) is_certain: bool,
    /// All ids that were ever seen are below.
    pub(crate) id_floor: SegmentId,
    /// Segments of which nothing is left, and nothing is before them.
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

/// Examines the table and plans what it takes to make it open again. Reads every byte; changes nothing. The caller
/// holds the exclusive lock of every root.
///
/// # Errors
/// What no repair can decide: a file on two roots, files of another format version, a chain that forks; a disk that
/// does not read.
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
    let ChainLinks { table_state, slots, members: found, strays, absent_dirs, .. } = chain_links;
    let is_certain = strays.is_empty() && !examined.iter().any(|examined| examined.ends_differ);
    let is_state_lost = matches!(slots, StateSlots::Lost(_));
    let (given_up, members) = (Vec::new(), Vec::new());
    let mut plan = RepairPlan {
        table: setup.name.clone(),
        warnings: Vec::new(),
        creates_dirs: absent_dirs,
        rebuilds_state: matches!(slots, StateSlots::Lost(_) | StateSlots::WrongLength(_)),
        raises_watermark: None,
        strays: Vec::new(),
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
            plan.warnings.push(format!("{}; a slot holds, nothing of it is lost", error.message()));
        }
        StateSlots::BothValid | StateSlots::OneValid(_) => {}
    }
    let is_refused = strays.iter().any(|orphan| orphan.is_refused);
    let files: Vec<_> =
        strays.iter().flat_map(|orphan| orphan.found.files.all()).cloned().collect();
    if is_refused || !plan.is_empty() {
        plan.strays = files;
        return Ok(plan);
    }
    // Where nothing of the table is damaged, only what lies beside it can keep it from opening.
    let opening =
        OpenPlan::make(&setup.env, &setup.segment_dirs(), &plan.work.table_state, Access::Write);
    if let Err(error) = opening {
        if files.is_empty() {
            return Err(error);
        }
        plan.warnings.push(format!("opening says: {}", error.message()));
        plan.strays = files;
    }
    Ok(plan)
}

fn decide(found: &SegmentHeaders, examined: &Examined, is_last: bool) -> Option<Action> {
    if !examined.is_damaged() {
        return None;
    }
    let Some(readable) = &examined.readable else { return Some(Action::Placeholder) };
    let is_tail = is_last && found.metadata.is_none();
    Some(match (readable.keys_valid, readable.metadata_valid || is_tail) {
        (false, _) => Action::Salvage,
        (true, false) => Action::RebuildMetadata,
        // The metadata that an interrupted repair has left must go: it is sealed with its own.
        (true, true) if found.interrupted_repair.is_some() => Action::Salvage,
        (true, true) => Action::RestoreValueFiles,
    })
}

impl RepairPlan {
    fn add(&mut self, found: SegmentHeaders, examined: Examined, is_last: bool) {
        let work = &mut self.work;
        let mut action = decide(&found, &examined, is_last);
        if action == Some(Action::Placeholder) && work.members.is_empty() {
            action = Some(Action::GiveUp);
        }
        let is_sealed_now =
            matches!(action, Some(Action::Salvage | Action::RebuildMetadata | Action::Placeholder));
        let new_successor = (is_last && is_sealed_now).then_some(work.id_floor);
        if let Some(action) = action {
            self.segments.push(describe(&examined, action, new_successor));
        }
        match action {
            Some(Action::GiveUp) => work.given_up.push(found),
            _ => work.members.push(Member { found, examined, action, new_successor }),
        }
    }

    fn warn_of_lost_state(&mut self, error: &Error) {
        self.warnings.push(format!("the table's state is lost: {}", error.message()));
        let follows = [
            "how far the newest segment was acknowledged is not known any more: what is lost behind its last mark, or with segments behind it, is in no count",
            "its TTL is not known any more and will be none; set it again",
            "whether the application collects with a filter is not known any more: until it has opened the table again with its filter, others collect without one",
            "segments that had expired and whose files were still there come back",
            "keys are hashed with a new seed: a keymap on disk is rebuilt",
        ];
        self.warnings.extend(follows.map(str::to_owned));
    }

    /// Nothing to repair: opening needs no help.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
            && !self.rebuilds_state
            && self.strays.is_empty()
            && self.creates_dirs.is_empty()
    }

    /// Whether it gives nothing up: no key, no value, no setting, and no file that may have been acknowledged goes aside.
    pub fn is_lossless(&self) -> bool {
        let keeps_all = (self.lost_keys(), self.lost_bytes()) == (Some(0), Some(0));
        keeps_all
            && !self.work.is_state_lost
            && self.strays.is_empty()
            && self.creates_dirs.is_empty()
    }

    /// Whether the files of all roots agree to the last byte, so that none of them is older than the others and none has more:
    /// as after a clean close. Short of that, what was put last may be lost, and nothing shows it.
    pub fn is_certain(&self) -> bool {
        self.is_lossless() && self.work.is_certain
    }

    /// Key records that would be given up; `None` if nothing says how many.
    pub fn lost_keys(&self) -> Option<u64> {
        sum(self.segments.iter().map(|segment| segment.lost_keys))
    }

    /// Bytes that would be given up, as far as is known; `None` if nothing says how many.
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
            Self::RebuildMetadata => "write its metadata anew",
            Self::RestoreValueFiles => "restore the headers of its value files",
            Self::Salvage => "write its key file anew with the values that are whole",
            Self::Placeholder => "put an empty sealed segment in its place",
            Self::GiveUp => "raise the watermark above it",
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
            write!(f, ", {values} and {bytes} lost as far as is known")?;
        }
        if let Some(successor) = self.new_successor {
            write!(f, "; segment {successor} goes on")?;
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
            true => write!(f, "table {table}: a repair loses nothing")?,
            false => write!(f, "table {table}: a repair gives up {keys} and {bytes}")?,
        }
        for dir in &self.creates_dirs {
            write!(f, "\n  {} is gone, and created anew", dir.display())?;
        }
        if self.rebuilds_state {
            write!(f, "\n  table.state is written anew")?;
        }
        if let Some(watermark) = self.raises_watermark {
            write!(f, "\n  the watermark is raised to segment {watermark}")?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning: {warning}")?;
        }
        for orphan in &self.strays {
            write!(f, "\n  {} is moved aside", orphan.display())?;
        }
        for segment in &self.segments {
            write!(f, "\n  {segment}")?;
        }
        Ok(())
    }
}
