//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! Rolls a stopped database back to an earlier point: atomically over all tables.
//!
//! The log is truncated, not rewritten. Making a *plan* scans every table from its newest record
//! back until a filter keeps one, and counts what would be removed. Executing it *prepares*
//! everything that needs space beside the old files, makes all of it durable as one *intent*, and
//! only then changes anything. The next open finishes a pending intent. Truncating one table is
//! [`lithdb_table::truncate`]; this crate makes it atomic over all tables. The facade calls it.
//!
//! `docs/ROLLBACK.md` has what an operator needs to know, and every crash case.

mod execute;
mod filter;
mod intent;
mod plan;
mod report;
mod request;

pub use execute::{Phase, Progress};
pub use filter::{PerTable, max_be_u64, through_key, through_position, written_before};
pub use intent::{INTENT_FILE, finish_pending, is_pending, pending, refuse_pending};
pub use lithdb_table::truncate::{Boundary, Discarded, KeyAt, OutOfOrder, RecordRef, Verdict};
pub use plan::{Action, RollbackPlan, TablePlan};
pub use report::{PendingRollback, RollbackReport, TableReport};
pub use request::{NoMatch, Rollback};
