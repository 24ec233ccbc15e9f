//! Readers in other processes, and links to the files, beside a writer.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lithdb_env::{ErrorKind, Fs};
use lithdb_sim::CrashImage;
use lithdb_table::{Batch, OpenForWriting, Table, TableOptions};
use support::script::value_of;
use support::{DAY, Harness, small};

fn put(table: &Table, range: std::ops::Range<usize>) {
    for n in range {
        table.put(format!("{n}").as_bytes(), &value_of(n, 30)).unwrap();
    }
}

fn present_keys(table: &Table, up_to: usize) -> Vec<usize> {
    (0..up_to)
        .filter(|n| match table.get(format!("{n}").as_bytes()).unwrap() {
            Some(value) => {
                assert_eq!(value, &value_of(*n, 30)[..]);
                true
            }
            None => false,
        })
        .collect()
}

fn all(up_to: usize) -> Vec<usize> {
    (0..up_to).collect()
}

fn read(harness: &Harness, options: &TableOptions) -> Table {
    Table::open_read_only(&harness.setup, options).unwrap()
}

/// Opens for writing as an application does while readers are open.
fn open_beside_readers(harness: &Harness, options: &TableOptions) -> Table {
    let how = OpenForWriting { coalesce: Duration::ZERO };
    Table::open(&harness.setup, options, how).unwrap()
}

