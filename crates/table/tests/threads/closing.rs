//! A table that is dropped or closed beside puts and seals.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::ErrorKind;
use lithdb_sim::SimFs;
use lithdb_table::{Maintenance, Table};
use parking_lot::Mutex;

use crate::harness::{Client, Crash, Harness, go, join_all, options};
use crate::search::search;

fn is_empty(fs: &SimFs) {
    let left = fs.file_paths();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn drop_during_puts_and_seals_leaves_no_file() {
    search("a drop beside puts and seals", 300, || {
        let harness = Harness::new();
        let table = harness.create_and_open(&options(2));
        let (put, seal, drop_it) = (table.clone(), table.clone(), table.clone());
        let setup = harness.setup.clone();
        let threads = [
            go(move || {
                for key in [b"1", b"2", b"3"] {
                    if let Err(error) = put.put(key, &[7; 40]) {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    }
                }
            }),
            go(move || {
                for result in [seal.seal(), seal.flush()] {
                    if let Err(error) = result {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    }
                }
            }),
            go(move || {
                drop_it.begin_drop().unwrap();
                assert_eq!(drop_it.put(b"4", b"").unwrap_err().kind(), ErrorKind::Closed);
            }),
        ];
        join_all(threads);
        drop(table);
        Table::remove(&setup).unwrap();
        is_empty(&harness.fs);
    });
}

#[test]
fn drop_removes_files_at_once_and_none_reappear() {
    search("a drop and a removal beside puts and seals", 300, || {
        let harness = Harness::new();
        let table = harness.create_and_open(&options(2));
        let (put, seal, drop_it) = (table.clone(), table.clone(), table.clone());
        let setup = harness.setup.clone();
        let threads = [
            go(move || {
                for key in [b"1", b"2", b"3"] {
                    let _ = put.put(key, &[7; 40]);
                }
            }),
            go(move || drop(seal.seal())),
            go(move || {
                drop_it.begin_drop().unwrap();
                Table::remove(&setup).unwrap();
            }),
        ];
        join_all(threads);
        drop(table);
        is_empty(&harness.fs);
    });
}

#[test]
fn close_makes_earlier_puts_durable_and_refuses_later_ones() {
    search("a close beside puts", 250, || {
        let harness = Harness::new();
        let options = options(3);
        let client = Client::new(&harness, harness.create_and_open(&options), Crash::AtTheEnd);
        let (a, b, close) = (client.clone(), client.clone(), client.clone());
        let put = |client: Client, keys: [&'static str; 3]| {
            move || {
                for key in keys {
                    // Once refused, every later call is refused.
                    if !client.put(key) {
                        assert!(!client.put("z-9"));
                        return;
                    }
                }
            }
        };
        let threads = [
            go(put(a, ["a-1", "a-2", "a-3"])),
            go(put(b, ["b-1", "L-2", "b-3"])),
            go(move || close.acknowledge(Table::close).unwrap()),
        ];
        join_all(threads);
        // All of it, not only what had returned when the close began.
        client.acknowledge(|_| Ok(())).unwrap();
        client.check_crashes(&options);
    });
}

/// Another table may have its name and its files then.
#[test]
fn nothing_is_written_after_either_of_two_closes() {
    search("two closes beside puts, maintenance and collection", 300, || {
        let harness = Harness::new();
        let table = harness.create_and_open(&options(2).ttl(Duration::from_secs(1)));
        table.put(b"0", &[7; 40]).unwrap();
        let maintenance = Maintenance {
            flush_bytes: Some(1),
            flush_after: None,
            idle_after: Duration::ZERO,
            collect: true,
        };
        let ops_then = Arc::new(Mutex::new(Vec::new()));
        let close = || {
            let (table, fs, ops) = (table.clone(), harness.fs.clone(), Arc::clone(&ops_then));
            go(move || {
                table.close().unwrap();
                ops.lock().push(fs.ops());
            })
        };
        let (put, run_maintenance, clock) = (table.clone(), table.clone(), harness.clock.clone());
        let threads = [
            close(),
            close(),
            go(move || {
                for key in [b"1", b"2", b"3"] {
                    if let Err(error) = put.put(key, &[7; 40]) {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    }
                }
            }),
            go(move || {
                clock.advance(Duration::from_secs(2));
                for _ in 0..2 {
                    if let Err(error) = run_maintenance.tick(&maintenance) {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    }
                }
            }),
        ];
        join_all(threads);
        let now = harness.fs.ops();
        assert_eq!(*ops_then.lock(), [now, now]);
    });
}
