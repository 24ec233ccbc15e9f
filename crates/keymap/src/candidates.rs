//! The result of a lookup: positions whose records the caller must compare.
//!
//! A lookup fills a [`Candidates`] that the caller reuses, so the read path does not allocate.

use std::ops::Deref;

use lithdb_segment::{Position, SegmentId};

/// Number of positions stored without allocation.
const INLINE: usize = 4;

const NO_POSITION: Position = Position::new(SegmentId::NONE, 0);

/// Positions whose record may hold the key looked up, newest first; nearly always zero or one.
/// Dereferences to a slice. Meant to be reused: up to four positions need no allocation.
#[derive(Debug, Clone)]
pub struct Candidates {
    len: usize,
    inline: [Position; INLINE],
    /// All positions, once there are more than fit inline.
    spilled: Vec<Position>,
}

impl Candidates {
    /// An empty list.
    pub const fn new() -> Self {
        Self { len: 0, inline: [NO_POSITION; INLINE], spilled: Vec::new() }
    }

    /// The positions, newest first.
    #[inline]
    pub fn as_slice(&self) -> &[Position] {
        // If there are more than fit inline, `get` fails, and the vector has all of them.
        self.inline.get(..self.len).unwrap_or(&self.spilled)
    }

    /// Removes all positions and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends a position.
    #[inline]
    pub(crate) fn push(&mut self, at: Position) {
        match self.inline.get_mut(self.len) {
            Some(place) => *place = at,
            None => self.spill(at),
        }
        self.len += 1;
    }

    #[cold]
    fn spill(&mut self, at: Position) {
        if self.len == INLINE {
            self.spilled.clear();
            self.spilled.extend_from_slice(&self.inline);
        }
        self.spilled.push(at);
    }
}

impl Default for Candidates {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Candidates {
    type Target = [Position];

    #[inline]
    fn deref(&self) -> &[Position] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_candidates_keeps_order_and_survives_reuse() {
        let mut candidates = Candidates::new();
        for count in [0, 1, 4, 5, 9, 5, 4, 0, 6] {
            let expected: Vec<_> =
                (0..count).map(|n| Position::new(SegmentId(count - n), n)).collect();
            candidates.clear();
            expected.iter().for_each(|at| candidates.push(*at));
            assert_eq!(candidates.as_slice(), expected);
        }
    }
}
