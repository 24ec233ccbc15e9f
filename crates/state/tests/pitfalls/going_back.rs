//! Going back: what a rollback removes and what it leaves, what it refuses before anything is
//! closed, and how it ends a failure.

use std::io;
use std::path::{Path, PathBuf};

use lithdb_sim::{Fault, OpKind, Pages, Tally};
use lithdb_state::{ErrorKind, Retention, StateEvent, StateOptions, Unreachable};

use crate::fixture::{Fixture, copy_dir, path_of, refusing};
use crate::support::model::{Change, change_sets};
use crate::support::{DIR, small};

fn manual() -> StateOptions {
    small().retention(Retention::Manual)
}

fn abandoned(store: &Fixture) -> Vec<String> {
    store.harness().names("abandoned")
}

/// A store at version 10 with snapshots of 4 and 10, whose log lost the versions after 8 before:
/// the other snapshot of version 10 is all that is left of them.
fn rescued() -> (Fixture, Vec<String>) {
    let mut store = Fixture::simulated(manual());
    store.commit_to(4);
    store.snapshot();
    store.commit_to(10);
    store.snapshot();
    store.close();
    store.truncate_log(8);
    assert_eq!(store.open().opened().abandoned, [10]);
    let names = abandoned(&store);
    assert_eq!(names.len(), 1, "{names:?}");
    store.commit_to(10);
    store.snapshot();
    (store, names)
}

/// A log that has lost its end looks like one that was rolled back, and opening keeps what is left
/// of it: a rollback of something else must not take that.
#[test]
fn a_rollback_removes_only_the_snapshots_that_it_moved_aside_itself() {
    for is_open in [false, true] {
        let (mut store, rescued) = rescued();
        if is_open {
            store.roll_back(6);
        } else {
            store.close();
            let report = store.roll_back_stopped(6);
            assert_eq!((report.snapshots_removed, report.problems), (vec![10], Vec::new()));
            store.open();
        }
        assert_eq!(abandoned(&store), rescued, "open: {is_open}");
        assert_eq!(store.harness().names("snapshots"), [format!("{:020}", 4)]);
        store.check("rolled back");
        // Those that are removed on request are all of them.
        assert_eq!(store.db().prune_abandoned().unwrap(), [10]);
    }
}

#[test]
fn a_rollback_that_removes_no_version_removes_no_snapshot() {
    let (mut store, rescued) = rescued();
    store.roll_back(8);
    store.close();
    // Somebody puts the rescued snapshot back.
    let fs = store.harness().fs.clone();
    let aside = PathBuf::from(DIR).join("abandoned").join(&rescued[0]);
    copy_dir(&fs.fork(), &aside, &fs, &path_of(10));
    fs.remove_dir_raw(&aside);
    let plan = store.stopped_rollback().plan(8).unwrap();
    assert_eq!((plan.versions_removed, plan.snapshots_removed.len()), (0, 0));
    let report = plan.execute().unwrap();
    assert_eq!((report.opened.abandoned, report.snapshots_removed), (vec![10], Vec::new()));
    assert_eq!(abandoned(&store), rescued);
}

/// Once the log is truncated and the store is open, the rollback has happened.
#[test]
fn a_rollback_whose_snapshots_cannot_be_removed_is_done_and_says_so() {
    for is_open in [false, true] {
        let mut store = Fixture::simulated(manual());
        store.commit_to(4);
        store.snapshot();
        store.commit_to(9);
        store.snapshot();
        store.close();
        let fs = store.harness().fs.clone();
        let refuses = |kind, path: &Path| {
            let is_refused =
                kind == OpKind::Rename && path.parent() == Some(&Path::new(DIR).join("abandoned"));
            is_refused.then(|| io::Error::from(io::ErrorKind::PermissionDenied))
        };
        store.harness_mut().wrapped = Some(refusing(&fs, refuses));
        if is_open {
            store.open();
            store.roll_back(5);
        } else {
            let report = store.roll_back_stopped(5);
            assert!(report.snapshots_removed.is_empty(), "{report:?}");
            let [problem] = &report.problems[..] else { panic!("{report:?}") };
            assert!(problem.contains("snapshot 9"), "{problem}");
        }
        let events = store.harness().take_events();
        let is_told = |event: &StateEvent| match event {
            StateEvent::SnapshotNotRemoved { path, error, .. } => {
                path.starts_with(Path::new(DIR).join("abandoned")) && error.is_permission_denied()
            }
            _ => false,
        };
        assert!(events.iter().any(is_told), "open: {is_open}: {events:?}");
        assert_eq!(abandoned(&store).len(), 1);
        if !is_open {
            store.open();
        }
        store.check("rolled back");
        store.commit_to(7);
        store.reopen();
        store.check("gone on");
    }
}

