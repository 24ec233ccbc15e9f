//! Reconstructs the epoch of records whose epoch record is damaged, from the records themselves.
//! Pure functions, used by `walk`.
//!
//! A checksum is crc32c over the seed (table, segment, offset, epoch) and the record. crc32c is
//! linear: run backwards from the checksum over the record, it yields the CRC state after the
//! seed; XORed with that of epoch 0 it leaves 32 bits that depend on the epoch alone, at every
//! offset and for every length. So one intact record determines these bits, and any epoch with the
//! same bits is equivalent. Arbitrary bytes also yield some bits; they count only if the following
//! records verify with them.

use lithdb_segment::record::{Flags, KEY_FIXED_LEN};
use lithdb_segment::{Identity, Seeds, ShardId};

/// The bit-reversed Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Records after the first that must verify; each does by chance once in 2^32.
pub(crate) const CONFIRMING_RECORDS: usize = 2;

/// An equivalent of the epoch of the key record at the start of `bytes`; `None` if it cannot be a
/// key record. `offset` is that of the record in the file.
pub(crate) fn derive(identity: &Identity, offset: u32, bytes: &[u8]) -> Option<u64> {
    let head = bytes.first_chunk::<KEY_FIXED_LEN>()?;
    let word = |at: usize| head.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    let [_, _, _, _, kind, flags, n0, n1, ..] = *head;
    let covered = KEY_FIXED_LEN + usize::from(u16::from_le_bytes([n0, n1]));
    let [shard0, shard1, codec, zero] = word(20)?.to_le_bytes();
    let shard = ShardId(u16::from_le_bytes([shard0, shard1]));
    // Cheap checks of fixed fields skip most bytes that are no key record.
    let all = Flags::PRIMARY.with(Flags::END_OF_GROUP).with(Flags::END_OF_BATCH);
    let is_plausible = kind == 1
        && all.has(Flags(flags))
        && covered > KEY_FIXED_LEN
        && word(8) == word(12)
        && (codec, zero) == (0, 0)
        && (shard == ShardId::INLINE || shard.0 < ShardId::MAX_SHARDS);
    if !is_plausible {
        return None;
    }
    let after_seed = rewind(!word(0)?, bytes.get(4..covered)?);
    let bits = after_seed ^ !Seeds::new(identity, 0).at(offset);
    // Of the equivalent epochs, the one whose lower half is 0.
    Some(u64::from(rewind(bits, &[0; 4])) << 32)
}

/// The CRC state before `bytes`.
fn rewind(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(state, |mut state, byte| {
        for _ in 0..8 {
            // The polynomial has its highest bit set, so that bit tells whether it was XORed in.
            state = if state >> 31 == 1 { (state ^ POLYNOMIAL) << 1 | 1 } else { state << 1 };
        }
        state ^ u32::from(*byte)
    })
}

#[cfg(test)]
mod tests {
    use lithdb_segment::SegmentId;
    use lithdb_segment::record::{Encoder, KeyRecord, decode};

    use super::*;

    fn record(key: &[u8], shard: u16) -> KeyRecord<'_> {
        KeyRecord {
            flags: Flags::PRIMARY.with(Flags::END_OF_GROUP),
            key,
            shard: ShardId(shard),
            offset: 77,
            stored_len: 4711,
            raw_len: 4711,
            value_checksum: 0xdead_beef,
            codec: 0,
        }
    }

    #[test]
    fn one_record_yields_an_epoch_that_decodes_all_others() {
        let identity = Identity { table_id: 0x1234_5678_9abc, segment: SegmentId(9), salt: 42 };
        for epoch in [0, 1, 42, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 63] {
            let mut buffer = Vec::new();
            let (offset, running) = (1000, 0);
            let mut encoder = Encoder { buffer: &mut buffer, identity, epoch, running, offset };
            let long = [7; 300];
            let mut starts = Vec::new();
            for (key, shard) in [(&b"a"[..], 0), (&long, 255), (b"some key", 3)] {
                starts.push(encoder.offset);
                encoder.key(&record(key, shard));
            }
            let at = |start: u64| &buffer[(start - 1000) as usize..];
            for start in &starts {
                let derived = derive(&identity, *start as u32, at(*start)).unwrap();
                for other in &starts {
                    let decoded = decode(&identity, derived, *other as u32, at(*other));
                    assert!(decoded.is_ok(), "epoch {epoch:x} from {start}: {other}: {decoded:?}");
                }
                // It does not verify at another offset.
                assert!(decode(&identity, derived, *start as u32 + 1, at(*start)).is_err());
            }
        }
    }

    #[test]
    fn bytes_that_are_no_key_record_yield_no_epoch() {
        let identity = Identity { table_id: 1, segment: SegmentId(1), salt: 1 };
        assert_eq!(derive(&identity, 64, &[]), None);
        assert_eq!(derive(&identity, 64, &[0; 200]), None);
        assert_eq!(derive(&identity, 64, &[1; 200]), None);
        assert_eq!(derive(&identity, 64, &[255; 200]), None);
    }
}
