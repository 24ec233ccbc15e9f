//! What a rollback would do, table by table: a value that can be shown, compared and executed.

use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Env, Result, UnixMillis};
use lithdb_segment::{Position, SegmentId, TableName};
use lithdb_table::cut::{self, Discarded, Shape, Survey, Walked};
use serde::{Deserialize, Serialize};

use crate::request::NoMatch;
use crate::text;

/// What a rollback would do. Nothing has been changed; [`execute`](Self::execute) does it, if the database still holds what
/// it held when this was made.
#[derive(Debug, Serialize)]
pub struct RollbackPlan {
    /// The root directories, root 0 first.
    #[serde(serialize_with = "text::paths")]
    pub roots: Vec<PathBuf>,
    /// The random number that tells the database from all others.
    pub database_id: u64,
    /// The tables, in the order of their names.
    pub tables: Vec<TablePlan>,
    #[serde(skip)]
    pub(crate) parts: Vec<Part>,
    #[serde(skip)]
    pub(crate) accept_out_of_order: bool,
    #[serde(skip)]
    pub(crate) all_tables: bool,
    #[serde(skip)]
    pub(crate) env: Env,
}

/// What would be done to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablePlan {
    /// The table.
    pub table: TableName,
    /// What would be done.
    pub action: Action,
    /// The newest record that stays; `None` if the filter kept none.
    pub boundary: Option<Boundary>,
    /// What would go.
    pub discarded: Discarded,
    /// What would stay although the filter would discard it; `None` if the filter knows no order.
    pub out_of_order: Option<OutOfOrder>,
    /// The segments that would be removed.
    pub segments_removed: u64,
    /// Bytes of their files.
    pub bytes_removed: u64,
    /// The segment that would be cut: records go from it and others stay.
    pub segment_cut: Option<SegmentId>,
}

/// What is done to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing: no record is newer than the boundary, or there is no record.
    Nothing,
    /// What is newer than the boundary goes.
    Cut,
    /// Everything goes.
    Clear,
    /// Nothing, although the filter kept no record: as the caller said.
    Keep,
}

/// The newest record that stays, as the filter saw it. Its whole group stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boundary {
    /// The key.
    #[serde(serialize_with = "text::key")]
    pub key: Vec<u8>,
    /// Where its record stands.
    pub position: Position,
    /// When it had certainly been put.
    pub written_before: UnixMillis,
}

/// A key, and where its record stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyAt {
    /// The key.
    #[serde(serialize_with = "text::key")]
    pub key: Vec<u8>,
    /// Where its record stands.
    pub position: Position,
}

/// Values that stay although the filter would discard them, because they were put before something that it keeps: of a
/// chain that was reorganized, the old blocks above the height to roll back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutOfOrder {
    /// How many there are.
    pub values: u64,
    /// The primary keys of the newest of them, newest first; five at the most.
    pub newest: Vec<KeyAt>,
    /// The newest primary key that is older than all of them: a rollback to its position leaves none.
    pub before: Option<KeyAt>,
}

impl OutOfOrder {
    fn new(found: cut::OutOfOrder) -> Self {
        let at = |(key, position)| KeyAt { key, position };
        let newest = found.newest.into_iter().map(at).collect();
        Self { values: found.values, newest, before: found.before.map(at) }
    }
}

/// What executing needs to know of a table.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) table: TableName,
    pub(crate) shape: Shape,
    pub(crate) cut: PlannedCut,
}

#[derive(Debug)]
pub(crate) enum PlannedCut {
    Nothing,
    Behind(cut::Boundary),
    Everything,
}

