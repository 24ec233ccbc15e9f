//! One table: its segment range, put, flush, seal, get, iterate, collect, and recovery on open.
//!
//! A table knows nothing of other tables. Writes go down to the segment, positions come back up into the keymap; a get
//! asks the keymap, then the segment. What opening finds is a plan, which recovery applies, a reader takes its view
//! from, and verification reports.

mod batch;
mod callback;
mod check_keymap;
mod clock;
mod commit;
mod counters;
mod event;
mod fill;
mod filter;
mod follow;
mod gc;
mod in_flight;
pub mod inventory;
mod iter;
mod lifecycle;
mod maintain;
mod open;
mod options;
pub mod plan;
pub mod progress;
mod read;
mod reader;
pub mod recovery;
mod seal;
pub mod sealed;
mod segments;
pub mod state;
mod stats;
#[cfg(test)]
mod support_tests;
mod table;
pub mod tail;
pub mod truncate;
mod view;
mod write;

pub use batch::{Batch, BatchEntry, MAX_BATCH_BYTES, MAX_BATCH_KEYS, SecondaryKey, show_key};
pub use callback::refuse_in_callback;
pub use check_keymap::{KeymapReport, verify_keymap};
pub use event::{Event, EventListener};
pub use filter::GcFilter;
pub use gc::GcReport;
pub use iter::{Entry, Iter};
pub use lifecycle::{Presence, presence};
pub use maintain::Upkeep;
pub use open::OpenForWriting;
pub use options::{DuplicateKeys, KeymapKind, TableOptions, Ttl};
pub use recovery::RecoveryReport;
pub use stats::TableStats;
pub use table::{Table, TableSetup};
