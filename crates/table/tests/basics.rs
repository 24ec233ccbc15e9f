//! Basic behaviour of a table without failures.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use lithdb_table::{Batch, SecondaryKey, TableOptions};
use support::{Harness, small};

#[test]
fn puts_are_read_back_before_and_after_flush_and_reopen() {
    let harness = Harness::new(2);
    let table = harness.create_and_open(&small());
    let large = vec![9_u8; 200 << 10];
    for n in 0..20_u32 {
        table
            .put(format!("k{n}").as_bytes(), format!("value {n} of some length").as_bytes())
            .unwrap();
    }
    table.put(b"tiny", b"").unwrap();
    table
        .put_with(
            b"large",
            &large,
            &[SecondaryKey::whole(b"alias"), SecondaryKey::range(b"part", 5..10)],
        )
        .unwrap();
    let check = |table: &lithdb_table::Table| {
        for n in 0..20_u32 {
            let value = table.get(format!("k{n}").as_bytes()).unwrap().unwrap();
            assert_eq!(value, format!("value {n} of some length").as_bytes());
        }
        assert_eq!(table.get(b"tiny").unwrap().unwrap(), b"");
        assert_eq!(table.get(b"large").unwrap().unwrap(), &large[..]);
        assert_eq!(table.get(b"alias").unwrap().unwrap(), &large[..]);
        assert_eq!(table.get(b"part").unwrap().unwrap(), &large[5..10]);
        assert_eq!(table.get(b"absent").unwrap(), None);
        let keys: Vec<_> = table.iter().unwrap().map(|e| e.unwrap().key().to_vec()).collect();
        assert_eq!(keys.len(), 24);
        let mut back: Vec<_> =
            table.iter().unwrap().rev().map(|e| e.unwrap().key().to_vec()).collect();
        back.reverse();
        assert_eq!(keys, back);
        assert_eq!(table.stats().keys, 24);
    };
    check(&table);
    table.flush().unwrap();
    check(&table);
    table.close().unwrap();
    let table = harness.open(&small()).unwrap();
    check(&table);
    drop(table);
    let table = harness.open(&small()).unwrap();
    check(&table);
}

#[test]
fn a_batch_and_a_newer_value_of_a_key() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&TableOptions::new());
    let mut batch = Batch::new();
    batch.put(b"a".to_vec(), b"one".to_vec()).alias(b"a2".to_vec(), 1..2);
    batch.put(b"b".to_vec(), vec![1_u8; 100_000]);
    table.put_batch(&batch).unwrap();
    table.put(b"a", b"two").unwrap();
    assert_eq!(table.get(b"a").unwrap().unwrap(), b"two");
    assert_eq!(table.get(b"a2").unwrap().unwrap(), b"n");
    table.close().unwrap();
    let table = harness.open(&TableOptions::new()).unwrap();
    assert_eq!(table.get(b"a").unwrap().unwrap(), b"two");
    assert_eq!(table.get(b"b").unwrap().unwrap().len(), 100_000);
    assert_eq!(table.iter_from(b"b").unwrap().unwrap().count(), 2);
}
