//! Rolling back: what is judged, what is refused, what is left of the old branch.

use std::path::PathBuf;

use lithdb_sim::{CrashImage, Effort, Tally};
use lithdb_state::{ErrorKind, Reclone, Retention, SnapshotClass, StateOptions, Unreachable, View};

use crate::fixture::{Fixture, copy_dir};
use crate::support::model::{Change, change_sets};
use crate::support::{DIR, check, difference, small, without_openings};

/// Review of sei-chain #2972: the working copy was reused after the log had been cut.
#[test]
fn a_rollback_after_a_restart_does_not_reuse_a_working_copy_that_is_ahead() {
    for mut store in Fixture::both(&small()) {
        store.commit_to(4);
        store.snapshot();
        store.commit_to(10);
        store.reopen();
        assert_eq!(store.db().opened().replayed, 0, "closing flushed version 10");
        store.roll_back(6);
        let report = store.db().opened();
        assert_eq!(report.recloned, Some(Reclone::Ahead { version: 10 }), "{report:?}");
        assert_eq!((report.base, report.replayed), (4, 2), "{report:?}");
        store.check("rolled back");
        store.commit_to(11);
        store.close();
        let report = store.roll_back_stopped(7);
        assert_eq!(report.opened.recloned, Some(Reclone::Ahead { version: 11 }), "{report:?}");
        assert_eq!((report.version, report.root), (7, store.model.at(7).root));
        store.open();
        store.check("rolled back when it was stopped");
        store.commit_to(12);
        store.close();
        // A crash after the decision: the log is cut, and nothing else.
        store.truncate_log(8);
        let report = store.open().opened();
        assert_eq!(report.recloned, Some(Reclone::Ahead { version: 12 }), "{report:?}");
        store.check("opened with a truncated log");
    }
}

/// A closed store, and a version of it that cannot be reached.
fn unreachable_targets() -> Vec<(&'static str, Fixture, u64)> {
    let base = || {
        let mut store = Fixture::simulated(small().initial_version(100));
        store.commit_to(107);
        store.snapshot();
        store.commit_to(115);
        store.snapshot();
        store.commit_to(120);
        store
    };
    let closed = |mut store: Fixture| {
        store.close();
        store
    };
    let mut collected = base();
    let report = collected.db().prune_snapshots_below(115).unwrap();
    assert_eq!((report.removed, report.floor), (vec![107], 115));
    collected.close();
    let oldest = collected.log()[0].0;
    assert!((108..=115).contains(&oldest), "the log was collected up to {oldest}");
    let without_snapshot = collected.fork();
    let dir = PathBuf::from(DIR).join("snapshots").join(format!("{:020}", 115));
    without_snapshot.harness().fs.remove_dir_raw(dir);
    let with_hole = closed(base());
    let log: Vec<_> = with_hole.log().into_iter().filter(|(version, _)| *version != 112).collect();
    with_hole.replace_log(&log);
    vec![
        ("above the head", closed(base()), 121),
        ("below the base", closed(base()), 98),
        ("a snapshot is missing", without_snapshot, 117),
        ("the log is collected", collected, oldest - 1),
        ("the log has a hole", with_hole, 113),
    ]
}

/// sei-chain #4079, #4104, #3835: a rollback changed things before it found out that it could not.
#[test]
fn an_unreachable_target_is_refused_and_every_byte_stays() {
    for (name, mut store, target) in unreachable_targets() {
        let is_refused = |error: lithdb_state::Error| {
            let found = Unreachable::of(&error).unwrap_or_else(|| panic!("{name}: {error}"));
            assert_eq!((error.kind(), found.target), (ErrorKind::Missing, target), "{name}");
            assert!(error.to_string().contains(&target.to_string()), "{name}: {error}");
        };
        let before = store.tree();
        is_refused(store.stopped_rollback().plan(target).unwrap_err());
        is_refused(store.view_only(Some(target)).unwrap_err());
        assert_eq!(difference(&before, &store.tree()), None, "{name}: stopped");
        let db = store.open().clone();
        assert_eq!(db.opened().recloned, None, "{name}");
        let before = store.tree();
        is_refused(db.reach(target).unwrap_err());
        is_refused(db.clone().rollback_to(target).unwrap_err());
        is_refused(store.view_only(Some(target)).unwrap_err());
        assert_eq!(difference(&before, &store.tree()), None, "{name}: open");
        // Not even the handle was closed.
        drop(db);
        store.commit_to(122);
        store.check(name);
    }
}

/// What can be viewed can be exported: a store that is made of the export is at the version.
fn check_export(store: &Fixture, view: &View, context: &str) {
    let mut export = Vec::new();
    view.export(&mut export).unwrap_or_else(|e| panic!("{context}: export: {e}"));
    let mut imported = store.absent();
    let report = imported.import(&export).unwrap_or_else(|e| panic!("{context}: import: {e}"));
    assert_eq!((report.version, report.root), (view.version(), view.root()), "{context}");
    check::view(&imported.open().latest(), &store.model, context);
}

