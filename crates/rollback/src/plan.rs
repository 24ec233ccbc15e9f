//! What a rollback would do, table by table: a value that can be shown, compared and executed.

use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Env, UnixMillis};
use lithdb_segment::{Position, SegmentId, TableName};
use lithdb_table::cut::{self, Discarded, Shape, Survey, Walked};
use serde::{Deserialize, Serialize};

use crate::request::NoMatch;
use crate::text::{self, Columns};

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
    ) -> (Self, PlannedCut) {
        let mut plan = Self {
            table: table.clone(),
            action: Action::Nothing,
            boundary: None,
            discarded: Discarded::default(),
            segments_removed: 0,
            bytes_removed: 0,
            segment_cut: None,
        };
        let Walked { boundary, discarded } = walked;
        let cut = match boundary {
            Some(boundary) => {
                plan.boundary = Some(Boundary {
                    key: boundary.key.clone(),
                    position: boundary.position,
                    written_before: boundary.written_before,
                });
                if discarded.records == 0 {
                    return (plan, PlannedCut::Nothing);
                }
                plan.action = Action::Cut;
                let segment = boundary.position.segment;
                (plan.segments_removed, plan.bytes_removed) = survey.behind(segment);
                plan.segment_cut = (!boundary.ends_segment()).then_some(segment);
                PlannedCut::Behind(boundary)
            }
            None if survey.records() == 0 => return (plan, PlannedCut::Nothing),
            None if no_match == NoMatch::Clear => {
                plan.action = Action::Clear;
                (plan.segments_removed, plan.bytes_removed) = survey.behind(SegmentId::NONE);
                PlannedCut::Everything
            }
            None => {
                plan.action = Action::Keep;
                return (plan, PlannedCut::Nothing);
            }
        };
        plan.discarded = discarded;
        (plan, cut)
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

impl fmt::Display for RollbackPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = Columns::new(&[
            "table",
            "action",
            "last key that stays",
            "position",
            "put before",
            "keys gone",
            "values gone",
            "bytes gone",
            "segments gone",
            "segment cut",
        ]);
        for plan in &self.tables {
            let boundary = plan.boundary.as_ref();
            columns.row([
                plan.table.to_string(),
                plan.action.as_str().to_owned(),
                boundary.map_or_else(text::none, |b| text::short_key(&b.key)),
                boundary.map_or_else(text::none, |b| b.position.to_string()),
                boundary.map_or_else(text::none, |b| text::time(b.written_before)),
                plan.discarded.records.to_string(),
                plan.discarded.values.to_string(),
                plan.discarded.bytes.to_string(),
                plan.segments_removed.to_string(),
                plan.segment_cut.map_or_else(text::none, |id| id.to_string()),
            ]);
        }
        columns.fmt(f)
    }
}
