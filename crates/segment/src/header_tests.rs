//! Tests of the file headers: round trips, damage, other versions and flags.

use proptest::prelude::*;

use super::*;

fn path() -> &'static Path {
    Path::new("/t/segments/1.keys")
}

fn identities() -> impl Strategy<Value = Identity> {
    (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(table_id, segment, salt)| Identity {
        table_id,
        segment: SegmentId(segment),
        salt,
    })
}

fn key_header() -> KeyHeader {
    KeyHeader {
        identity: Identity { table_id: 1, segment: SegmentId(2), salt: 3 },
        predecessor: SegmentId(1),
        created: UnixMillis(5),
        shards: 2,
    }
}

fn value_header() -> ValueHeader {
    let KeyHeader { identity, created, .. } = key_header();
    ValueHeader { identity, shard: ShardId(1), created }
}

/// A header with other bytes at `offset`, and its checksum recomputed.
fn altered(header: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut header = header.to_vec();
    header[offset..offset + bytes.len()].copy_from_slice(bytes);
    let checksum = crc32c::crc32c(&header[..CHECKSUM_AT]);
    header[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

proptest! {
    #[test]
    fn every_header_reads_back_as_it_was_written(
        identity in identities(), predecessor: u32, created: u64, shards in 1..=256_u16, shard in 0..256_u16,
    ) {
        let created = UnixMillis(created);
        let key = KeyHeader { identity, predecessor: SegmentId(predecessor), created, shards };
        prop_assert_eq!(KeyHeader::decode(path(), &key.encode()).unwrap(), key);
        let value = ValueHeader { identity, shard: ShardId(shard), created };
        prop_assert_eq!(ValueHeader::decode(path(), &value.encode()).unwrap(), value);
        prop_assert!(ValueHeader::decode(path(), &key.encode()).is_err());
    }

    #[test]
    fn random_bytes_are_not_a_header(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(kind_of(KeyHeader::decode(path(), &bytes)), ErrorKind::Corrupt);
        prop_assert_eq!(kind_of(ValueHeader::decode(path(), &bytes)), ErrorKind::Corrupt);
    }
}

#[test]
fn flipped_or_truncated_header_is_corrupt() {
    let (key, value) = (key_header().encode(), value_header().encode());
    for bit in 0..HEADER_LEN * 8 {
        let flip = |header: &Vec<u8>| {
            let mut header = header.clone();
            header[bit / 8] ^= 1 << (bit % 8);
            header
        };
        assert_eq!(kind_of(KeyHeader::decode(path(), &flip(&key))), ErrorKind::Corrupt, "{bit}");
        assert_eq!(
            kind_of(ValueHeader::decode(path(), &flip(&value))),
            ErrorKind::Corrupt,
            "{bit}"
        );
    }
    for len in 0..HEADER_LEN {
        assert_eq!(kind_of(KeyHeader::decode(path(), &key[..len])), ErrorKind::Corrupt);
        assert_eq!(kind_of(ValueHeader::decode(path(), &value[..len])), ErrorKind::Corrupt);
    }
}

#[test]
fn other_version_is_unsupported_compatible_flags_are_ignored() {
    let header = key_header().encode();
    for (offset, bytes) in [
        (VERSION_AT, &[2, 0][..]),
        (VERSION_AT, &[0, 0]),
        (LEN_AT, &[128, 0]),
        (FLAGS_AT + 8, &[1, 0, 0, 0]),
        (FLAGS_AT + 11, &[0x80]),
    ] {
        let header = altered(&header, offset, bytes);
        assert_eq!(kind_of(KeyHeader::decode(path(), &header)), ErrorKind::Unsupported, "{offset}");
    }
    let cut = check_writable(path(), &header[..FLAGS_AT + 7]);
    assert_eq!(kind_of(cut), ErrorKind::Corrupt, "features that are not there are not none");
    for flags_at in [FLAGS_AT, FLAGS_AT + 4] {
        let header = altered(&header, flags_at, &[0, 0, 0, 1]);
        assert_eq!(KeyHeader::decode(path(), &header).unwrap(), key_header());
        let writable = check_writable(path(), &header);
        assert_eq!(writable.is_ok(), flags_at == FLAGS_AT);
        if let Err(error) = writable {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("/t/segments/1.keys"), "{error}");
        }
    }
}

#[test]
fn bad_magic_is_foreign() {
    let key = altered(&key_header().encode(), 0, b"SQLite f");
    assert_eq!(kind_of(KeyHeader::decode(path(), &key)), ErrorKind::Foreign);
    let value = value_header().encode();
    assert_eq!(kind_of(KeyHeader::decode(path(), &value)), ErrorKind::Foreign);

    let header = key_header();
    assert!(header.belongs_to(path(), 1, SegmentId(2)).is_ok());
    assert_eq!(kind_of(header.belongs_to(path(), 9, SegmentId(2))), ErrorKind::Foreign);
    assert_eq!(kind_of(header.belongs_to(path(), 1, SegmentId(9))), ErrorKind::Foreign);

    let (header, identity) = (value_header(), header.identity);
    assert!(header.belongs_to(path(), &identity, ShardId(1)).is_ok());
    for (identity, shard) in [
        (identity, ShardId(0)),
        (Identity { table_id: 9, ..identity }, ShardId(1)),
        (Identity { segment: SegmentId(9), ..identity }, ShardId(1)),
        (Identity { salt: 9, ..identity }, ShardId(1)),
    ] {
        assert_eq!(kind_of(header.belongs_to(path(), &identity, shard)), ErrorKind::Foreign);
    }
}

#[test]
fn impossible_shard_count_is_corrupt() {
    for shards in [0, 257, u16::MAX] {
        let header = KeyHeader { shards, ..key_header() }.encode();
        assert_eq!(kind_of(KeyHeader::decode(path(), &header)), ErrorKind::Corrupt);
    }
}
