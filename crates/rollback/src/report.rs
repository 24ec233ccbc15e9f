//! Reports: what a rollback did, or what a pending one is going to do, for people and as JSON.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, UnixMillis, lossy};
use lithdb_segment::{SegmentId, TableName};
use lithdb_table::truncate::{Boundary, Discarded, Removed, short_key};
use serde::{Serialize, Serializer};

use crate::plan::{Action, TablePlan};

/// What a rollback did to all requested tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollbackReport {
    /// When the rollback was decided, that is, could no longer be stopped. `None` if there was
    /// nothing to do.
    pub decided: Option<UnixMillis>,
    /// Whether this call finished an interrupted rollback. The figures of `tables` are then those
    /// of the plan, except for the segments: those removed before the interruption are not
    /// counted.
    pub finished_later: bool,
    /// The tables.
    pub tables: Vec<TableReport>,
    /// How long this call took.
    #[serde(rename = "took_seconds", serialize_with = "seconds")]
    pub took: Duration,
}

/// What a rollback did to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableReport {
    /// The table.
    pub table: TableName,
    /// What was done.
    pub action: Action,
    /// The newest record that was kept.
    pub boundary: Option<Boundary>,
    /// The records that were removed.
    pub discarded: Discarded,
    /// The number of segments that were removed.
    pub segments_removed: u64,
    /// The bytes of the files that were removed.
    pub bytes_removed: u64,
    /// The segment that was truncated.
    #[serde(rename = "segment_cut")]
    pub segment_truncated: Option<SegmentId>,
}

/// A rollback that was decided and is not finished. Until it is, nothing else can be reported
/// about the tables: some files are as before it, some as after it, and some are prepared for it.
#[derive(Debug, Clone, Serialize)]
pub struct PendingRollback {
    /// The intent file.
    #[serde(serialize_with = "lossy::path")]
    pub path: PathBuf,
    /// When it was decided; `None` if the file cannot be read.
    pub decided: Option<UnixMillis>,
    /// Whether all steps are done and only the intent file remains to be removed.
    pub is_carried_out: bool,
    /// What the rollback does to the tables. Segments are not counted yet.
    pub tables: Vec<TableReport>,
    /// Why it cannot be finished in the present state of the files; serialized as a message.
    pub obstacle: Option<Error>,
}

/// How to finish a pending rollback.
const FINISH_HINT: &str =
    "`lith rollback --finish`, or opening the database for writing, finishes it";

impl PendingRollback {
    /// The error for an operation that a pending rollback blocks, in one line.
    pub(crate) fn to_error(&self) -> Error {
        let names: Vec<&str> = self.tables.iter().map(|table| table.table.as_str()).collect();
        let of = if names.is_empty() { "" } else { " of " };
        let rest = match &self.obstacle {
            Some(obstacle) => format!("it cannot be finished: {obstacle}"),
            None => FINISH_HINT.to_owned(),
        };
        let message = format!(
            "{}: a rollback{of}{} is pending; {rest}",
            self.path.display(),
            names.join(", ")
        );
        Error::new(ErrorKind::Locked, message).for_pending_rollback()
    }
}

impl fmt::Display for PendingRollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a rollback is pending\n  intent         {}", self.path.display())?;
        if let Some(decided) = self.decided {
            write!(f, "\n  decided        {}", time(decided))?;
        }
        for report in &self.tables {
            f.write_str("\n")?;
            report.show(f, None)?;
        }
        if let Some(obstacle) = &self.obstacle {
            let remedy = "restore what is missing or damaged, then finish it";
            return write!(f, "\nit cannot be finished: {obstacle}\n{remedy}");
        }
        if self.is_carried_out {
            f.write_str("\nall steps are done; only the intent file remains to be removed")?;
        } else {
            f.write_str(
                "\nuntil it is finished, the tables cannot be inspected; do not remove any file",
            )?;
        }
        write!(f, "\n{FINISH_HINT}")
    }
}

/// Writes each item on its own line, without a trailing newline.
pub(crate) fn lines(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(n, item)| match n {
        0 => write!(f, "{item}"),
        _ => write!(f, "\n{item}"),
    })
}

impl fmt::Display for RollbackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, &self.tables)
    }
}

impl TableReport {
    /// The report of a plan that is executed as planned.
    pub(crate) fn of(plan: &TablePlan) -> Self {
        Self {
            table: plan.table.clone(),
            action: plan.action,
            boundary: plan.boundary.clone(),
            discarded: plan.discarded,
            segments_removed: plan.segments_removed,
            bytes_removed: plan.bytes_removed,
            segment_truncated: plan.segment_truncated,
        }
    }

    pub(crate) fn count(&mut self, removed: Removed) {
        self.segments_removed += removed.segments;
        self.bytes_removed = self.bytes_removed.saturating_add(removed.bytes);
    }

    /// Writes lines of less than 80 columns, unless a table name is very long. `segments`: the
    /// number removed, if it was counted.
    fn show(&self, f: &mut fmt::Formatter<'_>, segments: Option<u64>) -> fmt::Result {
        write!(f, "table {}: {}", self.table, self.action.as_str())?;
        if self.action == Action::Keep {
            f.write_str(", although no record matched")?;
        }
        if let Some(Boundary { key, position, written_before }) = &self.boundary {
            write!(f, "\n  last key kept  {} at {position}", short_key(key))?;
            write!(f, "\n  written        no later than {}", time(*written_before))?;
        }
        if self.discarded.records > 0 {
            let Discarded { records, values, bytes } = self.discarded;
            write!(f, "\n  removed        keys: {records}, values: {values}, bytes: {bytes}")?;
            if let Some(removed) = segments {
                write!(f, "\n  segments       removed: {removed}")?;
            }
            if let Some(segment) = self.segment_truncated {
                write!(f, "\n  truncated      segment {segment}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, Some(self.segments_removed))
    }
}

/// A wall clock time in UTC; in milliseconds if it is outside the calendar.
fn time(time: UnixMillis) -> String {
    let known = jiff::Timestamp::from_millisecond(time.0.min(i64::MAX as u64) as i64);
    known.map_or_else(|_| time.0.to_string(), |time| format!("{time:.3}"))
}

fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    took.as_secs_f64().serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc() {
        for (millis, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(UnixMillis(millis)), shown);
        }
        assert_eq!(time(UnixMillis(u64::MAX)), u64::MAX.to_string());
    }
}
