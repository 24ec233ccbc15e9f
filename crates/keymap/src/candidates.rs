//! The positions a lookup has to look at.

use std::ops::Deref;

use lithdb_segment::{Position, SegmentId};

/// Up to this many positions need no allocation.
const INLINE: usize = 4;

const NO_POSITION: Position = Position::new(SegmentId::NONE, 0);

/// Positions whose record may hold the key that was asked for, newest first; nearly always none or
/// one. Dereferences to a slice. Meant to be kept and used again: up to four positions need no
/// allocation.
#[derive(Debug, Clone)]
pub struct Candidates {
    len: usize,
    inline: [Position; INLINE],
    /// All of them, once there are more than fit inline.
    spilled: Vec<Position>,
}

impl Candidates {
    /// None yet.
    pub const fn new() -> Self {
        Self { len: 0, inline: [NO_POSITION; INLINE], spilled: Vec::new() }
    }

    /// The positions, newest first.
    #[inline]
    pub fn as_slice(&self) -> &[Position] {
        // Beyond the inline array `get` fails, and all of them are in the vector.
        self.inline.get(..self.len).unwrap_or(&self.spilled)
    }

    /// Forgets all positions, keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a position behind the others.
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
