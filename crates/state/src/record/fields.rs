//! The fields of records and of META rows: one reader that never panics, and the writers.
//!
//! Integers are little-endian. Nothing is allocated for a length or a number before the bytes that
//! it stands for are known to be there; keys and values are slices of the input.

use std::fmt;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::{LtHash, RootHash};

use crate::files::StoreId;
use crate::row::short;
use crate::store_name::{StoreName, problem};
use crate::totals::{MAX_STORES, StoreTotals, Totals};

/// The version of both formats.
pub(crate) const FORMAT: u8 = 1;
/// The length of magic, format, kind and flags.
pub(crate) const HEAD_LEN: usize = 8;
/// The length of a store without its name and its changes.
pub(crate) const STORE_FIXED_LEN: usize = 1 + LtHash::LEN + 8 + 8 + 4;

/// Reads one field after the other.
pub(crate) struct Fields<'a> {
    /// What the bytes are, for messages.
    of: &'a dyn fmt::Display,
    bytes: &'a Bytes,
    /// Where the next field begins: within `bytes` or at their end.
    at: usize,
    /// Where the last field began, for messages.
    last: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(of: &'a dyn fmt::Display, bytes: &'a Bytes) -> Self {
        Self { of, bytes, at: 0, last: 0 }
    }

    /// The number of bytes that have not been read.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about the field that was read last.
    pub(crate) fn error(&self, kind: ErrorKind, expected: &str, found: impl fmt::Display) -> Error {
        let (of, at) = (self.of, self.last);
        Error::new(kind, format!("{of} at offset {at}: expected {expected}, found {found}"))
    }

    /// As [`error`](Self::error), of kind `Corrupt`.
    pub(crate) fn corrupt(&self, expected: &str, found: impl fmt::Display) -> Error {
        self.error(ErrorKind::Corrupt, expected, found)
    }

    /// The next field, of `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<&'a [u8; N]> {
        let (_, rest) = self.bytes.split_at(self.at);
        self.last = self.at;
        let Some(array) = rest.first_chunk() else {
            return Err(self.corrupt(&format!("{what} of {N} bytes"), rest.len()));
        };
        self.at += N;
        Ok(array)
    }

    pub(crate) fn u8(&mut self, what: &str) -> Result<u8> {
        let [byte] = *self.array(what)?;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self, what: &str) -> Result<u16> {
        self.array(what).map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(|bytes| u64::from_le_bytes(*bytes))
    }

    pub(crate) fn i64(&mut self, what: &str) -> Result<i64> {
        self.array(what).map(|bytes| i64::from_le_bytes(*bytes))
    }

    pub(crate) fn root(&mut self, what: &str) -> Result<RootHash> {
        self.array(what).map(|bytes| RootHash(*bytes))
    }

    pub(crate) fn vector(&mut self) -> Result<LtHash> {
        self.array("a set hash").map(LtHash::from_bytes)
    }

    pub(crate) fn store_id(&mut self) -> Result<StoreId> {
        self.array("the id of the store").map(|bytes| StoreId(*bytes))
    }

    /// The next field, of `len` bytes, without copying.
    pub(crate) fn bytes(&mut self, what: &str, len: usize) -> Result<Bytes> {
        self.last = self.at;
        if len > self.remaining() {
            return Err(self.corrupt(&format!("{what} of {len} bytes"), self.remaining()));
        }
        self.at += len;
        Ok(self.bytes.slice(self.last..self.at))
    }

    /// Magic, format, kind and flags: returns the kind.
    pub(crate) fn head(&mut self, magic: [u8; 4]) -> Result<u8> {
        let found = *self.array("a magic")?;
        if found != magic {
            let text = String::from_utf8_lossy(&magic);
            return Err(self.corrupt(&format!("magic {text}"), format_args!("{found:02x?}")));
        }
        let newer = |fields: &Self, expected: &str, found: u16| {
            let found = format_args!("{found}: a newer build wrote it");
            fields.error(ErrorKind::Unsupported, expected, found)
        };
        let format = self.u8("a format")?;
        if format != FORMAT {
            return Err(newer(self, &format!("format {FORMAT}"), format.into()));
        }
        let kind = self.u8("a kind")?;
        let flags = self.u16("flags")?;
        match flags {
            0 => Ok(kind),
            _ => Err(newer(self, "flags 0", flags)),
        }
    }

    /// The name of a store, after `previous`.
    pub(crate) fn name(&mut self, previous: Option<&StoreName>) -> Result<StoreName> {
        let len = self.u8("the length of a store's name")?;
        let bytes = self.bytes("the name of a store", len.into())?;
        let Ok(name) = std::str::from_utf8(&bytes) else {
            return Err(self.corrupt("the name of a store", short(&bytes)));
        };
        if let Some(problem) = problem(name) {
            return Err(self.corrupt("the name of a store", format_args!("{name:?}: {problem}")));
        }
        let name = StoreName::new(name)?;
        match previous {
            Some(previous) if *previous >= name => {
                Err(self.corrupt(&format!("a store after {previous}"), name))
            }
            _ => Ok(name),
        }
    }

    /// All that remains: the totals of all stores.
    pub(crate) fn totals(mut self) -> Result<Totals> {
        let count: usize = self.u16("the number of stores")?.into();
        if count > MAX_STORES {
            return Err(self.corrupt(&format!("at most {MAX_STORES} stores"), count));
        }
        let mut totals = Totals::default();
        let mut previous = None;
        for _ in 0..count {
            let name = self.name(previous.as_ref())?;
            let vector = self.vector()?;
            let keys = self.u64("the number of keys")?;
            if keys == 0 {
                return Err(self.corrupt("at least 1 key", keys));
            }
            let bytes = self.u64("the number of bytes")?;
            let changes = self.u32("the number of changes")?;
            if changes != 0 {
                return Err(self.corrupt("0 changes", changes));
            }
            totals.set(name.clone(), StoreTotals { vector, keys, bytes });
            previous = Some(name);
        }
        self.finish()?;
        Ok(totals)
    }

    /// Refuses bytes after the last field.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.last = self.at;
        match self.remaining() {
            0 => Ok(()),
            more => Err(self.corrupt("the end", format_args!("{more} more bytes"))),
        }
    }
}

