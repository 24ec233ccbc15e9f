//! A fault in one step of a script, and what happens afterwards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_sim::{CrashImage, Effort, Fault, OpKind, Pages, Tally};
use lithdb_state::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use super::support::Harness;
use super::support::check;
use super::support::expect::{check_disk, check_open, go_on};
use super::support::hook::HookFs;
use super::support::script::{Run, Script, Store};

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
pub struct Planned {
    is_read: bool,
    at: u64,
    pub fault: Fault,
    sticky: bool,
}

impl Planned {
    pub fn plan(self, harness: &Harness) {
        let Self { is_read, at, fault, sticky } = self;
        match (is_read, sticky) {
            (true, false) => harness.fs.fail_read(at + 1, fault),
            (true, true) => harness.fs.fail_reads_from(at + 1, fault),
            (false, _) => harness.fs.fail_op(at + 1, fault, sticky),
        }
    }
}

/// The steps before step `step`, and the opening, without a fault. Step 0 is the opening itself.
pub fn prepared(script: &Script, step: usize) -> Run<'_> {
    let mut run = Run::new(script);
    run.is_checked = false;
    for number in 0..step {
        advance(&mut run, number).unwrap_or_else(|e| panic!("{}: {number}: {e}", script.name));
    }
    run
}

/// Step 0 opens the store.
pub fn advance(run: &mut Run<'_>, step: usize) -> Result<()> {
    if step == 0 { run.open() } else { run.step(step - 1) }
}

/// All faults of a step; a quick run takes every `stride`-th of each operation, and
/// fewer of each read.
pub fn faults_of(script: &Script, step: usize, stride: usize) -> Vec<(Planned, String)> {
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
pub enum Then {
    /// The power fails.
    Crash,
    /// The process goes on: it repeats the step, or opens the store again if it has failed.
    GoOn,
    /// The process is killed, and another one opens the store with the page cache intact, works
    /// with it, and then the power fails.
    Kill,
}

pub const THEN: [Then; 3] = [Then::Crash, Then::GoOn, Then::Kill];

/// Every fault of the steps `steps` of the script.
pub fn every_fault(script: &Script, steps: &[usize], stride: usize) -> Tally {
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

pub fn one_fault(
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
    let attempted = run.expect.model.clone();
    let has_failed = has_failed(&mut run, done.is_err(), &context);
    if done.as_ref().is_err_and(is_in_the_log) && then != Then::GoOn {
        // It may be there when the store is opened again.
        run.expect.model = attempted;
        tally.add("refused in the log", 1);
    }
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
            let done = advance(&mut self.run, number);
            done.unwrap_or_else(|e| panic!("{}; going on with {number}: {e}", self.context));
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

/// Whether a commit was refused after the log had taken its version.
pub fn is_in_the_log(error: &Error) -> bool {
    error.to_string().contains("which is in the log")
}

/// Checks the store after a step that failed or not: it reads as before. Returns whether it takes
/// no changes any more. If it does, a commit that failed did nothing.
pub fn has_failed(run: &mut Run<'_>, is_error: bool, context: &str) -> bool {
    let Some(store) = &run.store else { return is_error };
    let db = store.state();
    let (version, newest) = (db.version(), run.expect.model.head());
    assert!(version == newest || (is_error && version + 1 == newest), "{context}: {version}");
    check::view(&db.latest(), &run.expect.model, context);
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
