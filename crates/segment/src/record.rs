//! The records of a key file: encodes and decodes one record at a time.
//!
//! Decoding checks every length against the available bytes before it uses it, and never allocates
//! for a length that the bytes do not have. The scanner interprets sequences of records (groups,
//! batches, marks).

use lithdb_env::UnixMillis;

use crate::bytes_le::{u16_at, u32_at, u64_at};
use crate::header::Identity;
use crate::ids::{Address, SegmentId, ShardId};
use crate::seed::{Seeds, append_word};

/// The prefix of every record: checksum, kind, flags, `n`.
pub const PREFIX_LEN: usize = 8;
/// Length of a key record without its key.
pub const KEY_FIXED_LEN: usize = 32;
/// Length of an epoch record.
pub const EPOCH_LEN: usize = 24;
/// Length of a chain record without the value file lengths.
pub const CHAIN_FIXED_LEN: usize = 32;
/// Length of a mark without the value file lengths.
pub const MARK_FIXED_LEN: usize = 40;
/// Marks are aligned to this.
pub const MARK_ALIGN: usize = 16;
/// The magic of a mark, by which a scanner finds marks after a damaged record.
pub const MARK_MAGIC: [u8; 8] = *b"LITHMARK";
/// Maximum key length, in bytes.
pub const MAX_KEY_LEN: usize = u16::MAX as usize;
/// Maximum length of a value in the key file, in bytes.
pub const MAX_INLINE_LEN: u32 = 65_536;
/// Maximum value length, in bytes.
pub const MAX_VALUE_LEN: u64 = u32::MAX as u64 - 1;
/// Maximum record length, in bytes.
pub const MAX_RECORD_LEN: usize = KEY_FIXED_LEN + MAX_KEY_LEN + MAX_INLINE_LEN as usize;

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A key and the address of its bytes.
    Key = 1,
    /// A new epoch: later checksums are seeded with its number.
    Epoch = 2,
    /// The final state of the predecessor.
    Chain = 3,
    /// What is durable.
    Mark = 4,
    /// Padding up to the alignment of a mark.
    Padding = 5,
}

/// The flags of a key record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The record of the value's primary key.
    pub const PRIMARY: Self = Self(1);
    /// The last record of its group.
    pub const END_OF_GROUP: Self = Self(2);
    /// The last record of its batch.
    pub const END_OF_BATCH: Self = Self(4);
    const ALL: u8 = 7;

    /// Whether all flags of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A key record. Borrows the key from the bytes it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRecord<'a> {
    /// Primary, last of its group, last of its batch.
    pub flags: Flags,
    /// The key, 1 to 65,535 bytes.
    pub key: &'a [u8],
    /// The file that holds the value bytes.
    pub shard: ShardId,
    /// Their offset in that file.
    pub offset: u64,
    /// Number of bytes stored.
    pub stored_len: u32,
    /// Number of bytes of the value.
    pub raw_len: u32,
    /// crc32c of the stored bytes.
    pub value_checksum: u32,
    /// How the bytes are encoded; 0 means not at all.
    pub codec: u8,
}

impl KeyRecord<'_> {
    /// Whether this is the record of the value's primary key.
    pub fn is_primary(&self) -> bool {
        self.flags.has(Flags::PRIMARY)
    }

    /// Whether the value follows the key in the key file.
    pub fn has_inline_value(&self) -> bool {
        self.is_primary() && self.shard == ShardId::INLINE
    }

    /// The length of the record with its inline value, in bytes.
    pub fn encoded_len(&self) -> usize {
        let inline = if self.has_inline_value() { self.stored_len as usize } else { 0 };
        KEY_FIXED_LEN + self.key.len() + inline
    }

    /// The address of the value bytes.
    pub fn address(&self, segment: SegmentId) -> Address {
        Address {
            segment,
            shard: self.shard,
            offset: self.offset,
            len_bytes: self.stored_len,
            checksum: self.value_checksum,
        }
    }
}

/// The final state of a segment; the first record of its successor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The segment described.
    pub predecessor: SegmentId,
    /// The length of its key file.
    pub key_end: u32,
    /// Its number of key records.
    pub records: u64,
    /// The running checksum: the checksum over the checksums of all its records.
    pub running: u32,
    /// The lengths of its value files.
    pub value_ends: Vec<u64>,
}

