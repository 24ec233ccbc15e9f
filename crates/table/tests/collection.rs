//! Expiry: what is collected, what is not, and that it never returns.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lithdb_env::{Error, ErrorKind};
use lithdb_segment::SegmentId;
use lithdb_sim::CrashImage;
use lithdb_table::{Event, EventListener, GcFilter, Maintenance, Table, TableOptions};
use parking_lot::Mutex;
use support::script::value_of;
use support::{DAY, Harness, small};

const SECOND: Duration = Duration::from_secs(1);
const COLLECT: Maintenance =
    Maintenance { flush_bytes: None, flush_after: None, idle_after: DAY, collect: true };

/// Records the events of a harness's tables from now on.
fn listen(harness: &mut Harness) -> Arc<Mutex<Vec<Event>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    harness.setup.listener = EventListener::new(move |event| heard.lock().push(event.clone()));
    events
}

fn put(table: &Table, range: std::ops::Range<usize>) {
    for n in range {
        table.put(format!("{n}").as_bytes(), &value_of(n, 30)).unwrap();
    }
}

fn present_keys(table: &Table, up_to: usize) -> Vec<usize> {
    let there: Vec<usize> =
        (0..up_to).filter(|n| table.get(format!("{n}").as_bytes()).unwrap().is_some()).collect();
    let iterated: Vec<usize> = table
        .iter()
        .unwrap()
        .map(|e| std::str::from_utf8(e.unwrap().key()).unwrap().parse().unwrap())
        .collect();
    assert_eq!(there, iterated);
    there
}

#[test]
fn segments_expire_after_the_ttl_and_never_return() {
    let mut harness = Harness::new(2);
    let events = listen(&mut harness);
    let options = small().segment_keys(2).ttl(60 * SECOND).segment_age(DAY);
    let table = harness.create_and_open(&options);
    put(&table, 0..4);
    table.flush().unwrap();
    harness.clock.advance(30 * SECOND);
    put(&table, 4..9); // seals the segment with 2 and 3
    table.flush().unwrap();
    assert_eq!(table.run_gc().unwrap().segments, 0);
    harness.clock.advance(31 * SECOND);
    let report = table.run_gc().unwrap();
    assert_eq!((report.segments, report.records), (1, 2), "{report:?}");
    assert_eq!(present_keys(&table, 9), [2, 3, 4, 5, 6, 7, 8]);
    let collected = events.lock().iter().any(|e| {
        matches!(e, Event::Collected { segments: 1, records: 2, watermark: SegmentId(2), .. })
    });
    assert!(collected, "{events:?}");
    harness.clock.advance(31 * SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 3);
    assert_eq!(present_keys(&table, 9), [8], "the mutable segment stays, however old");
    harness.clock.advance(20 * DAY);
    table.accept_clock().unwrap();
    assert_eq!(table.run_gc().unwrap().segments, 0);
    assert_eq!(present_keys(&table, 9), [8]);
    drop(table);
    for image in [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(5)] {
        let after = harness.after_crash(harness.fs.crash_with(&image));
        for _ in 0..2 {
            let table = after.open(&options).unwrap();
            assert_eq!(present_keys(&table, 9), [8], "{image:?}");
            let files = after.fs.file_paths();
            let is_old = |p: &std::path::PathBuf| {
                (1..5).any(|n| p.file_name().unwrap().to_string_lossy() == format!("{n}.keys"))
            };
            assert!(!files.iter().any(is_old), "{image:?}: {files:?}");
        }
    }
}

#[test]
fn keymap_stays_bounded_when_expiry_keeps_up() {
    let harness = Harness::new(1);
    let options = small().segment_keys(100).ttl(SECOND).segment_age(DAY);
    let table = harness.create_and_open(&options);
    for n in 0..40_000_u32 {
        table.put(&n.to_be_bytes(), b"").unwrap();
        if n % 100 == 99 {
            harness.clock.advance(2 * SECOND);
            table.run_gc().unwrap();
        }
    }
    let stats = table.stats();
    assert_eq!(stats.keys, 100, "{stats:?}");
    // Dead entries are dropped when their partition of the keymap is full, so a few remain in
    // each.
    assert!(stats.keymap_entries < 20_000, "{stats:?}");
}

