//! Identifiers: segments, shards, positions, addresses.
//!
//! Plain numbers with names, used by all higher crates. Nothing here reads or writes files.

use std::fmt;
use std::str::FromStr;

use lithdb_env::human::parsed;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The id of a segment within its table. Never used twice in a table; 0 is no segment.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// No segment: the predecessor of a table's first segment, the successor of its newest.
    pub const NONE: Self = Self(0);
    /// The lowest id a segment can have.
    pub const FIRST: Self = Self(1);

    /// Whether this is the id of a segment.
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// The next id; `None` if the ids are exhausted.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a value file within its segment.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Not a value file: the value is in the key file, after its record's key.
    pub const INLINE: Self = Self(u16::MAX);
    /// The maximum number of value files of a segment.
    pub const MAX_SHARDS: u16 = 256;
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INLINE => f.write_str("inline"),
            Self(n) => n.fmt(f),
        }
    }
}

/// The position of a record: its segment and its offset in that segment's key file in bytes. The
/// order of positions is the write order of the table. Its text form, also in JSON and TOML, is
/// `SEGMENT:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the record in the key file, in bytes.
    pub offset: u32,
}

impl Position {
    /// The position `offset` bytes into the key file of `segment`.
    pub const fn new(segment: SegmentId, offset: u32) -> Self {
        Self { segment, offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(segment, offset)| {
            Some(Self::new(SegmentId(parsed(segment)?), parsed(offset)?))
        });
        parts.ok_or_else(|| format!("expected a position like 12:4096, found {text:?}"))
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        (self.segment, self.offset).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        Deserialize::deserialize(deserializer).map(|(segment, offset)| Self { segment, offset })
    }
}

/// The location and checksum of a value's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The segment.
    pub segment: SegmentId,
    /// The value file, or [`ShardId::INLINE`] for the key file.
    pub shard: ShardId,
    /// Offset of the first byte in that file.
    pub offset: u64,
    /// Number of bytes.
    pub len_bytes: u32,
    /// crc32c of these bytes.
    pub checksum: u32,
}
