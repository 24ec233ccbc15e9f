//! Every operation and every read of every step fails, once or from then on; and the disk is full
//! at every size. Nothing that was acknowledged is lost, no wrong byte is returned, and what was
//! refused changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub)]

#[path = "faults/driver.rs"]
mod driver;
#[path = "faults/full_disk.rs"]
mod full_disk;
#[path = "faults/opening.rs"]
mod opening;
#[path = "faults/refusals.rs"]
mod refusals;
#[path = "pitfalls/refuse.rs"]
mod refuse;
mod support;

use driver::{THEN, advance, every_fault, faults_of, one_fault, prepared};
use lithdb_sim::{CrashImage, Fault, Tally};
use lithdb_state::{Durability, StateOptions};
use support::expect::check_open;
use support::script::{Op, Script, Store};
use support::{App, small};

fn check(tally: &Tally, at_least: &[(&str, u64)]) {
    for (what, least) in at_least {
        assert!(tally.get(what) >= *least, "{what}: {tally:?}");
    }
    let all = tally.get("faults") + tally.get("read faults");
    assert!(tally.get("faults that did not apply") < all / 3, "{tally:?}");
    assert!(tally.get("images") >= all / 2, "{tally:?}");
}

fn on_flush() -> StateOptions {
    small().durability(Durability::OnFlush)
}

/// A directory that cannot be opened for its sync latches nothing, and what was renamed or removed
/// in it is not durable: nothing later may rely on it.
#[test]
fn a_directory_that_was_not_synced_is_not_relied_upon() {
    let mut options = on_flush().snapshot_interval(2).keep_snapshots(1);
    options.wal = options.wal.segment_keys(2);
    let retention = Script::new("retention", options, &[Op::Commit; 8]);
    let ops = [Op::Commit, Op::Snapshot, Op::Commit, Op::Snapshot];
    let on_demand = Script::new("on demand", small(), &ops);
    let ops = [Op::Commit, Op::Snapshot, Op::Commit, Op::LoseWorking, Op::Commit];
    let clone = Script::new("clone", small(), &ops);
    let mut tally = Tally::new("faults of a state store: directories without a sync");
    for (script, steps) in [(&retention, 4..=8), (&on_demand, 2..=4), (&clone, 4..=4)] {
        for step in steps {
            let mut all = faults_of(script, step, 1);
            all.retain(|(planned, place)| {
                planned.fault == Fault::TooManyFiles && place.starts_with("SyncDir")
            });
            for (planned, place) in all {
                for n in 0..6 {
                    let (turn, then) = (n / 3, THEN[n as usize % 3]);
                    let context = format!("{}, step {step}, {place}; {then:?}", script.name);
                    one_fault(script, step, planned, then, turn, &context, &mut tally);
                }
            }
        }
    }
    check(&tally, &[("faults", 300), ("gone on", 60), ("killed", 100)]);
}

/// A snapshot that an opening finds by its name allows the log to lose the versions below it: so
/// opening makes its name durable.
#[test]
fn a_snapshot_that_is_found_is_durable_before_the_log_is_collected() {
    let mut options = small();
    options.wal = options.wal.segment_keys(1);
    let ops = [Op::Commit, Op::Commit, Op::Commit, Op::Snapshot];
    let script = Script::shared("found", options, &ops);
    let (mut found, mut collected) = (0, 0);
    for (planned, place) in faults_of(&script, 4, 1) {
        if planned.fault != Fault::TooManyFiles || !place.starts_with("SyncDir") {
            continue;
        }
        let mut run = prepared(&script, 4);
        planned.plan(&run.harness);
        let is_taken = advance(&mut run, 4).is_ok();
        run.harness.fs.clear_faults();
        drop(run.store.take());
        run.harness.fs.release_locks();
        let app = App::open(&run.harness).unwrap();
        found += u64::from(!is_taken && !app.state.snapshots().unwrap().is_empty());
        let log = app.db.existing_table("state").unwrap();
        log.seal().unwrap();
        collected += u64::from(log.run_gc().unwrap().segments > 0);
        drop((log, app));
        let after = run.harness.after_crash(&CrashImage::Nothing);
        let store = Store::try_open(&script, &after).unwrap_or_else(|e| panic!("{place}: {e}"));
        check_open(&store, &after, &run.expect, &place);
    }
    assert!(found > 0 && collected > 0, "{found}, {collected}");
}

#[test]
fn faults_at_every_operation_of_the_creation() {
    let script = Script::new("creation", small(), &[Op::Commit, Op::Snapshot]);
    let least = [("faults", 200), ("read faults", 40), ("opened again", 60), ("failed steps", 200)];
    check(&every_fault(&script, &[0], 2), &least);
}

