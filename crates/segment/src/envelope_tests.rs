//! Tests of the envelope and of the metadata in it: round trips, damage, other versions, limits.

use lithdb_env::{Fs, UnixMillis};
use lithdb_sim::SimFs;
use proptest::prelude::*;

use super::*;
use crate::ids::SegmentId;
use crate::metadata::{Metadata, Stamp};

fn path() -> &'static Path {
    Path::new("/t/1.metadata")
}

fn metadata() -> Metadata {
    Metadata {
        table_id: 1,
        segment: SegmentId(2),
        revision: 0,
        predecessor: SegmentId(1),
        successor: SegmentId(3),
        created: UnixMillis(4),
        sealed_at: Stamp::certain(UnixMillis(5)),
        salt: 6,
        key_end: 700,
        records: 8,
        primaries: 7,
        running: 9,
        value_ends: vec![64, 1000],
        epochs: vec![(64, 11)],
        codec: 0,
        digest: Some([12; 16]),
        extras: vec![(13, vec![14, 15])],
    }
}

fn encoded() -> Vec<u8> {
    encode(Magic::METADATA, &metadata()).unwrap()
}

fn read(bytes: &[u8]) -> Result<Metadata> {
    decode_file(Magic::METADATA, path(), bytes)
}

fn refused(bytes: &[u8]) -> Error {
    read(bytes).unwrap_err()
}

/// The envelope with its checksum recomputed.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(&bytes[..CHECKSUM_AT], &bytes[ENVELOPE_LEN..]);
    bytes[CHECKSUM_AT..ENVELOPE_LEN].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn altered(offset: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = encoded();
    bytes[offset..offset + with.len()].copy_from_slice(with);
    resealed(bytes)
}

/// Wraps a payload in a valid envelope.
fn wrapped(payload: &[u8]) -> Vec<u8> {
    let mut bytes = encoded();
    bytes.truncate(ENVELOPE_LEN);
    bytes[LEN_AT..CHECKSUM_AT].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    resealed(bytes)
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let numbers = (any::<[u64; 8]>(), any::<[u32; 5]>(), any::<u8>());
    let lists = (
        prop::collection::vec(any::<u64>(), 0..10),
        prop::collection::vec(any::<(u32, u64)>(), 0..5),
        any::<Option<[u8; 16]>>(),
        prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)), 0..4),
    );
    (numbers, lists).prop_map(|((long, short, codec), (value_ends, epochs, digest, extras))| {
        Metadata {
            table_id: long[0],
            segment: SegmentId(short[0]),
            revision: short[1],
            predecessor: SegmentId(short[2]),
            successor: SegmentId(short[3]),
            created: UnixMillis(long[1]),
            sealed_at: Stamp::uncertain(UnixMillis(long[2])),
            salt: long[3],
            key_end: long[4],
            records: long[5],
            primaries: long[6],
            running: short[4],
            value_ends,
            epochs,
            codec,
            digest,
            extras,
        }
    })
}

proptest! {
    #[test]
    fn every_metadata_reads_back_as_it_was_written(metadata in any_metadata()) {
        let bytes = encode(Magic::METADATA, &metadata).unwrap();
        prop_assert_eq!(read(&bytes).unwrap(), metadata);
    }

    #[test]
    fn random_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = read(&wrapped(&payload)) {
            prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn every_flipped_bit_of_an_envelope_is_corrupt() {
    let sealed = encoded();
    for bit in 0..sealed.len() * 8 {
        let mut bytes = sealed.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(&bytes).kind(), ErrorKind::Corrupt, "bit {bit}");
    }
}

#[test]
fn an_envelope_cut_at_any_length_is_corrupt() {
    let sealed = encoded();
    for len in 0..sealed.len() {
        assert_eq!(refused(&sealed[..len]).kind(), ErrorKind::Corrupt, "{len} bytes");
    }
}

#[test]
fn trailing_bytes_are_corrupt_in_a_file_but_not_in_a_slot() {
    let mut bytes = encoded();
    let len = bytes.len();
    bytes.push(0);
    let error = refused(&bytes);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&format!("offset {len}: expected the end")), "{error}");
    bytes.resize(4096, 0);
    let (slot, used) = decode::<Metadata>(Magic::METADATA, path(), &bytes).unwrap();
    assert_eq!((slot, used), (metadata(), len));
}

