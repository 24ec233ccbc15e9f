//! Every operation of a rollback fails, once or persistently; and the disk is full at every size.
//! Whatever the rollback returned, the next open finds all tables at the old state or all at the
//! new one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb::{ErrorKind, NoMatch, Rollback};
use lithdb_env::Env;
use lithdb_env::Fs;
use lithdb_sim::{CrashImage, Effort, Fault, OpKind, Pages, Tally};
use parking_lot::Mutex;
use support::Harness;
use support::rollback_fixture::hook::HookFs;
use support::rollback_fixture::{self, filter, image, rollback};
use support::scenarios::{self, Scenario};

/// The operations of an execution, in order.
fn operations(scenario: &Scenario) -> Vec<(OpKind, PathBuf)> {
    let run = scenario.copy();
    let log = Arc::new(Mutex::new(BTreeMap::new()));
    let env = rollback_fixture::env(&run);
    let (recorded, fs) = (Arc::clone(&log), run.fs.clone());
    let hooked = HookFs::new(Arc::clone(&env.fs), move |kind, path, _| {
        recorded.lock().insert(fs.ops(), (kind, path.to_owned()));
    });
    let env = Env { fs: Arc::new(hooked), ..env };
    let plan = Rollback::new(["/r0", "/r1"]).env(env).on_no_match(scenario.no_match);
    plan.plan(filter(scenario.keep)).unwrap().execute().unwrap();
    let mut log = log.lock().clone();
    // The hook does not see writes to the two lock files: the process id, and the truncation after
    // it.
    let unheard = (0..run.fs.ops()).filter(|at| !log.contains_key(at)).collect::<Vec<_>>();
    assert_eq!(unheard.len(), 4);
    log.extend(unheard.into_iter().map(|at| (at, (OpKind::SetLen, PathBuf::from("lith.lock")))));
    log.into_values().collect()
}

const LOST: Fault = Fault::FailedSync { pages: Pages::Lost };
const PARTLY: Fault = Fault::FailedSync { pages: Pages::PartlyLost };
const CLEAN: Fault = Fault::FailedSync { pages: Pages::ReadableAndClean };

fn faults(kind: OpKind) -> Vec<(Fault, bool)> {
    let mut faults = vec![(Fault::Eio, false), (Fault::Eio, true)];
    if !matches!(kind, OpKind::RemoveFile | OpKind::RemoveDir) {
        faults.extend([(Fault::NoSpace, false), (Fault::NoSpace, true)]);
    }
    if matches!(kind, OpKind::CreateNew | OpKind::SyncDir) {
        faults.extend([(Fault::TooManyFiles, false), (Fault::TooManyFiles, true)]);
    }
    match kind {
        OpKind::Write => faults.extend([
            (Fault::ShortWrite, false),
            (Fault::Interrupted, false),
            (Fault::Interrupted, true),
        ]),
        OpKind::SyncData | OpKind::SyncAll | OpKind::SyncDir => {
            faults.extend([(LOST, false), (PARTLY, false), (CLEAN, false)]);
        }
        _ => {}
    }
    faults
}

/// No program can defend against this: after a failed sync, every later sync of a `segments`
/// directory succeeds and does nothing. The rollback fails and can still be finished; but a
/// process that opens the database before a crash finishes it with ineffective syncs, and the next
/// power failure undoes part of it. (See `crates/table/tests/faults.rs`. The directory of the
/// intent has the same problem; but losing the intent matters only if the power fails half-way
/// through its execution.)
fn is_unrecoverable(kind: OpKind, path: &Path, fault: Fault) -> bool {
    kind == OpKind::SyncDir && fault == CLEAN && path.ends_with("segments")
}

#[derive(Debug, Default)]
struct Count {
    operations: u64,
    faults: u64,
    images: u64,
    failed: u64,
    new: u64,
    /// Faults that no program can handle, and how often one did harm.
    excused: u64,
    lost: u64,
}

/// Executes with a fault; returns whether the execution succeeded.
fn broken(
    scenario: &Scenario,
    at: u64,
    fault: Fault,
    sticky: bool,
    context: &str,
) -> (Harness, bool) {
    let run = scenario.copy();
    run.fs.fail_op(at + 1, fault, sticky);
    let done = scenario.execute(&run);
    assert!(run.fs.faults_hit() > 0, "{context}: the fault never triggered");
    if matches!(fault, Fault::ShortWrite | Fault::Interrupted) {
        assert!(done.is_ok(), "{context}: {done:?}");
    }
    if let Err(error) = &done {
        let kinds = [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Exhausted];
        assert!(kinds.contains(&error.kind()), "{context}: {error}");
    }
    run.fs.clear_faults();
    (run, done.is_ok())
}

