//! Rewinding a stopped database to an earlier point: all tables or none, whatever happens.
//!
//! The log is cut, not rewritten: a *plan* walks through the newest records of every table until a filter keeps one, and
//! says what would go; executing it *prepares* everything that needs space beside the old files, makes the whole of it
//! durable as one *intent*, and only then changes anything. An intent that is there when the database is opened next is
//! carried out to its end. Cutting one table is [`lithdb_table::truncate`]'s part; what holds the tables together is here.
//!
//! `docs/ROLLBACK.md` says what an operator has to know, and every crash case.

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
