//! Verification, dump and repair of a table's files, without opening the table.
//!
//! Everything here begins with the *chain links*: the table state, which segments belong to it, how they are
//! linked. Each segment is then *examined*: which groups of records are whole, with the bytes they name, and what
//! is wrong with the rest. Verification reports that; a repair plans from it what would be given up, and only
//! [`RepairPlan::apply`] changes anything. Nothing is ever deleted: what is replaced is kept in
//! `damaged-<milliseconds>` beside the `segments` directory it came from.

mod apply;
mod chain_links;
mod dump;
mod epoch;
mod examine;
mod finding;
mod groups;
mod interrupted_repair;
mod losses;
mod plan;
pub(crate) mod quarantine;
mod repair_segment;
mod rewrite;
mod segment_headers;
mod state_slots;
mod values;
mod verify;
mod walk;

pub use apply::RepairReport;
pub use dump::{DumpLine, dump};
pub use finding::{Finding, Severity, VerifyReport};
use lithdb_env::lossy;
pub(crate) use lithdb_table::progress::Meter;
pub use lithdb_table::progress::Progress;
pub use plan::{Action, PositionRange, RepairPlan, SegmentRepair, plan_repair};
pub use verify::verify;

/// `1 key`, `2 keys`, `an unknown number of keys`.
fn counted(number: impl Into<Option<u64>>, noun: &str) -> String {
    match number.into() {
        Some(1) => format!("1 {noun}"),
        Some(number) => format!("{number} {noun}s"),
        None => format!("an unknown number of {noun}s"),
    }
}
