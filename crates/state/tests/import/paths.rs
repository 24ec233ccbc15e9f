//! One history, by different paths: committed, replayed, viewed, rolled back and committed again,
//! imported and gone on from. The exports are equal, byte by byte.

use std::path::PathBuf;

use lithdb_env::{Fs, OsFs};
use lithdb_sim::{Effort, Tally};
use lithdb_state::{Result, Retention, StateComponents, StateDb, StateOptions, View};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::origin::export;
use super::round_trip::histories;
use super::support::model::{Change, change_sets};
use super::support::{DIR, Harness, small};

/// Where a store is: on a simulated disk with the model engine, or on a real one.
enum Place {
    Simulated(Box<Harness>),
    Disk(tempfile::TempDir),
}

impl Place {
    fn new(is_simulated: bool) -> Self {
        match is_simulated {
            true => Self::Simulated(Box::new(Harness::new(small()))),
            false => Self::Disk(tempfile::tempdir().unwrap()),
        }
    }

    fn dir(&self) -> PathBuf {
        match self {
            Self::Simulated(_) => PathBuf::from(DIR),
            Self::Disk(dir) => dir.path().join("state"),
        }
    }

    fn components(&self) -> StateComponents {
        match self {
            Self::Simulated(harness) => harness.components(),
            Self::Disk(_) => StateComponents::default(),
        }
    }

    /// Opens the store. Nothing is flushed but what has to be.
    fn open(&self) -> StateDb {
        let options = small().flush_on_close(false).retention(Retention::Manual);
        StateDb::open_with(self.dir(), options, self.components()).unwrap()
    }

    fn view_only(&self, version: u64, options: StateOptions) -> Result<View> {
        StateDb::view_only_with(self.dir(), Some(version), options, self.components())
    }

    fn import(&self, export: &[u8]) -> StateDb {
        StateDb::import_with(self.dir(), export, small(), None, self.components()).unwrap();
        self.open()
    }

    fn lose_working_copy(&self) {
        match self {
            Self::Simulated(harness) => harness.fs.remove_dir_raw(format!("{DIR}/working")),
            Self::Disk(dir) => {
                OsFs.rename(&self.dir().join("working"), &dir.path().join("lost")).unwrap();
            }
        }
    }
}

/// Commits the versions after the newest.
fn go_on(db: &StateDb, history: &[Vec<Change>]) {
    for changes in &history[db.version() as usize..] {
        db.commit_block(db.version() + 1, &change_sets(changes)).unwrap();
    }
}

fn snapshot(db: &StateDb) {
    db.snapshot().unwrap().wait().unwrap();
}

/// The exports of every version, from the empty one on, as they were committed.
fn live(is_simulated: bool, history: &[Vec<Change>]) -> Vec<Vec<u8>> {
    let place = Place::new(is_simulated);
    let db = place.open();
    let mut exports = vec![export(&db.latest())];
    for version in 1..=history.len() {
        go_on(&db, &history[..version]);
        exports.push(export(&db.latest()));
    }
    exports
}

/// Replayed from the log: after a crash, from a snapshot, in a view, in the clone of a view.
fn caught_up(is_simulated: bool, history: &[Vec<Change>], middle: usize, exports: &[Vec<u8>]) {
    let place = Place::new(is_simulated);
    let db = place.open();
    go_on(&db, &history[..middle]);
    snapshot(&db);
    go_on(&db, history);
    drop(db);
    let newest = exports.last().unwrap();
    let db = place.open();
    assert_eq!(db.opened().replayed as usize, history.len() - middle);
    assert!(export(&db.latest()) == *newest, "replayed");
    drop(db);
    place.lose_working_copy();
    let db = place.open();
    assert!(db.opened().recloned.is_some(), "{:?}", db.opened());
    assert!(export(&db.latest()) == *newest, "replayed from a snapshot");
    for (version, expected) in exports.iter().enumerate() {
        for limit in [0, 1 << 20] {
            let options = small().view_memory_bytes(limit);
            let view = place.view_only(version as u64, options).unwrap();
            assert!(export(&view) == *expected, "view of {version}, limit {limit}");
        }
    }
}

/// Rolled back from another history, and committed.
fn rolled_back(is_simulated: bool, history: &[Vec<Change>], middle: usize, exports: &[Vec<u8>]) {
    for with_snapshot in [false, true] {
        let place = Place::new(is_simulated);
        let db = place.open();
        go_on(&db, &history[..middle]);
        if with_snapshot {
            snapshot(&db);
        }
        let mut other = history.to_vec();
        other[middle..].reverse();
        other.push(vec![Change::put("other", "branch", "x"), Change::delete("bank", [0])]);
        go_on(&db, &other);
        if with_snapshot {
            snapshot(&db);
        }
        let db = db.rollback_to(middle as u64).unwrap();
        assert!(export(&db.latest()) == exports[middle], "rolled back");
        go_on(&db, history);
        assert!(export(&db.latest()) == *exports.last().unwrap(), "committed again");
    }
}

/// Imported in the middle, and gone on from there; and imported at the end.
fn imported(is_simulated: bool, history: &[Vec<Change>], middle: usize, exports: &[Vec<u8>]) {
    let place = Place::new(is_simulated);
    let db = place.import(&exports[middle]);
    assert!(export(&db.latest()) == exports[middle], "imported");
    go_on(&db, history);
    assert!(export(&db.latest()) == *exports.last().unwrap(), "imported, and gone on");
    drop(db);
    assert!(export(&place.open().latest()) == *exports.last().unwrap(), "and replayed");
    let place = Place::new(is_simulated);
    let db = place.import(exports.last().unwrap());
    assert!(export(&db.latest()) == *exports.last().unwrap(), "imported at the end");
}

#[test]
fn one_history_by_different_paths_exports_equal_bytes() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("exports of one history by different paths");
    for (is_simulated, cases) in [(true, effort.times(24)), (false, effort.times(4))] {
        let config = Config {
            cases: u32::try_from(cases).unwrap(),
            rng_seed: RngSeed::Fixed(effort.seed("exports by different paths")),
            failure_persistence: None,
            ..Config::default()
        };
        let histories = histories().prop_flat_map(|history| {
            let middle = 0..=history.len();
            (Just(history), middle)
        });
        let ran = TestRunner::new(config).run(&histories, |(history, middle)| {
            let exports = live(is_simulated, &history);
            // The other engine's bytes are the same.
            assert!(live(!is_simulated, &history) == exports, "engines differ");
            caught_up(is_simulated, &history, middle, &exports);
            rolled_back(is_simulated, &history, middle, &exports);
            imported(is_simulated, &history, middle, &exports);
            Ok(())
        });
        ran.map_err(|e| e.to_string()).unwrap();
        tally.add(if is_simulated { "histories, simulated" } else { "histories, real" }, cases);
    }
}
