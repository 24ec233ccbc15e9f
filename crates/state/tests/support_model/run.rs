//! A running history: its operations, and the model's knowledge.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use lithdb::{DuplicateKeys, TableOptions};
use lithdb_sim::CrashImage;
use lithdb_state::{
    ChangeSet, Durability, Error, ErrorKind, Result, Retention, StateDb, StateEvent, StateOptions,
    Unreachable, VerifyLevel,
};

use super::check::Held;
use super::op::{Environment, Item, KEYS, Op, STORES, Wrong};
use crate::support::model::{Change, Model, change_sets};
use crate::support::{DIR, Harness};

thread_local! {
    static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one more of `what`.
pub fn count(what: &'static str) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(what).or_default() += 1);
}

/// The counts of this thread since the last call.
pub fn take_counts() -> BTreeMap<&'static str, u64> {
    COUNTS.take()
}

/// What an operation that a crash interrupted may have done.
#[derive(Debug, Clone)]
pub enum Interrupted {
    Commit(Model),
    Rollback(Model),
}

/// A running history.
pub struct Run {
    pub environment: Environment,
    pub harness: Harness,
    pub db: Option<StateDb>,
    pub model: Model,
    /// What was applied and not committed.
    pub pending: Vec<Change>,
    /// The newest version that was acknowledged as durable.
    pub durable: u64,
    /// The versions of the snapshots that stand.
    pub snapshots: BTreeSet<u64>,
    pub held: Vec<Held>,
    pub interrupted: Option<Interrupted>,
    /// The planned crash.
    pub soon: Option<CrashImage>,
    pub serial: u64,
    /// The current operation, for messages.
    pub context: String,
}

fn options(environment: &Environment) -> StateOptions {
    let wal = TableOptions::new()
        .segment_keys(environment.segment_keys)
        .duplicate_keys(DuplicateKeys::Reject);
    let retention = if environment.is_manual { Retention::Manual } else { Retention::Count };
    StateOptions::new()
        .hash_threads(1)
        .initial_version(environment.initial_version)
        .durability(environment.durability)
        .memtable_bytes(environment.memtable_bytes)
        .snapshot_interval(environment.snapshot_interval)
        .keep_snapshots(environment.keep_snapshots)
        .retention(retention)
        .flush_on_close(environment.flush_on_close)
        .wal(wal)
}

impl Run {
    pub fn new(environment: Environment) -> Self {
        let model = Model::new(environment.initial_version);
        let mut run = Self {
            harness: Harness::new(options(&environment)),
            environment,
            db: None,
            durable: model.base,
            model,
            pending: Vec::new(),
            snapshots: BTreeSet::new(),
            held: Vec::new(),
            interrupted: None,
            soon: None,
            serial: 0,
            context: "the beginning".to_owned(),
        };
        count("histories");
        run.open();
        run.check();
        run
    }

    pub fn db(&self) -> &StateDb {
        self.db.as_ref().unwrap()
    }

    fn is_dead(&self) -> bool {
        self.harness.fs.is_dead()
    }