fn every_fault(scenario: &Scenario) -> Count {
    let (mut count, effort) = (Count::default(), Effort::from_env());
    for (at, (kind, path)) in operations(scenario).into_iter().enumerate() {
        let at = at as u64;
        count.operations += 1;
        for (fault, sticky) in faults(kind) {
            let how = if sticky { "from then on" } else { "once" };
            let path_shown = path.display();
            let context =
                format!("{}, {fault:?} {how} at {at}, {kind:?} {path_shown}", scenario.name);
            let (run, is_done) = broken(scenario, at, fault, sticky, &context);
            count.faults += 1;
            count.failed += u64::from(!is_done);
            // The power fails.
            let mut images = vec![CrashImage::Nothing];
            let seed = effort.seed(scenario.name).wrapping_add(at * 1009);
            images.extend((0..effort.times(1)).map(|n| CrashImage::Seeded(seed.wrapping_add(n))));
            for image in images {
                let context = format!("{context}, {image:?}");
                scenario.check(&run.after_crash(&image), is_done, &context);
                count.images += 1;
            }
            // Another process opens the database with the page cache intact; then the power fails.
            let context = format!("{context}; opened before a crash");
            let (run, _) = broken(scenario, at, fault, sticky, &context);
            let served = scenario.check(&run, is_done, &context);
            count.new += u64::from(*served == scenario.new);
            let context = format!("{context}, and crashed");
            let crash = || {
                let after = run.after_crash(&CrashImage::Nothing);
                let again = match (at + u64::from(sticky)) % 4 {
                    0 => scenario.check_all(&after, is_done, &context),
                    _ => scenario.check(&after, is_done, &context),
                };
                assert!(served == again, "{context}: another state than before");
            };
            if is_unrecoverable(kind, &path, fault) {
                count.excused += 1;
                count.lost += u64::from(catch_unwind(AssertUnwindSafe(crash)).is_err());
            } else {
                crash();
            }
            count.images += 1;
        }
    }
    let mut tally = Tally::new(format!("faults of a rollback: {}", scenario.name));
    tally.add("operations", count.operations);
    tally.add("error points", count.faults);
    tally.add("images", count.images);
    tally.add("excused: a directory whose syncs lie", count.excused);
    assert!(count.operations > 40 && count.faults > 200 && count.failed > 100, "{count:?}");
    assert!(count.new > 30 && count.excused < count.faults / 20, "{count:?}");
    count
}

#[test]
fn truncation_in_a_sealed_segment_survives_every_fault() {
    let count = every_fault(&scenarios::sealed());
    assert!(count.lost > 0, "no fault needs an excuse: {count:?}");
}

#[test]
fn truncation_in_the_unsealed_segment_survives_every_fault() {
    let count = every_fault(&scenarios::unsealed());
    assert!(count.lost > 0, "no fault needs an excuse: {count:?}");
}

#[test]
fn truncation_at_a_segment_end_survives_every_fault() {
    let count = every_fault(&scenarios::end_of_segment());
    assert!(count.lost > 0, "no fault needs an excuse: {count:?}");
}

#[test]
fn clearing_a_table_survives_every_fault() {
    let count = every_fault(&scenarios::clear());
    assert_eq!(count.lost, 0, "what comes back is below the watermark: {count:?}");
}

#[test]
fn rollback_of_several_tables_survives_every_fault() {
    let count = every_fault(&scenarios::everything());
    assert!(count.lost > 0, "no fault needs an excuse: {count:?}");
}

/// The disk space that a copy of the scenario uses, in blocks of 4 KiB, without slack.
fn blocks_in_use(scenario: &Scenario) -> u64 {
    let fits = |blocks: u64| {
        let run = scenario.copy();
        run.fs.set_capacity(Some(blocks * 4096));
        run.fs.free_space("/r0".as_ref()).unwrap()
    };
    (1..10_000).find(|blocks| fits(*blocks) > 0).unwrap() - 1
}

