//! Filters and reports of a rollback: the built-in filters, the report, and files that differ from
//! the plan.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use lithdb::rollback::{Discarded, KeyAt, OutOfOrder, PerTable, max_be_u64, through_position};
use lithdb::{
    DuplicateKeys, ErrorKind, NoMatch, Position, ReadMode, SecondaryKey, SegmentId, Verdict,
};
use lithdb_sim::{CrashImage, SimClock};
use support::rollback_fixture::{contents_of, filter, fork, height, image, put_groups, rollback};
use support::{Harness, scenarios, small};

const INTENT: &str = "/r0/rollback.intent";

fn one_table(numbers: std::ops::Range<u64>) -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    put_groups(&db.table("t", small()).unwrap(), numbers);
    db.close().unwrap();
    harness
}

/// A rollback that was decided and not executed.
fn decided() -> Harness {
    decided_of(&scenarios::everything())
}

fn decided_of(scenario: &scenarios::Scenario) -> Harness {
    for k in 0.. {
        let run = scenario.copy();
        run.fs.crash_after(k);
        scenario.execute(&run).unwrap_err();
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files(INTENT) == [INTENT] {
            return after;
        }
    }
    unreachable!()
}

#[test]
fn through_position_keeps_the_record_and_all_older_ones() {
    let harness = one_table(0..20);
    let positions: Vec<_> = {
        let copy = fork(&harness);
        let table = copy.open().existing_table("t").unwrap();
        table.iter().unwrap().map(|entry| entry.unwrap().position()).collect()
    };
    let old = contents_of(&harness);
    for (n, at) in positions.iter().enumerate().step_by(3) {
        let harness = fork(&harness);
        rollback(&harness).plan(through_position(*at)).unwrap().execute().unwrap();
        let left = &contents_of(&harness)["t"];
        assert!(left.len() > n && left.len() <= n + 3, "{n}: {} are left", left.len());
        assert_eq!(left[..], old["t"][..left.len()], "{n}");
        // Whole groups are kept: the next record, if any, starts a group.
        assert!(old["t"].get(left.len()).is_none_or(|(_, is_primary, _)| *is_primary), "{n}");
    }
}

/// A position that was mistyped or belongs to another table is refused, whatever the caller chose
/// for tables in which nothing matches.
#[test]
fn position_without_a_record_is_refused_with_its_neighbours() {
    let harness = one_table(0..20);
    let (positions, shown): (Vec<_>, Vec<_>) = {
        let copy = fork(&harness);
        let table = copy.open().existing_table("t").unwrap();
        let of = |entry: lithdb::Entry| {
            let key = String::from_utf8_lossy(entry.key()).into_owned();
            (entry.position(), format!("{key:?} at {}", entry.position()))
        };
        table.iter().unwrap().map(|entry| of(entry.unwrap())).unzip()
    };
    let (last, before) = (positions.len() - 1, image(&harness.fs));
    let at = |segment, offset| Position { segment: SegmentId(segment), offset };
    let (oldest, newest) = (positions[0], positions[last]);
    let between = (1..=last).map(|n| {
        let at = Position { offset: positions[n].offset - 1, ..positions[n] };
        (at, vec![&shown[n - 1], &shown[n]])
    });
    let outside = [
        (Position { offset: oldest.offset - 1, ..oldest }, vec![&shown[0]]),
        (at(oldest.segment.0, 0), vec![&shown[0]]),
        (Position { offset: newest.offset + 1, ..newest }, vec![&shown[last]]),
        (at(newest.segment.0 + 1, newest.offset), vec![&shown[last]]),
        (at(u32::MAX, u32::MAX), vec![&shown[last]]),
    ];
    for (at, neighbours) in between.chain(outside) {
        for no_match in [NoMatch::Refuse, NoMatch::Keep, NoMatch::Clear] {
            let plan = rollback(&harness).on_no_match(no_match).plan(through_position(at));
            let error = plan.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{at}: {error}");
            let text = error.to_string();
            assert!(text.contains(&format!("expected a record at {at}")), "{text}");
            for (n, shown) in shown.iter().enumerate() {
                let is_named =
                    text.contains(&format!("{shown}.")) || text.contains(&format!("{shown} and"));
                assert_eq!(is_named, neighbours.contains(&shown), "{n}: {text}");
            }
        }
    }
    assert!(image(&harness.fs) == before);
}

