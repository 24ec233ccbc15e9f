//! Random states, exported and imported: the same rows, and the same bytes whatever the history.

use std::collections::BTreeMap;

use lithdb_state::{StateDb, View};
use proptest::prelude::*;

use super::origin::{Origin, export, options};
use super::support::model::{Change, change_sets, rows_of};
use super::support::{DIR, Harness, small};

/// Histories of a few versions over few stores and keys, so that rows are overwritten and deleted.
pub fn histories() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let key =
        prop_oneof![Just(vec![0]), Just(vec![0xff, 0xff]), prop::collection::vec(0_u8..4, 1..4)];
    let value = prop_oneof![
        Just(None),
        Just(Some(Vec::new())),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Some),
    ];
    let change = (prop::sample::select(vec!["a", "a-", "a_", "bank", "Z"]), key, value);
    let change =
        change.prop_map(|(store, key, value)| Change { store: store.to_owned(), key, value });
    prop::collection::vec(prop::collection::vec(change, 0..12), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_imported_is_what_was_exported(history in histories()) {
        let origin = Harness::new(small());
        let db = origin.open();
        for (n, changes) in history.iter().enumerate() {
            db.commit_block(n as u64 + 1, &change_sets(changes)).unwrap();
        }
        let first = export(&db.latest());
        let target = Harness::new(options());
        let report = target.import(&first).unwrap();
        prop_assert_eq!((report.version, report.root), (db.version(), db.root()));
        let copy = target.try_open_existing().unwrap();
        prop_assert_eq!(rows_of(&copy.latest()), rows_of(&db.latest()));
        prop_assert_eq!(copy.latest().stores(), db.latest().stores());
        prop_assert!(export(&copy.latest()) == first);
        prop_assert!(export(&target_view(&target)) == first);
        prop_assert_eq!(db.latest().diff(&copy.latest(), None).unwrap().count(), 0);
    }
}

fn target_view(harness: &Harness) -> View {
    StateDb::view_only_with(DIR, None, harness.options.clone(), harness.components()).unwrap()
}

/// Another store, another id, another time, other memtables, another order of changes.
#[test]
fn equal_rows_export_equal_bytes() {
    let rows: BTreeMap<&str, &str> = [("k1", "1"), ("k2", ""), ("k3", "3")].into();
    let one = Harness::new(small());
    let db = one.open();
    let all: Vec<Change> =
        rows.iter().map(|(key, value)| Change::put("bank", key, value)).collect();
    db.commit_block(1, &change_sets(&all)).unwrap();
    db.commit(2).unwrap();
    let first = export(&db.latest());
    let two = Harness::new(small().memtable_bytes(1));
    two.clock.advance(std::time::Duration::from_secs(4_711));
    let db = two.open();
    let mut changes = vec![Change::put("bank", "k4", "x"), Change::put("gone", "k", "x")];
    changes.extend(all.iter().rev().cloned());
    changes.push(Change::delete("gone", "k"));
    db.commit_block(1, &change_sets(&changes)).unwrap();
    db.snapshot().unwrap().wait().unwrap();
    db.commit_block(2, &change_sets(&[Change::delete("bank", "k4")])).unwrap();
    assert!(export(&db.latest()) == first);
    // The version that put a row is a part of it.
    let three = Harness::new(small());
    let db = three.open();
    db.commit_block(1, &change_sets(&all[1..])).unwrap();
    db.commit_block(2, &change_sets(&all[..1])).unwrap();
    assert!(export(&db.latest()) != first);
}

#[test]
fn an_older_version_is_exported_from_a_view_of_it() {
    let harness = Harness::new(small());
    let db = harness.open();
    let mut exports = Vec::new();
    for version in 1..6 {
        let changes = super::support::model::changes_of(0, version);
        db.commit_block(version, &change_sets(&changes)).unwrap();
        exports.push(export(&db.latest()));
        if version == 3 {
            db.snapshot().unwrap().wait().unwrap();
        }
    }
    db.flush().unwrap();
    for version in 1..6 {
        let view = StateDb::view_only_with(
            DIR,
            Some(version),
            harness.options.clone(),
            harness.components(),
        )
        .unwrap();
        assert!(export(&view) == exports[version as usize - 1], "{version}");
    }
}

#[test]
fn an_imported_store_goes_on() {
    let origin = Origin::new(0, 6);
    let harness = Harness::new(options());
    harness.import(&origin.export).unwrap();
    let db = harness.try_open_existing().unwrap();
    origin.check(&db, "imported");
    assert_eq!(db.opened().replayed, 0);
    assert!(db.opened().recloned.is_none() && db.opened().leftovers.is_empty());
    origin.go_on(&harness, db, "imported");
}
