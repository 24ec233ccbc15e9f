//! How a store ends beside those who use it: closed, dropped, rolled back; and who may open it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb_env::sync::thread::JoinHandle;
use lithdb_env::{Env, OsFs};
use lithdb_sim::{Effort, OpKind};
use lithdb_state::{ErrorKind, StateComponents, StateDb, StateOptions, StateRollback};
use parking_lot::Mutex;

use crate::support::hook::HookFs;
use crate::watchdog::must_end;
use crate::{busy, changes, check, in_thread, join, with_gates};

#[test]
fn closing_or_dropping_beside_commits_and_snapshots_ends_and_answers_everybody() {
    must_end(closing_or_dropping_beside_everybody);
}

fn closing_or_dropping_beside_everybody() {
    for round in 0..Effort::from_env().times(6) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let db = StateDb::open(&path, busy().flush_on_close(round % 2 == 0)).unwrap();
        let committed = Arc::new(AtomicU64::new(0));
        let (theirs, count) = (db.clone(), Arc::clone(&committed));
        let commit = in_thread("commits", move || {
            for version in 1.. {
                match theirs.commit_block(version, &changes(version)) {
                    Ok(_) => count.store(version, Ordering::SeqCst),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                        break;
                    }
                }
            }
        });
        let asks = |name: &str| {
            let db = db.clone();
            in_thread(name, move || {
                loop {
                    let taken = db.snapshot().and_then(|ticket| ticket.wait());
                    if let Err(error) = taken {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                        break;
                    }
                }
            })
        };
        let threads = vec![commit, asks("one asks for snapshots"), asks("another asks")];
        while committed.load(Ordering::SeqCst) < 5 + round * 3 {
            std::thread::yield_now();
        }
        db.close().unwrap();
        db.close().unwrap();
        join(threads);
        assert_eq!(db.commit(1).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(db.latest().version(), db.version());
        let last = committed.load(Ordering::SeqCst);
        drop(db);
        let db = StateDb::open(&path, busy()).unwrap();
        assert_eq!(db.version(), last);
        check(&db.latest());
        // Dropped beside a snapshot that is being taken.
        let ticket = db.snapshot().unwrap();
        drop(db);
        assert!(
            ticket.wait().map_or_else(|e| e.kind() == ErrorKind::Closed, |it| it.version == last)
        );
    }
}

/// The store goes away between the flush of a memtable and the snapshot that it was sealed for.
#[test]
fn a_snapshot_that_a_rollback_overtakes_is_answered() {
    must_end(rollback_that_overtakes_a_snapshot);
}

fn rollback_that_overtakes_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (db, _log, engine) = with_gates(&dir.path().join("state"), StateOptions::new());
    for version in 1..=3 {
        db.commit_block(version, &changes(version)).unwrap();
    }
    let shut = engine.shut_until_dropped();
    let ticket = db.snapshot().unwrap();
    engine.wait_for(1);
    let theirs = db.clone();
    let rolls_back = in_thread("rolls back", move || {
        let db = theirs.rollback_to(2).unwrap();
        assert_eq!(db.version(), 2);
        check(&db.latest());
        assert!(db.snapshots().unwrap().is_empty());
        db.close().unwrap();
    });
    // It is closed, and its thread is to stop.
    while db.apply(4, &[]).is_ok() {
        std::thread::yield_now();
    }
    drop(shut);
    assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Closed);
    join(vec![rolls_back]);
}

/// A prune that is at its first snapshot when somebody closes the store.
#[test]
fn nothing_is_pruned_once_a_closed_store_can_be_opened_again() {
    must_end(closing_beside_a_prune);
}

