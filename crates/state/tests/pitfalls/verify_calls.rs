//! A verification whose calls fail, or that meets somebody else: what is no finding.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_env::{Fs, LockKind};
use lithdb_sim::OpKind;
use lithdb_state::{
    ErrorKind, Result, Retention, StateComponents, StateDb, StateVerification, VerifyLevel,
};
use lithdb_state_engine::ModelEngines;
use parking_lot::Mutex;

use crate::fixture::{Fixture, path_of, refusing};
use crate::interleave::InterleaveFs;
use crate::support::{DIR, small};

/// Snapshots of 4, 8 and 10, and a working copy of 11; closed.
fn sound(view_memory_bytes: u64) -> Fixture {
    let options = small().retention(Retention::Manual).view_memory_bytes(view_memory_bytes);
    let mut store = Fixture::simulated(options);
    for version in [4, 8, 10] {
        store.commit_to(version);
        store.snapshot();
    }
    store.commit_to(11);
    store.close();
    store
}

fn verify(store: &Fixture, components: StateComponents) -> Result<StateVerification> {
    let options = store.options.clone();
    StateDb::verify_with(DIR, VerifyLevel::Replay, options, components, |_| {})
}

/// The components of a verification on another file system.
fn components(store: &Fixture, fs: Arc<dyn Fs>) -> StateComponents {
    let (mut components, mut env) = (store.components(), store.env());
    env.fs = fs;
    components.env = Some(env.clone());
    components.engines = Some(Arc::new(ModelEngines::new(env)));
    components
}

#[test]
fn a_verification_that_may_not_copy_the_working_copy_says_so_before_it_reads_the_log() {
    let store = sound(1 << 30);
    let sim = store.harness().fs.clone();
    let errors: [fn() -> io::Error; 5] = [
        || io::Error::from(io::ErrorKind::PermissionDenied),
        || io::Error::from(io::ErrorKind::ReadOnlyFilesystem),
        || io::Error::from(io::ErrorKind::CrossesDevices),
        || io::Error::from(io::ErrorKind::TooManyLinks),
        || io::Error::from(io::ErrorKind::StorageFull),
    ];
    for error in errors {
        for refused in [OpKind::CreateDir, OpKind::HardLink] {
            let refuse = move |kind: OpKind, _: &Path| (kind == refused).then(error);
            let components = components(&store, refusing(&sim, refuse));
            let (mut progress, options) = (0, store.options.clone());
            let count = |done| progress = done;
            let found = StateDb::verify_with(DIR, VerifyLevel::Replay, options, components, count);
            let context = format!("{}, {refused:?}", error());
            let error = found.expect_err(&context);
            let kinds = [ErrorKind::Io, ErrorKind::StorageFull];
            assert!(kinds.contains(&error.kind()), "{context}: {error}");
            let text = error.to_string();
            let named = ["/state/views", "permission to write", "hard links", "another level"];
            assert!(named.iter().all(|part| text.contains(part)), "{context}: {text}");
            assert_eq!(progress, 0, "{context}");
        }
        assert!(verify(&store, store.components()).unwrap().is_ok());
    }
}

