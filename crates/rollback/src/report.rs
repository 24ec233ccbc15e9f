//! What a rollback did.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, UnixMillis};
use lithdb_segment::{SegmentId, TableName};
use lithdb_table::cut::Discarded;
use serde::Serialize;

use crate::plan::{Action, Boundary, Outcome, lines};
use crate::text;

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

/// A rollback that was decided and is not finished. Until it is, nothing else can be said of the tables: some files are as
/// before it, some as after it, and some are prepared for it.
#[derive(Debug, Clone, Serialize)]
pub struct PendingRollback {
    /// The file that says so.
    #[serde(serialize_with = "text::path")]
    pub path: PathBuf,
    /// When it was decided; `None` if the file cannot be read.
    pub decided: Option<UnixMillis>,
    /// Whether all of it is done, and only the file is left to be removed.
    pub is_carried_out: bool,
    /// What becomes of the tables. No segments have been counted yet.
    pub tables: Vec<TableReport>,
    /// Why it cannot be finished as the files are; a message where it is serialized.
    #[serde(serialize_with = "text::message")]
    pub obstacle: Option<Error>,
}

/// How a rollback that is pending comes to its end.
const FINISHES: &str = "`lith rollback --finish`, or opening the database for writing, finishes it";

impl PendingRollback {
    /// For whoever wanted something else, in one line.
    pub(crate) fn to_error(&self) -> Error {
        let names: Vec<&str> = self.tables.iter().map(|table| table.table.as_str()).collect();
        let of = if names.is_empty() { "" } else { " of " };
        let rest = match &self.obstacle {
            Some(obstacle) => format!("it cannot be finished as the files are: {obstacle}"),
            None => FINISHES.to_owned(),
        };
        let message = format!(
            "{}: a rollback{of}{} was begun and is not finished; {rest}",
            self.path.display(),
            names.join(", ")
        );
        Error::new(ErrorKind::RollbackPending, message)
    }
}

impl fmt::Display for PendingRollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a rollback was begun and is not finished\n  says           {}",
            self.path.display()
        )?;
        if let Some(decided) = self.decided {
            write!(f, "\n  decided        {}", text::time(decided))?;
        }
        for report in &self.tables {
            write!(f, "\n{}", Outcome { segments_removed: None, ..Outcome::of(report) })?;
        }
        if let Some(obstacle) = &self.obstacle {
            let remedy = "bring back what is missing or damaged, then finish it";
            return write!(f, "\nit cannot be finished as the files are: {obstacle}\n{remedy}");
        }
        if self.is_carried_out {
            f.write_str("\nall of it is done; only the file is left to be removed")?;
        } else {
            f.write_str(
                "\nuntil then nothing else can be said of the tables, and no file is to be removed",
            )?;
        }
        write!(f, "\n{FINISHES}")
    }
}

impl<'a> Outcome<'a> {
    fn of(report: &'a TableReport) -> Self {
        Self {
            table: &report.table,
            action: report.action,
            boundary: report.boundary.as_ref(),
            discarded: report.discarded,
            segments_removed: Some(report.segments_removed),
            segment_cut: report.segment_cut,
            out_of_order: None,
        }
    }
}

impl fmt::Display for RollbackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, self.tables.iter().map(Outcome::of))
    }
}
