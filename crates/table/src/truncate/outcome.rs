//! The result of a walk: the truncation point, what is discarded, and what stays out of order.
//! Plain values, made by [`walk`](super::walk) and shown to the user.

use std::fmt;

use lithdb_env::{UnixMillis, human};
use lithdb_segment::Position;
use serde::{Deserialize, Serialize, Serializer};

/// The newest record kept, as the filter saw it. Its whole group is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boundary {
    /// The key.
    #[serde(serialize_with = "as_text")]
    pub key: Vec<u8>,
    /// The position of its record.
    pub position: Position,
    /// A time before which it was certainly put.
    pub written_before: UnixMillis,
}

/// Where a table is truncated: after the group of the newest record that the filter keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TruncatePoint {
    /// The newest record that the filter keeps.
    pub boundary: Boundary,
    /// The offset of the last record of its group.
    pub(super) last: u32,
    /// The end of that last record, including an inline value.
    pub(super) end: u32,
    /// Whether the segment is kept whole because it has no record after the group.
    pub ends_segment: bool,
    /// Number of key records of the table after the group.
    pub(super) records_after: u64,
}

/// What a truncation discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Discarded {
    /// Key records, primary and secondary.
    pub records: u64,
    /// Values, that is, primary records.
    pub values: u64,
    /// Bytes of these values.
    pub bytes: u64,
}

impl Discarded {
    pub(super) fn count(&mut self, is_primary: bool, len_bytes: u32) {
        let values = u64::from(is_primary);
        self.add(Self { records: 1, values, bytes: values * u64::from(len_bytes) });
    }

    pub(super) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.values += other.values;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A key and the position of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyAt {
    /// The key.
    #[serde(serialize_with = "as_text")]
    pub key: Vec<u8>,
    /// The position of its record.
    pub position: Position,
}

/// Values kept although the filter would discard them, because they were put before a record that
/// it keeps. Example: after a chain reorganization, the old blocks above the height to roll back
/// to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct OutOfOrder {
    /// Number of these values.
    pub values: u64,
    /// The primary keys of the newest of them, newest first; at most five.
    pub newest: Vec<KeyAt>,
    /// The newest primary key that is older than all of them: a rollback to its position leaves
    /// none out of order.
    pub before: Option<KeyAt>,
}

impl OutOfOrder {
    /// The largest number of keys in `newest`.
    const SHOWN: usize = 5;

    /// Counts the next older group.
    pub(super) fn group(&mut self, key: &[u8], position: Position, is_kept: bool) {
        let named = || KeyAt { key: key.to_vec(), position };
        if is_kept {
            if self.values > 0 {
                self.before.get_or_insert_with(named);
            }
            return;
        }
        self.values += 1;
        self.before = None;
        if self.newest.len() < Self::SHOWN {
            self.newest.push(named());
        }
    }
}

/// The result of a walk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalkOutcome {
    /// Where the table is truncated; `None` if the filter kept nothing.
    pub boundary: Option<TruncatePoint>,
    /// What is discarded after that point.
    pub discarded: Discarded,
    /// Which of the values kept are out of order; `None` if the filter did not check the order.
    pub out_of_order: Option<OutOfOrder>,
}

fn as_text<S: Serializer>(key: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&human::readable(key))
}

/// The beginning of a key, short enough for a line of 80 characters with its position.
pub fn short_key(key: &[u8]) -> String {
    const MOST: usize = 36;
    let shown = human::readable(key);
    match shown.char_indices().nth(MOST) {
        Some((end, _)) => shown.get(..end).unwrap_or_default().to_owned() + "…",
        None => shown,
    }
}

impl fmt::Display for KeyAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", short_key(&self.key), self.position)
    }
}

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  out of order   values kept above the limit: {}", self.values)?;
        for key in &self.newest {
            write!(f, "\n                 {key}")?;
        }
        if self.values > self.newest.len() as u64 {
            write!(f, "\n                 … and older ones")?;
        }
        self.before.iter().try_for_each(|before| write!(f, "\n  roll back to   {before}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_shortened() {
        assert_eq!(short_key(&[b'k'; 36]), "k".repeat(36));
        assert_eq!(short_key(&[b'k'; 37]), format!("{}…", "k".repeat(36)));
    }
}
