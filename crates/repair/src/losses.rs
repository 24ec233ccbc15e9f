//! Counts what a segment has lost, as far as it can be known. `None` is an unknown number.

use std::ops::Range;

use lithdb_table::show_key;

/// How many keys are shown as examples.
const MAX_SAMPLES: usize = 5;

/// Keys and values that cannot be read any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses {
    /// Key records.
    pub(crate) keys: u64,
    /// Primary records among them.
    pub(crate) values: u64,
    /// Bytes of values and records.
    pub(crate) bytes: u64,
    /// The first few of the keys.
    pub(crate) sample_keys: Vec<String>,
    /// Their ranges in the key file.
    pub(crate) ranges: Vec<Range<u64>>,
}

impl Losses {
    /// Adds one record.
    pub(crate) fn add_record(&mut self, key: &[u8], primary_bytes: Option<u32>) {
        self.keys += 1;
        if let Some(bytes) = primary_bytes {
            self.values += 1;
            self.bytes = self.bytes.saturating_add(u64::from(bytes));
        }
        if self.sample_keys.len() < MAX_SAMPLES {
            self.sample_keys.push(show_key(key));
        }
    }

    /// Adds a range of the key file, merged with the last one if they touch.
    pub(crate) fn add_range(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.ranges.push(range),
        }
    }

    /// Adds other losses.
    pub(crate) fn add(&mut self, other: &Self) {
        self.keys = self.keys.saturating_add(other.keys);
        self.values = self.values.saturating_add(other.values);
        self.bytes = self.bytes.saturating_add(other.bytes);
        let room = MAX_SAMPLES - self.sample_keys.len().min(MAX_SAMPLES);
        self.sample_keys.extend(other.sample_keys.iter().take(room).cloned());
        self.ranges.extend(other.ranges.iter().cloned());
    }
}

/// The sum; unknown if any number is.
pub(crate) fn sum(numbers: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    numbers.into_iter().try_fold(0, |sum: u64, number| Some(sum.saturating_add(number?)))
}
