//! Rolling back: what stays, what goes, and that the database goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use lithdb::rollback::{Action, PerTable, max_be_u64, through_key};
use lithdb::{DuplicateKeys, NoMatch, TableOptions};
use lithdb_env::Clock;
use lithdb_segment::{Metadata, SegmentId};
use lithdb_sim::CrashImage;
use lithdb_table::state::read_state;
use support::past::{
    self, Contents, Identities, Keep, check_files, check_gone, contents, contents_of, cut, fork,
    goes_on, height, put_batch, put_group, put_groups, roll_back, rollback,
};
use support::{World, small};

fn database(make: impl FnOnce(&lithdb::Db)) -> World {
    let world = World::new();
    let db = world.open();
    make(&db);
    db.close().unwrap();
    drop(db);
    world
}

/// Rolls back, compares with the model, and goes on. Returns the world as it was right behind the rollback.
fn check(world: &World, keep: Keep<'_>, no_match: NoMatch, context: &str) -> World {
    let old = contents_of(world);
    let new = cut(&old, keep, no_match);
    let mut identities = Identities::of(world);
    let report = roll_back(world, keep, no_match);
    for table in &report.tables {
        let (old, new) = (&old[table.table.as_str()], &new[table.table.as_str()]);
        assert_eq!(table.discarded.records as usize, old.len() - new.len(), "{context}: {report}");
        let values = old[new.len()..].iter().filter(|(_, is_primary, _)| *is_primary);
        assert_eq!(table.discarded.values as usize, values.clone().count(), "{context}");
        let bytes: usize = values.map(|(_, _, value)| value.len()).sum();
        assert_eq!(table.discarded.bytes as usize, bytes, "{context}");
    }
    identities.agree_with(Identities::of(world), context);
    let behind = fork(world);
    let db = world.open();
    assert!(contents(&db, context) == new, "{context}: not what must stay");
    check_gone(&db, &old, &new, context);
    db.close().unwrap();
    drop(db);
    check_files(world, context);
    goes_on(world, &old, &new, context);
    behind
}

fn metadata(world: &World, table: &str, segment: u32) -> Metadata {
    let path = format!("/r0/{table}/segments/{segment}.metadata");
    Metadata::read(&world.fs, path.as_ref()).unwrap()
}

/// Batches, groups and lone keys, in several segments; two tables that are not alike.
fn history() -> World {
    database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, 0..5);
        put_batch(&table, 5..9);
        table.flush().unwrap();
        put_groups(&table, 9..12);
        put_batch(&table, 12..15);
        let other = db.table("u", small().segment_keys(7)).unwrap();
        put_batch(&other, 0..3);
        put_groups(&other, 3..15);
    })
}

#[test]
fn every_record_of_two_tables_as_the_boundary() {
    let world = history();
    let old = contents_of(&world);
    let keys: Vec<Vec<u8>> = old["t"].iter().map(|(key, _, _)| key.clone()).collect();
    let (mut split_batches, mut ends) = (0, 0);
    for key in keys {
        let name = String::from_utf8_lossy(&key).into_owned();
        let boundary = key.as_slice();
        let keep: Keep<'_> = &|table, key, _| match table {
            "t" => key == boundary,
            _ => height(key) <= height(boundary),
        };
        let world = fork(&world);
        let last = past::plan(&world, keep, NoMatch::Refuse).unwrap();
        let plan = &last.tables[0];
        split_batches += u32::from(matches!(height(&key), 5..8 | 12..14));
        ends += u32::from(plan.action == Action::Cut && plan.segment_cut.is_none());
        check(&world, keep, NoMatch::Refuse, &name);
    }
    assert!(split_batches > 6 && ends > 2, "{split_batches} {ends}");
}

#[test]
fn boundaries_on_the_first_and_on_the_last_record_of_each_segment() {
    let world = database(|db| put_groups(&db.table("t", small()).unwrap(), (1..40).step_by(2)));
    // Four lone keys to a segment: 1 3 5 7, 9 …
    for (last, is_end) in
        [(1_u64, false), (7, true), (9, false), (15, true), (17, false), (33, false)]
    {
        let world = fork(&world);
        let plan = rollback(&world).plan(through_key(format!("h:{last}"))).unwrap();
        assert_eq!(plan.tables[0].segment_cut.is_none(), is_end, "{last}: {plan}");
        plan.execute().unwrap();
        let db = world.open();
        let found = contents(&db, "");
        assert_eq!(found["t"].len() as u64, last.div_ceil(2));
        assert_eq!(height(&found["t"].last().unwrap().0), last);
    }
}