    /// The result, unless the crash is the reason for the error.
    pub fn done<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(error) => {
                assert!(self.is_dead(), "{}: nothing has failed: {error}", self.context);
                let kinds = [ErrorKind::Io, ErrorKind::Latched];
                assert!(kinds.contains(&error.kind()), "{}: {error}", self.context);
                None
            }
        }
    }

    /// Executes one step and checks everything.
    pub fn step(&mut self, op: &Op) {
        self.context = format!("{op:?} at version {}", self.model.head());
        count("operations");
        count(op.kind());
        self.act(op);
        if self.is_dead() {
            count("crashes in operations");
            let image = self.soon.take().unwrap();
            self.crash(&image);
        }
        self.check();
    }

    /// The last step: closes the store, and opens it once more.
    pub fn end(mut self) {
        self.context = "the end".to_owned();
        self.harness.fs.crash_after(1 << 40);
        self.close();
        self.check();
        self.held.drain(..).for_each(Held::end);
        drop(self.db.take());
        assert_eq!(self.harness.fs.open_handles(), 0, "files or locks are left open");
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Apply { items } => self.apply(items),
            Op::ApplyWrong { items, wrong } => self.apply_wrong(items, *wrong),
            Op::Commit => self.commit(&[], false),
            Op::CommitBlock { items } => self.commit(items, true),
            Op::Discard => {
                self.db().discard_pending();
                self.pending.clear();
            }
            Op::Flush => {
                if let Some(version) = self.done(self.db().flush()) {
                    assert_eq!(version, self.model.head(), "{}", self.context);
                    self.durable = version;
                }
            }
            Op::Snapshot => self.snapshot(),
            Op::Prune { back } => self.prune(*back),
            Op::Close => self.close(),
            Op::Drop => {
                self.leave();
                self.open_after(self.durable);
            }
            Op::Crash { image } => self.crash(image),
            Op::CrashSoon { after, image } => self.plan_crash(Some((*after, *image))),
            Op::LoseWorking => self.lose_working(),
            Op::Rollback { back, crash } => {
                self.plan_crash(*crash);
                self.rollback(*back);
            }
            Op::StoppedRollback { back, crash } => {
                self.plan_crash(*crash);
                self.stopped_rollback(*back);
            }
            Op::Hold { front, back } => self.hold(*front, *back),
            Op::Walk { store, from, to, turns, is_pending } => {
                self.walk(*store, *from, *to, *turns, *is_pending);
            }
            Op::ViewOnly { back } => self.view_only(*back),
            Op::Inspect => self.inspect(),
            Op::Verify { level } => self.verify(*level),
        }
    }

    fn plan_crash(&mut self, crash: Option<(u64, CrashImage)>) {
        if let Some((after, image)) = crash {
            self.harness.fs.crash_after(after);
            self.soon = Some(image);
        }
    }

    fn changes(&mut self, items: &[Item]) -> Vec<Change> {
        let mut change = |item: &Item| {
            self.serial += 1;
            let (store, key) = (STORES[item.store].to_owned(), KEYS[item.key].to_vec());
            let value = item.value.map(|value| match value {
                0 => Vec::new(),
                1 => b"x".to_vec(),
                2 => self.serial.to_string().into_bytes(),
                3 => self.serial.to_string().repeat(90).into_bytes(),
                _ => vec![b'y', (self.serial % 3) as u8],
            });
            Change { store, key, value }
        };
        items.iter().map(&mut change).collect()
    }

    fn apply(&mut self, items: &[Item]) {
        let changes = self.changes(items);
        let version = self.model.head() + 1;
        if self.done(self.db().apply(version, &change_sets(&changes))).is_some() {
            self.pending.extend(changes);
            self.check_pending_root();
        }
    }

    /// One of the sets is invalid, or the version is: nothing of the call happens.
    fn apply_wrong(&mut self, items: &[Item], wrong: Wrong) {
        let mut sets = change_sets(&self.changes(items));
        let next = self.model.head() + 1;
        let bad = |set: ChangeSet| match wrong {
            Wrong::EmptyKey => set.put("", "no key"),
            Wrong::LongKey => set.delete(vec![1; ChangeSet::MAX_KEY_LEN + 1]),
            Wrong::Version => set,
        };
        sets.push(bad(ChangeSet::new("b").unwrap().put("valid", "valid")));
        let version = if wrong == Wrong::Version { next + 1 } else { next };
        let applied = self.db().apply(version, &sets);
        let committed = self.db().commit_block(version, &sets);
        for error in [applied.unwrap_err(), committed.unwrap_err()] {
            if !self.is_dead() {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}: {error}", self.context);
            }
        }
        self.check_pending_root();
    }

    fn commit(&mut self, items: &[Item], is_block: bool) {
        let changes = self.changes(items);
        let mut after = self.model.clone();
        let all = self.pending.iter().chain(&changes).cloned().collect::<Vec<_>>();
        let version = after.commit(&all);
        let db = self.db();
        let committed = match is_block {
            true => db.commit_block(version, &change_sets(&changes)),
            false => db.commit(version),
        };
        match self.done(committed) {
            Some(done) => {
                let expected = (version, after.at(version).root);
                assert_eq!((done.version, done.root), expected, "{}", self.context);
                self.model = after;
                self.pending.clear();
                if self.environment.durability == Durability::EveryCommit {
                    self.durable = version;
                }
                self.check_interval();
            }
            None => self.interrupted = Some(Interrupted::Commit(after)),
        }
    }

    fn snapshot(&mut self) {
        let Some(ticket) = self.done(self.db().snapshot()) else { return };
        if let Some(snapshot) = self.done(ticket.wait()) {
            let head = self.model.head();
            let expected = (head, self.model.at(head).root);
            assert_eq!((snapshot.version, snapshot.root), expected, "{}", self.context);
            self.durable = head;
            if self.snapshots.contains(&head) {
                count("snapshots taken again");
            }
            self.snapshots.insert(head);
        }
    }

    /// The version so far below the one after the newest.
    fn version_back(&self, back: u64) -> u64 {
        let count = self.model.head() - self.model.base + 3;
        (self.model.head() + 1).saturating_sub(back % count)
    }

    fn prune(&mut self, back: u64) {
        let below = self.version_back(back);
        let Some(report) = self.done(self.db().prune_snapshots_below(below)) else { return };
        let newest = self.snapshots.last().copied();
        let is_removed = |version: &u64| *version < below && Some(*version) != newest;
        let removed: Vec<u64> = self.snapshots.iter().copied().filter(is_removed).collect();
        assert_eq!((&report.removed, &report.kept), (&removed, &vec![]), "{}", self.context);
        removed.iter().for_each(|_| count("snapshots pruned"));
    }

    /// Forgets the handle and what was only in memory.
    fn leave(&mut self) {
        self.pending.clear();
        self.note_events();
        self.db = None;
    }

    fn close(&mut self) {
        let closed = self.db().close();
        let is_closed = self.done(closed).is_some();
        let error = self.db().commit(self.model.head() + 1).unwrap_err();
        assert!(self.is_dead() || error.kind() == ErrorKind::Closed, "{}: {error}", self.context);
        self.leave();
        if is_closed {
            self.durable = self.model.head();
            self.open_after(self.durable);
            let is_flushed = self.environment.flush_on_close && self.db.is_some();
            if is_flushed && !self.is_dead() {
                let report = self.db().opened();
                let found = (report.replayed, report.recloned.clone());
                assert_eq!(found, (0, None), "{}: {report:?}", self.context);
            }
        }
    }

    fn lose_working(&mut self) {
        self.leave();
        if self.is_dead() {
            return;
        }
        let working = format!("{DIR}/working");
        self.harness.fs.remove_dir_raw(working);
        self.open_after(self.durable);
        if let Some(db) = &self.db {
            let newest = self.snapshots.last().copied().unwrap_or(self.model.base);
            assert_eq!(db.opened().base, newest, "{}: the newest snapshot", self.context);
            count("working copies cloned");
        }
    }

    fn rollback(&mut self, back: u64) {
        let target = self.version_back(back);
        let db = self.db.take().unwrap();
        let other = db.clone();
        match db.rollback_to(target) {
            Ok(db) => {
                // Not even the view of an abandoned handle changes.
                assert_eq!(other.version() == db.version(), target == self.model.head());
                self.db = Some(db);
                self.rolled_back(target);
            }
            Err(error) if self.is_dead() => {
                self.done::<()>(Err(error));
                self.interrupt_rollback(target);
            }
            Err(error) => {
                // Nothing was changed: the store goes on.
                self.db = Some(other);
                self.refused(target, &error);
            }
        }
    }

    fn stopped_rollback(&mut self, back: u64) {
        let target = self.version_back(back);
        self.leave();
        match self.harness.rollback().plan(target).map(|plan| (plan.newest, plan.execute())) {
            Ok((newest, Ok(report))) => {
                // What was not durable is there if the process has not crashed.
                assert!((self.durable..=self.model.head()).contains(&newest), "{}", self.context);
                let expected = (target, self.model.at(target).root);
                assert_eq!((report.version, report.root), expected, "{}", self.context);
                self.rolled_back(target);
            }
            Ok((_, Err(error))) => {
                self.done::<()>(Err(error));
                return self.interrupt_rollback(target);
            }
            Err(error) if self.is_dead() => {
                self.done::<()>(Err(error));
                return;
            }
            Err(error) => {
                self.refused(target, &error);
            }
        }
        self.harness.take_events();
        self.open_after(self.durable);
    }

    fn rolled_back(&mut self, target: u64) {
        count(if target == self.model.head() { "rollbacks to the newest" } else { "rolled back" });
        assert!(self.is_reachable(target), "{}: nobody can reach {target}", self.context);
        self.pending.clear();
        if target < self.model.head() {
            self.durable = target;
        }
        self.model.roll_back(target);
        self.snapshots.retain(|version| *version <= target);
    }

    /// From now on the store is found where it was, or at `target`.
    fn interrupt_rollback(&mut self, target: u64) {
        if let Some(base) = target.checked_sub(self.model.base)
            && base <= self.model.head() - self.model.base
        {
            let mut after = self.model.clone();
            after.roll_back(target);
            self.interrupted = Some(Interrupted::Rollback(after));
        }
    }

    /// The version cannot be reached.
    pub fn refused(&self, target: u64, error: &Error) {
        count("versions refused");
        let unreachable = Unreachable::of(error);
        let unreachable = unreachable.unwrap_or_else(|| panic!("{}: {error}", self.context));
        assert_eq!((unreachable.target, error.kind()), (target, ErrorKind::Missing));
        assert!(!self.is_reachable(target), "{}: {target} was refused: {error}", self.context);
    }

    fn crash(&mut self, image: &CrashImage) {
        (self.db, self.soon) = (None, None);
        self.held.clear();
        self.pending.clear();
        self.harness = self.harness.after_crash(image);
        self.open();
    }

    /// Opens the store without a crash before: it has at least the version `durable`.
    fn open_after(&mut self, durable: u64) {
        self.durable = durable;
        if !self.is_dead() {
            self.open();
        }
    }

    fn open(&mut self) {
        let opened = self.harness.try_open();
        let Some(db) = self.done(opened) else { return };
        count("openings");
        let (head, root) = (db.version(), db.root());
        let context = format!("{}: opened at version {head}", self.context);
        match self.interrupted.take() {
            Some(Interrupted::Commit(after)) if head == after.head() => self.model = after,
            Some(Interrupted::Rollback(after)) if head == after.head() => {
                count("rollbacks finished by an opening");
                self.model = after;
            }
            _ => {
                let expected = self.durable..=self.model.head();
                assert!(expected.contains(&head), "{context}, expected {expected:?}");
                self.model.roll_back(head);
            }
        }
        assert_eq!(root, self.model.at(head).root, "{context}");
        self.durable = head;
        let report = db.opened();
        assert_eq!(report.base + report.replayed, head, "{context}: {report:?}");
        assert!(report.damaged.is_empty() && report.foreign.is_empty(), "{context}: {report:?}");
        self.db = Some(db);
        self.adopt_snapshots();
    }

    /// After an opening: those that stand are some of those that stood, and perhaps one that was
    /// being taken.
    fn adopt_snapshots(&mut self) {
        let head = self.model.head();
        let found: BTreeSet<u64> =
            self.db().snapshots().unwrap().iter().map(|snapshot| snapshot.version).collect();
        let before: BTreeSet<u64> =
            self.snapshots.iter().copied().filter(|version| *version <= head).collect();
        let new: Vec<u64> = found.difference(&before).copied().collect();
        assert!(new.is_empty() || new == [head] || new == [head - 1], "{}: {new:?}", self.context);
        // The newest is never removed.
        assert!(found.last() >= before.last(), "{}: {before:?}, {found:?}", self.context);
        self.snapshots = found;
    }

    /// Follows the snapshots that were taken and pruned.
    pub fn note_events(&mut self) {
        let mut has_taken = false;
        for event in self.harness.take_events() {
            match event {
                StateEvent::SnapshotTaken { version } => {
                    self.snapshots.insert(version);
                    self.durable = self.durable.max(version);
                    has_taken = true;
                }
                StateEvent::SnapshotsPruned { versions } => {
                    versions.iter().for_each(|version| {
                        assert!(self.snapshots.remove(version), "{}: {version}", self.context);
                    });
                }
                StateEvent::FloorRaised { .. } => count("floors raised"),
                event => assert!(self.is_dead(), "{}: {event:?}", self.context),
            }
        }
        if has_taken && !self.environment.is_manual && !self.is_dead() {
            let kept = self.environment.keep_snapshots + 1;
            assert!(self.snapshots.len() <= kept, "{}: {:?}", self.context, self.snapshots);
        }
    }

    /// Verifies the store beside the writer.
    fn verify(&self, level: VerifyLevel) {
        let verified = StateDb::verify_with(DIR, level, self.harness.components(), |_| {});
        let Some(found) = self.done(verified) else { return };
        assert!(found.is_ok(), "{}: {:?}", self.context, found.findings);
        assert_eq!(found.root, self.model.at(found.version).root, "{}", self.context);
        if level == VerifyLevel::Content {
            let rows = self.model.at(found.version).rows.len() as u64;
            assert_eq!(found.rows, rows, "{}", self.context);
        }
    }
}
