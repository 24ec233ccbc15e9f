//! Tests of the log's records: round trips, damage, limits, canonical form.

use proptest::prelude::*;

use super::*;
use crate::store_name::StoreName;
use crate::totals::StoreTotals;
use lithdb_lthash::LtHash;

const STORE: StoreId = StoreId([7; StoreId::LEN]);
/// Where the first store begins.
const STORES_AT: usize = FIXED_LEN + 2;

fn name(name: &str) -> StoreName {
    StoreName::new(name).unwrap()
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn delta(store: &str, changes: Vec<(Bytes, Option<Bytes>)>) -> StoreDelta {
    let delta = LtHash::of(store.as_bytes(), b"delta");
    StoreDelta { name: name(store), delta, keys: -1, bytes: 2, changes }
}

fn record(body: Body) -> Record {
    let root = RootHash([2; 32]);
    let (previous_root, root) = match &body {
        Body::Base(totals) => (totals.root(), totals.root()),
        Body::Commit(_) => (RootHash([1; 32]), root),
    };
    Record { store: STORE, version: 9, previous_root, root, time: UnixMillis(3), body }
}

fn totals() -> Totals {
    let mut totals = Totals::default();
    totals.add_row(&name("evm"), b"key", b"value").unwrap();
    totals.add_row(&name("bank"), b"key", b"").unwrap();
    totals
}

/// One of every kind, small enough for exhaustive tests.
fn one_of_every_kind() -> Vec<Record> {
    let changes = vec![
        (bytes(b"a"), Some(bytes(b"value"))),
        (bytes(b"aa"), None),
        (bytes(b"b"), Some(Bytes::new())),
    ];
    let deltas = vec![delta("bank", changes), delta("evm", vec![(bytes(b"k"), None)])];
    [Body::Commit(deltas), Body::Commit(Vec::new()), Body::Base(totals())]
        .map(record)
        .into_iter()
        .chain([record(Body::Base(Totals::default()))])
        .collect()
}

fn decode(value: &[u8]) -> Result<Record> {
    Record::decode(&9_u64.to_be_bytes(), &bytes(value))
}

fn refused(value: &[u8]) -> Error {
    decode(value).unwrap_err()
}

/// A commit of one store with one change, with `with` at `at`.
fn altered(at: usize, with: &[u8]) -> Vec<u8> {
    let changes = vec![(bytes(b"key"), Some(bytes(b"value")))];
    let mut value = record(Body::Commit(vec![delta("evm", changes)])).encode().unwrap();
    value[at..at + with.len()].copy_from_slice(with);
    value
}

#[test]
fn every_kind_is_decoded_as_it_was_encoded() {
    for record in one_of_every_kind() {
        assert_eq!(decode(&record.encode().unwrap()).unwrap(), record);
    }
}

/// The head says what the record says, and is read without the stores: whatever they are.
#[test]
fn the_head_of_a_record_is_decoded_alone() {
    let key = 9_u64.to_be_bytes();
    for record in one_of_every_kind() {
        let mut value = record.encode().unwrap();
        let head = RecordHead::decode(&key, &bytes(&value)).unwrap();
        let RecordHead { store, version, previous_root, root, time, is_base } = head;
        let body = record.body.clone();
        assert_eq!(Record { store, version, previous_root, root, time, body }, record);
        assert_eq!(is_base, record.is_base());
        value.truncate(FIXED_LEN);
        assert_eq!(RecordHead::decode(&key, &bytes(&value)).unwrap(), head);
        for len in 0..FIXED_LEN {
            let error = RecordHead::decode(&key, &bytes(&value[..len])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}");
        }
        let error = RecordHead::decode(&10_u64.to_be_bytes(), &bytes(&value)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        for (at, kind) in [(0, ErrorKind::Corrupt), (4, ErrorKind::Unsupported)] {
            let mut other = value.clone();
            other[at] ^= 0x40;
            let error = RecordHead::decode(&key, &bytes(&other)).unwrap_err();
            assert_eq!(error.kind(), kind, "byte {at}: {error}");
        }
    }
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let changes = vec![(bytes(b"k"), Some(bytes(b"vv"))), (bytes(b"kk"), None)];
    let commit = record(Body::Commit(vec![delta("evm", changes)]));
    let expected = [
        b"LSWR\x01\x02\0\0",
        &[7; 16][..],
        &[9, 0, 0, 0, 0, 0, 0, 0],
        &[1; 32],
        &[2; 32],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0],
        b"\x03evm",
        &LtHash::of(b"evm", b"delta").to_bytes(),
        &(-1_i64).to_le_bytes(),
        &2_i64.to_le_bytes(),
        &[2, 0, 0, 0],
        b"\x01\x01\0k\x02\0\0\0vv",
        b"\x02\x02\0kk",
    ]
    .concat();
    assert_eq!(commit.encode().unwrap(), expected);

    let mut totals = Totals::default();
    totals.add_row(&name("evm"), b"key", b"value").unwrap();
    let root = totals.root();
    let base = record(Body::Base(totals)).encode().unwrap();
    assert_eq!(base[4..8], [1, 1, 0, 0]);
    assert_eq!((&base[32..64], &base[64..96]), (&root.0[..], &root.0[..]));
    let stores = [
        &b"\x01\0\x03evm"[..],
        &LtHash::of(b"evm/key", b"value").to_bytes(),
        &1_u64.to_le_bytes(),
        &8_u64.to_le_bytes(),
        &[0; 4],
    ];
    assert_eq!(base[FIXED_LEN..], stores.concat());
}

#[test]
fn keys_and_values_are_slices_of_the_input() {
    let changes = vec![(bytes(b"key"), Some(bytes(b"value")))];
    let value = Bytes::from(record(Body::Commit(vec![delta("evm", changes)])).encode().unwrap());
    let decoded = Record::decode(&9_u64.to_be_bytes(), &value).unwrap();
    let Body::Commit(stores) = decoded.body else { panic!("a commit") };
    let input = value.as_ptr_range();
    let (key, put) = &stores[0].changes[0];
    assert!(input.contains(&key.as_ptr()) && input.contains(&put.as_ref().unwrap().as_ptr()));
}

#[test]
fn every_truncation_is_refused() {
    for record in one_of_every_kind() {
        let value = record.encode().unwrap();
        for len in 0..value.len() {
            assert_eq!(refused(&value[..len]).kind(), ErrorKind::Corrupt, "{len} bytes");
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_another_record() {
    for record in one_of_every_kind() {
        let value = record.encode().unwrap();
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut flipped = value.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(other) = decode(&flipped) {
                    assert_ne!(other, record, "bit {bit} of byte {at}");
                    assert_eq!(other.encode().unwrap(), flipped, "bit {bit} of byte {at}");
                }
            }
        }
    }
}

#[test]
fn an_unknown_head_is_refused() {
    use ErrorKind::{Corrupt, Unsupported};
    for (at, with, kind, says) in [
        (0, &b"LSWQ"[..], Corrupt, "expected magic LSWR, found [4c, 53, 57, 51]"),
        (4, &[2], Unsupported, "expected format 1, found 2: a newer build wrote it"),
        (5, &[0], Unsupported, "expected kind 1 or 2, found kind 0"),
        (5, &[3], Unsupported, "expected kind 1 or 2, found kind 3"),
        (6, &[1, 0], Unsupported, "expected flags 0, found 1"),
        (6, &[0, 1], Unsupported, "expected flags 0, found 256"),
        (24, &[8], Corrupt, "at offset 24: expected version 9, as in its key, found 8"),
    ] {
        let error = refused(&altered(at, with));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("record of version 9"), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_key_that_is_no_version_is_refused() {
    let value = Bytes::from(one_of_every_kind()[0].encode().unwrap());
    for key in [&b""[..], &[0; 7], &[0; 9]] {
        let error = Record::decode(key, &value).unwrap_err();
        assert!(error.to_string().contains("a version of 8 bytes, found 0x"), "{error}");
    }
    assert!(Record::decode(&9_u64.to_le_bytes(), &value).is_err());
}

#[test]
fn fields_out_of_range_name_the_offset_and_what_was_expected() {
    let vector_at = STORES_AT + 1 + 3;
    let changes_at = vector_at + LtHash::LEN + 16;
    let change_at = changes_at + 4;
    for (at, with, says) in [
        (
            STORES_AT,
            &[0][..],
            "at offset 107: expected the name of a store, found \"\": expected 1",
        ),
        (STORES_AT, &[65], "expected the name of a store, found 0x65766d"),
        (STORES_AT + 1, b"e/m", "found '/'"),
        (STORES_AT + 1, b"\xff", "expected the name of a store"),
        (changes_at, &[0], "expected 1 to 3 changes, found 0"),
        (changes_at, &[4], "expected 1 to 3 changes, found 4"),
        (changes_at, &[0xff; 4], "expected 1 to 3 changes, found 4294967295"),
        (changes_at, &[2], "expected a change of 1 bytes, found 0"),
        (change_at, &[0], "expected 1 (put) or 2 (delete), found 0"),
        (change_at, &[3], "expected 1 (put) or 2 (delete), found 3"),
        (change_at, &[2], "expected the end, found 9 more bytes"),
        (change_at + 1, &[0, 0], "expected a key of 1 to 65000 bytes, found 0"),
        (change_at + 1, &[0xe9, 0xfd], "expected a key of 1 to 65000 bytes, found 65001"),
        (change_at + 1, &[200], "expected a key of 200 bytes, found 12"),
        (change_at + 6, &[6], "expected a value of 6 bytes, found 5"),
        (change_at + 6, &[4], "expected the end, found 1 more bytes"),
        (
            change_at + 6,
            &[1, 0, 0, 16],
            "expected a value of at most 268435456 bytes, found 268435457",
        ),
        (FIXED_LEN, &[2], "expected the length of a store's name of 1 bytes, found 0"),
        (FIXED_LEN, &[0], "expected the end, found"),
    ] {
        let error = refused(&altered(at, with));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn stores_and_keys_that_do_not_ascend_are_refused() {
    let changes = |key: &[u8]| vec![(bytes(key), None)];
    let pair = |one, next| {
        record(Body::Commit(vec![delta(one, changes(b"k")), delta(next, changes(b"k"))]))
    };
    let value = pair("a", "b").encode().unwrap();
    let (first, second) = (STORES_AT + 1, STORES_AT + 1 + 1 + LtHash::LEN + 20 + 4 + 1);
    assert_eq!((value[first], value[second]), (b'a', b'b'));
    for (name, says) in [(b'b', "expected a store after b, found b"), (b'c', "after c, found b")] {
        let mut value = value.clone();
        value[first] = name;
        assert!(refused(&value).to_string().contains(says), "{}", refused(&value));
    }

    let keys = vec![(bytes(b"k"), None), (bytes(b"l"), None)];
    let value = record(Body::Commit(vec![delta("a", keys)])).encode().unwrap();
    let last = value.len() - 1;
    for (key, says) in [(b'k', "after 0x6b, found 0x6b"), (b'j', "after 0x6b, found 0x6a")] {
        let mut value = value.clone();
        value[last] = key;
        assert!(refused(&value).to_string().contains(says), "{}", refused(&value));
    }
}

#[test]
fn a_base_record_has_the_root_of_its_totals() {
    let value = record(Body::Base(totals())).encode().unwrap();
    // A root; a set hash.
    for at in [32, 95, STORES_AT + 5, STORES_AT + 5 + LtHash::LEN - 1] {
        let mut value = value.clone();
        value[at] ^= 1;
        let error = refused(&value);
        assert!(error.to_string().contains("the root of its rows"), "{error}");
    }
    let counts_at = STORES_AT + 1 + "bank".len() + LtHash::LEN;
    for (at, says) in
        [(counts_at, "expected at least 1 key"), (counts_at + 16, "expected 0 changes")]
    {
        let mut value = value.clone();
        value[at] ^= 1;
        let error = refused(&value);
        assert!(error.to_string().contains(says), "{error}");
    }
    let mut value = value;
    value[FIXED_LEN..STORES_AT].copy_from_slice(&4097_u16.to_le_bytes());
    assert!(refused(&value).to_string().contains("at most 4096 stores, found 4097"));
}

#[test]
fn a_change_out_of_range_is_not_encoded() {
    let record = |key: Vec<u8>, value| {
        record(Body::Commit(vec![delta("evm", vec![(Bytes::from(key), value)])])).encode()
    };
    assert!(record(vec![1; MAX_KEY_LEN], None).is_ok());
    for (key, value) in [
        (vec![], None),
        (vec![1; MAX_KEY_LEN + 1], None),
        (vec![1], Some(Bytes::from(vec![0; MAX_VALUE_LEN + 1]))),
    ] {
        let error = record(key, value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("store evm, key 0x"), "{error}");
    }
}

#[test]
fn a_record_longer_than_a_value_of_the_log_is_refused() {
    // One buffer, referred to by every change: nothing of this size is allocated.
    let value = Bytes::from(vec![0; MAX_VALUE_LEN]);
    let changes = (0..16).map(|n| (bytes(&[n]), Some(value.clone()))).collect();
    let error = record(Body::Commit(vec![delta("evm", changes)])).encode().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(
        error.to_string().contains("record of version 9: expected at most 4294967294"),
        "{error}"
    );
}

#[test]
#[should_panic(expected = "ascend strictly")]
fn unsorted_keys_are_a_bug_of_the_caller() {
    let changes = vec![(bytes(b"b"), None), (bytes(b"a"), None)];
    drop(record(Body::Commit(vec![delta("evm", changes)])).encode());
}

#[test]
#[should_panic(expected = "ascend strictly")]
fn repeated_stores_are_a_bug_of_the_caller() {
    let delta = delta("evm", vec![(bytes(b"a"), None)]);
    drop(record(Body::Commit(vec![delta.clone(), delta])).encode());
}

#[test]
#[should_panic(expected = "so it has changes")]
fn stores_without_changes_are_a_bug_of_the_caller() {
    drop(record(Body::Commit(vec![delta("evm", Vec::new())])).encode());
}

fn any_changes() -> impl Strategy<Value = Vec<(Bytes, Option<Bytes>)>> {
    let bytes = |lengths| prop::collection::vec(any::<u8>(), lengths).prop_map(Bytes::from);
    let changes = prop::collection::btree_map(bytes(1..40), prop::option::of(bytes(0..60)), 1..8);
    changes.prop_map(|changes| changes.into_iter().collect())
}

fn any_body() -> impl Strategy<Value = Body> {
    let vector = || any::<u64>().prop_map(|n| LtHash::of(&n.to_le_bytes(), b""));
    let delta = (vector(), any::<i64>(), any::<i64>(), any_changes());
    let commit =
        prop::collection::btree_map("[A-Za-z0-9_-]{1,8}", delta, 0..4).prop_map(|stores| {
            let stores = stores.into_iter().map(|(store, (delta, keys, bytes, changes))| {
                StoreDelta { name: name(&store), delta, keys, bytes, changes }
            });
            Body::Commit(stores.collect())
        });
    let of_store = (vector(), 1..=u64::MAX, any::<u64>());
    let base =
        prop::collection::btree_map("[A-Za-z0-9_-]{1,64}", of_store, 0..4).prop_map(|stores| {
            let mut totals = Totals::default();
            for (store, (vector, keys, bytes)) in stores {
                totals.set(name(&store), StoreTotals { vector, keys, bytes });
            }
            Body::Base(totals)
        });
    prop_oneof![3 => commit, 1 => base]
}

fn any_record() -> impl Strategy<Value = Record> {
    let root = || any::<[u8; 32]>().prop_map(RootHash);
    (any::<[u8; 16]>(), any::<u64>(), root(), root(), any::<u64>(), any_body()).prop_map(
        |(store, version, mut previous_root, mut root, time, body)| {
            if let Body::Base(totals) = &body {
                (previous_root, root) = (totals.root(), totals.root());
            }
            let (store, time) = (StoreId(store), UnixMillis(time));
            Record { store, version, previous_root, root, time, body }
        },
    )
}

/// Whatever decodes is encoded to the same bytes.
fn assert_canonical(key: &[u8], value: Vec<u8>) {
    let value = Bytes::from(value);
    if let Ok(record) = Record::decode(key, &value) {
        assert_eq!(record.encode().unwrap(), value);
    }
}

proptest! {
    #[test]
    fn records_survive_a_round_trip(record in any_record()) {
        let value = Bytes::from(record.encode().unwrap());
        let decoded = Record::decode(&record.version.to_be_bytes(), &value).unwrap();
        prop_assert_eq!(decoded, record);
    }

    #[test]
    fn a_damaged_record_is_refused_or_another_record(
        record in any_record(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        extra in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut value = record.encode().unwrap();
        for (at, with) in damage {
            let at = at.index(value.len());
            value[at] = with;
        }
        if let Some(cut) = cut {
            value.truncate(cut.index(value.len()));
        }
        value.extend(extra);
        assert_canonical(&record.version.to_be_bytes(), value);
    }

    #[test]
    fn random_bytes_never_panic(
        key in prop::collection::vec(any::<u8>(), 0..10),
        value in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        assert_canonical(&key, value);
    }

    #[test]
    fn random_bytes_after_a_valid_head_never_panic(
        kind in 1..=2_u8,
        value in prop::collection::vec(any::<u8>(), 0..2600),
        version: u64,
    ) {
        let mut head = vec![b'L', b'S', b'W', b'R', 1, kind, 0, 0];
        head.extend([0; 16]);
        head.extend(version.to_le_bytes());
        head.extend([0; 72]);
        head.extend(value);
        assert_canonical(&version.to_be_bytes(), head);
    }
}
