//! What goes on in the background, and what a commit has to do with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lithdb_env::Env;
use lithdb_state::{
    Error, ErrorKind, StateComponents, StateDb, StateEvent, StateListener, StateOptions,
};
use lithdb_state_engine::{Engines, LsmEngines, LsmOptions, ModelEngines};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::engines::{Call, HookEngines};
use crate::fixture::Fixture;
use crate::support::hook::Gate;
use crate::support::model::{Model, change_sets, changes_of};
use crate::support::{DIR, check, small};
use crate::watchdog::must_end;

/// A store on the disk of the machine, whose engine has a hook, and its events.
struct Store {
    dir: TempDir,
    options: StateOptions,
    components: StateComponents,
    events: Arc<Mutex<Vec<StateEvent>>>,
    model: Model,
}

impl Store {
    fn new(
        engines: Arc<dyn Engines>,
        options: StateOptions,
        hook: impl Fn(Call<'_>) -> lithdb_state::Result<()> + Send + Sync + 'static,
    ) -> (Self, StateDb) {
        let events: Arc<Mutex<Vec<StateEvent>>> = Arc::default();
        let theirs = Arc::clone(&events);
        let mut components = StateComponents::default();
        components.engines = Some(Arc::new(HookEngines::new(engines, hook)));
        components.listener = StateListener::new(move |event| theirs.lock().push(event.clone()));
        let (dir, model) = (tempfile::tempdir().unwrap(), Model::new(1));
        let store = Self { dir, options, components, events, model };
        let db = store.open();
        (store, db)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn open(&self) -> StateDb {
        StateDb::open_with(self.path(), self.options.clone(), self.components.clone()).unwrap()
    }

    fn commit_many(&mut self, db: &StateDb, count: usize) {
        for _ in 0..count {
            self.commit(db).unwrap();
        }
    }

    /// Commits the next version.
    fn commit(&mut self, db: &StateDb) -> lithdb_state::Result<lithdb_state::Committed> {
        let changes = changes_of(0, self.model.head() + 1);
        let version = self.model.commit(&changes);
        let done = db.commit_block(version, &change_sets(&changes));
        if done.is_err() {
            self.model.roll_back(version - 1);
        }
        done
    }
}

/// Both engines.
fn engines() -> [Arc<dyn Engines>; 2] {
    let model = ModelEngines::new(Env::os(1).unwrap());
    [Arc::new(model), Arc::new(LsmEngines::new(LsmOptions::default()))]
}

/// `store_write.go` of FlatKV, `TODO(concurrency)`: a snapshot is written under the commit's lock.
#[test]
fn a_commit_does_not_wait_for_a_snapshot() {
    must_end(commits_beside_a_snapshot);
}

fn commits_beside_a_snapshot() {
    for engines in engines() {
        for stops_at in [Call::Flush, Call::Checkpoint] {
            let gate = Arc::new(Gate::default());
            let theirs = Arc::clone(&gate);
            let hook = move |call: Call<'_>| {
                if call == stops_at {
                    theirs.pass();
                }
                Ok(())
            };
            let options = StateOptions::new().hash_threads(2);
            let (mut store, db) = Store::new(Arc::clone(&engines), options, hook);
            store.commit_many(&db, 3);
            let shut = gate.shut_until_dropped();
            let first = db.snapshot().unwrap();
            gate.wait_for(1);
            // The snapshot is being taken, and will be for as long as the gate is shut.
            store.commit_many(&db, 5);
            assert_eq!((db.version(), db.durable_version()), (8, 8));
            check::view(&db.latest(), &store.model, "beside a snapshot");
            db.apply(9, &change_sets(&changes_of(0, 9))).unwrap();
            assert_ne!(db.pending().root().unwrap(), db.root());
            db.discard_pending();
            assert_eq!(db.flush().unwrap(), 8);
            let second = db.snapshot().unwrap();
            assert_eq!((db.stats().version, db.snapshots().unwrap().len()), (8, 0));
            assert!(db.reach(7).is_ok());
            assert!(store.events.lock().is_empty(), "{:?}", store.events.lock());
            drop(shut);
            let snapshot = first.wait().unwrap();
            assert_eq!((snapshot.version, snapshot.root), (3, store.model.at(3).root));
            assert_eq!(second.wait().unwrap().version, 8, "not older than when it was asked for");
            let view = StateDb::view_only(store.path(), Some(3));
            // With the engine of the store, which is not the default's for one of the two.
            if let Ok(view) = view {
                check::view(&view, &store.model, "of the snapshot");
            }
            db.close().unwrap();
        }
    }
}

/// sei-chain #3902: commits were acknowledged although what flushes them was dead.
#[test]
fn a_dead_engine_latches_commits_and_says_why() {
    must_end(commits_on_a_dead_engine);
}

fn commits_on_a_dead_engine() {
    for engines in engines() {
        for dies_at in [Call::Apply, Call::Seal, Call::Flush] {
            for panics in [false, true] {
                // An engine catches its own panics: these are those of its caller's threads.
                if panics && dies_at == Call::Seal {
                    continue;
                }
                let context = format!("{dies_at:?}, panic: {panics}");
                let is_dying = Arc::new(AtomicBool::new(false));
                let theirs = Arc::clone(&is_dying);
                let hook = move |call: Call<'_>| {
                    if call == dies_at && theirs.load(Ordering::SeqCst) {
                        assert!(!panics, "the engine is broken");
                        return Err(Error::new(ErrorKind::Io, "the engine is broken").latching());
                    }
                    Ok(())
                };
                let options = StateOptions::new().hash_threads(1);
                let (mut store, db) = Store::new(Arc::clone(&engines), options, hook);
                store.commit_many(&db, 4);
                is_dying.store(true, Ordering::SeqCst);
                dies(&mut store, &db, dies_at, &context);
                is_dying.store(false, Ordering::SeqCst);
                // Nothing goes on by itself, and what was acknowledged is in the log.
                is_latched(&mut store, &db, &context);
                // All that was acknowledged is in the log.
                db.close().unwrap();
                drop(db);
                let db = store.open();
                let is_there = db.version() == 5 && dies_at == Call::Apply;
                assert!(db.version() == 4 || is_there, "{context}: {}", db.version());
                if is_there {
                    store.model.commit(&changes_of(0, 5));
                }
                check::view(&db.latest(), &store.model, &context);
                store.commit(&db).unwrap();
                db.snapshot().unwrap().wait().unwrap();
                db.close().unwrap();
            }
        }
    }
}

