//! Every operation and every read of every step fails, once or from then on; and the disk is full
//! at every size. Nothing that was acknowledged is lost, no wrong byte is returned, and what was
//! refused changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "faults/full_disk.rs"]
mod full_disk;
#[path = "faults/opening.rs"]
mod opening;
#[path = "faults/refusals.rs"]
mod refusals;
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_sim::{CrashImage, Effort, Fault, OpKind, Pages, Tally};
use lithdb_state::{Durability, ErrorKind, Result, StateOptions};
use parking_lot::Mutex;
use support::expect::{check_disk, check_open, go_on};
use support::hook::HookFs;
use support::script::{Op, Run, Script, Store};
use support::{Harness, small};

const LOST: Fault = Fault::FailedSync { pages: Pages::Lost };
const PARTLY: Fault = Fault::FailedSync { pages: Pages::PartlyLost };
const CLEAN: Fault = Fault::FailedSync { pages: Pages::ReadableAndClean };
const UNWRITABLE: Fault = Fault::FailedSync { pages: Pages::Unwritable };

/// How an operation of that kind can fail; `true`: all later ones, too. A directory whose later
/// syncs succeed and do nothing (`CLEAN`) is left out: no program can defend against that.
fn faults(kind: OpKind) -> Vec<(Fault, bool)> {
    let mut faults = vec![(Fault::Eio, false), (Fault::Eio, true)];
    if !matches!(kind, OpKind::RemoveFile | OpKind::RemoveDir) {
        faults.extend([(Fault::NoSpace, false), (Fault::NoSpace, true)]);
    }
    match kind {
        OpKind::CreateNew => faults.push((Fault::TooManyFiles, true)),
        OpKind::SyncDir => faults.extend([(Fault::TooManyFiles, false), (LOST, false)]),
        OpKind::Write => faults.extend([(Fault::ShortWrite, false), (Fault::Interrupted, true)]),
        OpKind::SyncData | OpKind::SyncAll => {
            faults.extend([(LOST, false), (PARTLY, false), (CLEAN, false), (UNWRITABLE, false)]);
        }
        _ => {}
    }
    faults
}

/// How a read can fail.
const READ_FAULTS: [(Fault, bool); 6] = [
    (Fault::Eio, false),
    (Fault::TooManyFiles, false),
    (Fault::ShortWrite, false),
    (Fault::Eio, true),
    (Fault::OutOfMemory, false),
    (Fault::Denied, false),
];

/// A fault, and when it comes.
#[derive(Debug, Clone, Copy)]
struct Planned {
    is_read: bool,
    at: u64,
    fault: Fault,
    sticky: bool,
}

impl Planned {
    fn plan(self, harness: &Harness) {
        let Self { is_read, at, fault, sticky } = self;
        match (is_read, sticky) {
            (true, false) => harness.fs.fail_read(at + 1, fault),
            (true, true) => harness.fs.fail_reads_from(at + 1, fault),
            (false, _) => harness.fs.fail_op(at + 1, fault, sticky),
        }
    }
}

/// The steps before step `step`, and the opening, without a fault. Step 0 is the opening itself.
fn prepared(script: &Script, step: usize) -> Run<'_> {
    let mut run = Run::new(script);
    run.is_checked = false;
    for number in 0..step {
        advance(&mut run, number).unwrap_or_else(|e| panic!("{}: {number}: {e}", script.name));
    }
    run
}

/// Step 0 opens the store.
fn advance(run: &mut Run<'_>, step: usize) -> Result<()> {
    if step == 0 { run.open() } else { run.step(step - 1) }
}

