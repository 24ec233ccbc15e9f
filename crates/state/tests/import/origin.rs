//! A store that is exported, and the checks of the stores that are made of its export.

use lithdb_state::{Base, Result, StateDb, StateOptions, View};

use crate::support::model::{Model, change_sets, changes_of};
use crate::support::{DIR, Harness, check, small};

/// An export, and the model of the store that it is of.
pub struct Origin {
    pub model: Model,
    pub export: Vec<u8>,
}

pub fn export(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    let report = view.export(&mut out).unwrap();
    assert_eq!((report.version, report.root), (view.version(), view.root()));
    assert_eq!(report.export_bytes, out.len() as u64);
    let rows = view.stores().iter().map(|(_, keys, _)| keys).sum::<u64>();
    assert_eq!(report.rows, rows);
    out
}

impl Origin {
    /// The store after `versions` versions of a branch.
    pub fn new(branch: u64, versions: u64) -> Self {
        let harness = Harness::new(small().initial_version(7));
        let db = harness.open();
        let mut model = Model::new(7);
        for _ in 0..versions {
            let changes = changes_of(branch, model.head() + 1);
            let version = model.commit(&changes);
            db.commit_block(version, &change_sets(&changes)).unwrap();
        }
        Self { model, export: export(&db.latest()) }
    }

    /// The store is exactly the one that was exported.
    pub fn check(&self, db: &StateDb, context: &str) {
        assert_eq!(db.version(), self.model.head(), "{context}");
        check::view(&db.latest(), &self.model, context);
        assert!(export(&db.latest()) == self.export, "{context}: the export differs");
        let reach = db.reach(db.version()).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(reach.base, Base::Snapshot { version: db.version() }, "{context}");
        check::reach(db, db.version(), context);
        check::snapshots(db, &self.model, context);
        let report = db.opened();
        assert!(report.foreign.is_empty() && report.damaged.is_empty(), "{context}: {report:?}");
    }

    /// The store goes on from its version, and survives the loss of its working copy.
    pub fn go_on(&self, harness: &Harness, db: StateDb, context: &str) {
        let mut model = self.model.clone();
        let changes = changes_of(50, model.head() + 1);
        let version = model.commit(&changes);
        let committed = db.commit_block(version, &change_sets(&changes));
        committed.unwrap_or_else(|e| panic!("{context}: {e}"));
        check::view(&db.latest(), &model, context);
        drop(db);
        harness.fs.remove_dir_raw(format!("{DIR}/working"));
        let db = harness.try_open_existing().unwrap_or_else(|e| panic!("{context}: {e}"));
        check::view(&db.latest(), &model, context);
        let db = db.rollback_to(self.model.head()).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(export(&db.latest()) == self.export, "{context}: rolled back");
    }

    /// A store that is not there, or whose import was not finished. Everybody refuses it, and
    /// changes nothing; an import makes it whole.
    pub fn refused(&self, harness: &Harness, error: &lithdb_state::Error, context: &str) {
        let message = error.to_string();
        let is_absent = message.contains("there is no state store");
        let is_interrupted = message.contains("was not finished: import again, or reset");
        assert!(is_absent || is_interrupted, "{context}: {error}");
        let readers: [Result<()>; 3] = [
            StateDb::view_only_with(DIR, None, harness.options.clone(), harness.components())
                .map(drop),
            StateDb::inspect_with(DIR, harness.components()).map(drop),
            harness.rollback().plan(self.model.head()).map(drop),
        ];
        for read in readers {
            let error = read.expect_err(context);
            assert_eq!(error.kind(), lithdb_state::ErrorKind::Missing, "{context}: {error}");
        }
    }

    /// What a crash or a fault left is the whole store, or none; another import makes it whole.
    /// Returns whether it was.
    pub fn whole_or_refused(&self, harness: &Harness, context: &str) -> bool {
        let is_whole = match harness.try_open_existing() {
            Ok(db) => {
                self.check(&db, context);
                true
            }
            Err(error) => {
                self.refused(harness, &error, context);
                harness.import(&self.export).unwrap_or_else(|e| panic!("{context}: again: {e}"));
                false
            }
        };
        let db = harness.try_open_existing().unwrap_or_else(|e| panic!("{context}: {e}"));
        self.check(&db, context);
        is_whole
    }
}

/// Every batch of rows is flushed on its own.
pub fn options() -> StateOptions {
    small().memtable_bytes(100)
}
