//! Readers beside the writer, and views that outlive it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb::{DuplicateKeys, TableOptions};
use lithdb_env::{Fs, OsFs, spawn};
use lithdb_sim::{Effort, Tally};
use lithdb_state::{
    Retention, RootHash, StateComponents, StateDb, StateOptions, Unreachable, VerifyLevel,
};
use lithdb_state_engine::ModelEngines;
use parking_lot::Mutex;

use crate::fixture::Fixture;
use crate::interleave::InterleaveFs;
use crate::support::model::{Model, change_sets, changes_of, root_of, rows_of};
use crate::support::{DIR, check, small};
use crate::verify::LEVELS;

/// A store, and what its writer does while somebody reads: it goes on, takes a snapshot, and
/// collects what is then too old.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    keep_snapshots: usize,
    snapshots: &'static [u64],
    pub head: u64,
    /// The newest version afterwards, of which there is a snapshot.
    pub last: u64,
}

/// One snapshot goes, and the log before the other.
pub const ONE_GOES: Scenario =
    Scenario { keep_snapshots: 1, snapshots: &[4, 8], head: 10, last: 14 };
/// All snapshots go of which a reader may know, and all of the log that they need.
pub const ALL_GO: Scenario = Scenario { keep_snapshots: 0, snapshots: &[4], head: 13, last: 13 };

impl Scenario {
    pub fn store(self) -> Fixture {
        let mut store = Fixture::simulated(small().keep_snapshots(self.keep_snapshots));
        for version in self.snapshots {
            store.commit_to(*version);
            store.snapshot();
        }
        store.commit_to(self.head);
        store
    }

    /// The model afterwards.
    pub fn model(self) -> Model {
        let mut store = self.store();
        store.commit_to(self.last);
        store.model.clone()
    }

    /// A snapshot that is being read stays.
    pub fn go_on(self, db: &StateDb) {
        for version in self.head + 1..=self.last {
            db.commit_block(version, &change_sets(&changes_of(0, version))).unwrap();
        }
        assert_eq!(db.snapshot().unwrap().wait().unwrap().version, self.last);
    }

    /// Calls `read` again and again, before each of its reads in turn lets the writer go on, and
    /// returns how many reads there were.
    fn interleave(self, read: impl FnMut(u64, StateComponents)) -> u64 {
        self.interleave_every(1, read)
    }

    /// As [`interleave`](Self::interleave), before each `step`th read.
    fn interleave_every(self, step: usize, mut read: impl FnMut(u64, StateComponents)) -> u64 {
        for n in (1..).step_by(step) {
            let store = self.store();
            let (left, db) = (Arc::new(AtomicU64::new(n)), store.db().clone());
            let reads = Arc::clone(&left);
            let act = move |_: &Path| {
                if left.load(Ordering::SeqCst) > 0 && left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.go_on(&db);
                }
            };
            let mut components = store.components();
            let mut env = store.env();
            env.fs = Arc::new(InterleaveFs::new(Arc::clone(&env.fs), act));
            components.env = Some(env.clone());
            components.engines = Some(Arc::new(ModelEngines::new(env)));
            read(n, components);
            if reads.load(Ordering::SeqCst) > 0 {
                assert!(n > 20, "{n} reads");
                return n;
            }
        }
        unreachable!("a read ends");
    }

    /// The same with the handle of the writer. Reading the log holds locks of its database, which
    /// the writer needs: it goes on before the other reads. Returns how many those were.
    pub fn interleave_open(
        self,
        options: impl Fn(StateOptions) -> StateOptions,
        mut read: impl FnMut(u64, &StateDb),
    ) -> u64 {
        for n in 1.. {
            let mut store = self.store();
            store.close();
            store.options = options(store.options);
            let left = Arc::new(AtomicU64::new(0));
            let (reads, writer) = (Arc::clone(&left), Arc::new(Mutex::new(None::<StateDb>)));
            let db = Arc::clone(&writer);
            let act = move |path: &Path| {
                if path.starts_with(format!("{DIR}/wal")) || reads.load(Ordering::SeqCst) == 0 {
                    return;
                }
                if reads.fetch_sub(1, Ordering::SeqCst) == 1 {
                    let db = db.lock().clone().unwrap();
                    self.go_on(&db);
                    assert!(db.stats().version == self.last, "{self:?}");
                }
            };
            let fs = Arc::new(store.harness().fs.clone());
            store.harness_mut().wrapped = Some(Arc::new(InterleaveFs::new(fs, act)));
            *writer.lock() = Some(store.open().clone());
            left.store(n, Ordering::SeqCst);
            read(n, store.db());
            *writer.lock() = None;
            if left.load(Ordering::SeqCst) > 0 {
                assert!(n > 10, "{n} reads");
                return n;
            }
        }
        unreachable!("a read ends");
    }
}