#[test]
fn max_be_u64_reads_primary_keys_only_and_names_short_ones() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    for n in 0..9_u64 {
        let (key, alias) = ([b"h", &n.to_be_bytes()[..]].concat(), format!("{n}"));
        table.put_with(&key, b"value", &[SecondaryKey::whole(&alias)]).unwrap();
    }
    db.close().unwrap();
    drop((table, db));
    let cut = fork(&harness);
    rollback(&cut).plan(max_be_u64(1, 5)).unwrap().execute().unwrap();
    assert_eq!(contents_of(&cut)["t"].len(), 12);
    // At an offset two bytes further the primary keys are too short.
    let before = image(&harness.fs);
    let error = rollback(&harness).plan(max_be_u64(3, 5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    for named in ["table t", "offset 3", "of 9 bytes"] {
        assert!(error.to_string().contains(named), "{error}");
    }
    assert!(image(&harness.fs) == before);
}

#[test]
fn filter_sees_the_same_records_as_iteration() {
    let harness = one_table(0..12);
    let mut entries = Vec::new();
    {
        let copy = fork(&harness);
        let table = copy.open().existing_table("t").unwrap();
        for entry in table.iter().unwrap() {
            let entry = entry.unwrap();
            let value = entry.value().unwrap();
            entries.push((entry.position(), entry.key().to_vec(), entry.is_primary(), value.len()));
        }
    }
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let mut seen = Vec::new();
        let plan = rollback(&harness).read_mode(mode).on_no_match(NoMatch::Keep).plan(|record| {
            assert_eq!(record.segment(), record.position().segment);
            let len = record.value_len() as usize;
            seen.push((record.position(), record.key().to_vec(), record.is_primary(), len));
            Ok(Verdict::Discard)
        });
        assert!(plan.unwrap().is_empty());
        // From newest to oldest.
        seen.reverse();
        assert_eq!(seen, entries, "{mode:?}");
    }
}

/// Heights in put order, each with an alias, four values to a segment.
fn heights(put: &[u64]) -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().segment_keys(8).duplicate_keys(DuplicateKeys::default()));
    let table = table.unwrap();
    for (n, height) in put.iter().enumerate() {
        let alias = format!("hash:{n}");
        let value = [n as u8; 40];
        table.put_with(height.to_be_bytes(), value, &[SecondaryKey::whole(&alias)]).unwrap();
    }
    db.close().unwrap();
    harness
}

/// Values above the height that were put before the newest kept value would show again, and
/// nothing would reveal it afterwards.
#[test]
fn values_out_of_order_are_counted_named_and_refused() {
    let histories: [&[u64]; 5] = [
        &[1, 2, 3, 4, 5, 4, 5, 6],
        &[1, 2, 3, 4, 5, 6, 4],
        &[9, 8, 7, 1, 2, 9, 9, 9, 9, 9, 9, 9, 2, 9],
        &[5, 1],
        &[1, 2, 3, 4, 5, 6, 7, 8, 9],
    ];
    let mut refusals = 0;
    for put in histories {
        let harness = heights(put);
        for max in 1..=9 {
            let context = format!("{put:?} to {max}");
            let Some(last) = put.iter().rposition(|height| *height <= max) else { continue };
            let kept = &put[..=last];
            let beyond: Vec<_> = kept.iter().rev().filter(|height| **height > max).collect();
            let oldest = kept.iter().position(|height| *height > max);
            let before = oldest.and_then(|n| kept[..n].last());
            let run = fork(&harness);
            let plan = rollback(&run).plan(max_be_u64(0, max)).unwrap();
            let found = plan.tables[0].out_of_order.clone().unwrap();
            assert_eq!(found.values as usize, beyond.len(), "{context}: {plan}");
            let height = |key: &[u8]| u64::from_be_bytes(key.try_into().unwrap());
            let newest = found.newest.iter().map(|at| height(&at.key));
            assert!(newest.eq(beyond.iter().take(5).map(|height| **height)), "{context}: {plan}");
            assert_eq!(
                found.before.as_ref().map(|at| height(&at.key)),
                before.copied(),
                "{context}"
            );
            assert_eq!(plan.check().is_err(), !beyond.is_empty(), "{context}");
            assert_eq!(plan.to_string().contains("out of order"), !beyond.is_empty(), "{plan}");
            let left = |harness: &Harness| contents_of(harness)["t"].len() / 2;
            if !beyond.is_empty() {
                refusals += 1;
                let untouched = image(&run.fs);
                let error = plan.execute().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{context}: {error}");
                let named = format!("table t: {} of them, {}", beyond.len(), found.newest[0]);
                assert!(error.to_string().contains(&named), "{context}: {error}");
                assert!(image(&run.fs) == untouched, "{context}");
                // The suggested older boundary leaves none.
                if let Some(before) = &found.before {
                    let further = fork(&harness);
                    let plan = rollback(&further).plan(through_position(before.position)).unwrap();
                    plan.execute().unwrap();
                    let none = rollback(&further).plan(max_be_u64(0, max)).unwrap();
                    assert!(none.is_empty() && none.check().is_ok(), "{context}: {none}");
                    assert_eq!(left(&further), oldest.unwrap(), "{context}");
                }
            }
            let accepting = rollback(&run).accept_out_of_order(true);
            accepting.plan(max_be_u64(0, max)).unwrap().execute().unwrap();
            assert_eq!(left(&run), kept.len(), "{context}");
        }
    }
    assert!(refusals >= 15, "{refusals}");
}