/// All faults of a step; a quick run takes every `stride`-th of each operation, and
/// fewer of each read.
fn faults_of(script: &Script, step: usize, stride: usize) -> Vec<(Planned, String)> {
    let heard = Arc::new(Mutex::new(BTreeMap::new()));
    let mut run = Run::new(script);
    run.is_checked = false;
    let (recorded, fs) = (Arc::clone(&heard), run.harness.fs.clone());
    run.harness.wrapped =
        Some(Arc::new(HookFs::new(Arc::new(fs.clone()), move |kind, path, _| {
            recorded.lock().insert(fs.ops(), (kind, path.to_owned()));
        })));
    let (mut ops, mut reads) = (0..0, 0..0);
    for number in 0..=step {
        let (first_op, first_read) = (run.harness.fs.ops(), run.harness.fs.reads());
        advance(&mut run, number).unwrap_or_else(|e| panic!("{}: {number}: {e}", script.name));
        (ops, reads) = (first_op..run.harness.fs.ops(), first_read..run.harness.fs.reads());
    }
    let (heard, is_deep) = (heard.lock(), Effort::from_env().is_deep());
    let mut all = Vec::new();
    for op in ops.clone() {
        // The hook does not hear the lock files, which are truncated and written.
        let lock = (OpKind::Write, PathBuf::from("a lock file"));
        let (kind, path) = heard.get(&op).unwrap_or(&lock);
        let (start, stride) = if is_deep { (0, 1) } else { (op as usize % stride, stride) };
        for (fault, sticky) in faults(*kind).into_iter().skip(start).step_by(stride) {
            let planned = Planned { is_read: false, at: op - ops.start, fault, sticky };
            all.push((planned, format!("{kind:?} {}", path.display())));
        }
    }
    for read in reads.clone() {
        for (n, (fault, sticky)) in READ_FAULTS.into_iter().enumerate() {
            if is_deep || (read as usize + n).is_multiple_of(stride.max(3) * 2) {
                let planned = Planned { is_read: true, at: read - reads.start, fault, sticky };
                all.push((planned, "a read".to_owned()));
            }
        }
    }
    all
}

/// What happens after the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The power fails.
    Crash,
    /// The process goes on: it repeats the step, or opens the store again if it has failed.
    GoOn,
    /// The process is killed, and another one opens the store with the page cache intact, works
    /// with it, and then the power fails.
    Kill,
}

const THEN: [Then; 3] = [Then::Crash, Then::GoOn, Then::Kill];

/// Every fault of the steps `steps` of the script.
fn every_fault(script: &Script, steps: &[usize], stride: usize) -> Tally {
    let mut tally = Tally::new(format!("faults of a state store: {}", script.name));
    let is_deep = Effort::from_env().is_deep();
    for step in steps {
        let faults = faults_of(script, *step, stride);
        tally.add("steps", 1);
        for (turn, (planned, place)) in faults.into_iter().enumerate() {
            let context = format!("{}, step {step}, {planned:?}, {place}", script.name);
            let thens = if is_deep { &THEN[..] } else { &THEN[turn % 3..][..1] };
            for then in thens {
                let context = format!("{context}; {then:?}");
                one_fault(script, *step, planned, *then, turn as u64, &context, &mut tally);
            }
        }
    }
    tally
}

/// A step with a fault, and what has become of the store.
struct Faulty<'s> {
    run: Run<'s>,
    step: usize,
    is_error: bool,
    turn: u64,
    context: String,
}

fn one_fault(
    script: &Script,
    step: usize,
    planned: Planned,
    then: Then,
    turn: u64,
    context: &str,
    tally: &mut Tally,
) {
    let mut run = prepared(script, step);
    planned.plan(&run.harness);
    let done = advance(&mut run, step);
    if run.harness.fs.faults_hit() == 0 {
        tally.add("faults that did not apply", 1);
        return;
    }
    run.harness.fs.clear_faults();
    tally.add(if planned.is_read { "read faults" } else { "faults" }, 1);
    let mut context = format!("{context}: done");
    if let Err(error) = &done {
        tally.add("failed steps", 1);
        context = format!("{context} not: {error}");
        let kinds =
            [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Exhausted, ErrorKind::Latched];
        assert!(kinds.contains(&error.kind()), "{context}");
        let is_harmless = matches!(planned.fault, Fault::ShortWrite | Fault::Interrupted);
        assert!(!is_harmless, "{context}");
    }
    let has_failed = has_failed(&mut run, done.is_err(), &context);
    tally.add("latched", u64::from(has_failed && run.store.is_some()));
    let mut faulty = Faulty { run, step, is_error: done.is_err(), turn, context };
    match then {
        Then::Crash => faulty.crash(tally),
        Then::GoOn if has_failed || faulty.run.store.is_none() => faulty.open_again(tally),
        Then::GoOn => faulty.go_on(tally),
        Then::Kill => faulty.kill(tally),
    }
}

