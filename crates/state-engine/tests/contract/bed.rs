//! An engine factory, a file system, and short forms of the calls that the tests make.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Env, FileKind, Fs, OsFs, read_file};
use lithdb_sim::{SimClock, SimFs, sim_env};
use lithdb_state_engine::{
    Compacted, Engine, Engines, LsmEngines, LsmOptions, ModelEngines, OpenMode, Pin, Sealed,
};

/// The rows of a map.
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// The files below a directory with their bytes.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// What a test runs on.
pub struct Bed {
    engines: Arc<dyn Engines>,
    pub fs: Arc<dyn Fs>,
    root: PathBuf,
    /// Removed with the bed.
    _dir: Option<tempfile::TempDir>,
}

/// The model engine on a simulated disk.
pub fn model() -> Bed {
    let fs = SimFs::new();
    let engines = Arc::new(ModelEngines::new(sim_env(&fs, &SimClock::new(0))));
    Bed { engines, fs: Arc::new(fs), root: PathBuf::from("/"), _dir: None }
}

/// The model engine on a real disk.
pub fn model_on_disk() -> Bed {
    on_disk(Arc::new(ModelEngines::new(Env::os(0).unwrap())))
}

/// The production engine, with tables so small that a few rows make several levels.
pub fn lsm() -> Bed {
    let options = LsmOptions { table_bytes: 4096, level_0_tables: 2, ..LsmOptions::default() };
    on_disk(Arc::new(LsmEngines::new(options)))
}

fn on_disk(engines: Arc<dyn Engines>) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    Bed { engines, fs: Arc::new(OsFs), root: dir.path().to_owned(), _dir: Some(dir) }
}

impl Bed {
    /// By reference: `Arc` has another method `clone_into`.
    pub fn engines(&self) -> &dyn Engines {
        &*self.engines
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn create(&self, name: &str) -> Arc<dyn Engine> {
        self.engines.create(&self.path(name)).unwrap()
    }

    pub fn open(&self, name: &str) -> Arc<dyn Engine> {
        self.engines.open(&self.path(name), OpenMode::Write).unwrap()
    }

    pub fn read_in_place(&self, name: &str) -> Arc<dyn Engine> {
        self.engines.open(&self.path(name), OpenMode::ReadInPlace).unwrap()
    }

    pub fn make_dir(&self, name: &str) -> PathBuf {
        self.fs.create_dir(&self.path(name)).unwrap();
        self.path(name)
    }

    /// Every file below a directory; directories have names that end with `/`.
    pub fn tree(&self, name: &str) -> Tree {
        let mut tree = Tree::new();
        self.collect(&self.path(name), "", &mut tree);
        tree
    }

    fn collect(&self, dir: &Path, prefix: &str, tree: &mut Tree) {
        for entry in self.fs.list(dir).unwrap() {
            let (path, name) = (dir.join(&entry.name), format!("{prefix}{}", entry.name));
            match entry.kind {
                FileKind::Dir => {
                    let name = format!("{name}/");
                    self.collect(&path, &name, tree);
                    tree.insert(name, Vec::new());
                }
                _ => {
                    tree.insert(name, read_file(&*self.fs, &path, u64::MAX).unwrap());
                }
            }
        }
    }

    /// Removes a directory with everything in it.
    pub fn remove(&self, name: &str) {
        let dir = self.path(name);
        for file in self.tree(name).keys().rev() {
            match file.strip_suffix('/') {
                Some(below) => self.fs.remove_dir(&dir.join(below)).unwrap(),
                None => self.fs.remove_file(&dir.join(file)).unwrap(),
            }
        }
        self.fs.remove_dir(&dir).unwrap();
    }

    /// Replaces the bytes of a file; it becomes another file, so that links of the old one keep
    /// theirs.
    pub fn write(&self, path: &Path, bytes: &[u8]) {
        if lithdb_env::exists(&*self.fs, path).unwrap() {
            self.fs.remove_file(path).unwrap();
        }
        let file = self.fs.create_new(path).unwrap();
        lithdb_env::write_all_at(&*file, bytes, 0).unwrap();
    }
}

pub fn put(engine: &Arc<dyn Engine>, key: &str, value: &str) {
    engine.apply(&mut [(key.as_bytes(), Some(value.as_bytes()))].into_iter()).unwrap();
}

pub fn delete(engine: &Arc<dyn Engine>, key: &str) {
    engine.apply(&mut [(key.as_bytes(), None)].into_iter()).unwrap();
}

pub fn seal(engine: &Arc<dyn Engine>) -> Sealed {
    engine.seal(&[]).unwrap()
}

pub fn flush(engine: &Arc<dyn Engine>) -> Sealed {
    let sealed = seal(engine);
    engine.flush(&sealed).unwrap();
    sealed
}

/// Compacts until there is nothing to do, and returns the number of steps.
pub fn compact(engine: &Arc<dyn Engine>) -> usize {
    (0..).find(|_| engine.compact_once().unwrap() == Compacted::Nothing).unwrap()
}

/// Puts and flushes several overlapping sets of rows, so that there are files to compact.
pub fn overwrite(engine: &Arc<dyn Engine>, rounds: u64, seed: &str) {
    for round in 0..rounds {
        for row in 0..40 {
            let key = format!("key-{:03}", (row * 7 + round * 3) % 100);
            put(engine, &key, &format!("{seed}-{round}-{row}-{}", "x".repeat(60)));
        }
        delete(engine, &format!("key-{:03}", round * 11 % 100));
        flush(engine);
    }
}

pub fn get(engine: &Arc<dyn Engine>, at: &Pin, key: &str) -> Option<String> {
    let value = engine.get(at, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

pub fn map_at(engine: &Arc<dyn Engine>, at: &Pin) -> Map {
    let rows = Arc::clone(engine).range(at, Bound::Unbounded, Bound::Unbounded);
    rows.map(|row| row.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

pub fn map(engine: &Arc<dyn Engine>) -> Map {
    map_at(engine, &engine.pin())
}

pub fn keys(rows: impl Iterator<Item = lithdb_env::Result<(Bytes, Bytes)>>) -> Vec<String> {
    rows.map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap()).collect()
}
