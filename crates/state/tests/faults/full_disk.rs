//! A disk of every size: a call without space is an error that loses nothing, and works once there
//! is space again, without reopening.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_env::Fs;
use lithdb_sim::{CrashImage, Fault, OpKind, Tally};
use lithdb_state::{ErrorKind, StateDb, StateEvent};

use super::driver::{advance, has_failed, is_in_the_log, prepared};
use super::refuse::RefuseFs;
use super::support::expect::{check_disk, check_open};
use super::support::model::{Change, Model, change_sets, changes_of};
use super::support::script::{Op, Run, Script, Store};
use super::support::{self, Harness, small};
use super::{VERIFY, on_flush};

/// The disk space that is in use, in blocks of 4 KiB.
fn blocks_in_use(harness: &Harness) -> u64 {
    let copy = harness.fork();
    let fits = |blocks: u64| {
        copy.fs.set_capacity(Some(blocks * 4096));
        copy.fs.free_space("/".as_ref()).unwrap() > 0
    };
    (1..100_000).find(|blocks| fits(*blocks)).unwrap() - 1
}

/// From step `step` on the disk has no free blocks, then more and more until everything fits;
/// `least` sizes must be too small.
fn every_size(script: &Script, step: usize, least: u64) {
    let mut tally = Tally::new(format!("state store on a full disk: {}", script.name));
    for free in 0.. {
        let context = format!("{}, {free} free blocks", script.name);
        let mut run = prepared(script, step);
        let used = blocks_in_use(&run.harness);
        run.harness.fs.set_capacity(Some((used + free) * 4096));
        let mut refused = 0;
        for number in step..=script.ops.len() {
            let Err(error) = advance(&mut run, number) else { continue };
            let context = format!("{context}, step {number}: {error}");
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{context}");
            refused += 1;
            if run.store.is_none() {
                // Opening found no space; the same disk with more space is opened.
                run.harness.fs.set_capacity(None);
                run.open().unwrap_or_else(|e| panic!("{context}; open: {e}"));
                break;
            }
            assert!(!has_failed(&mut run, true, &context), "{context}: latched");
            run.harness.fs.set_capacity(None);
            run.is_checked = true;
            advance(&mut run, number).unwrap_or_else(|e| panic!("{context}; again: {e}"));
        }
        run.harness.fs.set_capacity(None);
        let failed = run.db().stats().failure;
        assert_eq!(failed, None, "{context}: a full disk latches nothing");
        run.step_op(Op::Commit).unwrap_or_else(|e| panic!("{context}: commit: {e}"));
        run.step_op(Op::Snapshot).unwrap_or_else(|e| panic!("{context}: snapshot: {e}"));
        tally.add("sizes", 1);
        tally.add("refused calls", refused);
        let expect = run.expect.clone();
        drop(run.store.take());
        let after = run.harness.after_crash(&CrashImage::Nothing);
        check_disk(&after, &expect, &context);
        check_open(&Store::try_open(script, &after).unwrap(), &after, &expect, &context);
        if refused == 0 && free > 0 {
            break;
        }
    }
    assert!(tally.get("refused calls") >= least, "{tally:?}");
}

#[test]
fn a_full_disk_refuses_commits_and_loses_nothing() {
    let ops = [Op::Commit; 6];
    every_size(&Script::new("durable commits", small().memtable_bytes(900), &ops), 3, 3);
    let ops = [Op::Commit, Op::Commit, Op::Flush, Op::Commit, Op::Flush, Op::Commit];
    every_size(&Script::new("commits on flush", on_flush().memtable_bytes(2000), &ops), 2, 3);
}

#[test]
fn a_full_disk_refuses_snapshots_and_they_are_tried_again() {
    let ops = [Op::Commit, Op::Snapshot, Op::Commit, Op::Commit, Op::Snapshot, Op::Commit];
    every_size(&Script::new("snapshots", small(), &ops), 5, 10);
}

#[test]
fn a_full_disk_refuses_to_open_and_the_store_opens_later() {
    let ops = [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::LoseWorking, Op::Commit];
    every_size(&Script::new("clone again", small().memtable_bytes(900), &ops), 5, 1);
}