#[test]
fn a_secondary_key_keeps_its_whole_group() {
    for (kept, last) in [("whole:4", "part:4"), ("part:4", "part:4"), ("h:4", "part:4")] {
        let world = history();
        let plan = rollback(&world).tables(["t"]).plan(through_key(kept)).unwrap();
        assert_eq!(plan.tables[0].boundary.as_ref().unwrap().key, kept.as_bytes());
        plan.execute().unwrap();
        let found = contents_of(&world);
        assert_eq!(found["t"].last().unwrap().0, last.as_bytes());
        assert_eq!(found["u"].last().unwrap().0, b"part:14", "it was left out");
    }
}

#[test]
fn a_cut_inside_of_a_batch_leaves_a_file_that_holds() {
    let world = database(|db| {
        let table = db.table("t", small().segment_keys(20)).unwrap();
        put_batch(&table, 0..12);
        table.seal().unwrap();
        put_group(&table, 12);
    });
    for last in 0..12 {
        let world = fork(&world);
        rollback(&world).plan(through_key(format!("h:{last}"))).unwrap().execute().unwrap();
        let found = contents_of(&world);
        assert_eq!(height(&found["t"].last().unwrap().0), last);
        check_files(&world, &format!("cut behind {last}"));
        assert_eq!(
            metadata(&world, "t", 1).revision,
            u32::from(last != 11) + u32::from(last == 11)
        );
    }
}

#[test]
fn nothing_to_discard_changes_nothing() {
    let world = history();
    let before = past::image(&world.fs);
    let keep: Keep<'_> = &|_, _, _| true;
    let plan = past::plan(&world, keep, NoMatch::Refuse).unwrap();
    assert!(plan.is_empty() && plan.tables.iter().all(|t| t.action == Action::Nothing));
    let report = plan.execute().unwrap();
    assert!(report.decided.is_none() && report.tables.len() == 2);
    assert!(past::image(&world.fs) == before);
    check(&world, keep, NoMatch::Refuse, "nothing to discard");
}

#[test]
fn a_table_that_keeps_nothing_is_refused_kept_or_emptied() {
    let nothing: Keep<'_> = &|table, _, _| table != "t";
    let world = history();
    let before = past::image(&world.fs);
    let refused = past::plan(&world, nothing, NoMatch::Refuse).unwrap_err();
    assert_eq!(refused.kind(), lithdb::ErrorKind::InvalidArgument);
    assert!(refused.to_string().contains("table t:"), "{refused}");
    assert!(past::image(&world.fs) == before);
    let kept = fork(&world);
    let report = roll_back(&kept, nothing, NoMatch::Keep);
    assert_eq!(report.tables[0].action, Action::Keep);
    check(&kept, nothing, NoMatch::Keep, "kept");
    let report = roll_back(&fork(&world), nothing, NoMatch::Clear);
    assert_eq!(report.tables[0].action, Action::Clear);
    check(&world, nothing, NoMatch::Clear, "emptied");
}

#[test]
fn a_table_that_is_all_newer_is_emptied_beside_others_that_are_cut() {
    let keep: Keep<'_> = &|_, key, _| height(key) <= 9;
    let world = history();
    let db = world.open();
    put_groups(&db.table("newer", small()).unwrap(), 10..30);
    db.table("empty", small()).unwrap();
    db.close().unwrap();
    drop(db);
    let refused = past::plan(&world, keep, NoMatch::Refuse).unwrap_err().to_string();
    assert!(refused.contains("table newer:"), "empty is not named: {refused}");
    let behind = check(&world, keep, NoMatch::Clear, "beside others");
    let state = read_state(&behind.fs, "/r0/newer/table.state".as_ref()).unwrap().state;
    assert!(state.empty && state.watermark == state.next_id_floor && state.watermark.0 > 5);
    assert!(behind.files("/newer/segments/").is_empty());
}

