//! The 64-byte header of every key file and value file.
//!
//! Decoding checks magic, checksum, version and flags before any other field is used.

use std::path::Path;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};

use crate::bytes_le::{u16_at, u32_at};
use crate::ids::{SegmentId, ShardId};

/// The length of both headers; the first record or value byte follows.
pub const HEADER_LEN: usize = 64;
/// The version of the format described in `docs/FORMAT.md`.
pub const FORMAT_VERSION: u16 = 1;
/// The magic of a key file.
pub const KEY_MAGIC: [u8; 8] = *b"LITHKEYS";
/// The magic of a value file.
pub const VALUE_MAGIC: [u8; 8] = *b"LITHVALS";

const VERSION_AT: usize = 8;
const LEN_AT: usize = 10;
pub(crate) const FLAGS_AT: usize = 12;
const TABLE_AT: usize = 24;
const SEGMENT_AT: usize = 32;
/// The predecessor in a key file, the shard in a value file.
const LINK_AT: usize = 36;
const CREATED_AT: usize = 40;
const SALT_AT: usize = 48;
/// Only in a key file.
const SHARDS_AT: usize = 56;
const CHECKSUM_AT: usize = 60;

/// What all files of a segment share; it seeds the checksum of every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The table's random id.
    pub table_id: u64,
    /// The segment.
    pub segment: SegmentId,
    /// Random, different for every key file ever created.
    pub salt: u64,
}

/// The header of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHeader {
    /// Table, segment and salt.
    pub identity: Identity,
    /// The preceding segment, or none.
    pub predecessor: SegmentId,
    /// When the file was created.
    pub created: UnixMillis,
    /// Number of value files, 1 to 256.
    pub shards: u16,
}

/// The header of a value file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueHeader {
    /// Table, segment and the salt of the segment's key file.
    pub identity: Identity,
    /// Which of the segment's value files this is.
    pub shard: ShardId,
    /// When the file was created.
    pub created: UnixMillis,
}

/// The bytes of a header.
fn encode(
    magic: [u8; 8],
    identity: &Identity,
    link: u32,
    created: UnixMillis,
    shards: u16,
) -> Vec<u8> {
    let mut header = [
        &magic[..],
        &FORMAT_VERSION.to_le_bytes(),
        &(HEADER_LEN as u16).to_le_bytes(),
        &[0; 12], // flags
        &identity.table_id.to_le_bytes(),
        &identity.segment.0.to_le_bytes(),
        &link.to_le_bytes(),
        &created.0.to_le_bytes(),
        &identity.salt.to_le_bytes(),
        &shards.to_le_bytes(),
        &[0; 2],
    ]
    .concat();
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

/// Checks what both headers share. The checksum comes before the flags: flags of a damaged header
/// mean nothing.
fn check<'a>(path: &Path, bytes: &'a [u8], magic: [u8; 8]) -> Result<&'a [u8; HEADER_LEN]> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(too_short(path, bytes));
    };
    let (covered, _) = header.split_at(CHECKSUM_AT);
    let expected = crc32c::crc32c(covered);
    let found = u32::from_le_bytes(field(header, CHECKSUM_AT));
    let name = format!("magic {}", String::from_utf8_lossy(&magic));
    if !header.starts_with(&magic) {
        let kind = if expected == found { ErrorKind::Foreign } else { ErrorKind::Corrupt };
        return Err(Error::corrupt(path, 0, &name, "bad magic").with_kind(kind));
    }
    if expected != found {
        let expected = format!("header checksum {expected:08x}");
        return Err(Error::corrupt(path, CHECKSUM_AT as u64, &expected, &format!("{found:08x}")));
    }
    check_version(path, header)?;
    let len = u16::from_le_bytes(field(header, LEN_AT));
    if usize::from(len) != HEADER_LEN {
        let message = format_args!("header length: expected {HEADER_LEN}, found {len}");
        return Err(Error::at(ErrorKind::Unsupported, path, message));
    }
    Ok(header)
}

fn too_short(path: &Path, bytes: &[u8]) -> Error {
    Error::corrupt(path, 0, "a header of 64 bytes", &format!("{} bytes", bytes.len()))
}

