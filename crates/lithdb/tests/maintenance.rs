//! Automatic maintenance and its events. The clock advances only when a test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lithdb::{
    Components, Db, DbOptions, Error, ErrorKind, Event, EventListener, GcFilter, SegmentId,
    TableOptions,
};
use lithdb_sim::{CrashImage, Fault};
use support::{Harness, check, key, put, small};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Harness {
    /// Advances the clock, with a maintenance pass every second.
    fn pass(&self, db: &Db, seconds: u32) {
        for _ in 0..seconds {
            self.clock.advance(SECOND);
            db.maintain().unwrap();
        }
    }
}

fn sealed(events: &[Event]) -> Vec<(u32, u64)> {
    let sealed = events.iter().filter_map(|event| match event {
        Event::Sealed { segment, records, .. } => Some((segment.0, *records)),
        _ => None,
    });
    sealed.collect()
}

#[test]
fn slow_table_is_sealed_by_age() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", TableOptions::new().segment_age(10 * SECOND)).unwrap();
    harness.pass(&db, 30);
    assert_eq!(table.stats().segments, 0, "nothing was put: there is nothing to seal");
    put(&table, 0..1);
    harness.pass(&db, 9);
    assert_eq!(table.stats().segments, 1);
    harness.pass(&db, 1);
    assert_eq!(table.stats().segments, 2);
    assert_eq!(sealed(&harness.take_events()), [(1, 1)]);
    harness.pass(&db, 30);
    assert_eq!(table.stats().segments, 2, "an empty segment does not age");
    // From the first record of the next segment on, even across a reopen.
    put(&table, 1..2);
    db.close().unwrap();
    drop((db, table));
    let db = harness.open();
    let table = db.table("t", TableOptions::new().segment_age(10 * SECOND)).unwrap();
    harness.pass(&db, 10);
    assert_eq!(sealed(&harness.take_events()), [(2, 1)]);
    check(&table, 0..2);
}

#[test]
fn slow_table_expires_without_a_full_segment() {
    let harness = Harness::new();
    let db = harness.open();
    let ttl = 100 * SECOND;
    let table = db.table("t", TableOptions::new().ttl(ttl)).unwrap();
    let kept = db.table("kept", TableOptions::new()).unwrap();
    put(&table, 0..3);
    put(&kept, 0..3);
    // Sealed after a quarter of the TTL, collected one TTL later, at the next collection.
    harness.pass(&db, 124);
    check(&table, 0..3);
    harness.pass(&db, 12);
    check(&table, 3..3);
    check(&kept, 0..3);
    assert_eq!(table.get(key(1)).unwrap(), None);
    let events = harness.take_events();
    let collected = events.iter().find_map(|event| match event {
        Event::Collected { table, segments, records, watermark, .. } => {
            Some((table.to_string(), *segments, *records, *watermark))
        }
        _ => None,
    });
    assert_eq!(collected, Some(("t".to_owned(), 1, 3, SegmentId(2))), "{events:?}");
    assert!(harness.files("/t/segments/1").is_empty());
    // It never returns.
    let found = harness.after_crash(&CrashImage::Nothing);
    check(&found.open().existing_table("t").unwrap(), 3..3);
}

#[test]
fn set_ttl_is_durable_and_closed_tables_are_not_collected() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    put(&table, 0..9);
    table.set_ttl(Some(10 * SECOND)).unwrap();
    assert_eq!(table.set_ttl(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::InvalidArgument);
    db.close().unwrap();
    drop((db, table));
    let db = harness.open();
    harness.pass(&db, 60);
    let table = db.existing_table("t").unwrap();
    check(&table, 0..9);
    assert_eq!(table.stats().ttl, Some(10 * SECOND));
    harness.pass(&db, 30);
    check(&table, 9..9);
}

#[test]
fn auto_flush_happens_after_a_delay_and_after_many_bytes() {
    let harness = Harness::new();
    let options = harness.options().auto_flush(Some(10_000), Some(5 * SECOND));
    let db = Db::open_with(options, harness.components()).unwrap();
    let table = db.table("t", TableOptions::new()).unwrap();
    let is_behind = || table.durable_position() < table.stats().log_end;
    put(&table, 0..1);
    harness.pass(&db, 4);
    assert!(is_behind());
    harness.pass(&db, 2);
    assert!(!is_behind());
    table.put(b"large", [1; 9_000]).unwrap();
    harness.pass(&db, 1);
    assert!(is_behind());
    table.put(b"larger", [1; 1_000]).unwrap();
    harness.pass(&db, 1);
    assert!(!is_behind());
    let found = harness.after_crash(&CrashImage::Nothing).open();
    let table = found.existing_table("t").unwrap();
    assert!(table.contains(b"larger").unwrap() && table.contains(key(0)).unwrap());
}