/// LithDB truncates after a record: it would find that there is none when everything is closed.
#[test]
fn a_rollback_to_a_snapshot_whose_record_is_gone_is_refused_before_anything_is_closed() {
    let mut store = Fixture::simulated(small());
    store.commit_to(5);
    store.snapshot();
    store.commit_to(9);
    store.close();
    let log: Vec<_> = store.log().into_iter().filter(|(version, _)| *version > 5).collect();
    store.replace_log(&log);
    let is_refused = |error: lithdb_state::Error| {
        let found = Unreachable::of(&error).unwrap_or_else(|| panic!("{error}"));
        assert_eq!((found.target, found.needs.clone(), found.has.clone()), (5, 5..=5, Some(6..=9)));
    };
    is_refused(store.stopped_rollback().plan(5).unwrap_err());
    is_refused(store.view_only(Some(5)).map(drop).unwrap_err());
    let db = store.open().clone();
    is_refused(db.reach(5).unwrap_err());
    is_refused(db.clone().rollback_to(5).unwrap_err());
    // It is as open as before.
    store.commit_to(11);
    store.check("gone on");
    store.roll_back(6);
    store.check("rolled back to the first record");
}

/// A commit that failed when its record was in the log.
#[test]
fn a_rollback_to_the_newest_version_removes_what_a_failed_commit_left() {
    let mut tally = Tally::new("failed commits that are rolled back");
    let mut store = Fixture::simulated(small());
    store.commit_to(2);
    let fails = |store: &mut Fixture, at: Option<u64>, fault: Fault| {
        let first = store.harness().fs.ops();
        if let Some(at) = at {
            store.harness().fs.fail_op(at + 1, fault, false);
        }
        let sets = change_sets(&[Change::put("bank", "of the failed commit", "1")]);
        let done = store.db().commit_block(3, &sets);
        store.harness().fs.clear_faults();
        (done.is_err(), store.harness().fs.ops() - first)
    };
    let count = {
        let mut copy = store.fork();
        copy.open();
        fails(&mut copy, None, Fault::Eio).1
    };
    let unwritten = Fault::FailedSync { pages: Pages::ReadableAndClean };
    for (at, fault) in (0..count).flat_map(|at| [(at, Fault::Eio), (at, unwritten)]) {
        let context = format!("{fault:?} at {at} of {count}");
        let mut copy = store.fork();
        copy.open();
        if !fails(&mut copy, Some(at), fault).0 {
            continue;
        }
        let mut left = copy.fork();
        let was_left = left.open().version() == 3;
        tally.add(if was_left { "left in the log" } else { "not left" }, 1);
        assert!(copy.db().stats().failure.is_some(), "{context}");
        copy.roll_back(2);
        copy.check(&context);
        assert_eq!(copy.db().stats().failure, None, "{context}");
        copy.commit_to(4);
        copy.reopen();
        copy.check(&context);
    }
    assert!(tally.get("left in the log") > 0, "{tally:?}");
    // Without a failure it closes nothing.
    let other = store.db().clone();
    store.roll_back(2);
    assert_eq!(other.flush().unwrap(), 2);
    let error = other.rollback_to(3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
}
