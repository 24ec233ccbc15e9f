//! Recorded durable state checked against the files that an open finds: a mismatch is refused, and
//! nothing is removed.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Fs};
use lithdb_segment::SegmentId;
use lithdb_segment::envelope::{Magic, encode};
use lithdb_sim::{CrashImage, Fault};
use lithdb_table::state::{TableState, read_state};
use lithdb_table::{Presence, Table, presence};
use support::{Harness, small};

fn file(name: &str) -> String {
    format!("/r0/t/segments/{name}")
}

fn state(harness: &Harness) -> TableState {
    read_state(&harness.fs, &harness.setup.state_path()).unwrap().state
}

fn set_state(harness: &Harness, change: impl FnOnce(&mut TableState)) {
    let mut state = state(harness);
    change(&mut state);
    let mut slot = encode(Magic::STATE, &state).unwrap();
    slot.resize(4096, 0);
    harness.fs.write_raw(harness.setup.state_path(), slot.repeat(2));
}

/// Segment 1 is sealed; the unsealed segment 2 holds acknowledged data and a mark, behind the part
/// of a key file that an open reads first. The process was killed.
fn killed() -> Harness {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    for value in [b"2", b"3"] {
        table.put(&[b'b'; 3000], value).unwrap();
        table.flush().unwrap();
    }
    drop(table);
    harness.fs.release_locks();
    harness
}

fn files(harness: &Harness) -> BTreeSet<PathBuf> {
    harness.fs.file_paths().into_iter().collect()
}

/// Readers and writers are refused, and no file changes.
fn refused(harness: &Harness, context: &str) -> Error {
    let before = files(harness);
    let read = Table::open_read_only(&harness.setup, &small()).map(drop).unwrap_err();
    let written = harness.open(&small()).map(drop).unwrap_err();
    assert_eq!(files(harness), before, "{context}");
    assert_eq!(read.kind(), written.kind(), "{context}: {read}; {written}");
    written
}

/// Every failing read makes the opening fail, however often it is repeated, and removes nothing.
fn check_failing_reads(harness: &Harness, context: &str) {
    let mut failures = 0;
    for fault in [Fault::Eio, Fault::TooManyFiles] {
        for n in 1.. {
            let harness = harness.after_crash(harness.fs.fork());
            let before = files(&harness);
            harness.fs.fail_read(n, fault);
            let opened = harness.open(&small()).map(drop);
            if harness.fs.faults_hit() == 0 {
                break;
            }
            failures += 1;
            assert!(opened.is_err(), "{context}: opened although read {n} failed");
            assert_eq!(files(&harness), before, "{context}: read {n}");
        }
    }
    assert!(failures > 8, "{context}: {failures}");
}

#[test]
fn a_read_that_fails_while_opening_discards_nothing() {
    // The metadata of segment 1 is lost, and the state has no recorded end for segment 2: the mark
    // in segment 2 decides.
    let harness = killed();
    set_state(&harness, |state| state.recorded_end = None);
    harness.fs.remove_raw(file("1.metadata"));
    assert_eq!(refused(&harness, "lost metadata").kind(), ErrorKind::Corrupt);
    check_failing_reads(&harness, "lost metadata");
    let harness = killed();
    set_state(&harness, |state| (state.empty, state.recorded_end) = (true, None));
    harness.fs.remove_raw(file("1.metadata"));
    assert_eq!(refused(&harness, "an old state").kind(), ErrorKind::Corrupt);
    check_failing_reads(&harness, "an old state");
    // Another table's segment below the watermark.
    let harness = killed();
    set_state(&harness, |state| {
        (state.table_id, state.watermark) = (state.table_id ^ 1, SegmentId(3));
    });
    assert_eq!(refused(&harness, "another state").kind(), ErrorKind::Foreign);
    check_failing_reads(&harness, "another state");
}