/// A disk of any size: either the rollback is refused for lack of space and nothing has changed,
/// or it completes.
fn every_size(scenario: &Scenario) {
    let (mut refused, mut done) = (0_u64, 0);
    let used = blocks_in_use(scenario);
    for blocks in used.. {
        let context = format!("{}, {} free blocks", scenario.name, blocks - used);
        let run = scenario.copy();
        run.fs.set_capacity(Some(blocks * 4096));
        let result = scenario.execute(&run);
        if let Err(error) = &result {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{context}: {error}");
            refused += 1;
        }
        run.fs.set_capacity(None);
        let found = rollback_fixture::contents_of(&run);
        let expected = if result.is_ok() { &scenario.new } else { &scenario.old };
        assert!(found == *expected, "{context}: {result:?}");
        scenario.check_all(&run, result.is_ok(), &context);
        done += u32::from(result.is_ok());
        if done > 2 {
            break;
        }
    }
    let mut tally = Tally::new(format!("rollback on a full disk: {}", scenario.name));
    tally.add("sizes that were too small", refused);
    assert!(refused > 0 || scenario.no_match == NoMatch::Clear, "{}", scenario.name);
}

#[test]
fn rollback_on_a_nearly_full_disk_completes_or_is_refused() {
    for scenario in [
        scenarios::sealed(),
        scenarios::unsealed(),
        scenarios::end_of_segment(),
        scenarios::clear(),
        scenarios::everything(),
        scenarios::linked(),
    ] {
        every_size(&scenario);
    }
}

#[test]
fn decided_rollback_finishes_on_a_full_disk() {
    for scenario in
        [scenarios::sealed(), scenarios::unsealed(), scenarios::clear(), scenarios::everything()]
    {
        let run = scenario.copy();
        scenario.execute(&run).unwrap();
        let total = run.fs.ops();
        let mut finished = 0;
        for k in 0..total {
            let run = scenario.copy();
            run.fs.crash_after(k);
            assert!(scenario.execute(&run).is_err());
            for image in [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(k)] {
                let after = run.after_crash(&image);
                if !after.files("/r0/rollback.intent").contains(&"/r0/rollback.intent".to_owned()) {
                    continue;
                }
                let context = format!("{}, crash after {k}, {image:?}", scenario.name);
                after.fs.set_capacity(Some(1));
                if k % 2 == 0 {
                    let report = rollback(&after).finish();
                    let report = report.unwrap_or_else(|e| panic!("{context}: finish: {e}"));
                    assert!(report.unwrap().finished_later);
                } else {
                    let db = after.try_open();
                    db.unwrap_or_else(|e| panic!("{context}: open: {e}")).close().unwrap();
                }
                assert_eq!(rollback(&after).finish().unwrap(), None, "{context}");
                // It can be read on the full disk, too.
                let db = after.read();
                assert!(rollback_fixture::contents(&db, &context) == scenario.new, "{context}");
                finished += 1;
            }
        }
        assert!(finished > 20, "{}: {finished}", scenario.name);
    }
}

/// An undecided rollback leaves no prepared files, wherever it failed.
#[test]
fn rollback_failing_before_its_decision_leaves_no_file() {
    for scenario in
        [scenarios::sealed(), scenarios::unsealed(), scenarios::everything(), scenarios::linked()]
    {
        let before = names(&scenario.copy());
        let operations = operations(&scenario);
        let is_decision = |(kind, path): &(OpKind, PathBuf)| {
            *kind == OpKind::Rename && path.ends_with("rollback.intent.new")
        };
        let decided = operations.iter().position(is_decision).unwrap();
        for (at, (kind, path)) in operations.iter().enumerate().take(decided + 1) {
            let context = format!("{}, at {at}, {kind:?} {}", scenario.name, path.display());
            let run = scenario.copy();
            run.fs.fail_op(at as u64 + 1, Fault::Eio, false);
            let Err(error) = scenario.execute(&run) else { continue };
            assert!(run.files("/r0/rollback.intent").is_empty(), "{context}: {error}");
            // The attempt may have sealed the unsealed segment: that does not change its contents.
            let left = names(&run).into_iter().filter(|name| !before.contains(name));
            let left: Vec<_> = left.filter(|name| name.ends_with(".new")).collect();
            // Except the metadata of that seal, if its rename failed: the next open removes it.
            let is_excused = path.to_string_lossy().ends_with("metadata.new");
            assert!(left.is_empty() || is_excused, "{context}: {left:?}");
            assert!(rollback_fixture::contents_of(&run) == scenario.old, "{context}");
            // The same rollback works now.
            scenario.execute(&run).unwrap_or_else(|e| panic!("{context}: again: {e}"));
            assert!(rollback_fixture::contents_of(&run) == scenario.new, "{context}");
        }
        assert!(decided > 20, "{}: {decided}", scenario.name);
    }
}

fn names(harness: &Harness) -> Vec<String> {
    image(&harness.fs).into_iter().map(|(name, _)| name).collect()
}
