//! The blocks of a file that have disk space: written or reserved.
//!
//! Invariant: the ranges are half-open, non-empty, disjoint and not adjacent.

use std::collections::BTreeMap;
use std::ops::Range;

/// The unit of space allocation.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// The blocks that contain the bytes `offset..offset + len_bytes`.
pub(crate) fn blocks_of(offset: u64, len_bytes: u64) -> Range<u64> {
    let end = offset.saturating_add(len_bytes);
    offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Extents {
    /// Start to end, in blocks.
    ranges: BTreeMap<u64, u64>,
}

impl Extents {
    pub(crate) fn count(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The number of blocks of `range` that have no space yet.
    pub(crate) fn missing(&self, range: &Range<u64>) -> u64 {
        let covered: u64 = self
            .ranges
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*end).min(range.end) - (*start).max(range.start))
            .sum();
        range.end.saturating_sub(range.start).saturating_sub(covered)
    }

    /// Allocates space for `range`.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&s, &e)) =
            self.ranges.range(..=end).next_back().filter(|(_, e)| **e >= start)
        {
            self.ranges.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.ranges.insert(start, end);
    }

    /// Frees everything from block `from` on; returns the number of blocks freed.
    pub(crate) fn truncate(&mut self, from: u64) -> u64 {
        let before = self.count();
        self.ranges.split_off(&from);
        if let Some((_, end)) = self.ranges.range_mut(..from).next_back() {
            *end = (*end).min(from);
        }
        before - self.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_agree_with_a_set_of_blocks() {
        let mut random = 42;
        let mut extents = Extents::default();
        let mut blocks = std::collections::BTreeSet::new();
        for _ in 0..2_000 {
            let start = crate::choice::splitmix64(&mut random) % 60;
            let len = crate::choice::splitmix64(&mut random) % 8;
            let missing = (start..start + len).filter(|b| !blocks.contains(b)).count() as u64;
            assert_eq!(extents.missing(&(start..start + len)), missing);
            if crate::choice::splitmix64(&mut random).is_multiple_of(4) {
                let freed = blocks.split_off(&start).len() as u64;
                assert_eq!(extents.truncate(start), freed);
            } else {
                extents.insert(start..start + len);
                blocks.extend(start..start + len);
            }
            assert_eq!(extents.count(), blocks.len() as u64);
        }
    }
}
