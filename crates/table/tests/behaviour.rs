//! Guarantees of a table without failures: read your writes, iteration, duplicates, limits, idle
//! maintenance.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use lithdb_env::{Env, ErrorKind, Fs, Pool, Result};
use lithdb_segment::record::MARK_MAGIC;
use lithdb_segment::{Position, ReadMode};
use lithdb_sim::{CrashImage, OpKind};
use lithdb_table::{
    Batch, DuplicateKeys, OpenForWriting, SecondaryKey, Table, TableOptions, TableSetup,
};
use proptest::prelude::*;
use support::hook::{Gate, HookFs};
use support::script::value_of;
use support::{DAY, Harness, run, small};

/// A harness whose pool has threads.
fn threaded(roots: usize) -> Harness {
    let mut harness = Harness::new(roots);
    harness.setup.env.pool = Arc::new(Pool::new(2).unwrap());
    harness
}

fn keys(table: &Table) -> Vec<String> {
    let key = |e: Result<lithdb_table::Entry>| String::from_utf8(e.unwrap().key().to_vec());
    table.iter().unwrap().map(|e| key(e).unwrap()).collect()
}

#[test]
fn every_thread_reads_what_was_put_as_soon_as_put_returns() {
    let harness = threaded(2);
    let table = harness.create_and_open(&small().segment_keys(50).shards(2));
    let (tell, hear) = mpsc::channel::<usize>();
    let reader = table.clone();
    let reading = run(move || {
        for n in hear {
            let value = reader.get(format!("key-{n}").as_bytes()).unwrap();
            assert_eq!(value.unwrap(), &value_of(n, len_of(n))[..], "{n}");
            let part = reader.get(format!("part-{n}").as_bytes()).unwrap();
            assert_eq!(part.unwrap(), &value_of(n, len_of(n))[..1], "{n}");
        }
    });
    for n in 0..3000 {
        let (key, part) = (format!("key-{n}"), format!("part-{n}"));
        let aliases = [SecondaryKey::range(&part, 0..1)];
        table.put_with(key.as_bytes(), &value_of(n, len_of(n)), &aliases).unwrap();
        tell.send(n).unwrap();
        if n % 700 == 0 {
            table.flush().unwrap();
        }
    }
    drop(tell);
    reading.join();
}

fn len_of(n: usize) -> usize {
    if n.is_multiple_of(300) { 70_000 } else { 1 + n % 90 }
}

/// A table on which the write of a large value blocks at a gate.
fn with_gate(options: &TableOptions) -> (Harness, Table, Arc<Gate>) {
    let mut harness = threaded(1);
    let gate = Arc::new(Gate::default());
    let at = Arc::clone(&gate);
    let inner = Arc::clone(&harness.setup.env.fs);
    harness.setup.env.fs = Arc::new(HookFs::new(inner, move |kind, path, len| {
        let is_large = len >= 64 << 10 && path.extension().is_some_and(|e| e == "values");
        if kind == OpKind::Write && is_large {
            at.pass();
        }
    }));
    let table = harness.create_and_open(options);
    gate.shut();
    (harness, table, gate)
}