/// What was durable when a flush returned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Durable bytes of the key file.
    pub through: u32,
    /// When the flush returned.
    pub time: UnixMillis,
    /// Number of key records in them.
    pub records: u64,
    /// Durable bytes of each value file.
    pub value_ends: Vec<u64>,
}

/// A record of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A key record; the inline value is not checked.
    Key(KeyRecord<'a>),
    /// The number of a new epoch and when it began.
    Epoch(u64, UnixMillis),
    /// The final state of the predecessor.
    Chain(Chain),
    /// What is durable.
    Mark(Mark),
    /// The length of the padding record in bytes.
    Padding(usize),
}

/// A record, its checksum and its length in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The record.
    pub record: Record<'a>,
    /// Its checksum, for the file's running checksum.
    pub checksum: u32,
    /// Its length in bytes, with the inline value.
    pub len: usize,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The file ends before the record does.
    #[error("the file ends inside the record")]
    Truncated,
    /// Unknown record kind.
    #[error("expected a record kind of 1 to 5, found {0}")]
    Kind(u8),
    /// The checksum does not match the bytes.
    #[error("expected record checksum {expected:08x}, found {found:08x}")]
    Checksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum in the record.
        found: u32,
    },
    /// The checksum matches, but the content is invalid.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Appends records to a buffer. `offset` must be the file offset of the buffer's end.
#[derive(Debug)]
pub struct Encoder<'a> {
    /// The buffer to append to.
    pub buffer: &'a mut Vec<u8>,
    /// The file's identity.
    pub identity: Identity,
    /// The epoch of the next records.
    pub epoch: u64,
    /// The running checksum over all records so far.
    pub running: u32,
    /// The offset in the file of the next record.
    pub offset: u64,
}

impl Encoder<'_> {
    fn begin(&mut self, kind: Kind, flags: Flags, n: u16) -> usize {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[kind as u8, flags.0]);
        self.buffer.extend_from_slice(&n.to_le_bytes());
        start
    }

    fn finish(&mut self, start: usize, epoch: u64) {
        let seed = Seeds::new(&self.identity, epoch).at(self.offset as u32);
        let (_, record) = self.buffer.split_at_mut(start);
        let (field, covered) = record.split_at_mut(4);
        let checksum = crc32c::crc32c_append(seed, covered);
        field.copy_from_slice(&checksum.to_le_bytes());
        self.running = append_word(self.running, checksum);
        self.offset += (self.buffer.len() - start) as u64;
    }

    /// Appends a key record. If it has an inline value, [`inline`](Self::inline) must follow.
    pub fn key(&mut self, record: &KeyRecord<'_>) {
        let start = self.begin(Kind::Key, record.flags, record.key.len() as u16);
        self.buffer.extend_from_slice(&record.stored_len.to_le_bytes());
        self.buffer.extend_from_slice(&record.raw_len.to_le_bytes());
        self.buffer.extend_from_slice(&record.value_checksum.to_le_bytes());
        self.buffer.extend_from_slice(&record.shard.0.to_le_bytes());
        self.buffer.extend_from_slice(&[record.codec, 0]);
        self.buffer.extend_from_slice(&record.offset.to_le_bytes());
        self.buffer.extend_from_slice(record.key);
        self.finish(start, self.epoch);
    }

    /// Appends the inline value of the preceding key record.
    pub fn inline(&mut self, value: &[u8]) {
        self.buffer.extend_from_slice(value);
        self.offset += value.len() as u64;
    }

    /// Appends an epoch record; later records are seeded with `epoch`.
    pub fn epoch(&mut self, epoch: u64, time: UnixMillis) {
        let start = self.begin(Kind::Epoch, Flags::default(), 0);
        self.buffer.extend_from_slice(&epoch.to_le_bytes());
        self.buffer.extend_from_slice(&time.0.to_le_bytes());
        self.finish(start, self.identity.salt);
        self.epoch = epoch;
    }

    /// Appends a chain record.
    pub fn chain(&mut self, chain: &Chain) {
        let start = self.begin(Kind::Chain, Flags::default(), chain.value_ends.len() as u16);
        self.buffer.extend_from_slice(&chain.predecessor.0.to_le_bytes());
        self.buffer.extend_from_slice(&chain.key_end.to_le_bytes());
        self.buffer.extend_from_slice(&chain.records.to_le_bytes());
        self.buffer.extend_from_slice(&chain.running.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.lengths(&chain.value_ends);
        self.finish(start, self.identity.salt);
    }

    /// Appends a mark, after the padding it needs.
    pub fn mark(&mut self, mark: &Mark) {
        let padding = padding_before_mark(self.offset);
        if padding > 0 {
            let start = self.begin(Kind::Padding, Flags::default(), padding as u16);
            self.buffer.resize(start + padding, 0);
            self.finish(start, self.epoch);
        }
        let start = self.begin(Kind::Mark, Flags::default(), mark.value_ends.len() as u16);
        self.buffer.extend_from_slice(&MARK_MAGIC);
        self.buffer.extend_from_slice(&mark.through.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&mark.time.0.to_le_bytes());
        self.buffer.extend_from_slice(&mark.records.to_le_bytes());
        self.lengths(&mark.value_ends);
        self.finish(start, self.identity.salt);
    }

    fn lengths(&mut self, lengths: &[u64]) {
        for len in lengths {
            self.buffer.extend_from_slice(&len.to_le_bytes());
        }
    }
}