#[test]
fn tables_with_different_keys_have_a_filter_each() {
    let world = World::new();
    let db = world.open();
    let tables = ["blocks", "receipts", "votes"].map(|name| db.table(name, small()).unwrap());
    for n in 0..20_u64 {
        tables[0].put(&[b"b".as_slice(), &n.to_be_bytes()].concat(), b"block").unwrap();
        tables[1].put(format!("r:{n}").as_bytes(), b"receipt").unwrap();
        tables[2].put(&n.to_be_bytes(), b"vote").unwrap();
    }
    db.close().unwrap();
    drop((tables, db));
    let filter =
        || PerTable::new().table("blocks", max_be_u64(1, 7)).table("receipts", through_key(b"r:9"));
    let missing = rollback(&world).plan(filter().into_filter()).unwrap_err().to_string();
    assert!(missing.contains("table votes: no filter"), "{missing}");
    let plan = rollback(&world).plan(filter().otherwise(max_be_u64(0, 3)).into_filter()).unwrap();
    plan.execute().unwrap();
    let db = world.open();
    let found = contents(&db, "");
    let counts = found.iter().map(|(name, records)| (name.as_str(), records.len()));
    assert_eq!(counts.collect::<Vec<_>>(), [("blocks", 8), ("receipts", 10), ("votes", 4)]);
}

#[test]
fn the_older_value_of_a_key_that_was_put_twice_shows_again() {
    let options = || small().duplicate_keys(DuplicateKeys::default());
    let world = database(|db| {
        let table = db.table("t", options()).unwrap();
        for n in 0..30_u64 {
            table.put(format!("k:{}", n % 4).as_bytes(), format!("value {n}").as_bytes()).unwrap();
            table.put(format!("mark:{n}").as_bytes(), b"").unwrap();
        }
    });
    for last in [3_u64, 7, 12, 21, 29] {
        let world = fork(&world);
        rollback(&world).plan(through_key(format!("mark:{last}"))).unwrap().execute().unwrap();
        let db = world.open();
        let table = db.table("t", options()).unwrap();
        for key in 0..4 {
            let newest = (0..=last).rev().find(|n| n % 4 == key).unwrap();
            let got = table.get(format!("k:{key}").as_bytes()).unwrap().unwrap();
            assert_eq!(*got, *format!("value {newest}").as_bytes());
        }
        contents(&db, "duplicates");
    }
}

#[test]
fn a_cut_segment_has_the_next_revision_another_digest_and_the_seal_time_it_had() {
    let world = database(|db| put_groups(&db.table("t", small()).unwrap(), (1..40).step_by(2)));
    world.clock.advance(Duration::from_secs(3600));
    let before = metadata(&world, "t", 2);
    let values =
        world.files("/2-").iter().map(|p| (p.clone(), world.fs.read_raw(p))).collect::<Vec<_>>();
    roll_back(&world, &|_, key, _| height(key) <= 13, NoMatch::Refuse);
    let after = metadata(&world, "t", 2);
    assert_eq!((before.records, after.records), (4, 3));
    assert_eq!((before.revision, after.revision), (0, 1));
    assert!(after.digest.is_some() && after.digest != before.digest);
    assert_eq!(after.last_write, before.last_write);
    assert_eq!((after.created, after.salt), (before.created, before.salt));
    let bytes = world.fs.read_raw("/r0/t/segments/2.keys");
    assert_eq!(bytes.len() as u64, after.key_end);
    assert!(after.value_ends.iter().sum::<u64>() < before.value_ends.iter().sum());
    for (path, bytes) in &values {
        assert!(world.fs.read_raw(path) == *bytes, "{path}: somebody may hold its bytes");
    }
    // And once more, further back; at the end of a segment the file stays as it is.
    roll_back(&world, &|_, key, _| height(key) <= 11, NoMatch::Refuse);
    let again = metadata(&world, "t", 2);
    assert_eq!((again.revision, again.records, again.last_write), (2, 2, before.last_write));
    let first = metadata(&world, "t", 1);
    roll_back(&world, &|_, key, _| height(key) <= 7, NoMatch::Refuse);
    let cut = metadata(&world, "t", 1);
    assert_eq!((cut.revision, cut.digest, cut.key_end), (1, first.digest, first.key_end));
}