#[test]
fn lost_newest_segments_are_refused() {
    for is_closed in [false, true] {
        let harness = Harness::new(1);
        let table = harness.create_and_open(&small());
        for n in 0..10 {
            table.put(format!("key-{n}").as_bytes(), &[n; 30]).unwrap();
        }
        table.flush().unwrap();
        if is_closed {
            table.close().unwrap();
        }
        drop(table);
        harness.fs.release_locks();
        let recorded = state(&harness).recorded_end.unwrap();
        assert_eq!(recorded.segment, SegmentId(3));
        let lost = harness.after_crash(harness.fs.fork());
        for name in ["2.metadata", "3.keys", "3-0.values"] {
            lost.fs.remove_raw(file(name));
        }
        let error = refused(&lost, "the newest is lost");
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains(&file("3.keys")), "{error}");
        assert!(error.to_string().contains("segment 3"), "{error}");
        // The metadata alone is lost: the next segment was acknowledged.
        let lost = harness.after_crash(harness.fs.fork());
        lost.fs.remove_raw(file("2.metadata"));
        let error = refused(&lost, "the metadata is lost");
        assert!(error.to_string().contains(&file("2.metadata")), "{error}");
    }
}

#[test]
fn first_segment_is_durable_before_its_first_put() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    assert!(state(&harness).recorded_end.is_none());
    table.put(b"a", b"1").unwrap();
    drop(table);
    harness.fs.release_locks();
    let recorded = state(&harness).recorded_end.unwrap();
    assert_eq!((recorded.segment, recorded.key_end), (SegmentId(1), 64));
    harness.fs.remove_raw(file("1.keys"));
    assert_eq!(refused(&harness, "the first is lost").kind(), ErrorKind::Missing);
}

#[test]
fn two_unnamed_segments_are_refused() {
    for is_empty in [false, true] {
        let harness = if is_empty { Harness::new(1) } else { killed() };
        if is_empty {
            harness.create().unwrap();
        }
        set_state(&harness, |state| state.highest_id = SegmentId(20));
        for name in ["7.keys", "7-0.values"] {
            harness.fs.write_raw(file(name), vec![7; 100]);
        }
        let one = harness.after_crash(harness.fs.fork());
        one.open(&small()).unwrap();
        assert!(!files(&one).contains(&PathBuf::from(file("7.keys"))));
        // Reappeared files of an id that was discarded do not count.
        one.fs.release_locks();
        one.fs.write_raw(file("7.keys"), vec![7; 100]);
        one.fs.write_raw(file("20.keys"), vec![7; 100]);
        one.open(&small()).unwrap();
        harness.fs.write_raw(file("8-0.values"), vec![7; 100]);
        let error = refused(&harness, "two of them");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("segments 7 and 8"), "{error}");
    }
}

