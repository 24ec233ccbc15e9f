//! Streamed values: a value is stored completely or not at all.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use lithdb_env::ErrorKind;
use lithdb_segment::ReadMode;
use lithdb_sim::{CrashImage, Fault, OpKind};
use lithdb_table::{DuplicateKeys, Maintenance, Table};
use support::{Harness, small};

const MIB: usize = 1 << 20;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ (n >> 12) as u8).collect()
}

fn in_pieces(table: &Table, key: &[u8]) -> Vec<u8> {
    let (mut value, mut longest) = (Vec::new(), 0);
    let given = table.get_chunked(key, &mut |piece| {
        longest = longest.max(piece.len());
        value.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(given.unwrap().unwrap() as usize, value.len());
    assert!(longest <= MIB, "{longest}");
    value
}

#[test]
fn value_of_any_length_round_trips_when_streamed() {
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let mut harness = Harness::new(2);
        harness.setup.read_mode = mode;
        let options = small().segment_bytes(64 << 20).shards(2);
        let table = harness.create_and_open(&options);
        for len in [0, 1, 5_000, MIB - 1, MIB, MIB + 1, 5 * MIB / 2] {
            let (key, value) = (format!("key-{len}"), content(len));
            table.put(b"between", b"a small one").unwrap();
            // A source that returns few bytes at a time.
            let mut source = value
                .chunks(70_001)
                .fold(Box::new(io::empty()) as Box<dyn Read>, |before, chunk| {
                    Box::new(before.chain(chunk))
                });
            table.put_from(key.as_bytes(), len as u64, &mut source).unwrap();
            assert!(in_pieces(&table, key.as_bytes()) == value, "{len}");
            assert!(table.get(key.as_bytes()).unwrap().unwrap() == value[..], "{len}");
        }
        assert_eq!(table.get_chunked(b"absent", &mut |_| panic!("given")).unwrap(), None);
        table.flush().unwrap();
        // Flushed, it survives.
        let table = harness
            .after_crash(harness.fs.crash_with(&CrashImage::Nothing))
            .open(&options)
            .unwrap();
        let value = content(5 * MIB / 2);
        assert!(in_pieces(&table, format!("key-{}", value.len()).as_bytes()) == value);
        assert_eq!(table.get(b"between").unwrap().unwrap(), b"a small one");
    }
}

/// Returns so many bytes and then fails.
struct FailingReader(usize);

impl Read for FailingReader {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = self.0.min(room.len());
        self.0 -= len;
        room[..len].fill(0xee);
        if len == 0 { Err(io::Error::other("the pipe broke")) } else { Ok(len) }
    }
}

#[test]
fn failing_source_stores_and_latches_nothing() {
    let harness = Harness::new(1);
    let options = small().segment_bytes(64 << 20);
    let table = harness.create_and_open(&options);
    table.put(b"before", &[1; 3_000]).unwrap();
    for len in [0, MIB / 2, 2 * MIB] {
        let error = table.put_from(b"key", 0, &mut FailingReader(len)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("the pipe broke"), "{error}");
        assert_eq!(table.get(b"key").unwrap(), None);
    }
    // The next value takes its place.
    table.put(b"behind", &[2; 100_000]).unwrap();
    table.put_from(b"key", 0, &mut &content(2 * MIB)[..]).unwrap();
    table.close().unwrap();
    drop(table);
    let table = harness.open(&options).unwrap();
    assert!(in_pieces(&table, b"key") == content(2 * MIB));
    assert_eq!(table.get(b"before").unwrap().unwrap(), &[1; 3_000]);
    assert_eq!(table.get(b"behind").unwrap().unwrap(), &[2; 100_000]);
}

/// Runs a hook after so many bytes, and continues.
struct ReadThenCall<F>(usize, F);

impl<F: FnMut()> Read for ReadThenCall<F> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            (self.1)();
            return Ok(0);
        }
        FailingReader(self.0).read(room).inspect(|len| self.0 -= len)
    }
}

/// Reports more bytes than the buffer holds, which no `Read` may do.
struct OverreportingReader;

impl Read for OverreportingReader {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        Ok(room.len() + 1)
    }
}

