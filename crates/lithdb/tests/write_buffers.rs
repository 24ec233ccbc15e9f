//! Write buffers: one budget for all tables. A put that needs memory gets that of other tables,
//! once their bytes are in their files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use lithdb::{Batch, Db, DbOptions, ErrorKind, Table, TableOptions};
use lithdb_sim::{CrashImage, Fault};
use support::Harness;

/// The smallest budget allowed.
const BUDGET: u64 = 1 << 20;

fn open(harness: &Harness) -> Db {
    let options = DbOptions { write_buffer_bytes: BUDGET, ..harness.options() };
    Db::open_with(options, harness.components()).unwrap()
}

fn value(n: u32, len: usize) -> Vec<u8> {
    n.to_le_bytes().iter().copied().cycle().take(len).collect()
}

fn batch(keys: u32, len: usize) -> Batch {
    let mut batch = Batch::new();
    for n in 0..keys {
        batch.put(n.to_le_bytes(), value(n, len));
    }
    batch
}

fn check(table: &Table, keys: u32, len: usize) {
    for n in 0..keys {
        assert_eq!(table.get(n.to_le_bytes()).unwrap().unwrap(), value(n, len).as_slice());
    }
}

#[test]
fn idle_tables_release_write_buffers_to_busy_ones() {
    let harness = Harness::new();
    let db = open(&harness);
    let tables: Vec<_> = (0..150)
        .map(|n| {
            let table = db.table(&format!("t{n}"), TableOptions::new()).unwrap();
            for (len, key) in [(5_000, "value file"), (100, "key file")] {
                table.put(key.as_bytes(), value(n, len)).unwrap();
            }
            table
        })
        .collect();
    // Nobody has flushed: what the first table had in memory was written out for the others.
    let written = harness.fs.read_raw(&harness.files("/t0/segments/1-0.values")[0]);
    assert!(written.len() > 5_000, "{}", written.len());
    for (n, table) in (0..).zip(&tables) {
        assert_eq!(table.get(b"value file").unwrap().unwrap(), value(n, 5_000).as_slice());
        assert_eq!(table.get(b"key file").unwrap().unwrap(), value(n, 100).as_slice());
    }
    db.flush().unwrap();
    drop((tables, db));
    let harness = harness.after_crash(&CrashImage::Nothing);
    let db = open(&harness);
    for n in 0..150 {
        let table = db.existing_table(&format!("t{n}")).unwrap();
        assert_eq!(table.get(b"key file").unwrap().unwrap(), value(n, 100).as_slice());
    }
}

#[test]
fn batch_larger_than_the_budget_is_put_whole() {
    for (keys, len) in [(50, 60_000), (1 << 12, 1_000)] {
        let harness = Harness::new();
        let db = open(&harness);
        for (name, shards) in [("one", 1), ("three", 3)] {
            let table = db.table(name, TableOptions::new().shards(shards)).unwrap();
            table.put(b"before", b"x").unwrap();
            table.put_batch(&batch(keys, len)).unwrap();
            check(&table, keys, len);
            table.put(b"after", b"y").unwrap();
        }
        db.flush().unwrap();
        drop(db);
        let harness = harness.after_crash(&CrashImage::Nothing);
        let db = open(&harness);
        for name in ["one", "three"] {
            check(&db.existing_table(name).unwrap(), keys, len);
        }
    }
}

/// A put to another table failed to write out this table's buffer.
#[test]
fn failed_buffer_write_latches_only_its_table() {
    let mut failed = 0;
    for op in 1..9 {
        let harness = Harness::new();
        let db = open(&harness);
        let [asks, holds] = ["asks", "holds"].map(|name| {
            let table = db.table(name, TableOptions::new().shards(1)).unwrap();
            table.put(b"first", b"x").unwrap();
            table.flush().unwrap();
            table
        });
        holds.put_batch(&batch(15, 60_000)).unwrap();
        harness.fs.fail_op(op, Fault::Eio, false);
        let put = asks.put_batch(&batch(10, 60_000));
        harness.fs.clear_faults();
        assert!(asks.failure().is_none() || holds.failure().is_none(), "{op}: {put:?}");
        if holds.failure().is_some() {
            failed += 1;
            put.unwrap();
            check(&asks, 10, 60_000);
            check(&holds, 15, 60_000);
            assert_eq!(holds.put(b"more", b"").unwrap_err().kind(), ErrorKind::Latched);
        }
    }
    assert!(failed > 0);
}