#[test]
fn in_flight_large_value_blocks_only_flushes() {
    let (harness, table, gate) = with_gate(&small().segment_keys(100));
    table.put(b"before", b"1").unwrap();
    table.flush().unwrap();
    let other = table.clone();
    let large = run(move || other.put(b"large", &value_of(7, 100_000)));
    gate.wait_for(1);
    // Others put and read.
    let after = table.put(b"after", b"2").unwrap();
    table.put_with(b"more", b"345", &[SecondaryKey::whole(b"alias")]).unwrap();
    assert_eq!(table.get(b"after").unwrap().unwrap(), b"2");
    assert_eq!(table.get(b"alias").unwrap().unwrap(), b"345");
    assert_eq!(table.get(b"large").unwrap(), None, "its put has not returned");
    // Iterators stop before it, but one that starts at a later key continues.
    assert_eq!(keys(&table), ["before"]);
    let from: Vec<_> =
        table.iter_from(b"after").unwrap().unwrap().map(|e| e.unwrap().key().to_vec()).collect();
    assert_eq!(from, [&b"after"[..], b"more", b"alias"]);
    let mut back: Vec<_> = table
        .iter_from(b"after")
        .unwrap()
        .unwrap()
        .rev()
        .map(|e| e.unwrap().key().to_vec())
        .collect();
    back.reverse();
    assert_eq!(back, from);
    // A flush, and a wait for a later position, block.
    let done = Arc::new(AtomicBool::new(false));
    let flushes: Vec<_> = (0..2)
        .map(|n| {
            let (table, done) = (table.clone(), Arc::clone(&done));
            run(move || {
                let flushed = if n == 0 { table.flush() } else { table.wait_durable(after) };
                done.store(true, Ordering::SeqCst);
                flushed
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!done.load(Ordering::SeqCst), "acknowledged before the value was written");
    assert!(table.durable_position() < after);
    gate.open();
    large.join().unwrap();
    for flush in flushes {
        flush.join().unwrap();
    }
    assert_eq!(keys(&table), ["before", "large", "after", "more", "alias"]);
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    let table = harness.open(&small()).unwrap();
    assert_eq!(keys(&table), ["before", "large", "after", "more", "alias"]);
    assert_eq!(table.get(b"large").unwrap().unwrap(), &value_of(7, 100_000)[..]);
}

#[test]
fn mark_covers_its_flush_and_not_later_puts() {
    let mut harness = threaded(1);
    let gate = Arc::new(Gate::default());
    let at = Arc::clone(&gate);
    let inner = Arc::clone(&harness.setup.env.fs);
    harness.setup.env.fs = Arc::new(HookFs::new(inner, move |kind, path, _| {
        if kind == OpKind::SyncData && path.ends_with("1.keys") {
            at.pass();
        }
    }));
    let table = harness.create_and_open(&small().segment_keys(100));
    table.put(b"captured", b"1").unwrap();
    let end = table.stats().log_end;
    gate.shut();
    let flushing = table.clone();
    let flush = run(move || flushing.flush());
    gate.wait_for(1);
    table.put(b"meanwhile", &value_of(1, 40)).unwrap();
    gate.open();
    flush.join().unwrap();
    assert_eq!(table.durable_position(), end);
    table.put(b"next", b"2").unwrap();
    table.flush().unwrap();
    let bytes = harness.fs.read_raw("/r0/t/segments/1.keys");
    let mark = bytes.windows(8).position(|window| window == MARK_MAGIC).unwrap();
    assert_eq!(bytes[mark + 8..mark + 12], end.offset.to_le_bytes());
}

#[test]
fn seal_waits_for_in_flight_large_values() {
    let (harness, table, gate) = with_gate(&small().segment_keys(2));
    let other = table.clone();
    let large = run(move || other.put(b"large", &value_of(7, 100_000)));
    gate.wait_for(1);
    for n in 0..3_u8 {
        table.put(&[b'a' + n], &[n]).unwrap(); // rolls over
    }
    assert_eq!(table.stats().segments, 2);
    let from: Vec<_> =
        table.iter_from(b"b").unwrap().unwrap().map(|e| e.unwrap().key().to_vec()).collect();
    assert_eq!(from, [b"b", b"c"]);
    gate.open();
    large.join().unwrap();
    table.flush().unwrap();
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    let table = harness.open(&small()).unwrap();
    assert_eq!(keys(&table), ["large", "a", "b", "c"]);
}

#[test]
fn iterators_stop_before_in_flight_large_values() {
    let (_world, table, gate) = with_gate(&small().segment_keys(100));
    let put = |key: &'static [u8]| {
        let table = table.clone();
        run(move || table.put(key, &value_of(7, 100_000)))
    };
    let first = put(b"large-1");
    gate.wait_for(1);
    table.put(b"between", b"1").unwrap();
    let second = put(b"large-2");
    gate.wait_for(2);
    table.put(b"behind", b"2").unwrap();
    let from: Vec<_> =
        table.iter_from(b"between").unwrap().unwrap().map(|e| e.unwrap().key().to_vec()).collect();
    assert_eq!(from, [b"between"]);
    gate.open();
    first.join().unwrap();
    second.join().unwrap();
    assert_eq!(keys(&table), ["large-1", "between", "large-2", "behind"]);
}

#[test]
fn concurrent_puts_flushes_gc_and_scans_stay_consistent() {
    let harness = threaded(2);
    let options = small().segment_keys(64).shards(2).ttl(Duration::from_secs(10)).segment_age(DAY);
    let table = harness.create_and_open(&options);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|w| {
            let table = table.clone();
            run(move || {
                let mut positions = Vec::new();
                for n in 0..1200 {
                    let key = format!("w{w}-{n}");
                    let len = if n % 400 == 7 { 66_000 } else { n % 60 };
                    let at = table.put(key.as_bytes(), &value_of(n, len)).unwrap();
                    positions.push((key, n, len, at));
                    if n % 50 == 0 {
                        table.flush().unwrap();
                        assert!(table.durable_position() > at);
                    }
                }
                positions
            })
        })
        .collect();
    let collector = {
        let (table, stop, clock) = (table.clone(), Arc::clone(&stop), harness.clock.clone());
        run(move || {
            let mut segments = 0;
            while !stop.load(Ordering::SeqCst) || segments == 0 {
                clock.advance(Duration::from_secs(1));
                segments += table.run_gc().unwrap().segments;
                std::thread::sleep(Duration::from_millis(1));
            }
            segments
        })
    };
    let iterator = {
        let (table, stop) = (table.clone(), Arc::clone(&stop));
        run(move || {
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) || rounds < 3 {
                let mut before = Position::default();
                for entry in table.iter().unwrap() {
                    let entry = entry.unwrap();
                    assert!(entry.position() > before);
                    before = entry.position();
                    entry.value().unwrap();
                }
                let mut before = None;
                for entry in table.iter().unwrap().rev() {
                    let at = entry.unwrap().position();
                    assert!(before.is_none_or(|before| at < before));
                    before = Some(at);
                }
                rounds += 1;
            }
        })
    };
    let put: Vec<_> = writers.into_iter().flat_map(|w| w.join()).collect();
    stop.store(true, Ordering::SeqCst);
    let collected = collector.join();
    iterator.join();
    table.flush().unwrap();
    let verify = |table: &Table| {
        let watermark = table.stats().watermark;
        let there: HashSet<String> = keys(table).into_iter().collect();
        for (key, n, len, at) in &put {
            let value = table.get(key.as_bytes()).unwrap();
            assert_eq!(value.is_some(), at.segment >= watermark, "{key} at {at}");
            assert_eq!(there.contains(key), value.is_some(), "{key}");
            if let Some(value) = value {
                assert_eq!(value, &value_of(*n, *len)[..], "{key}");
            }
        }
    };
    assert!(table.failure().is_none());
    verify(&table);
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    verify(&harness.open(&options).unwrap());
    assert!(collected > 0);
}

