//! Power loss at every operation of every script, and again during the opening that follows.
//!
//! A script runs once to count its operations; then the power fails after each of them, and
//! images that the disk may be left with are opened and compared with the model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![expect(clippy::let_underscore_must_use, reason = "runs end where the power fails")]

mod support;

use lithdb_sim::{CrashImage, Effort, Tally};
use lithdb_state::{Durability, StateOptions};
use support::expect::{Expect, check_disk, check_open, go_on};
use support::script::{Op, Run, Script, Store};
use support::{Harness, difference, images, small, without_openings};

/// Crashes the script after every operation from the `first`-th; every `nested`-th image also
/// during the opening.
fn every_crash(script: &Script, first: u64, nested: u64) -> Tally {
    let name = script.name;
    let mut tally = Tally::new(format!("crashes of a state store: {name}"));
    let nested = (nested / Effort::from_env().times(1)).max(1);
    let mut run = Run::new(script);
    run.until_error().unwrap_or_else(|e| panic!("{name}: {e}"));
    let count = run.harness.fs.ops();
    drop(run);
    let mut turn = 0_u64;
    for k in first..=count {
        let mut run = Run::new(script);
        run.harness.fs.crash_after(k);
        run.is_checked = false;
        let _ = run.until_error();
        let Run { harness, expect, mut bytes, store, views, .. } = run;
        drop((store, views));
        tally.add("crash points", 1);
        for image in images(&harness.fs, name, k, if count < 400 { 2 } else { 1 }) {
            let context = format!("{name}, crash after {k} of {count}, {image:?}");
            let found = harness.after_crash(&image);
            check_disk(&found, &expect, &context);
            bytes.check(&found, &context);
            turn += 1;
            let raw = turn.is_multiple_of(nested).then(|| found.fork());
            let after = check_image(script, &found, &expect, turn, &context, &mut tally);
            bytes.check(&found, &context);
            tally.add("images", 1);
            if let Some(raw) = raw {
                crash_in_opening(script, &raw, &after, &expect, &context, &mut tally);
            }
        }
    }
    tally
}