#[test]
fn source_that_claims_more_than_it_read_stores_nothing() {
    let table = idle_table(&Harness::new(1));
    let before = table.stats().keys;
    let error = table.put_from(b"key", 10, &mut OverreportingReader).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("bytes read into a buffer of"), "{error}");
    assert_eq!((table.get(b"key").unwrap(), table.stats().keys), (None, before));
    table.put(b"key", b"value").unwrap();
}

/// The free space, and the length of every file.
fn space(harness: &Harness) -> (u64, Vec<usize>) {
    let free = harness.setup.env.fs.free_space(Path::new("/r0")).unwrap();
    (free, harness.fs.file_paths().iter().map(|path| harness.fs.read_raw(path).len()).collect())
}

/// An idle table with one value, on a disk of 16 MiB.
fn idle_table(harness: &Harness) -> Table {
    harness.fs.set_capacity(Some(16 << 20));
    let table = harness.create_and_open(&small().segment_bytes(64 << 20).shards(2));
    table.put(b"before", &[1; 3_000]).unwrap();
    table.flush().unwrap();
    let maintenance = Maintenance {
        flush_bytes: None,
        flush_after: None,
        idle_after: Duration::ZERO,
        collect: false,
    };
    table.tick(&maintenance).unwrap();
    table
}

#[test]
fn refused_stream_leaves_space_and_lengths_as_they_were() {
    let harness = Harness::new(1);
    let table = idle_table(&harness);
    let before = space(&harness);
    let mut panics = ReadThenCall(2 * MIB, || panic!("as asked for"));
    let refused: [(&mut dyn Read, _); 4] = [
        (&mut FailingReader(2 * MIB), ErrorKind::Io),
        (&mut FailingReader(MIB), ErrorKind::Io),
        (&mut panics, ErrorKind::InvalidArgument),
        (&mut io::repeat(7).take(32 << 20), ErrorKind::StorageFull),
    ];
    for (source, kind) in refused {
        harness.fs.take_trace();
        let error = table.put_from(b"key", 0, source).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(space(&harness), before, "{error}");
        assert!(table.failure().is_none());
        // The new length is durable: what a clean close records of the file holds after power
        // loss.
        let kinds: Vec<_> = harness.fs.take_trace().iter().map(|op| op.kind).collect();
        assert_eq!(kinds[kinds.len() - 2..], [OpKind::SetLen, OpKind::SyncAll], "{error}");
    }
    // The refused put can be repeated, and later puts are kept.
    harness.fs.set_capacity(None);
    table.put_from(b"key", 0, &mut &content(3 * MIB)[..]).unwrap();
    table.put(b"behind", &[2; 3_000]).unwrap();
    table.close().unwrap();
    drop(table);
    let table = harness.open(&small()).unwrap();
    assert!(in_pieces(&table, b"key") == content(3 * MIB));
    assert_eq!(table.get(b"before").unwrap().unwrap(), &[1; 3_000]);
    assert_eq!(table.get(b"behind").unwrap().unwrap(), &[2; 3_000]);
}

/// Small values that are not flushed yet are in the write buffer, below the end that is truncated.
#[test]
fn aborted_stream_leaves_other_values_intact() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_bytes(64 << 20));
    for n in 0..40_u8 {
        table.put(&[n], &[n; 60_000]).unwrap();
        table.put_from(b"key", 0, &mut FailingReader(MIB + usize::from(n))).unwrap_err();
    }
    table.close().unwrap();
    drop(table);
    let table = harness.open(&small()).unwrap();
    for n in 0..40_u8 {
        assert_eq!(table.get(&[n]).unwrap().unwrap(), &[n; 60_000]);
    }
}

#[test]
fn faults_at_every_operation_of_a_refused_stream() {
    let (mut left, mut latched) = (0, 0);
    for n in 1.. {
        let harness = Harness::new(1);
        let table = idle_table(&harness);
        let before = space(&harness);
        harness.fs.fail_op(n, Fault::Eio, false);
        table.put_from(b"key", 0, &mut FailingReader(2 * MIB)).unwrap_err();
        if harness.fs.faults_hit() == 0 {
            break;
        }
        harness.fs.clear_faults();
        match table.put(b"behind", b"2") {
            Ok(_) => left += usize::from(space(&harness).1 != before.1),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Latched, "{error}");
                latched += 1;
            }
        }
        assert_eq!(table.close().is_ok(), table.failure().is_none());
        drop(table);
        let table = harness.open(&small()).unwrap();
        assert_eq!(table.get(b"before").unwrap().unwrap(), &[1; 3_000]);
        assert_eq!(table.get(b"key").unwrap(), None);
    }
    // Where the file could not be truncated, the bytes stay; a failed write or sync latches.
    assert_eq!((left, latched), (1, 3));
}