#[test]
fn iterator_is_a_snapshot_despite_puts_and_collection() {
    let harness = Harness::new(2);
    let table = harness.create_and_open(&small().segment_keys(2).ttl(Duration::from_secs(1)));
    for n in 0..7_usize {
        table.put(format!("{n}").as_bytes(), &value_of(n, 40)).unwrap();
    }
    let (forwards, backwards) = (table.iter().unwrap(), table.iter().unwrap().rev());
    let entries: Vec<_> = table.iter().unwrap().map(|e| e.unwrap()).collect();
    table.put(b"later", b"").unwrap();
    table.seal().unwrap();
    harness.clock.advance(Duration::from_secs(2));
    assert!(table.run_gc().unwrap().segments >= 4);
    assert_eq!(keys(&table), [""; 0]);
    let seen = |iter: &mut dyn Iterator<Item = Result<lithdb_table::Entry>>| {
        iter.map(|e| {
            let e = e.unwrap();
            let n: usize = std::str::from_utf8(e.key()).unwrap().parse().unwrap();
            assert_eq!(e.value().unwrap(), &value_of(n, 40)[..]);
            n
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(seen(&mut forwards.into_iter()), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(seen(&mut { backwards }), [6, 5, 4, 3, 2, 1, 0]);
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.value().unwrap(), &value_of(n, 40)[..]);
    }
    // The last holder removes the files.
    let files = |harness: &Harness| {
        harness
            .fs
            .file_paths()
            .iter()
            .filter(|p| p.to_string_lossy().contains("/segments/"))
            .count()
    };
    let before = files(&harness);
    drop(entries);
    assert!(files(&harness) < before);
    assert_eq!(files(&harness), 2 + 1, "keys and values of the mutable segment, on two roots");
}

fn os_setup(dir: &Path) -> TableSetup {
    let mut setup = support::setup(Env::os(2).unwrap(), 1);
    setup.dirs = vec![dir.join("t")];
    setup
}

const HOW: OpenForWriting = OpenForWriting { coalesce: Duration::ZERO };

#[test]
fn a_value_outlives_collection_closing_and_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let setup = os_setup(dir.path());
    Table::create(&setup).unwrap();
    let options = small().segment_keys(1).ttl(Duration::from_millis(1));
    let table = Table::open(&setup, &options, HOW).unwrap();
    table.put(b"file", &value_of(1, 5000)).unwrap();
    table.put(b"inline", &value_of(2, 10)).unwrap();
    table.put(b"last", b"").unwrap();
    table.seal().unwrap();
    let values = [table.get(b"file").unwrap().unwrap(), table.get(b"inline").unwrap().unwrap()];
    let check = || {
        assert_eq!(values[0], &value_of(1, 5000)[..]);
        assert_eq!(values[1], &value_of(2, 10)[..]);
    };
    std::thread::sleep(Duration::from_millis(5));
    assert!(table.run_gc().unwrap().segments >= 2);
    assert_eq!(table.get(b"file").unwrap(), None);
    check();
    table.begin_drop().unwrap();
    assert_eq!(table.get(b"last").unwrap_err().kind(), ErrorKind::Closed);
    drop(table);
    Table::remove(&setup).unwrap();
    check();
}

#[test]
fn handles_outliving_their_table_unlink_nothing() {
    for (is_closed, is_dropped) in [(true, false), (false, true), (false, false)] {
        let harness = Harness::new(1);
        let options = small().segment_keys(1).ttl(Duration::from_secs(1));
        let table = harness.create_and_open(&options);
        for n in 0..4_u8 {
            table.put(&[n + 1], b"").unwrap();
        }
        let held = table.iter().unwrap();
        harness.clock.advance(Duration::from_secs(2));
        assert_eq!(table.run_gc().unwrap().segments, 3);
        if is_closed {
            table.close().unwrap();
        }
        if is_dropped {
            table.begin_drop().unwrap();
        }
        drop(table);
        // From here on the names may refer to files of another table.
        let (ops, files) = (harness.fs.ops(), harness.fs.file_paths());
        drop(held);
        assert_eq!((harness.fs.ops(), harness.fs.file_paths()), (ops, files));
        if !is_dropped {
            assert_eq!(harness.open(&options).unwrap().stats().segments, 1);
            let keys = harness.fs.file_paths().into_iter().filter(|p| p.ends_with("1.keys"));
            assert_eq!(keys.count(), 0, "the next open removes what was collected");
        }
    }
}

#[test]
fn handles_of_a_dropped_table_never_touch_its_successor() {
    let harness = Harness::new(2);
    let options = small().segment_keys(1).ttl(Duration::from_secs(1));
    let table = harness.create_and_open(&options);
    for n in 0..4_u8 {
        table.put(&[n + 1], &value_of(n.into(), 40)).unwrap();
    }
    table.flush().unwrap();
    // Holds collected segments: some that it never opened, and some that it did.
    let lazy = table.iter().unwrap();
    let entries: Vec<_> = table.iter().unwrap().map(|e| e.unwrap()).collect();
    harness.clock.advance(Duration::from_secs(2));
    assert!(table.run_gc().unwrap().segments >= 3);
    table.begin_drop().unwrap();
    drop(table);
    Table::remove(&harness.setup).unwrap();
    // A table of the same name, with segments of the same ids.
    let table = harness.create_and_open(&options);
    for n in 0..4_u8 {
        table.put(&[n + 1], &value_of(100 + usize::from(n), 40)).unwrap();
    }
    table.flush().unwrap();
    for entry in lazy.chain(entries.into_iter().map(Ok)) {
        // The old bytes or an error, never the new ones.
        if let Ok(value) = entry.and_then(|e| e.value()) {
            assert!((0..4).any(|n| value == value_of(n, 40)[..]));
        }
    }
    drop(table);
    let table = harness.open(&options).unwrap();
    for n in 0..4_u8 {
        let value = table.get(&[n + 1]).unwrap().unwrap();
        assert_eq!(value, &value_of(100 + usize::from(n), 40)[..]);
    }
}

#[test]
fn newest_position_of_a_key_wins_before_and_after_reopen() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_keys(3));
    for n in 0..10_usize {
        table.put(b"same", &value_of(n, 30)).unwrap();
        table
            .put_with(format!("k{n}").as_bytes(), &value_of(n, 20), &[SecondaryKey::whole(b"also")])
            .unwrap();
        assert_eq!(table.get(b"same").unwrap().unwrap(), &value_of(n, 30)[..]);
        assert_eq!(table.get(b"also").unwrap().unwrap(), &value_of(n, 20)[..]);
    }
    // The last one of a batch, too.
    let mut batch = Batch::new();
    batch.put(b"same", b"first");
    batch.put(b"same", b"second");
    table.put_batch(&batch).unwrap();
    let check = |table: &Table| {
        assert_eq!(table.get(b"same").unwrap().unwrap(), b"second");
        assert_eq!(table.get(b"also").unwrap().unwrap(), &value_of(9, 20)[..]);
        assert_eq!(table.iter().unwrap().count(), 32);
        assert_eq!(table.iter_from(b"same").unwrap().unwrap().count(), 1, "from its newest record");
        assert_eq!(table.iter_from(b"also").unwrap().unwrap().count(), 3);
    };
    check(&table);
    table.close().unwrap();
    check(&harness.open(&small()).unwrap());
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    check(&harness.open(&small()).unwrap());
}

