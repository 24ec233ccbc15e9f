//! Verifying: what each level finds, and what a replay finds alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb_env::spawn;
use lithdb_state::{Retention, StateDb, StateOptions, StateReplay, StateVerification, VerifyLevel};
use lithdb_state_engine::{Engines, ModelEngines, OpenMode};

use crate::fixture::{Fixture, path_of};
use crate::interleave::InterleaveFs;
use crate::support::model::{Change, change_sets, changes_of};
use crate::support::{DIR, difference, small};

pub const LEVELS: [VerifyLevel; 4] =
    [VerifyLevel::Light, VerifyLevel::Files, VerifyLevel::Content, VerifyLevel::Replay];

fn verify(store: &Fixture, level: VerifyLevel) -> StateVerification {
    let (options, components) = (store.options.clone(), store.components());
    StateDb::verify_with(store.dir(), level, options, components, |_| {}).unwrap()
}

/// The levels below a replay find nothing; what a replay finds.
fn only_a_replay_finds(store: &Fixture, context: &str) -> Vec<String> {
    for level in LEVELS {
        let found = verify(store, level);
        assert_eq!(found.replay.is_some(), level == VerifyLevel::Replay, "{context}: {found:?}");
        if level < VerifyLevel::Replay {
            assert!(found.is_ok(), "{context}, {level:?}: {:?}", found.findings);
        } else {
            assert!(!found.is_ok(), "{context}: {found:?}");
            return found.findings;
        }
    }
    unreachable!("the last level is a replay")
}

/// The versions of the base, of the snapshots and of the working copy that were compared, and how
/// many versions were replayed.
fn compared(found: &StateVerification) -> (u64, u64, Vec<u64>, Option<u64>) {
    let StateReplay { base, versions, snapshots, working, rows, .. } =
        found.replay.clone().unwrap();
    assert!(rows >= found.rows, "{found:?}");
    (base, versions, snapshots, working)
}

#[test]
fn a_sound_store_is_sound_at_every_level_in_memory_and_in_clones() {
    let options = small().retention(Retention::Manual);
    let all =
        [1 << 30, 600, 0].map(|limit| Fixture::both(&options.clone().view_memory_bytes(limit)));
    for mut store in all.into_iter().flatten() {
        for version in [4, 8] {
            store.commit_to(version);
            store.snapshot();
        }
        store.commit_to(13);
        for is_open in [true, false] {
            if !is_open {
                store.close();
            }
            let tree = |store: &Fixture| {
                let mut tree = store.tree();
                tree.retain(|path, _| !path.ends_with("views"));
                tree
            };
            let before = tree(&store);
            for level in LEVELS {
                let (mut last, context) = (0, format!("{:?}, {level:?}", store.options));
                let progress = |done| last = done;
                let components = store.components();
                let options = store.options.clone();
                let found = StateDb::verify_with(store.dir(), level, options, components, progress);
                let found = found.unwrap();
                assert!(found.is_ok(), "{context}: {:?}", found.findings);
                assert_eq!((found.version, found.records, found.snapshots), (13, 14, 2));
                if level == VerifyLevel::Replay {
                    // What an open store has in memory is not in the working copy on disk.
                    let working = if is_open { 8 } else { 13 };
                    assert_eq!(compared(&found), (0, 13, vec![4, 8], Some(working)), "{context}");
                    let replay = found.replay.unwrap();
                    assert_eq!(last, replay.versions + replay.rows, "{context}");
                }
            }
            // An open writer works in the background, at its log for example.
            if !is_open {
                assert_eq!(difference(&before, &tree(&store)), None, "nothing was changed");
            }
        }
        // The log begins with a snapshot.
        store.open();
        store.db().prune_snapshots_below(8).unwrap();
        let found = verify(&store, VerifyLevel::Replay);
        assert!(found.is_ok(), "{:?}", found.findings);
        assert_eq!(compared(&found), (8, 5, vec![8], Some(13)));
    }
}

/// Changes the row of a key in an engine on disk, whose META row stays as it is.
fn change_row(store: &Fixture, dir: &Path, key: &[u8], row: &[u8]) {
    let engine = ModelEngines::new(store.env()).open(dir, OpenMode::Write).unwrap();
    let meta = engine.get(&engine.pin(), &[0x00, 0x6d]).unwrap().unwrap();
    engine.apply(&mut [(key, Some(row))].into_iter()).unwrap();
    let sealed = engine.seal(&[(&[0x00, 0x6d], &meta)]).unwrap();
    engine.flush(&sealed).unwrap();
}

