//! A record of the log: what one version changes, and the root before and after it.
//!
//! The log is the truth, so a record says everything that replaying a version needs: the new
//! values, and what they add to the totals. Its encoding is canonical: stores and keys ascend
//! strictly, so a record has one encoding, and whatever decodes is encoded to the same bytes. It
//! has no checksum: LithDB verifies one for each value before it returns it. What a record holds is
//! believed only as far as the roots agree: the root before it with that of the version before, the
//! root after it with the totals that result.
//!
//! # Format
//! The key is the version, u64 **big-endian**. The value, little-endian:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `LSWR` |
//! | 4 | 1 | format, 1 |
//! | 5 | 1 | kind: 1 base, 2 commit |
//! | 6 | 2 | flags, 0 |
//! | 8 | 16 | id of the store |
//! | 24 | 8 | version, as in the key |
//! | 32 | 32 | root before the version; in a base record its own root |
//! | 64 | 32 | root after the version |
//! | 96 | 8 | time, milliseconds since 1970 |
//! | 104 | 2 | number of stores |
//! | 106 | | the stores, names strictly ascending |
//!
//! A store:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 + n | length of the name, 1 to 64; name |
//! | 2,048 | commit: what is added to the set hash. Base: the set hash |
//! | 8 | commit: i64, what is added to the number of keys. Base: u64, the number, at least 1 |
//! | 8 | commit: i64, what is added to the bytes of keys and values. Base: u64, the bytes |
//! | 4 | number of changes: in a commit at least 1, in a base record 0 |
//! | | the changes, keys strictly ascending |
//!
//! A change:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | 1 put, 2 delete |
//! | 2 + n | length of the key, 1 to 65,000; key without the name of the store |
//! | 4 + n | put: length of the value, at most 256 MiB; value |
//!
//! A **base** record is the first of a log: the state with which its history begins. It has no
//! changes, and its root is that of its totals. A new store begins with an empty one, an imported
//! one with the totals of what was imported.

use std::fmt;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result, UnixMillis, human};
use lithdb_lthash::RootHash;
use lithdb_segment::record::MAX_VALUE_LEN as MAX_RECORD_LEN;

use crate::files::StoreId;
use crate::row::{MAX_KEY_LEN, MAX_VALUE_LEN, check_lengths, short};
pub(crate) use crate::totals::StoreDelta;
use crate::totals::Totals;

pub(crate) mod fields;

use fields::{Fields, HEAD_LEN, STORE_FIXED_LEN, put_head, put_store, put_totals, totals_len};

const MAGIC: [u8; 4] = *b"LSWR";
const BASE: u8 = 1;
const COMMIT: u8 = 2;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// The length of what comes before the number of stores.
const FIXED_LEN: usize = HEAD_LEN + StoreId::LEN + 8 + 2 * RootHash::LEN + 8;
/// The least length of a change: a deletion of a key of one byte.
const MIN_CHANGE_LEN: usize = 1 + 2 + 1;

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The store that wrote it.
    pub(crate) store: StoreId,
    /// The version after the record.
    pub(crate) version: u64,
    /// The hash of all rows before it; in a base record that of its own rows.
    pub(crate) previous_root: RootHash,
    /// The hash of all rows after it.
    pub(crate) root: RootHash,
    /// When it was written, by the wall clock.
    pub(crate) time: UnixMillis,
    pub(crate) body: Body,
}

/// What a [record](Record) says before its stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) store: StoreId,
    pub(crate) version: u64,
    pub(crate) previous_root: RootHash,
    pub(crate) root: RootHash,
    pub(crate) time: UnixMillis,
    /// Whether the history begins with it.
    pub(crate) is_base: bool,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Where the history begins: the totals of what is there.
    Base(Totals),
    /// The changes of a version, by ascending names of stores.
    Commit(Vec<StoreDelta>),
}

/// Names a record in messages.
struct Named(u64);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record of version {}", self.0)
    }
}

impl Record {
    /// Whether the history begins with it.
    pub(crate) fn is_base(&self) -> bool {
        matches!(self.body, Body::Base(_))
    }

