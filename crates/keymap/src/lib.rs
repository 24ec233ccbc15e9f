//! From a key to the position of its record: the keymap of a table.
//!
//! A keymap holds no keys, only a hash of each and the [`Position`](lithdb_segment::Position) of its
//! record, so it answers with *candidates*: the caller compares the full key in the key file. Keys
//! are never deleted one by one. An entry dies when the watermark passes its segment, and is dropped
//! when its part of the keymap is next rewritten. Everything here can be rebuilt from the key files.
//!
//! Used by the table alone. It knows nothing of values.

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
