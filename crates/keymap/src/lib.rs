//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! The keymap of a table: maps a key's hash to the position of its record.
//!
//! A keymap stores no keys, only a hash of each and the [`Position`](lithdb_segment::Position) of
//! its record, so a lookup returns *candidates*: the caller compares the full key in the key file.
//! Keys are never deleted one by one. An entry is dead once the watermark passes its segment, and
//! is dropped by the next rewrite of its partition. The whole keymap can be rebuilt from the key
//! files.
//!
//! Only the table uses it. It knows nothing of values.

mod candidates;
mod hash;
mod keymap;
mod memory;
mod partition;

pub use candidates::Candidates;
pub use hash::KeyHash;
pub use keymap::Keymap;
pub use memory::MemoryKeymap;

#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod partition_tests;
