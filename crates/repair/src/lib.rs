//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! Verifies, dumps and repairs a table's files without opening the table. The facade calls it.
//!
//! Everything starts from the *chain links*: the table state, the segments of the table, and how
//! they are linked. Then each segment is *examined*: which groups are intact (records and value
//! bytes), and what is damaged. `verify` reports that; `plan_repair` plans from it what would be
//! lost, and only [`apply`] changes anything. A repair never deletes a file: it moves what it
//! replaces to `damaged-<milliseconds>` beside the `segments` directory it came from.

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

pub use apply::{RepairReport, apply};
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
