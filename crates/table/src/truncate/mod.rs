//! Cutting a stopped table back to an earlier record: what a rollback does to one table.
//!
//! [`StoppedTable`] reads what there is and walks through it from the newest record on; it writes nothing. [`prepare`] writes
//! beside the old files whatever needs space and returns the [`TruncateStep`] that remains: in-place writes, removals and
//! renames, which may be repeated after a crash any number of times. That all tables of a database are cut or none is
//! the caller's business: it makes the steps durable as one intent before it carries out the first. It holds the
//! exclusive locks of all roots.

mod outcome;
mod prepare;
mod step;
mod stopped_table;
mod walk;

/// The name of the file, on root 0, that says that a rollback is going to happen. What it says is the caller's.
pub const INTENT_FILE: &str = "rollback.intent";

pub use outcome::{Boundary, Discarded, KeyAt, OutOfOrder, TruncatePoint, WalkOutcome, short_key};
pub use prepare::{PreparedTruncation, TruncateAt, prepare};
pub use step::{KeptSegment, Removed, TruncateStep, apply, check};
pub use stopped_table::{StoppedTable, TableFingerprint};
pub use walk::{Filter, RecordRef, Verdict};
