//! Threads beside each other: what waits for what, and that nobody waits for ever.
//!
//! On the disk of the machine, with the production engine and the background thread.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub)]

#[path = "concurrency/durability.rs"]
mod durability;
#[path = "concurrency/ends.rs"]
mod ends;
#[path = "pitfalls/engines.rs"]
#[allow(dead_code)]
mod engines;
mod support;
#[path = "pitfalls/watchdog.rs"]
mod watchdog;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engines::{Call, HookEngines};
use lithdb::{DuplicateKeys, TableOptions};
use lithdb_env::sync::thread::JoinHandle;
use lithdb_env::{Env, OsFs, spawn};
use lithdb_sim::{Effort, OpKind, Tally};
use lithdb_state::{ChangeSet, Durability, StateComponents, StateDb, StateOptions, View};
use lithdb_state_engine::{LsmEngines, LsmOptions};
use support::hook::{Gate, HookFs};
use watchdog::must_end;

const STORES: [&str; 3] = ["a", "a-", "bank"];

/// Changes after which every store says which version it is of, and has the same keys.
fn changes(version: u64) -> Vec<ChangeSet> {
    let set = |store: &&str| {
        let set = ChangeSet::new(store).unwrap().put("version", version.to_le_bytes());
        let set = set.put(format!("k{:02}", version % 20), version.to_le_bytes());
        match version % 5 {
            0 => set.delete(format!("k{:02}", (version + 7) % 20)),
            _ => set,
        }
    };
    STORES.iter().map(set).collect()
}

/// The version that all stores of a view say they are of.
fn version_of(view: &View) -> u64 {
    let versions = STORES.map(|store| match view.get(store, "version").unwrap() {
        Some(version) => u64::from_le_bytes(version[..].try_into().unwrap()),
        None => 0,
    });
    assert_eq!(versions, [versions[0]; 3], "one version");
    versions[0]
}

/// The view is one version, whatever way it is read.
fn check(view: &View) {
    assert_eq!(version_of(view), view.version());
    let rows = STORES.map(|store| {
        let rows: Vec<_> = view.iter(store).unwrap().map(|row| row.unwrap()).collect();
        let mut back: Vec<_> = view.iter(store).unwrap().rev().map(|row| row.unwrap()).collect();
        back.reverse();
        assert_eq!(rows, back, "store {store}");
        assert!(rows.iter().all(|row| row.modified_at <= view.version()), "store {store}");
        let keys = view.stores().into_iter().find(|(name, ..)| name.as_str() == store);
        assert_eq!(keys.map_or(0, |(_, keys, _)| keys), rows.len() as u64, "store {store}");
        rows
    });
    assert!(rows[0] == rows[1] && rows[1] == rows[2], "all stores have the same rows");
}

/// Little of everything, so that much happens.
fn busy() -> StateOptions {
    let wal = TableOptions::new().segment_keys(8).duplicate_keys(DuplicateKeys::Reject);
    StateOptions::new()
        .durability(Durability::OnFlush)
        .memtable_bytes(600)
        .stall_l0_runs(2)
        .snapshot_interval(9)
        .keep_snapshots(1)
        .hash_threads(2)
        .wal(wal)
}

fn in_thread(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    spawn(name, body).unwrap()
}

fn join(threads: Vec<JoinHandle<()>>) {
    // All of them, so that the first failure is not followed by others.
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    results.into_iter().for_each(|result| result.unwrap());
}

type Act = fn(&StateDb);

