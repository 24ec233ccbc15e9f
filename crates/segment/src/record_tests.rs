//! Tests of the record codec: round trips, damage, forged lengths, padding, running checksum.

use proptest::prelude::*;

use super::*;

const IDENTITY: Identity = Identity {
    table_id: 0x0102_0304_0506_0708,
    segment: SegmentId(9),
    salt: 0x1112_1314_1516_1718,
};
const EPOCH: u64 = 0x2122_2324_2526_2728;

/// A record that owns its bytes.
#[derive(Debug, Clone)]
enum Item {
    Key { flags: u8, key: Vec<u8>, shard: ShardId, offset: u64, value: Vec<u8> },
    Epoch(u64, u64),
    Chain(Chain),
    Mark(Mark),
    Padding,
}

impl Item {
    fn record(&self, at: u32) -> Record<'_> {
        match self {
            Self::Key { flags, key, shard, offset, value } => {
                let mut record = KeyRecord {
                    flags: Flags(*flags),
                    key,
                    shard: *shard,
                    offset: *offset,
                    stored_len: value.len() as u32,
                    raw_len: value.len() as u32,
                    value_checksum: crc32c::crc32c(value),
                    codec: 0,
                };
                if record.has_inline_value() {
                    record.offset = u64::from(at) + (KEY_FIXED_LEN + key.len()) as u64;
                }
                Record::Key(record)
            }
            Self::Epoch(epoch, time) => Record::Epoch(*epoch, UnixMillis(*time)),
            Self::Chain(chain) => Record::Chain(chain.clone()),
            Self::Mark(mark) => Record::Mark(mark.clone()),
            Self::Padding => Record::Padding(padding_before_mark(u64::from(at))),
        }
    }

    fn encode(&self, at: u32) -> Vec<u8> {
        let mut buffer = Vec::new();
        let mut encoder = Encoder {
            buffer: &mut buffer,
            identity: IDENTITY,
            epoch: EPOCH,
            running: 0,
            offset: at.into(),
        };
        match (self, self.record(at)) {
            (Self::Key { value, .. }, Record::Key(record)) => {
                encoder.key(&record);
                if record.has_inline_value() {
                    encoder.inline(value);
                }
            }
            (_, Record::Epoch(epoch, time)) => encoder.epoch(epoch, time),
            (_, Record::Chain(chain)) => encoder.chain(&chain),
            (_, Record::Mark(mark)) => encoder.mark(&mark),
            (_, Record::Padding(len)) => {
                encoder.mark(&Mark::default());
                buffer.truncate(len);
            }
            (_, Record::Key(_)) => unreachable!(),
        }
        buffer
    }

    fn follows_the_epoch(&self) -> bool {
        matches!(self, Self::Key { .. } | Self::Padding)
    }
}

/// A record of any kind and an offset at which it is valid.
fn any_item() -> impl Strategy<Value = (Item, u32)> {
    let lengths = || prop::collection::vec(any::<u64>(), 0..5);
    let shard = prop_oneof![Just(ShardId::INLINE), (0..256_u16).prop_map(ShardId)];
    let key = (0..8_u8, prop::collection::vec(any::<u8>(), 1..40), shard, any::<u64>())
        .prop_flat_map(|(flags, key, shard, offset)| {
            let value = prop::collection::vec(any::<u8>(), 0..40);
            value.prop_map(move |value| Item::Key { flags, key: key.clone(), shard, offset, value })
        });
    let chain = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u32>(), lengths()).prop_map(
        |(predecessor, key_end, records, running, value_ends)| {
            let predecessor = SegmentId(predecessor);
            Item::Chain(Chain { predecessor, key_end, records, running, value_ends })
        },
    );
    let mark = (any::<u32>(), any::<u64>(), any::<u64>(), lengths()).prop_map(
        |(through, time, records, value_ends)| {
            Item::Mark(Mark { through, time: UnixMillis(time), records, value_ends })
        },
    );
    let place = 4..1_u32 << 27;
    prop_oneof![
        3 => (key, 64_u32..=u32::MAX - 200),
        1 => ((any::<u64>(), any::<u64>()).prop_map(|(e, t)| Item::Epoch(e, t)), any::<u32>()),
        1 => (chain, any::<u32>()),
        1 => (mark, place.clone().prop_map(|n| n * 16)),
        1 => (Just(Item::Padding), (place, 1..16_u32).prop_map(|(n, behind)| n * 16 + behind)),
    ]
}