#[test]
fn kept_key_without_a_number_is_reported_out_of_order() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    table.put(b"genesis", b"first").unwrap();
    for n in 1..9_u64 {
        table.put(n.to_be_bytes(), b"block").unwrap();
    }
    db.close().unwrap();
    drop((table, db));
    let error = rollback(&harness).plan(max_be_u64(0, 4)).unwrap().execute().unwrap_err();
    assert!(error.to_string().contains("1 of them, genesis at 1:"), "{error}");
    // Filters without an order are not asked about values that are kept in any case.
    let mut calls = 0;
    let plan = rollback(&harness).plan(|record| {
        calls += 1;
        assert!(!record.stays());
        Ok(if record.key() == 4_u64.to_be_bytes() { Verdict::Keep } else { Verdict::Discard })
    });
    let plan = plan.unwrap();
    assert_eq!((calls, plan.tables[0].out_of_order.is_none()), (5, true));
    plan.execute().unwrap();
    assert_eq!(contents_of(&harness)["t"].len(), 5);
}

/// A text that asks for consent must not wrap.
#[test]
fn plan_and_report_fit_80_columns() {
    let scenario = scenarios::everything();
    let harness = scenario.copy();
    let old = contents_of(&harness);
    let plan = scenario.plan(&harness).unwrap();
    let planned = plan.to_string();
    assert_eq!(serde_json::to_value(&plan).unwrap()["roots"][0], "/r0");
    let report = plan.execute().unwrap();
    let new = contents_of(&harness);
    for shown in [planned, report.to_string()].map(|shown| shown + "\n") {
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for table in &report.tables {
            let name = table.table.as_str();
            let begins = format!("table {name}: {}\n", table.action.as_str());
            let at = shown.find(&begins).unwrap_or_else(|| panic!("{begins}: {shown}"));
            let text = shown[at..].split("\ntable ").next().unwrap();
            let removed = old[name].len() - new[name].len();
            assert_eq!(text.contains("removed  "), removed > 0, "{shown}");
            assert!(
                removed == 0 || text.contains(&format!("keys: {removed},")),
                "{removed}: {shown}"
            );
            assert_eq!(text.contains("last key kept"), table.boundary.is_some(), "{shown}");
            if let Some(boundary) = &table.boundary {
                let key = String::from_utf8(boundary.key.clone()).unwrap();
                assert!(text.contains(&format!("{key} at {}", boundary.position)), "{shown}");
            }
            let cut = table
                .segment_truncated
                .map_or("table".to_owned(), |id| format!("truncated      segment {id}"));
            assert!(text.contains(&cut), "{shown}");
        }
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["took_seconds"], report.took.as_secs_f64());
    let keys = report.tables.iter().filter_map(|t| t.boundary.as_ref()).map(|b| height(&b.key));
    let text =
        json["tables"].as_array().unwrap().iter().filter_map(|t| t["boundary"]["key"].as_str());
    assert_eq!(
        text.map(|key| height(key.as_bytes())).collect::<Vec<_>>(),
        keys.collect::<Vec<_>>()
    );
    let filters = PerTable::new().table("t", filter(&|_, _, _| true));
    assert_eq!(format!("{filters:?}"), "{\"t\"}");
    // Long keys and high numbers.
    let at = KeyAt {
        key: vec![0xff; 200],
        position: Position { segment: SegmentId(u32::MAX), offset: u32::MAX },
    };
    let mut plan = scenario.plan(&scenario.copy()).unwrap();
    let newest = vec![at.clone(); 5];
    plan.tables[0].out_of_order =
        Some(OutOfOrder { values: u64::MAX, newest, before: Some(at.clone()) });
    let boundary = plan.tables[0].boundary.as_mut().unwrap();
    (boundary.key, boundary.position) = (at.key, at.position);
    plan.tables[0].discarded = Discarded { records: 1 << 33, values: 1 << 33, bytes: 1 << 50 };
    let shown = plan.to_string();
    assert!(shown.contains("out of order") && shown.contains("older ones"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
}

/// Wherever it was interrupted, a pending rollback is described, and describing it changes
/// nothing.
#[test]
fn interrupted_rollback_is_described_until_finished() {
    let scenario = scenarios::everything();
    let mut pending = 0;
    for k in 0.. {
        let run = scenario.copy();
        run.fs.crash_after(k);
        let done = scenario.execute(&run).is_ok();
        for image in [CrashImage::Nothing, CrashImage::Everything] {
            let after = run.after_crash(&image);
            let files = after.files("");
            let is_pending = !after.files(INTENT).iter().all(|path| path.ends_with(".new"));
            let found = rollback(&after).pending().unwrap();
            assert_eq!(found.is_some(), is_pending, "{k}: {files:?}");
            assert!(
                after
                    .files("")
                    .iter()
                    .filter(|p| !p.ends_with(".lock"))
                    .eq(files.iter().filter(|p| !p.ends_with(".lock")))
            );
            let Some(found) = found else { continue };
            pending += 1;
            assert!(found.obstacle.is_none() && found.decided.is_some(), "{k}: {found}");
            assert_eq!(found.tables.len(), 3, "{k}: {found}");
            for part in ["is pending", INTENT, "table c-clear", "`lith rollback --finish`"] {
                let shown = found.to_string();
                assert!(shown.contains(part), "{k}: {part}: {shown}");
                assert!(shown.lines().all(|line| line.chars().count() <= 90), "{shown}");
            }
            let error = after.try_read().map(drop).unwrap_err();
            assert!(error.is_rollback_pending(), "{k}: {error}");
            rollback(&after).finish().unwrap().unwrap();
            assert!(rollback(&after).pending().unwrap().is_none(), "{k}");
        }
        if done {
            break;
        }
    }
    assert!(pending > 20, "{pending}");
}

#[test]
fn obstacle_to_a_pending_rollback_is_reported() {
    let base = decided();
    let prepared = base.files(".new");
    for path in prepared.iter().map(String::as_str).chain([INTENT]) {
        let harness = fork(&base);
        let bytes = harness.fs.read_raw(path);
        harness.fs.write_raw(path, vec![7; bytes.len()]);
        let found = rollback(&harness).pending().unwrap().unwrap();
        let obstacle = found.obstacle.as_ref().unwrap_or_else(|| panic!("{path}: {found}"));
        assert!(obstacle.to_string().contains(path), "{path}: {found}");
        assert!(!found.to_string().contains("opening the database for writing"), "{found}");
        let text = harness.try_read().map(drop).unwrap_err();
        assert!(text.is_rollback_pending());
        assert!(text.to_string().contains("cannot be finished"), "{text}");
        assert_eq!(rollback(&harness).finish().unwrap_err().to_string(), obstacle.to_string());
        harness.fs.write_raw(path, bytes);
        assert!(rollback(&harness).pending().unwrap().unwrap().obstacle.is_none(), "{path}");
    }
    assert!(prepared.len() > 2, "{prepared:?}");
}

#[test]
fn intent_of_another_database_is_refused_unchanged() {
    let harness = decided();
    let other = Harness { clock: SimClock::new(99), ..Harness::new() };
    let db = other.open();
    put_groups(&db.table("a-sealed", small()).unwrap(), 0..9);
    db.close().unwrap();
    drop(db);
    other.fs.write_raw(INTENT, harness.fs.read_raw(INTENT));
    let before = image(&other.fs);
    for error in [rollback(&other).finish().map(drop), other.try_open().map(drop)] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(INTENT), "{error}");
    }
    let ours = |image: Vec<(String, Vec<u8>)>| -> Vec<_> {
        image.into_iter().filter(|(name, _)| !name.ends_with(".lock")).collect()
    };
    assert!(ours(image(&other.fs)) == ours(before));
}

