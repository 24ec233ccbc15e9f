//! Cutting a stopped table back to an earlier record: what a rollback does to one table.
//!
//! [`Survey`] reads what there is and walks through it from the newest record on; it writes nothing. [`prepare`] writes
//! beside the old files whatever needs space and returns the [`Step`] that remains: in-place writes, removals and
//! renames, which may be repeated after a crash any number of times. That all tables of a database are cut or none is
//! the caller's business: it makes the steps durable as one intent before it carries out the first. It holds the
//! exclusive locks of all roots.

mod outcome;
mod prepare;
mod step;
mod survey;
mod walk;

/// The name of the file, on root 0, that says that a rollback is going to happen. What it says is the caller's.
pub const INTENT_FILE: &str = "rollback.intent";

pub use outcome::{Boundary, CutPoint, Discarded, KeyAt, OutOfOrder, Walked, short_key};
pub use prepare::{CutAt, Prepared, prepare};
pub use step::{Done, Kept, Step, carry_out, check};
pub use survey::{Shape, Survey};
pub use walk::{Filter, RecordRef, Verdict};
