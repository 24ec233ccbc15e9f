//! A state store on a simulated disk, with a clock that the test controls and everything in the
//! calling thread; and a model of what it must hold.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod check;
pub mod expect;
#[path = "../../../table/tests/support/hook.rs"]
pub mod hook;
pub mod model;
pub mod script;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb::{Components, Db, DbOptions, DuplicateKeys, Table, TableOptions};
use lithdb_env::{Env, FileKind, Fs};
use lithdb_sim::{CrashImage, Effort, SimClock, SimFs, sim_env};
use lithdb_state::{
    ImportReport, ResetReport, Result, StateComponents, StateDb, StateEvent, StateListener,
    StateOptions, StateRollback, Wal, WalFloor,
};
use lithdb_state_engine::ModelEngines;
use parking_lot::Mutex;

/// The directory of the store.
pub const DIR: &str = "/state";
/// The root of the application's database, if the log is a table of it.
pub const APP: &str = "/app";

#[derive(Clone)]
pub struct Harness {
    pub fs: SimFs,
    pub clock: SimClock,
    pub options: StateOptions,
    pub events: Arc<Mutex<Vec<StateEvent>>>,
    /// The file system that the store sees, if it is not `fs` itself.
    pub wrapped: Option<Arc<dyn Fs>>,
}

impl Harness {
    pub fn new(options: StateOptions) -> Self {
        let (fs, clock) = (SimFs::new(), SimClock::new(1));
        Self { fs, clock, options, events: Arc::default(), wrapped: None }
    }

    /// The same store on another disk, with random numbers that nobody has drawn yet.
    pub fn on(&self, fs: SimFs) -> Self {
        let clock = SimClock::new(4711);
        Self { fs, clock, options: self.options.clone(), events: Arc::default(), wrapped: None }
    }

    /// The store on the disk after a power loss.
    pub fn after_crash(&self, image: &CrashImage) -> Self {
        self.on(self.fs.crash_with(image))
    }

    /// The store on a durable copy of the disk: changes to it do not affect this one.
    pub fn fork(&self) -> Self {
        self.on(self.fs.fork())
    }

    pub fn env(&self) -> Env {
        let env = sim_env(&self.fs, &self.clock);
        match &self.wrapped {
            Some(fs) => Env { fs: Arc::clone(fs), ..env },
            None => env,
        }
    }

    pub fn components(&self) -> StateComponents {
        let events = Arc::clone(&self.events);
        let mut components = StateComponents::default();
        components.env = Some(self.env());
        components.engines = Some(Arc::new(ModelEngines::new(self.env())));
        components.listener = StateListener::new(move |event| events.lock().push(event.clone()));
        components.without_background = true;
        components
    }

    pub fn try_open(&self) -> Result<StateDb> {
        StateDb::open_with(DIR, self.options.clone(), self.components())
    }

    pub fn open(&self) -> StateDb {
        self.try_open().unwrap()
    }

    /// A rollback of the stopped store.
    pub fn rollback(&self) -> StateRollback {
        StateRollback::new(DIR).options(self.options.clone()).components(self.components())
    }

    /// Imports an export into the store's directory.
    pub fn import(&self, export: &[u8]) -> Result<ImportReport> {
        StateDb::import_with(DIR, export, self.options.clone(), None, self.components())
    }

    pub fn reset(&self) -> Result<ResetReport> {
        StateDb::reset_with(DIR, self.components())
    }

    /// Opens the store if there is one.
    pub fn try_open_existing(&self) -> Result<StateDb> {
        let options = self.options.clone().create_if_missing(false);
        StateDb::open_with(DIR, options, self.components())
    }

    /// The database of the store's own log, for reading.
    pub fn try_read_log(&self, root: &str) -> Result<Db> {
        let components = Components { env: Some(self.env()), ..Components::default() };
        Db::open_read_only_with(DbOptions::new([root]), components)
    }

    /// The events since the last call.
    pub fn take_events(&self) -> Vec<StateEvent> {
        std::mem::take(&mut *self.events.lock())
    }