#[test]
fn reader_sees_flushed_data_and_writes_nothing() {
    let harness = Harness::new(2);
    let options = small().segment_keys(3);
    harness.create().unwrap();
    let empty = read(&harness, &options);
    assert_eq!(present_keys(&empty, 3), [0; 0]);
    let writer = harness.open(&options).unwrap();
    put(&writer, 0..5);
    writer.flush().unwrap();
    let ops = harness.fs.ops();
    let reader = read(&harness, &options);
    assert_eq!(present_keys(&reader, 20), all(5));
    assert_eq!(reader.iter().unwrap().count(), 5);
    assert_eq!(reader.stats().keys, 5);
    empty.refresh().unwrap();
    assert_eq!(present_keys(&empty, 20), all(5));
    assert_eq!(harness.fs.ops(), ops, "a reader writes nothing");
    put(&writer, 5..12);
    assert_eq!(present_keys(&reader, 20), all(5), "its view stays until it takes another");
    writer.flush().unwrap();
    reader.refresh().unwrap();
    assert_eq!(present_keys(&reader, 20), all(12));
    for n in 12..30 {
        put(&writer, n..n + 1);
        if n % 2 == 0 {
            writer.flush().unwrap();
        }
        reader.refresh().unwrap();
        let seen = present_keys(&reader, 40);
        assert!(seen.len() >= if n % 2 == 0 { n + 1 } else { n }, "{n}: {seen:?}");
        assert_eq!(seen, all(seen.len()));
    }
    writer.close().unwrap();
    reader.refresh().unwrap();
    assert_eq!(present_keys(&reader, 40), all(30));
    for refused in [
        reader.put(b"k", b"").map(drop),
        reader.flush(),
        reader.seal(),
        reader.run_gc().map(drop),
        reader.begin_drop(),
        reader.set_ttl(None),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn collection_during_reads_makes_keys_absent_not_errors() {
    let harness = Harness::new(1);
    let options = small().segment_keys(2).ttl(Duration::from_secs(1)).segment_age(DAY);
    let writer = harness.create_and_open(&options);
    put(&writer, 0..9);
    writer.flush().unwrap();
    let mut setup = harness.setup.clone();
    setup.handles = std::sync::Arc::new(lithdb_segment::HandleCache::new(1));
    let reader = Table::open_read_only(&setup, &options).unwrap();
    assert_eq!(present_keys(&reader, 9), all(9));
    harness.clock.advance(Duration::from_secs(2));
    assert_eq!(writer.run_gc().unwrap().segments, 4);
    // Files that it holds open may still be read; a collected key is `None`, not an error.
    for n in 0..9_usize {
        let value = reader.get(format!("{n}").as_bytes()).unwrap();
        assert!(value.is_none_or(|value| value == value_of(n, 30)[..]));
    }
    assert!(present_keys(&reader, 9).len() < 9, "some of them are gone");
    assert!(reader.contains(b"8").unwrap());
    reader.refresh().unwrap();
    assert_eq!(present_keys(&reader, 9), [8]);
    put(&writer, 9..14);
    writer.flush().unwrap();
    reader.refresh().unwrap();
    assert_eq!(present_keys(&reader, 14), [8, 9, 10, 11, 12, 13]);
    // A table that is dropped meanwhile is `Missing`.
    writer.begin_drop().unwrap();
    drop(writer);
    Table::remove(&harness.setup).unwrap();
    assert_eq!(reader.refresh().unwrap_err().kind(), ErrorKind::Missing);
}

/// Leaves a table with a torn end: three flushed values and half of a fourth.
fn torn(harness: &Harness, options: &TableOptions) {
    let table = harness.create_and_open(options);
    put(&table, 0..3);
    table.flush().unwrap();
    drop(table);
    for path in ["/r0/t/segments/1.keys", "/r1/t/segments/1-0.values"] {
        let mut bytes = harness.fs.read_raw(path);
        bytes.extend([7; 100]);
        harness.fs.write_raw(path, bytes);
    }
}

fn unsealed_files() -> [&'static str; 2] {
    ["/r0/t/segments/1.keys", "/r1/t/segments/1-0.values"]
}

fn contents(harness: &Harness, paths: &[impl AsRef<Path>]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| harness.fs.read_raw(path)).collect()
}

#[test]
fn torn_end_is_left_in_place_with_and_without_readers() {
    let harness = Harness::new(2);
    let options = TableOptions::new().shards(1).inline_max_bytes(16);
    torn(&harness, &options);
    let reader = read(&harness, &options);
    assert_eq!(present_keys(&reader, 9), all(3));
    let before = contents(&harness, &unsealed_files());
    let table = open_beside_readers(&harness, &options);
    put(&table, 3..6);
    table.flush().unwrap();
    assert_eq!(contents(&harness, &unsealed_files()), before, "nothing was cut or written");
    assert_eq!(table.stats().segments, 2);
    // The copied bytes, and 100 bytes in each of two files that are no batch.
    let waiting = table.stats().waiting_bytes;
    assert_eq!(waiting, before.iter().map(|bytes| bytes.len() as u64 - 64).sum());
    assert_eq!(present_keys(&table, 9), all(6));
    assert_eq!(present_keys(&reader, 9), all(3));
    reader.refresh().unwrap();
    assert_eq!(present_keys(&reader, 9), all(6));
    table.close().unwrap();
    drop(reader);
    let table = harness.open(&options).unwrap();
    assert_eq!(present_keys(&table, 9), all(6));
    assert_eq!((table.stats().segments, table.stats().waiting_bytes), (2, waiting));
    assert_eq!(read(&harness, &options).stats().waiting_bytes, waiting);
    assert_eq!(contents(&harness, &unsealed_files()), before);
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    assert_eq!(present_keys(&harness.open(&options).unwrap(), 9), all(6));
}

#[test]
fn whole_unsealed_segment_is_resumed_with_readers_open() {
    let harness = Harness::new(2);
    let options = TableOptions::new();
    let table = harness.create_and_open(&options);
    put(&table, 0..3);
    table.close().unwrap();
    for n in 3..10 {
        let table = open_beside_readers(&harness, &options);
        assert_eq!(table.stats().segments, 1);
        put(&table, n..n + 1);
        table.close().unwrap();
    }
}

/// Links all files of the segments into a directory, as a snapshot does.
fn link_all(harness: &Harness) -> Vec<PathBuf> {
    harness.fs.make_dirs("/snapshot");
    let files = harness.fs.file_paths();
    let files = files.iter().filter(|p| p.to_string_lossy().contains("/segments/"));
    files
        .map(|path| {
            let link = Path::new("/snapshot").join(path.file_name().unwrap());
            harness.fs.hard_link(path, &link).unwrap();
            link
        })
        .collect()
}

#[test]
fn hard_linked_files_are_never_modified() {
    let options = TableOptions::new().shards(1).inline_max_bytes(16);
    for is_torn in [true, false] {
        let harness = Harness::new(2);
        if is_torn {
            torn(&harness, &options);
        } else {
            let table = harness.create_and_open(&options);
            put(&table, 0..3);
            table.close().unwrap();
        }
        let links = link_all(&harness);
        let before = contents(&harness, &links);
        for round in 0..3 {
            let table = harness.open(&options).unwrap();
            assert_eq!(present_keys(&table, 30), all(3 + 3 * round));
            put(&table, 3 + 3 * round..6 + 3 * round);
            table.flush().unwrap();
            if round == 1 {
                table.close().unwrap();
            }
            drop(table);
            let context = format!("torn {is_torn}, round {round}");
            assert!(contents(&harness, &links) == before, "{context}: a linked file changed");
            assert!(harness.fs.file_paths().iter().filter(|p| is_keys(p)).count() <= 3);
        }
        // The links are removed: the files do not change.
        for link in &links {
            harness.fs.remove_file(link).unwrap();
        }
        let table = harness.open(&options).unwrap();
        assert_eq!(present_keys(&table, 30), all(12));
        assert_eq!(harness.fs.read_raw("/r0/t/segments/1.keys"), before[0]);
    }
}

fn is_keys(path: &Path) -> bool {
    path.starts_with("/r0/t") && path.extension().is_some_and(|e| e == "keys")
}

#[test]
fn crash_while_sealing_a_linked_segment_keeps_links_and_data() {
    let options = TableOptions::new().shards(1).inline_max_bytes(16);
    let prepare = || {
        let harness = Harness::new(2);
        torn(&harness, &options);
        link_all(&harness);
        harness.fs.sync_dir(Path::new("/snapshot")).unwrap();
        Harness::on(harness.fs.crash_with(&CrashImage::Everything), harness.clock, 2)
    };
    let harness = prepare();
    let links: Vec<_> =
        harness.fs.file_paths().into_iter().filter(|p| p.starts_with("/snapshot")).collect();
    let before = contents(&harness, &links);
    assert_eq!(links.len(), 2);
    drop(harness.open(&options).unwrap());
    let count = harness.fs.ops();
    for k in 0..=count {
        for seed in 0..4 {
            let harness = prepare();
            harness.fs.crash_after(k);
            drop(harness.open(&options));
            let image = match seed {
                0 => CrashImage::Nothing,
                1 => CrashImage::Everything,
                seed => CrashImage::Seeded(seed + k * 10),
            };
            let harness = harness.after_crash(harness.fs.crash_with(&image));
            assert_eq!(contents(&harness, &links), before, "after {k}, {image:?}");
            let table = harness.open(&options).unwrap();
            assert_eq!(present_keys(&table, 9), all(3), "after {k}, {image:?}");
            put(&table, 3..5);
            table.flush().unwrap();
            assert_eq!(contents(&harness, &links), before, "after {k}, {image:?}");
            drop(table);
            let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
            assert_eq!(present_keys(&harness.open(&options).unwrap(), 9), all(5));
        }
    }
}

#[test]
fn overwritten_key_is_never_absent_for_a_refreshing_reader() {
    let harness = Harness::new(1);
    let options = small().segment_keys(7);
    let writer = harness.create_and_open(&options);
    writer.put(b"same", &value_of(0, 30)).unwrap();
    writer.flush().unwrap();
    let reader = read(&harness, &options);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (reader, stop) = (&reader, &stop);
        let getter = scope.spawn(move || {
            let mut gets = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(reader.get(b"same").unwrap().is_some(), "absent after {gets} gets");
                gets += 1;
            }
            gets
        });
        for n in 1..200 {
            writer.put(b"same", &value_of(n, 30)).unwrap();
            writer.flush().unwrap();
            reader.refresh().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(getter.join().unwrap() > 0);
    });
    assert_eq!(reader.get(b"same").unwrap().unwrap(), &value_of(199, 30)[..]);
}

