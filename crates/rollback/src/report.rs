//! What a rollback did.

use std::fmt;
use std::time::Duration;

use lithdb_env::UnixMillis;
use lithdb_segment::{SegmentId, TableName};
use lithdb_table::cut::Discarded;
use serde::Serialize;

use crate::plan::{Action, Boundary};
use crate::text::{self, Columns};

/// What a rollback did, to all tables that it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollbackReport {
    /// When the rollback was decided: from then on it was going to happen. `None` if there was nothing to do.
    pub decided: Option<UnixMillis>,
    /// Whether an interrupted rollback was finished. The figures of `tables` are then those of the plan, but for the segments:
    /// what had been removed before is not counted.
    pub finished_later: bool,
    /// The tables.
    pub tables: Vec<TableReport>,
    /// How long this call took.
    #[serde(rename = "took_seconds", serialize_with = "text::seconds")]
    pub took: Duration,
}

/// What was done to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableReport {
    /// The table.
    pub table: TableName,
    /// What was done.
    pub action: Action,
    /// The newest record that stayed.
    pub boundary: Option<Boundary>,
    /// What went.
    pub discarded: Discarded,
    /// The segments that were removed.
    pub segments_removed: u64,
    /// Bytes of the files that were removed.
    pub bytes_removed: u64,
    /// The segment that was cut.
    pub segment_cut: Option<SegmentId>,
}

impl fmt::Display for RollbackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = Columns::new(&[
            "table",
            "done",
            "last key that stayed",
            "position",
            "keys gone",
            "values gone",
            "bytes gone",
            "segments gone",
            "segment cut",
        ]);
        for report in &self.tables {
            let boundary = report.boundary.as_ref();
            columns.row([
                report.table.to_string(),
                report.action.as_str().to_owned(),
                boundary.map_or_else(text::none, |b| text::short_key(&b.key)),
                boundary.map_or_else(text::none, |b| b.position.to_string()),
                report.discarded.records.to_string(),
                report.discarded.values.to_string(),
                report.discarded.bytes.to_string(),
                report.segments_removed.to_string(),
                report.segment_cut.map_or_else(text::none, |id| id.to_string()),
            ]);
        }
        columns.fmt(f)
    }
}
