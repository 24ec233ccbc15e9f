//! Scripts: what a store goes through step by step, and what each step promises.

use lithdb::rollback::max_be_u64;
use lithdb::{NoMatch, Rollback};
use lithdb_state::{
    Durability, Reclone, Result, StateDb, StateEvent, StateOptions, VerifyLevel, View,
};

use super::check::{self, SnapshotBytes};
use super::expect::Expect;
use super::model::{Change, Model, change_sets, changes_of};
use super::{APP, App, DIR, Harness, difference};

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Commits the next version.
    Commit,
    /// Commits a version without changes.
    Empty,
    /// Applies changes to the next version, twice, and leaves them pending.
    Apply,
    Discard,
    Flush,
    /// Takes a snapshot and waits for it.
    Snapshot,
    Prune(u64),
    /// Takes a view of a version and keeps it.
    View(u64),
    /// Verifies the store by a replay, beside the writer.
    Verify,
    /// Closes the store and opens it again.
    Close,
    /// The process ends without closing, and the store is opened again.
    Kill,
    /// The process ends, the working copy is lost, and the store is opened again.
    LoseWorking,
    Rollback(u64),
    /// Closes the store, rolls it back, and opens it again.
    StoppedRollback(u64),
    /// Rolls the application's database back, which holds the log, and opens both again.
    AppRollback(u64),
}

/// The steps of a store from its creation.
#[derive(Debug, Clone)]
pub struct Script {
    pub name: &'static str,
    pub options: StateOptions,
    /// Whether the log is a table of the application's database.
    pub is_shared: bool,
    pub ops: Vec<Op>,
}

impl Script {
    pub fn new(name: &'static str, options: StateOptions, ops: &[Op]) -> Self {
        Self { name, options, is_shared: false, ops: ops.to_vec() }
    }

    pub fn shared(name: &'static str, options: StateOptions, ops: &[Op]) -> Self {
        Self { is_shared: true, ..Self::new(name, options, ops) }
    }
}

/// An open store.
pub enum Store {
    Own(StateDb),
    App(Box<App>),
}

impl Store {
    pub fn try_open(script: &Script, harness: &Harness) -> Result<Self> {
        match script.is_shared {
            true => App::open(harness).map(|app| Self::App(Box::new(app))),
            false => harness.try_open().map(Self::Own),
        }
    }

    pub fn state(&self) -> &StateDb {
        match self {
            Self::Own(db) => db,
            Self::App(app) => &app.state,
        }
    }

    pub fn log(&self, harness: &Harness) -> Vec<check::LogRecord> {
        match self {
            Self::Own(_) => {
                let db = harness.try_read_log(&format!("{DIR}/wal")).unwrap();
                check::log_records(&db.existing_table("wal").unwrap())
            }
            Self::App(app) => check::log_records(&app.db.existing_table("state").unwrap()),
        }
    }

    /// Commits a version, and with an application first its block.
    pub fn commit(&self, version: u64, changes: &[Change]) -> Result<lithdb_state::Committed> {
        if let Self::App(app) = self {
            app.blocks.put(version.to_be_bytes(), format!("block {version}"))?;
            app.blocks.flush()?;
        }
        self.state().commit_block(version, &change_sets(changes))
    }

    pub fn close(&self) -> Result<()> {
        self.state().close()?;
        match self {
            Self::Own(_) => Ok(()),
            Self::App(app) => app.db.close(),
        }
    }

    /// The newest block; `None` if there is none, or no application.
    pub fn newest_block(&self) -> Result<Option<u64>> {
        let Self::App(app) = self else { return Ok(None) };
        let Some(key) = app.blocks.newest_key()? else { return Ok(None) };
        Ok(Some(u64::from_be_bytes(key.try_into().unwrap())))
    }
}

/// A script that is being run.
pub struct Run<'s> {
    pub script: &'s Script,
    pub harness: Harness,
    pub expect: Expect,
    pub store: Option<Store>,
    pub bytes: SnapshotBytes,
    /// Views that stay open; what they return must never change.
    pub views: Vec<(View, Model)>,
    /// What was applied and not committed.
    pub pending: Vec<Change>,
    /// Whether every step is followed by a comparison with the model.
    pub is_checked: bool,
    /// The number of the step that is run.
    steps: usize,
    /// The events of the last step.
    pub events: Vec<StateEvent>,
}

impl<'s> Run<'s> {
    pub fn new(script: &'s Script) -> Self {
        Self::on(script, Harness::new(script.options.clone()))
    }