#[test]
fn stale_state_is_refused() {
    let harness = Harness::new(1);
    harness.create().unwrap();
    let mut ages = vec![harness.fs.read_raw(harness.setup.state_path())];
    let table = harness.open(&small()).unwrap();
    let mut known = Vec::new();
    for n in 0..4 {
        table.put(&[n], b"value").unwrap();
        table.seal().unwrap();
        ages.push(harness.fs.read_raw(harness.setup.state_path()));
        known.push((state(&harness).highest_id, state(&harness).recorded_end.unwrap().segment));
    }
    // The state is ahead by one id: a roll-over waits for a state write only where ids jump.
    assert_eq!(known, [2, 3, 4, 5].map(|id| (SegmentId(id + 1), SegmentId(id))));
    drop(table);
    harness.fs.release_locks();
    let newest = ages.len() - 1;
    for (age, bytes) in ages.into_iter().enumerate() {
        let old = harness.after_crash(harness.fs.fork());
        old.fs.write_raw(old.setup.state_path(), bytes);
        // The second-newest state lacks only a recorded end that the segments imply without it.
        if age + 1 >= newest {
            let table = old.open(&small()).unwrap();
            assert!((0..4).all(|n: u8| table.get(&[n]).unwrap().is_some()));
            continue;
        }
        let error = refused(&old, "an old state");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn hard_linked_state_is_replaced_not_written() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    let mut copies = Vec::new();
    for n in 0..4 {
        let copy = format!("/r0/copy-{n}");
        harness.fs.hard_link(&harness.setup.state_path(), copy.as_ref()).unwrap();
        copies.push((harness.fs.read_raw(&copy), copy));
        table.put(&[n], b"value").unwrap();
        table.seal().unwrap();
        assert_eq!(state(&harness).recorded_end.unwrap().segment, SegmentId(u32::from(n) + 2));
    }
    table.close().unwrap();
    drop(table);
    harness.fs.release_locks();
    for (before, copy) in &copies {
        assert_eq!(harness.fs.read_raw(copy), *before, "{copy}");
    }
    // The last write went durably into the file of that name.
    let written = state(&harness);
    let after = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    assert_eq!(state(&after), written);
    assert_eq!(after.open(&small()).unwrap().get(&[3]).unwrap().unwrap(), b"value");
    // On a full disk that fails with an error that says why.
    after.fs.release_locks();
    let full = harness.after_crash(harness.fs.fork());
    full.fs.hard_link(&full.setup.state_path(), "/r0/copy".as_ref()).unwrap();
    full.fs.set_capacity(Some(0));
    let error = full.open(&small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(error.to_string().contains("hard link"), "{error}");
}

#[test]
fn a_lone_replacement_proves_nothing() {
    let harness = killed();
    harness.fs.write_raw(file("9.keys.new"), vec![7; 100]);
    harness.fs.write_raw(file("9.metadata.new"), vec![7; 100]);
    let table = harness.open(&small()).unwrap();
    assert_eq!(table.get(&[b'b'; 3000]).unwrap().unwrap(), b"3");
    assert!(state(&harness).next_id_floor < SegmentId(9));
    let harness = Harness::new(1);
    harness.create().unwrap();
    harness.fs.write_raw(file("9.keys.new"), vec![7; 100]);
    harness.open(&small()).unwrap();
    assert_eq!(state(&harness).next_id_floor, SegmentId(1));
    assert!(!files(&harness).contains(&PathBuf::from(file("9.keys.new"))));
}

#[test]
fn quarantine_is_not_an_interrupted_drop() {
    for name in ["1.keys", "2.metadata", "1-0.values", "table.state"] {
        let harness = Harness::new(2);
        harness.create().unwrap();
        let kept = format!("/r1/t/damaged-123/{name}");
        harness.fs.write_raw(&kept, vec![1, 2, 3]);
        assert_eq!(presence(&harness.fs, &harness.setup.dirs).unwrap(), Presence::Present);
        harness.fs.remove_raw(harness.setup.state_path());
        let error = presence(&harness.fs, &harness.setup.dirs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains(&kept), "{error}");
    }
}

#[test]
fn a_drop_leaves_other_files_of_a_damaged_directory() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    for name in ["1.keys", "3-0.values", "2.metadata", "table.state", "notes.txt", "1.keys.bak"] {
        harness.fs.write_raw(format!("/r0/t/damaged-123/{name}"), vec![7]);
    }
    harness.fs.write_raw("/r0/t/damaged-by-me/1.keys", vec![7]);
    table.begin_drop().unwrap();
    Table::remove(&harness.setup).unwrap();
    let left = ["/damaged-123/1.keys.bak", "/damaged-123/notes.txt", "/damaged-by-me/1.keys"];
    let left = left.map(|name| PathBuf::from(format!("/r0/t{name}")));
    assert_eq!(files(&harness), BTreeSet::from(left));
    assert_eq!(presence(&harness.fs, &harness.setup.dirs).unwrap(), Presence::Interrupted);
    harness.create_and_open(&small());
}
