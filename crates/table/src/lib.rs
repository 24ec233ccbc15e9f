//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! One table: its segment range, put, flush, seal, get, iterate, collect, and recovery on open.
//!
//! A table knows nothing of other tables. Writes go down to the segment, positions come back up into the keymap; a get
//! asks the keymap, then the segment. What opening finds is a plan, which recovery applies, a reader takes its view
//! from, and verification reports.

mod batch;
mod callback;
mod counters;
mod event;
mod gc;
mod lifecycle;
mod maintenance;
pub mod open;
mod options;
pub mod progress;
mod read;
mod segments;
pub mod state;
mod stats;
mod table;
#[cfg(test)]
mod test_support;
pub mod truncate;
mod write;

pub use batch::{Batch, BatchEntry, MAX_BATCH_BYTES, MAX_BATCH_KEYS, SecondaryKey, show_key};
pub use callback::refuse_in_callback;
pub use event::{Event, EventListener};
pub use gc::collect::GcReport;
pub use gc::filter::GcFilter;
pub use lifecycle::{Presence, presence};
pub use maintenance::Maintenance;
pub use open::OpenForWriting;
pub use open::recover::RecoveryReport;
pub use options::{DuplicateKeys, KeymapKind, TableOptions, Ttl};
pub use read::check_keymap::{KeymapMismatch, KeymapReport, verify_keymap};
pub use read::iter::{Entry, Iter};
pub use stats::TableStats;
pub use table::{Table, TableSetup};