#[test]
fn faults_at_every_operation_of_commits_and_flushes() {
    let ops = [Op::Commit, Op::Commit, Op::Apply, Op::Commit, Op::Commit, Op::Flush, Op::Commit];
    let script = Script::new("durable commits", small().memtable_bytes(900), &ops);
    let least = [("faults", 120), ("latched", 70), ("gone on", 15), ("failed steps", 50)];
    check(&every_fault(&script, &[2, 4, 5], 2), &least);
    let script = Script::new("commits on flush", on_flush(), &ops);
    let least = [("faults", 60), ("latched", 40), ("gone on", 8), ("failed steps", 30)];
    check(&every_fault(&script, &[2, 5, 6], 2), &least);
}

#[test]
fn faults_at_every_operation_of_snapshots_and_retention() {
    let mut options = on_flush().snapshot_interval(2).keep_snapshots(1);
    options.wal = options.wal.segment_keys(2);
    let ops = [Op::Commit; 8];
    let script = Script::new("snapshots and retention", options, &ops);
    let least = [("faults", 500), ("latched", 250), ("gone on", 100), ("read faults", 150)];
    check(&every_fault(&script, &[2, 4, 6], 2), &least);
    let ops = [Op::Commit, Op::Snapshot, Op::Commit, Op::Commit, Op::Snapshot, Op::Prune(3)];
    let script = Script::new("snapshots on demand", small(), &ops);
    let least = [("faults", 120), ("latched", 60), ("gone on", 20), ("failed steps", 60)];
    check(&every_fault(&script, &[2, 6], 2), &least);
}

#[test]
fn faults_at_every_operation_of_closing_and_catching_up() {
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Kill,
        Op::Commit,
        Op::Snapshot,
        Op::Commit,
        Op::Commit,
        Op::Close,
        Op::LoseWorking,
        Op::Commit,
    ];
    let script = Script::new("close and catch up", on_flush().memtable_bytes(1500), &ops);
    let least = [("faults", 300), ("read faults", 250), ("opened again", 100), ("gone on", 15)];
    check(&every_fault(&script, &[3, 8, 9], 2), &least);
}

#[test]
fn faults_at_every_operation_of_a_rollback() {
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
        Op::StoppedRollback(3),
    ];
    let script = Script::new("rollback", small(), &ops);
    let least = [("faults", 350), ("read faults", 350), ("opened again", 150), ("gone on", 10)];
    check(&every_fault(&script, &[8, 10], 4), &least);
    let ops = [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::Snapshot, Op::AppRollback(2)];
    let script = Script::shared("rollback of a shared database", small(), &ops);
    check(&every_fault(&script, &[6], 4), &[("faults", 250), ("read faults", 250)]);
}

/// Every operation and every read of a view of a past version, in memory and in a clone. The writer
/// knows nothing of it.
#[test]
fn faults_of_every_view_of_a_past_version_return_no_wrong_row_and_latch_nothing() {
    let ops = [
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::View(2),
        Op::Snapshot,
        Op::Commit,
        Op::Commit,
        Op::Commit,
        Op::View(3),
        Op::View(5),
    ];
    for limit in [0, 1 << 30] {
        let script = Script::new("views", on_flush().view_memory_bytes(limit), &ops);
        let tally = every_fault(&script, &[4, 9, 10], 2);
        assert_eq!(tally.get("latched"), 0, "{tally:?}");
        assert!(tally.get("read faults") > 60, "{tally:?}");
        assert!(tally.get("failed steps") > 60, "{tally:?}");
        assert!(limit > 0 || tally.get("faults") > 60, "{tally:?}");
    }
}

/// Every operation and every read of a verification by a replay, in memory and in a clone: an error
/// or a sound store, never a finding.
#[test]
fn faults_of_every_verification_by_a_replay_are_no_finding_and_latch_nothing() {
    for limit in [0, 1 << 30] {
        let script = Script::new("verify", on_flush().view_memory_bytes(limit), &VERIFY);
        let tally = every_fault(&script, &[VERIFY.len()], 2);
        assert_eq!(tally.get("latched"), 0, "{tally:?}");
        assert!(tally.get("read faults") > 60, "{tally:?}");
        assert!(tally.get("failed steps") > 60, "{tally:?}");
        assert!(tally.get("faults") > 30, "{tally:?}");
    }
}

/// Two snapshots and a newer working copy; the base is the empty state.
const VERIFY: [Op; 8] = [
    Op::Commit,
    Op::Commit,
    Op::Snapshot,
    Op::Commit,
    Op::Commit,
    Op::Snapshot,
    Op::Commit,
    Op::Verify,
];