pub(crate) fn put_head(out: &mut Vec<u8>, magic: [u8; 4], kind: u8) {
    out.extend_from_slice(&magic);
    out.extend_from_slice(&[FORMAT, kind, 0, 0]);
}

/// Everything of a store before its changes.
pub(crate) fn put_store(
    out: &mut Vec<u8>,
    name: &StoreName,
    vector: &LtHash,
    [keys, bytes]: [[u8; 8]; 2],
    changes: u32,
) {
    let name = name.as_str().as_bytes();
    assert!(name.len() <= StoreName::MAX_LEN, "a name has been checked");
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.extend_from_slice(&vector.to_bytes());
    out.extend_from_slice(&keys);
    out.extend_from_slice(&bytes);
    out.extend_from_slice(&changes.to_le_bytes());
}

/// The totals of all stores, as [`Fields::totals`] reads them.
pub(crate) fn put_totals(out: &mut Vec<u8>, totals: &Totals) {
    assert!(totals.len() <= MAX_STORES, "the number of stores has been checked");
    out.extend_from_slice(&(totals.len() as u16).to_le_bytes());
    for (name, of_store) in totals.iter() {
        assert!(of_store.keys > 0, "store {name} is listed, so it has keys");
        let counts = [of_store.keys, of_store.bytes].map(u64::to_le_bytes);
        put_store(out, name, &of_store.vector, counts, 0);
    }
}

/// The length of what [`put_totals`] appends.
pub(crate) fn totals_len(totals: &Totals) -> usize {
    let stores = totals.iter().map(|(name, _)| STORE_FIXED_LEN + name.as_str().len());
    2 + stores.sum::<usize>()
}
