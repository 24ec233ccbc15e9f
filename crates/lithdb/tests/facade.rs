//! The database as a whole: tables, opening twice, closing, options.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lithdb::{
    Batch, Components, Db, DbOptions, DuplicateKeys, ErrorKind, GcFilter, KeymapKind, ReadMode,
    Table, TableOptions, Ttl, Verify,
};
use lithdb_sim::CrashImage;
use support::{Harness, check, key, put, small, value};

fn kind<T: std::fmt::Debug>(result: lithdb::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_bad_table_name_is_refused_and_leaves_nothing() {
    let harness = Harness::new();
    let db = harness.open();
    let long = "x".repeat(129);
    for name in ["", "a/b", "..", ".", "a b", "tab\t", "ü", "a\0", "lost+found", &long] {
        for result in [
            db.table(name, TableOptions::new()).map(|_| ()),
            db.existing_table(name).map(|_| ()),
            db.drop_table(name),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}: {error}");
        }
    }
    assert!(db.tables().unwrap().is_empty());
    let longest = "x".repeat(128);
    for name in ["a", "A-Z_09", "-", &longest] {
        db.table(name, TableOptions::new()).unwrap().put(b"k", b"v").unwrap();
    }
    assert_eq!(db.tables().unwrap().len(), 4);
}

#[test]
fn out_of_range_options_are_refused_with_field_and_range() {
    let harness = Harness::new();
    let db = harness.open();
    for (options, field) in [
        (TableOptions::new().shards(0), "shards"),
        (TableOptions::new().shards(257), "shards"),
        (TableOptions::new().segment_bytes(1), "segment_bytes"),
        (TableOptions::new().segment_keys(0), "segment_keys"),
        (TableOptions::new().inline_max_bytes(65_537), "inline_max_bytes"),
        (TableOptions::new().ttl(Duration::ZERO), "ttl"),
        (TableOptions::new().segment_age(Duration::ZERO), "segment_age"),
    ] {
        let error = db.table("t", options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
    assert!(db.tables().unwrap().is_empty(), "nothing was created");
    let bad = DbOptions { max_open_files: 0, ..harness.options() };
    assert_eq!(kind(Db::open_with(bad, harness.components())), ErrorKind::InvalidArgument);
    let none = DbOptions::new(Vec::<String>::new());
    assert_eq!(kind(Db::open_with(none, harness.components())), ErrorKind::InvalidArgument);
}

#[test]
fn opening_twice_shares_the_table_and_other_options_conflict() {
    let harness = Harness::new();
    let db = harness.open();
    let first = db.table("t", small()).unwrap();
    let second = db.table("t", small()).unwrap();
    let third = db.clone().existing_table("t").unwrap();
    assert!(first.is_same(&second) && first.is_same(&third));
    first.put(b"k", b"v").unwrap();
    assert_eq!(third.get(b"k").unwrap().unwrap(), b"v");

    let error = db.table("t", small().shards(7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("shards: Some(7)"), "{error}");
    let filter = GcFilter::new(|_, _| Ok(true));
    assert_eq!(kind(db.table_with_filter("t", small(), filter)), ErrorKind::InvalidArgument);
    // A table of another name is independent of it.
    assert!(!db.table("u", small().shards(7)).unwrap().is_same(&first));
    assert!(!first.is_collected_with(&GcFilter::new(|_, _| Ok(true))));
    // Another handle has the filter of the first.
    let (one, other) = (GcFilter::new(|_, _| Ok(false)), GcFilter::new(|_, _| Ok(false)));
    for given in [one.clone(), other.clone()] {
        let table = db.table_with_filter("v", small(), given).unwrap();
        assert!(table.is_collected_with(&one) && !table.is_collected_with(&other));
    }
}

#[test]
fn existing_table_requires_the_table_to_exist() {
    let harness = Harness::new();
    let db = harness.open();
    let before = harness.fs.ops();
    assert_eq!(kind(db.existing_table("t")), ErrorKind::Missing);
    assert_eq!(kind(db.drop_table("t")), ErrorKind::Missing);
    assert_eq!(harness.fs.ops(), before, "a lookup writes nothing");
    assert!(db.tables().unwrap().is_empty());
}

#[test]
fn tables_are_listed_open_or_not_and_foreign_entries_are_not() {
    let harness = Harness::new();
    let db = harness.open();
    for name in ["b", "a", "c"] {
        db.table(name, small()).unwrap();
    }
    db.close().unwrap();
    drop(db);
    harness.fs.make_dirs("/r0/lost+found");
    harness.fs.make_dirs("/r1/somebody-elses");
    harness.fs.write_raw("/r1/somebody-elses/notes.txt", b"not ours".to_vec());
    let db = harness.open();
    let names: Vec<String> = db.tables().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(db.stats().tables.is_empty(), "none is open");
    drop(db);
    assert_eq!(harness.fs.read_raw("/r1/somebody-elses/notes.txt"), b"not ours");
    assert_eq!(harness.read().tables().unwrap().len(), 3);
}

#[test]
fn dropped_table_is_gone_and_held_values_stay_readable() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    put(&table, 0..20);
    table.flush().unwrap();
    let held: Vec<_> = (0..20).map(|n| table.get(key(n)).unwrap().unwrap()).collect();
    db.drop_table("t").unwrap();
    for result in [
        table.put(b"k", b"v").map(|_| ()),
        table.get(b"k").map(|_| ()),
        table.contains(b"k").map(|_| ()),
        table.flush(),
        table.seal(),
        table.iter().map(|_| ()),
        table.run_gc().map(|_| ()),
        table.set_ttl(None),
    ] {
        assert_eq!(kind(result), ErrorKind::Closed);
    }
    for (n, held) in held.iter().enumerate() {
        assert_eq!(**held, *value(n as u64));
    }
    assert!(harness.files("/t/").is_empty(), "{:?}", harness.files("/t/"));
    assert!(db.tables().unwrap().is_empty());
    assert_eq!(kind(db.drop_table("t")), ErrorKind::Missing);
    // The name is free again: a new table with other options is empty.
    let again = db.table("t", TableOptions::new()).unwrap();
    check(&again, 0..0);
    put(&again, 5..7);
    check(&again, 5..7);
    drop((table, held));
    check(&again, 5..7);
}

#[test]
fn iterator_of_dropped_table_never_reads_its_namesake() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().ttl(Duration::from_secs(1))).unwrap();
    put(&table, 0..20);
    table.seal().unwrap();
    let walk = table.iter().unwrap();
    harness.clock.advance(Duration::from_secs(10));
    assert!(table.run_gc().unwrap().segments > 2);
    db.drop_table("t").unwrap();
    let again = db.table("t", small()).unwrap();
    put(&again, 0..20);
    again.seal().unwrap();
    let files = harness.files("/t/");
    // Dropping the last holder of the collected segments must not remove files that now have their
    // names.
    drop((walk, table));
    assert_eq!(harness.files("/t/"), files);
    check(&again, 0..20);
    db.close().unwrap();
    drop((again, db));
    check(&harness.open().existing_table("t").unwrap(), 0..20);
}