/// The length of the padding record before a mark at `offset`: 0, or 8 to 23.
pub const fn padding_before_mark(offset: u64) -> usize {
    let gap = (MARK_ALIGN - (offset % MARK_ALIGN as u64) as usize) % MARK_ALIGN;
    if gap == 0 || gap >= PREFIX_LEN { gap } else { gap + MARK_ALIGN }
}

/// The maximum length of a mark with its padding, in bytes.
pub const fn max_mark_len(shards: u16) -> u64 {
    (MARK_FIXED_LEN + 8 * shards as usize + MARK_ALIGN + PREFIX_LEN) as u64
}

/// Decodes the record at the start of `bytes`, which is at `offset` in the file of `identity`.
pub fn decode<'a>(
    identity: &Identity,
    epoch: u64,
    offset: u32,
    bytes: &'a [u8],
) -> Result<Decoded<'a>, Invalid> {
    decode_with(&FileSeeds::new(identity, epoch), offset, bytes)
}

/// The checksum seeds of a file at the current epoch of its reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileSeeds {
    epoch: Seeds,
    salt: Seeds,
}

impl FileSeeds {
    pub(crate) fn new(identity: &Identity, epoch: u64) -> Self {
        Self { epoch: Seeds::new(identity, epoch), salt: Seeds::new(identity, identity.salt) }
    }
}

/// Like [`decode`], for decoding many records of one file.
pub(crate) fn decode_with<'a>(
    seeds: &FileSeeds,
    offset: u32,
    bytes: &'a [u8],
) -> Result<Decoded<'a>, Invalid> {
    let prefix = bytes.first_chunk::<PREFIX_LEN>().ok_or(Invalid::Truncated)?;
    let [a, b, c, d, kind, flags, n0, n1] = *prefix;
    let found = u32::from_le_bytes([a, b, c, d]);
    let n = usize::from(u16::from_le_bytes([n0, n1]));
    let (kind, covered) = kind_and_len(kind, n).ok_or(Invalid::Kind(kind))?;
    let seeds = if matches!(kind, Kind::Key | Kind::Padding) { seeds.epoch } else { seeds.salt };
    let record = bytes.get(..covered).ok_or(Invalid::Truncated)?;
    let body = record.get(4..).ok_or(Invalid::Truncated)?;
    let expected = crc32c::crc32c_append(seeds.at(offset), body);
    if expected != found {
        return Err(Invalid::Checksum { expected, found });
    }
    if kind != Kind::Key && flags != 0 {
        return Err(Invalid::Malformed("expected no flags"));
    }
    let record = match kind {
        Kind::Key => {
            let record = key_record(flags, record)?;
            let len = record.encoded_len();
            if record.has_inline_value() {
                let expected = u64::from(offset) + covered as u64;
                if record.offset != expected || record.stored_len > MAX_INLINE_LEN {
                    return Err(Invalid::Malformed("expected the inline value after the key"));
                }
            }
            if bytes.len() < len {
                return Err(Invalid::Truncated);
            }
            return Ok(Decoded { record: Record::Key(record), checksum: found, len });
        }
        Kind::Epoch => Record::Epoch(field64(record, 8)?, UnixMillis(field64(record, 16)?)),
        Kind::Chain => Record::Chain(Chain {
            predecessor: SegmentId(field32(record, 8)?),
            key_end: field32(record, 12)?,
            records: field64(record, 16)?,
            running: field32(record, 24)?,
            value_ends: lengths(record, CHAIN_FIXED_LEN),
        }),
        Kind::Mark => {
            if record.get(8..16) != Some(&MARK_MAGIC) {
                return Err(Invalid::Malformed("expected the magic of a mark"));
            }
            Record::Mark(Mark {
                through: field32(record, 16)?,
                time: UnixMillis(field64(record, 24)?),
                records: field64(record, 32)?,
                value_ends: lengths(record, MARK_FIXED_LEN),
            })
        }
        Kind::Padding => Record::Padding(covered),
    };
    Ok(Decoded { record, checksum: found, len: covered })
}

