//! The hash of a key, and how it is split into partition and tag.
//!
//! The hash function and the split must not change between versions.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Number of top bits that select the partition.
const PARTITION_BITS: u32 = 10;

/// The 64-bit hash of a key under its table's random seed.
///
/// The top bits select the partition of a [`MemoryKeymap`](crate::MemoryKeymap); the 32 bits below
/// them are the tag stored in the entry. The keymap cannot tell apart two keys that agree in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Number of partitions.
    pub(crate) const PARTITIONS: usize = 1 << PARTITION_BITS;

    /// The hash of `key` in a table whose seed is `seed`: xxh3, the same in every version.
    ///
    /// ```
    /// use lithdb_keymap::KeyHash;
    /// assert_eq!(KeyHash::of(7, b"block 1"), KeyHash::of(7, b"block 1"));
    /// assert_ne!(KeyHash::of(7, b"block 1"), KeyHash::of(8, b"block 1"));
    /// ```
    pub fn of(seed: u64, key: &[u8]) -> Self {
        Self(xxh3_64_with_seed(key, seed))
    }

    /// The partition index, below [`Self::PARTITIONS`].
    pub(crate) const fn partition(self) -> usize {
        (self.0 >> (u64::BITS - PARTITION_BITS)) as usize
    }

    /// The 32 bits below those that select the partition.
    pub(crate) const fn tag(self) -> u32 {
        (self.0 >> (u32::BITS - PARTITION_BITS)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_and_tag_are_neighbouring_bits() {
        let hash = KeyHash((5 << 54) | (0x8000_0001 << 22) | 3);
        assert_eq!((hash.partition(), hash.tag()), (5, 0x8000_0001));
        assert_eq!(KeyHash(u64::MAX).partition(), KeyHash::PARTITIONS - 1);
        assert_eq!(KeyHash(u64::MAX).tag(), u32::MAX);
    }

    #[test]
    fn the_hash_of_a_key_never_changes() {
        // A keymap on disk outlives the build that wrote it.
        assert_eq!(KeyHash::of(0, b""), KeyHash(0x2d06_8005_38d3_94c2));
    }
}
