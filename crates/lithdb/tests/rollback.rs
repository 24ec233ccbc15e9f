//! Rollback: what is kept, what is removed, and that the database works afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use lithdb::rollback::{Action, PerTable, max_be_u64, through_key};
use lithdb::{DuplicateKeys, NoMatch, TableOptions};
use lithdb_env::Clock;
use lithdb_segment::{Metadata, SegmentId};
use lithdb_sim::CrashImage;
use lithdb_table::state::read_state;
use support::rollback_fixture::{
    self, Contents, Identities, KeepFn, assert_usable, check_absent, check_files, contents,
    contents_of, expected_after, fork, height, put_batch, put_group, put_groups, roll_back,
    rollback,
};
use support::{Harness, small};

fn database(make: impl FnOnce(&lithdb::Db)) -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    make(&db);
    db.close().unwrap();
    drop(db);
    harness
}

/// Rolls back, compares with the model, and uses the database. Returns the harness as it was right
/// after the rollback.
fn check(harness: &Harness, keep: KeepFn<'_>, no_match: NoMatch, context: &str) -> Harness {
    let old = contents_of(harness);
    let new = expected_after(&old, keep, no_match);
    let mut identities = Identities::of(harness);
    let report = roll_back(harness, keep, no_match);
    for table in &report.tables {
        let (old, new) = (&old[table.table.as_str()], &new[table.table.as_str()]);
        assert_eq!(table.discarded.records as usize, old.len() - new.len(), "{context}: {report}");
        let values = old[new.len()..].iter().filter(|(_, is_primary, _)| *is_primary);
        assert_eq!(table.discarded.values as usize, values.clone().count(), "{context}");
        let bytes: usize = values.map(|(_, _, value)| value.len()).sum();
        assert_eq!(table.discarded.bytes as usize, bytes, "{context}");
    }
    identities.assert_consistent_with(Identities::of(harness), context);
    let after = fork(harness);
    let db = harness.open();
    assert!(contents(&db, context) == new, "{context}: not what must be kept");
    check_absent(&db, &old, &new, context);
    db.close().unwrap();
    drop(db);
    check_files(harness, context);
    assert_usable(harness, &old, &new, context);
    after
}

fn metadata(harness: &Harness, table: &str, segment: u32) -> Metadata {
    let path = format!("/r0/{table}/segments/{segment}.metadata");
    Metadata::read(&harness.fs, path.as_ref()).unwrap()
}

/// Batches, groups and single keys, in several segments; two different tables.
fn history() -> Harness {
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
fn rollback_to_every_record_of_two_tables() {
    let harness = history();
    let old = contents_of(&harness);
    let keys: Vec<Vec<u8>> = old["t"].iter().map(|(key, _, _)| key.clone()).collect();
    let (mut split_batches, mut ends) = (0, 0);
    for key in keys {
        let name = String::from_utf8_lossy(&key).into_owned();
        let boundary = key.as_slice();
        let keep: KeepFn<'_> = &|table, key, _| match table {
            "t" => key == boundary,
            _ => height(key) <= height(boundary),
        };
        let harness = fork(&harness);
        let last = rollback_fixture::plan(&harness, keep, NoMatch::Refuse).unwrap();
        let plan = &last.tables[0];
        split_batches += u32::from(matches!(height(&key), 5..8 | 12..14));
        ends += u32::from(plan.action == Action::Truncate && plan.segment_truncated.is_none());
        check(&harness, keep, NoMatch::Refuse, &name);
    }
    assert!(split_batches > 6 && ends > 2, "{split_batches} {ends}");
}

#[test]
fn rollback_to_first_and_last_record_of_each_segment() {
    let harness = database(|db| put_groups(&db.table("t", small()).unwrap(), (1..40).step_by(2)));
    // Four single keys to a segment: 1 3 5 7, 9 …
    for (last, is_end) in
        [(1_u64, false), (7, true), (9, false), (15, true), (17, false), (33, false)]
    {
        let harness = fork(&harness);
        let plan = rollback(&harness).plan(through_key(format!("h:{last}"))).unwrap();
        assert_eq!(plan.tables[0].segment_truncated.is_none(), is_end, "{last}: {plan}");
        plan.execute().unwrap();
        let db = harness.open();
        let found = contents(&db, "");
        assert_eq!(found["t"].len() as u64, last.div_ceil(2));
        assert_eq!(height(&found["t"].last().unwrap().0), last);
    }
}