#[test]
fn bad_magic_is_corrupt() {
    for magic in [Magic::ROOT, Magic::STATE] {
        let error = decode::<Metadata>(magic, path(), &encoded()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn other_version_or_incompatible_flag_is_unsupported() {
    for bytes in [altered(8, &[2, 0]), altered(8, &[0, 0]), altered(20, &[1]), altered(23, &[128])]
    {
        let error = refused(&bytes);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("/t/1.metadata"), "{error}");
    }
    // The payload's encoding does not matter: the version is checked first.
    let mut bytes = wrapped(b"what version 2 would write");
    bytes[8] = 2;
    assert_eq!(refused(&resealed(bytes)).kind(), ErrorKind::Unsupported);
}

#[test]
fn other_flags_may_be_ignored_by_a_reader() {
    for flags_at in [12, 16] {
        let bytes = altered(flags_at, &[1]);
        assert_eq!(read(&bytes).unwrap(), metadata());
        assert_eq!(crate::check_writable(path(), &bytes).is_ok(), flags_at == 12);
    }
}

#[test]
fn giant_length_is_refused_without_allocating() {
    for len in [encoded().len() as u32, 1 << 20, MAX_PAYLOAD_LEN as u32 + 1, u32::MAX] {
        let error = refused(&altered(LEN_AT, &len.to_le_bytes()));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("a payload of {len} bytes")), "{error}");
    }
    // Also the length of a list in the payload.
    let payload = encoded().split_off(ENVELOPE_LEN);
    let value_ends_at = 8 + 4 * 4 + 6 * 8 + 4;
    assert_eq!(payload[value_ends_at..value_ends_at + 8], 2_u64.to_le_bytes());
    for len in [3_u64, 1 << 16, 1 << 40, u64::MAX] {
        let mut payload = payload.clone();
        payload[value_ends_at..value_ends_at + 8].copy_from_slice(&len.to_le_bytes());
        assert_eq!(refused(&wrapped(&payload)).kind(), ErrorKind::Corrupt, "{len}");
    }
}

#[test]
fn payload_with_trailing_bytes_is_corrupt() {
    let mut payload = encoded().split_off(ENVELOPE_LEN);
    payload.push(0);
    assert_eq!(refused(&wrapped(&payload)).kind(), ErrorKind::Corrupt);
}

#[test]
fn oversized_payload_is_refused_when_writing() {
    let longest = "x".repeat(MAX_PAYLOAD_LEN - 8);
    let bytes = encode(Magic::STATE, &longest).unwrap();
    assert!(decode_file::<String>(Magic::STATE, path(), &bytes).unwrap() == longest);
    let error = encode(Magic::STATE, &(longest + "x")).err();
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::InvalidArgument));
}

#[test]
fn metadata_is_replaced_atomically_and_damage_names_file() {
    let fs = SimFs::new();
    fs.make_dirs("/t");
    metadata().write(&fs, path()).unwrap();
    let newer = Metadata { revision: 1, ..metadata() };
    newer.write(&fs, path()).unwrap();
    assert_eq!(Metadata::read(&fs, path()).unwrap(), newer);
    assert_eq!(fs.list(Path::new("/t")).unwrap().len(), 1);
    fs.flip_bit(path(), 40, 3);
    let error = Metadata::read(&fs, path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("/t/1.metadata at offset 28"), "{error}");
    fs.remove_raw(path());
    assert_eq!(Metadata::read(&fs, path()).unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(newer.bytes(), 700 + 64 + 1000);
}