#[test]
fn expiry_works_on_a_full_disk() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_keys(2).ttl(SECOND).segment_age(DAY));
    put(&table, 0..7);
    table.flush().unwrap();
    harness.fs.set_capacity(Some(0));
    assert_eq!(
        table.put(b"more", &value_of(1, 1 << 20)).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    harness.clock.advance(2 * SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 3);
    assert_eq!(present_keys(&table, 7), [6]);
}

#[test]
fn without_ttl_and_filter_nothing_expires() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_keys(1));
    put(&table, 0..5);
    harness.clock.advance(3000 * DAY);
    table.accept_clock().unwrap();
    assert_eq!(table.run_gc().unwrap().segments, 0);
    assert_eq!(present_keys(&table, 5).len(), 5);
}

#[test]
fn the_ttl_is_remembered_and_can_be_changed() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_keys(1).ttl(60 * SECOND));
    assert_eq!(table.stats().ttl, Some(60 * SECOND));
    table.set_ttl(Some(5 * SECOND)).unwrap();
    put(&table, 0..4);
    table.flush().unwrap();
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    let table = harness.open(&small().segment_keys(1)).unwrap();
    assert_eq!(table.stats().ttl, Some(5 * SECOND));
    harness.clock.advance(6 * SECOND);
    // The three sealed segments, and the fourth, sealed at its durable end: its key was copied to
    // a fifth.
    assert_eq!(table.run_gc().unwrap().segments, 4);
    table.set_ttl(None).unwrap();
    assert_eq!(harness.open(&small().no_ttl()).unwrap().stats().ttl, None);
}

/// A harness whose filter approves all numbers below the one it shares.
fn with_filter() -> (Harness, Arc<AtomicU32>) {
    let mut harness = Harness::new(1);
    let below = Arc::new(AtomicU32::new(0));
    let limit = Arc::clone(&below);
    harness.setup.filter = Some(GcFilter::new(move |key, is_primary| {
        assert!(is_primary);
        let n: u32 = std::str::from_utf8(key).unwrap().parse().unwrap();
        Ok(n < limit.load(Ordering::SeqCst))
    }));
    (harness, below)
}

#[test]
fn segment_is_collected_when_the_filter_approves_every_key() {
    let (harness, below) = with_filter();
    let table = harness.create_and_open(&small().segment_keys(2));
    put(&table, 0..7);
    assert_eq!(table.run_gc().unwrap().segments, 0);
    below.store(3, Ordering::SeqCst);
    assert_eq!(table.run_gc().unwrap().segments, 1);
    assert_eq!(present_keys(&table, 7), [2, 3, 4, 5, 6]);
    below.store(4, Ordering::SeqCst);
    table.tick(&COLLECT).unwrap();
    assert_eq!(present_keys(&table, 7), [4, 5, 6]);
    below.store(100, Ordering::SeqCst);
    table.run_gc().unwrap();
    assert_eq!(present_keys(&table, 7), [6], "never the mutable segment");
}

/// It is not called again for keys that it has approved, in this segment or in earlier ones.
#[test]
fn filter_resumes_at_the_key_it_refused() {
    let mut harness = Harness::new(1);
    let (below, asked) = (Arc::new(AtomicU32::new(3)), Arc::new(Mutex::new(Vec::new())));
    let (limit, tell) = (Arc::clone(&below), Arc::clone(&asked));
    harness.setup.filter = Some(GcFilter::new(move |key, _| {
        let n: u32 = std::str::from_utf8(key).unwrap().parse().unwrap();
        tell.lock().push(n);
        let limit = limit.load(Ordering::SeqCst);
        if limit == 7 && n == 7 { Err(Error::new(ErrorKind::Io, "no idea")) } else { Ok(n < limit) }
    }));
    let options = small().segment_keys(5);
    let table = harness.create_and_open(&options);
    put(&table, 0..12);
    table.flush().unwrap();
    let asks = |limit, collected: Option<usize>, expected: &[u32]| {
        below.store(limit, Ordering::SeqCst);
        let found = table.run_gc();
        let found = found.map_or_else(|_| None, |report| Some(report.segments));
        assert_eq!(found, collected, "{limit}");
        assert_eq!(*asked.lock(), expected, "{limit}");
        asked.lock().clear();
    };
    asks(3, Some(0), &[0, 1, 2, 3]);
    asks(3, Some(0), &[3]);
    asks(4, Some(0), &[3, 4]);
    asks(7, None, &[4, 5, 6, 7]);
    asks(7, None, &[7]);
    assert_eq!(present_keys(&table, 12).len(), 12, "a filter that fails deletes nothing");
    asks(8, Some(1), &[7, 8]);
    assert_eq!(present_keys(&table, 12), [5, 6, 7, 8, 9, 10, 11]);
    table.close().unwrap();
    let table = harness.open(&options).unwrap();
    below.store(5, Ordering::SeqCst);
    table.run_gc().unwrap();
    assert_eq!(*asked.lock(), [5], "a reopening knows nothing of what was said before");
}

