//! Rare paths of the API: batches of thousands of keys, a put that panics, a flush that waits for
//! others, iterators after an error, debug output.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lithdb_env::ErrorKind;
use lithdb_repair::verify;
use lithdb_sim::{CrashImage, OpKind};
use lithdb_table::verify_keymap;
use lithdb_table::{
    Batch, Event, EventListener, GcFilter, Maintenance, OpenForWriting, SecondaryKey, Table,
    TableOptions, show_key,
};
use metrics::{Counter, Gauge, Histogram, KeyName, SharedString, Unit};
use parking_lot::Mutex;
use support::hook::HookFs;
use support::oracle::assert_matches_oracle;
use support::{DAY, Harness, small};

fn key(n: u32) -> [u8; 8] {
    u64::from(n).to_be_bytes()
}

/// The keys of such a batch are inserted into the keymap together, under other locks than those of
/// a small one.
#[test]
fn large_batch_overwrites_keys_and_survives_reopen() {
    let harness = Harness::new(1);
    let options = TableOptions::new();
    let table = harness.create_and_open(&options);
    for n in (0..9000).step_by(90) {
        table.put(&key(n), b"old").unwrap();
    }
    for (round, range) in [(1, 0..6000), (2, 5000..45_000), (3, 40_000..70_000)] {
        let mut batch = Batch::new();
        for n in range {
            batch.put(key(n), [round]);
        }
        table.put_batch(&batch).unwrap();
    }
    let holds = |table: &Table| {
        for n in 0..70_000 {
            let expected = match n {
                0..5000 => 1,
                5000..40_000 => 2,
                _ => 3,
            };
            assert_eq!(table.get(&key(n)).unwrap().as_deref(), Some(&[expected][..]), "{n}");
        }
        let report = verify_keymap(table, &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{report}");
        assert_eq!((report.records, report.keys, report.superseded), (76_100, 70_000, 6100));
        assert_eq!(report.entries, 70_000);
        assert_eq!(
            report.to_string(),
            "table t: keymap ok: 76100 records, 70000 keys found, 6100 superseded, 70000 entries, 0 wrong"
        );
    };
    holds(&table);
    table.close().unwrap();
    drop(table);
    let table = harness.open(&options).unwrap();
    holds(&table);
    assert_matches_oracle(&table, &harness, "opened again");
}

#[test]
fn empty_batch_returns_the_log_end() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    let (end, ops) = (table.stats().log_end, harness.fs.ops());
    let mut batch = Batch::new();
    batch.put(b"b".to_vec(), b"22".to_vec()).alias(b"cc".to_vec(), 0..1);
    assert_eq!((batch.len(), batch.keys(), batch.bytes()), (1, 2, 5));
    batch.clear();
    assert_eq!((batch.len(), batch.keys(), batch.bytes()), (0, 0, 0));
    assert_eq!(table.put_batch(&batch).unwrap(), end);
    assert_eq!((table.stats().log_end, harness.fs.ops()), (end, ops));
    assert_eq!(table.get(b"b").unwrap(), None);
}

