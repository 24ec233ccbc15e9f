//! The rollback plan, table by table: a value that can be shown, serialized and executed. Making
//! one changes nothing.

use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Env, Result, lossy};
use lithdb_segment::{SegmentId, TableName};
use lithdb_table::truncate::{
    Boundary, Discarded, OutOfOrder, StoppedTable, TableFingerprint, TruncateAt, WalkOutcome,
};
use serde::{Deserialize, Serialize};

use crate::report::{TableReport, lines};
use crate::request::NoMatch;

/// What a rollback would do. Nothing has changed yet; [`execute`](Self::execute) applies it if the
/// database has not changed since.
#[derive(Debug, Serialize)]
pub struct RollbackPlan {
    /// The root directories, root 0 first.
    #[serde(serialize_with = "lossy::paths")]
    pub roots: Vec<PathBuf>,
    /// The random number that identifies the database.
    pub database_id: u64,
    /// The tables, sorted by name.
    pub tables: Vec<TablePlan>,
    #[serde(skip)]
    pub(crate) accept_out_of_order: bool,
    #[serde(skip)]
    pub(crate) all_tables: bool,
    #[serde(skip)]
    pub(crate) env: Env,
}

/// What a rollback would do to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablePlan {
    /// The table.
    pub table: TableName,
    /// What would be done.
    pub action: Action,
    /// The newest record that is kept; `None` if the filter kept none.
    pub boundary: Option<Boundary>,
    /// The records that would be removed.
    pub discarded: Discarded,
    /// Values that are kept although the filter would discard them; `None` if the filter knows no
    /// order.
    pub out_of_order: Option<OutOfOrder>,
    /// The number of segments that would be removed.
    pub segments_removed: u64,
    /// The bytes of their files.
    pub bytes_removed: u64,
    /// The segment that would be truncated: some of its records are removed and others kept.
    #[serde(rename = "segment_cut")]
    pub segment_truncated: Option<SegmentId>,
    /// Identifies what the table must still hold when the plan is executed.
    #[serde(skip)]
    pub(crate) fingerprint: TableFingerprint,
    /// `None` if there is nothing to do.
    #[serde(skip)]
    pub(crate) truncate_at: Option<TruncateAt>,
}

/// What a rollback does to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing: no record is newer than the boundary, or there is no record.
    Nothing,
    /// Removes the records after the boundary.
    #[serde(rename = "cut")] // the name in JSON
    Truncate,
    /// Removes everything.
    Clear,
    /// Nothing, although the filter kept no record: the caller chose [`NoMatch::Keep`].
    Keep,
}

impl TablePlan {
    pub(crate) fn make(
        table: &TableName,
        stopped_table: &StoppedTable,
        walked: WalkOutcome,
        no_match: NoMatch,
    ) -> Result<Self> {
        let mut plan = Self {
            table: table.clone(),
            action: Action::Nothing,
            boundary: walked.boundary.as_ref().map(|point| point.boundary.clone()),
            discarded: Discarded::default(),
            out_of_order: walked.out_of_order,
            segments_removed: 0,
            bytes_removed: 0,
            segment_truncated: None,
            fingerprint: stopped_table.fingerprint(),
            truncate_at: None,
        };
        let last = match walked.boundary {
            _ if walked.discarded.records == 0 => return Ok(plan),
            Some(point) => {
                let segment = point.boundary.position.segment;
                plan.action = Action::Truncate;
                plan.segment_truncated = (!point.ends_segment).then_some(segment);
                plan.truncate_at = Some(TruncateAt::After(point));
                segment
            }
            None if no_match == NoMatch::Clear => {
                plan.action = Action::Clear;
                plan.truncate_at = Some(TruncateAt::Everything);
                SegmentId::NONE
            }
            None => {
                plan.action = Action::Keep;
                return Ok(plan);
            }
        };
        plan.discarded = walked.discarded;
        (plan.segments_removed, plan.bytes_removed) = stopped_table.removed_by_truncation(last)?;
        Ok(plan)
    }
}

impl Action {
    /// The action as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Truncate => "truncate",
            Self::Clear => "clear",
            Self::Keep => "keep",
        }
    }
}

impl fmt::Display for RollbackPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, &self.tables)
    }
}

impl fmt::Display for TablePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TableReport::of(self).fmt(f)?;
        match &self.out_of_order {
            Some(found) if found.values > 0 => found.fmt(f),
            _ => Ok(()),
        }
    }
}
