//! Rollback with anomalies: files missing or in other places, leftovers, times around a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use lithdb::rollback::written_before;
use lithdb::{ErrorKind, NoMatch};
use lithdb_sim::CrashImage;
use support::rollback_fixture::{contents_of, fork, image, put_groups, rollback};
use support::{Harness, scenarios, small};

const INTENT: &str = "/r0/rollback.intent";

/// A rollback interrupted after its decision, when `is_there` accepts the intent's bytes.
fn interrupted(is_there: impl Fn(&[u8]) -> bool) -> Harness {
    let scenario = scenarios::everything();
    for k in 0.. {
        let run = scenario.copy();
        run.fs.crash_after(k);
        scenario.execute(&run).unwrap_err();
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files(INTENT) == [INTENT] && is_there(&after.fs.read_raw(INTENT)) {
            return after;
        }
    }
    unreachable!()
}

/// Whether the intent records completion: the first byte after the envelope's header.
fn is_done(intent: &[u8]) -> bool {
    intent[32] == 1
}

#[test]
fn missing_kept_value_file_stops_the_rollback_unchanged() {
    let base = interrupted(|_| true);
    let new = scenarios::everything().new;
    let mut refused = 0;
    for path in base.files(".values") {
        let harness = fork(&base);
        let bytes = harness.fs.read_raw(&path);
        harness.fs.remove_raw(&path);
        let before = image(&harness.fs);
        let Err(error) = rollback(&harness).finish() else {
            // It belongs to a segment that is removed, or to an older one that the rollback does
            // not check.
            continue;
        };
        refused += 1;
        assert_eq!(error.kind(), ErrorKind::Missing, "{path}: {error}");
        let after = image(&harness.fs);
        assert!(before.iter().all(|(name, _)| after.iter().any(|(n, _)| n == name)), "{path}");
        harness.fs.write_raw(&path, bytes);
        rollback(&harness).finish().unwrap().unwrap();
        assert!(contents_of(&harness) == new, "{path}");
    }
    assert!(refused >= 2, "{refused}");
}

#[test]
fn boundary_leftovers_on_another_root_are_ignored() {
    for name in ["metadata", "keys"] {
        let scenario = scenarios::sealed();
        let harness = scenario.copy();
        let cut = {
            let plan = scenario.plan(&harness).unwrap();
            plan.tables[0].segment_truncated.unwrap()
        };
        let (here, there) = ("/r0/t/segments", "/r1/t/segments");
        let bytes = harness.fs.read_raw(format!("{here}/{cut}.{name}"));
        harness.fs.write_raw(format!("{there}/{cut}.{name}"), bytes);
        harness.fs.remove_raw(format!("{here}/{cut}.{name}"));
        harness.fs.write_raw(format!("{here}/{cut}.{name}.new"), vec![1; 70]);
        scenario.execute(&harness).unwrap();
        assert!(contents_of(&harness) == scenario.new, "{name}");
    }
}

#[test]
fn first_mark_gives_the_time_despite_a_recovery_mark() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 0..3);
    table.flush().unwrap();
    db.maintain().unwrap();
    harness.clock.advance(Duration::from_secs(5));
    db.maintain().unwrap(); // the idle mark
    let harness = harness.after_crash(&CrashImage::Nothing);
    drop((table, db));
    let hour = Duration::from_secs(3600);
    let then = harness.components().env.unwrap().clock.now().saturating_add(hour);
    harness.clock.advance(24 * hour);
    let db = harness.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 3..6);
    db.close().unwrap();
    let plan = rollback(&harness).plan(written_before(then)).unwrap();
    assert_eq!(plan.tables[0].discarded.values, 3, "{plan}");
    plan.execute().unwrap();
}

#[test]
fn lost_seal_of_a_truncated_segment_is_detected() {
    let scenario = scenarios::sealed();
    let harness = scenario.copy();
    let cut = scenario.plan(&harness).unwrap().tables[0].segment_truncated.unwrap();
    scenario.execute(&harness).unwrap();
    let path = format!("/r0/t/segments/{cut}.metadata");
    assert!(harness.files(&path) == [path.clone()]);
    harness.fs.remove_raw(&path);
    let before = image(&harness.fs);
    let error = harness.open().existing_table("t").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&path), "{error}");
    assert!(before.iter().all(|(name, _)| harness.files(name).contains(name)));
}

#[test]
fn reappearing_completed_intent_is_only_removed() {
    let harness = interrupted(is_done);
    let intent = harness.fs.read_raw(INTENT);
    assert!(contents_of(&fork(&harness)) == scenarios::everything().new);
    let db = harness.open();
    let tables = db.tables().unwrap();
    db.drop_table(tables[0].as_str()).unwrap();
    for name in &tables {
        put_groups(&db.table(name.as_str(), small()).unwrap(), 40..50);
    }
    db.close().unwrap();
    drop(db);
    let expected = contents_of(&harness);
    harness.fs.write_raw(INTENT, intent);
    assert!(contents_of(&harness) == expected);
    harness.open().close().unwrap();
    assert_eq!(harness.files(INTENT), Vec::<String>::new());
    rollback(&harness).on_no_match(NoMatch::Keep).plan(|_| Ok(lithdb::Verdict::Keep)).unwrap();
}