/// The scan ends at the next key, and its result is ignored.
#[test]
fn a_close_does_not_wait_for_a_filter_and_ends_its_scan() {
    let mut harness = Harness::new(1);
    let cell: Arc<Mutex<Option<Table>>> = Arc::default();
    let (inside, (sender, calls)) = (Arc::clone(&cell), std::sync::mpsc::channel());
    let sender = Mutex::new(sender);
    harness.setup.filter = Some(GcFilter::new(move |key, _| {
        sender.lock().send(key.to_vec()).unwrap();
        let table = inside.lock().clone().unwrap();
        while !table.is_closed() {
            std::thread::yield_now();
        }
        Ok(true)
    }));
    let table = harness.create_and_open(&small().segment_keys(2));
    put(&table, 0..7);
    *cell.lock() = Some(table.clone());
    let theirs = table.clone();
    let collecting = support::run(move || {
        assert_eq!(theirs.run_gc().unwrap_err().kind(), ErrorKind::Closed);
    });
    assert_eq!(calls.recv().unwrap(), b"0");
    table.close().unwrap();
    collecting.join();
    assert!(calls.try_recv().is_err(), "the filter was called once");
    *cell.lock() = None;
    harness.setup.filter = None;
    assert_eq!(present_keys(&harness.open(&small().segment_keys(2)).unwrap(), 7).len(), 7);
}

/// A decision made by the shorter TTL while the filter ran is not carried out under the longer
/// one.
#[test]
fn ttl_set_while_the_filter_runs_takes_effect() {
    let mut harness = Harness::new(1);
    let (asked, calls) = std::sync::mpsc::channel();
    let (answer, answers) = std::sync::mpsc::channel::<()>();
    let ends = Mutex::new((asked, answers));
    harness.setup.filter = Some(GcFilter::new(move |_, _| {
        let ends = ends.lock();
        ends.0.send(()).unwrap();
        ends.1.recv().unwrap();
        Ok(true)
    }));
    let options = small().segment_keys(1).ttl(60 * SECOND).segment_age(DAY);
    let table = harness.create_and_open(&options);
    put(&table, 0..2);
    table.flush().unwrap();
    harness.clock.advance(61 * SECOND);
    let theirs = table.clone();
    let collecting = support::run(move || assert_eq!(theirs.run_gc().unwrap().segments, 0));
    calls.recv().unwrap();
    table.set_ttl(Some(DAY)).unwrap();
    answer.send(()).unwrap();
    collecting.join();
    assert_eq!(present_keys(&table, 2), [0, 1]);
}

#[test]
fn ttl_and_filter_must_both_agree() {
    let (harness, below) = with_filter();
    let table = harness.create_and_open(&small().segment_keys(2).ttl(60 * SECOND).segment_age(DAY));
    put(&table, 0..5);
    below.store(100, Ordering::SeqCst);
    assert_eq!(table.run_gc().unwrap().segments, 0, "too young");
    below.store(2, Ordering::SeqCst);
    harness.clock.advance(61 * SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 1, "the filter said no to 2");
    assert_eq!(present_keys(&table, 5), [2, 3, 4]);
}