#[test]
fn closed_table_can_be_dropped() {
    let harness = Harness::new();
    put(&harness.open().table("t", small()).unwrap(), 0..20);
    let db = harness.open();
    db.drop_table("t").unwrap();
    assert!(db.tables().unwrap().is_empty() && harness.files("/t/").is_empty());
}

/// The power fails at every operation of a drop; the next open finds the whole table or finishes
/// the drop.
#[test]
fn opening_finishes_an_interrupted_drop() {
    let harness = Harness::new();
    let db = harness.open();
    put(&db.table("t", small()).unwrap(), 0..20);
    put(&db.table("u", small()).unwrap(), 0..5);
    db.close().unwrap();
    drop(db);
    let (mut kept, mut finished) = (0, 0);
    for n in 0.. {
        let begun = harness.on(harness.fs.fork());
        let db = begun.open();
        db.existing_table("t").unwrap();
        begun.fs.crash_after(n);
        let is_done = db.drop_table("t").is_ok();
        drop(db);
        let images = [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(n)];
        for image in images {
            let found = begun.after_crash(&image);
            let db = found.open();
            let names: Vec<String> = db.tables().unwrap().iter().map(ToString::to_string).collect();
            if names == ["t", "u"] {
                assert!(!is_done, "a drop that was acknowledged, {image:?} at {n}");
                check(&db.existing_table("t").unwrap(), 0..20);
                kept += 1;
            } else {
                assert_eq!(names, ["u"]);
                assert!(
                    found.files("/t/").is_empty(),
                    "{image:?} at {n}: {:?}",
                    found.files("/t/")
                );
                assert_eq!(kind(db.existing_table("t")), ErrorKind::Missing);
                assert_eq!(kind(db.drop_table("t")), ErrorKind::Missing);
                let again = db.table("t", small()).unwrap();
                put(&again, 3..9);
                check(&again, 3..9);
                finished += 1;
            }
            check(&db.existing_table("u").unwrap(), 0..5);
        }
        if is_done {
            break;
        }
    }
    assert!(kept > 3 && finished > 20, "{kept} kept, {finished} finished");
}

