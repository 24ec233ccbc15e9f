//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! One table: put, flush, seal, get, iterate, collect, and recovery when it is opened.
//!
//! A table knows nothing of other tables. A put appends to the segment; the resulting position is
//! inserted into the keymap. A get looks the key up in the keymap, then reads the segment. Opening
//! builds a plan from the files: recovery applies it, a reader takes its view from it,
//! verification reports it.

mod batch;
mod callback;
mod counters;
mod event;
mod gc;
mod lifecycle;
mod live;
mod maintenance;
pub mod open;
mod options;
pub mod progress;
mod read;
mod segments;
mod setup;
mod shared;
pub mod state;
mod stats;
mod table;
#[cfg(test)]
mod test_support;
pub mod truncate;
mod write;

pub use batch::{Batch, BatchEntry, MAX_BATCH_BYTES, MAX_BATCH_KEYS, SecondaryKey, show_key};
pub use callback::refuse_in_callback;
pub use event::{Event, EventListener, RecoveryReport};
pub use gc::collect::GcReport;
pub use gc::filter::GcFilter;
pub use lifecycle::{Presence, presence};
pub use maintenance::Maintenance;
pub use open::OpenForWriting;
pub use options::{DuplicateKeys, KeymapKind, TableOptions, Ttl};
pub use read::check_keymap::{KeymapMismatch, KeymapReport, verify_keymap};
pub use read::iter::{Entry, Iter};
pub use setup::TableSetup;
pub use stats::TableStats;
pub use table::Table;