    pub fn on(script: &'s Script, harness: Harness) -> Self {
        Self {
            script,
            harness,
            expect: Expect::new(&script.options),
            store: None,
            bytes: SnapshotBytes::default(),
            views: Vec::new(),
            pending: Vec::new(),
            is_checked: true,
            steps: 0,
            events: Vec::new(),
        }
    }

    /// Opens the store and runs all steps, each checked, until one fails.
    pub fn until_error(&mut self) -> Result<()> {
        self.open()?;
        for number in 0..self.script.ops.len() {
            self.step(number)?;
        }
        Ok(())
    }

    pub fn db(&self) -> &StateDb {
        self.store.as_ref().unwrap().state()
    }

    fn context(&self) -> &'static str {
        self.script.name
    }

    pub fn open(&mut self) -> Result<()> {
        let store = Store::try_open(self.script, &self.harness)?;
        let db = store.state();
        let (found, newest) = (db.version(), self.expect.model.head());
        // What was not flushed may be lost when the process ends while writes fail.
        assert!(found >= self.expect.durable && found <= newest, "{}: {found}", self.context());
        assert!(found == newest || !self.is_checked, "{}: {found}, {newest}", self.context());
        self.expect.model.roll_back(found);
        self.expect.durable = db.durable_version();
        self.expect.is_settled = true;
        self.store = Some(store);
        Ok(())
    }

    pub fn step(&mut self, number: usize) -> Result<()> {
        self.steps = number;
        self.step_op(self.script.ops[number])
    }

    pub fn step_op(&mut self, op: Op) -> Result<()> {
        let done = self.run(op);
        self.events = self.harness.take_events();
        for event in &self.events {
            if let StateEvent::SnapshotTaken { version, .. } = event {
                self.expect.snapshot = self.expect.snapshot.max(Some(*version));
            }
        }
        done?;
        let context = format!("{}, step {}, {op:?}", self.script.name, self.steps);
        self.bytes.check(&self.harness, &context);
        if !self.is_checked {
            return Ok(());
        }
        check::view(&self.db().latest(), &self.expect.model, &context);
        if self.steps.is_multiple_of(3) {
            self.views.push((self.db().latest(), self.expect.model.clone()));
        }
        for (view, model) in &self.views {
            check::view(view, model, &format!("{context}, an older view"));
        }
        Ok(())
    }

    fn run(&mut self, op: Op) -> Result<()> {
        match op {
            Op::Commit => {
                let version = self.expect.model.head() + 1;
                self.commit(changes_of(self.expect.branch, version))
            }
            Op::Empty => self.commit(Vec::new()),
            Op::Apply => self.apply(),
            Op::Discard => {
                self.db().discard_pending();
                self.pending.clear();
                Ok(())
            }
            Op::Flush => {
                self.expect.durable = self.db().flush()?;
                assert_eq!(self.expect.durable, self.expect.model.head());
                Ok(())
            }
            Op::Snapshot => {
                let version = self.db().snapshot()?.wait()?.version;
                assert_eq!(version, self.expect.model.head(), "{}", self.context());
                self.expect.snapshot = Some(version);
                self.expect.durable = version;
                Ok(())
            }
            Op::Prune(version) => self.db().prune_snapshots_below(version).map(drop),
            Op::View(version) => {
                // What could not be removed stays until the next clone is made, or the next open.
                let before = self.harness.names("views");
                let view = self.db().view(version)?;
                check::view(&view, &self.expect.model, self.context());
                assert_eq!(view.version(), version, "{}", self.context());
                let left = self.harness.names("views");
                let is_old = left.iter().all(|name| before.contains(name));
                assert!(is_old || !self.is_checked, "{}: {left:?}", self.context());
                self.views.push((view, self.expect.model.clone()));
                Ok(())
            }
            Op::Verify => self.verify(),
            Op::Close => {
                self.close()?;
                self.reopen(&[None])
            }
            Op::Kill => {
                self.kill();
                self.reopen(&[None])
            }
            Op::LoseWorking => {
                self.kill();
                self.expect.is_settled = false;
                self.harness.fs.remove_dir_raw(format!("{DIR}/working"));
                self.reopen(&[Some(Reclone::Absent)])
            }
            Op::Rollback(target) => self.roll_back(target),
            Op::StoppedRollback(target) => self.roll_back_stopped(target),
            Op::AppRollback(target) => self.roll_back_app(target),
        }
    }

    fn commit(&mut self, changes: Vec<Change>) -> Result<()> {
        let mut all = self.pending.clone();
        all.extend(changes.iter().cloned());
        let version = self.expect.model.commit(&all);
        let store = self.store.as_ref().unwrap();
        let committed = store.commit(version, &changes)?;
        self.pending.clear();
        assert_eq!(committed.root, self.expect.model.at(version).root, "{}", self.context());
        if self.script.options.durability == Durability::EveryCommit {
            self.expect.durable = version;
        }
        self.expect.durable = self.expect.durable.max(store.state().durable_version());
        Ok(())
    }

    fn apply(&mut self) -> Result<()> {
        let version = self.expect.model.head() + 1;
        let first = [Change::put("bank", "pending", "first"), Change::delete("bank", "k1")];
        let second = [Change::put("bank", "pending", "second"), Change::put("bank", "k2", "")];
        for changes in [first, second] {
            self.db().apply(version, &change_sets(&changes))?;
            self.pending.extend(changes);
        }
        let mut expected = self.expect.model.clone();
        expected.commit(&self.pending);
        let pending = self.db().pending();
        assert_eq!(pending.root()?, expected.at(version).root, "{}", self.context());
        Ok(())
    }

    /// The store is sound: whatever fails, there is no finding, and nothing changes but `views`.
    fn verify(&self) -> Result<()> {
        let tree = || {
            // Of a copy, whose reads do not fail.
            let mut tree = self.harness.fork().tree(DIR);
            tree.retain(|path, _| !path.starts_with(format!("{DIR}/views")));
            tree
        };
        let (before, options) = (tree(), self.script.options.clone());
        let components = self.harness.components();
        let found = StateDb::verify_with(DIR, VerifyLevel::Replay, options, components, |_| {});
        assert_eq!(difference(&before, &tree()), None, "{}", self.context());
        let found = found?;
        assert!(found.is_ok(), "{}: {:?}", self.context(), found.findings);
        let replay = found.replay.unwrap();
        assert!(replay.locked.is_empty() && replay.working.is_some(), "{replay:?}");
        Ok(())
    }

    fn kill(&mut self) {
        self.store = None;
        self.views.clear();
        self.pending.clear();
        self.harness.fs.release_locks();
    }

    fn close(&mut self) -> Result<()> {
        let store = self.store.take().unwrap();
        self.pending.clear();
        store.close()?;
        self.expect.durable = self.expect.model.head();
        Ok(())
    }

    fn reopen(&mut self, recloned: &[Option<Reclone>]) -> Result<()> {
        self.open()?;
        let found = self.db().opened();
        assert!(recloned.contains(&found.recloned), "{}: {found:?}", self.context());
        Ok(())
    }

    /// From now on the store may be at `target`.
    fn begin_rollback(&mut self, target: u64) {
        let expect = &mut self.expect;
        expect.undecided = Some(target);
        expect.is_settled = false;
        expect.branches.push(expect.model.clone());
        expect.snapshot = None;
        self.pending.clear();
    }

    fn end_rollback(&mut self, target: u64) {
        let expect = &mut self.expect;
        expect.model.roll_back(target);
        expect.branch += 1;
        expect.durable = target;
        expect.undecided = None;
    }

    fn roll_back(&mut self, target: u64) -> Result<()> {
        self.begin_rollback(target);
        let Some(Store::Own(db)) = self.store.take() else { panic!("the log is the store's own") };
        let db = db.rollback_to(target)?;
        self.end_rollback(target);
        self.expect.is_settled = true;
        self.store = Some(Store::Own(db));
        let is_clean = self.harness.names("abandoned").is_empty();
        assert!(is_clean || !self.is_checked, "{}: abandoned snapshots stay", self.context());
        Ok(())
    }

    fn roll_back_stopped(&mut self, target: u64) -> Result<()> {
        self.close()?;
        self.begin_rollback(target);
        let report = self.harness.rollback().plan(target)?.execute()?;
        self.end_rollback(target);
        assert_eq!((report.version, report.root), (target, self.expect.model.at(target).root));
        self.open()
    }

    fn roll_back_app(&mut self, target: u64) -> Result<()> {
        self.close()?;
        self.begin_rollback(target);
        let rollback = Rollback::new([APP]).on_no_match(NoMatch::Refuse).env(self.harness.env());
        rollback.plan(max_be_u64(0, target))?.execute()?;
        self.end_rollback(target);
        self.open()?;
        assert_eq!(self.store.as_ref().unwrap().newest_block()?, Some(target));
        Ok(())
    }
}