fn closing_beside_a_prune() {
    let dir = tempfile::tempdir().unwrap();
    let (path, snapshots) = (dir.path().join("state"), dir.path().join("state/snapshots"));
    let closes: Arc<Mutex<Option<StateDb>>> = Arc::default();
    let threads: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
    let is_closed_too_early = Arc::new(AtomicBool::new(false));
    let (given, started, early) =
        (Arc::clone(&closes), Arc::clone(&threads), Arc::clone(&is_closed_too_early));
    let mut env = Env::os(2).unwrap();
    env.fs = Arc::new(HookFs::new(Arc::new(OsFs), move |kind, from: &Path, _| {
        let is_prune = kind == OpKind::Rename && from.parent() == Some(&snapshots);
        let Some(db) = given.lock().take_if(|_| is_prune) else { return };
        let theirs = db.clone();
        let closing = in_thread("closes", move || theirs.close().unwrap());
        while db.flush().is_ok() {
            std::thread::yield_now();
        }
        // It is closed for everybody else. Nothing tells that closing waits for the prune; if it
        // does not, it ends within this time.
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            early.fetch_or(closing.is_finished(), Ordering::SeqCst);
        }
        started.lock().push(closing);
    }));
    let mut components = StateComponents::default();
    components.env = Some(env);
    let options = StateOptions::new().snapshot_interval(0).keep_snapshots(10);
    let db = StateDb::open_with(&path, options, components).unwrap();
    for version in 1..=3 {
        db.commit_block(version, &changes(version)).unwrap();
        db.snapshot().unwrap().wait().unwrap();
    }
    *closes.lock() = Some(db.clone());
    let pruned = db.prune_snapshots_below(3).unwrap();
    assert_eq!(pruned.removed, [1, 2]);
    assert!(!is_closed_too_early.load(Ordering::SeqCst), "closed while snapshots were removed");
    join(std::mem::take(&mut *threads.lock()));
    let db = StateDb::open(&path, StateOptions::new()).unwrap();
    assert_eq!(db.snapshots().unwrap().len(), 1);
    check(&db.latest());
}

#[test]
fn rolling_back_beside_commits_and_snapshots_ends_at_the_target() {
    must_end(rolling_back_beside_everybody);
}

fn rolling_back_beside_everybody() {
    for round in 0..Effort::from_env().times(5) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let db = StateDb::open(&path, busy().keep_snapshots(1_000)).unwrap();
        for version in 1..=20 {
            db.commit_block(version, &changes(version)).unwrap();
        }
        let threads = vec![
            until_closed("commits", &db, |db| {
                let next = db.version() + 1;
                db.commit_block(next, &changes(next)).map(drop)
            }),
            until_closed("snapshots", &db, |db| db.snapshot()?.wait().map(drop)),
            until_closed("prunes", &db, |db| db.prune_snapshots_below(3).map(drop)),
            until_closed("reads", &db, |db| {
                check(&db.latest());
                db.reach(db.version()).map(drop)
            }),
        ];
        while db.version() < 25 + round {
            std::thread::yield_now();
        }
        let target = 15 + round;
        let then = db.latest();
        let db = db.rollback_to(target).unwrap();
        join(threads);
        check(&then);
        assert_eq!(db.version(), target);
        check(&db.latest());
        db.commit_block(target + 1, &changes(target + 1)).unwrap();
        check(&db.latest());
        assert!(db.snapshots().unwrap().iter().all(|it| it.version <= target + 1));
        db.close().unwrap();
    }
}

/// A thread that acts again and again until the store is closed.
fn until_closed(
    name: &str,
    db: &StateDb,
    act: fn(&StateDb) -> lithdb_state::Result<()>,
) -> JoinHandle<()> {
    let db = db.clone();
    in_thread(name, move || {
        loop {
            if let Err(error) = act(&db) {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                break;
            }
        }
    })
}

#[test]
fn a_second_writer_is_refused_until_the_first_has_closed_or_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("state");
    let db = StateDb::open(&path, StateOptions::new()).unwrap();
    db.commit_block(1, &changes(1)).unwrap();
    let is_locked = || {
        let error = StateDb::open(&path, StateOptions::new()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let error = StateRollback::new(&path).plan(1).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    };
    is_locked();
    let clone = db.clone();
    drop(db);
    is_locked();
    // Readers need no lock, and a view keeps none.
    let (view, latest) = (StateDb::view_only(&path, None).unwrap(), clone.latest());
    check(&view);
    clone.close().unwrap();
    let db = StateDb::open(&path, StateOptions::new()).unwrap();
    is_locked();
    db.commit_block(2, &changes(2)).unwrap();
    drop((db, clone));
    let plan = StateRollback::new(&path).plan(1).unwrap();
    let error = StateDb::open(&path, StateOptions::new()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "a plan holds the lock: {error}");
    drop(plan);
    let db = StateDb::open(&path, StateOptions::new()).unwrap();
    assert_eq!(db.version(), 2);
    check(&latest);
    // Of many that open it at the same time, one does.
    drop(db);
    let opened = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicU64::new(0));
    let threads = (0..4).map(|number| {
        let (path, opened, ended) = (path.clone(), Arc::clone(&opened), Arc::clone(&ended));
        in_thread(&format!("opens {number}"), move || {
            let db = StateDb::open(&path, StateOptions::new());
            match &db {
                Ok(_) => drop(opened.fetch_add(1, Ordering::SeqCst)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Locked, "{error}"),
            }
            ended.fetch_add(1, Ordering::SeqCst);
            while ended.load(Ordering::SeqCst) < 4 {
                std::thread::yield_now();
            }
        })
    });
    join(threads.collect());
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}