/// sei-chain #4103, #3835: each of them computed on its own what it could reach.
#[test]
fn open_view_rollback_and_export_agree_on_what_can_be_reached() {
    let mut tally = Tally::new("versions that are reached or refused");
    let mut stores = unreachable_targets();
    let mut damaged = Fixture::simulated(small().initial_version(100));
    damaged.commit_to(120);
    damaged.snapshot();
    damaged.close();
    let manifest = PathBuf::from(DIR).join(format!("snapshots/{:020}/SNAPSHOT", 120));
    damaged.harness().fs.flip_bit(manifest, 30, 1);
    stores.push(("a snapshot is damaged", damaged, 0));
    for (name, mut store, _) in stores {
        for version in 98..=store.model.head() + 1 {
            let context = format!("{name}, version {version}");
            let is_newest = version == store.model.head();
            let reached = store.open().reach(version).is_ok();
            let viewed = store.db().view(version);
            // The newest one is in the working copy.
            assert_eq!(viewed.is_ok(), reached || is_newest, "{context}: view of the open store");
            if let Ok(view) = viewed {
                check::view(&view, &store.model, &context);
                assert_eq!(view.version(), version, "{context}");
                check_export(&store, &view, &context);
            }
            let viewed = store.view_only(Some(version));
            assert_eq!(viewed.is_ok(), reached, "{context}: view");
            if let Ok(view) = viewed {
                check_export(&store, &view, &context);
            }
            store.close();
            assert_eq!(store.view_only(Some(version)).is_ok(), reached, "{context}: view");
            let planned = store.stopped_rollback().plan(version).is_ok();
            assert_eq!(planned, reached, "{context}: stopped rollback");
            let mut copy = store.fork();
            let rolled_back = copy.open().clone().rollback_to(version);
            // To the newest there is nothing to roll back.
            assert_eq!(rolled_back.is_ok(), reached || is_newest, "{context}: rollback");
            if let Ok(db) = rolled_back {
                check::view(&db.latest(), &store.model, &context);
                assert_eq!(db.version(), version, "{context}");
            }
            // Opening needs no more, if it has to begin with a snapshot.
            if reached {
                let mut copy = store.fork();
                copy.truncate_log(version);
                copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
                copy.open();
                copy.check(&context);
            }
            tally.add(if reached { "reached" } else { "refused" }, 1);
        }
    }
    assert!(tally.get("reached") > 20 && tally.get("refused") > 20, "{tally:?}");
}

/// sei-chain #3337, #3788: catching up skipped versions that the log did not have.
#[test]
fn a_missing_record_at_the_start_or_in_the_middle_is_named_and_nothing_is_applied() {
    let mut store = Fixture::simulated(small().flush_on_close(false));
    store.commit_to(4);
    store.snapshot();
    store.commit_to(12);
    store.close();
    let log = store.log();
    for missing in [5, 6, 9, 11] {
        for has_working in [true, false] {
            let context = format!("version {missing} is missing, working copy: {has_working}");
            let mut copy = store.fork();
            if !has_working {
                copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
            }
            let records: Vec<_> = log.iter().filter(|(v, _)| *v != missing).cloned().collect();
            copy.replace_log(&records);
            let without_log = |mut tree: crate::support::Tree| {
                tree.retain(|path, _| !path.starts_with(format!("{DIR}/wal")));
                without_openings(tree)
            };
            let before = without_log(copy.tree());
            let error = copy.try_open().map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Missing, "{context}: {error}");
            assert!(error.to_string().contains(&missing.to_string()), "{context}: {error}");
            assert_eq!(difference(&before, &without_log(copy.tree())), None, "{context}");
            let error = copy.view_only(None).unwrap_err();
            let gap = Unreachable::of(&error).and_then(|unreachable| unreachable.gap);
            assert_eq!(gap, Some(missing), "{context}: {error}");
            // With the record the same store opens.
            copy.replace_log(&log);
            copy.open();
            copy.check(&context);
        }
    }
}

/// Nethermind #12764: a snapshot was believed because of its version.
#[test]
fn a_snapshot_of_the_abandoned_branch_with_the_same_version_is_not_taken_for_ours() {
    for is_open in [false, true] {
        let mut store = Fixture::simulated(small());
        store.commit_to(4);
        store.snapshot();
        store.commit_to(10);
        let snapshot = store.snapshot().path;
        let saved = store.harness().fs.fork();
        store.roll_back(6);
        store.commit_to(12);
        // Somebody puts the old snapshot back.
        let restore = |store: &Fixture| {
            copy_dir(&saved, &snapshot, &store.harness().fs, &snapshot);
        };
        if is_open {
            restore(&store);
            let found = store.db().snapshots().unwrap();
            let classes: Vec<_> = found.iter().map(|it| (it.version, it.class)).collect();
            let expected = [(4, SnapshotClass::Valid), (10, SnapshotClass::Abandoned)];
            assert_eq!(classes, expected);
            assert_eq!(store.db().reach(11).unwrap().base.version(), 4);
            let view = store.view_only(Some(11)).unwrap();
            check::view(&view, &store.model, "beside the writer");
        }
        store.close();
        restore(&store);
        store.harness().fs.remove_dir_raw(format!("{DIR}/working"));
        let report = store.open().opened().clone();
        assert_eq!((report.base, report.abandoned), (4, vec![10]));
        store.check("opened with a snapshot of another branch");
        assert_eq!(store.db().snapshots().unwrap().len(), 1);
    }
}

