//! Unexpected files, and files of another table: what an open removes, and what it leaves alone.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use lithdb_env::ErrorKind;
use lithdb_repair::verify;
use lithdb_segment::envelope::{Magic, decode_file, encode};
use lithdb_segment::{Metadata, SegmentId};
use lithdb_sim::{SimClock, SimFs};
use lithdb_table::state::{TableState, read_state};
use lithdb_table::{Presence, Table, TableOptions, presence};
use support::oracle::assert_matches_oracle;
use support::{DAY, Harness, small};

fn file(name: &str) -> String {
    format!("/r0/t/segments/{name}")
}

/// Segments 1, 3, 4 (sealed) and 5: the id 2 was discarded.
fn with_a_gap() -> Harness {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.close().unwrap();
    drop(table);
    // As after a kill: the id of the next segment was recorded before the segment was begun.
    set_state(&harness, |state| (state.highest_id, state.closed_cleanly) = (SegmentId(2), false));
    harness.fs.write_raw(file("2.keys"), vec![7; 100]);
    let table = harness.open(&small()).unwrap();
    for key in [b"b", b"c", b"d"] {
        table.seal().unwrap();
        table.put(key, b"2").unwrap();
    }
    table.flush().unwrap();
    let read = assert_matches_oracle(&table, &harness, "with a gap");
    let ids: Vec<u32> = read.segments.iter().map(|s| s.keys.header.segment).collect();
    assert_eq!(ids, [1, 3, 4, 5]);
    drop(table);
    harness
}

fn set_state(harness: &Harness, change: impl FnOnce(&mut TableState)) {
    let path = harness.setup.state_path();
    let mut state = read_state(&harness.fs, &path).unwrap().state;
    change(&mut state);
    let mut slot = encode(Magic::STATE, &state).unwrap();
    slot.resize(4096, 0);
    harness.fs.write_raw(&path, [&slot[..], &slot[..]].concat());
}

#[test]
fn reappeared_orphan_between_sealed_segments_is_discarded() {
    let harness = with_a_gap();
    harness.fs.write_raw(file("2.keys"), vec![7; 100]);
    harness.fs.write_raw(file("2-0.values"), vec![7; 100]);
    let table = harness.open(&small()).unwrap();
    let read = assert_matches_oracle(&table, &harness, "opened");
    assert_eq!(read.records.len(), 4);
    assert_eq!(
        harness.fs.file_paths().iter().filter(|p| p.to_str().unwrap().contains("/2")).count(),
        0
    );
}

#[test]
fn orphan_at_or_above_the_id_floor_is_an_error() {
    let harness = with_a_gap();
    set_state(&harness, |state| state.next_id_floor = SegmentId(2));
    harness.fs.write_raw(file("2.keys"), vec![7; 100]);
    let error = harness.open(&small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&file("2.keys")), "{error}");
    assert_eq!(harness.fs.read_raw(file("2.keys")), vec![7; 100]);
    let report = verify(&harness.setup, &mut |_| {}).unwrap();
    assert!(report.to_string().contains("no segment names this one"), "{report}");
    // If the next segment of the chain is missing, the error names it.
    harness.fs.remove_raw(file("3.keys"));
    harness.fs.remove_raw(file("3-0.values"));
    harness.fs.remove_raw(file("3.metadata"));
    let error = harness.open(&small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(error.to_string().contains(&file("3.keys")), "{error}");
}

/// The state alone removes nothing: files below its watermark must belong to its table.
#[test]
fn foreign_segment_below_the_watermark_is_refused_and_kept() {
    let options = small().ttl(Duration::from_secs(60)).segment_age(DAY);
    let build = |seed: u64| {
        let fs = SimFs::new();
        fs.make_dirs("/r0");
        let harness = Harness::on(fs, SimClock::new(seed), 1);
        let table = harness.create_and_open(&options);
        table.put(b"a", b"1").unwrap();
        table.seal().unwrap();
        let keys = harness.fs.read_raw(file("1.keys"));
        harness.clock.advance(Duration::from_secs(61));
        assert_eq!(table.run_gc().unwrap().segments, 1);
        table.close().unwrap();
        (harness, keys)
    };
    let ((harness, own), (_, other)) = (build(1), build(2));
    harness.fs.write_raw(file("1.keys"), other.clone());
    let error = harness.open(&options).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains(&file("1.keys")), "{error}");
    assert_eq!(harness.fs.read_raw(file("1.keys")), other);
    // A reappeared segment of the table itself is removed again.
    harness.fs.write_raw(file("1.keys"), own);
    let table = harness.open(&options).unwrap();
    assert_matches_oracle(&table, &harness, "opened");
}

#[test]
fn segments_without_state_are_not_an_interrupted_create() {
    let harness = Harness::new(2);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.close().unwrap();
    drop(table);
    let dirs = &harness.setup.dirs;
    assert_eq!(presence(&harness.fs, dirs).unwrap(), Presence::Present);
    harness.fs.remove_raw(harness.setup.state_path());
    let error = presence(&harness.fs, dirs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    for named in ["/r0/t/table.state", "/r0/t/segments/1"] {
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn table_being_dropped_is_missing_for_readers() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.begin_drop().unwrap();
    let opened = Table::open_read_only(&harness.setup, &small()).map(drop);
    for refused in [opened, verify(&harness.setup, &mut |_| {}).map(drop)] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains("being dropped"), "{error}");
    }
}

/// The files are between two states: a reader keeps its view and takes no new one.
#[test]
fn while_a_rollback_is_pending_a_reader_takes_no_view() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.flush().unwrap();
    let reader = Table::open_read_only(&harness.setup, &small()).unwrap();
    harness.fs.write_raw("/r0/rollback.intent", vec![1]);
    let opened = Table::open_read_only(&harness.setup, &small()).map(drop);
    for refused in [opened, reader.refresh()] {
        let error = refused.unwrap_err();
        assert!(error.is_rollback_pending(), "{error}");
        assert!(error.to_string().contains("/r0/rollback.intent"), "{error}");
    }
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"1");
    harness.fs.remove_raw("/r0/rollback.intent");
    reader.refresh().unwrap();
}

#[test]
fn bytes_after_a_sealed_key_file_are_kept() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&TableOptions::new());
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    table.close().unwrap();
    drop(table);
    let longer = [harness.fs.read_raw(file("1.keys")), vec![0; 50]].concat();
    harness.fs.write_raw(file("1.keys"), longer.clone());
    let sound = harness.fs.read_raw(file("1.metadata"));
    // A later revision, so that the successor is not compared.
    let path = file("1.metadata");
    let mut metadata: Metadata = decode_file(Magic::METADATA, Path::new(&path), &sound).unwrap();
    metadata.revision = 1;
    metadata.running ^= 1;
    harness.fs.write_raw(&path, encode(Magic::METADATA, &metadata).unwrap());
    let error = harness.open(&TableOptions::new()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(harness.fs.read_raw(file("1.keys")), longer);
    harness.fs.write_raw(&path, sound);
    let table = harness.open(&TableOptions::new()).unwrap();
    assert_eq!(harness.fs.read_raw(file("1.keys")), longer);
    assert_matches_oracle(&table, &harness, "longer than its metadata records");
}