impl Faulty<'_> {
    fn open(&self, harness: &Harness, context: &str) -> Store {
        Store::try_open(self.run.script, harness).unwrap_or_else(|e| panic!("{context}: open: {e}"))
    }

    fn after_crash(&self, image: &CrashImage, context: &str) {
        let context = format!("{context}, {image:?}");
        let after = self.run.harness.after_crash(image);
        check_disk(&after, &self.run.expect, &context);
        check_open(&self.open(&after, &context), &after, &self.run.expect, &context);
    }

    /// The power fails.
    fn crash(&self, tally: &mut Tally) {
        let seed = Effort::from_env().seed(self.run.script.name).wrapping_add(self.turn);
        for image in [CrashImage::Nothing, CrashImage::Seeded(seed)] {
            self.after_crash(&image, &self.context);
            tally.add("images", 1);
        }
    }

    /// The store that has failed is opened again by the same process.
    fn open_again(&mut self, tally: &mut Tally) {
        drop(self.run.store.take());
        let store = self.open(&self.run.harness, &self.context);
        let found = check_open(&store, &self.run.harness, &self.run.expect, &self.context);
        drop(store);
        go_on(self.run.script, &self.run.harness, found, &self.context);
        tally.add("opened again", 1);
    }

    /// The step is repeated if it failed, and every other time the others follow; then the power
    /// fails.
    fn go_on(&mut self, tally: &mut Tally) {
        let is_short = self.turn.is_multiple_of(2);
        let last = if is_short { self.step } else { self.run.script.ops.len() };
        self.run.is_checked = true;
        for number in self.step + usize::from(!self.is_error)..=last {
            advance(&mut self.run, number)
                .unwrap_or_else(|e| panic!("{}; going on with {number}: {e}", self.context));
        }
        drop(self.run.store.take());
        self.after_crash(&CrashImage::Nothing, &format!("{}; crashed afterwards", self.context));
        tally.add("gone on", 1);
    }

    /// Another process opens what is in the page cache; then the power fails, or it works with it
    /// before.
    fn kill(&mut self, tally: &mut Tally) {
        let (run, context) = (&mut self.run, &self.context);
        drop(run.store.take());
        run.harness.fs.release_locks();
        let store = self.open(&self.run.harness, context);
        let (run, context) = (&self.run, &self.context);
        let mut found = check_open(&store, &run.harness, &run.expect, context);
        drop(store);
        // The working copy may have been moved into place, and that may not be durable.
        found.is_settled = run.expect.is_settled;
        if self.turn.is_multiple_of(2) {
            let after = run.harness.after_crash(&CrashImage::Nothing);
            let context = format!("{context}; crashed afterwards");
            check_open(&self.open(&after, &context), &after, &found, &context);
        } else {
            go_on(run.script, &run.harness, found, context);
        }
        tally.add("killed", 1);
    }
}

/// Checks the store after a step that failed or not: it reads as before. Returns whether it takes
/// no changes any more. If it does, a commit that failed did nothing.
fn has_failed(run: &mut Run<'_>, is_error: bool, context: &str) -> bool {
    let Some(store) = &run.store else { return is_error };
    let db = store.state();
    let (version, newest) = (db.version(), run.expect.model.head());
    assert!(version == newest || (is_error && version + 1 == newest), "{context}: {version}");
    support::check::view(&db.latest(), &run.expect.model, context);
    let failure = db.stats().failure;
    if let Some(failure) = failure {
        let error = db.commit(version + 1).expect_err(context);
        assert_eq!(error.kind(), ErrorKind::Latched, "{context}: {error}, {failure}");
        assert!(db.snapshot().is_err(), "{context}");
        return true;
    }
    if version < newest {
        run.expect.model.roll_back(version);
    }
    false
}

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