/// Opens an image and compares it with the model; for some, opens it again and uses it.
fn check_image(
    script: &Script,
    harness: &Harness,
    expect: &Expect,
    turn: u64,
    context: &str,
    tally: &mut Tally,
) -> Expect {
    let store = Store::try_open(script, harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    let found = check_open(&store, harness, expect, context);
    let report = store.state().opened();
    tally.add("images with a replay", u64::from(report.replayed > 0));
    tally.add("images with a new clone", u64::from(report.recloned.is_some()));
    tally.add("images with leftovers", u64::from(!report.leftovers.is_empty()));
    tally.add("images with snapshots", u64::from(!store.state().snapshots().unwrap().is_empty()));
    if let Some(target) = expect.undecided {
        let is_cut = store.state().version() == target;
        tally.add(if is_cut { "images rolled back" } else { "images not rolled back" }, 1);
        tally.add("images with abandoned snapshots", u64::from(!report.abandoned.is_empty()));
    }
    let replayed = report.replayed;
    drop(store);
    if turn.is_multiple_of(4) {
        open_again(script, harness, &found, replayed, context);
        tally.add("images opened twice", 1);
    }
    if turn.is_multiple_of(6) {
        go_on(script, harness, found.clone(), context);
        tally.add("images gone on with", 1);
    }
    found
}

/// Opening again finds the same, and changes nothing.
fn open_again(script: &Script, harness: &Harness, found: &Expect, replayed: u64, context: &str) {
    let context = format!("{context}, opened again");
    let before = without_openings(harness.tree("/"));
    let store = Store::try_open(script, harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    let again = check_open(&store, harness, found, &context);
    assert_eq!(again.durable, found.durable, "{context}");
    let report = store.state().opened();
    assert!(report.recloned.is_none() && report.leftovers.is_empty(), "{context}: {report:?}");
    assert!(report.abandoned.is_empty() && report.rollback.is_none(), "{context}: {report:?}");
    assert!(report.replayed <= replayed, "{context}: {report:?}");
    drop(store);
    let after = without_openings(harness.tree("/"));
    assert_eq!(difference(&before, &after), None, "{context}");
}

/// The power fails again at every operation of the opening. Nothing is committed by it, so the
/// next one must find what this one would have found.
fn crash_in_opening(
    script: &Script,
    raw: &Harness,
    found: &Expect,
    expect: &Expect,
    context: &str,
    tally: &mut Tally,
) {
    let opened = raw.fork();
    drop(Store::try_open(script, &opened).unwrap_or_else(|e| panic!("{context}: {e}")));
    let count = opened.fs.ops();
    let (seed, is_deep) = (Effort::from_env().seed(context), Effort::from_env().is_deep());
    for j in (0..count).filter(|j| is_deep || j % 2 == seed % 2) {
        let again = raw.fork();
        again.fs.crash_after(j);
        drop(Store::try_open(script, &again));
        tally.add("nested crash points", 1);
        let seeded = CrashImage::Seeded(seed.wrapping_add(j));
        let all = [CrashImage::Nothing, CrashImage::Everything, seeded];
        let images =
            if Effort::from_env().is_deep() { &all[..] } else { &all[j as usize % 3..][..1] };
        for image in images {
            let context = format!("{context}; then after {j} of {count} of opening, {image:?}");
            let after = again.after_crash(image);
            let mut expect = expect.clone();
            // What this opening was replacing may be half replaced.
            expect.is_settled = false;
            check_disk(&after, &expect, &context);
            let store = Store::try_open(script, &after);
            let store = store.unwrap_or_else(|e| panic!("{context}: {e}"));
            let later = check_open(&store, &after, &expect, &context);
            assert_eq!(later.durable, found.durable, "{context}: another version than before");
            tally.add("nested images", 1);
        }
    }
}

fn on_flush() -> StateOptions {
    small().durability(Durability::OnFlush)
}

/// Every script must have crashed, replayed and been gone on with often enough.
fn crash(script: &Script, nested: u64, at_least: &[(&str, u64)]) {
    // The creation has a script of its own.
    let mut run = Run::new(script);
    run.open().unwrap();
    crash_from(run.harness.fs.ops(), script, nested, at_least);
}

fn crash_from(first: u64, script: &Script, nested: u64, at_least: &[(&str, u64)]) {
    let tally = every_crash(script, first, nested);
    for (what, least) in at_least {
        assert!(tally.get(what) >= *least, "{}: {what}: {tally:?}", script.name);
    }
    let images = tally.get("images");
    assert!(images > tally.get("crash points") * 3 / 2, "{tally:?}");
    assert!(tally.get("images opened twice") >= images / 4, "{tally:?}");
    assert!(tally.get("images gone on with") >= images / 6, "{tally:?}");
    assert!(tally.get("nested images") >= tally.get("nested crash points"), "{tally:?}");
}

#[test]
fn creation_and_durable_commits_survive_every_crash() {
    let ops = [
        Op::Commit,
        Op::Apply,
        Op::Commit,
        Op::Empty,
        Op::Apply,
        Op::Discard,
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::Commit,
    ];
    let least = [("images", 380), ("images with a replay", 110), ("nested images", 500)];
    crash_from(0, &Script::new("create and commit", small().initial_version(7), &ops), 17, &least);
}

#[test]
fn commits_that_are_durable_on_flush_survive_every_crash() {
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Flush,
        Op::Commit,
        Op::Apply,
        Op::Commit,
        Op::Kill,
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::Close,
        Op::Commit,
    ];
    let least = [("images", 400), ("images with a replay", 250), ("nested images", 300)];
    crash(&Script::new("commits on flush", on_flush(), &ops), 17, &least);
}

/// Every memtable of two or three versions is flushed, and the runs are merged.
#[test]
fn flushes_and_compaction_survive_every_crash() {
    let ops = [Op::Commit; 9];
    let least = [("images", 300), ("images with a replay", 150), ("nested images", 250)];
    let options = on_flush().memtable_bytes(1200);
    crash(&Script::new("flush by size", options, &ops), 19, &least);
    let options = small().memtable_bytes(1);
    crash(&Script::new("flush of every version", options, &ops[..4]), 19, &[("images", 300)]);
}

#[test]
fn snapshots_survive_every_crash() {
    let ops = [
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Commit,
        Op::Snapshot,
        Op::Snapshot,
        Op::Commit,
        Op::Close,
        Op::Commit,
        Op::Snapshot,
    ];
    let least = [("images", 400), ("images with snapshots", 400), ("images with leftovers", 35)];
    crash(&Script::new("snapshots on demand", on_flush(), &ops), 31, &least);
}

/// The newest snapshot and one more are kept; the log's segments, of two versions each, go.
#[test]
fn retention_and_collection_of_the_log_survive_every_crash() {
    let mut options = on_flush().snapshot_interval(2).keep_snapshots(1);
    options.wal = options.wal.segment_keys(2);
    let mut ops = vec![Op::Commit; 8];
    ops.extend([Op::Kill, Op::Commit, Op::Prune(9), Op::Commit]);
    let least = [("images", 900), ("images with snapshots", 700), ("images with leftovers", 400)];
    crash(&Script::new("retention", options, &ops), 61, &least);
}

#[test]
fn closing_and_catching_up_survive_every_crash() {
    let ops = [
        Op::Commit,
        Op::Close,
        Op::Commit,
        Op::Kill,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Kill,
        Op::Kill,
        Op::Close,
        Op::Commit,
    ];
    let least = [("images", 500), ("images with a replay", 300), ("nested images", 150)];
    let options = small().memtable_bytes(900).flush_on_close(false);
    crash(&Script::new("close and catch up", options, &ops), 41, &least);
}

#[test]
fn cloning_the_working_copy_again_survives_every_crash() {
    let ops = [
        Op::Commit,
        Op::LoseWorking,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Commit,
        Op::LoseWorking,
        Op::Commit,
        Op::LoseWorking,
    ];
    let least = [("images", 500), ("images with a new clone", 200), ("nested images", 200)];
    crash(&Script::new("clone again", small(), &ops), 41, &least);
}

/// A view that outgrows memory has a clone on disk, which the next opening removes.
#[test]
fn views_that_outgrow_memory_survive_every_crash() {
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::View(2),
        Op::Snapshot,
        Op::Commit,
        Op::Commit,
        Op::View(4),
        Op::Commit,
    ];
    let least = [("images", 350), ("images with leftovers", 60), ("nested images", 150)];
    let options = on_flush().view_memory_bytes(0);
    crash(&Script::new("views in clones", options, &ops), 31, &least);
}

