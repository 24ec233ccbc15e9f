//! A store with its model: on a simulated disk with the model engine, or on the disk of the machine
//! with the production engine.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb::rollback::max_be_u64;
use lithdb::{Components, Db, DbOptions, NoMatch, Rollback};
use lithdb_env::{Env, FileKind, Fs, read_file};
use lithdb_sim::SimFs;
use lithdb_state::{
    ImportReport, Result, Snapshot, StateComponents, StateDb, StateOptions, StateRollback,
    StateRollbackReport, Unreachable, View,
};

use crate::support::model::{Change, Model, change_sets, changes_of};
use crate::support::{DIR, Harness, Tree, check};

enum Place {
    Simulated(Box<Harness>),
    Disk(tempfile::TempDir),
}

pub struct Fixture {
    place: Place,
    pub options: StateOptions,
    db: Option<StateDb>,
    pub model: Model,
    branch: u64,
}

impl Fixture {
    fn new(place: Place, options: StateOptions) -> Self {
        let model = Model::new(options.initial_version);
        let mut store = Self { place, options, db: None, model, branch: 0 };
        store.open();
        store
    }

    /// On a simulated disk.
    pub fn simulated(options: StateOptions) -> Self {
        Self::new(Place::Simulated(Box::new(Harness::new(options.clone()))), options)
    }

    /// On the disk of the machine, with the defaults for everything.
    pub fn on_disk(options: StateOptions) -> Self {
        Self::new(Place::Disk(tempfile::tempdir().unwrap()), options)
    }

    /// One of each.
    pub fn both(options: &StateOptions) -> [Self; 2] {
        [Self::simulated(options.clone()), Self::on_disk(options.clone())]
    }

    /// The store on another simulated disk: a crash image, or a copy. It is not open.
    pub fn on(&self, fs: SimFs) -> Self {
        let place = Place::Simulated(Box::new(self.harness().on(fs)));
        let (options, model) = (self.options.clone(), self.model.clone());
        Self { place, options, db: None, model, branch: self.branch + 100 }
    }

    /// A copy on a disk of its own. It is not open.
    pub fn fork(&self) -> Self {
        self.on(self.harness().fs.fork())
    }

    /// A place of the same kind without a store, for an import of this one.
    pub fn absent(&self) -> Self {
        let options = self.options.clone();
        let place = match &self.place {
            Place::Simulated(_) => Place::Simulated(Box::new(Harness::new(options.clone()))),
            Place::Disk(_) => Place::Disk(tempfile::tempdir().unwrap()),
        };
        Self { place, options, db: None, model: self.model.clone(), branch: self.branch }
    }

    pub fn export(&self) -> Vec<u8> {
        let mut export = Vec::new();
        self.db().latest().export(&mut export).unwrap();
        export
    }

    pub fn import(&self, export: &[u8]) -> Result<ImportReport> {
        let options = self.options.clone();
        StateDb::import_with(self.dir(), export, options, None, self.components())
    }

    pub fn harness(&self) -> &Harness {
        match &self.place {
            Place::Simulated(harness) => harness,
            Place::Disk(_) => panic!("the store is not on a simulated disk"),
        }
    }

    pub fn harness_mut(&mut self) -> &mut Harness {
        match &mut self.place {
            Place::Simulated(harness) => harness,
            Place::Disk(_) => panic!("the store is not on a simulated disk"),
        }
    }

    pub fn dir(&self) -> PathBuf {
        match &self.place {
            Place::Simulated(_) => PathBuf::from(DIR),
            Place::Disk(dir) => dir.path().join("state"),
        }
    }

    pub fn env(&self) -> Env {
        match &self.place {
            Place::Simulated(harness) => harness.env(),
            Place::Disk(_) => Env::os(1).unwrap(),
        }
    }

    pub fn components(&self) -> StateComponents {
        match &self.place {
            Place::Simulated(harness) => harness.components(),
            Place::Disk(_) => StateComponents::default(),
        }
    }

    pub fn db(&self) -> &StateDb {
        self.db.as_ref().unwrap()
    }

    pub fn take_db(&mut self) -> StateDb {
        self.db.take().unwrap()
    }

    pub fn try_open(&mut self) -> Result<&StateDb> {
        let db = StateDb::open_with(self.dir(), self.options.clone(), self.components())?;
        Ok(self.db.insert(db))
    }

    pub fn open(&mut self) -> &StateDb {
        self.try_open().unwrap()
    }

    pub fn close(&mut self) {
        self.take_db().close().unwrap();
    }

    pub fn reopen(&mut self) -> &StateDb {
        self.close();
        self.open()
    }

    pub fn commit(&mut self, changes: &[Change]) -> u64 {
        let version = self.model.commit(changes);
        let done = self.db().commit_block(version, &change_sets(changes)).unwrap();
        assert_eq!((done.version, done.root), (version, self.model.at(version).root));
        version
    }

    /// Applies changes to the next version.
    pub fn apply(&self, changes: &[Change]) {
        self.db().apply(self.model.head() + 1, &change_sets(changes)).unwrap();
    }

    /// Commits a version to which `applied` was applied before.
    pub fn commit_after(&mut self, applied: &[Change], changes: &[Change]) {
        let version = self.model.commit(&[applied, changes].concat());
        let done = self.db().commit_block(version, &change_sets(changes)).unwrap();
        assert_eq!((done.version, done.root), (version, self.model.at(version).root));
    }

