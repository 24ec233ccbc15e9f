//! Tests of the META row.

use lithdb_lthash::LtHash;
use proptest::prelude::*;

use super::*;
use crate::store_name::StoreName;

fn meta(rows: &[(&str, &[u8], &[u8])]) -> Meta {
    let mut totals = Totals::default();
    for (store, key, value) in rows {
        totals.add_row(&StoreName::new(store).unwrap(), key, value).unwrap();
    }
    Meta { store: StoreId([7; 16]), version: 9, root: totals.root(), totals }
}

fn decode(value: &[u8]) -> Result<Meta> {
    Meta::decode(&Bytes::copy_from_slice(value))
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let meta = meta(&[("evm", b"key", b"value")]);
    let expected = [
        b"LSMT\x01\0\0\0",
        &[7; 16][..],
        &[9, 0, 0, 0, 0, 0, 0, 0],
        &meta.root.0,
        &[1, 0],
        b"\x03evm",
        &LtHash::of(b"evm/key", b"value").to_bytes(),
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[8, 0, 0, 0, 0, 0, 0, 0],
        &[0; 4],
    ];
    assert_eq!(meta.encode().unwrap(), expected.concat());
    assert_eq!(decode(&expected.concat()).unwrap(), meta);
}

#[test]
fn the_key_is_below_every_row() {
    let row = crate::row::physical_key(&StoreName::new("-").unwrap(), b"");
    assert!(META_KEY < &row[..]);
    assert!(crate::row::split_key(&Bytes::from_static(META_KEY)).is_err());
}

#[test]
fn what_is_not_the_row_is_refused() {
    let value = meta(&[("evm", b"key", b"value")]).encode().unwrap();
    use ErrorKind::{Corrupt, Unsupported};
    for (at, kind, says) in [
        (0, Corrupt, "row META of the working copy at offset 0: expected magic LSMT"),
        (4, Unsupported, "expected format 1, found 0"),
        (5, Unsupported, "expected kind 0, found kind 1: a newer build wrote it"),
        (6, Unsupported, "expected flags 0, found 1"),
        (32, Corrupt, "expected the root of its totals"),
        (80, Corrupt, "expected the root of its totals"),
        (64, Corrupt, "expected the end"),
    ] {
        let mut value = value.clone();
        value[at] ^= 1;
        let error = decode(&value).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(decode(&[&value[..], &[0]].concat()).is_err());
}

#[test]
fn truncations_and_flipped_bits_are_refused_or_another_row() {
    let meta = meta(&[("a", b"k", b"1"), ("b", b"k", b"2")]);
    let value = meta.encode().unwrap();
    for len in 0..value.len() {
        assert_eq!(decode(&value[..len]).unwrap_err().kind(), ErrorKind::Corrupt, "{len} bytes");
    }
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut flipped = value.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(other) = decode(&flipped) {
                assert_ne!(other, meta, "bit {bit} of byte {at}");
                assert_eq!(other.encode().unwrap(), flipped, "bit {bit} of byte {at}");
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(value in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(meta) = decode(&value) {
            prop_assert_eq!(meta.encode().unwrap(), value);
        }
    }

    #[test]
    fn rows_survive_a_round_trip(
        store: [u8; 16],
        version: u64,
        rows in prop::collection::btree_set(("[A-Za-z0-9_-]{1,64}", "[a-z]{1,9}"), 0..6),
    ) {
        let mut totals = Totals::default();
        for (store, key) in &rows {
            totals.add_row(&StoreName::new(store).unwrap(), key.as_bytes(), b"").unwrap();
        }
        let meta = Meta { store: StoreId(store), version, root: totals.root(), totals };
        prop_assert_eq!(decode(&meta.encode().unwrap()).unwrap(), meta);
    }
}