/// Not before, but while it replays: there is no finding, either.
#[test]
fn a_disk_that_is_full_ends_a_verification_without_a_finding() {
    for limit in [0, 1 << 30] {
        let store = sound(limit);
        let mut refused = 0;
        for names in 0.. {
            let left = Arc::new(AtomicU64::new(names));
            let refuse = move |kind: OpKind, _: &Path| {
                let is_new =
                    matches!(kind, OpKind::CreateDir | OpKind::CreateNew | OpKind::HardLink);
                let take = |left: u64| left.checked_sub(1);
                let is_refused =
                    is_new && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err();
                is_refused.then(|| io::Error::from(io::ErrorKind::StorageFull))
            };
            let fs = refusing(&store.harness().fs, refuse);
            match verify(&store, components(&store, fs)) {
                Ok(found) => {
                    assert!(found.is_ok(), "{limit}, {names}: {:?}", found.findings);
                    break;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{limit}, {names}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 3, "{limit}: {refused}");
    }
}

/// From each read in turn on, and for the next ones, the log has the intent of a rollback.
#[test]
fn a_rollback_that_is_under_way_is_no_finding() {
    let intent = PathBuf::from(DIR).join("wal/rollback.intent");
    let (mut begun_again, mut refused) = (0, 0);
    for n in (1..).step_by(3) {
        let store = sound(1 << 30);
        let reads = Arc::new(AtomicU64::new(0));
        let (count, sim, path) = (Arc::clone(&reads), store.harness().fs.clone(), intent.clone());
        let lasts = [1, 40][n as usize % 2];
        let act = move |_: &Path| {
            let read = count.fetch_add(1, Ordering::SeqCst);
            if read == n {
                sim.write_raw(&path, b"intent".to_vec());
            } else if read == n + lasts {
                sim.remove_raw(&path);
            }
        };
        let fs = Arc::new(InterleaveFs::new(Arc::new(store.harness().fs.clone()), act));
        match verify(&store, components(&store, fs)) {
            Ok(found) => {
                assert!(found.is_ok(), "before read {n}: {:?}", found.findings);
                begun_again += 1;
            }
            Err(error) => {
                assert!(error.is_rollback_pending(), "before read {n}: {error}");
                // Only by an attempt that begins: another one begins again.
                assert!(lasts > 1 || n < 60, "before read {n}: {error}");
                refused += 1;
            }
        }
        if reads.load(Ordering::SeqCst) <= n {
            break;
        }
    }
    assert!(begun_again > 20 && refused > 0, "{begun_again}, {refused}");
}

/// Somebody has the lock of snapshot 8 until its directory was looked at so often.
fn locked_for(store: &Fixture, looks: u64) -> StateVerification {
    let (sim, snapshot) = (store.harness().fs.clone(), path_of(8));
    let lock = sim.try_lock(&snapshot, LockKind::Exclusive).unwrap();
    let (held, left) = (Mutex::new(lock), AtomicU64::new(looks));
    let act = move |path: &Path| {
        if path == snapshot && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            *held.lock() = None;
        }
    };
    let fs = Arc::new(InterleaveFs::new(Arc::new(sim), act));
    let found = verify(store, components(store, fs)).unwrap();
    assert!(found.is_ok(), "{:?}", found.findings);
    found
}

#[test]
fn a_snapshot_that_is_locked_at_that_moment_is_opened_again_or_named() {
    let store = sound(1 << 30);
    let found = locked_for(&store, 20).replay.unwrap();
    assert_eq!((found.snapshots, found.locked), (vec![4, 8, 10], vec![]));
    let found = locked_for(&store, 1 << 40).replay.unwrap();
    assert_eq!((found.snapshots, found.locked), (vec![4, 10], vec![8]));
}

/// Retention may remove it while its rows are compared.
#[test]
fn a_snapshot_is_not_locked_while_its_rows_are_compared() {
    let store = sound(1 << 30);
    let (sim, mut looks) = (store.harness().fs.clone(), 0);
    let progress = |_: u64| {
        let lock = sim.try_lock(&path_of(8), LockKind::Exclusive).unwrap();
        assert!(lock.is_some(), "after {looks} rows");
        looks += 1;
    };
    let (options, components) = (store.options.clone(), store.components());
    let found = StateDb::verify_with(DIR, VerifyLevel::Replay, options, components, progress);
    assert_eq!(found.unwrap().replay.unwrap().snapshots, [4, 8, 10]);
    assert!(looks > 30, "{looks}");
}

/// A process was killed while it replayed; its clone takes as much space as the state.
#[test]
fn a_clone_that_a_killed_process_left_is_removed_by_the_next_verification_and_view() {
    let mut store = sound(0);
    store.open();
    let fs = store.harness().fs.clone();
    let of = |name: &str| PathBuf::from(DIR).join("views").join(name);
    let (used, foreign) = (of("00000000000000bb"), of("notes"));
    for dir in [&used, &foreign] {
        fs.write_raw(dir.join("engine/run-1"), b"rows".to_vec());
    }
    let _lock = fs.try_lock(&used, LockKind::Exclusive).unwrap().unwrap();
    for is_view in [true, false] {
        for orphan in [of("00000000000000aa"), of("00000000000000cc")] {
            fs.write_raw(orphan.join("engine/run-1"), b"rows".to_vec());
        }
        if is_view {
            store.view_only(Some(7)).unwrap();
        } else {
            assert!(verify(&store, store.components()).unwrap().is_ok());
        }
        assert_eq!(store.harness().names("views"), ["00000000000000bb", "notes"], "{is_view}");
    }
}