    /// Commits versions up to `last`, each with changes of this branch.
    pub fn commit_to(&mut self, last: u64) {
        while self.model.head() < last {
            let changes = changes_of(self.branch, self.model.head() + 1);
            self.commit(&changes);
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.db().snapshot().unwrap().wait().unwrap();
        let head = self.model.head();
        assert_eq!((snapshot.version, snapshot.root), (head, self.model.at(head).root));
        snapshot
    }

    /// The model after a rollback: the next versions will have other contents.
    pub fn rolled_back(&mut self, target: u64) {
        self.model.roll_back(target);
        self.branch += 1;
    }

    /// Rolls the open store back.
    pub fn roll_back(&mut self, target: u64) -> &StateDb {
        let db = self.take_db().rollback_to(target).unwrap();
        self.rolled_back(target);
        self.db.insert(db)
    }

    /// Rolls the store back, open or closed; `false` if the version cannot be reached.
    pub fn try_roll_back(&mut self, target: u64, is_open: bool) -> bool {
        let refused = if is_open {
            let db = self.take_db();
            let (db, refused) = match db.clone().rollback_to(target) {
                Ok(db) => (db, None),
                Err(error) => (db, Some(error)),
            };
            self.db = Some(db);
            refused
        } else {
            self.stopped_rollback().plan(target).and_then(|plan| plan.execute()).err()
        };
        match &refused {
            None => self.rolled_back(target),
            Some(error) => assert!(Unreachable::of(error).is_some(), "{error}"),
        }
        refused.is_none()
    }

    pub fn stopped_rollback(&self) -> StateRollback {
        StateRollback::new(self.dir()).options(self.options.clone()).components(self.components())
    }

    /// Rolls the closed store back.
    pub fn roll_back_stopped(&mut self, target: u64) -> StateRollbackReport {
        let report = self.stopped_rollback().plan(target).unwrap().execute().unwrap();
        self.rolled_back(target);
        report
    }

    /// Truncates the log of the closed store, as a rollback has done when it is decided.
    pub fn truncate_log(&mut self, target: u64) {
        let rollback = Rollback::new([self.dir().join("wal")]).on_no_match(NoMatch::Refuse);
        let plan = rollback.env(self.env()).plan(max_be_u64(0, target)).unwrap();
        plan.execute().unwrap();
        self.rolled_back(target);
    }

    pub fn view_only(&self, version: Option<u64>) -> Result<View> {
        StateDb::view_only_with(self.dir(), version, self.options.clone(), self.components())
    }

    /// The open store holds exactly the newest version of the model.
    pub fn check(&self, context: &str) {
        let (db, head) = (self.db(), self.model.head());
        assert_eq!(db.version(), head, "{context}");
        check::view(&db.latest(), &self.model, context);
    }

    /// The records of the log of the closed store, by version.
    pub fn log(&self) -> Vec<(u64, Vec<u8>)> {
        let db = open_log(self, true);
        let table = db.existing_table("wal").unwrap();
        let records = table.iter().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let version = u64::from_be_bytes(entry.key().try_into().unwrap());
            (version, entry.value().unwrap().to_vec())
        });
        records.collect()
    }

    /// Replaces the log of the closed store by one with these records.
    pub fn replace_log(&self, records: &[(u64, Vec<u8>)]) {
        self.harness().fs.remove_dir_raw(self.dir().join("wal"));
        let db = open_log(self, false);
        let table = db.table("wal", self.options.wal.clone()).unwrap();
        for (version, record) in records {
            table.put(version.to_be_bytes(), record).unwrap();
        }
        db.close().unwrap();
    }

    /// Every file and directory of the store.
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        collect(&*self.env().fs, &self.dir(), &mut tree);
        tree
    }
}

fn open_log(store: &Fixture, is_read_only: bool) -> Db {
    let components =
        Components { env: Some(store.env()), without_maintenance: true, ..Components::default() };
    let options = DbOptions::new([store.dir().join("wal")]);
    let opened = match is_read_only {
        true => Db::open_read_only_with(options, components),
        false => Db::open_with(options, components),
    };
    opened.unwrap()
}

fn collect(fs: &dyn Fs, dir: &Path, tree: &mut Tree) {
    for entry in fs.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.kind == FileKind::Dir {
            tree.insert(path.clone(), None);
            collect(fs, &path, tree);
        } else {
            tree.insert(path.clone(), Some(read_file(fs, &path, 1 << 30).unwrap()));
        }
    }
}

/// The directory of a snapshot on a simulated disk.
pub fn path_of(version: u64) -> PathBuf {
    PathBuf::from(DIR).join("snapshots").join(format!("{version:020}"))
}

/// Copies a directory of a simulated disk.
pub fn copy_dir(from: &SimFs, dir: &Path, to: &SimFs, into: &Path) {
    for path in from.file_paths().iter().filter(|path| path.starts_with(dir)) {
        let copy = into.join(path.strip_prefix(dir).unwrap());
        to.write_raw(copy, from.read_raw(path));
    }
}

/// A file system of which some operations fail.
pub fn refusing(
    fs: &SimFs,
    refuses: impl Fn(lithdb_sim::OpKind, &Path) -> Option<std::io::Error> + Send + Sync + 'static,
) -> Arc<dyn Fs> {
    Arc::new(crate::refuse::RefuseFs::new(Arc::new(fs.clone()), refuses))
}
