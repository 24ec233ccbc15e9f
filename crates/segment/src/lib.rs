//! One segment of a table: ids, names, byte formats, writing, sealing, reading, scanning.

mod ids;

pub use ids::{Address, Position, SegmentId, ShardId};