#[test]
fn a_table_that_refuses_duplicates_writes_nothing_of_them() {
    let harness = Harness::new(1);
    let options = small().duplicate_keys(DuplicateKeys::Reject);
    let table = harness.create_and_open(&options);
    table.put_with(b"a", b"one", &[SecondaryKey::whole(b"b")]).unwrap();
    table.flush().unwrap();
    let refuse = |table: &Table| {
        let (end, ops) = (table.stats().log_end, harness.fs.ops());
        let mut batch = Batch::new();
        batch.put(b"new", b"").alias(b"b", ..);
        let mut twice = Batch::new();
        twice.put(b"x", b"");
        twice.put(b"x", b"");
        for refused in [
            table.put(b"a", b"two"),
            table.put(b"b", b"two"),
            table.put_with(b"c", b"two", &[SecondaryKey::whole(b"a")]),
            table.put_batch(&batch),
            table.put_batch(&twice),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::DuplicateKey);
        }
        assert_eq!((table.stats().log_end, harness.fs.ops()), (end, ops));
        assert!(table.failure().is_none());
        assert_eq!(table.get(b"a").unwrap().unwrap(), b"one");
        assert_eq!(table.get(b"new").unwrap(), None);
    };
    refuse(&table);
    table.close().unwrap();
    let table = harness.open(&options).unwrap();
    refuse(&table);
    table.put(b"c", b"three").unwrap();
    // Of many threads that put one key, one succeeds.
    let threads: Vec<_> = (0..4)
        .map(|n: u8| {
            let table = table.clone();
            let put =
                move || (0..50_u8).filter(|k| table.put(&[b'k', *k], &[n; 30]).is_ok()).count();
            run(put)
        })
        .collect();
    let wins: usize = threads.into_iter().map(|t| t.join()).sum();
    assert_eq!(wins, 50);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn iterators_yield_every_record_once_from_any_end_and_key(
        groups in prop::collection::vec((0_usize..3, 0_usize..60), 0..24),
        per_segment in 1_u64..8,
        flush_every in 1_usize..6,
        from in any::<prop::sample::Index>(),
        turns in prop::collection::vec(any::<bool>(), 80),
        reopened in any::<bool>(),
    ) {
        let harness = Harness::new(2);
        let options = small().segment_keys(per_segment);
        let mut table = harness.create_and_open(&options);
        let mut all = Vec::new();
        for (n, (aliases, len)) in groups.iter().enumerate() {
            let names: Vec<String> = (0..*aliases).map(|a| format!("a{n}-{a}")).collect();
            let aliases: Vec<_> = names.iter().map(SecondaryKey::whole).collect();
            let key = format!("k{n}");
            table.put_with(key.as_bytes(), &value_of(n, *len), &aliases).unwrap();
            all.push((key, n));
            all.extend(names.into_iter().map(|name| (name, n)));
            if n % flush_every == 0 {
                table.flush().unwrap();
            }
        }
        if reopened {
            table.close().unwrap();
            table = harness.open(&options).unwrap();
        }
        let (mut iter, expected) = if all.is_empty() {
            (table.iter().unwrap(), &all[..])
        } else {
            let start = from.index(all.len());
            (table.iter_from(all[start].0.as_bytes()).unwrap().unwrap(), &all[start..])
        };
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for at_front in turns.into_iter().chain(std::iter::repeat_n(true, 100)) {
            let next = if at_front { iter.next() } else { iter.next_back() };
            let Some(entry) = next else { break };
            let entry = entry.unwrap();
            let key = String::from_utf8(entry.key().to_vec()).unwrap();
            let n = expected.iter().find(|(k, _)| *k == key).map(|(_, n)| *n);
            prop_assert_eq!(entry.is_primary(), key.starts_with('k'));
            prop_assert_eq!(&entry.value().unwrap()[..], &value_of(n.unwrap(), groups[n.unwrap()].1)[..]);
            if at_front { front.push(key) } else { back.push(key) }
        }
        prop_assert!(iter.next().is_none() && iter.next_back().is_none());
        back.reverse();
        front.extend(back);
        let expected: Vec<_> = expected.iter().map(|(key, _)| key.clone()).collect();
        prop_assert_eq!(front, expected);
        // Each record once, from the full range, too, and the ends.
        let whole: Vec<_> = all.iter().map(|(key, _)| key.clone()).collect();
        prop_assert_eq!(keys(&table), whole);
        let name = |key: Option<Vec<u8>>| key.map(|k| String::from_utf8(k).unwrap());
        prop_assert_eq!(name(table.oldest_key().unwrap()), all.first().map(|(k, _)| k.clone()));
        let newest = all.iter().rev().find(|(key, _)| key.starts_with('k'));
        prop_assert_eq!(name(table.newest_key().unwrap()), newest.map(|(k, _)| k.clone()));
    }
}

