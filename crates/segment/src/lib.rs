//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! One segment of a table: ids, names, byte formats, writing, sealing, reading, scanning.
//!
//! `docs/FORMAT.md` defines every byte. A segment knows nothing of its table's other segments,
//! except the ids of its neighbours in the chain, and nothing of the keymap.

mod bytes_le;
mod create;
mod data_file;
pub mod envelope;
mod flush;
mod handle;
mod header;
mod ids;
pub mod key_file;
mod metadata;
mod names;
mod paths;
pub mod quarantine;
pub mod record;
pub mod scan;
mod seed;
mod segment;
pub mod slots;
mod value;
pub mod values;
pub mod window;
mod write_buffer;
mod writer;

pub use create::{Leftovers, NewSegment};
pub use flush::{SealJob, digest_of};
pub use handle::{HandleCache, ReadMode};
pub use header::{
    FORMAT_VERSION, HEADER_LEN, Identity, KEY_MAGIC, KeyHeader, VALUE_MAGIC, ValueHeader,
    check_writable,
};
pub use ids::{Address, Position, SegmentId, ShardId};
pub use metadata::{Metadata, Stamp};
pub use names::{SEGMENTS_DIR, STATE_FILE, SegmentFile, TableName};
pub use paths::SegmentPaths;
pub use seed::Seeds;
pub use segment::{Context, Segment, UnlinkPermission, Verify};
pub use value::Value;
pub use writer::{Alias, Appended, Copier, DirectWrite, Group, SegmentWriter, Stream};
