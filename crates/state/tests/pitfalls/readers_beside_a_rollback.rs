//! Readers beside a writer that rolls back and commits other versions.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_env::{ErrorKind, FileKind, Fs, LockKind};
use lithdb_sim::Tally;
use lithdb_state::{RootHash, StateComponents, StateDb, Unreachable};
use lithdb_state_engine::ModelEngines;
use parking_lot::Mutex;

use crate::fixture::{Fixture, path_of};
use crate::interleave::InterleaveFs;
use crate::readers::{ONE_GOES, step_of};
use crate::support::model::{Model, change_sets, changes_of};
use crate::support::{DIR, check, small};
use crate::verify::LEVELS;

/// What the writer does while somebody reads a store of ten versions with snapshots of 4 and 8.
#[derive(Debug, Clone, Copy)]
struct GoBack {
    target: u64,
    /// The newest version afterwards.
    last: u64,
}

const ALL: [GoBack; 5] = [
    GoBack { target: 5, last: 9 },
    GoBack { target: 6, last: 6 },
    GoBack { target: 6, last: 12 },
    GoBack { target: 8, last: 10 },
    GoBack { target: 9, last: 13 },
];

impl GoBack {
    /// What a reader may find: the model before, and the one afterwards.
    fn models(self) -> [Model; 2] {
        let before = ONE_GOES.store().model.clone();
        let mut after = before.clone();
        after.roll_back(self.target);
        for version in self.target + 1..=self.last {
            after.commit(&changes_of(1, version));
        }
        [before, after]
    }

    /// Refused if somebody reads a snapshot that would go: then it is as if nothing had happened.
    fn act(self, writer: &Mutex<Option<StateDb>>) -> bool {
        let Some(db) = writer.lock().take() else { panic!("there is a writer") };
        let kept = db.clone();
        let db = match db.rollback_to(self.target) {
            Ok(db) => db,
            Err(error) if error.kind() == ErrorKind::Locked => {
                *writer.lock() = Some(kept);
                return false;
            }
            Err(error) => panic!("{self:?}: {error}"),
        };
        for version in self.target + 1..=self.last {
            db.commit_block(version, &change_sets(&changes_of(1, version))).unwrap();
        }
        if self.last > 10 {
            db.snapshot().unwrap().wait().unwrap();
        }
        *writer.lock() = Some(db);
        true
    }

    /// Calls `read` again and again, before each of its reads in turn lets the writer go back, and
    /// returns how often it did.
    fn interleave(self, read: impl FnMut(u64, StateComponents)) -> u64 {
        self.interleave_every(1, read)
    }

    /// As [`interleave`](Self::interleave), before each `step`th read.
    fn interleave_every(self, step: usize, mut read: impl FnMut(u64, StateComponents)) -> u64 {
        let acted = Arc::new(AtomicU64::new(0));
        for n in (1..).step_by(step) {
            let mut store = ONE_GOES.store();
            let writer = Arc::new(Mutex::new(Some(store.take_db())));
            let left = Arc::new(AtomicU64::new(n));
            let (reads, theirs, count) = (Arc::clone(&left), Arc::clone(&writer), acted.clone());
            let act = move |_: &Path| {
                if reads.load(Ordering::SeqCst) > 0 && reads.fetch_sub(1, Ordering::SeqCst) == 1 {
                    count.fetch_add(u64::from(self.act(&theirs)), Ordering::SeqCst);
                }
            };
            let mut components = store.components();
            let mut env = store.env();
            env.fs = Arc::new(InterleaveFs::new(Arc::clone(&env.fs), act));
            components.env = Some(env.clone());
            components.engines = Some(Arc::new(ModelEngines::new(env)));
            read(n, components);
            drop(writer.lock().take());
            if left.load(Ordering::SeqCst) > 0 {
                assert!(n > 20, "{n} reads");
                return acted.load(Ordering::SeqCst);
            }
        }
        unreachable!("a read ends");
    }
}

/// The model of the branch that a root is of.
fn branch_of<'a>(models: &'a [Model; 2], version: u64, root: RootHash, context: &str) -> &'a Model {
    let is_of = |model: &&Model| version <= model.head() && model.at(version).root == root;
    let found = models.iter().find(is_of);
    found.unwrap_or_else(|| panic!("{context}: version {version} is of no branch"))
}

#[test]
fn a_reader_between_any_two_reads_of_which_the_writer_rolls_back_sees_one_branch() {
    let mut tally = Tally::new("reads between which the writer rolls back");
    for back in ALL {
        let models = back.models();
        for version in [None, Some(7), Some(9)] {
            let acted = back.interleave(|n, components| {
                let context = format!("{back:?}, before read {n} of {version:?}");
                match StateDb::view_only_with(DIR, version, small(), components) {
                    Ok(view) => {
                        let model = branch_of(&models, view.version(), view.root(), &context);
                        check::view(&view, model, &context);
                    }
                    // It was cut, or retention has removed the snapshot of 4.
                    Err(error) => {
                        let unreachable = Unreachable::of(&error);
                        assert_eq!(unreachable.map(|it| it.target), version, "{context}: {error}");
                        let is_collected = back.target > 8 && version == Some(7);
                        assert!(is_collected || version > Some(back.last), "{context}: {error}");
                    }
                }
            });
            tally.add("rollbacks", acted);
        }
    }
}

#[test]
fn inspecting_and_verifying_between_any_two_reads_of_which_the_writer_rolls_back_finds_nothing_wrong()
 {
    let mut tally = Tally::new("inspections between whose reads the writer rolls back");
    for back in ALL {
        let models = back.models();
        let acted = back.interleave(|n, components| {
            let context = format!("{back:?}, before read {n} of an inspection");
            let found = StateDb::inspect_with(DIR, components);
            let found = found.unwrap_or_else(|e| panic!("{context}: {e}"));
            branch_of(&models, found.version, found.root, &context);
            assert!(found.reach.is_some(), "{context}: {found:?}");
        });
        tally.add("rollbacks", acted);
        for level in LEVELS {
            let acted = back.interleave_every(step_of(level), |n, components| {
                let context = format!("{back:?}, before read {n} of {level:?}");
                let found = StateDb::verify_with(DIR, level, small(), components, |_| {});
                let found = found.unwrap_or_else(|e| panic!("{context}: {e}"));
                assert!(found.is_ok(), "{context}: {:?}", found.findings);
                branch_of(&models, found.version, found.root, &context);
            });
            tally.add("rollbacks", acted);
        }
    }
}

/// A reader opens an engine by its name. A directory that is moved meanwhile would leave it with
/// another one, or with one that it creates.
#[test]
fn a_snapshot_that_is_being_opened_is_not_moved_aside() {
    let mut store = Fixture::simulated(small());
    for version in [4, 8] {
        store.commit_to(version);
        store.snapshot();
    }
    store.close();
    store.truncate_log(6);
    let fs = store.harness().fs.clone();
    let reader = fs.try_lock(&path_of(8), LockKind::Shared).unwrap();
    let error = store.try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert_eq!(fs.metadata(&path_of(8)).unwrap().kind, FileKind::Dir, "it is where it was");
    drop(reader);
    assert_eq!(store.open().opened().abandoned, [8]);
    store.check("the reader has gone");
}
