//! What was promised, against what an opening finds: what does not fit is refused, and nothing of it goes away.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Fs};
use lithdb_segment::SegmentId;
use lithdb_segment::envelope::{Magic, seal};
use lithdb_sim::{CrashImage, Fault};
use lithdb_table::state::{TableState, read_state};
use lithdb_table::{Presence, Table, presence};
use support::{World, small};

fn file(name: &str) -> String {
    format!("/r0/t/segments/{name}")
}

fn state(world: &World) -> TableState {
    read_state(&world.fs, &world.setup.state_path()).unwrap().state
}

fn set_state(world: &World, change: impl FnOnce(&mut TableState)) {
    let mut state = state(world);
    change(&mut state);
    let mut slot = seal(Magic::STATE, &state).unwrap();
    slot.resize(4096, 0);
    world.fs.write_raw(world.setup.state_path(), slot.repeat(2));
}

/// Segment 1 is sealed; the unsealed segment 2 holds acknowledged data and a mark, behind more than is read of a key file
/// when it is opened. The process was killed.
fn killed() -> World {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    for value in [b"2", b"3"] {
        table.put(&[b'b'; 3000], value).unwrap();
        table.flush().unwrap();
    }
    drop(table);
    world.fs.release_locks();
    world
}

fn files(world: &World) -> BTreeSet<PathBuf> {
    world.fs.file_paths().into_iter().collect()
}

/// Refused by readers and writers, and everything is as it was.
fn refused(world: &World, context: &str) -> Error {
    let before = files(world);
    let read = Table::open_read_only(&world.setup, &small()).map(drop).unwrap_err();
    let written = world.open(&small()).map(drop).unwrap_err();
    assert_eq!(files(world), before, "{context}");
    assert_eq!(read.kind(), written.kind(), "{context}: {read}; {written}");
    written
}

/// However often an opening is asked, a read that fails makes it fail, and takes nothing away.
fn no_read_may_fail(world: &World, context: &str) {
    let mut failures = 0;
    for fault in [Fault::Eio, Fault::TooManyFiles] {
        for n in 1.. {
            let world = world.after_crash(world.fs.fork());
            let before = files(&world);
            world.fs.fail_read(n, fault);
            let opened = world.open(&small()).map(drop);
            if world.fs.faults_hit() == 0 {
                break;
            }
            failures += 1;
            assert!(opened.is_err(), "{context}: opened although read {n} failed");
            assert_eq!(files(&world), before, "{context}: read {n}");
        }
    }
    assert!(failures > 8, "{context}: {failures}");
}

#[test]
fn a_read_that_fails_while_opening_discards_nothing() {
    // The seal of segment 1 is lost, and the state is one that does not know of it: the mark in segment 2 speaks.
    let world = killed();
    set_state(&world, |state| state.durable_tail = None);
    world.fs.remove_raw(file("1.metadata"));
    assert_eq!(refused(&world, "a lost seal").kind(), ErrorKind::Corrupt);
    no_read_may_fail(&world, "a lost seal");
    let world = killed();
    set_state(&world, |state| (state.empty, state.durable_tail) = (true, None));
    world.fs.remove_raw(file("1.metadata"));
    assert_eq!(refused(&world, "an old state").kind(), ErrorKind::Corrupt);
    no_read_may_fail(&world, "an old state");
    // Another table's segment below the watermark.
    let world = killed();
    set_state(&world, |state| {
        (state.table_id, state.watermark) = (state.table_id ^ 1, SegmentId(3));
    });
    assert_eq!(refused(&world, "another state").kind(), ErrorKind::Foreign);
    no_read_may_fail(&world, "another state");
}

#[test]
fn lost_newest_segments_are_refused() {
    for is_closed in [false, true] {
        let world = World::new(1);
        let table = world.create_and_open(&small());
        for n in 0..10 {
            table.put(format!("key-{n}").as_bytes(), &[n; 30]).unwrap();
        }
        table.flush().unwrap();
        if is_closed {
            table.close().unwrap();
        }
        drop(table);
        world.fs.release_locks();
        let promised = state(&world).durable_tail.unwrap();
        assert_eq!(promised.segment, SegmentId(3));
        let lost = world.after_crash(world.fs.fork());
        for name in ["2.metadata", "3.keys", "3-0.values"] {
            lost.fs.remove_raw(file(name));
        }
        let error = refused(&lost, "the newest is lost");
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains(&file("3.keys")), "{error}");
        assert!(error.to_string().contains("segment 3"), "{error}");
        // The seal alone: what is behind it was acknowledged.
        let lost = world.after_crash(world.fs.fork());
        lost.fs.remove_raw(file("2.metadata"));
        let error = refused(&lost, "the seal is lost");
        assert!(error.to_string().contains(&file("2.metadata")), "{error}");
    }
}

#[test]
fn first_segment_is_promised_before_it_takes_a_put() {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    assert!(state(&world).durable_tail.is_none());
    table.put(b"a", b"1").unwrap();
    drop(table);
    world.fs.release_locks();
    let promised = state(&world).durable_tail.unwrap();
    assert_eq!((promised.segment, promised.key_end), (SegmentId(1), 64));
    world.fs.remove_raw(file("1.keys"));
    assert_eq!(refused(&world, "the first is lost").kind(), ErrorKind::Missing);
}