impl TablePlan {
    pub(crate) fn make(
        table: &TableName,
        survey: &Survey,
        walked: Walked,
        no_match: NoMatch,
    ) -> Result<(Self, PlannedCut)> {
        let mut plan = Self {
            table: table.clone(),
            action: Action::Nothing,
            boundary: None,
            discarded: Discarded::default(),
            out_of_order: walked.out_of_order.map(OutOfOrder::new),
            segments_removed: 0,
            bytes_removed: 0,
            segment_cut: None,
        };
        let Walked { boundary, discarded, .. } = walked;
        let cut = match boundary {
            Some(boundary) => {
                plan.boundary = Some(Boundary {
                    key: boundary.key.clone(),
                    position: boundary.position,
                    written_before: boundary.written_before,
                });
                if discarded.records == 0 {
                    return Ok((plan, PlannedCut::Nothing));
                }
                plan.action = Action::Cut;
                let segment = boundary.position.segment;
                (plan.segments_removed, plan.bytes_removed) = survey.behind(segment)?;
                plan.segment_cut = (!boundary.ends_segment()).then_some(segment);
                PlannedCut::Behind(boundary)
            }
            None if survey.records() == 0 => return Ok((plan, PlannedCut::Nothing)),
            None if no_match == NoMatch::Clear => {
                plan.action = Action::Clear;
                (plan.segments_removed, plan.bytes_removed) = survey.behind(SegmentId::NONE)?;
                PlannedCut::Everything
            }
            None => {
                plan.action = Action::Keep;
                return Ok((plan, PlannedCut::Nothing));
            }
        };
        plan.discarded = discarded;
        Ok((plan, cut))
    }
}

impl Action {
    /// The action as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Cut => "cut",
            Self::Clear => "clear",
            Self::Keep => "keep",
        }
    }
}

impl fmt::Display for KeyAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", text::short_key(&self.key), self.position)
    }
}

impl fmt::Display for RollbackPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes = self.tables.iter().map(|plan| Outcome {
            table: &plan.table,
            action: plan.action,
            boundary: plan.boundary.as_ref(),
            discarded: plan.discarded,
            segments_removed: Some(plan.segments_removed),
            segment_cut: plan.segment_cut,
            out_of_order: plan.out_of_order.as_ref(),
        });
        lines(f, outcomes)
    }
}

/// What is, or was, done to a table, for people.
pub(crate) struct Outcome<'a> {
    pub(crate) table: &'a TableName,
    pub(crate) action: Action,
    pub(crate) boundary: Option<&'a Boundary>,
    pub(crate) discarded: Discarded,
    /// `None` if that is not known yet.
    pub(crate) segments_removed: Option<u64>,
    pub(crate) segment_cut: Option<SegmentId>,
    pub(crate) out_of_order: Option<&'a OutOfOrder>,
}

/// Each on a line of its own, and no line behind the last.
pub(crate) fn lines(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = impl fmt::Display>,
) -> fmt::Result {
    items.enumerate().try_for_each(|(n, item)| match n {
        0 => write!(f, "{item}"),
        _ => write!(f, "\n{item}"),
    })
}

/// Lines of less than 80 columns, unless a table's name is very long.
impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}: {}", self.table, self.action.as_str())?;
        if self.action == Action::Keep {
            f.write_str(", although nothing in it is to be kept")?;
        }
        if let Some(Boundary { key, position, written_before }) = self.boundary {
            write!(f, "\n  last key kept  {} at {position}", text::short_key(key))?;
            write!(f, "\n  written        no later than {}", text::time(*written_before))?;
        }
        if self.discarded.records > 0 {
            let Discarded { records, values, bytes } = self.discarded;
            write!(f, "\n  removed        keys: {records}, values: {values}, bytes: {bytes}")?;
            if let Some(removed) = self.segments_removed {
                write!(f, "\n  segments       removed: {removed}")?;
            }
            if let Some(cut) = self.segment_cut {
                write!(f, "\n  segment cut    {cut}")?;
            }
        }
        match self.out_of_order {
            Some(found) if found.values > 0 => found.fmt(f),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  out of order   values that stay, beyond the point: {}", self.values)?;
        for key in &self.newest {
            write!(f, "\n                 {key}")?;
        }
        if self.values > self.newest.len() as u64 {
            write!(f, "\n                 … and older ones")?;
        }
        match &self.before {
            Some(before) => write!(f, "\n  before them    {before}"),
            None => Ok(()),
        }
    }
}