#[test]
fn the_newest_key_is_primary_and_read_without_a_scan() {
    let mut harness = Harness::new(1);
    harness.setup.read_mode = ReadMode::Pread;
    let options = TableOptions::new().ttl(Duration::from_secs(1)).segment_age(DAY);
    let table = harness.create_and_open(&options);
    assert_eq!(table.newest_key().unwrap(), None);
    // A key file that a scan reads in many pieces.
    let put = |table: &Table| {
        for n in 0..200_u8 {
            table.put(&[n; 60_000], b"value").unwrap();
        }
        table.put_with(b"newest", b"value", &[SecondaryKey::range(b"alias", 0..2)]).unwrap();
    };
    let check = |table: &Table, context: &str| {
        let before = harness.fs.reads();
        assert_eq!(table.newest_key().unwrap().unwrap(), b"newest", "{context}");
        let reads = harness.fs.reads() - before;
        assert!(reads < 6, "{context}: {reads} reads");
    };
    put(&table);
    check(&table, "put");
    table.seal().unwrap();
    check(&table, "sealed, with an empty segment behind it");
    let reader = Table::open_read_only(&harness.setup, &options).unwrap();
    check(&reader, "a reader");
    table.close().unwrap();
    drop(table);
    let table = harness.open(&options).unwrap();
    check(&table, "opened again");
    harness.clock.advance(Duration::from_secs(2));
    assert_eq!(table.run_gc().unwrap().segments, 1);
    assert_eq!(table.newest_key().unwrap(), None, "collected");
    reader.refresh().unwrap();
    assert_eq!(reader.newest_key().unwrap(), None, "collected for a reader");
    put(&table);
    table.flush().unwrap();
    reader.refresh().unwrap();
    check(&reader, "a reader, refreshed");
}