/// Review of sei-chain #3701: the log's files were removed one by one, the last one was truncated.
#[test]
fn a_wal_cut_interrupted_at_every_operation_is_whole_or_undone() {
    let mut tally = Tally::new("rollbacks interrupted at every operation");
    let effort = Effort::from_env();
    let mut store = Fixture::simulated(small());
    store.commit_to(3);
    store.snapshot();
    store.commit_to(11);
    store.snapshot();
    store.commit_to(13);
    store.close();
    let count = {
        let mut copy = store.fork();
        copy.open();
        let before = copy.harness().fs.ops();
        drop(copy.take_db().rollback_to(5).unwrap());
        copy.harness().fs.ops() - before
    };
    for k in 0..=count {
        let mut copy = store.fork();
        let db = copy.open().clone();
        copy.harness().fs.crash_after(k);
        let done = copy.take_db().rollback_to(5);
        let is_done = done.is_ok();
        assert!(is_done || k < count, "it fails without a crash");
        drop((db, done));
        let seeds = (0..effort.times(2)).map(|n| effort.seed("wal cut") + 1_000 * k + n);
        let images = [CrashImage::Nothing, CrashImage::Everything];
        for image in images.into_iter().chain(seeds.map(CrashImage::Seeded)) {
            let context = format!("crash after {k} of {count}, {image:?}");
            let mut found = store.on(copy.harness().fs.crash_with(&image));
            let head = found.open().version();
            assert!((head == 13 && !is_done) || head == 5, "{context}: found version {head}");
            found.model.roll_back(head);
            found.check(&context);
            check::snapshots(found.db(), &found.model, &context);
            tally.add(if head == 5 { "whole" } else { "undone" }, 1);
        }
    }
    assert!(tally.get("whole") > 10 && tally.get("undone") > 10, "{tally:?}");
}

/// cosmos-sdk #11361: "version already saved to different hash".
#[test]
fn versions_can_be_committed_again_with_other_content_after_a_rollback() {
    for mut store in Fixture::both(&small().retention(Retention::Manual)) {
        store.commit_to(8);
        let old = store.model.clone();
        store.snapshot();
        store.commit_to(10);
        for target in [6, 2, 0] {
            store.roll_back(target);
            store.check("rolled back");
            store.commit_to(9);
            for version in target + 1..=8 {
                assert_ne!(store.model.at(version).root, old.at(version).root, "{version}");
            }
            store.snapshot();
            store.check("committed again");
            store.reopen();
            store.check("committed again and opened");
            let view = store.view_only(Some(7)).unwrap();
            check::view(&view, &store.model, "committed again, beside");
        }
    }
}

/// tendermint #7837: the application hash was off by one after a rollback.
#[test]
fn the_root_after_a_rollback_is_the_one_of_that_commit() {
    for mut store in Fixture::both(&small().retention(Retention::Manual)) {
        let mut roots = vec![store.db().root()];
        for version in 1..=9 {
            let changes = [Change::put("bank", "supply", version.to_string())];
            let version = store.model.commit(&changes);
            let sets = change_sets(&changes);
            roots.push(store.db().commit_block(version, &sets).unwrap().root);
            if version == 5 {
                store.snapshot();
            }
        }
        for target in [9, 8, 5, 3, 0] {
            let root = roots[target as usize];
            assert_eq!(store.roll_back(target).root(), root, "version {target}");
            let supply = store.db().latest().get("bank", "supply").unwrap();
            let expected = (target > 0).then(|| target.to_string());
            assert_eq!(supply.as_deref(), expected.as_deref().map(str::as_bytes));
            assert_eq!(store.db().pending().root().unwrap(), root);
        }
    }
}

/// sei-chain #2972: pending changes of a store that was rolled back or opened again.
#[test]
fn pending_does_not_survive_open_or_rollback() {
    let options = StateOptions::new().hash_threads(2);
    for mut store in Fixture::both(&options) {
        store.commit_to(5);
        let is_clean = |store: &Fixture| {
            let pending = store.db().pending();
            assert_eq!(pending.root().unwrap(), store.db().root());
            assert_eq!(pending.get("bank", "pending").unwrap(), None);
            assert_eq!(store.db().stats().pending_bytes, 0);
            store.check("without what was pending");
        };
        let apply = |store: &Fixture| {
            let next = store.model.head() + 1;
            let changes = [Change::put("bank", "pending", "1"), Change::delete("bank", "k1")];
            store.db().apply(next, &change_sets(&changes)).unwrap();
        };
        apply(&store);
        store.reopen();
        is_clean(&store);
        apply(&store);
        drop(store.take_db());
        store.open();
        is_clean(&store);
        for target in [5, 3] {
            apply(&store);
            store.roll_back(target);
            is_clean(&store);
        }
        apply(&store);
        store.db().discard_pending();
        is_clean(&store);
        store.commit_to(6);
        store.check("committed afterwards");
    }
}
