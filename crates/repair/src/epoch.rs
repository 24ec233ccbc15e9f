//! The epoch of records whose epoch record is damaged, from the records themselves.
//!
//! A checksum is crc32c over the seed (table, segment, offset, epoch) and the record. crc32c is linear: run backwards
//! from the checksum over the record, it gives its state behind the seed, and the difference of that state to the one
//! of an epoch of 0 is 32 bits that the epoch alone decides, at every offset and for every length. So one record that
//! is whole betrays these bits, and any epoch that gives the same bits stands for the true one. Whatever bytes are
//! taken for a record give some bits: they are believed when the next records were written with the same.

use lithdb_segment::record::{Flags, KEY_FIXED_LEN};
use lithdb_segment::{Identity, Seeds, ShardId};

/// The polynomial of crc32c, its bits in reverse.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// So many records behind the first must agree: by accident each does once in 2³².
pub(crate) const CONFIRMING_RECORDS: usize = 2;

/// An epoch that stands for the one in which the key record at the beginning of `bytes` was written, if these bytes are
/// a key record at all.
pub(crate) fn derive(identity: &Identity, offset: u32, bytes: &[u8]) -> Option<u64> {
    let head = bytes.first_chunk::<KEY_FIXED_LEN>()?;
    let word = |at: usize| head.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    let [_, _, _, _, kind, flags, n0, n1, ..] = *head;
    let covered = KEY_FIXED_LEN + usize::from(u16::from_le_bytes([n0, n1]));
    let [shard0, shard1, codec, zero] = word(20)?.to_le_bytes();
    let shard = ShardId(u16::from_le_bytes([shard0, shard1]));
    // What every key record has spares running backwards over most bytes that are none.
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
    let behind_seed = rewind(!word(0)?, bytes.get(4..covered)?);
    let bits = behind_seed ^ !Seeds::new(identity, 0).at(offset);
    // Of the epochs that give these bits, the one whose lower half is 0.
    Some(u64::from(rewind(bits, &[0; 4])) << 32)
}

/// The state of crc32c before it had taken `bytes`.
fn rewind(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(state, |mut state, byte| {
        for _ in 0..8 {
            // The polynomial has its highest bit set: that bit says whether it was added.
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
                // Nor does it stand for another place.
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