/// One of every kind, small enough for exhaustive tests.
fn one_of_every_kind() -> Vec<(Item, u32)> {
    let key = |flags, shard, value: &[u8]| Item::Key {
        flags,
        key: b"some key".to_vec(),
        shard,
        offset: 4711,
        value: value.to_vec(),
    };
    let value_ends = vec![64, 1 << 40];
    vec![
        (key(7, ShardId::INLINE, b"inline value"), 64),
        (key(7, ShardId::INLINE, b""), 65),
        (key(1, ShardId(255), b"somewhere else"), 4000),
        (key(6, ShardId::INLINE, b"a part"), 123_456_789),
        (Item::Epoch(EPOCH + 1, 12), 88),
        (Item::Chain(Chain { value_ends: value_ends.clone(), ..Chain::default() }), 64),
        (Item::Mark(Mark { through: 96, value_ends, ..Mark::default() }), 96),
        (Item::Padding, 73),
        (Item::Padding, 72),
    ]
}

fn decode_here(bytes: &[u8], at: u32) -> Result<Decoded<'_>, Invalid> {
    decode(&IDENTITY, EPOCH, at, bytes)
}

/// Bytes with a valid checksum for a record at `at`, which neither a writer nor a bit flip
/// produces.
fn forged(at: u32, epoch: u64, kind: u8, flags: u8, n: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend([kind, flags]);
    bytes.extend(n.to_le_bytes());
    bytes.extend(body);
    let checksum = crc32c::crc32c_append(Seeds::new(&IDENTITY, epoch).at(at), &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A key record at offset 64 with a valid checksum.
fn forged_key(record: &KeyRecord<'_>, flags: u8) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut encoder =
        Encoder { buffer: &mut buffer, identity: IDENTITY, epoch: EPOCH, running: 0, offset: 64 };
    encoder.key(&KeyRecord { flags: Flags(flags), ..*record });
    buffer
}

proptest! {
    #[test]
    fn every_record_reads_back_as_it_was_written((item, at) in any_item(), behind in any::<[u8; 9]>()) {
        let mut bytes = item.encode(at);
        let len = bytes.len();
        bytes.extend(behind);
        let decoded = decode_here(&bytes, at).unwrap();
        prop_assert_eq!(&decoded.record, &item.record(at));
        prop_assert_eq!(decoded.len, len);
        prop_assert_eq!(&decoded.checksum.to_le_bytes(), &bytes[..4]);
        prop_assert_eq!(encoded_len(&bytes), Some(len));
    }

    #[test]
    fn a_flipped_bit_never_makes_another_record((item, at) in any_item(), pick in any::<prop::sample::Index>()) {
        let mut bytes = item.encode(at);
        let bit = pick.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = decode_here(&bytes, at) {
            prop_assert_eq!(decoded.record, item.record(at));
        }
    }

    #[test]
    fn record_is_valid_only_at_its_offset((item, at) in any_item(), other in 1..=u32::MAX, salt in 1..=u64::MAX) {
        let bytes = item.encode(at);
        prop_assert!(decode_here(&bytes, at ^ other).is_err(), "another offset");
        let of_another = Identity { segment: SegmentId(9 ^ other), ..IDENTITY };
        prop_assert!(decode(&of_another, EPOCH, at, &bytes).is_err(), "another segment");
        let of_another = Identity { table_id: IDENTITY.table_id ^ salt, ..IDENTITY };
        prop_assert!(decode(&of_another, EPOCH, at, &bytes).is_err(), "another table");

        let later = decode(&IDENTITY, EPOCH ^ salt, at, &bytes);
        let other_salt = decode(&Identity { salt: IDENTITY.salt ^ salt, ..IDENTITY }, EPOCH, at, &bytes);
        prop_assert_eq!(later.is_err(), item.follows_the_epoch());
        prop_assert_eq!(other_salt.is_err(), !item.follows_the_epoch());
    }

    #[test]
    fn random_bytes_are_not_a_record(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..8_u8, at: u32) {
        prop_assert!(decode_here(&bytes, at).is_err());
        if let Some(byte) = bytes.get_mut(4) {
            *byte = kind;
        }
        prop_assert!(decode_here(&bytes, at).is_err());
        let _ = (encoded_len(&bytes), decode_unchecked(&bytes));
        prop_assert!(check_key_record(&IDENTITY, EPOCH, at, &bytes).is_err());
    }

    #[test]
    fn random_record_with_valid_checksum_never_panics(
        kind in 0..8_u8, flags: u8, n in prop_oneof![0..64_u16, any::<u16>()],
        body in prop::collection::vec(any::<u8>(), 0..300), at: u32,
    ) {
        let epoch = if matches!(kind, 2..=4) { IDENTITY.salt } else { EPOCH };
        let bytes = forged(at, epoch, kind, flags, n, &body);
        if let Ok(decoded) = decode_here(&bytes, at) {
            prop_assert!(decoded.len <= bytes.len());
            if let Record::Chain(Chain { value_ends, .. }) | Record::Mark(Mark { value_ends, .. }) = decoded.record {
                prop_assert!(value_ends.capacity() * 8 <= bytes.len());
            }
        }
    }
}

#[test]
fn flipped_bit_is_refused_or_harmless_for_every_kind() {
    for (item, at) in one_of_every_kind() {
        let bytes = item.encode(at);
        let covered = match item.record(at) {
            Record::Key(record) => KEY_FIXED_LEN + record.key.len(),
            _ => bytes.len(),
        };
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match decode_here(&bytes, at) {
                // The value has a checksum of its own.
                Ok(decoded) => {
                    assert!(bit / 8 >= covered, "bit {bit} of {item:?}");
                    assert_eq!(decoded.record, item.record(at));
                }
                Err(_) => assert!(bit / 8 < covered, "bit {bit} of {item:?}"),
            }
        }
    }
}

#[test]
fn record_cut_at_any_length_is_truncated() {
    for (item, at) in one_of_every_kind() {
        let bytes = item.encode(at);
        for len in 0..bytes.len() {
            assert_eq!(
                decode_here(&bytes[..len], at),
                Err(Invalid::Truncated),
                "{len} of {item:?}"
            );
        }
    }
}

#[test]
fn zeros_are_not_a_record() {
    let zeros = [0; 200];
    for len in PREFIX_LEN..zeros.len() {
        for epoch in [0, EPOCH] {
            assert_eq!(decode(&IDENTITY, epoch, 64, &zeros[..len]), Err(Invalid::Kind(0)));
        }
    }
    // Nor with a kind set, whatever the seed is.
    for kind in 1..=5 {
        let mut bytes = zeros;
        bytes[4] = kind;
        assert!(matches!(decode_here(&bytes, 64), Err(Invalid::Checksum { .. })));
    }
}

#[test]
fn oversized_lengths_are_truncated_before_allocating() {
    let (salt, body) = (IDENTITY.salt, [0xff; 60]);
    for (kind, epoch) in [(1, EPOCH), (3, salt), (4, salt), (5, EPOCH)] {
        let bytes = forged(64, epoch, kind, 0, u16::MAX, &body);
        assert_eq!(decode_here(&bytes, 64), Err(Invalid::Truncated), "kind {kind}");
    }
    let giant = KeyRecord {
        flags: Flags::default(),
        key: b"k",
        shard: ShardId::INLINE,
        offset: 64 + 33,
        stored_len: u32::MAX,
        raw_len: u32::MAX,
        value_checksum: 0,
        codec: 0,
    };
    assert!(matches!(decode_here(&forged_key(&giant, 7), 64), Err(Invalid::Malformed(_))));
    // A secondary record has no inline value, so its length is only a number.
    assert_eq!(decode_here(&forged_key(&giant, 6), 64).unwrap().len, 33);
}

#[test]
fn malformed_record_with_valid_checksum_is_refused() {
    let good = KeyRecord {
        flags: Flags::default(),
        key: b"k",
        shard: ShardId::INLINE,
        offset: 64 + 33,
        stored_len: 0,
        raw_len: 0,
        value_checksum: 0,
        codec: 0,
    };
    assert!(decode_here(&forged_key(&good, 7), 64).is_ok());
    let key = |record: KeyRecord<'_>, flags| forged_key(&record, flags);
    let mut too_long = key(KeyRecord { stored_len: 65_537, raw_len: 65_537, ..good }, 7);
    too_long.resize(too_long.len() + 65_537, 0);
    let (salt, mark) = (IDENTITY.salt, [&b"LITHMARX"[..], &[0; 24]].concat());
    for (what, bytes) in [
        ("an unknown flag", key(good, 8)),
        ("an empty key", key(KeyRecord { key: b"", offset: 64 + 32, ..good }, 7)),
        ("a codec", key(KeyRecord { codec: 1, ..good }, 7)),
        ("two lengths", key(KeyRecord { raw_len: 1, ..good }, 7)),
        ("an inline value elsewhere", key(KeyRecord { offset: 64, ..good }, 7)),
        ("an inline value too long", too_long),
        ("an epoch with flags", forged(64, salt, 2, 1, 0, &[0; 16])),
        ("a chain with flags", forged(64, salt, 3, 2, 0, &[0; 24])),
        ("a mark with flags", forged(64, salt, 4, 4, 0, &[&b"LITHMARK"[..], &[0; 24]].concat())),
        ("padding with flags", forged(64, EPOCH, 5, 1, 8, &[])),
        ("a mark without magic", forged(64, salt, 4, 0, 0, &mark)),
    ] {
        assert!(matches!(decode_here(&bytes, 64), Err(Invalid::Malformed(_))), "{what}");
    }
}

#[test]
fn max_record_len_fits_longest_key_and_inline_value() {
    let (key, value) = (vec![0x6b; MAX_KEY_LEN], vec![0x76; MAX_INLINE_LEN as usize]);
    let item = Item::Key { flags: 7, key, shard: ShardId::INLINE, offset: 0, value };
    let bytes = item.encode(64);
    assert_eq!(bytes.len(), MAX_RECORD_LEN);
    assert_eq!(decode_here(&bytes, 64).unwrap().record, item.record(64));
}

#[test]
fn padding_aligns_every_offset_for_a_mark() {
    for offset in 64..200 {
        let padding = padding_before_mark(offset);
        assert!(padding == 0 || (8..=23).contains(&padding), "{padding} at {offset}");
        assert_eq!((offset + padding as u64) % 16, 0);
        for shards in [1, 3, 256] {
            let mark = MARK_FIXED_LEN + 8 * usize::from(shards);
            assert!((padding + mark) as u64 <= max_mark_len(shards));
        }
    }
}

#[test]
fn running_checksum_covers_all_checksums_in_order() {
    let mut buffer = Vec::new();
    let mut encoder =
        Encoder { buffer: &mut buffer, identity: IDENTITY, epoch: EPOCH, running: 0, offset: 71 };
    encoder.mark(&Mark::default());
    encoder.epoch(5, UnixMillis(6));
    let running = encoder.running;
    let checksums = [&buffer[..4], &buffer[9..13], &buffer[49..53]].concat();
    assert_eq!(running, crc32c::crc32c(&checksums));
}