#[test]
fn a_cut_segment_expires_no_later_than_before() {
    let ttl = Duration::from_secs(1000);
    let world = database(|db| {
        let table = db.table("t", small().ttl(ttl).segment_age(50 * ttl)).unwrap();
        put_groups(&table, (1..30).step_by(2));
    });
    world.clock.advance(ttl / 2);
    roll_back(&world, &|_, key, _| height(key) <= 13, NoMatch::Refuse);
    let db = world.open();
    let table = db.existing_table("t").unwrap();
    world.clock.advance(ttl / 2 - Duration::from_millis(1));
    assert_eq!(table.run_gc().unwrap().segments, 0, "not before its time");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(table.run_gc().unwrap().segments, 2);
    assert!(table.iter().unwrap().next().is_none());
}

#[test]
fn ids_are_never_used_again_and_no_promise_is_left_of_what_is_gone() {
    let cases: [(Keep<'_>, NoMatch); 3] = [
        (&|_, key, _| height(key) <= 6, NoMatch::Refuse),
        (&|_, key, _| height(key) <= 13, NoMatch::Refuse),
        (&|_, _, _| false, NoMatch::Clear),
    ];
    for (keep, no_match) in cases {
        let world = history();
        let mut seen = Identities::of(&world);
        let highest = seen.highest("t");
        let state =
            |world: &World| read_state(&world.fs, "/r0/t/table.state".as_ref()).unwrap().state;
        let promised = state(&world).durable_tail.unwrap().segment;
        roll_back(&world, keep, no_match);
        let behind = state(&world);
        assert!(behind.next_id_floor.0 > highest && behind.next_id_floor.0 > promised.0);
        assert!(behind.durable_tail.clone().is_none_or(|tail| tail.segment.0 > highest));
        seen.agree_with(Identities::of(&world), "behind the rollback");
        let floor = behind.next_id_floor;
        let db = world.open();
        let table = db.table("t", small()).unwrap();
        let at = table.put(b"new:1", b"1").unwrap();
        assert!(at.segment.0 > highest, "{at}");
        table.seal().unwrap();
        let at = table.put(b"new:2", b"2").unwrap();
        assert!(at.segment >= floor, "{at}");
        seen.agree_with(Identities::of(&world), "written to");
    }
}

#[test]
fn the_number_of_shards_stays_what_it_was() {
    let world = database(|db| {
        let table = db.table("t", small().shards(3)).unwrap();
        put_groups(&table, 0..9);
    });
    check(&fork(&world), &|_, key, _| height(key) <= 4, NoMatch::Refuse, "three shards");
    roll_back(&world, &|_, key, _| height(key) <= 4, NoMatch::Refuse);
    let db = world.open();
    let table = db.table("t", small().shards(5)).unwrap();
    put_groups(&table, 20..40);
    assert_eq!(table.stats().shards, 5);
    db.close().unwrap();
    drop((table, db));
    check(&world, &|_, key, _| height(key) <= 24, NoMatch::Refuse, "then five");
}

#[test]
fn again_and_again_further_back_and_after_an_emptying() {
    let world = history();
    let past = contents_of(&world);
    for last in [13, 12, 9, 8, 6, 4, 1] {
        let keep: Keep<'_> = &|_, key, _| height(key) <= last;
        let expected = cut(&contents_of(&world), keep, NoMatch::Refuse);
        roll_back(&world, keep, NoMatch::Refuse);
        let db = world.open();
        assert!(contents(&db, "again") == expected, "{last}");
        check_gone(&db, &past, &expected, "again");
        db.close().unwrap();
    }
    roll_back(&world, &|_, _, _| false, NoMatch::Clear);
    let nothing: Contents = past.keys().map(|name| (name.clone(), Vec::new())).collect();
    assert!(contents_of(&world) == nothing);
    // Emptied and empty: there is nothing to be refused.
    assert!(past::plan(&world, &|_, _, _| false, NoMatch::Refuse).unwrap().is_empty());
    let db = world.open();
    for name in ["t", "u"] {
        put_groups(&db.table(name, small()).unwrap(), 3..12);
    }
    db.close().unwrap();
    drop(db);
    check(&world, &|_, key, _| height(key) <= 5, NoMatch::Refuse, "emptied and written to");
}

#[test]
fn empty_tables_and_no_tables() {
    let world = database(|_| {});
    assert!(roll_back(&world, &|_, _, _| false, NoMatch::Refuse).tables.is_empty());
    let world = database(|db| {
        db.table("empty", small()).unwrap();
    });
    let report = roll_back(&world, &|_, _, _| false, NoMatch::Clear);
    assert_eq!(report.tables[0].action, Action::Nothing);
    check(&world, &|_, _, _| false, NoMatch::Clear, "an empty table");
}

#[test]
fn tables_half_created_or_half_dropped_are_nobodys_business() {
    let world = history();
    let db = world.open();
    put_groups(&db.table("dropped", small()).unwrap(), 0..9);
    db.close().unwrap();
    drop(db);
    let world = fork(&world);
    // The power fails when the drop has begun.
    let db = world.open();
    let table = db.existing_table("dropped").unwrap();
    world.fs.crash_after(6);
    db.drop_table("dropped").unwrap_err();
    drop((table, db));
    let world = world.after_crash(&CrashImage::Everything);
    world.fs.make_dirs("/r0/created/segments");
    world.fs.make_dirs("/r1/created/segments");
    assert!(!world.files("/dropped/segments/").is_empty());
    let keep: Keep<'_> = &|_, key, _| height(key) <= 9;
    let plan = past::plan(&world, keep, NoMatch::Refuse).unwrap();
    assert_eq!(plan.tables.len(), 2, "{plan}");
    plan.execute().unwrap();
    let db = world.open();
    let names: Vec<_> = db.tables().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["t", "u"]);
    assert!(world.files("/dropped/").is_empty());
    put_groups(&db.table("dropped", TableOptions::new()).unwrap(), 1..3);
    contents(&db, "beside half tables");
}

