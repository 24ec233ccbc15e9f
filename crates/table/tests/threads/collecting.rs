//! Collection beside gets, iterators and held values.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::harness::{Harness, go, join_all, options, value_of};
use crate::search::search;

const PAST_THE_TTL: Duration = Duration::from_secs(2);

#[test]
fn reads_during_collection_are_right_or_collected() {
    search("collection beside reads", 200, || {
        let harness = Harness::new();
        let options = options(2).ttl(Duration::from_secs(1));
        let table = harness.create_and_open(&options);
        // Two sealed segments and a mutable one.
        let keys = ["a-1", "a-2", "a-3", "a-4", "a-5"];
        let at: Vec<_> =
            keys.iter().map(|key| table.put(key.as_bytes(), &value_of(key)).unwrap()).collect();
        table.seal().unwrap();
        let (collector, clock) = (table.clone(), harness.clock.clone());
        let (writer, reader, walker) = (table.clone(), table.clone(), table.clone());
        let reading = at.clone();
        let threads = [
            go(move || {
                clock.advance(PAST_THE_TTL);
                let report = collector.run_gc().unwrap();
                assert_eq!(report.segments, 3);
                for key in keys {
                    assert!(collector.get(key.as_bytes()).unwrap().is_none());
                }
            }),
            go(move || {
                writer.put(b"b-1", &value_of("b-1")).unwrap();
                assert_eq!(writer.get(b"b-1").unwrap().unwrap(), &value_of("b-1")[..]);
            }),
            go(move || {
                let mut held = Vec::new();
                for (key, at) in keys.iter().zip(&reading) {
                    match reader.get(key.as_bytes()).unwrap() {
                        Some(value) => held.push((key, value)),
                        None => assert!(reader.stats().watermark > at.segment, "{key}"),
                    }
                }
                for (key, value) in held {
                    assert_eq!(value, &value_of(key)[..]);
                }
            }),
            go(move || {
                let mut last = None;
                for entry in walker.iter().unwrap() {
                    let entry = entry.unwrap();
                    let key = String::from_utf8(entry.key().to_vec()).unwrap();
                    assert_eq!(entry.value().unwrap(), &value_of(&key)[..]);
                    assert!(last.is_none_or(|last| last < entry.position()));
                    last = Some(entry.position());
                }
            }),
        ];
        join_all(threads);
        assert_eq!(table.get(b"b-1").unwrap().unwrap(), &value_of("b-1")[..]);
        drop(table);
        // Nobody holds the segments: their files are removed.
        let names: Vec<_> = harness.fs.file_paths();
        let first = |path: &&std::path::PathBuf| path.ends_with("1.keys");
        assert!(!names.iter().any(|path| first(&path)), "{names:?}");
    });
}

#[test]
fn overwritten_key_is_never_absent_while_collected() {
    search("collection beside a key put again", 300, || {
        let harness = Harness::new();
        let options = options(100).ttl(Duration::from_secs(1));
        let table = harness.create_and_open(&options);
        table.put(b"key", b"older").unwrap();
        table.seal().unwrap();
        let (writer, clock, reader) = (table.clone(), harness.clock.clone(), table.clone());
        let is_newer = Arc::new(Mutex::new(false));
        let set_newer = Arc::clone(&is_newer);
        let threads = [
            go(move || {
                writer.put(b"key", b"newer").unwrap();
                *set_newer.lock() = true;
                clock.advance(PAST_THE_TTL);
                assert_eq!(writer.run_gc().unwrap().segments, 1);
            }),
            go(move || {
                for _ in 0..2 {
                    let was_newer = *is_newer.lock();
                    let value =
                        reader.get(b"key").unwrap().expect("the key was there all the time");
                    assert!(value == b"newer"[..] || !was_newer && value == b"older"[..]);
                    let first = reader.iter_from(b"key").unwrap().unwrap().next().unwrap().unwrap();
                    assert_eq!(first.key(), b"key");
                }
            }),
        ];
        join_all(threads);
    });
}
