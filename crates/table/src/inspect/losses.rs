//! What is lost of a segment, counted as far as it can be known.

use std::ops::Range;

use crate::batch::show_key;

/// So many keys are shown as examples.
const SAMPLES: usize = 5;

/// Keys and values that cannot be had any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Key records.
    pub(super) keys: u64,
    /// Primary records among them.
    pub(super) values: u64,
    /// Bytes of values and records.
    pub(super) bytes: u64,
    /// There may be more keys than these: nothing says how many there were.
    pub(super) unknown_keys: bool,
    /// There may be more values.
    pub(super) unknown_values: bool,
    /// There may be more bytes.
    pub(super) unknown_bytes: bool,
    /// The first few of the keys that are known.
    pub(super) sample_keys: Vec<String>,
    /// Where in the key file they stood.
    pub(super) ranges: Vec<Range<u64>>,
}

impl Losses {
    /// Counts in one record.
    pub(super) fn add_record(&mut self, key: &[u8], primary_bytes: Option<u32>) {
        self.keys += 1;
        if let Some(bytes) = primary_bytes {
            self.values += 1;
            self.bytes = self.bytes.saturating_add(u64::from(bytes));
        }
        if self.sample_keys.len() < SAMPLES {
            self.sample_keys.push(show_key(key));
        }
    }

    /// Counts in a stretch of the key file.
    pub(super) fn add_range(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.ranges.push(range),
        }
    }

    /// How many key records, if that can be known.
    pub(super) fn known_keys(&self) -> Option<u64> {
        (!self.unknown_keys).then_some(self.keys)
    }

    /// How many values, if that can be known.
    pub(super) fn known_values(&self) -> Option<u64> {
        (!self.unknown_values).then_some(self.values)
    }

    /// How many bytes, if that can be known.
    pub(super) fn known_bytes(&self) -> Option<u64> {
        (!self.unknown_bytes).then_some(self.bytes)
    }

    /// Counts in what was lost elsewhere.
    pub(super) fn add(&mut self, other: &Self) {
        self.keys = self.keys.saturating_add(other.keys);
        self.values = self.values.saturating_add(other.values);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.unknown_keys |= other.unknown_keys;
        self.unknown_values |= other.unknown_values;
        self.unknown_bytes |= other.unknown_bytes;
        let room = SAMPLES - self.sample_keys.len().min(SAMPLES);
        self.sample_keys.extend(other.sample_keys.iter().take(room).cloned());
        self.ranges.extend(other.ranges.iter().cloned());
    }
}

/// All of them together; unknown if one is.
pub(super) fn sum(numbers: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    numbers.into_iter().try_fold(0, |sum: u64, number| Some(sum.saturating_add(number?)))
}

/// A length of a key file and those of its value files, together.
pub(super) fn bytes_of(key_end: u32, value_ends: &[u64]) -> u64 {
    value_ends.iter().fold(u64::from(key_end), |sum, end| sum.saturating_add(*end))
}