/// Refuses versions and incompatible flags that this build does not know; version 1 defines no
/// flags. Flags that only forbid writing are refused where files are opened for writing (see
/// [`check_writable`]).
pub(crate) fn check_version(path: &Path, bytes: &[u8]) -> Result<()> {
    let unsupported = |what: &str, expected: String, found: String| {
        let message = format_args!("{what}: expected {expected}, found {found}");
        Err(Error::at(ErrorKind::Unsupported, path, message))
    };
    let (Some(version), Some(incompatible)) =
        (u16_at(bytes, VERSION_AT), u32_at(bytes, FLAGS_AT + 8))
    else {
        return Err(too_short(path, bytes));
    };
    if version != FORMAT_VERSION {
        return unsupported("format version", FORMAT_VERSION.to_string(), version.to_string());
    }
    if incompatible != 0 {
        return unsupported("incompatible features", "none".into(), format!("{incompatible:#x}"));
    }
    Ok(())
}

/// Checks the flags that forbid writing, of any header or envelope. [`ErrorKind::Unsupported`] if
/// there are any that this build does not know; [`ErrorKind::Corrupt`] if the bytes are too short
/// to contain them.
pub fn check_writable(path: &Path, bytes: &[u8]) -> Result<()> {
    let flags = u32_at(bytes, FLAGS_AT + 4).ok_or_else(|| too_short(path, bytes))?;
    if flags == 0 {
        return Ok(());
    }
    let message = format_args!(
        "features that forbid writing: expected none, found {flags:#x}; open for reading only"
    );
    Err(Error::at(ErrorKind::Unsupported, path, message))
}

/// The bytes of a field at a documented offset.
#[expect(clippy::expect_used, reason = "every field lies within the header")]
fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    *header.get(at..).and_then(<[u8]>::first_chunk).expect("every field lies within the header")
}

fn identity_of(header: &[u8; HEADER_LEN]) -> Identity {
    Identity {
        table_id: u64::from_le_bytes(field(header, TABLE_AT)),
        segment: SegmentId(u32::from_le_bytes(field(header, SEGMENT_AT))),
        salt: u64::from_le_bytes(field(header, SALT_AT)),
    }
}

fn created_of(header: &[u8; HEADER_LEN]) -> UnixMillis {
    UnixMillis(u64::from_le_bytes(field(header, CREATED_AT)))
}

impl KeyHeader {
    /// The bytes of the header.
    pub fn encode(&self) -> Vec<u8> {
        encode(KEY_MAGIC, &self.identity, self.predecessor.0, self.created, self.shards)
    }

    /// Decodes the header of the key file at `path`, which is used only in errors.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let header = check(path, bytes, KEY_MAGIC)?;
        let shards = u16::from_le_bytes(field(header, SHARDS_AT));
        if shards == 0 || shards > ShardId::MAX_SHARDS {
            let at = SHARDS_AT as u64;
            return Err(Error::corrupt(path, at, "1 to 256 value files", &shards.to_string()));
        }
        Ok(Self {
            identity: identity_of(header),
            predecessor: SegmentId(u32::from_le_bytes(field(header, LINK_AT))),
            created: created_of(header),
            shards,
        })
    }

    /// Refuses a file of another table or segment (`Foreign`).
    pub fn belongs_to(&self, path: &Path, table_id: u64, segment: SegmentId) -> Result<()> {
        let found = self.identity;
        belongs(path, (table_id, segment), (found.table_id, found.segment))
    }
}

fn belongs(path: &Path, expected: (u64, SegmentId), found: (u64, SegmentId)) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let message = format_args!(
        "expected a file of segment {} of table {:016x}, found one of segment {} of table {:016x}",
        expected.1, expected.0, found.1, found.0
    );
    Err(Error::at(ErrorKind::Foreign, path, message))
}

impl ValueHeader {
    /// The bytes of the header.
    pub fn encode(&self) -> Vec<u8> {
        encode(VALUE_MAGIC, &self.identity, self.shard.0.into(), self.created, 0)
    }

    /// Decodes the header of the value file at `path`, which is used only in errors.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let header = check(path, bytes, VALUE_MAGIC)?;
        Ok(Self {
            identity: identity_of(header),
            shard: ShardId(u16::from_le_bytes(field(header, LINK_AT))),
            created: created_of(header),
        })
    }

    /// Refuses a file of another table, segment or shard, or with another salt (`Foreign`).
    pub fn belongs_to(&self, path: &Path, identity: &Identity, shard: ShardId) -> Result<()> {
        let found = self.identity;
        belongs(path, (identity.table_id, identity.segment), (found.table_id, found.segment))?;
        if self.shard == shard && found.salt == identity.salt {
            return Ok(());
        }
        let message = format_args!(
            "expected shard {shard} with salt {:016x}, found shard {} with salt {:016x}",
            identity.salt, self.shard, found.salt
        );
        Err(Error::at(ErrorKind::Foreign, path, message))
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