#[test]
fn a_full_disk_refuses_a_rollback_and_nothing_is_lost() {
    let ops =
        [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::Commit, Op::StoppedRollback(3)];
    let script = Script::new("rollback", small(), &ops);
    let mut refused = 0;
    for free in 0..40 {
        let context = format!("rollback, {free} free blocks");
        let mut run = prepared(&script, 6);
        let used = blocks_in_use(&run.harness);
        run.harness.fs.set_capacity(Some((used + free) * 4096));
        let done = advance(&mut run, 6);
        if let Err(error) = &done {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{context}: {error}");
            refused += 1;
        }
        drop(run.store.take());
        run.harness.fs.set_capacity(None);
        let store = Store::try_open(&script, &run.harness).unwrap();
        check_open(&store, &run.harness, &run.expect, &context);
        if done.is_ok() {
            break;
        }
    }
    assert!(refused > 2, "{refused}");
}

#[test]
fn a_full_disk_refuses_to_verify_by_a_replay_and_is_no_finding() {
    for limit in [0, 1 << 30] {
        let options = small().view_memory_bytes(limit);
        every_size(&Script::new("verify", options, &VERIFY), VERIFY.len(), 1);
    }
}

/// The changes of names until no file can be created any more.
#[derive(Clone)]
struct Names(Arc<AtomicU64>);

impl Names {
    const MANY: u64 = u64::MAX / 2;