#[test]
fn busy_table_is_auto_flushed_only_periodically() {
    let harness = Harness::new();
    let options = harness.options().auto_flush(None, Some(5 * SECOND));
    let db = Db::open_with(options, harness.components()).unwrap();
    let table = db.table("t", TableOptions::new()).unwrap();
    let mut flushes = Vec::new();
    for second in 0..30 {
        let before = table.durable_position();
        put(&table, second..second + 1);
        harness.pass(&db, 1);
        if table.durable_position() != before {
            flushes.push(second);
        }
    }
    assert_eq!(flushes, [4, 9, 14, 19, 24, 29]);
}

#[test]
fn idle_table_gets_one_mark() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", TableOptions::new()).unwrap();
    put(&table, 0..5);
    table.flush().unwrap();
    let marks = || {
        let bytes = harness.fs.read_raw("/r0/t/segments/1.keys");
        bytes.windows(8).filter(|window| window == b"LITHMARK").count()
    };
    assert_eq!(marks(), 0, "a mark costs no sync of its own while there are puts");
    harness.pass(&db, 3);
    assert_eq!(marks(), 1);
    let before = harness.fs.ops();
    harness.pass(&db, 20);
    assert_eq!((marks(), harness.fs.ops()), (1, before), "nothing is done for an idle table");
    table.flush().unwrap();
    assert_eq!(harness.fs.ops(), before);
    // The mark makes damage to the last flush detectable: it is not a torn end.
    let found = harness.after_crash(&CrashImage::Nothing);
    found.fs.flip_bit("/r0/t/segments/1.keys", 100, 3);
    assert_eq!(found.open().existing_table("t").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn filter_decides_per_segment_and_is_required() {
    let harness = Harness::new();
    let lowest = Arc::new(AtomicU64::new(0));
    let filter = |lowest: &Arc<AtomicU64>| {
        let lowest = Arc::clone(lowest);
        GcFilter::new(move |found, _| Ok(found < key(lowest.load(Ordering::Relaxed)).as_slice()))
    };
    let db = harness.open();
    let table = db.table_with_filter("t", small(), filter(&lowest)).unwrap();
    put(&table, 0..20);
    harness.pass(&db, 20);
    check(&table, 0..20);
    lowest.store(10, Ordering::Relaxed);
    harness.pass(&db, 20);
    check(&table, 8..20); // four keys to a segment: 8 shares one with 10
    db.close().unwrap();
    drop((db, table));

    // Without the filter nothing is collected by mistake.
    let db = harness.open();
    let table = db.existing_table("t").unwrap();
    assert!(table.has_gc_filter());
    table.set_ttl(Some(SECOND)).unwrap();
    harness.pass(&db, 60);
    check(&table, 8..20);
    assert_eq!(table.run_gc().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn failing_filter_pauses_collection_and_deletes_nothing() {
    let harness = Harness::new();
    let mood = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&mood);
    let filter = GcFilter::new(move |_, _| match theirs.load(Ordering::Relaxed) {
        0 => Err(Error::new(ErrorKind::Io, "the filter does not know")),
        1 => panic!("the filter is broken"),
        _ => Ok(true),
    });
    let db = harness.open();
    let table = db.table_with_filter("t", small(), filter).unwrap();
    put(&table, 0..20);
    for (n, expected) in [(0, "does not know"), (1, "panicked")] {
        mood.store(n, Ordering::Relaxed);
        let error = table.run_gc().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let events = harness.take_events();
        let paused = events.iter().any(|event| {
            matches!(event, Event::GcPaused { cause, .. } if cause.to_string().contains(expected))
        });
        assert!(paused, "{events:?}");
        check(&table, 0..20);
    }
    mood.store(2, Ordering::Relaxed);
    assert_eq!(table.run_gc().unwrap().segments, 4);
    check(&table, 16..20);
}

#[test]
fn clock_jump_expires_nothing_until_accepted() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().ttl(HOUR)).unwrap();
    put(&table, 0..20);
    harness.pass(&db, 20);
    harness.take_events();
    let year = 365 * 24 * HOUR;
    harness.clock.jump(year.as_millis() as i64);
    harness.pass(&db, 60);
    check(&table, 0..20);
    let jumps = harness.take_events().into_iter().filter_map(|event| match event {
        Event::ClockJump { before, now, hold, .. } => Some((now.since(before), hold)),
        _ => None,
    });
    let jumps: Vec<_> = jumps.collect();
    assert_eq!(jumps.len(), 1, "reported once: {jumps:?}");
    assert!(jumps[0].0 >= year && jumps[0].1 == HOUR);
    assert!(table.run_gc().unwrap().held_for.is_some());
    table.accept_clock().unwrap();
    assert!(table.run_gc().unwrap().segments > 0);
}

#[test]
fn clock_jump_while_closed_is_detected() {
    let harness = Harness::new();
    let db = harness.open();
    put(&db.table("t", small().ttl(HOUR)).unwrap(), 0..20);
    db.close().unwrap();
    drop(db);
    harness.clock.jump((400 * 24 * HOUR).as_millis() as i64);
    let db = harness.open();
    let table = db.existing_table("t").unwrap();
    harness.pass(&db, 60);
    check(&table, 0..20);
    let events = harness.take_events();
    assert!(events.iter().any(|e| matches!(e, Event::ClockJump { .. })), "{events:?}");
    // Held for an hour of running time; after that it counts as downtime, not as a jump.
    harness.clock.advance(HOUR);
    harness.pass(&db, 30);
    check(&table, 16..20);
    // The age of the mutable segment was unknown: it was sealed when the downtime was accepted.
    harness.clock.advance(HOUR);
    harness.pass(&db, 30);
    check(&table, 20..20);
}

