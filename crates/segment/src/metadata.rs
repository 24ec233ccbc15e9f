//! The metadata of a sealed segment: what it holds, and its successor in the chain.
//!
//! Written once, atomically, when the segment is sealed; truncation and salvage replace it with a
//! higher revision.

use std::path::Path;

use lithdb_env::{Error, Fs, Result, UnixMillis, read_file, replace_file};
use serde::{Deserialize, Serialize};

use crate::bytes_le::{u32_at, u64_at};
use crate::envelope::{self, MAX_PAYLOAD_LEN, Magic};
use crate::header::{KeyHeader, check_writable};
use crate::ids::SegmentId;
use crate::record::{Chain, Mark};
use crate::scan::Totals;

/// The type of the extra that records when the segment's content was flushed, and how much of the
/// successor was durable when the metadata was written.
const RECOVERED: u16 = 2;

/// The time of a seal, and whether it is certain: whether the wall clock was trusted. Stored as
/// milliseconds since 1970, with the highest bit set if uncertain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(u64);

impl Stamp {
    const UNCERTAIN: u64 = 1 << 63;

    /// A time from a trusted clock.
    pub fn certain(time: UnixMillis) -> Self {
        Self(time.0 & !Self::UNCERTAIN)
    }

    /// A time from a clock that was not trusted: the true time may be later.
    pub fn uncertain(time: UnixMillis) -> Self {
        Self(time.0 | Self::UNCERTAIN)
    }

    /// The time, certain or not.
    pub fn time(self) -> UnixMillis {
        UnixMillis(self.0 & !Self::UNCERTAIN)
    }

    /// Whether the clock was trusted.
    pub fn is_certain(self) -> bool {
        self.0 & Self::UNCERTAIN == 0
    }
}

/// The metadata of a sealed segment. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The table's random id.
    pub table_id: u64,
    /// The segment.
    pub segment: SegmentId,
    /// How many times the segment was truncated or salvaged after it had been sealed.
    pub revision: u32,
    /// The preceding segment, or none.
    pub predecessor: SegmentId,
    /// The succeeding segment; it must exist.
    pub successor: SegmentId,
    /// When the segment was created.
    pub created: UnixMillis,
    /// Time of the seal; the segment's age counts from here.
    pub sealed_at: Stamp,
    /// The salt of the key file.
    pub salt: u64,
    /// Length of the key file in bytes; bytes after it are ignored.
    pub key_end: u64,
    /// Number of key records, primary and secondary.
    pub records: u64,
    /// Number of primary records.
    pub primaries: u64,
    /// Running checksum: the checksum over the checksums of all records.
    pub running: u32,
    /// Lengths of the value files in bytes.
    pub value_ends: Vec<u64>,
    /// The offset of each epoch record and its number.
    pub epochs: Vec<(u32, u64)>,
    /// How the segment's values are encoded; 0 means not at all.
    pub codec: u8,
    /// XXH3-128 over the key file.
    pub digest: Option<[u8; 16]>,
    /// Optional fields, by type: 1 = a repair that is not finished, 2 = recovered.
    pub extras: Vec<(u16, Vec<u8>)>,
}

impl Metadata {
    /// Metadata of a segment that holds `totals`, still without epochs and successor.
    pub fn of(header: &KeyHeader, totals: Totals, sealed_at: Stamp) -> Self {
        let Totals { key_end, records, primaries, running, value_ends } = totals;
        Self {
            table_id: header.identity.table_id,
            segment: header.identity.segment,
            revision: 0,
            predecessor: header.predecessor,
            successor: SegmentId::NONE,
            created: header.created,
            sealed_at,
            salt: header.identity.salt,
            key_end,
            records,
            primaries,
            running,
            value_ends,
            epochs: Vec::new(),
            codec: 0,
            digest: None,
            extras: Vec::new(),
        }
    }

    /// Reads the metadata file at `path`.
    pub fn read(fs: &dyn Fs, path: &Path) -> Result<Self> {
        envelope::decode_file(Magic::METADATA, path, &Self::read_bytes(fs, path)?)
    }

    /// Like [`read`](Self::read), for a writer. `Unsupported` also for features that forbid
    /// writing.
    pub fn read_for_writing(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let bytes = Self::read_bytes(fs, path)?;
        let metadata = envelope::decode_file(Magic::METADATA, path, &bytes)?;
        check_writable(path, &bytes).map(|()| metadata)
    }

    fn read_bytes(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>> {
        let limit = (MAX_PAYLOAD_LEN + envelope::ENVELOPE_LEN) as u64;
        read_file(fs, path, limit).map_err(|e| Error::io("read", path, e))
    }

    /// Writes the metadata file at `path`, atomically and durably.
    pub fn write(&self, fs: &dyn Fs, path: &Path) -> Result<()> {
        replace_file(fs, path, &envelope::encode(Magic::METADATA, self)?)
    }

    /// The chain record with which the successor describes this segment.
    pub fn chain(&self) -> Chain {
        Chain {
            predecessor: self.segment,
            key_end: self.key_end as u32,
            records: self.records,
            running: self.running,
            value_ends: self.value_ends.clone(),
        }
    }

    /// Records how much of the successor is durable and, in the mark's time, when the content of
    /// this segment was flushed.
    pub fn set_successor_end(&mut self, end: Option<&Mark>) {
        self.extras.retain(|(kind, _)| *kind != RECOVERED);
        let Some(end) = end else { return };
        let mut bytes = end.time.0.to_le_bytes().to_vec();
        bytes.extend(end.through.to_le_bytes());
        bytes.extend(end.value_ends.iter().flat_map(|end| end.to_le_bytes()));
        self.extras.push((RECOVERED, bytes));
    }

    fn recovered(&self) -> Option<&[u8]> {
        let found = self.extras.iter().find(|(kind, _)| *kind == RECOVERED);
        found.map(|(_, bytes)| &**bytes)
    }

    /// How much of the successor was durable when the seal was written; `None`: only its start.
    pub fn successor_end(&self) -> Option<Mark> {
        let bytes = self.recovered()?;
        let through = u32_at(bytes, 8)?;
        let lens = bytes.len() / 8;
        let value_ends = (0..lens).map_while(|n| u64_at(bytes, 12 + 8 * n)).collect();
        Some(Mark { through, value_ends, ..Mark::default() })
    }

    /// When the segment's content was flushed, if none of its marks says so.
    pub fn flushed(&self) -> Option<UnixMillis> {
        let time = u64_at(self.recovered()?, 0)?;
        (time > 0).then_some(UnixMillis(time))
    }

    /// The sum of the lengths of all files, saturating: crafted lengths do not overflow.
    pub fn bytes(&self) -> u64 {
        self.value_ends.iter().fold(self.key_end, |sum, end| sum.saturating_add(*end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_crafted_lengths_do_not_overflow() {
        let mut metadata = Metadata {
            table_id: 1,
            segment: SegmentId(1),
            revision: 0,
            predecessor: SegmentId::NONE,
            successor: SegmentId(2),
            created: UnixMillis(0),
            sealed_at: Stamp::certain(UnixMillis(0)),
            salt: 0,
            key_end: 100,
            records: 0,
            primaries: 0,
            running: 0,
            value_ends: vec![64, 70],
            epochs: Vec::new(),
            codec: 0,
            digest: None,
            extras: Vec::new(),
        };
        assert_eq!(metadata.bytes(), 234);
        metadata.value_ends = vec![u64::MAX, u64::MAX];
        assert_eq!(metadata.bytes(), u64::MAX);
    }
}