/// What threads do beside a writer.
const ACTS: [(&str, Act); 5] = [
    ("latest", |db| {
        let before = db.version();
        let view = db.latest();
        assert!(view.version() >= before);
        check(&view);
        check(&view.clone());
    }),
    ("pending", |db| {
        let pending = db.pending();
        let versions = STORES.map(|store| pending.get(store, "version").unwrap());
        assert!(versions[0] == versions[1] && versions[1] == versions[2]);
        let keys = STORES.map(|store| pending.prefix(store, "k").unwrap().rev().count());
        assert_eq!(keys, [keys[0]; 3]);
        pending.root().unwrap();
    }),
    ("stats", |db| {
        let (version, stats) = (db.version(), db.stats());
        assert!(stats.version >= version && stats.durable_version <= stats.version);
        assert!(stats.floor <= stats.snapshot_version, "{stats:?}");
        assert_eq!((stats.failure, stats.last_snapshot_error), (None, None));
        db.wait_durable(version).unwrap();
        assert!(db.durable_version() >= version);
    }),
    ("snapshots", |db| {
        let before = db.version();
        let snapshot = db.snapshot().unwrap().wait().unwrap();
        assert!(snapshot.version >= before);
        assert!(db.snapshots().unwrap().iter().any(|it| it.version >= before));
        db.reach(snapshot.version).unwrap();
    }),
    ("pruning", |db| {
        db.prune_snapshots_below(db.version()).unwrap();
        db.flush().unwrap();
    }),
];

#[test]
fn readers_snapshots_and_pruning_beside_commits_see_one_version_and_end() {
    must_end(everybody_beside_commits);
}