#[test]
fn reader_of_a_recreated_table_gets_closed() {
    let harness = Harness::new(1);
    let writer = harness.create_and_open(&small());
    put(&writer, 0..3);
    writer.flush().unwrap();
    let (reader, unread) = (read(&harness, &small()), read(&harness, &small()));
    writer.begin_drop().unwrap();
    drop(writer);
    Table::remove(&harness.setup).unwrap();
    let writer = harness.create_and_open(&small());
    // As long as the old one's, so that the length shows no difference.
    put(&writer, 0..4);
    writer.put(b"0", b"another table's").unwrap();
    writer.flush().unwrap();
    // A file that is not open is opened again, and belongs to the other table.
    let error = unread.get(b"0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("dropped and recreated"), "{error}");
    assert_eq!(reader.refresh().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(read(&harness, &small()).get(b"0").unwrap().unwrap(), b"another table's");
}

#[test]
fn reader_iterator_continues_after_collected_segments() {
    let harness = Harness::new(1);
    let options = small().segment_keys(3).ttl(DAY);
    let writer = harness.create_and_open(&options);
    put(&writer, 0..9);
    writer.seal().unwrap();
    put(&writer, 9..11);
    writer.flush().unwrap();
    // One handle: files that were read are closed again, and no longer exist when they are needed.
    let mut setup = harness.setup.clone();
    setup.handles = std::sync::Arc::new(lithdb_segment::HandleCache::new(1));
    let reader = Table::open_read_only(&setup, &options).unwrap();
    let mut forwards = reader.iter().unwrap();
    let mut backwards = reader.iter().unwrap().rev();
    assert_eq!(forwards.next().unwrap().unwrap().key(), b"0");
    assert_eq!(backwards.next().unwrap().unwrap().key(), b"10");
    harness.clock.advance(DAY);
    writer.accept_clock().unwrap();
    assert_eq!(writer.run_gc().unwrap().segments, 3);
    let rest =
        |iter: &mut dyn Iterator<Item = lithdb_env::Result<lithdb_table::Entry>>| -> Vec<String> {
            iter.map(|e| String::from_utf8(e.unwrap().key().to_vec()).unwrap()).collect()
        };
    let forwards = rest(&mut forwards);
    assert_eq!(forwards.last().unwrap(), "10", "{forwards:?}");
    assert_eq!(rest(&mut backwards).first().unwrap(), "9");
    assert!(reader.iter_from(b"0").unwrap().is_none());
}

#[test]
fn concurrent_seal_and_drop_leave_no_files() {
    for round in 0..40 {
        let harness = Harness::new(1);
        let table = harness.create_and_open(&small());
        put(&table, 0..3);
        std::thread::scope(|scope| {
            let sealing = scope.spawn(|| {
                if round % 2 == 0 {
                    std::thread::yield_now();
                }
                #[expect(clippy::let_underscore_must_use, reason = "the table may be gone")]
                let _ = table.seal();
            });
            table.begin_drop().unwrap();
            Table::remove(&harness.setup).unwrap();
            sealing.join().unwrap();
        });
        assert_eq!(harness.fs.list(Path::new("/r0")).unwrap(), []);
    }
}

#[test]
fn drop_removes_quarantine_and_leaves_foreign_files() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    put(&table, 0..3);
    harness.fs.write_raw("/r0/t/damaged-123/1.keys", vec![1, 2, 3]);
    table.begin_drop().unwrap();
    Table::remove(&harness.setup).unwrap();
    assert_eq!(harness.fs.list(Path::new("/r0")).unwrap(), []);
    let table = harness.create_and_open(&small());
    harness.fs.write_raw("/r0/t/notes.txt", vec![7]);
    table.begin_drop().unwrap();
    Table::remove(&harness.setup).unwrap();
    assert_eq!(harness.fs.read_raw("/r0/t/notes.txt"), [7]);
    // The name can be reused nevertheless.
    let table = harness.create_and_open(&small());
    assert_eq!(table.get(b"0").unwrap(), None);
}

#[test]
fn failed_refresh_keeps_the_old_view() {
    let harness = Harness::new(1);
    let options = small().segment_keys(3);
    let writer = harness.create_and_open(&options);
    writer.put(b"same", &value_of(0, 30)).unwrap();
    writer.flush().unwrap();
    let reader = read(&harness, &options);
    // The key again, and a later segment that the refresh reads afterwards.
    writer.put(b"same", &value_of(1, 30)).unwrap();
    put(&writer, 0..7);
    writer.flush().unwrap();
    let mut failures = 0;
    for n in 1.. {
        harness.fs.fail_reads_from(n, lithdb_sim::Fault::Eio);
        let refreshed = reader.refresh();
        harness.fs.clear_faults();
        assert!(reader.get(b"same").unwrap().is_some(), "after a failure at read {n}");
        match refreshed {
            Ok(()) => break,
            Err(_) => failures += 1,
        }
    }
    assert!(failures > 3, "{failures}");
    assert_eq!(reader.get(b"same").unwrap().unwrap(), &value_of(1, 30)[..]);
    assert_eq!(present_keys(&reader, 7), all(7));
}

/// The reads of a call.
fn reads_of(harness: &Harness, call: impl FnOnce()) -> u64 {
    let before = harness.fs.reads();
    call();
    harness.fs.reads() - before
}

#[test]
fn refresh_cost_depends_only_on_new_data() {
    let costs = [10, 300].map(|segments| {
        let harness = Harness::new(2);
        let options = small().segment_keys(1);
        let writer = harness.create_and_open(&options);
        put(&writer, 0..segments);
        writer.flush().unwrap();
        let reader = read(&harness, &options);
        let refresh = || reads_of(&harness, || reader.refresh().unwrap());
        let nothing = refresh();
        let mut next = segments;
        let mut new = |count: usize| {
            put(&writer, next..next + count);
            writer.flush().unwrap();
            next += count;
            let reads = refresh();
            assert_eq!(present_keys(&reader, next + 9), all(next));
            assert_eq!(reader.stats().keys, next as u64);
            reads
        };
        [nothing, new(1), new(1), new(20), refresh()]
    });
    assert_eq!(costs[0], costs[1]);
    let [nothing, first, second, twenty, again] = costs[0];
    assert!(nothing <= 16 && again == nothing, "{costs:?}");
    assert!(first.max(second) <= 60 && twenty <= 20 * 60, "{costs:?}");
}

#[test]
fn opening_makes_five_calls_for_each_sealed_segment() {
    let options = small().segment_keys(5);
    let costs = [30, 130].map(|segments: usize| {
        let harness = Harness::new(1);
        let writer = harness.create_and_open(&options);
        put(&writer, 0..5 * segments);
        writer.close().unwrap();
        let writing = reads_of(&harness, || {
            let writer = harness.open(&options).unwrap();
            assert_eq!(writer.stats().keys, 5 * segments as u64);
        });
        let reading = reads_of(&harness, || {
            let reader = read(&harness, &options);
            assert_eq!(reader.stats().keys, 5 * segments as u64);
        });
        [writing, reading]
    });
    // Opens and reads metadata and key file; stats the value file.
    let [writing, reading] = [0, 1].map(|n| costs[1][n] - costs[0][n]);
    assert_eq!([writing, reading], [500, 500], "{costs:?}");
}

#[test]
fn corrupt_value_costs_its_reader_one_extra_read() {
    for segments in [4, 200] {
        let harness = Harness::new(1);
        let options = small().segment_keys(1);
        let writer = harness.create_and_open(&options);
        put(&writer, 0..segments);
        writer.close().unwrap();
        let path = "/r0/t/segments/2-0.values";
        let mut bytes = harness.fs.read_raw(path);
        *bytes.last_mut().unwrap() ^= 1;
        harness.fs.write_raw(path, bytes);
        let reader = read(&harness, &options);
        for _ in 0..3 {
            let reads = reads_of(&harness, || {
                assert_eq!(reader.get(b"1").unwrap_err().kind(), ErrorKind::Corrupt);
            });
            assert!(reads < 30, "{reads} reads beside {segments} segments");
        }
        assert_eq!(reader.get(b"2").unwrap().unwrap(), &value_of(2, 30)[..]);
    }
}

#[test]
fn reader_sees_an_in_flight_value_once_written() {
    let harness = Harness::new(1);
    let options = TableOptions::new().shards(1).inline_max_bytes(16);
    let writer = harness.create_and_open(&options);
    put(&writer, 0..3);
    writer.flush().unwrap();
    let reader = read(&harness, &options);
    let path = "/r0/t/segments/1-0.values";
    let before = harness.fs.read_raw(path);
    put(&writer, 3..6);
    writer.flush().unwrap();
    let after = harness.fs.read_raw(path);
    // The key file has its final length, and none or only one of the values exists yet.
    let one_more = before.len() + (after.len() - before.len()) / 3;
    for (there_by_now, len) in [(3, before.len()), (4, one_more), (6, after.len())] {
        harness.fs.write_raw(path, after[..len].to_vec());
        for reader in [&reader, &read(&harness, &options)] {
            reader.refresh().unwrap();
            assert_eq!(present_keys(reader, 9), all(there_by_now));
            assert_eq!(reader.iter().unwrap().count(), there_by_now);
        }
    }
}

#[test]
fn refresh_reads_more_records_than_one_piece() {
    let harness = Harness::new(1);
    let options = TableOptions::new().segment_keys(100_000);
    let writer = harness.create_and_open(&options);
    let reader = read(&harness, &options);
    let batches = 4_u32;
    for n in 0..batches {
        let mut batch = Batch::new();
        for i in 0..40_000_u32 {
            batch.put([n.to_be_bytes(), i.to_be_bytes()].concat(), b"");
        }
        writer.put_batch(&batch).unwrap();
        writer.put(b"between", &n.to_be_bytes()).unwrap();
    }
    writer.flush().unwrap();
    reader.refresh().unwrap();
    assert_eq!(reader.stats().keys, 160_004);
    assert_eq!(reader.stats().log_end, writer.stats().log_end);
    assert_eq!(reader.stats().keymap_entries, writer.stats().keymap_entries);
    assert_eq!(reader.get(b"between").unwrap().unwrap(), &3_u32.to_be_bytes());
    assert_eq!(reader.newest_key().unwrap().unwrap(), b"between");
    for n in 0..batches {
        for i in [0_u32, 1, 39_999] {
            assert!(reader.contains(&[n.to_be_bytes(), i.to_be_bytes()].concat()).unwrap());
        }
    }
}

#[test]
fn view_past_the_sealed_end_is_replaced() {
    let harness = Harness::new(1);
    let options = TableOptions::new().shards(1).inline_max_bytes(16);
    let writer = harness.create_and_open(&options);
    put(&writer, 0..3);
    writer.flush().unwrap();
    put(&writer, 3..6);
    writer.flush().unwrap();
    let reader = read(&harness, &options);
    let held = reader.iter().unwrap();
    let value = reader.get(b"4").unwrap().unwrap();
    // No mark covers the last ones: the next open moves them to a new segment.
    drop(writer);
    let writer = harness.open(&options).unwrap();
    let segments = writer.stats().segments;
    assert!(segments > 1);
    reader.refresh().unwrap();
    assert_eq!((present_keys(&reader, 9), reader.stats().segments), (all(6), segments));
    assert_eq!((reader.iter().unwrap().count(), reader.stats().keys), (6, 6));
    let values: Vec<_> = held.map(|entry| entry.unwrap().value().unwrap()).collect();
    assert_eq!(values.len(), 6);
    assert_eq!(value, &value_of(4, 30)[..]);
    // And it continues from there.
    put(&writer, 6..8);
    writer.flush().unwrap();
    reader.refresh().unwrap();
    assert_eq!((present_keys(&reader, 9), reader.stats().keys), (all(8), 8));
}