    /// The value of the record; its key is the version.
    ///
    /// # Errors
    /// `InvalidArgument` if a key, a value or the record is too long; `Exhausted` without the
    /// memory for it.
    ///
    /// # Panics
    /// If stores or keys do not ascend, a store has no changes, or a base record has another root
    /// than its totals.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let len = self.encoded_len()?;
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| Error::out_of_memory("a record", len))?;
        put_head(&mut out, MAGIC, if self.is_base() { BASE } else { COMMIT });
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.previous_root.0);
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.time.0.to_le_bytes());
        match &self.body {
            Body::Base(totals) => {
                assert_eq!(self.base_root(totals), None, "a base record has the root of its rows");
                put_totals(&mut out, totals);
            }
            Body::Commit(stores) => put_stores(&mut out, stores)?,
        }
        assert_eq!(out.len(), len, "the length of a record is known beforehand");
        Ok(out)
    }

    fn encoded_len(&self) -> Result<usize> {
        let stores = match &self.body {
            Body::Base(totals) => totals_len(totals) as u64,
            Body::Commit(stores) => 2 + stores.iter().map(store_len).sum::<u64>(),
        };
        let len = FIXED_LEN as u64 + stores;
        if len > MAX_RECORD_LEN {
            let message = format!(
                "{}: expected at most {MAX_RECORD_LEN} bytes, found {len}; commit less at a time",
                Named(self.version)
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(len as usize)
    }

    /// The root of `totals`, if this base record has another.
    fn base_root(&self, totals: &Totals) -> Option<RootHash> {
        let root = totals.root();
        (self.root != root || self.previous_root != root).then_some(root)
    }

    /// The record in a value of the log's table; keys and values are slices of it. Never panics,
    /// and allocates no more than the value justifies.
    ///
    /// # Errors
    /// `Corrupt` unless [`encode`](Self::encode) makes exactly this value, and the key is its
    /// version; `Unsupported` for a format, a kind or flags of a newer build; `Exhausted` without
    /// the memory for it.
    pub(crate) fn decode(version_key: &[u8], value: &Bytes) -> Result<Self> {
        let named = Named(version_of(version_key)?);
        let mut fields = Fields::new(&named, value);
        let head = RecordHead::read(named.0, &mut fields)?;
        let RecordHead { store, version, previous_root, root, time, is_base } = head;
        let body = match is_base {
            true => Body::Base(fields.totals()?),
            false => Body::Commit(commit(fields)?),
        };
        let record = Self { store, version, previous_root, root, time, body };
        if let Body::Base(totals) = &record.body
            && let Some(expected) = record.base_root(totals)
        {
            let message = format!(
                "{named}: expected the root of its rows, {expected}, found {previous_root} before \
                 and {root} after it"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(record)
    }
}

impl RecordHead {
    /// The head of the record in a value of the log's table. Does not look at the stores.
    ///
    /// # Errors
    /// As [`Record::decode`], as far as it reads.
    pub(crate) fn decode(version_key: &[u8], value: &Bytes) -> Result<Self> {
        let named = Named(version_of(version_key)?);
        Self::read(named.0, &mut Fields::new(&named, value))
    }

    fn read(version: u64, fields: &mut Fields<'_>) -> Result<Self> {
        let kind = fields.head(MAGIC)?;
        if kind != BASE && kind != COMMIT {
            let expected = format!("kind {BASE} or {COMMIT}");
            let found = format_args!("kind {kind}: a newer build wrote it");
            return Err(fields.error(ErrorKind::Unsupported, &expected, found));
        }
        let store = fields.store_id()?;
        let own_version = fields.u64("a version")?;
        if own_version != version {
            return Err(fields.corrupt(&format!("version {version}, as in its key"), own_version));
        }
        let previous_root = fields.root("the root before it")?;
        let root = fields.root("the root after it")?;
        let time = UnixMillis(fields.u64("a time")?);
        Ok(Self { store, version, previous_root, root, time, is_base: kind == BASE })
    }
}

/// Decodes a record and encodes it again, for the fuzzer.
#[doc(hidden)]
pub fn reencode_record(version_key: &[u8], value: &Bytes) -> Result<Vec<u8>> {
    Record::decode(version_key, value)?.encode()
}

/// The version in a key of the log.
///
/// # Errors
/// `Corrupt` unless it has 8 bytes.
pub(crate) fn version_of(key: &[u8]) -> Result<u64> {
    let Some((version, [])) = key.split_first_chunk() else {
        let found = human::hex(key);
        let message = format!("a key of the log: expected a version of 8 bytes, found 0x{found}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    };
    Ok(u64::from_be_bytes(*version))
}

fn store_len(store: &StoreDelta) -> u64 {
    let changes = store.changes.iter().map(|(key, value)| {
        let value = value.as_ref().map_or(0, |value| 4 + value.len());
        (1 + 2 + key.len() + value) as u64
    });
    (STORE_FIXED_LEN + store.name.as_str().len()) as u64 + changes.sum::<u64>()
}

fn too_many<T>(what: &str, found: usize, max: usize) -> Result<T> {
    let message = format!("expected at most {max} {what} in a commit, found {found}");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

fn put_stores(out: &mut Vec<u8>, stores: &[StoreDelta]) -> Result<()> {
    let Ok(count) = u16::try_from(stores.len()) else {
        return too_many("stores", stores.len(), u16::MAX.into());
    };
    assert!(
        stores.is_sorted_by(|one, next| one.name < next.name),
        "the stores of a record ascend strictly"
    );
    out.extend_from_slice(&count.to_le_bytes());
    stores.iter().try_for_each(|store| put_changes(out, store))
}

fn put_changes(out: &mut Vec<u8>, store: &StoreDelta) -> Result<()> {
    let Ok(count) = u32::try_from(store.changes.len()) else {
        return too_many("changes of a store", store.changes.len(), u32::MAX as usize);
    };
    assert!(count > 0, "store {} is changed, so it has changes", store.name);
    assert!(
        store.changes.is_sorted_by(|(key, _), (next, _)| key < next),
        "the keys of store {} ascend strictly",
        store.name
    );
    let counts = [store.keys, store.bytes].map(i64::to_le_bytes);
    put_store(out, &store.name, &store.delta, counts, count);
    for (key, value) in &store.changes {
        check_lengths(&store.name, key, value.as_deref())?;
        out.push(if value.is_some() { PUT } else { DELETE });
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key);
        if let Some(value) = value {
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
    }
    Ok(())
}

/// All that remains: the changes of a commit.
fn commit(mut fields: Fields<'_>) -> Result<Vec<StoreDelta>> {
    let count = fields.u16("the number of stores")?;
    let mut stores: Vec<StoreDelta> = Vec::new();
    for _ in 0..count {
        let name = fields.name(stores.last().map(|store| &store.name))?;
        let delta = fields.vector()?;
        let keys = fields.i64("the change of the number of keys")?;
        let bytes = fields.i64("the change of the number of bytes")?;
        let changes = changes(&mut fields)?;
        stores.push(StoreDelta { name, delta, keys, bytes, changes });
    }
    fields.finish()?;
    Ok(stores)
}

fn changes(fields: &mut Fields<'_>) -> Result<Vec<(Bytes, Option<Bytes>)>> {
    let count = fields.u32("the number of changes")? as usize;
    let most = fields.remaining() / MIN_CHANGE_LEN;
    if count == 0 || count > most {
        return Err(fields.corrupt(&format!("1 to {most} changes"), count));
    }
    // A change takes more memory than its bytes: room for a number that the rest of the record may
    // not have would be many times its length.
    let mut changes: Vec<(Bytes, Option<Bytes>)> = Vec::new();
    for _ in 0..count {
        changes.try_reserve(1).map_err(|_| {
            let doubled = 2 * size_of_val(changes.as_slice());
            Error::out_of_memory("the changes of a record", doubled)
        })?;
        let tag = fields.u8("a change")?;
        if tag != PUT && tag != DELETE {
            return Err(fields.corrupt("1 (put) or 2 (delete)", tag));
        }
        let key = key(fields)?;
        if let Some((previous, _)) = changes.last()
            && *previous >= key
        {
            return Err(fields.corrupt(&format!("a key after {}", short(previous)), short(&key)));
        }
        let value = if tag == PUT { Some(value(fields)?) } else { None };
        changes.push((key, value));
    }
    Ok(changes)
}

fn key(fields: &mut Fields<'_>) -> Result<Bytes> {
    let len: usize = fields.u16("the length of a key")?.into();
    if len == 0 || len > MAX_KEY_LEN {
        return Err(fields.corrupt(&format!("a key of 1 to {MAX_KEY_LEN} bytes"), len));
    }
    fields.bytes("a key", len)
}

fn value(fields: &mut Fields<'_>) -> Result<Bytes> {
    let len = fields.u32("the length of a value")? as usize;
    if len > MAX_VALUE_LEN {
        return Err(fields.corrupt(&format!("a value of at most {MAX_VALUE_LEN} bytes"), len));
    }
    fields.bytes("a value", len)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