/// Lets the engine meet its end, in a commit or in the background.
fn dies(store: &mut Store, db: &StateDb, dies_at: Call<'_>, context: &str) {
    if dies_at == Call::Apply {
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.commit(db)));
        if let Ok(done) = unwound {
            done.expect_err(context);
        } else {
            store.model.roll_back(4);
        }
        return;
    }
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| db.snapshot()));
    if let Ok(Ok(ticket)) = asked {
        ticket.wait().expect_err(context);
    }
}

fn is_latched(store: &mut Store, db: &StateDb, context: &str) {
    let failure = db.stats().failure.unwrap_or_else(|| panic!("{context}: not latched"));
    for _ in 0..2 {
        let error = store.commit(db).expect_err(context);
        assert_eq!(error.kind(), ErrorKind::Latched, "{context}: {error}");
        let (why, message) = (failure.to_string(), error.to_string());
        let is_said =
            ["broken", "panic"].iter().any(|word| why.contains(word) && message.contains(word));
        assert!(is_said, "{context}: {why:?}, {message:?}");
    }
    let error = db.apply(5, &change_sets(&changes_of(0, 5))).expect_err(context);
    assert_eq!(error.kind(), ErrorKind::Latched, "{context}: {error}");
    let error = db.snapshot().map(drop).expect_err(context);
    assert_eq!(error.kind(), ErrorKind::Latched, "{context}: {error}");
    let events = store.events.lock();
    let latched = events.iter().filter(|event| matches!(event, StateEvent::Latched { .. }));
    assert_eq!(latched.count(), 1, "{context}: {events:?}");
    // Reading goes on.
    check::view(&db.latest(), &store.model, context);
}

/// Nobody else compacts before the store is open: a long replay would leave a sorted run, whose
/// files stay open, for each of its flushes.
#[test]
fn a_long_replay_leaves_no_more_sorted_runs_than_commits_wait_for() {
    let mut store = Fixture::simulated(small().memtable_bytes(1).stall_l0_runs(2));
    store.commit_to(12);
    store.close();
    store.harness().fs.remove_dir_raw(format!("{DIR}/working"));
    assert_eq!(store.open().opened().replayed, 12);
    let runs = store.db().stats().engine.level_0_runs;
    assert!(runs <= 2, "{runs}");
    store.check("replayed");
}