    /// Every file below `dir` with its bytes, and every directory.
    pub fn tree(&self, dir: &str) -> Tree {
        let mut tree = Tree::new();
        let mut work = vec![PathBuf::from(dir)];
        while let Some(dir) = work.pop() {
            let Ok(entries) = self.fs.list(&dir) else { continue };
            for entry in entries {
                let path = dir.join(&entry.name);
                if entry.kind == FileKind::Dir {
                    tree.insert(path.clone(), None);
                    work.push(path);
                } else {
                    tree.insert(path.clone(), Some(self.fs.read_raw(&path)));
                }
            }
        }
        tree
    }

    /// The names in a directory of the store; empty if there is none.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let listed = self.fs.list(&Path::new(DIR).join(dir));
        listed.map_or(Vec::new(), |entries| entries.into_iter().map(|entry| entry.name).collect())
    }
}

/// Files with their bytes; `None` for directories.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// The tree without what every opening for writing changes: the log's database, which marks an
/// opening in its tables, and the process id in the lock file.
pub fn without_openings(mut tree: Tree) -> Tree {
    let wal = Path::new(DIR).join("wal");
    tree.retain(|path, _| {
        let is_log = path.starts_with(&wal) || path.starts_with(APP);
        !is_log && !path.ends_with("state.lock")
    });
    tree
}

/// The first difference between two trees.
pub fn difference(one: &Tree, other: &Tree) -> Option<String> {
    let paths = one.keys().chain(other.keys());
    let different = paths.into_iter().find(|path| one.get(*path) != other.get(*path))?;
    let describe = |tree: &Tree| match tree.get(different) {
        None => "absent".to_owned(),
        Some(None) => "a directory".to_owned(),
        Some(Some(bytes)) => format!("{} bytes", bytes.len()),
    };
    Some(format!("{}: {}, then {}", different.display(), describe(one), describe(other)))
}

/// One thread, no snapshots but those that are asked for, four versions to a segment of the log.
pub fn small() -> StateOptions {
    let wal = TableOptions::new().segment_keys(4).duplicate_keys(DuplicateKeys::Reject);
    StateOptions::new().hash_threads(1).snapshot_interval(0).wal(wal)
}

/// An application's database that holds the log of the state beside its own table.
pub struct App {
    pub db: Db,
    pub blocks: Table,
    pub state: StateDb,
    pub floor: WalFloor,
}

impl App {
    pub fn open(harness: &Harness) -> Result<Self> {
        let components = Components {
            env: Some(harness.env()),
            without_maintenance: true,
            ..Components::default()
        };
        let db = Db::open_with(DbOptions::new([APP]), components)?;
        let floor = WalFloor::new();
        let table = db.table_with_filter("state", harness.options.wal.clone(), floor.filter())?;
        let blocks = db.table("blocks", TableOptions::new().segment_keys(3))?;
        let mut components = harness.components();
        components.wal = Wal::Table { table, floor: floor.clone() };
        let state = StateDb::open_with(DIR, harness.options.clone(), components)?;
        Ok(Self { db, blocks, state, floor })
    }
}

/// The images that the disk may be left with: a quick run takes the first at every point, and
/// `others_in_turn` of the others.
pub fn images(fs: &SimFs, name: &str, k: u64, others_in_turn: usize) -> Vec<CrashImage> {
    let (unsynced, effort) = (fs.unsynced_ops(), Effort::from_env());
    if unsynced == 0 {
        return vec![CrashImage::Nothing];
    }
    let seed = effort.seed(name).wrapping_add(k * 1_000_003);
    let seeded = (0..effort.times(3)).map(|n| CrashImage::Seeded(seed.wrapping_add(n)));
    let mut others = vec![CrashImage::Everything, CrashImage::LengthWithOldBlocks];
    others.extend(seeded);
    others.push(CrashImage::LengthWithoutData);
    if unsynced > 1 {
        others.extend([1, unsynced / 2, unsynced - 1].map(CrashImage::Prefix));
        others.extend([unsynced / 3, unsynced - 1].map(CrashImage::OnlyOne));
    }
    if !effort.is_deep() {
        let start = k as usize * others_in_turn % others.len();
        others.rotate_left(start);
        others.truncate(others_in_turn);
    }
    others.insert(0, CrashImage::Nothing);
    others
}
