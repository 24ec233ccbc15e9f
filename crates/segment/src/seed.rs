//! Seeds of the record checksums, and the running checksum over them.
//!
//! A checksum is linear in what it covers: for two seeds that differ only in the offset, the
//! checksums differ by a number that depends only on the offsets. So one seed checksum per file
//! and epoch is enough; the others follow by four table lookups instead of hashing 24 bytes each.
//! (Byte-wise tables: Sarwate, "Computation of cyclic redundancy checks via table look-up", 1988.)

use crate::header::Identity;

/// The Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bytes of the seed after the offset: the epoch.
const BYTES_AFTER_OFFSET: usize = 8;

type Table = [[u32; 256]; 4];

/// The contribution of each byte of an offset to the checksum of a seed.
static OFFSET: Table = table(BYTES_AFTER_OFFSET);
/// The contribution of each of the last four bytes to a checksum.
static FOUR: Table = table(0);

/// For each of four bytes and each of its values: its contribution to a checksum `bytes_after`
/// bytes later.
const fn table(bytes_after: usize) -> Table {
    let mut table = [[0; 256]; 4];
    let mut at = 0;
    while at < 4 {
        let mut value = 0;
        while value < 256 {
            let mut rest = value as u32;
            let mut bits = 8 * (4 - at + bytes_after);
            while bits > 0 {
                rest = if rest & 1 == 1 { rest >> 1 ^ POLYNOMIAL } else { rest >> 1 };
                bits -= 1;
            }
            #[allow(clippy::indexing_slicing)]
            // evaluated at compile time: out of range would not compile
            {
                table[at][value] = rest;
            }
            value += 1;
        }
        at += 1;
    }
    table
}

#[allow(clippy::indexing_slicing)] // a byte is below 256
#[inline]
fn look_up(table: &Table, word: u32) -> u32 {
    let [a, b, c, d] = word.to_le_bytes();
    let [ta, tb, tc, td] = table;
    ta[usize::from(a)] ^ tb[usize::from(b)] ^ tc[usize::from(c)] ^ td[usize::from(d)]
}

/// The checksum seeds of a file's records in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    at_zero: u32,
}

impl Seeds {
    /// The seeds of the file of `identity` in `epoch`. For records that do not depend on the
    /// epoch, pass the file's salt.
    pub fn new(identity: &Identity, epoch: u64) -> Self {
        let mut bytes = [0_u8; 24];
        let (table, rest) = bytes.split_at_mut(8);
        let (segment, rest) = rest.split_at_mut(4);
        let (_, epoch_bytes) = rest.split_at_mut(4);
        table.copy_from_slice(&identity.table_id.to_le_bytes());
        segment.copy_from_slice(&identity.segment.0.to_le_bytes());
        epoch_bytes.copy_from_slice(&epoch.to_le_bytes());
        Self { at_zero: crc32c::crc32c(&bytes) }
    }

    /// The seed for a record at `offset`.
    #[inline]
    pub fn at(self, offset: u32) -> u32 {
        self.at_zero ^ look_up(&OFFSET, offset)
    }
}

/// `crc32c_append(checksum, word)` for the four bytes of `word`, without the call: it is needed
/// for every record.
#[inline]
pub(crate) fn append_word(checksum: u32, word: u32) -> u32 {
    !look_up(&FOUR, !checksum ^ word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SegmentId;

    proptest! {
        #[test]
        fn seeds_are_the_checksums_of_24_bytes(
            (table_id, segment, offset, epoch) in (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>())
        ) {
            let identity = Identity { table_id, segment: SegmentId(segment), salt: 0 };
            let bytes = [
                &table_id.to_le_bytes()[..],
                &segment.to_le_bytes(),
                &offset.to_le_bytes(),
                &epoch.to_le_bytes(),
            ];
            let expected = crc32c::crc32c(&bytes.concat());
            prop_assert_eq!(Seeds::new(&identity, epoch).at(offset), expected);
        }

        #[test]
        fn a_word_is_appended_as_its_bytes(checksum in any::<u32>(), word in any::<u32>()) {
            let expected = crc32c::crc32c_append(checksum, &word.to_le_bytes());
            prop_assert_eq!(append_word(checksum, word), expected);
        }
    }
}
