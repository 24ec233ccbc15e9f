//! Tests of the names of directories.

use proptest::prelude::*;

use super::*;

#[test]
fn names_are_those_of_the_layout() {
    let root = RootHash([0xab; 32]);
    assert_eq!(snapshot_name(10_000), "00000000000000010000");
    assert_eq!(snapshot_name(u64::MAX), "18446744073709551615");
    assert_eq!(new_snapshot_name(7), "00000000000000000007.new");
    assert_eq!(abandoned_name(7, &root), "00000000000000000007-abababab");
    assert_eq!(engine_dir_name(0x0000_0001_0000_00a0), "engine-000000a1");
    assert_eq!(trash_name("working", 10), "working-000000000000000a");
}

#[test]
fn other_names_do_not_parse() {
    for name in [
        "",
        "7",
        "0000000000000000007",
        "000000000000000000007",
        "+0000000000000000007",
        "-0000000000000000007",
        "18446744073709551616",
        "0000000000000000000x",
        "00000000000000000007.new",
        "00000000000000000007 ",
    ] {
        assert_eq!(parse_snapshot_name(name), None, "{name:?}");
    }
    for name in [
        "00000000000000000007",
        "00000000000000000007-",
        "00000000000000000007-ABABABAB",
        "00000000000000000007-abababa",
        "00000000000000000007-ababababa",
        "00000000000000000007-abababab-abababab",
        "7-abababab",
    ] {
        assert_eq!(parse_abandoned_name(name), None, "{name:?}");
    }
    for name in [
        "engine",
        "engine-",
        "engine-0000000",
        "engine-000000000",
        "engine-0000000G",
        "engine-0000000A",
    ] {
        assert!(!is_engine_dir_name(name), "{name:?}");
    }
    for name in [
        "working",
        "working-",
        "working-00000000",
        "-0000000000000000",
        "photos-0000000000000000",
        "snapshot-7-0000000000000000",
        "00000000000000000007-0000000000000000",
        "working-000000000000000A",
    ] {
        assert!(!is_trash_name(name), "{name:?}");
    }
}

proptest! {
    #[test]
    fn names_parse_back(version: u64, random: u64, root: [u8; 32]) {
        prop_assert_eq!(parse_snapshot_name(&snapshot_name(version)), Some(version));
        let abandoned = abandoned_name(version, &RootHash(root));
        prop_assert_eq!(parse_abandoned_name(&abandoned), Some(version));
        prop_assert!(is_engine_dir_name(&engine_dir_name(random)));
        prop_assert!(is_trash_name(&trash_name("working", random)));
        for what in ["snapshot", "abandoned"] {
            let what = format!("{what}-{}", snapshot_name(version));
            prop_assert!(is_trash_name(&trash_name(&what, random)));
        }
    }

    #[test]
    fn names_are_in_the_order_of_versions(one: u64, other: u64) {
        prop_assert_eq!(snapshot_name(one).cmp(&snapshot_name(other)), one.cmp(&other));
    }
}