#[test]
fn source_that_calls_the_database_is_refused_there() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_bytes(64 << 20));
    let mut refused = Vec::new();
    // Short enough for the write buffer, and longer.
    for len in [MIB / 2, 2 * MIB] {
        let calls = || {
            refused.extend([
                table.put(b"other", b"1").err(),
                table.put_from(b"other", 0, &mut &b"1"[..]).err(),
                table.get(b"other").err(),
                table.flush().err(),
                table.iter().err(),
                table.newest_key().err(),
                table.close().err(),
            ]);
        };
        table.put_from(b"key", 0, &mut ReadThenCall(len, calls)).unwrap();
        assert_eq!(in_pieces(&table, b"key").len(), len);
    }
    assert_eq!(refused.len(), 14);
    for error in refused {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("the source of put_from called"), "{error}");
    }
    table.put(b"other", b"1").unwrap();
}

#[test]
fn disk_that_fills_up_half_way_stores_nothing() {
    let harness = Harness::new(1);
    let options = small().segment_bytes(64 << 20);
    let table = harness.create_and_open(&options);
    table.put(b"before", &[1; 3_000]).unwrap();
    harness.fs.set_capacity(Some(4 << 20));
    let error = table.put_from(b"key", 0, &mut &content(8 * MIB)[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    harness.fs.set_capacity(None);
    assert_eq!(table.get(b"key").unwrap(), None);
    table.put(b"behind", &[2; 3_000]).unwrap();
    table.close().unwrap();
    drop(table);
    let table = harness.open(&options).unwrap();
    assert_eq!(table.get(b"before").unwrap().unwrap(), &[1; 3_000]);
    assert_eq!(table.get(b"behind").unwrap().unwrap(), &[2; 3_000]);
}

#[test]
fn failed_write_of_a_piece_latches() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_bytes(64 << 20));
    table.put(b"before", b"1").unwrap();
    table.flush().unwrap();
    harness.fs.fail_op(2, Fault::Eio, true);
    assert!(table.put_from(b"key", 0, &mut &content(3 * MIB)[..]).is_err());
    harness.fs.clear_faults();
    assert_eq!(table.put(b"after", b"2").unwrap_err().kind(), ErrorKind::Latched);
    assert_eq!(table.get(b"before").unwrap().unwrap(), b"1");
}

#[test]
fn get_chunked_returns_no_byte_of_a_damaged_value() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small().segment_bytes(64 << 20));
    table.put_from(b"key", 0, &mut &content(3 * MIB)[..]).unwrap();
    table.seal().unwrap();
    table.close().unwrap();
    drop(table);
    let path = harness.setup.dirs[0].join("segments/1-0.values");
    harness.fs.flip_bit(&path, 64 + 5 * MIB as u64 / 2, 3);
    let table = harness.open(&small()).unwrap();
    let given = table.get_chunked(b"key", &mut |_| panic!("given"));
    assert_eq!(given.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn streamed_value_that_does_not_fit_begins_a_segment() {
    let harness = Harness::new(1);
    let options = small().segment_bytes(4 << 20).duplicate_keys(DuplicateKeys::Reject);
    let table = harness.create_and_open(&options);
    table.put(b"small", b"1").unwrap();
    let at = table.put_from(b"long", 3 << 20, &mut &content(3 * MIB)[..]).unwrap();
    assert_eq!(at.segment.0, 1);
    let at = table.put_from(b"longer", 2 << 20, &mut &content(2 * MIB)[..]).unwrap();
    assert_eq!(at.segment.0, 2);
    let error = table.put_from(b"long", 2 << 20, &mut &content(2 * MIB)[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DuplicateKey);
    assert!(in_pieces(&table, b"long") == content(3 * MIB));
}
