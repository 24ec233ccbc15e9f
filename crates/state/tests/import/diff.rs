//! Diff: compared with the model.

use std::collections::BTreeMap;

use lithdb_state::{Difference, ErrorKind, View};

use super::support::model::{Change, Rows, change_sets, changes_of, rows_of};
use super::support::{Harness, small};

type Key = (String, Vec<u8>);
type Found = BTreeMap<Key, (Option<(Vec<u8>, u64)>, Option<(Vec<u8>, u64)>)>;

fn found(before: &View, after: &View, store: Option<&str>) -> Found {
    let differences: Vec<Difference> =
        before.diff(after, store).unwrap().map(|difference| difference.unwrap()).collect();
    let key = |difference: &Difference| (difference.store.to_string(), difference.key.to_vec());
    assert!(differences.iter().map(key).is_sorted_by(|one, next| one < next), "in order");
    let row = |row: Option<lithdb_state::Row>| row.map(|row| (row.value.to_vec(), row.modified_at));
    let all = differences.into_iter().map(|d| (key(&d), (row(d.before), row(d.after))));
    all.collect()
}

fn expected(before: &Rows, after: &Rows, store: Option<&str>) -> Found {
    let keys = before.keys().chain(after.keys()).filter(|key| store.is_none_or(|s| s == key.0));
    let pairs = keys.map(|key| (key.clone(), (before.get(key).cloned(), after.get(key).cloned())));
    pairs.filter(|(_, (before, after))| before != after).collect()
}

#[test]
fn diff_has_exactly_the_rows_that_differ() {
    let harness = Harness::new(small());
    let db = harness.open();
    let mut views = vec![db.latest()];
    for version in 1..9 {
        db.commit_block(version, &change_sets(&changes_of(version % 2, version))).unwrap();
        views.push(db.latest());
    }
    // The same value is put again, and a row is deleted and put again.
    let again = [Change::put("bank", "k1", "same"), Change::put("bank", "k2", "")];
    for version in 9..11 {
        db.commit_block(version, &change_sets(&again)).unwrap();
        views.push(db.latest());
    }
    let mut differences = 0;
    for before in &views {
        for after in &views {
            for store in [None, Some("bank"), Some("a-"), Some("nobody")] {
                let expected = expected(&rows_of(before), &rows_of(after), store);
                assert_eq!(found(before, after, store), expected);
                differences += expected.len();
            }
        }
    }
    assert!(differences > 500, "{differences}");
    let error = views[0].diff(&views[1], Some("no/store")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