/// Everything to be kept must exist before anything is removed: each value file in its whole
/// length.
#[test]
fn short_kept_value_file_stops_the_rollback_unchanged() {
    let base = decided();
    let new = scenarios::everything().new;
    let mut refused = 0;
    for path in base.files(".values") {
        let harness = fork(&base);
        let bytes = harness.fs.read_raw(&path);
        harness.fs.truncate_raw(&path, 65.min(bytes.len() as u64 - 1));
        let before = harness.files("");
        let Err(error) = rollback(&harness).finish() else { continue };
        refused += 1;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{path}: {error}");
        assert!(error.to_string().contains(&path), "{error}");
        assert!(before.iter().all(|name| harness.files(name).contains(name)), "{path}");
        harness.fs.write_raw(&path, bytes);
        rollback(&harness).finish().unwrap().unwrap();
        assert!(contents_of(&harness) == new, "{path}");
    }
    assert!(refused >= 2, "{refused}");
}

#[test]
fn foreign_table_state_stops_the_rollback_unchanged() {
    let harness = decided();
    let own = harness.fs.read_raw("/r0/b-open/table.state");
    harness.fs.write_raw("/r0/b-open/table.state", harness.fs.read_raw("/r0/a-sealed/table.state"));
    let error = rollback(&harness).finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("/r0/b-open/table.state"), "{error}");
    harness.fs.write_raw("/r0/b-open/table.state", own);
    rollback(&harness).finish().unwrap().unwrap();
    assert!(contents_of(&harness) == scenarios::everything().new);
}