#[test]
fn a_table_keeps_its_database_open() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    drop(db);
    put(&table, 0..10);
    assert_eq!(kind(harness.try_open()), ErrorKind::Locked);
    let clone = table.clone();
    drop(table);
    assert_eq!(kind(harness.try_open()), ErrorKind::Locked);
    check(&clone, 0..10);
    drop(clone);
    check(&harness.open().existing_table("t").unwrap(), 0..10);
}

#[test]
fn open_database_is_locked_for_any_order_of_its_roots() {
    let harness = Harness::new();
    let db = harness.open();
    let reversed = DbOptions::new(["/r1", "/r0"]);
    assert_eq!(kind(Db::open_with(reversed.clone(), harness.components())), ErrorKind::Locked);
    db.close().unwrap();
    let again = Db::open_with(reversed, harness.components()).unwrap();
    assert_eq!(again.roots(), db.roots(), "root 0 is the same");
    assert_eq!(kind(harness.try_open()), ErrorKind::Locked);
}

#[test]
fn calls_after_close_are_refused_and_close_is_idempotent() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    put(&table, 0..10);
    let held = table.get(key(3)).unwrap().unwrap();
    let entry = table.iter().unwrap().next().unwrap().unwrap();
    db.close().unwrap();
    db.close().unwrap();
    table.close().unwrap();
    let mut batch = Batch::new();
    batch.put("k", "v");
    for result in [
        table.put(b"k", b"v").map(|_| ()),
        table.put_batch(&batch).map(|_| ()),
        table.get(b"k").map(|_| ()),
        table.flush(),
        table.iter().map(|_| ()),
        table.iter_from(key(0)).map(|_| ()),
        table.oldest_key().map(|_| ()),
        table.run_gc().map(|_| ()),
        table.set_shards(2),
        table.refresh(),
        db.table("t", small()).map(|_| ()),
        db.existing_table("t").map(|_| ()),
        db.tables().map(|_| ()),
        db.drop_table("t"),
        db.flush(),
        db.refresh(),
        db.maintain(),
    ] {
        assert_eq!(kind(result), ErrorKind::Closed);
    }
    assert_eq!(held, &*value(3));
    assert_eq!(entry.value().unwrap(), &*value(0));
    // The locks are released although handles exist.
    check(&harness.open().existing_table("t").unwrap(), 0..10);
}

#[test]
fn closing_or_dropping_the_database_makes_all_data_durable() {
    for close in [true, false] {
        let harness = Harness::new();
        let db = harness.open();
        let table = db.table("t", small()).unwrap();
        put(&table, 0..30);
        if close {
            db.close().unwrap();
        }
        drop((db, table));
        let found = harness.after_crash(&CrashImage::Nothing);
        check(&found.open().existing_table("t").unwrap(), 0..30);
        let recovered = found.take_events();
        assert!(recovered.is_empty(), "nothing had to be repaired: {recovered:?}");
    }
}

/// A put during the close of the database is durable afterwards, or was refused.
#[test]
fn puts_during_close_are_durable_or_refused() {
    for round in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = Db::open(DbOptions::new([&path])).unwrap();
        let table = db.table("t", TableOptions::new()).unwrap();
        let accepted: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for (thread, accepted) in accepted.iter().enumerate() {
                let table = table.clone();
                scope.spawn(move || {
                    for n in 0.. {
                        match table.put(format!("{thread}-{n}").as_bytes(), value(n)) {
                            Ok(_) => accepted.store(n + 1, Ordering::Relaxed),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                                break;
                            }
                        }
                    }
                });
            }
            while accepted.iter().map(|n| n.load(Ordering::Relaxed)).sum::<u64>() < 50 * round {
                std::hint::spin_loop();
            }
            db.close().unwrap();
        });
        drop((db, table));
        let db = Db::open(DbOptions::new([&path])).unwrap();
        let table = db.existing_table("t").unwrap();
        for (thread, accepted) in accepted.iter().enumerate() {
            for n in 0..accepted.load(Ordering::Relaxed) {
                let found = table.get(format!("{thread}-{n}").as_bytes()).unwrap();
                assert_eq!(found.as_deref(), Some(&*value(n)), "round {round}: {thread}-{n}");
            }
        }
    }
}

#[test]
fn nothing_is_created_without_create_if_missing() {
    let harness = Harness::new();
    let options = harness.options().create_if_missing(false);
    let error = Db::open_with(options.clone(), harness.components()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("/r0"), "{error}");
    assert_eq!(kind(harness.try_read()), ErrorKind::Missing);
    assert_eq!((harness.fs.ops(), harness.fs.file_paths().len()), (0, 0));
    drop(harness.open());
    Db::open_with(options, harness.components()).unwrap();
}