#[test]
fn a_range_of_a_secondary_key_is_given_in_every_way() {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    let ways = [(Excluded(0), Included(2)), (Unbounded, Excluded(3)), (Included(4), Unbounded)];
    let keys = ["x", "y", "z"];
    let aliases: Vec<SecondaryKey<'_>> =
        keys.iter().zip(ways).map(|(key, way)| SecondaryKey::range(*key, way)).collect();
    assert_eq!(aliases[0].key(), b"x");
    table.put_with(b"a", b"01234", &aliases).unwrap();
    for (key, value) in keys.iter().zip(["12", "012", "4"]) {
        assert_eq!(table.get(key.as_bytes()).unwrap().unwrap(), value.as_bytes(), "{key}");
    }
    let beyond = [SecondaryKey::range("x", (Excluded(usize::MAX), Unbounded))];
    let error = table.put_with(b"b", b"01234", &beyond).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

/// The record is in the log, its value may not be in the file: nothing put after it may become
/// durable.
#[test]
fn panic_while_writing_a_value_latches_the_table() {
    let mut harness = Harness::new(1);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let inner = Arc::clone(&harness.setup.env.fs);
    harness.setup.env.fs = Arc::new(HookFs::new(inner, move |kind, path, _| {
        let is_value = path.extension().is_some_and(|e| e == "values");
        if kind == OpKind::Write && is_value && is_armed.swap(false, Ordering::Relaxed) {
            panic!("injected panic");
        }
    }));
    let options = small().segment_keys(100);
    let table = harness.create_and_open(&options);
    table.put(b"a", b"1").unwrap();
    table.flush().unwrap();
    armed.store(true, Ordering::Relaxed);
    catch_unwind(AssertUnwindSafe(|| table.put(b"b", &[1; 100_000]))).unwrap_err();
    assert!(!armed.load(Ordering::Relaxed));
    assert!(table.failure().unwrap().to_string().contains("panicked"));
    for refused in [table.put(b"c", b"3").map(drop), table.flush()] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Latched);
    }
    assert_eq!(table.get(b"a").unwrap().unwrap(), b"1");
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Everything));
    let table = harness.open(&options).unwrap();
    assert_eq!(table.get(b"b").unwrap(), None);
    assert_matches_oracle(&table, &harness, "after the panic");
}

/// Metrics of an application that panic when a table latches.
struct PanickingRecorder;

impl metrics::Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> Counter {
        assert_ne!(key.name(), "lithdb_latched_total", "injected panic");
        Counter::noop()
    }
    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn panicking_metrics_and_listener_do_not_stop_a_latch() {
    let mut harness = Harness::new(1);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let inner = Arc::clone(&harness.setup.env.fs);
    harness.setup.env.fs = Arc::new(HookFs::new(inner, move |kind, path, _| {
        let is_state = path.ends_with("table.state");
        if kind == OpKind::Write && is_state && is_armed.swap(false, Ordering::Relaxed) {
            panic!("injected panic");
        }
    }));
    let latched = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&latched);
    harness.setup.listener = EventListener::new(move |event| {
        if let Event::Latched { cause, .. } = event {
            heard.lock().push(cause.to_string());
            panic!("injected panic");
        }
    });
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.flush().unwrap();
    // The next tick records the time.
    harness.clock.advance(Duration::from_secs(3600));
    armed.store(true, Ordering::Relaxed);
    let maintenance =
        Maintenance { flush_bytes: None, flush_after: None, idle_after: DAY, collect: false };
    let ticked = metrics::with_local_recorder(&PanickingRecorder, || table.tick(&maintenance));
    let told = ticked.unwrap_err().to_string();
    assert!(told.contains("maintenance panicked"), "{told}");
    assert!(!armed.load(Ordering::Relaxed));
    let heard = latched.lock().clone();
    assert!(heard.len() == 1 && heard[0].contains("maintenance panicked"), "{heard:?}");
    assert!(table.failure().is_some());
    assert_eq!(table.put(b"b", b"2").unwrap_err().kind(), ErrorKind::Latched);
    assert_eq!(table.get(b"a").unwrap().unwrap(), b"1");
}