fn working_dir(store: &Fixture) -> PathBuf {
    let names = store.harness().names("working");
    let name = names.iter().find(|name| name.starts_with("engine-")).unwrap();
    PathBuf::from(DIR).join("working").join(name)
}

/// A row of the engine as the version `modified_at` has put it.
fn row(modified_at: u64, value: &[u8]) -> Vec<u8> {
    [&modified_at.to_le_bytes(), value].concat()
}

/// The engine has returned a wrong row when the snapshot was taken: its files are as its manifest
/// says, and its META row has the root of the log.
#[test]
fn a_row_that_differs_in_an_old_snapshot_is_found_by_a_replay_alone() {
    // The first is the base of the replay, the second is compared with what was replayed.
    for (is_base, bad) in
        [(true, row(1, b"wrong")), (false, row(1, b"wrong")), (false, row(2, b"1"))]
    {
        let context = format!("{is_base}, {bad:?}");
        let mut store = Fixture::simulated(small().retention(Retention::Manual));
        store.commit(&[Change::put("bank", "quiet", b"1")]);
        store.commit_to(4);
        if !is_base {
            store.snapshot();
        }
        store.commit_to(6);
        store.close();
        change_row(&store, &working_dir(&store), b"bank/quiet", &bad);
        store.open();
        store.commit_to(7);
        store.snapshot();
        store.close();
        change_row(&store, &working_dir(&store), b"bank/quiet", &row(1, b"1"));
        store.open();
        store.commit_to(9);
        store.snapshot();
        store.commit_to(11);
        if is_base {
            store.db().prune_snapshots_below(7).unwrap();
        }
        store.close();
        let findings = only_a_replay_finds(&store, &context);
        let of_snapshot = findings.iter().filter(|finding| finding.starts_with("snapshot 7: "));
        assert!(of_snapshot.count() > 0, "{context}: {findings:?}");
        if !is_base {
            let named = "store bank, key 0x7175696574: expected 0x31 (1 bytes) put by version 1";
            assert!(findings.iter().any(|it| it.contains(named)), "{context}: {findings:?}");
            assert!(!findings.iter().any(|it| it.contains("snapshot 9")), "{findings:?}");
        }
    }
}

#[test]
fn a_row_that_differs_in_the_working_copy_is_found_by_a_replay_alone() {
    for bad in [row(1, b"wrong"), row(2, b"1")] {
        let mut store = Fixture::simulated(small());
        store.commit(&[Change::put("bank", "quiet", b"1")]);
        store.commit_to(4);
        store.snapshot();
        store.commit_to(6);
        store.close();
        change_row(&store, &working_dir(&store), b"bank/quiet", &bad);
        let findings = only_a_replay_finds(&store, "closed");
        let named = "the working copy of version 6: ";
        assert!(findings.iter().all(|it| it.starts_with(named)), "{findings:?}");
        // The writer does not know, and goes on.
        store.open();
        store.commit_to(8);
        assert_eq!(only_a_replay_finds(&store, "open"), findings);
    }
}

/// The record has the differences and the roots of the version, and other values.
#[test]
fn a_record_with_other_values_is_found_by_a_replay_alone() {
    let mut store = Fixture::simulated(small().retention(Retention::Manual));
    store.commit_to(2);
    store.commit(&[Change::put("bank", "quiet", b"right")]);
    for version in [4, 8] {
        store.commit_to(version);
        store.snapshot();
    }
    store.commit_to(11);
    store.close();
    let mut log = store.log();
    let record = &mut log.iter_mut().find(|(version, _)| *version == 3).unwrap().1;
    assert!(record.ends_with(b"right"));
    let at = record.len() - 5;
    record[at..].copy_from_slice(b"wrong");
    store.replace_log(&log);
    let findings = only_a_replay_finds(&store, "another value");
    let has = |start: &str| findings.iter().any(|finding| finding.starts_with(start));
    let named = ["version 3 of the log, store bank: ", "snapshot 4: ", "snapshot 8: "];
    for start in named.into_iter().chain(["the working copy of version 11: "]) {
        assert!(has(start), "{start}: {findings:?}");
    }
}