#[test]
fn two_segments_that_nothing_names_are_refused() {
    for is_empty in [false, true] {
        let world = if is_empty { World::new(1) } else { killed() };
        if is_empty {
            world.create().unwrap();
        }
        set_state(&world, |state| state.highest_id = SegmentId(20));
        for name in ["7.keys", "7-0.values"] {
            world.fs.write_raw(file(name), vec![7; 100]);
        }
        let one = world.after_crash(world.fs.fork());
        one.open(&small()).unwrap();
        assert!(!files(&one).contains(&PathBuf::from(file("7.keys"))));
        // What came back of an id that was discarded before does not count.
        one.fs.release_locks();
        one.fs.write_raw(file("7.keys"), vec![7; 100]);
        one.fs.write_raw(file("20.keys"), vec![7; 100]);
        one.open(&small()).unwrap();
        world.fs.write_raw(file("8-0.values"), vec![7; 100]);
        let error = refused(&world, "two of them");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("segments 7 and 8"), "{error}");
    }
}

#[test]
fn a_state_older_than_the_segments_is_refused() {
    let world = World::new(1);
    world.create().unwrap();
    let mut ages = vec![world.fs.read_raw(world.setup.state_path())];
    let table = world.open(&small()).unwrap();
    let mut known = Vec::new();
    for n in 0..4 {
        table.put(&[n], b"value").unwrap();
        table.seal().unwrap();
        ages.push(world.fs.read_raw(world.setup.state_path()));
        known.push((state(&world).highest_id, state(&world).durable_tail.unwrap().segment));
    }
    // The state is ahead by one id: a roll-over waits for it only where ids leap.
    assert_eq!(known, [2, 3, 4, 5].map(|id| (SegmentId(id + 1), SegmentId(id))));
    drop(table);
    world.fs.release_locks();
    let newest = ages.len() - 1;
    for (age, bytes) in ages.into_iter().enumerate() {
        let old = world.after_crash(world.fs.fork());
        old.fs.write_raw(old.setup.state_path(), bytes);
        // Of the last age but one nothing is missing but a promise that the segments keep without it.
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
fn a_state_that_somebody_links_to_is_replaced() {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    let mut copies = Vec::new();
    for n in 0..4 {
        let copy = format!("/r0/copy-{n}");
        world.fs.hard_link(&world.setup.state_path(), copy.as_ref()).unwrap();
        copies.push((world.fs.read_raw(&copy), copy));
        table.put(&[n], b"value").unwrap();
        table.seal().unwrap();
        assert_eq!(state(&world).durable_tail.unwrap().segment, SegmentId(u32::from(n) + 2));
    }
    table.close().unwrap();
    drop(table);
    world.fs.release_locks();
    for (before, copy) in &copies {
        assert_eq!(world.fs.read_raw(copy), *before, "{copy}");
    }
    // What was written last went into the file that has the name, durably.
    let written = state(&world);
    let after = world.after_crash(world.fs.crash_with(&CrashImage::Nothing));
    assert_eq!(state(&after), written);
    assert_eq!(after.open(&small()).unwrap().get(&[3]).unwrap().unwrap(), b"value");
    // On a full disk that is not possible, and says why.
    after.fs.release_locks();
    let full = world.after_crash(world.fs.fork());
    full.fs.hard_link(&full.setup.state_path(), "/r0/copy".as_ref()).unwrap();
    full.fs.set_capacity(Some(0));
    let error = full.open(&small()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(error.to_string().contains("links to"), "{error}");
}

#[test]
fn a_lone_replacement_proves_nothing() {
    let world = killed();
    world.fs.write_raw(file("9.keys.new"), vec![7; 100]);
    world.fs.write_raw(file("9.metadata.new"), vec![7; 100]);
    let table = world.open(&small()).unwrap();
    assert_eq!(table.get(&[b'b'; 3000]).unwrap().unwrap(), b"3");
    assert!(state(&world).next_id_floor < SegmentId(9));
    let world = World::new(1);
    world.create().unwrap();
    world.fs.write_raw(file("9.keys.new"), vec![7; 100]);
    world.open(&small()).unwrap();
    assert_eq!(state(&world).next_id_floor, SegmentId(1));
    assert!(!files(&world).contains(&PathBuf::from(file("9.keys.new"))));
}

#[test]
fn what_a_repair_kept_is_no_interrupted_drop() {
    for name in ["1.keys", "2.metadata", "1-0.values", "table.state"] {
        let world = World::new(2);
        world.create().unwrap();
        let kept = format!("/r1/t/damaged-123/{name}");
        world.fs.write_raw(&kept, vec![1, 2, 3]);
        assert_eq!(presence(&world.fs, &world.setup.dirs).unwrap(), Presence::Present);
        world.fs.remove_raw(world.setup.state_path());
        let error = presence(&world.fs, &world.setup.dirs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains(&kept), "{error}");
    }
}

#[test]
fn a_drop_leaves_other_files_of_a_damaged_directory() {
    let world = World::new(1);
    let table = world.create_and_open(&small());
    table.put(b"a", b"1").unwrap();
    for name in ["1.keys", "3-0.values", "2.metadata", "table.state", "notes.txt", "1.keys.bak"] {
        world.fs.write_raw(format!("/r0/t/damaged-123/{name}"), vec![7]);
    }
    world.fs.write_raw("/r0/t/damaged-by-me/1.keys", vec![7]);
    table.begin_drop().unwrap();
    Table::remove(&world.setup).unwrap();
    let left = ["/damaged-123/1.keys.bak", "/damaged-123/notes.txt", "/damaged-by-me/1.keys"];
    let left = left.map(|name| PathBuf::from(format!("/r0/t{name}")));
    assert_eq!(files(&world), BTreeSet::from(left));
    assert_eq!(presence(&world.fs, &world.setup.dirs).unwrap(), Presence::Interrupted);
    world.create_and_open(&small());
}