#[test]
fn two_hundred_reopenings_leave_a_handful_of_segments() {
    let harness = Harness::new();
    for n in 0..200 {
        let db = harness.open();
        put(&db.table("t", TableOptions::new()).unwrap(), n..n + 1);
        if n % 2 == 0 {
            db.close().unwrap();
        }
    }
    let db = harness.open();
    let table = db.existing_table("t").unwrap();
    check(&table, 0..200);
    assert_eq!(table.stats().segments, 1);
}

#[test]
fn a_read_only_database_refuses_to_write_and_refreshes() {
    let harness = Harness::new();
    let writer = harness.open();
    let written = writer.table("t", small()).unwrap();
    put(&written, 0..10);
    writer.flush().unwrap();
    let reader = harness.read();
    assert!(reader.is_read_only() && !writer.is_read_only());
    let before = harness.fs.ops();
    let table = reader.existing_table("t").unwrap();
    check(&table, 0..10);
    for result in [
        table.put(b"k", b"v").map(|_| ()),
        table.put_with(b"k", b"v", &[]).map(|_| ()),
        table.flush(),
        table.seal(),
        table.run_gc().map(|_| ()),
        table.set_ttl(None),
        table.set_shards(3),
        table.accept_clock(),
        reader.drop_table("t"),
        reader.flush(),
        reader.maintain(),
    ] {
        assert_eq!(kind(result), ErrorKind::InvalidArgument);
    }
    assert_eq!(kind(reader.table("new", small())), ErrorKind::Missing);
    assert_eq!(harness.fs.ops(), before, "a reader writes nothing");

    put(&written, 10..30);
    writer.flush().unwrap();
    check(&table, 0..10);
    reader.refresh().unwrap();
    check(&table, 0..30);
    writer.close().unwrap();
    drop((writer, written));
    table.refresh().unwrap();
    check(&table, 0..30);
    reader.close().unwrap();
    assert_eq!(kind(table.get(b"k")), ErrorKind::Closed);
}

#[test]
fn flush_and_stats_cover_all_open_tables() {
    let harness = Harness::new();
    let db = harness.open();
    for name in ["a", "b"] {
        put(&db.table(name, small()).unwrap(), 0..10);
    }
    let unflushed =
        |db: &Db| -> u64 { db.stats().tables.values().map(|t| t.unflushed_bytes).sum() };
    assert!(unflushed(&db) > 0);
    db.flush().unwrap();
    assert_eq!(unflushed(&db), 0);
    let stats = db.stats();
    assert_eq!(stats.roots.len(), 2);
    assert_eq!(stats.tables.len(), 2);
    for stats in stats.tables.values() {
        assert_eq!((stats.keys, stats.values, stats.roots, stats.segments), (10, 10, 2, 3));
    }
    let found = harness.after_crash(&CrashImage::Nothing);
    let db = found.open();
    for name in ["a", "b"] {
        check(&db.existing_table(name).unwrap(), 0..10);
    }
}

#[test]
fn options_are_plain_data() {
    let options = DbOptions::new(["/a", "/b"])
        .create_if_missing(false)
        .read_mode(ReadMode::Pread)
        .max_open_files(7)
        .auto_flush(None, Some(Duration::from_millis(1500)))
        .gc_interval(Duration::from_secs(3));
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<DbOptions>(&text).unwrap(), options);
    let some: DbOptions = serde_json::from_str(r#"{"roots": ["/a"], "io_threads": 1}"#).unwrap();
    assert_eq!(some, DbOptions { io_threads: 1, ..DbOptions::new(["/a"]) });
    let error = serde_json::from_str::<DbOptions>(r#"{"root": ["/a"]}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `root`"), "{error}");

    for options in [
        TableOptions::new(),
        TableOptions::new().no_ttl(),
        TableOptions::new()
            .ttl(Duration::from_secs(60))
            .shards(4)
            .segment_bytes(1 << 20)
            .segment_keys(99)
            .segment_age(Duration::from_secs(1))
            .inline_max_bytes(0)
            .duplicate_keys(DuplicateKeys::Reject)
            .verify(Verify::Never),
        TableOptions { keymap: Some(KeymapKind::Memory), ..TableOptions::new() },
    ] {
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<TableOptions>(&text).unwrap(), options);
    }
    assert_eq!(serde_json::from_str::<TableOptions>("{}").unwrap(), TableOptions::default());
    let read: TableOptions =
        serde_json::from_str(r#"{"ttl": "never", "verify": "never"}"#).unwrap();
    assert_eq!((read.ttl, read.verify), (Ttl::Never, Verify::Never));
    let error = serde_json::from_str::<TableOptions>(r#"{"shard": 2}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `shard`"), "{error}");
}

#[test]
fn handles_can_be_sent_and_shared() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<Db>();
    check::<Table>();
    check::<lithdb::Value>();
    check::<lithdb::Error>();
    check::<Components>();
}

/// A process that another thread is spawning briefly holds copies of all descriptors, lock files
/// included.
#[test]
fn locks_are_released_at_once_while_other_threads_spawn_processes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        let opened = (0..150).try_for_each(|_| Db::open(DbOptions::new([&path]))?.close());
        is_over.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
}

