//! Tests of totals: sums, refusals, independence of the history.

use proptest::prelude::*;

use super::*;

fn store(name: &str) -> StoreName {
    StoreName::new(name).unwrap()
}

/// The delta of putting `value` at `key`, which has `old`.
fn put(name: &str, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> StoreDelta {
    let name = store(name);
    let physical = physical_key(&name, key);
    let mut delta = LtHash::default();
    let (mut keys, mut bytes) = (0, 0);
    if let Some(old) = old {
        delta.remove_pair(&physical, old);
        (keys, bytes) = (keys - 1, bytes - (key.len() + old.len()) as i64);
    }
    if let Some(new) = new {
        delta.add_pair(&physical, new);
        (keys, bytes) = (keys + 1, bytes + (key.len() + new.len()) as i64);
    }
    let changes = vec![(Bytes::copy_from_slice(key), new.map(Bytes::copy_from_slice))];
    StoreDelta { name, delta, keys, bytes, changes }
}

fn totals(rows: &[(&str, &[u8], &[u8])]) -> Totals {
    let mut totals = Totals::default();
    for (name, key, value) in rows {
        totals.add_row(&store(name), key, value).unwrap();
    }
    totals
}

#[test]
fn deltas_give_the_totals_of_the_rows() {
    let mut live = Totals::default();
    live.apply(&[put("a", b"k", None, Some(b"1")), put("b", b"k", None, Some(b""))]).unwrap();
    assert_eq!(live, totals(&[("a", b"k", b"1"), ("b", b"k", b"")]));
    live.apply(&[put("a", b"k", Some(b"1"), Some(b"22"))]).unwrap();
    assert_eq!(live, totals(&[("a", b"k", b"22"), ("b", b"k", b"")]));
    assert_eq!(live.get(&store("a")).map(|totals| (totals.keys, totals.bytes)), Some((1, 3)));
    live.apply(&[put("b", b"k", Some(b""), None)]).unwrap();
    assert_eq!(live, totals(&[("a", b"k", b"22")]));
    assert_eq!((live.len(), live.get(&store("b"))), (1, None));
}

#[test]
fn the_root_is_the_digest_of_the_sum_of_all_stores() {
    assert_eq!(Totals::default().root(), LtHash::default().root());
    let mut sum = LtHash::of(b"a/k", b"1");
    sum.add(&LtHash::of(b"b/k", b""));
    let both = totals(&[("a", b"k", b"1"), ("b", b"k", b"")]);
    assert_eq!(both.root(), sum.root());
    // The same key in another store is another row.
    assert_ne!(totals(&[("a", b"k", b"1")]).root(), totals(&[("b", b"k", b"1")]).root());
}

#[test]
fn versions_share_the_totals_of_stores_that_do_not_differ() {
    let before = totals(&[("a", b"k", b"1"), ("b", b"k", b"2")]);
    let mut after = before.clone();
    after.apply(&[put("a", b"k", Some(b"1"), Some(b"3"))]).unwrap();
    let is_shared = |name| {
        let [one, other] = [&before, &after].map(|totals| totals.get(&store(name)).unwrap());
        std::ptr::eq(one, other)
    };
    assert_eq!((is_shared("a"), is_shared("b")), (false, true));
    assert_eq!(before, totals(&[("a", b"k", b"1"), ("b", b"k", b"2")]));
    // A scan that goes on from a version does not change it.
    let mut scan = before.clone();
    scan.add_row(&store("b"), b"l", b"3").unwrap();
    assert_eq!(before, totals(&[("a", b"k", b"1"), ("b", b"k", b"2")]));
}

#[test]
fn deltas_of_other_rows_are_refused_and_nothing_changes() {
    let before = totals(&[("a", b"k", b"1"), ("b", b"k", b"2")]);
    let good = put("a", b"k", Some(b"1"), Some(b"3"));
    let gone = put("b", b"k", Some(b"2"), None);
    for (bad, says) in [
        (put("c", b"k", Some(b"1"), None), "store c: expected a number of keys from 0"),
        (StoreDelta { bytes: -9, ..good.clone() }, "found 2 -9"),
        (StoreDelta { keys: i64::MIN, ..good.clone() }, "number of keys"),
        (StoreDelta { bytes: -1, ..gone.clone() }, "found 1 bytes"),
        (StoreDelta { delta: LtHash::default(), ..gone.clone() }, "an empty set hash"),
    ] {
        let mut totals = before.clone();
        let deltas = match bad.name.as_str() {
            "a" => [bad, gone.clone()],
            _ => [good.clone(), bad],
        };
        let error = totals.apply(&deltas).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(totals, before);
    }
    let mut full = totals(&[]);
    let most = StoreTotals { keys: u64::MAX, ..StoreTotals::default() };
    full.set(store("a"), most);
    assert!(full.apply(&[put("a", b"k", None, Some(b"1"))]).is_err());
}

#[test]
fn a_store_beyond_the_limit_is_refused() {
    let mut totals = Totals::default();
    for n in 0..MAX_STORES {
        let of_store = StoreTotals { keys: 1, ..StoreTotals::default() };
        totals.set(store(&format!("s{n}")), of_store);
    }
    let before = totals.clone();
    let error = totals.apply(&[put("more", b"k", None, Some(b"1"))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("at most 4096 stores, found 4097"), "{error}");
    assert!(totals.add_row(&store("more"), b"k", b"1").is_err());
    assert_eq!(totals, before);
    // One store goes, another one comes.
    let leaves = StoreDelta { delta: LtHash::default(), ..put("s0", b"", Some(b""), None) };
    totals.apply(&[put("more", b"k", None, Some(b"1")), leaves]).unwrap();
    assert_eq!(totals.len(), MAX_STORES);
    totals.add_row(&store("s1"), b"k", b"1").unwrap();
}

proptest! {
    #[test]
    fn totals_do_not_depend_on_the_history(
        history in prop::collection::vec((0..3_usize, 0..4_u8, prop::option::of(0..3_u8)), 0..40),
    ) {
        let mut live = Totals::default();
        let mut rows: BTreeMap<(usize, u8), u8> = BTreeMap::new();
        let names = ["a", "a-", "b"];
        for (name, key, value) in history {
            let old = match value {
                Some(value) => rows.insert((name, key), value),
                None => rows.remove(&(name, key)),
            };
            let bytes = |len: u8| vec![7; len.into()];
            let (old, new) = (old.map(bytes), value.map(bytes));
            let delta = put(names[name], &[key], old.as_deref(), new.as_deref());
            live.apply(&[delta]).unwrap();
            let mut scanned = Totals::default();
            for ((name, key), value) in &rows {
                scanned.add_row(&store(names[*name]), &[*key], &vec![7; (*value).into()]).unwrap();
            }
            prop_assert_eq!(&live, &scanned);
            prop_assert_eq!(live.root(), scanned.root());
        }
    }
}