/// What a rollback must have met.
const ROLLED_BACK: [(&str, u64); 4] = [
    ("images", 700),
    ("images rolled back", 50),
    ("images not rolled back", 60),
    ("images with abandoned snapshots", 40),
];

#[test]
fn a_rollback_is_done_or_not_after_every_crash() {
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Rollback(3),
        Op::Commit,
        Op::Snapshot,
        Op::Kill,
        Op::Apply,
        Op::Rollback(1),
        Op::Commit,
        Op::Snapshot,
    ];
    crash(&Script::new("rollback", small(), &ops), 149, &ROLLED_BACK);
}

#[test]
fn a_rollback_of_a_stopped_store_is_done_or_not_after_every_crash() {
    let mut options = on_flush().snapshot_interval(2).keep_snapshots(9);
    options.wal = options.wal.segment_keys(2);
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::StoppedRollback(3),
        Op::Commit,
        Op::Commit,
    ];
    crash(&Script::new("rollback of a stopped store", options, &ops), 149, &ROLLED_BACK);
}

/// One rollback takes blocks and state back together.
#[test]
fn a_rollback_of_a_shared_database_is_done_or_not_after_every_crash() {
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::AppRollback(2),
        Op::Commit,
        Op::Snapshot,
    ];
    crash(&Script::shared("rollback of a shared database", small(), &ops), 149, &ROLLED_BACK);
}