/// The kind with this number, and the length of such a record without an inline value.
fn kind_and_len(kind: u8, n: usize) -> Option<(Kind, usize)> {
    Some(match kind {
        1 => (Kind::Key, KEY_FIXED_LEN + n),
        2 => (Kind::Epoch, EPOCH_LEN),
        3 => (Kind::Chain, CHAIN_FIXED_LEN + 8 * n),
        4 => (Kind::Mark, MARK_FIXED_LEN + 8 * n),
        5 => (Kind::Padding, n.max(PREFIX_LEN)),
        _ => return None,
    })
}

/// The length of the record at the start of `bytes` by its own fields, with the inline value.
/// Nothing is verified.
pub(crate) fn encoded_len(bytes: &[u8]) -> Option<usize> {
    match kind_and_len(*bytes.get(4)?, usize::from(u16_at(bytes, 6)?))? {
        (Kind::Key, _) => Some(decode_unchecked(bytes)?.encoded_len()),
        (_, len) => Some(len),
    }
}

/// Decodes the key record at the start of `bytes` without verifying it, for a caller that verifies
/// the checksum itself.
pub fn decode_unchecked(bytes: &[u8]) -> Option<KeyRecord<'_>> {
    let n = usize::from(u16_at(bytes, 6)?);
    Some(KeyRecord {
        flags: Flags(*bytes.get(5)?),
        key: bytes.get(KEY_FIXED_LEN..KEY_FIXED_LEN + n)?,
        stored_len: u32_at(bytes, 8)?,
        raw_len: u32_at(bytes, 12)?,
        value_checksum: u32_at(bytes, 16)?,
        shard: ShardId(u16_at(bytes, 20)?),
        codec: *bytes.get(22)?,
        offset: u64_at(bytes, 24)?,
    })
}

/// Verifies the checksum of the key record that is exactly `bytes`, without an inline value.
pub(crate) fn check_key_record(
    identity: &Identity,
    epoch: u64,
    offset: u32,
    bytes: &[u8],
) -> Result<(), Invalid> {
    let found = u32_at(bytes, 0).ok_or(Invalid::Truncated)?;
    let kind = bytes.get(4).copied().ok_or(Invalid::Truncated)?;
    if kind != Kind::Key as u8 {
        return Err(Invalid::Kind(kind));
    }
    let body = bytes.get(4..).ok_or(Invalid::Truncated)?;
    match crc32c::crc32c_append(Seeds::new(identity, epoch).at(offset), body) {
        expected if expected == found => Ok(()),
        expected => Err(Invalid::Checksum { expected, found }),
    }
}

fn key_record(flags: u8, record: &[u8]) -> Result<KeyRecord<'_>, Invalid> {
    let decoded = decode_unchecked(record).ok_or(Invalid::Truncated)?;
    if decoded.key.is_empty() || flags & !Flags::ALL != 0 {
        return Err(Invalid::Malformed("expected a key and known flags"));
    }
    if decoded.codec != 0 || decoded.stored_len != decoded.raw_len {
        return Err(Invalid::Malformed("expected codec 0 and equal lengths"));
    }
    Ok(decoded)
}

fn field32(record: &[u8], offset: usize) -> Result<u32, Invalid> {
    u32_at(record, offset).ok_or(Invalid::Truncated)
}

fn field64(record: &[u8], offset: usize) -> Result<u64, Invalid> {
    u64_at(record, offset).ok_or(Invalid::Truncated)
}

fn lengths(record: &[u8], from: usize) -> Vec<u64> {
    let (lengths, _) = record.get(from..).unwrap_or_default().as_chunks::<8>();
    lengths.iter().map(|len| u64::from_le_bytes(*len)).collect()
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
