//! The META row: which version the rows of the engine are, and their totals.
//!
//! It is put into a memtable only when that is sealed, so it becomes durable exactly with the rows
//! of its version. The engine has a checksum of its own; the root guards the set hashes besides.
//!
//! # Format
//! The key is `00 6D`; the name of a store never begins with a zero. The value, little-endian:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `LSMT` |
//! | 4 | 1 | format, 1 |
//! | 5 | 1 | kind, 0 |
//! | 6 | 2 | flags, 0 |
//! | 8 | 16 | id of the store |
//! | 24 | 8 | version |
//! | 32 | 32 | root: that of the totals |
//! | 64 | 2 | number of stores |
//! | 66 | | the stores, as in a base record of the [log](crate::record) |

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::RootHash;

use crate::files::StoreId;
use crate::record::fields::{Fields, HEAD_LEN, put_head, put_totals, totals_len};
use crate::totals::Totals;

/// The key of the row.
pub(crate) const META_KEY: &[u8] = &[0x00, 0x6d];

const MAGIC: [u8; 4] = *b"LSMT";
/// The length of what comes before the number of stores.
const FIXED_LEN: usize = HEAD_LEN + StoreId::LEN + 8 + RootHash::LEN;
/// What the bytes are, in messages.
const NAME: &str = "row META of the working copy";

/// The META row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) store: StoreId,
    pub(crate) version: u64,
    /// The root of the totals.
    pub(crate) root: RootHash,
    pub(crate) totals: Totals,
}

impl Meta {
    /// The value of the row.
    ///
    /// # Errors
    /// `Exhausted` without the memory for it.
    ///
    /// # Panics
    /// If the root is not that of the totals.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        assert_eq!(self.root, self.totals.root(), "the root is that of the totals");
        let len = FIXED_LEN + totals_len(&self.totals);
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| Error::out_of_memory(NAME, len))?;
        put_head(&mut out, MAGIC, 0);
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.root.0);
        put_totals(&mut out, &self.totals);
        assert_eq!(out.len(), len, "the length of the row is known beforehand");
        Ok(out)
    }

    /// The row in a value. Never panics, and allocates no more than the value justifies.
    ///
    /// # Errors
    /// `Corrupt` unless [`encode`](Self::encode) makes exactly this value; `Unsupported` for a
    /// format, a kind or flags of a newer build.
    pub(crate) fn decode(value: &Bytes) -> Result<Self> {
        let mut fields = Fields::new(&NAME, value);
        let kind = fields.head(MAGIC)?;
        if kind != 0 {
            let found = format_args!("kind {kind}: a newer build wrote it");
            return Err(fields.error(ErrorKind::Unsupported, "kind 0", found));
        }
        let store = fields.store_id()?;
        let version = fields.u64("a version")?;
        let root = fields.root("a root")?;
        let totals = fields.totals()?;
        let expected = totals.root();
        if root != expected {
            let message =
                format!("{NAME}: expected the root of its totals, {expected}, found {root}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Self { store, version, root, totals })
    }
}

/// Decodes a META row and encodes it again, for the fuzzer.
#[doc(hidden)]
pub fn reencode_meta(value: &Bytes) -> Result<Vec<u8>> {
    Meta::decode(value)?.encode()
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