/// sei-chain #3337, #3516: a reader looked at the log before it held its snapshot, and skipped the
/// versions that were collected meanwhile.
#[test]
fn a_reader_between_any_two_reads_of_which_the_writer_collects_finds_its_version() {
    let mut tally = Tally::new("reads between which the writer collects");
    for scenario in [ONE_GOES, ALL_GO] {
        let Scenario { head, last, .. } = scenario;
        let model = scenario.model();
        for version in [None, Some(head)] {
            let reads = scenario.interleave(|n, components| {
                let context = format!("{scenario:?}, before read {n} of {version:?}");
                let view = StateDb::view_only_with(DIR, version, small(), components);
                let view = view.unwrap_or_else(|e| panic!("{context}: {e}"));
                let expected = version.map_or(head..=last, |version| version..=version);
                assert!(expected.contains(&view.version()), "{context}: {}", view.version());
                check::view(&view, &model, &context);
            });
            tally.add("reads", reads);
        }
        // It can be reached no more: that is said, or it was in time.
        scenario.interleave(|n, components| {
            let context = format!("{scenario:?}, before read {n} of version 6");
            match StateDb::view_only_with(DIR, Some(6), small(), components) {
                Ok(view) => check::view(&view, &model, &context),
                Err(error) => {
                    let unreachable = Unreachable::of(&error);
                    assert_eq!(unreachable.map(|it| it.target), Some(6), "{context}: {error}");
                }
            }
        });
    }
}

/// A replay reads so much that a quick run does not stop it before each of its reads.
pub fn step_of(level: VerifyLevel) -> usize {
    if level < VerifyLevel::Replay || Effort::from_env().is_deep() { 1 } else { 5 }
}

/// The same of what only looks: what is collected meanwhile is nothing that is wrong.
#[test]
fn inspecting_and_verifying_between_any_two_reads_of_which_the_writer_collects_finds_nothing_wrong()
{
    let mut tally = Tally::new("reads of verifications between which the writer collects");
    for scenario in [ONE_GOES, ALL_GO] {
        let model = scenario.model();
        let reads = scenario.interleave(|n, components| {
            let context = format!("{scenario:?}, before read {n} of an inspection");
            let found = StateDb::inspect_with(DIR, components);
            let found = found.unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(found.root, model.at(found.version).root, "{context}");
            assert!(found.reach.is_some(), "{context}: {found:?}");
        });
        tally.add("inspections", reads);
        for level in LEVELS {
            let step = if scenario.head == ALL_GO.head { 1 } else { step_of(level) };
            let reads = scenario.interleave_every(step, |n, components| {
                let context = format!("{scenario:?}, before read {n} of {level:?}");
                let found = StateDb::verify_with(DIR, level, small(), components, |_| {});
                let found = found.unwrap_or_else(|e| panic!("{context}: {e}"));
                assert!(found.is_ok(), "{context}: {:?}", found.findings);
                assert_eq!(found.root, model.at(found.version).root, "{context}");
            });
            tally.add("verifications", reads);
        }
    }
}

/// The same within one process: what can be reached is asked while the log is collected.
#[test]
fn what_can_be_reached_is_answered_between_any_two_reads() {
    for scenario in [ONE_GOES, ALL_GO] {
        scenario.interleave_open(
            |options| options,
            |n, db| {
                let context = format!("{scenario:?}, before read {n}");
                let reached = db.reach(scenario.head);
                assert!(reached.is_ok(), "{context}: {reached:?}");
                // Version 6 can be reached until the log is collected, and then no more.
                if let Err(error) = db.reach(6) {
                    assert!(Unreachable::of(&error).is_some(), "{context}: {error}");
                }
                db.snapshots().unwrap_or_else(|e| panic!("{context}: {e}"));
            },
        );
    }
}

