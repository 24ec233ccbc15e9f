//! Tests of change sets.

use lithdb_env::ErrorKind;

use super::*;

fn set() -> ChangeSet {
    ChangeSet::new("bank").unwrap()
}

#[test]
fn the_last_change_of_a_key_counts() {
    let changes = set().put(b"a", b"1").delete("a").delete("b").put(b"b", b"").put("c", [1]);
    let changes = changes.put("c", vec![2]);
    let found: Vec<_> = changes.changes().iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
    let expected = [(&b"a"[..], None), (b"b", Some(&b""[..])), (b"c", Some(&[2]))];
    assert_eq!(found, expected);
}

#[test]
fn a_set_for_a_bad_store_is_refused() {
    assert_eq!(ChangeSet::new("").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(set().is_empty() && set().validate().is_ok());
}

#[test]
fn one_change_out_of_range_makes_the_set_invalid() {
    let good = set().put("a", "1").delete(vec![7; ChangeSet::MAX_KEY_LEN]);
    assert!(good.validate().is_ok());
    for (bad, says) in [
        (good.clone().delete(""), "store bank, key 0x: expected a key of 1 to 65000 bytes"),
        (good.clone().put(vec![7; 65_001], ""), "found 65001"),
        (good.put("b", vec![0; (256 << 20) + 1]), "key 0x62: expected a value of 0 to 268435456"),
    ] {
        let error = bad.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn debug_output_shows_no_keys_and_values() {
    assert_eq!(format!("{:?}", set().put("secret", "secret")), "ChangeSet(bank, 1 changes)");
}