#[test]
fn invalid_arguments_are_refused_and_write_nothing() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"here", b"value").unwrap();
    table.flush().unwrap();
    let (end, ops) = (table.stats().log_end, harness.fs.ops());
    let refused = |what: &str, answer: Result<()>| {
        let error = answer.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
        assert_eq!((table.stats().log_end, harness.fs.ops()), (end, ops), "{what}");
        assert!(table.failure().is_none(), "{what}");
    };
    let long = vec![1_u8; 65_536];
    // Lazily zeroed: nothing may touch it.
    let huge = vec![0_u8; u32::MAX as usize];
    refused("empty key", table.put(b"", b"x").map(drop));
    refused("long key", table.put(&long, b"x").map(drop));
    refused("huge value", table.put(b"k", &huge).map(drop));
    let with = |secondary: &[SecondaryKey<'_>]| table.put_with(b"k", b"12345", secondary).map(drop);
    refused("empty alias", with(&[SecondaryKey::whole(b"")]));
    refused("long alias", with(&[SecondaryKey::whole(&long)]));
    refused("range past the end", with(&[SecondaryKey::range(b"a", 3..6)]));
    refused("range from behind the end", with(&[SecondaryKey::range(b"a", 6..)]));
    #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
    let backwards = SecondaryKey::range(b"a", 4..2);
    refused("range backwards", with(&[backwards]));
    refused("range to the last number", with(&[SecondaryKey::range(b"a", ..=usize::MAX)]));
    refused("alias is the key", with(&[SecondaryKey::whole(b"k")]));
    refused("alias twice", with(&[SecondaryKey::whole(b"a"), SecondaryKey::range(b"a", 0..1)]));
    let in_batch = |fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        batch.put(b"good", b"good");
        fill(&mut batch);
        table.put_batch(&batch).map(drop)
    };
    refused(
        "batch, empty key",
        in_batch(&|b| {
            let _ = b.put(b"", b"x");
        }),
    );
    refused(
        "batch, range",
        in_batch(&|b| {
            let _ = b.put(b"k", b"x").alias(b"a", 1..3);
        }),
    );
    refused(
        "batch, alias twice",
        in_batch(&|b| {
            let _ = b.put(b"k", b"x").alias(b"k", ..);
        }),
    );
    refused("batch, too many bytes", {
        let mut batch = Batch::new();
        batch.put(b"k", huge);
        table.put_batch(&batch).map(drop)
    });
    refused("batch, too many keys", {
        let mut batch = Batch::new();
        let mut entry = batch.put(b"k", b"x");
        for n in 0..1_u32 << 20 {
            entry = entry.alias(n.to_le_bytes(), ..);
        }
        table.put_batch(&batch).map(drop)
    });
    refused("get, empty key", table.get(b"").map(drop));
    refused("get, long key", table.get(&long).map(drop));
    refused("contains, long key", table.contains(&long).map(drop));
    refused("iterate from the empty key", table.iter_from(b"").map(drop));
    refused("shards", table.set_shards(0));
    refused("shards", table.set_shards(257));
    refused("ttl", table.set_ttl(Some(Duration::from_micros(5))));
    assert!(table.iter_from(b"absent").unwrap().is_none());
    assert_eq!(keys(&table), ["here"]);
    // The longest key, an empty value, an empty range.
    table.put_with(&long[1..], b"", &[SecondaryKey::range(b"a", 0..0)]).unwrap();
    assert_eq!(table.get(&long[1..]).unwrap().unwrap(), b"");
    assert_eq!(table.get(b"a").unwrap().unwrap(), b"");
}