/// Snapshots of the next test beside the newest: enough that few versions are gone when they are
/// read.
const KEPT: usize = 2;

/// What the writer of the next test shares with its readers.
struct Writing {
    /// The newest version that was committed.
    committed: AtomicU64,
    roots: Mutex<BTreeMap<u64, RootHash>>,
    is_over: AtomicBool,
}

/// sei-chain #3337, #3516. With the production engine, in threads.
#[test]
fn a_reader_beside_snapshots_retention_and_collection_always_finds_its_version() {
    let effort = Effort::from_env();
    let rounds = if effort.is_deep() { effort.times(300).max(10_000) } else { 300 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let wal = TableOptions::new().segment_keys(3).duplicate_keys(DuplicateKeys::Reject);
    let options = StateOptions::new().snapshot_interval(3).keep_snapshots(KEPT).wal(wal);
    let db = StateDb::open(&path, options.hash_threads(1)).unwrap();
    let writing = Arc::new(Writing {
        committed: AtomicU64::new(0),
        roots: Mutex::new([(0, db.root())].into()),
        is_over: AtomicBool::new(false),
    });
    let (theirs, writer_db) = (Arc::clone(&writing), db.clone());
    let writer = spawn("writer", move || {
        let mut version = 0;
        while !theirs.is_over.load(Ordering::SeqCst) {
            version += 1;
            let sets = change_sets(&changes_of(0, version));
            writer_db.apply(version, &sets).unwrap();
            // Before anybody can see the version.
            theirs.roots.lock().insert(version, writer_db.pending().root().unwrap());
            writer_db.commit(version).unwrap();
            theirs.committed.store(version, Ordering::SeqCst);
            if version % 50 == 0 {
                let newest = writer_db.stats().snapshot_version;
                writer_db.prune_snapshots_below(newest).unwrap();
            }
        }
    });
    let readers: Vec<_> = (0..2)
        .map(|number| {
            let (writing, path, db) = (Arc::clone(&writing), path.clone(), db.clone());
            let read = move || {
                (0..rounds / 2).map(|round| read_once(&writing, &path, &db, round)).sum::<u64>()
            };
            let found = Arc::new(AtomicU64::new(0));
            let sum = Arc::clone(&found);
            let thread = spawn(&format!("reader {number}"), move || {
                sum.store(read(), Ordering::SeqCst);
            });
            (thread.unwrap(), found)
        })
        .collect();
    let ended: Vec<_> = readers.into_iter().map(|(thread, sum)| (thread.join(), sum)).collect();
    writing.is_over.store(true, Ordering::SeqCst);
    writer.unwrap().join().unwrap();
    let mut tally = Tally::new("readers beside the writer");
    for (result, sum) in ended {
        result.unwrap();
        tally.add("views from snapshots", sum.load(Ordering::SeqCst));
    }
    tally.add("rounds", rounds);
    tally.add("versions", db.version());
    assert!(db.stats().floor > 3, "the log was collected: {:?}", db.stats());
    assert!(tally.get("views from snapshots") > rounds / 2, "{tally:?}");
    db.close().unwrap();
}

/// The versions of the directories with the name of a snapshot.
fn snapshots_on_disk(path: &Path) -> Vec<u64> {
    let entries = OsFs.list(&path.join("snapshots")).unwrap();
    entries.into_iter().flat_map(|entry| entry.name.parse()).collect()
}

/// One round of a reader, in the process of the writer or as in another; returns how many of its
/// views began with a snapshot.
fn read_once(writing: &Writing, path: &Path, db: &StateDb, round: u64) -> u64 {
    let before = writing.committed.load(Ordering::SeqCst);
    let (version, viewed) = match round % 4 {
        0 => (None, StateDb::view_only(path, None)),
        1 => (Some(before), StateDb::view_only(path, Some(before))),
        _ => {
            let version = before.saturating_sub(round / 4 % 6);
            (Some(version), db.view(version))
        }
    };
    match viewed {
        Ok(view) => {
            let expected = version.map_or(before..=u64::MAX, |version| version..=version);
            assert!(expected.contains(&view.version()), "{}, {expected:?}", view.version());
            assert_eq!(view.root(), writing.roots.lock()[&view.version()]);
            assert_eq!(root_of(&rows_of(&view)), view.root(), "version {}", view.version());
            u64::from(view.version() > 3)
        }
        Err(error) => {
            // A version that was asked for may have gone meanwhile, with all snapshots from which
            // it was reached. What stood in the way of the refusal would still stand: snapshots go
            // from the oldest, and after a newer one has its name; none comes below another one.
            let unreachable = Unreachable::of(&error).unwrap_or_else(|| panic!("{error}"));
            let target = unreachable.target;
            assert_eq!(Some(target), version, "round {round}: {error}");
            let bases = snapshots_on_disk(path);
            assert!(bases.iter().all(|base| *base > target), "{error}, but there are {bases:?}");
            let lowest = db.rollback_floor().unwrap();
            assert!(lowest > target, "{error}, but {lowest} can be reached");
            0
        }
    }
}

/// sei-chain #3447: a store that was loaded for reading reported its height as the writer's; and
/// views of a store that was closed.
#[test]
fn views_outlive_close_and_do_not_touch_the_writers_gauges() {
    let options = small().keep_snapshots(0);
    // With clones on disk, too.
    let all = [1 << 30, 0].map(|limit| Fixture::both(&options.clone().view_memory_bytes(limit)));
    for mut store in all.into_iter().flatten() {
        store.commit_to(6);
        store.snapshot();
        store.commit_to(9);
        let model = store.model.clone();
        let stats = |store: &Fixture| format!("{:?}", store.db().stats());
        let before = stats(&store);
        let newest = store.db().latest();
        let then = [store.view_only(Some(7)).unwrap(), store.db().view(7).unwrap()];
        let pending = store.db().pending();
        let mut rows = newest.iter("bank").unwrap();
        let first = rows.next().unwrap().unwrap();
        assert_eq!(stats(&store), before, "reading changes nothing that is reported");
        let are_same = |context: &str| {
            check::view(&newest, &model, context);
            assert_eq!(newest.version(), 9, "{context}");
            for then in &then {
                check::view(then, &model, context);
                assert_eq!(then.version(), 7, "{context}");
            }
            assert_eq!(pending.root().unwrap(), newest.root(), "{context}");
        };
        store.commit_to(20);
        store.snapshot();
        are_same("the writer went on");
        let floor = store.db().stats().floor;
        assert!(store.db().reach(floor - 1).is_err(), "their versions are gone");
        store.close();
        are_same("closed");
        store.open();
        store.roll_back(20);
        store.commit_to(22);
        store.roll_back(21);
        are_same("rolled back");
        let left: Vec<_> = rows.map(|row| row.unwrap()).collect();
        let expected: Vec<_> = newest.iter("bank").unwrap().map(|row| row.unwrap()).collect();
        assert_eq!([vec![first], left].concat(), expected, "an iterator that was begun");
        drop(store.take_db());
        are_same("dropped");
        assert!(store.view_only(Some(7)).is_err(), "nobody can take them again");
        assert!(store.open().view(7).is_err(), "nobody can take them again");
    }
}

/// `lsm-tree` removes the file of a table that was compacted away when its last reader goes, by its
/// path: a clone at that path would lose its file.
#[test]
fn a_view_that_is_dropped_late_takes_no_file_of_the_next_working_copy() {
    let options = StateOptions::new().memtable_bytes(1).flush_on_close(false);
    let mut store = Fixture::on_disk(options.retention(Retention::Manual));
    store.commit_to(3);
    store.snapshot();
    let then = store.db().latest();
    store.commit_to(16);
    store.snapshot();
    // The tables of the snapshot are compacted away, and the view still has them.
    while store.db().stats().engine.level_0_runs > 2 {
        std::thread::yield_now();
    }
    store.roll_back(3);
    assert_eq!(store.db().opened().base, 3);
    check::view(&then, &store.model, "of the working copy before");
    drop(then);
    store.check("the view is gone");
    store.close();
    let report = store.open().opened();
    assert_eq!(report.recloned, None, "its files are there: {report:?}");
    store.check("opened again");
}
