//! The vector of limbs that hashes a set, and the elements that it sums up.
//!
//! The expansion of a pair and the order of the bytes must not change between versions. Addition
//! is commutative and has an inverse, so a vector depends on the pairs in the set alone. A vector
//! does not know its set: removing a pair that is not in it gives the hash of no set, without an
//! error. The caller knows what the set holds.

use std::fmt;

use crate::root::RootHash;

/// The hash of a set of pairs of keys and values.
///
/// The default is the hash of the empty set. A value may be empty; so may a key.
///
/// ```
/// use lithdb_lthash::LtHash;
///
/// let (mut one, mut other) = (LtHash::default(), LtHash::default());
/// one.add_pair(b"a", b"1");
/// one.add_pair(b"b", b"2");
/// other.add_pair(b"b", b"2");
/// other.add_pair(b"a", b"1");
/// assert_eq!(one, other);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct LtHash {
    limbs: Box<[u16; LtHash::LIMBS]>,
}

impl LtHash {
    /// The number of limbs.
    pub const LIMBS: usize = 1024;
    /// The length of [`to_bytes`](Self::to_bytes): 2,048.
    pub const LEN: usize = 2 * Self::LIMBS;

    /// The hash of the set that holds this pair alone: the element of the pair.
    ///
    /// The element is the first 2,048 bytes of BLAKE3's extendable output for the input `le32(len
    /// key) ‖ key ‖ le32(len value) ‖ value`, as 1,024 little-endian limbs.
    ///
    /// # Panics
    /// If the key or the value is longer than 4 GiB − 1 bytes: its length has 32 bits.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        Self::from_bytes(&element(key, value))
    }

    /// Adds all pairs of `other`.
    pub fn add(&mut self, other: &Self) {
        for (limb, more) in self.limbs.iter_mut().zip(other.limbs.iter()) {
            *limb = limb.wrapping_add(*more);
        }
    }

    /// Removes all pairs of `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (limb, less) in self.limbs.iter_mut().zip(other.limbs.iter()) {
            *limb = limb.wrapping_sub(*less);
        }
    }

    /// Adds a pair, which must not be in the set yet.
    ///
    /// # Panics
    /// As [`of`](Self::of).
    pub fn add_pair(&mut self, key: &[u8], value: &[u8]) {
        let element = element(key, value);
        for (limb, more) in self.limbs.iter_mut().zip(element.as_chunks().0) {
            *limb = limb.wrapping_add(u16::from_le_bytes(*more));
        }
    }

    /// Removes a pair, which must be in the set.
    ///
    /// # Panics
    /// As [`of`](Self::of).
    pub fn remove_pair(&mut self, key: &[u8], value: &[u8]) {
        let element = element(key, value);
        for (limb, less) in self.limbs.iter_mut().zip(element.as_chunks().0) {
            *limb = limb.wrapping_sub(u16::from_le_bytes(*less));
        }
    }

    /// Whether this is the hash of the empty set.
    pub fn is_empty(&self) -> bool {
        self.limbs.iter().all(|limb| *limb == 0)
    }

    /// The limbs in order, each little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (bytes, limb) in bytes.as_chunks_mut().0.iter_mut().zip(self.limbs.iter()) {
            *bytes = limb.to_le_bytes();
        }
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes). Any bytes are a vector.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut hash = Self::default();
        for (limb, bytes) in hash.limbs.iter_mut().zip(bytes.as_chunks().0) {
            *limb = u16::from_le_bytes(*bytes);
        }
        hash
    }

    /// The digest of the vector: BLAKE3-256 of [`to_bytes`](Self::to_bytes).
    pub fn root(&self) -> RootHash {
        RootHash(*blake3::hash(&self.to_bytes()).as_bytes())
    }
}

impl Default for LtHash {
    fn default() -> Self {
        Self { limbs: Box::new([0; Self::LIMBS]) }
    }
}

/// The digest, because 1,024 limbs are no help to anybody.
impl fmt::Debug for LtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_empty() {
            true => f.write_str("LtHash(empty)"),
            false => write!(f, "LtHash({})", self.root()),
        }
    }
}

fn element(key: &[u8], value: &[u8]) -> [u8; LtHash::LEN] {
    expand(&[&le_len(key), key, &le_len(value), value])
}

/// The length of `part`, so that no other pair has the same input.
fn le_len(part: &[u8]) -> [u8; 4] {
    assert!(
        part.len() <= u32::MAX as usize,
        "expected a key or value of at most 4 GiB - 1 bytes, found {}",
        part.len()
    );
    (part.len() as u32).to_le_bytes()
}

/// The first bytes of BLAKE3's extendable output for the concatenated parts.
fn expand(parts: &[&[u8]]) -> [u8; LtHash::LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut output = [0; LtHash::LEN];
    hasher.finalize_xof().fill(&mut output);
    output
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