#[test]
fn a_replay_ends_at_a_record_that_cannot_be_read_and_says_so() {
    let mut store = Fixture::simulated(small().retention(Retention::Manual));
    store.commit_to(11);
    store.close();
    let mut log = store.log();
    log[7].1.pop();
    store.replace_log(&log);
    let found = verify(&store, VerifyLevel::Replay);
    let ended = "version 7 and those after it cannot be replayed: ";
    let ends = found.findings.iter().filter(|finding| finding.starts_with(ended));
    assert_eq!(ends.count(), 1, "{:?}", found.findings);
    assert_eq!(compared(&found), (0, 6, vec![], None));
}

/// It is no version of the log, and the next opening replaces it: nothing is wrong.
#[test]
fn a_working_copy_of_an_interrupted_rollback_is_not_compared() {
    let mut store = Fixture::simulated(small());
    store.commit_to(4);
    store.snapshot();
    store.commit_to(9);
    store.close();
    store.truncate_log(6);
    let found = verify(&store, VerifyLevel::Replay);
    assert!(found.is_ok(), "{:?}", found.findings);
    assert_eq!(compared(&found), (4, 2, vec![4], None));
    store.harness().fs.remove_dir_raw(working_dir(&store));
    assert_eq!(compared(&verify(&store, VerifyLevel::Replay)), (4, 2, vec![4], None));
    store.open();
    store.close();
    assert_eq!(compared(&verify(&store, VerifyLevel::Replay)).3, Some(6));
    assert!(!store.tree().contains_key(&path_of(9)));
}

/// The writer flushes and compacts before each read of its working copy in turn.
#[test]
fn a_working_copy_whose_files_are_replaced_while_it_is_read_is_read_again() {
    for n in 1.. {
        let mut store = Fixture::simulated(small().retention(Retention::Manual));
        store.commit_to(4);
        store.snapshot();
        store.commit_to(6);
        let (left, db) = (Arc::new(AtomicU64::new(n)), store.db().clone());
        let reads = Arc::clone(&left);
        let act = move |path: &Path| {
            let is_here = path.starts_with(Path::new(DIR).join("working"));
            if is_here
                && left.load(Ordering::SeqCst) > 0
                && left.fetch_sub(1, Ordering::SeqCst) == 1
            {
                db.commit_block(7, &change_sets(&changes_of(0, 7))).unwrap();
                db.snapshot().unwrap().wait().unwrap();
            }
        };
        let mut components = store.components();
        let mut env = store.env();
        env.fs = Arc::new(InterleaveFs::new(Arc::clone(&env.fs), act));
        components.env = Some(env.clone());
        components.engines = Some(Arc::new(ModelEngines::new(env)));
        let found = StateDb::verify_with(DIR, VerifyLevel::Replay, small(), components, |_| {});
        let found = found.unwrap_or_else(|e| panic!("before read {n}: {e}"));
        assert!(found.is_ok(), "before read {n}: {:?}", found.findings);
        let working = found.replay.unwrap().working;
        assert!(working == Some(4) || working == Some(7), "before read {n}: {working:?}");
        if reads.load(Ordering::SeqCst) > 0 {
            assert!(n > 6, "{n} reads");
            return;
        }
    }
}

/// With the production engine, in threads: the files of the working copy are replaced all the time.
#[test]
fn a_replay_beside_a_writer_that_flushes_every_commit_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let options = StateOptions::new().memtable_bytes(1).snapshot_interval(7).hash_threads(1);
    let db = StateDb::open(&path, options).unwrap();
    db.commit_block(1, &change_sets(&changes_of(0, 1))).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, writer_db) = (Arc::clone(&is_over), db.clone());
    let writer = spawn("writer", move || {
        for version in 2.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            writer_db.commit_block(version, &change_sets(&changes_of(0, version))).unwrap();
        }
    });
    let mut working = Vec::new();
    for _ in 0..12 {
        let found = StateDb::verify(&path, VerifyLevel::Replay, |_| {}).unwrap();
        assert!(found.is_ok(), "{:?}", found.findings);
        working.extend(found.replay.unwrap().working);
    }
    is_over.store(true, Ordering::SeqCst);
    writer.unwrap().join().unwrap();
    assert!(working.len() > 6 && working.is_sorted(), "{working:?}");
    assert!(db.stats().failure.is_none(), "{:?}", db.stats());
    db.close().unwrap();
    let found = StateDb::verify(&path, VerifyLevel::Replay, |_| {}).unwrap();
    assert!(found.is_ok(), "{:?}", found.findings);
    assert_eq!(found.replay.unwrap().working, Some(found.version));
}
