//! Tests of rows: physical keys, bounds, values.

use proptest::prelude::*;

use super::*;

fn store(name: &str) -> StoreName {
    StoreName::new(name).unwrap()
}

#[test]
fn a_physical_key_is_split_at_the_first_slash() {
    let key = physical_key(&store("evm"), b"a/b");
    assert_eq!(&key[..], b"evm/a/b");
    assert_eq!(split_key(&key).unwrap(), ("evm", Bytes::from_static(b"a/b")));
}

#[test]
fn what_is_not_the_key_of_a_row_is_corrupt() {
    let long = [&b"evm/"[..], &[7; MAX_KEY_LEN + 1]].concat();
    for (key, says) in [
        (&b""[..], "STORE/KEY"),
        (b"\x00m", "STORE/KEY"),
        (b"evm", "0x65766d"),
        (b"/key", "1 to 64"),
        (b"e.m/key", "'.'"),
        (b"e\xffm/key", "name of a store"),
        (b"evm/", "store evm: expected a key of 1 to 65000 bytes, found 0"),
        (&long, "found 65001"),
    ] {
        let error = split_key(&Bytes::copy_from_slice(key)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn stores_are_not_in_the_order_of_their_names() {
    let (short, long) = (store("a"), store("a-"));
    assert!(short < long);
    assert!(physical_key(&short, b"k") > physical_key(&long, b"k"));
}

#[test]
fn a_row_keeps_the_version_and_an_empty_value() {
    let row = Bytes::from(encode_row(0x0102_0304_0506_0708, b""));
    assert_eq!(&row[..], &[8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(split_row(&row).unwrap(), (0x0102_0304_0506_0708, Bytes::new()));
    let error = split_row(&row.slice(..7)).unwrap_err();
    assert!(error.to_string().contains("at least 8 bytes, found 7"), "{error}");
}

#[test]
fn lengths_out_of_range_name_store_key_and_limit() {
    let evm = store("evm");
    let check =
        |key: &[u8], value: Option<&Bytes>| check_lengths(&evm, key, value.map(|value| &value[..]));
    let value = Bytes::from(vec![0; MAX_VALUE_LEN + 1]);
    assert!(check(&[7; MAX_KEY_LEN], Some(&value.slice(1..))).is_ok());
    assert!(check(b"k", None).is_ok());
    for (result, says) in [
        (check(b"", None), "store evm, key 0x: expected a key of 1 to 65000 bytes, found 0"),
        (check(&[7; MAX_KEY_LEN + 1], None), "(65001 bytes): expected a key of 1 to 65000 bytes"),
        (check(b"k", Some(&value)), "key 0x6b: expected a value of 0 to 268435456 bytes, found"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn long_keys_are_shortened_in_messages() {
    assert_eq!(short(b"ab"), "0x6162");
    assert_eq!(short(&[1; 16]), format!("0x{}", "01".repeat(16)));
    assert_eq!(short(&[1; 17]), format!("0x{}… (17 bytes)", "01".repeat(16)));
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(b'/'), Just(254), Just(255)], 0..5)
}

proptest! {
    #[test]
    fn prefix_end_is_the_least_key_above_the_prefix(prefix in key(), key in key()) {
        match prefix_end(&prefix) {
            Some(end) => {
                prop_assert_eq!(key.starts_with(&prefix), key >= prefix && key[..] < end[..]);
            }
            None => prop_assert_eq!(key.starts_with(&prefix), key >= prefix),
        }
    }

    #[test]
    fn rows_are_split_as_they_were_encoded(
        modified_at: u64,
        value in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let row = Bytes::from(encode_row(modified_at, &value));
        prop_assert_eq!(split_row(&row).unwrap(), (modified_at, Bytes::from(value)));
    }
}
