//! The input of a put: values with their keys, alone or in a batch, checked against the limits of
//! the format and of a batch before anything is written.

use std::ops::{Bound, RangeBounds};

use lithdb_env::{Error, ErrorKind, Result, human};
use lithdb_segment::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
use lithdb_segment::{Alias, Group};

/// The largest number of bytes of keys and values in one batch: a batch lies in one segment.
pub const MAX_BATCH_BYTES: u64 = 1 << 30;
/// The largest number of keys in one batch.
pub const MAX_BATCH_KEYS: usize = 1 << 20;

/// Another key for a value or for a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondaryKey<'a> {
    key: &'a [u8],
    range: Bounds,
}

impl<'a> SecondaryKey<'a> {
    /// An alias for the whole value.
    pub fn whole(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::range(key, ..)
    }

    /// An alias for the bytes `range` of the value, which must lie inside the value.
    pub fn range(key: &'a (impl AsRef<[u8]> + ?Sized), range: impl RangeBounds<usize>) -> Self {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        Self { key: key.as_ref(), range }
    }

    /// The key.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    pub(crate) fn parts(&self) -> (&'a [u8], Bounds) {
        (self.key, self.range)
    }
}

/// Values that are written together: after a crash all of them exist or none.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    items: Vec<Item>,
    bytes: u64,
    keys: usize,
}

#[derive(Debug, Clone)]
struct Item {
    key: Vec<u8>,
    value: Vec<u8>,
    aliases: Vec<(Vec<u8>, Bounds)>,
}

type Bounds = (Bound<usize>, Bound<usize>);

impl Item {
    fn check(&self) -> Result<Vec<Alias<'_>>> {
        let aliases = self.aliases.iter().map(|(key, range)| (&**key, *range));
        check_group(&self.key, &self.value, aliases)
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value. The returned entry adds aliases to it.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> BatchEntry<'_> {
        let item = Item { key: key.into(), value: value.into(), aliases: Vec::new() };
        self.bytes += (item.key.len() + item.value.len()) as u64;
        self.keys += 1;
        self.items.push(item);
        BatchEntry { batch: self }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the batch has no values.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of keys, primary and secondary.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes all values; keeps the allocated memory.
    pub fn clear(&mut self) {
        self.items.clear();
        (self.bytes, self.keys) = (0, 0);
    }

    /// Checks the whole batch and calls `write` with its groups.
    pub(crate) fn with_groups<T>(
        &self,
        write: impl FnOnce(&[Group<'_>]) -> Result<T>,
    ) -> Result<T> {
        if self.bytes > MAX_BATCH_BYTES || self.keys > MAX_BATCH_KEYS {
            return Err(invalid(format!(
                "batch: expected at most {MAX_BATCH_BYTES} bytes and {MAX_BATCH_KEYS} keys, found {} and {}",
                self.bytes, self.keys
            )));
        }
        let checked: Vec<_> = self.items.iter().map(Item::check).collect::<Result<_>>()?;
        let groups: Vec<Group<'_>> = self
            .items
            .iter()
            .zip(&checked)
            .map(|(item, aliases)| Group {
                key: &item.key,
                value: &item.value,
                checksum: crc32c::crc32c(&item.value),
                aliases,
            })
            .collect();
        write(&groups)
    }
}

/// The value just added to a batch.
#[derive(Debug)]
pub struct BatchEntry<'a> {
    batch: &'a mut Batch,
}

impl BatchEntry<'_> {
    /// Adds another key for the bytes `range` of the value (`..` is all of them).
    pub fn alias(self, key: impl Into<Vec<u8>>, range: impl RangeBounds<usize>) -> Self {
        let key = key.into();
        self.batch.bytes += key.len() as u64;
        self.batch.keys += 1;
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        if let Some(item) = self.batch.items.last_mut() {
            item.aliases.push((key, range));
        }
        self
    }
}

/// Checks keys, value and ranges of one group, and computes the checksums of its parts.
pub(crate) fn check_group<'a>(
    key: &[u8],
    value: &[u8],
    aliases: impl ExactSizeIterator<Item = (&'a [u8], Bounds)>,
) -> Result<Vec<Alias<'a>>> {
    check_key(key)?;
    if value.len() as u64 > MAX_VALUE_LEN {
        return Err(invalid(format!(
            "value of key {}: expected at most {MAX_VALUE_LEN} bytes, found {}",
            show_key(key),
            value.len()
        )));
    }
    let mut checked = Vec::with_capacity(aliases.len());
    for (key, bounds) in aliases {
        check_key(key)?;
        let Some(bytes) = value.get(bounds) else {
            return Err(invalid(format!(
                "range of secondary key {}: expected it within the value's {} bytes, found {bounds:?}",
                show_key(key),
                value.len()
            )));
        };
        let start = match bounds.0 {
            Bound::Included(start) => start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let range = start as u32..(start + bytes.len()) as u32;
        checked.push(Alias { key, range, checksum: crc32c::crc32c(bytes) });
    }
    refuse_duplicate_keys(key, &checked)?;
    Ok(checked)
}

fn refuse_duplicate_keys(key: &[u8], aliases: &[Alias<'_>]) -> Result<()> {
    if aliases.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<&[u8]> = aliases.iter().map(|alias| alias.key).chain([key]).collect();
    keys.sort_unstable();
    let double = keys.array_windows().find(|[a, b]| a == b);
    double.map_or(Ok(()), |[double, _]| {
        let double = show_key(double);
        Err(invalid(format!("keys of one value: expected each once, found {double} twice")))
    })
}

pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if (1..=MAX_KEY_LEN).contains(&key.len()) {
        return Ok(());
    }
    Err(invalid(format!("key: expected 1 to {MAX_KEY_LEN} bytes, found {}", key.len())))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Formats a key for a message: as text if it is printable, else as hex; a long key is shortened
/// to 64 bytes.
pub fn show_key(key: &[u8]) -> String {
    const MOST: usize = 64;
    let (head, dots) = match key.get(..MOST) {
        Some(head) if key.len() > MOST => (head, "…"),
        _ => (key, ""),
    };
    match std::str::from_utf8(head) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
            format!("{text:?}{dots}")
        }
        _ => human::hex(head) + dots,
    }
}