#[test]
fn the_unsealed_segment_of_a_database_that_was_never_closed() {
    for flushed in [true, false] {
        let world = World::new();
        let db = world.open();
        let table = db.table("t", small().segment_keys(100)).unwrap();
        put_groups(&table, 0..6);
        table.flush().unwrap();
        put_batch(&table, 6..12);
        world.fs.crash_after(if flushed { 1000 } else { 5 });
        assert_eq!(table.flush().is_ok(), flushed);
        let world = world.after_crash(&CrashImage::Everything);
        drop((table, db));
        for last in [3, 5, 7, 8, 11] {
            let keep: Keep<'_> = &|_, key, _| height(key) <= last;
            check(&fork(&world), keep, NoMatch::Refuse, &format!("{last}, flushed: {flushed}"));
        }
        // The last batch torn: it is not there for the rollback, either.
        let keys = "/r0/t/segments/1.keys";
        world
            .fs
            .truncate_raw(keys, world.fs.read_raw(keys).len() as u64 - if flushed { 0 } else { 5 });
        if !flushed {
            let keep: Keep<'_> = &|_, key, _| height(key) <= 8;
            let plan = past::plan(&world, keep, NoMatch::Refuse).unwrap();
            assert!(plan.is_empty(), "{plan}");
            check(&world, &|_, key, _| height(key) <= 4, NoMatch::Refuse, "torn");
        }
    }
}

#[test]
fn what_is_reported_is_what_was_planned() {
    let world = history();
    let keep: Keep<'_> = &|_, key, _| height(key) <= 6;
    let planned = past::plan(&world, keep, NoMatch::Refuse).unwrap();
    let tables = planned.tables.clone();
    let report = planned.execute().unwrap();
    assert_eq!(report.decided, Some(world.clock.now()));
    for (plan, done) in tables.iter().zip(&report.tables) {
        assert_eq!(plan.boundary, done.boundary);
        assert_eq!(plan.discarded, done.discarded);
        assert_eq!(plan.segments_removed, done.segments_removed);
        assert_eq!(plan.segment_cut, done.segment_cut);
        assert_ne!(done.segment_cut, Some(SegmentId::NONE));
    }
}