    /// Whether there is a name left, which is then used.
    fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    fn are_used_up(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

/// The state before a step, on a disk that takes no new files after `names` changes of names: one
/// without inodes, or on which others use up all space.
fn without_names(script: &Script, step: usize, names: u64) -> (Run<'_>, Names) {
    let (mut run, left) = (Run::new(script), Names(Arc::new(AtomicU64::new(Names::MANY))));
    run.is_checked = false;
    let taken = left.clone();
    let refuse = move |kind: OpKind, _: &Path| {
        let is_refused = !taken.take() && kind == OpKind::CreateNew;
        is_refused.then(|| io::Error::from(io::ErrorKind::StorageFull))
    };
    run.harness.wrapped = Some(Arc::new(RefuseFs::new(Arc::new(run.harness.fs.clone()), refuse)));
    for number in 0..step {
        advance(&mut run, number).unwrap();
    }
    left.0.store(names, Ordering::SeqCst);
    (run, left)
}

/// What may follow a commit that a full disk refused.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Repeat,
    Crash,
    OpenAgain,
    RollBack,
}

/// The log may have taken the version already, and only the seal of its segment before finds no
/// space: then the commit goes on from there, and nothing else can be committed in its place.
#[test]
fn a_disk_that_fills_up_during_a_commit_latches_nothing() {
    let script = Script::new("filled up", small(), &[Op::Commit; 6]);
    let mut tally = Tally::new("commits while somebody fills the disk");
    for step in 3..=5 {
        for after in [After::Repeat, After::Crash, After::OpenAgain, After::RollBack] {
            for names in 0.. {
                let context = format!("step {step}, {names} names, {after:?}");
                let (mut run, left) = without_names(&script, step, names);
                let done = advance(&mut run, step);
                if !left.are_used_up() {
                    break;
                }
                let Err(error) = done else { continue };
                let context = format!("{context}: {error}");
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{context}");
                let in_log = is_in_the_log(&error);
                tally.add(if in_log { "refused in the log" } else { "refused" }, 1);
                let attempted = run.expect.model.clone();
                assert!(!has_failed(&mut run, true, &context), "{context}: latched");
                if in_log {
                    stays_pending(run.db(), &attempted, &context);
                }
                left.0.store(Names::MANY, Ordering::SeqCst);
                goes_on(run, step, after, in_log, attempted, &context);
            }
        }
    }
    let counts = ["refused", "refused in the log"].map(|what| tally.get(what));
    assert!(counts[0] >= 4 && counts[1] >= 4, "{tally:?}");
}

/// A version that the log has and that is not durable: it can be committed, and not be changed.
fn stays_pending(db: &StateDb, attempted: &Model, context: &str) {
    let version = attempted.head();
    let root = attempted.at(version).root;
    assert_eq!(db.version(), version - 1, "{context}");
    let error = db.apply(version, &change_sets(&[Change::put("bank", "new", "")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{context}: {error}");
    db.apply(version, &change_sets(&changes_of(0, version))).unwrap();
    db.discard_pending();
    assert_eq!(db.pending().root().unwrap(), root, "{context}");
}

/// There is space again.
fn goes_on(
    mut run: Run<'_>,
    step: usize,
    after: After,
    in_log: bool,
    attempted: Model,
    context: &str,
) {
    if after != After::Repeat && in_log {
        // It may be there when the store is opened again.
        run.expect.model = attempted;
    }
    match after {
        After::Repeat => {
            run.is_checked = true;
            for number in step..=run.script.ops.len() {
                advance(&mut run, number).unwrap_or_else(|e| panic!("{context}; again: {e}"));
            }
        }
        After::Crash => {}
        After::OpenAgain => {
            drop(run.store.take());
            run.harness.fs.release_locks();
            run.open().unwrap_or_else(|e| panic!("{context}; open: {e}"));
        }
        After::RollBack => {
            let target = run.db().version();
            run.step_op(Op::Rollback(target)).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(run.db().version(), target, "{context}");
            run.step_op(Op::Commit).unwrap_or_else(|e| panic!("{context}; commit: {e}"));
        }
    }
    drop(run.store.take());
    let found = run.harness.after_crash(&CrashImage::Nothing);
    check_disk(&found, &run.expect, context);
    check_open(&Store::try_open(run.script, &found).unwrap(), &found, &run.expect, context);
}

/// A snapshot that finds no space is an event and a statistic; nothing of it stays; the next
/// interval takes one.
#[test]
fn a_failed_snapshot_leaves_nothing_and_is_tried_again() {
    let script = Script::new("failed snapshot", on_flush().snapshot_interval(2), &[Op::Commit; 4]);
    let mut run = prepared(&script, 2);
    let (first_op, mut failures) = (run.harness.fs.ops(), 0);
    advance(&mut run, 2).unwrap();
    let count = run.harness.fs.ops() - first_op;
    for at in 0..count {
        let mut run = prepared(&script, 2);
        run.harness.fs.fail_op(at + 1, Fault::NoSpace, false);
        if advance(&mut run, 2).is_err() || run.db().stats().failure.is_some() {
            continue; // the commit itself, or a sync
        }
        let Some(error) = run.db().stats().last_snapshot_error else { continue };
        failures += 1;
        let context = format!("no space at {at} of {count}: {error}");
        let names = run.harness.names("snapshots");
        assert!(names.iter().all(|name| !name.ends_with(".new")), "{context}: {names:?}");
        run.step_op(Op::Commit).unwrap();
        run.step_op(Op::Commit).unwrap();
        assert_eq!(run.db().stats().last_snapshot_error, None, "{context}");
        let newest = support::check::snapshot_dirs(&run.harness).keys().next_back().copied();
        assert_eq!(newest, Some(4), "{context}");
    }
    assert!(failures >= 5, "{failures} of {count}");
}

#[test]
fn a_deferred_flush_is_reported_and_repeated() {
    let script = Script::new("deferred flush", on_flush().memtable_bytes(1), &[Op::Commit; 3]);
    let mut run = prepared(&script, 2);
    let used = blocks_in_use(&run.harness);
    run.harness.fs.set_capacity(Some((used + 1) * 4096));
    advance(&mut run, 2).unwrap();
    let is_deferred = |event: &StateEvent| matches!(event, StateEvent::FlushDeferred { .. });
    assert!(run.events.iter().any(is_deferred), "{:?}", run.events);
    assert_eq!(run.db().stats().failure, None);
    run.harness.fs.set_capacity(None);
    run.is_checked = true;
    advance(&mut run, 3).unwrap();
    run.step_op(Op::Close).unwrap();
    assert_eq!(run.db().opened().replayed, 0);
}