#[test]
fn first_failed_sync_latches_the_table_until_reopened() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    let other = db.table("other", small()).unwrap();
    put(&table, 0..3);
    table.flush().unwrap();
    put(&table, 3..4);
    put(&other, 0..1);
    harness.fs.fail_op(1, Fault::Eio, false);
    assert_eq!(table.flush().unwrap_err().kind(), ErrorKind::Io);
    for result in
        [table.flush(), table.put(b"k", b"v").map(|_| ()), table.seal(), table.set_ttl(None)]
    {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Latched);
    }
    let latched: Vec<_> = harness.take_events();
    let latched = latched.iter().filter(|e| matches!(e, Event::Latched { .. })).count();
    assert_eq!(latched, 1);
    assert!(table.failure().is_some() && table.stats().failure.is_some());
    // Reads still work, and so does the other table.
    check(&table, 0..4);
    put(&other, 1..5);
    other.flush().unwrap();
    assert!(db.close().is_err(), "something is not durable, and closing says so");
    drop((db, table, other));
    let found = harness.after_crash(&CrashImage::Nothing);
    let db = found.open();
    let table = db.existing_table("t").unwrap();
    check(&table, 0..3);
    check(&db.existing_table("other").unwrap(), 0..5);
    put(&table, 3..9);
    table.flush().unwrap();
}

#[test]
fn recovery_reports_what_it_did() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", TableOptions::new()).unwrap();
    put(&table, 0..3);
    table.flush().unwrap();
    // More than the write buffer holds: what is not durable is partly in the files.
    for n in 0..2_000_u32 {
        table.put(format!("more{n}").as_bytes(), [7; 1000]).unwrap();
    }
    let found = harness.after_crash(&CrashImage::Everything);
    drop((table, db));
    let keys = "/r0/t/segments/1.keys";
    found.fs.truncate_raw(keys, found.fs.read_raw(keys).len() as u64 - 10);
    let db = found.open();
    let table = db.existing_table("t").unwrap();
    let events = found.take_events();
    let [Event::Recovered { table: name, report }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(name.as_str(), "t");
    assert!(report.copied_bytes > 1_000_000 && report.torn.is_some(), "{report:?}");
    assert!(report.torn_bytes > 0, "{report:?}");
    assert!(table.stats().keys > 900);
    // A second open has nothing to recover.
    db.close().unwrap();
    drop((db, table));
    found.open().existing_table("t").unwrap();
    assert!(found.take_events().is_empty());
}

#[test]
fn panicking_listener_has_no_effect() {
    let harness = Harness::new();
    let listener = EventListener::new(|_| panic!("no"));
    let db =
        Db::open_with(harness.options(), Components { listener, ..harness.components() }).unwrap();
    let table = db.table("t", small()).unwrap();
    put(&table, 0..20);
    db.close().unwrap();
    drop((db, table));
    check(&harness.open().existing_table("t").unwrap(), 0..20);
}

/// The maintenance thread itself, on a real disk: all of the above without explicit calls.
#[test]
fn maintenance_thread_seals_flushes_and_collects() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, events) = std::sync::mpsc::channel();
    let tell = parking_lot::Mutex::new(tell);
    let mut options = DbOptions::new([dir.path().join("db")])
        .gc_interval(Duration::from_millis(5))
        .auto_flush(None, Some(Duration::from_millis(1)));
    options.idle_after = Duration::from_millis(5);
    let listener = EventListener::new(move |event| drop(tell.lock().send(event.clone())));
    let db = Db::open_with(options, Components { listener, ..Components::default() }).unwrap();
    let ms = Duration::from_millis(20);
    let table = db.table("t", TableOptions::new().ttl(ms).segment_age(ms)).unwrap();
    let at = table.put(b"k", b"v").unwrap();
    let wait = |what: &str, is_it: &dyn Fn(&Event) -> bool| loop {
        let event = events.recv_timeout(Duration::from_secs(20)).expect(what);
        if is_it(&event) {
            break;
        }
    };
    wait("sealed", &|event| matches!(event, Event::Sealed { .. }));
    wait("collected", &|event| matches!(event, Event::Collected { .. }));
    assert_eq!(table.get(b"k").unwrap(), None);
    let at = at.max(table.put(b"l", b"v").unwrap());
    let began = Instant::now();
    while table.durable_position() <= at {
        assert!(began.elapsed() < Duration::from_secs(20), "never flushed");
        std::thread::yield_now();
    }
    // The thread holds no handle: dropping the last one releases the locks.
    drop((db, table));
    Db::open(DbOptions::new([dir.path().join("db")])).unwrap();
}