#[test]
fn secondary_key_keeps_its_whole_group() {
    for (kept, last) in [("whole:4", "part:4"), ("part:4", "part:4"), ("h:4", "part:4")] {
        let harness = history();
        let plan = rollback(&harness).tables(["t"]).plan(through_key(kept)).unwrap();
        assert_eq!(plan.tables[0].boundary.as_ref().unwrap().key, kept.as_bytes());
        plan.execute().unwrap();
        let found = contents_of(&harness);
        assert_eq!(found["t"].last().unwrap().0, last.as_bytes());
        assert_eq!(found["u"].last().unwrap().0, b"part:14", "it was left out");
    }
}

#[test]
fn truncation_inside_a_batch_leaves_a_valid_file() {
    let harness = database(|db| {
        let table = db.table("t", small().segment_keys(20)).unwrap();
        put_batch(&table, 0..12);
        table.seal().unwrap();
        put_group(&table, 12);
    });
    for last in 0..12 {
        let harness = fork(&harness);
        rollback(&harness).plan(through_key(format!("h:{last}"))).unwrap().execute().unwrap();
        let found = contents_of(&harness);
        assert_eq!(height(&found["t"].last().unwrap().0), last);
        check_files(&harness, &format!("truncated after {last}"));
        assert_eq!(
            metadata(&harness, "t", 1).revision,
            u32::from(last != 11) + u32::from(last == 11)
        );
    }
}

#[test]
fn nothing_to_discard_changes_nothing() {
    let harness = history();
    let before = rollback_fixture::image(&harness.fs);
    let keep: KeepFn<'_> = &|_, _, _| true;
    let plan = rollback_fixture::plan(&harness, keep, NoMatch::Refuse).unwrap();
    assert!(plan.is_empty() && plan.tables.iter().all(|t| t.action == Action::Nothing));
    let report = plan.execute().unwrap();
    assert!(report.decided.is_none() && report.tables.len() == 2);
    assert!(rollback_fixture::image(&harness.fs) == before);
    check(&harness, keep, NoMatch::Refuse, "nothing to discard");
}

#[test]
fn unmatched_table_is_refused_kept_or_cleared() {
    let nothing: KeepFn<'_> = &|table, _, _| table != "t";
    let harness = history();
    let before = rollback_fixture::image(&harness.fs);
    let refused = rollback_fixture::plan(&harness, nothing, NoMatch::Refuse).unwrap_err();
    assert_eq!(refused.kind(), lithdb::ErrorKind::InvalidArgument);
    assert!(refused.to_string().contains("table t:"), "{refused}");
    assert!(rollback_fixture::image(&harness.fs) == before);
    let kept = fork(&harness);
    let report = roll_back(&kept, nothing, NoMatch::Keep);
    assert_eq!(report.tables[0].action, Action::Keep);
    check(&kept, nothing, NoMatch::Keep, "kept");
    let report = roll_back(&fork(&harness), nothing, NoMatch::Clear);
    assert_eq!(report.tables[0].action, Action::Clear);
    check(&harness, nothing, NoMatch::Clear, "emptied");
}

#[test]
fn newer_table_is_cleared_while_others_are_truncated() {
    let keep: KeepFn<'_> = &|_, key, _| height(key) <= 9;
    let harness = history();
    let db = harness.open();
    put_groups(&db.table("newer", small()).unwrap(), 10..30);
    db.table("empty", small()).unwrap();
    db.close().unwrap();
    drop(db);
    let refused = rollback_fixture::plan(&harness, keep, NoMatch::Refuse).unwrap_err().to_string();
    assert!(refused.contains("table newer:"), "empty is not named: {refused}");
    let after = check(&harness, keep, NoMatch::Clear, "beside others");
    let state = read_state(&after.fs, "/r0/newer/table.state".as_ref()).unwrap().state;
    assert!(state.empty && state.watermark == state.next_id_floor && state.watermark.0 > 5);
    assert!(after.files("/newer/segments/").is_empty());
}