#[test]
fn oversized_group_is_refused_without_latching() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    // 65,600 different keys of 65,535 bytes, all in one buffer.
    let mut seed = 9_u64;
    let noise: Vec<u8> = (0..131_200)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .collect();
    let aliases: Vec<_> =
        (0..65_600).map(|n| SecondaryKey::range(&noise[n..n + 65_535], 0..0)).collect();
    let error = table.put_with(b"k", b"value", &aliases).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(table.failure().is_none());
    assert_eq!(table.get(b"k").unwrap(), None);
    table.put(b"k", b"value").unwrap();
    table.flush().unwrap();
}

#[test]
fn flushing_with_nothing_new_does_not_touch_the_disk() {
    let harness = Harness::new(2);
    let table = harness.create_and_open(&small());
    table.flush().unwrap();
    table.put(b"a", &value_of(1, 40)).unwrap();
    let at = table.put(b"b", &value_of(2, 40)).unwrap();
    table.flush().unwrap();
    let ops = harness.fs.ops();
    table.flush().unwrap();
    table.wait_durable(at).unwrap();
    table.wait_durable(Position::default()).unwrap();
    assert_eq!(harness.fs.ops(), ops);
    table.close().unwrap();
    let table = harness.open(&small()).unwrap();
    let ops = harness.fs.ops();
    table.flush().unwrap();
    assert_eq!(harness.fs.ops(), ops);
}