#[test]
fn failing_or_panicking_filter_deletes_nothing() {
    type Filter = fn(&[u8], bool) -> lithdb_env::Result<bool>;
    let fails: Filter = |key, _| {
        if key == b"3" { Err(Error::new(ErrorKind::Io, "no idea")) } else { Ok(true) }
    };
    let panics: Filter = |key, _| if key == b"3" { panic!("no idea") } else { Ok(true) };
    for filter in [fails, panics] {
        let mut harness = Harness::new(1);
        let events = listen(&mut harness);
        harness.setup.filter = Some(GcFilter::new(filter));
        let table = harness.create_and_open(&small().segment_keys(2));
        put(&table, 0..7);
        table.flush().unwrap();
        let ops = harness.fs.ops();
        table.run_gc().unwrap_err();
        table.tick(&COLLECT).unwrap_err();
        assert_eq!(present_keys(&table, 7), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(harness.fs.ops(), ops);
        let paused = events.lock().iter().filter(|e| matches!(e, Event::GcPaused { .. })).count();
        assert_eq!(paused, 2);
        // Nothing else is affected.
        assert!(table.failure().is_none());
        put(&table, 7..9);
        table.flush().unwrap();
        assert_eq!(present_keys(&table, 9).len(), 9);
    }
}

#[test]
fn a_filter_that_calls_a_table_is_refused() {
    let mut harness = Harness::new(1);
    let cell: Arc<Mutex<Option<Table>>> = Arc::default();
    let inside = Arc::clone(&cell);
    let said: Arc<Mutex<Vec<ErrorKind>>> = Arc::default();
    let heard = Arc::clone(&said);
    harness.setup.filter = Some(GcFilter::new(move |key, _| {
        let table = inside.lock().clone().unwrap();
        heard.lock().extend(
            [
                table.get(key).map(drop),
                table.put(key, b"").map(drop),
                table.flush(),
                table.iter().map(drop),
                table.run_gc().map(drop),
            ]
            .into_iter()
            .filter_map(|answer| answer.err().map(|e| e.kind())),
        );
        Ok(false)
    }));
    let table = harness.create_and_open(&small().segment_keys(1));
    *cell.lock() = Some(table.clone());
    put(&table, 0..3);
    table.run_gc().unwrap();
    assert_eq!(*said.lock(), [ErrorKind::InvalidArgument; 5]);
    assert_eq!(present_keys(&table, 3), [0, 1, 2]);
    *cell.lock() = None;
}

#[test]
fn without_its_filter_a_table_collects_nothing_by_itself() {
    let (mut harness, below) = with_filter();
    let options = small().segment_keys(2).ttl(SECOND).segment_age(DAY);
    let table = harness.create_and_open(&options);
    put(&table, 0..7);
    table.close().unwrap();
    below.store(100, Ordering::SeqCst);
    harness.setup.filter = None;
    let table = harness.open(&options).unwrap();
    harness.clock.advance(5 * SECOND);
    table.tick(&COLLECT).unwrap();
    assert_eq!(present_keys(&table, 7).len(), 7);
}

#[test]
fn a_slow_table_is_sealed_by_age_and_expires() {
    let mut harness = Harness::new(1);
    let events = listen(&mut harness);
    let options = TableOptions::new().ttl(100 * SECOND); // the segment age is a quarter of it
    let table = harness.create_and_open(&options);
    put(&table, 0..1);
    harness.clock.advance(20 * SECOND);
    table.tick(&COLLECT).unwrap();
    assert_eq!(table.stats().segments, 1);
    harness.clock.advance(5 * SECOND);
    table.tick(&COLLECT).unwrap();
    assert_eq!(table.stats().segments, 2, "sealed by age");
    assert!(events.lock().iter().any(|e| matches!(e, Event::Sealed { .. })));
    // An empty segment is not sealed, however old.
    harness.clock.advance(60 * SECOND);
    table.tick(&COLLECT).unwrap();
    assert_eq!(table.stats().segments, 2);
    assert_eq!(present_keys(&table, 1), [0]);
    harness.clock.advance(41 * SECOND);
    table.tick(&COLLECT).unwrap();
    assert_eq!(present_keys(&table, 1), [0; 0]);
    // Records that existed when the table was opened have an age, too.
    put(&table, 1..2);
    table.close().unwrap();
    let table = harness.open(&options).unwrap();
    harness.clock.advance(26 * SECOND);
    table.tick(&COLLECT).unwrap();
    assert_eq!(table.stats().segments, 2, "sealed by age after opening");
}

#[test]
fn clock_jump_expires_nothing_until_accepted_or_reverted() {
    let mut harness = Harness::new(1);
    let events = listen(&mut harness);
    let options = small().segment_keys(1).ttl(60 * SECOND).segment_age(10 * DAY);
    let table = harness.create_and_open(&options);
    let jumps = || events.lock().iter().filter(|e| matches!(e, Event::ClockJump { .. })).count();
    put(&table, 0..4);
    table.run_gc().unwrap();
    let year = 365 * 86_400_000_i64;
    harness.clock.jump(year);
    let report = table.run_gc().unwrap();
    assert_eq!((report.segments, jumps()), (0, 1));
    assert!(report.held_for.is_some());
    harness.clock.advance(59 * SECOND);
    assert!(table.run_gc().unwrap().held_for.is_some());
    assert_eq!((present_keys(&table, 4).len(), jumps()), (4, 1), "held without another event");
    // Meanwhile, and after the jump is undone, ages grow by the time that passes.
    harness.clock.jump(-year);
    let report = table.run_gc().unwrap();
    assert_eq!((report.segments, report.held_for), (0, None), "59 seconds are not the TTL");
    harness.clock.advance(SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 3);
    // Ahead again, and accepted.
    put(&table, 4..8);
    harness.clock.jump(year);
    assert!(table.run_gc().unwrap().held_for.is_some());
    table.accept_clock().unwrap();
    assert_eq!(table.run_gc().unwrap().segments, 4);
    // Ahead again, until the hold has passed.
    put(&table, 8..12);
    harness.clock.jump(year);
    assert!(table.run_gc().unwrap().held_for.is_some());
    harness.clock.advance(harness.setup.clock_jump_hold + SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 4);
    assert_eq!(present_keys(&table, 12), [11]);
}

#[test]
fn clock_jump_while_closed_is_detected() {
    let mut harness = Harness::new(1);
    let events = listen(&mut harness);
    let options = small().segment_keys(1).ttl(60 * SECOND).segment_age(1000 * DAY);
    let table = harness.create_and_open(&options);
    put(&table, 0..4);
    table.close().unwrap();
    harness.clock.advance(400 * DAY);
    let table = harness.open(&options).unwrap();
    assert!(table.run_gc().unwrap().held_for.is_some());
    assert!(events.lock().iter().any(|e| matches!(e, Event::ClockJump { .. })));
    table.accept_clock().unwrap();
    assert_eq!(table.run_gc().unwrap().segments, 3);
}

#[test]
fn clock_going_back_is_reported_and_blocks_nothing() {
    let mut harness = Harness::new(1);
    let events = listen(&mut harness);
    let options = small().segment_keys(1).ttl(60 * SECOND).segment_age(DAY);
    let table = harness.create_and_open(&options);
    put(&table, 0..4);
    table.run_gc().unwrap();
    harness.clock.jump(-86_400_000);
    assert_eq!(table.run_gc().unwrap().segments, 0);
    let is_jump = |e: &Event| matches!(e, Event::ClockJump { before, now, .. } if now < before);
    assert!(events.lock().iter().any(is_jump));
    harness.clock.advance(59 * SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 0, "not yet by any clock");
    harness.clock.advance(SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 3);
    assert_eq!(present_keys(&table, 4), [3]);
}

#[test]
fn one_damaged_state_slot_never_lowers_the_watermark() {
    let harness = Harness::new(1);
    let options = small().segment_keys(2).ttl(SECOND).segment_age(DAY);
    let table = harness.create_and_open(&options);
    put(&table, 0..7);
    table.flush().unwrap();
    let before = harness.fs.fork();
    harness.clock.advance(2 * SECOND);
    assert_eq!(table.run_gc().unwrap().segments, 3);
    drop(table);
    for slot in [0, 4096] {
        let fs = harness.fs.fork();
        // The collected files still exist: their removal was not durable.
        for path in before.file_paths().iter().filter(|path| !path.ends_with("table.state")) {
            fs.write_raw(path, before.read_raw(path));
        }
        fs.flip_bit("/r0/t/table.state", slot + 40, 2);
        let harness = Harness::on(fs, harness.clock.clone(), 1);
        assert_eq!(present_keys(&harness.open(&options).unwrap(), 7), [6], "slot at {slot}");
        // The opening has repaired the slot: the other one may be damaged next.
        harness.fs.flip_bit("/r0/t/table.state", 4096 - slot + 40, 2);
        assert_eq!(present_keys(&harness.open(&options).unwrap(), 7), [6], "slot at {slot}");
    }
}