#[test]
fn tables_with_different_keys_use_their_own_filters() {
    let harness = Harness::new();
    let db = harness.open();
    let tables = ["blocks", "receipts", "votes"].map(|name| db.table(name, small()).unwrap());
    for n in 0..20_u64 {
        tables[0].put([b"b".as_slice(), &n.to_be_bytes()].concat(), b"block").unwrap();
        tables[1].put(format!("r:{n}").as_bytes(), b"receipt").unwrap();
        tables[2].put(n.to_be_bytes(), b"vote").unwrap();
    }
    db.close().unwrap();
    drop((tables, db));
    let filter =
        || PerTable::new().table("blocks", max_be_u64(1, 7)).table("receipts", through_key(b"r:9"));
    let missing = rollback(&harness).plan(filter().into_filter()).unwrap_err().to_string();
    assert!(missing.contains("table votes: no filter"), "{missing}");
    let plan = rollback(&harness).plan(filter().otherwise(max_be_u64(0, 3)).into_filter()).unwrap();
    plan.execute().unwrap();
    let db = harness.open();
    let found = contents(&db, "");
    let counts = found.iter().map(|(name, records)| (name.as_str(), records.len()));
    assert_eq!(counts.collect::<Vec<_>>(), [("blocks", 8), ("receipts", 10), ("votes", 4)]);
}