#[test]
fn an_idle_table_writes_one_mark_and_then_nothing() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", &value_of(1, 40)).unwrap();
    table.flush().unwrap();
    let maintenance = lithdb_table::Maintenance {
        flush_bytes: None,
        flush_after: None,
        idle_after: Duration::from_secs(1),
        collect: true,
    };
    table.tick(&maintenance).unwrap();
    harness.clock.advance(Duration::from_secs(2));
    let ops = harness.fs.ops();
    table.tick(&maintenance).unwrap();
    assert!(harness.fs.ops() > ops, "the mark");
    let ops = harness.fs.ops();
    for _ in 0..5 {
        harness.clock.advance(Duration::from_secs(2));
        table.tick(&maintenance).unwrap();
    }
    assert_eq!(harness.fs.ops(), ops);
    // The mark covers what was flushed: bit rot there is detected, not taken for a torn end.
    drop(table);
    let fs = harness.fs.crash_with(&CrashImage::Nothing);
    fs.flip_bit("/r0/t/segments/1.keys", 70, 1);
    let error = harness.after_crash(fs).open(&small()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn maintenance_flushes_by_bytes_and_by_age() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_keys(100));
    let maintenance = lithdb_table::Maintenance {
        flush_bytes: Some(1000),
        flush_after: Some(Duration::from_secs(3)),
        idle_after: DAY,
        collect: false,
    };
    table.put(b"small", b"x").unwrap();
    table.tick(&maintenance).unwrap();
    assert!(table.durable_position() < table.stats().log_end);
    harness.clock.advance(Duration::from_secs(4));
    table.tick(&maintenance).unwrap();
    assert_eq!(table.durable_position(), table.stats().log_end, "by age");
    table.put(b"large", &value_of(1, 2000)).unwrap();
    table.tick(&maintenance).unwrap();
    assert_eq!(table.durable_position(), table.stats().log_end, "by amount");
    assert_eq!(table.stats().unflushed_bytes, 0);
}

#[test]
fn opening_after_closes_makes_no_segments() {
    let harness = Harness::new(2);
    harness.create().unwrap();
    for n in 0..1000_u32 {
        let table = harness.open(&TableOptions::new()).unwrap();
        table.put(&n.to_be_bytes(), &value_of(n as usize, 20)).unwrap();
        table.close().unwrap();
    }
    let table = harness.open(&TableOptions::new()).unwrap();
    assert_eq!(table.stats().segments, 1);
    for n in 0..1000_u32 {
        let value = table.get(&n.to_be_bytes()).unwrap().unwrap();
        assert_eq!(value, &value_of(n as usize, 20)[..]);
    }
}

#[test]
fn kill_adds_one_segment_only_after_a_put() {
    let mut harness = Harness::new(2);
    harness.create().unwrap();
    let kill = |harness: &Harness, table: Table| {
        drop(table);
        harness.after_crash(harness.fs.crash_with(&CrashImage::Everything))
    };
    for n in 0..50_u32 {
        let table = harness.open(&TableOptions::new()).unwrap();
        table.put(&n.to_be_bytes(), &value_of(n as usize, 20)).unwrap();
        table.flush().unwrap();
        harness = kill(&harness, table);
    }
    for _ in 0..50 {
        let table = harness.open(&TableOptions::new()).unwrap();
        assert_eq!(table.stats().segments, 51);
        harness = kill(&harness, table);
    }
    let table = harness.open(&TableOptions::new()).unwrap();
    for n in 0..50_u32 {
        let value = table.get(&n.to_be_bytes()).unwrap().unwrap();
        assert_eq!(value, &value_of(n as usize, 20)[..]);
    }
}

#[test]
fn nothing_is_left_open_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let setup = os_setup(dir.path());
    let open_files = || {
        let own = PathBuf::from("/proc/self/fd");
        #[expect(clippy::disallowed_methods, reason = "some descriptors are no files")]
        let path_of = |name: &String| lithdb_env::OsFs.canonicalize(&own.join(name)).ok();
        lithdb_env::OsFs
            .list(&own)
            .unwrap()
            .iter()
            .filter_map(|entry| path_of(&entry.name))
            .filter(|path| path.starts_with(dir.path()))
            .count()
    };
    Table::create(&setup).unwrap();
    let table = Table::open(&setup, &small().segment_keys(2), HOW).unwrap();
    for n in 0..20_usize {
        table.put(format!("{n}").as_bytes(), &value_of(n, 50)).unwrap();
    }
    table.flush().unwrap();
    for n in 0..20_usize {
        table.get(format!("{n}").as_bytes()).unwrap().unwrap();
    }
    assert!(open_files() > 0);
    table.close().unwrap();
    for closed in [table.put(b"k", b"").map(drop), table.flush(), table.get(b"k").map(drop)] {
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::Closed);
    }
    table.close().unwrap();
    drop(table);
    // A thread of the pool may not have dropped its job yet.
    for _ in 0..500 {
        if open_files() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} files are open", open_files());
}
