//! Truncating a stopped table after an earlier record: the part of a rollback that concerns one
//! table.
//!
//! [`StoppedTable`] reads the table and walks its records from the newest on; it writes nothing.
//! [`prepare`] writes everything that needs space beside the old files and returns the
//! [`TruncateStep`] that remains: in-place writes, removals and renames, which may be repeated
//! after a crash any number of times. The caller (`lithdb-rollback`) makes truncation atomic over
//! all tables: it makes all steps durable as one intent before it applies the first. It holds the
//! exclusive locks of all roots.

mod outcome;
mod prepare;
mod step;
mod stopped_table;
mod walk;

/// The name of the file on root 0 that records a decided rollback. Its content belongs to the
/// caller.
pub const INTENT_FILE: &str = "rollback.intent";

pub use outcome::{Boundary, Discarded, KeyAt, OutOfOrder, TruncatePoint, WalkOutcome, short_key};
pub use prepare::{PreparedTruncation, TruncateAt, prepare};
pub use step::{KeptSegment, Removed, TruncateStep, apply, check};
pub use stopped_table::{StoppedTable, TableFingerprint};
pub use walk::{Filter, RecordRef, Verdict};