/// A table directory that contains only quarantined files is not an interrupted drop.
#[test]
fn opening_keeps_quarantined_files() {
    let harness = Harness::new();
    let db = harness.open();
    put(&db.table("t", small()).unwrap(), 0..6);
    db.close().unwrap();
    harness.fs.write_raw("/r1/t/damaged-1700000000000/1.keys", b"the only copy".to_vec());
    for path in harness.files("/t/").into_iter().filter(|path| !path.contains("damaged-")) {
        harness.fs.remove_raw(&path);
    }
    let kept = harness.files("/t/");
    let db = harness.open();
    for refused in [db.table("t", small()).map(drop), db.drop_table("t")] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains("damaged-1700000000000/1.keys"), "{error}");
    }
    db.close().unwrap();
    assert_eq!(harness.files("/t/"), kept);
}

#[test]
fn options_parse_from_human_written_toml() {
    let read: DbOptions = toml::from_str(
        r#"
        roots = ["/a"]
        flush_bytes = "never"
        flush_after = "250ms"
        idle_after = 0.5
        gc_interval = 5
        clock_jump_hold = "1h 30m"
        "#,
    )
    .unwrap();
    let expected = DbOptions {
        idle_after: Duration::from_millis(500),
        clock_jump_hold: Duration::from_secs(5400),
        ..DbOptions::new(["/a"])
            .auto_flush(None, Some(Duration::from_millis(250)))
            .gc_interval(Duration::from_secs(5))
    };
    assert_eq!(read, expected);
    let read: TableOptions = toml::from_str(
        r#"
        ttl = "30 days"
        segment_bytes = "64 MiB"
        segment_key_bytes = 1_000_000
        segment_age = "auto"
        inline_max_bytes = "2KiB"
        "#,
    )
    .unwrap();
    let expected = TableOptions {
        segment_key_bytes: 1_000_000,
        ..TableOptions::new()
            .ttl(Duration::from_secs(30 * 86_400))
            .segment_bytes(64 << 20)
            .inline_max_bytes(2048)
    };
    assert_eq!(read, expected);
    assert_eq!(toml::from_str::<TableOptions>("ttl = \"recorded\"").unwrap().ttl, Ttl::Recorded);
    for (wrong, why) in [
        ("gc_interval = \"5\"", "30 days"),
        ("gc_interval = -1", "negative"),
        ("gc_interval = \"never\"", "30 days"),
        ("flush_bytes = \"1 apple\"", "64 MiB"),
        ("flush_bytes = 0.5", "whole number"),
        ("idle_after = true", "a number"),
    ] {
        let error = toml::from_str::<DbOptions>(wrong).unwrap_err();
        assert!(error.to_string().contains(why), "{wrong}: {error}");
    }
}

#[test]
fn every_option_round_trips() {
    for options in [
        DbOptions::new(["/a"]),
        DbOptions {
            idle_after: Duration::MAX,
            clock_jump_limit: Duration::from_nanos(1),
            ..DbOptions::new(["/a"]).auto_flush(None, None)
        },
    ] {
        let text = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<DbOptions>(&text).unwrap(), options, "{text}");
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<DbOptions>(&text).unwrap(), options, "{text}");
    }
    for options in [
        TableOptions::new(),
        TableOptions::new().no_ttl().segment_age(Duration::MAX),
        TableOptions::new().ttl(Duration::from_millis(1)).shards(3).segment_bytes(100_001),
    ] {
        let text = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<TableOptions>(&text).unwrap(), options, "{text}");
    }
    let text = toml::to_string(&DbOptions::new(["/a"]).auto_flush(None, None)).unwrap();
    assert!(text.contains("flush_bytes = \"never\"") && text.contains("\"10s\""), "{text}");
}