#[test]
fn flushes_that_wait_for_others_make_all_of_it_durable() {
    let harness = Harness::new(1);
    harness.create().unwrap();
    let how = OpenForWriting { coalesce: Duration::from_millis(1) };
    let table = Table::open(&harness.setup, &small(), how).unwrap();
    let threads: Vec<_> = (0..3_u32)
        .map(|thread| {
            let table = table.clone();
            support::run(move || {
                for n in 0..10 {
                    table.put(&key(thread * 100 + n), b"1").unwrap();
                    table.flush().unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(support::Running::join);
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    let table = harness.open(&small()).unwrap();
    assert_eq!(table.stats().keys, 30);
    assert_matches_oracle(&table, &harness, "after the crash");
}

/// A failed iterator returns nothing more, in either direction.
#[test]
fn iterator_ends_after_an_error() {
    let harness = Harness::new(1);
    let options = TableOptions::new().inline_max_bytes(16);
    let table = harness.create_and_open(&options);
    let at = [b"a", b"b", b"c"].map(|key| table.put(key, b"1").unwrap());
    table.seal().unwrap();
    harness.fs.flip_bit("/r0/t/segments/1.keys", u64::from(at[1].offset) + 32, 0);
    let mut iter = table.iter().unwrap();
    let forwards: Vec<_> = (0..4).map(|_| iter.next().map(|e| e.is_ok())).collect();
    assert_eq!(forwards[forwards.len() - 1], None);
    assert_eq!(forwards.iter().filter(|e| **e == Some(false)).count(), 1, "{forwards:?}");
    let mut iter = table.iter().unwrap();
    let backwards: Vec<_> = (0..4).map(|_| iter.next_back().map(|e| e.is_ok())).collect();
    assert_eq!(backwards[backwards.len() - 1], None);
    assert_eq!(backwards.iter().filter(|e| **e == Some(false)).count(), 1, "{backwards:?}");
}

#[test]
fn run_gc_without_filter_collects_by_ttl_alone() {
    let harness = Harness::new(1);
    let options = small().ttl(Duration::from_secs(60)).segment_age(DAY);
    let mut filtered = Harness::on(harness.fs.clone(), harness.clock.clone(), 1);
    filtered.setup.filter = Some(GcFilter::new(|_, _| Ok(true)));
    let table = filtered.create_and_open(&options);
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    table.close().unwrap();
    drop(table);
    let table = harness.open(&options).unwrap();
    assert_eq!(table.options().ttl, options.ttl);
    harness.clock.advance(Duration::from_secs(61));
    table.run_gc().unwrap_err();
    assert_eq!(table.run_gc_without_filter().unwrap().segments, 1);
    assert_eq!(table.get(b"a").unwrap(), None);
}

#[test]
fn events_name_their_table_and_writer_refresh_is_a_no_op() {
    let mut harness = Harness::new(1);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&heard);
    harness.setup.listener = EventListener::new(move |event| {
        tell.lock().push((event.table().to_string(), matches!(event, Event::Sealed { .. })));
    });
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    let end = table.stats().log_end;
    table.refresh().unwrap();
    assert_eq!(table.stats().log_end, end);
    table.put(b"b", b"2").unwrap();
    table.flush().unwrap();
    drop(table);
    drop(harness.open(&small()).unwrap());
    let heard = heard.lock();
    assert!(heard.contains(&("t".to_owned(), true)) && heard.contains(&("t".to_owned(), false)));
    assert!(heard.iter().all(|(table, _)| table == "t"), "{heard:?}");
}

/// Debug output holds names and numbers, no values, and is short.
#[test]
fn debug_output_names_the_table_and_shows_no_values() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"the key", b"secret").unwrap();
    let mut iter = table.iter().unwrap();
    assert!(format!("{iter:?}").contains("segments: 1"), "{iter:?}");
    let entry = iter.next().unwrap().unwrap();
    assert_eq!(entry.value_len(), 6);
    let value = entry.value().unwrap();
    let shown = format!("{table:?} {entry:?} {value:?} {:?}", harness.setup);
    assert!(shown.contains("\"t\"") && shown.contains("the key"), "{shown}");
    assert!(shown.contains("value_len: 6") && shown.contains("Value(6 bytes)"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(AsRef::<[u8]>::as_ref(&value), b"secret");
    assert_eq!(value.into_bytes(), &b"secret"[..]);
    assert_eq!(show_key(&[b'k'; 65]), format!("{:?}…", "k".repeat(64)));
    assert_eq!(show_key(&[0xff; 2]), "0xffff");
    table.close().unwrap();
    let report = verify(&harness.setup, &mut |_| {}).unwrap();
    let shown = report.to_string();
    assert!(shown.starts_with("table t: ok: "), "{shown}");
    harness.fs.write_raw("/r0/t/segments/1-7.values", vec![0; 70]);
    harness.fs.flip_bit("/r0/t/segments/1.keys", 64, 0);
    let shown = verify(&harness.setup, &mut |_| {}).unwrap().to_string();
    assert!(shown.starts_with("table t: DAMAGED: "), "{shown}");
    let expected = "\n  note: /r0/t/segments/1-7.values: the segment has no such value file";
    assert!(shown.contains(expected), "{shown}");
}