#[test]
fn older_value_of_an_overwritten_key_reappears() {
    let options = || small().duplicate_keys(DuplicateKeys::default());
    let harness = database(|db| {
        let table = db.table("t", options()).unwrap();
        for n in 0..30_u64 {
            table.put(format!("k:{}", n % 4).as_bytes(), format!("value {n}").as_bytes()).unwrap();
            table.put(format!("mark:{n}").as_bytes(), b"").unwrap();
        }
    });
    for last in [3_u64, 7, 12, 21, 29] {
        let harness = fork(&harness);
        rollback(&harness).plan(through_key(format!("mark:{last}"))).unwrap().execute().unwrap();
        let db = harness.open();
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
fn truncated_segment_gets_new_revision_and_digest_same_seal_time() {
    let harness = database(|db| put_groups(&db.table("t", small()).unwrap(), (1..40).step_by(2)));
    harness.clock.advance(Duration::from_secs(3600));
    let before = metadata(&harness, "t", 2);
    let values = harness
        .files("/2-")
        .iter()
        .map(|p| (p.clone(), harness.fs.read_raw(p)))
        .collect::<Vec<_>>();
    roll_back(&harness, &|_, key, _| height(key) <= 13, NoMatch::Refuse);
    let after = metadata(&harness, "t", 2);
    assert_eq!((before.records, after.records), (4, 3));
    assert_eq!((before.revision, after.revision), (0, 1));
    assert!(after.digest.is_some() && after.digest != before.digest);
    assert_eq!(after.sealed_at, before.sealed_at);
    assert_eq!((after.created, after.salt), (before.created, before.salt));
    let bytes = harness.fs.read_raw("/r0/t/segments/2.keys");
    assert_eq!(bytes.len() as u64, after.key_end);
    assert!(after.value_ends.iter().sum::<u64>() < before.value_ends.iter().sum());
    for (path, bytes) in &values {
        assert!(harness.fs.read_raw(path) == *bytes, "{path}: readers may hold its bytes");
    }
    // A second rollback, further back; at the end of a segment the file stays as it is.
    roll_back(&harness, &|_, key, _| height(key) <= 11, NoMatch::Refuse);
    let again = metadata(&harness, "t", 2);
    assert_eq!((again.revision, again.records, again.sealed_at), (2, 2, before.sealed_at));
    let first = metadata(&harness, "t", 1);
    roll_back(&harness, &|_, key, _| height(key) <= 7, NoMatch::Refuse);
    let cut = metadata(&harness, "t", 1);
    assert_eq!((cut.revision, cut.digest, cut.key_end), (1, first.digest, first.key_end));
}

#[test]
fn truncated_segment_expires_no_later_than_before() {
    let ttl = Duration::from_secs(1000);
    let harness = database(|db| {
        let table = db.table("t", small().ttl(ttl).segment_age(50 * ttl)).unwrap();
        put_groups(&table, (1..30).step_by(2));
    });
    harness.clock.advance(ttl / 2);
    roll_back(&harness, &|_, key, _| height(key) <= 13, NoMatch::Refuse);
    let db = harness.open();
    let table = db.existing_table("t").unwrap();
    harness.clock.advance(ttl / 2 - Duration::from_millis(1));
    assert_eq!(table.run_gc().unwrap().segments, 0, "not before its time");
    harness.clock.advance(Duration::from_millis(1));
    assert_eq!(table.run_gc().unwrap().segments, 2);
    assert!(table.iter().unwrap().next().is_none());
}

#[test]
fn rollback_never_reuses_ids_and_clears_the_durable_end() {
    let cases: [(KeepFn<'_>, NoMatch); 3] = [
        (&|_, key, _| height(key) <= 6, NoMatch::Refuse),
        (&|_, key, _| height(key) <= 13, NoMatch::Refuse),
        (&|_, _, _| false, NoMatch::Clear),
    ];
    for (keep, no_match) in cases {
        let harness = history();
        let mut seen = Identities::of(&harness);
        let highest = seen.highest("t");
        let state = |harness: &Harness| {
            read_state(&harness.fs, "/r0/t/table.state".as_ref()).unwrap().state
        };
        let recorded = state(&harness).recorded_end.unwrap().segment;
        roll_back(&harness, keep, no_match);
        let after = state(&harness);
        assert!(after.next_id_floor.0 > highest && after.next_id_floor.0 > recorded.0);
        assert!(after.recorded_end.clone().is_none_or(|end| end.segment.0 > highest));
        seen.assert_consistent_with(Identities::of(&harness), "after the rollback");
        let floor = after.next_id_floor;
        let db = harness.open();
        let table = db.table("t", small()).unwrap();
        let at = table.put(b"new:1", b"1").unwrap();
        assert!(at.segment.0 > highest, "{at}");
        table.seal().unwrap();
        let at = table.put(b"new:2", b"2").unwrap();
        assert!(at.segment >= floor, "{at}");
        seen.assert_consistent_with(Identities::of(&harness), "written to");
    }
}

#[test]
fn rollback_keeps_the_number_of_shards() {
    let harness = database(|db| {
        let table = db.table("t", small().shards(3)).unwrap();
        put_groups(&table, 0..9);
    });
    check(&fork(&harness), &|_, key, _| height(key) <= 4, NoMatch::Refuse, "three shards");
    roll_back(&harness, &|_, key, _| height(key) <= 4, NoMatch::Refuse);
    let db = harness.open();
    let table = db.table("t", small().shards(5)).unwrap();
    put_groups(&table, 20..40);
    assert_eq!(table.stats().shards, 5);
    db.close().unwrap();
    drop((table, db));
    check(&harness, &|_, key, _| height(key) <= 24, NoMatch::Refuse, "then five");
}

#[test]
fn repeated_rollbacks_go_further_back_even_after_clearing() {
    let harness = history();
    let past = contents_of(&harness);
    for last in [13, 12, 9, 8, 6, 4, 1] {
        let keep: KeepFn<'_> = &|_, key, _| height(key) <= last;
        let expected = expected_after(&contents_of(&harness), keep, NoMatch::Refuse);
        roll_back(&harness, keep, NoMatch::Refuse);
        let db = harness.open();
        assert!(contents(&db, "again") == expected, "{last}");
        check_absent(&db, &past, &expected, "again");
        db.close().unwrap();
    }
    roll_back(&harness, &|_, _, _| false, NoMatch::Clear);
    let nothing: Contents = past.keys().map(|name| (name.clone(), Vec::new())).collect();
    assert!(contents_of(&harness) == nothing);
    // Already empty: nothing to refuse.
    assert!(
        rollback_fixture::plan(&harness, &|_, _, _| false, NoMatch::Refuse).unwrap().is_empty()
    );
    let db = harness.open();
    for name in ["t", "u"] {
        put_groups(&db.table(name, small()).unwrap(), 3..12);
    }
    db.close().unwrap();
    drop(db);
    check(&harness, &|_, key, _| height(key) <= 5, NoMatch::Refuse, "emptied and written to");
}

#[test]
fn rollback_of_empty_tables_and_of_no_tables() {
    let harness = database(|_| {});
    assert!(roll_back(&harness, &|_, _, _| false, NoMatch::Refuse).tables.is_empty());
    let harness = database(|db| {
        db.table("empty", small()).unwrap();
    });
    let report = roll_back(&harness, &|_, _, _| false, NoMatch::Clear);
    assert_eq!(report.tables[0].action, Action::Nothing);
    check(&harness, &|_, _, _| false, NoMatch::Clear, "an empty table");
}

#[test]
fn rollback_ignores_half_created_or_half_dropped_tables() {
    let harness = history();
    let db = harness.open();
    put_groups(&db.table("dropped", small()).unwrap(), 0..9);
    db.close().unwrap();
    drop(db);
    let harness = fork(&harness);
    // The power fails after the drop has started.
    let db = harness.open();
    let table = db.existing_table("dropped").unwrap();
    harness.fs.crash_after(6);
    db.drop_table("dropped").unwrap_err();
    drop((table, db));
    let harness = harness.after_crash(&CrashImage::Everything);
    harness.fs.make_dirs("/r0/created/segments");
    harness.fs.make_dirs("/r1/created/segments");
    assert!(!harness.files("/dropped/segments/").is_empty());
    let keep: KeepFn<'_> = &|_, key, _| height(key) <= 9;
    let plan = rollback_fixture::plan(&harness, keep, NoMatch::Refuse).unwrap();
    assert_eq!(plan.tables.len(), 2, "{plan}");
    plan.execute().unwrap();
    let db = harness.open();
    let names: Vec<_> = db.tables().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["t", "u"]);
    assert!(harness.files("/dropped/").is_empty());
    put_groups(&db.table("dropped", TableOptions::new()).unwrap(), 1..3);
    contents(&db, "beside half tables");
}

#[test]
fn rollback_in_the_unsealed_segment_after_a_crash() {
    for flushed in [true, false] {
        let harness = Harness::new();
        let db = harness.open();
        let table = db.table("t", small().segment_keys(100)).unwrap();
        put_groups(&table, 0..6);
        table.flush().unwrap();
        put_batch(&table, 6..12);
        harness.fs.crash_after(if flushed { 1000 } else { 5 });
        assert_eq!(table.flush().is_ok(), flushed);
        let harness = harness.after_crash(&CrashImage::Everything);
        drop((table, db));
        for last in [3, 5, 7, 8, 11] {
            let keep: KeepFn<'_> = &|_, key, _| height(key) <= last;
            check(&fork(&harness), keep, NoMatch::Refuse, &format!("{last}, flushed: {flushed}"));
        }
        // The last batch is torn: the rollback ignores it, too.
        let keys = "/r0/t/segments/1.keys";
        harness.fs.truncate_raw(
            keys,
            harness.fs.read_raw(keys).len() as u64 - if flushed { 0 } else { 5 },
        );
        if !flushed {
            let keep: KeepFn<'_> = &|_, key, _| height(key) <= 8;
            let plan = rollback_fixture::plan(&harness, keep, NoMatch::Refuse).unwrap();
            assert!(plan.is_empty(), "{plan}");
            check(&harness, &|_, key, _| height(key) <= 4, NoMatch::Refuse, "torn");
        }
    }
}

#[test]
fn report_matches_the_plan() {
    let harness = history();
    let keep: KeepFn<'_> = &|_, key, _| height(key) <= 6;
    let planned = rollback_fixture::plan(&harness, keep, NoMatch::Refuse).unwrap();
    let tables = planned.tables.clone();
    let report = planned.execute().unwrap();
    assert_eq!(report.decided, Some(harness.clock.now()));
    for (plan, done) in tables.iter().zip(&report.tables) {
        assert_eq!(plan.boundary, done.boundary);
        assert_eq!(plan.discarded, done.discarded);
        assert_eq!(plan.segments_removed, done.segments_removed);
        assert_eq!(plan.segment_truncated, done.segment_truncated);
        assert_ne!(done.segment_truncated, Some(SegmentId::NONE));
    }
}
