//! A running history: its operations, and the model's knowledge.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use lithdb::{DuplicateKeys, TableOptions};
use lithdb_sim::CrashImage;
use lithdb_state::{
    ChangeSet, Durability, ErrorKind, Result, Retention, StateDb, StateEvent, StateOptions,
    VerifyLevel,
};

use super::check::Held;
use super::op::{Environment, Item, KEYS, Op, STORES, Wrong};
use crate::support::model::{Change, Model, change_sets};
use crate::support::{DIR, Harness, small};

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
        .view_memory_bytes(environment.view_memory_bytes)
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

    pub fn is_dead(&self) -> bool {
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
            Op::View { back } => self.view(*back),
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
    pub fn version_back(&self, back: u64) -> u64 {
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

    /// Follows the snapshots that were taken and pruned.
    pub fn note_events(&mut self) {
        let mut has_taken = false;
        for event in self.harness.take_events() {
            match event {
                StateEvent::SnapshotTaken { version, .. } => {
                    self.snapshots.insert(version);
                    self.durable = self.durable.max(version);
                    has_taken = true;
                }
                StateEvent::SnapshotsPruned { versions, .. } => {
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
        let verified = StateDb::verify_with(DIR, level, small(), self.harness.components(), |_| {});
        let Some(found) = self.done(verified) else { return };
        assert!(found.is_ok(), "{}: {:?}", self.context, found.findings);
        assert_eq!(found.root, self.model.at(found.version).root, "{}", self.context);
        if level >= VerifyLevel::Content {
            let rows = self.model.at(found.version).rows.len() as u64;
            assert_eq!(found.rows, rows, "{}", self.context);
        }
        let replayed = found.replay.map(|replay| replay.base + replay.versions);
        let expected = (level == VerifyLevel::Replay).then_some(found.version);
        assert_eq!(replayed, expected, "{}", self.context);
    }
}
