//! Files that are there and should not be, or belong to another table: what an opening removes, and what it leaves alone.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use lithdb_env::ErrorKind;
use lithdb_repair::verify;
use lithdb_segment::envelope::{Magic, open_file, seal};
use lithdb_segment::{Metadata, SegmentId};
use lithdb_sim::{SimClock, SimFs};
use lithdb_table::state::{TableState, read_state};
use lithdb_table::{Presence, Table, TableOptions, presence};
use support::files::files_agree;
use support::{DAY, World, small};

fn file(name: &str) -> String {
    format!("/r0/t/segments/{name}")
}

/// Segments 1, 3, 4 (sealed) and 5: the id 2 was discarded once.
fn with_a_gap() -> World {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.close().unwrap();
    drop(table);
    // As after a kill: the id of the next segment was made known before it was begun.
    set_state(&world, |state| (state.highest_id, state.ends_with_tail) = (SegmentId(2), false));
    world.fs.write_raw(file("2.keys"), vec![7; 100]);
    let table = world.open(&small()).unwrap();
    for key in [b"b", b"c", b"d"] {
        table.seal().unwrap();
        table.put(key, b"2").unwrap();
    }
    table.flush().unwrap();
    let read = files_agree(&table, &world, "with a gap");
    let ids: Vec<u32> = read.segments.iter().map(|s| s.keys.header.segment).collect();
    assert_eq!(ids, [1, 3, 4, 5]);
    drop(table);
    world
}

fn set_state(world: &World, change: impl FnOnce(&mut TableState)) {
    let path = world.setup.state_path();
    let mut state = read_state(&world.fs, &path).unwrap().state;
    change(&mut state);
    let mut slot = seal(Magic::STATE, &state).unwrap();
    slot.resize(4096, 0);
    world.fs.write_raw(&path, [&slot[..], &slot[..]].concat());
}

#[test]
fn what_was_discarded_between_sealed_segments_and_came_back_is_discarded_again() {
    let world = with_a_gap();
    world.fs.write_raw(file("2.keys"), vec![7; 100]);
    world.fs.write_raw(file("2-0.values"), vec![7; 100]);
    let table = world.open(&small()).unwrap();
    let read = files_agree(&table, &world, "opened");
    assert_eq!(read.records.len(), 4);
    assert_eq!(
        world.fs.file_paths().iter().filter(|p| p.to_str().unwrap().contains("/2")).count(),
        0
    );
}

#[test]
fn what_stands_between_sealed_segments_under_an_id_that_may_still_be_given_is_an_error() {
    let world = with_a_gap();
    set_state(&world, |state| state.next_id_floor = SegmentId(2));
    world.fs.write_raw(file("2.keys"), vec![7; 100]);
    let error = world.open(&small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&file("2.keys")), "{error}");
    assert_eq!(world.fs.read_raw(file("2.keys")), vec![7; 100]);
    let report = verify(&world.setup, &mut |_| {}).unwrap();
    assert!(report.to_string().contains("no segment names this one"), "{report}");
    // What the chain goes on with is named if it is that which is missing.
    world.fs.remove_raw(file("3.keys"));
    world.fs.remove_raw(file("3-0.values"));
    world.fs.remove_raw(file("3.metadata"));
    let error = world.open(&small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(error.to_string().contains(&file("3.keys")), "{error}");
}

/// The word of a state alone removes nothing: what lies below its watermark must be of its table.
#[test]
fn a_segment_of_another_table_below_the_watermark_is_refused_and_stays() {
    let options = small().ttl(Duration::from_secs(60)).segment_age(DAY);
    let build = |seed: u64| {
        let fs = SimFs::new();
        fs.make_dirs("/r0");
        let world = World::on(fs, SimClock::new(seed), 1);
        let table = world.create_and_open(&options);
        table.put(b"a", b"1").unwrap();
        table.seal().unwrap();
        let keys = world.fs.read_raw(file("1.keys"));
        world.clock.advance(Duration::from_secs(61));
        assert_eq!(table.run_gc().unwrap().segments, 1);
        table.close().unwrap();
        (world, keys)
    };
    let ((world, own), (_, other)) = (build(1), build(2));
    world.fs.write_raw(file("1.keys"), other.clone());
    let error = world.open(&options).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains(&file("1.keys")), "{error}");
    assert_eq!(world.fs.read_raw(file("1.keys")), other);
    // Its own, which came back, is removed again.
    world.fs.write_raw(file("1.keys"), own);
    let table = world.open(&options).unwrap();
    files_agree(&table, &world, "opened");
}

#[test]
fn segments_without_a_state_are_not_taken_for_an_interrupted_creation() {
    let world = World::new(2);
    let table = world.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.close().unwrap();
    drop(table);
    let dirs = &world.setup.dirs;
    assert_eq!(presence(&world.fs, dirs).unwrap(), Presence::Present);
    world.fs.remove_raw(world.setup.state_path());
    let error = presence(&world.fs, dirs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    for named in ["/r0/t/table.state", "/r0/t/segments/1"] {
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn a_table_that_is_being_dropped_is_not_there_for_readers() {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.begin_drop().unwrap();
    let opened = Table::open_read_only(&world.setup, &small()).map(drop);
    for refused in [opened, verify(&world.setup, &mut |_| {}).map(drop)] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains("being dropped"), "{error}");
    }
}

/// The files are on their way from one state to another: a reader keeps the view it has, and takes no new one.
#[test]
fn while_a_rollback_is_pending_a_reader_takes_no_view() {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.flush().unwrap();
    let reader = Table::open_read_only(&world.setup, &small()).unwrap();
    world.fs.write_raw("/r0/rollback.intent", vec![1]);
    let opened = Table::open_read_only(&world.setup, &small()).map(drop);
    for refused in [opened, reader.refresh()] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RollbackPending, "{error}");
        assert!(error.to_string().contains("/r0/rollback.intent"), "{error}");
    }
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"1");
    world.fs.remove_raw("/r0/rollback.intent");
    reader.refresh().unwrap();
}

#[test]
fn what_stands_behind_a_sealed_key_file_stays_whatever_its_seal() {
    let world = World::new(1);
    let table = world.create_and_open(&TableOptions::new());
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    table.close().unwrap();
    drop(table);
    let longer = [world.fs.read_raw(file("1.keys")), vec![0; 50]].concat();
    world.fs.write_raw(file("1.keys"), longer.clone());
    let sound = world.fs.read_raw(file("1.metadata"));
    // Of a later revision, so that the successor is not asked.
    let path = file("1.metadata");
    let mut metadata: Metadata = open_file(Magic::METADATA, Path::new(&path), &sound).unwrap();
    metadata.revision = 1;
    metadata.running ^= 1;
    world.fs.write_raw(&path, seal(Magic::METADATA, &metadata).unwrap());
    let error = world.open(&TableOptions::new()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(world.fs.read_raw(file("1.keys")), longer);
    world.fs.write_raw(&path, sound);
    let table = world.open(&TableOptions::new()).unwrap();
    assert_eq!(world.fs.read_raw(file("1.keys")), longer);
    files_agree(&table, &world, "longer than its seal says");
}
