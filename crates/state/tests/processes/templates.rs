//! A store, its export and its engine alone, as files that are copied for each of many tests.

use std::path::PathBuf;

use lithdb_process_tests::Rng;
use lithdb_state::StateDb;

use crate::child;
use crate::disk::{copy, names};
use crate::support::model::{Change, Model, change_sets, changes_of};

/// What the operations begin with, beside each other in one directory.
pub struct Templates {
    dir: tempfile::TempDir,
    /// The versions of the store in `store`, of which `export` is the newest, and the engine in
    /// `flat/engine` as well.
    pub model: Model,
}

/// Rows enough that each operation takes a while.
fn many(version: u64) -> Vec<Change> {
    let mut rng = Rng::of(&[version]);
    let mut changes = changes_of(0, version);
    changes.extend((0..250).map(|_| {
        let (store, key) = (["bank", "many"][rng.below(2) as usize], rng.below(900).to_be_bytes());
        match rng.below(9) {
            0 => Change::delete(store, key),
            _ => Change::put(store, key, vec![version as u8; rng.below(200) as usize]),
        }
    }));
    changes
}

impl Templates {
    /// A store with snapshots of 3 and 6, one that was moved aside, and 8 as its newest version.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let options = child::small_log().memtable_bytes(20_000).snapshot_interval(0);
        let db = StateDb::open(&store, options.clone()).unwrap();
        let mut model = Model::new(1);
        let mut commit = |db: &StateDb| {
            let changes = many(model.head() + 1);
            let version = model.commit(&changes);
            db.commit_block(version, &change_sets(&changes)).unwrap();
            if matches!(version, 3 | 6 | 9) {
                db.snapshot().unwrap().wait().unwrap();
            }
        };
        (0..9).for_each(|_| commit(&db));
        db.close().unwrap();
        child::truncate_log(&store, 8).unwrap();
        model.roll_back(8);
        let db = StateDb::open(&store, options).unwrap();
        assert_eq!(db.opened().abandoned.len(), 1, "{:?}", db.opened());
        let mut export = Vec::new();
        db.latest().export(&mut export).unwrap();
        std::fs::write(dir.path().join("export"), &export).unwrap();
        db.close().unwrap();
        // Files that compaction has replaced go with the last handle.
        drop(db);
        let engine = names(&store.join("working"));
        let engine = engine.iter().find(|name| name.starts_with("engine-")).unwrap();
        std::fs::create_dir(dir.path().join("flat")).unwrap();
        copy(&store.join("working").join(engine), &dir.path().join("flat/engine"));
        Self { dir, model }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn export(&self) -> Vec<u8> {
        std::fs::read(self.path("export")).unwrap()
    }
}
