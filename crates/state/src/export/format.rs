//! The bytes of an export: header, frames, trailer. Written here once, for the writer and the
//! reader; `docs/FORMAT.md` has the tables.
//!
//! The encoding is canonical: a state has one export. So the trailer needs no decoder: the reader
//! makes the one that the rows must have, and compares the bytes.

use std::fmt;

use bytes::Bytes;
use lithdb_env::{ErrorKind, Result};
use lithdb_lthash::RootHash;

use crate::record::fields::Fields;
use crate::store_name::StoreName;
use crate::totals::{MAX_STORES, Totals};

const MAGIC: [u8; 8] = *b"LITHSEXP";
const FORMAT: u16 = 1;
/// The length of the header.
pub(super) const HEADER_LEN: usize = 8 + 2 + 2 + 8 + RootHash::LEN + 4;
/// The length of kind, length and checksum of a frame.
pub(super) const FRAME_HEAD_LEN: usize = 12;
/// The maximum length of a frame without its head, and the length of every frame with rows but the
/// last.
pub(super) const MAX_PAYLOAD_LEN: usize = 1 << 20;

/// Begins a store in the rows: its name follows.
pub(super) const STORE: u8 = 1;
/// Begins a row of the store: key, `modified_at` and value follow.
pub(super) const ROW: u8 = 2;

/// The length of the trailer's store with the longest name.
const MAX_STORE_LEN: usize = 1 + StoreName::MAX_LEN + 8 + 8 + RootHash::LEN;
const _: () = assert!(8 + 8 + 2 + MAX_STORES * MAX_STORE_LEN + blake3::OUT_LEN <= MAX_PAYLOAD_LEN);

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u64,
    /// The root of the rows.
    pub(crate) root: RootHash,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// # Errors
    /// `Corrupt`; `Unsupported` for a format or flags of a newer build.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self> {
        let mut fields = Fields::new(&"the export", bytes);
        let magic = *fields.array("a magic")?;
        if magic != MAGIC {
            let found = format_args!("{magic:02x?}: this is no export of a state store");
            return Err(fields.corrupt("magic LITHSEXP", found));
        }
        let newer = |fields: &Fields<'_>, expected: &dyn fmt::Display, found: u16| {
            let found = format_args!("{found}: a newer build wrote it");
            fields.error(ErrorKind::Unsupported, &expected.to_string(), found)
        };
        let format = fields.u16("a format")?;
        if format != FORMAT {
            return Err(newer(&fields, &format_args!("format {FORMAT}"), format));
        }
        let flags = fields.u16("flags")?;
        let version = fields.u64("a version")?;
        let root = fields.root("a root")?;
        let covered = bytes.len() - fields.remaining();
        let (covered, _) = bytes.split_at(covered);
        let (expected, found) = (crc32c::crc32c(covered), fields.u32("a checksum")?);
        if found != expected {
            let expected = format!("checksum {expected:08x}");
            return Err(fields.corrupt(&expected, format_args!("{found:08x}")));
        }
        if flags != 0 {
            return Err(newer(&fields, &"flags 0", flags));
        }
        fields.finish()?;
        Ok(Self { version, root })
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum FrameKind {
    Rows = 1,
    Trailer = 2,
}

impl FrameKind {
    pub(super) fn of(number: u32) -> Option<Self> {
        [Self::Rows, Self::Trailer].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Kind, length and checksum of the frame `number`, from 0.
pub(super) fn frame_head(kind: FrameKind, number: u64, payload: &[u8]) -> [u8; FRAME_HEAD_LEN] {
    assert!((1..=MAX_PAYLOAD_LEN).contains(&payload.len()), "the length of a frame is bounded");
    let [kind, len] = [kind as u32, payload.len() as u32].map(u32::to_le_bytes);
    let checksum = frame_checksum(number, kind, len, payload).to_le_bytes();
    let mut head = [0; FRAME_HEAD_LEN];
    for (byte, value) in head.iter_mut().zip([kind, len, checksum].as_flattened()) {
        *byte = *value;
    }
    head
}

/// The checksum covers the number of the frame, so that none can be moved.
pub(super) fn frame_checksum(number: u64, kind: [u8; 4], len: [u8; 4], payload: &[u8]) -> u32 {
    let head = crc32c::crc32c(&number.to_le_bytes());
    let head = crc32c::crc32c_append(head, [kind, len].as_flattened());
    crc32c::crc32c_append(head, payload)
}

/// The trailer of rows with these totals; `before` has hashed everything before it.
pub(super) fn trailer(totals: &Totals, before: &blake3::Hasher) -> Vec<u8> {
    let (rows, bytes) = sums(totals);
    let mut out = Vec::new();
    out.extend_from_slice(&rows.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    assert!(totals.len() <= MAX_STORES, "the number of stores has been checked");
    out.extend_from_slice(&(totals.len() as u16).to_le_bytes());
    for (name, of_store) in totals.iter() {
        let name = name.as_str().as_bytes();
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(&of_store.keys.to_le_bytes());
        out.extend_from_slice(&of_store.bytes.to_le_bytes());
        out.extend_from_slice(&of_store.vector.root().0);
    }
    let mut hasher = before.clone();
    hasher.update(&out);
    out.extend_from_slice(hasher.finalize().as_bytes());
    out
}

/// The number of all rows, and the bytes of their keys and values.
pub(crate) fn sums(totals: &Totals) -> (u64, u64) {
    totals
        .iter()
        .fold((0, 0), |(rows, bytes), (_, of_store)| (rows + of_store.keys, bytes + of_store.bytes))
}