fn everybody_beside_commits() {
    let versions = Effort::from_env().times(250);
    let dir = tempfile::tempdir().unwrap();
    let db = StateDb::open(dir.path().join("state"), busy()).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let beside = |name: &str, act: Act| {
        let (db, is_over) = (db.clone(), Arc::clone(&is_over));
        let rounds = Arc::clone(&rounds);
        in_thread(name, move || {
            while !is_over.load(Ordering::SeqCst) {
                act(&db);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let threads: Vec<_> = ACTS.iter().map(|(name, act)| beside(name, *act)).collect();
    for version in 1..=versions {
        // Applied in two calls, of which each leaves the stores equal.
        if version % 3 == 0 {
            db.apply(version, &changes(version)).unwrap();
            db.commit(version).unwrap();
        } else {
            db.commit_block(version, &changes(version)).unwrap();
        }
    }
    is_over.store(true, Ordering::SeqCst);
    join(threads);
    let mut tally = Tally::new("threads beside a writer");
    tally.add("versions", versions);
    tally.add("rounds", rounds.load(Ordering::SeqCst));
    check(&db.latest());
    db.close().unwrap();
    let db = StateDb::open(dir.path().join("state"), busy()).unwrap();
    assert_eq!((db.version(), db.opened().replayed), (versions, 0));
    check(&db.latest());
}

/// A store whose operations on files of the log, and whose engine, stop at a gate.
fn with_gates(dir: &Path, options: StateOptions) -> (StateDb, Arc<Gate>, Arc<Gate>) {
    let (log, engine) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let mut env = Env::os(2).unwrap();
    let (log_gate, wal) = (Arc::clone(&log), dir.join("wal"));
    env.fs = Arc::new(HookFs::new(Arc::new(OsFs), move |kind, path: &Path, _| {
        if matches!(kind, OpKind::SyncData | OpKind::SyncAll) && path.starts_with(&wal) {
            log_gate.pass();
        }
    }));
    let mut components = StateComponents::default();
    components.env = Some(env);
    let engine_gate = Arc::clone(&engine);
    let engines = Arc::new(LsmEngines::new(LsmOptions::default()));
    components.engines = Some(Arc::new(HookEngines::new(engines, move |call| {
        if matches!(call, Call::Flush | Call::Checkpoint | Call::Compact) {
            engine_gate.pass();
        }
        Ok(())
    })));
    (StateDb::open_with(dir, options, components).unwrap(), log, engine)
}

/// What must not wait for anybody's disk.
fn read_everything(db: &StateDb, version: u64) {
    assert_eq!(
        (db.version(), db.latest().version(), db.stats().version),
        (version, version, version)
    );
    check(&db.latest());
    assert_eq!(version_of(&db.latest()), version);
    let pending = db.pending();
    assert_eq!(
        pending.prefix("bank", "").unwrap().count(),
        pending.prefix("a", "").unwrap().count()
    );
    pending.root().unwrap();
    assert!(db.durable_version() <= db.version());
    assert!(format!("{db:?} {:?}", db.opened()).contains("StateDb"));
}

#[test]
fn reading_waits_neither_for_a_commit_that_syncs_nor_for_a_flush_or_a_snapshot() {
    must_end(reading_at_gates);
}

fn reading_at_gates() {
    let dir = tempfile::tempdir().unwrap();
    let (db, log, engine) = with_gates(&dir.path().join("state"), StateOptions::new());
    for version in 1..=3 {
        db.commit_block(version, &changes(version)).unwrap();
    }
    let shut = log.shut_until_dropped();
    let theirs = db.clone();
    let commit = in_thread("commit", move || {
        theirs.commit_block(4, &changes(4)).unwrap();
    });
    log.wait_for(1);
    read_everything(&db, 3);
    drop(shut);
    join(vec![commit]);
    let shut = engine.shut_until_dropped();
    let ticket = db.snapshot().unwrap();
    engine.wait_for(1);
    read_everything(&db, 4);
    db.commit_block(5, &changes(5)).unwrap();
    read_everything(&db, 5);
    // Neither does the question which snapshots there are, and what they reach.
    assert!(db.snapshots().unwrap().is_empty());
    assert_eq!(db.reach(5).unwrap().replays, 5);
    drop(shut);
    assert_eq!(ticket.wait().unwrap().version, 4);
    db.close().unwrap();
}

/// What a commit waits for, if the engine cannot keep up: others may act meanwhile, and its changes
/// stay its own.
#[test]
fn a_block_that_waits_for_room_is_committed_whole_or_not_at_all() {
    let block = |who: &str| {
        let set = |store: &&str| {
            let set = ChangeSet::new(store).unwrap();
            (0..10).fold(set, |set, n| set.put(format!("{who} {n}"), "v".repeat(200)))
        };
        STORES.iter().map(set).collect::<Vec<_>>()
    };
    for rival in ["discards", "commits"] {
        let dir = tempfile::tempdir().unwrap();
        let options = StateOptions::new().memtable_bytes(1_000);
        let (db, _log, engine) = with_gates(&dir.path().join("state"), options);
        let shut = engine.shut_until_dropped();
        // The first is sealed and stands at the gate, the second makes the next one too large.
        db.commit_block(1, &block("first")).unwrap();
        engine.wait_for(1);
        db.commit_block(2, &block("second")).unwrap();
        let theirs = db.clone();
        let blocks = [block("one"), block("other")];
        let mine = blocks[1].clone();
        let (begun, has_begun) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (signal, won) = (Arc::clone(&begun), Arc::clone(&has_begun));
        let waits = in_thread("waits", move || {
            signal.store(true, Ordering::SeqCst);
            won.store(theirs.commit_block(3, &blocks[0]).is_ok(), Ordering::SeqCst);
        });
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // Nothing tells that the other thread waits; whatever it does, the outcome is one of two.
        let pause = std::time::Duration::from_millis(50);
        std::thread::sleep(pause);
        let rivals = db.clone();
        let rival_won = Arc::new(AtomicBool::new(false));
        let won = Arc::clone(&rival_won);
        let acts = in_thread("acts", move || match rival {
            "discards" => rivals.discard_pending(),
            _ => won.store(rivals.commit_block(3, &mine).is_ok(), Ordering::SeqCst),
        });
        std::thread::sleep(pause);
        drop(shut);
        join(vec![waits, acts]);
        let (one, other) = (has_begun.load(Ordering::SeqCst), rival_won.load(Ordering::SeqCst));
        assert!(one != other, "{rival}: exactly one has committed version 3: {one}, {other}");
        assert_eq!(db.version(), 3, "{rival}");
        let count = |who: &str| {
            STORES.map(|store| db.latest().prefix(store, format!("{who} ")).unwrap().count())
        };
        let all = |is_there: bool| if is_there { [10; 3] } else { [0; 3] };
        assert_eq!(count("one"), all(one), "{rival}: all changes of a block or none");
        assert_eq!(count("other"), all(other), "{rival}: all changes of a block or none");
        assert_eq!((count("first"), count("second")), ([10; 3], [10; 3]), "{rival}");
        db.close().unwrap();
    }
}
