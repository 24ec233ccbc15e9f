//! One table: its segment range, put, flush, seal, get, iterate, collect, and recovery on open.
//!
//! A table knows nothing of other tables. Writes go down to the segment, positions come back up into the keymap; a get
//! asks the keymap, then the segment. What opening finds is a plan, which recovery applies, a reader takes its view
//! from, and verification reports.

mod batch;
mod callback;
mod clock;
mod commit;
mod counters;
pub mod cut;
mod event;
mod fill;
mod filter;
mod follow;
mod gc;
mod in_flight;
pub mod inspect;
pub mod inventory;
mod iter;
mod keyfile;
mod lifecycle;
mod maintain;
mod open;
mod options;
pub mod plan;
mod read;
mod reader;
mod recovery;
pub mod roots;
mod seal;
mod sealed;
mod segments;
mod slots;
pub mod state;
mod stats;
#[cfg(test)]
mod support_tests;
mod table;
pub mod tail;
mod values;
mod view;
mod window;
mod write;

pub use batch::{Batch, BatchEntry, MAX_BATCH_BYTES, MAX_BATCH_KEYS, SecondaryKey, show_key};
pub use callback::refuse_in_callback;
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
