//! Power loss at every operation of every script, and again during the opening that follows.
//!
//! A script runs once to count its operations; then the power fails after each of them, and
//! images that the disk may be left with are opened and compared with the model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_sim::{CrashImage, Effort, SimFs, Tally};
use lithdb_state::{Durability, StateOptions};
use support::model::changes_of;
use support::script::{Expect, Op, Run, Script, Store, check_disk, check_open};
use support::{Harness, difference, small, without_openings};

/// The images that the disk may be left with: a quick run takes the two extremes at every point
/// and one or two of the others in turn.
fn images(fs: &SimFs, name: &str, k: u64) -> Vec<CrashImage> {
    let (unsynced, effort) = (fs.unsynced_ops(), Effort::from_env());
    let mut images = vec![CrashImage::Nothing];
    if unsynced == 0 {
        return images;
    }
    images.push(CrashImage::Everything);
    let seed = effort.seed(name).wrapping_add(k * 1_000_003);
    let mut others = vec![CrashImage::LengthWithOldBlocks, CrashImage::LengthWithoutData];
    if unsynced > 1 {
        others.extend([1, unsynced / 2, unsynced - 1].map(CrashImage::Prefix));
        others.extend([unsynced / 3, unsynced - 1].map(CrashImage::OnlyOne));
    }
    if effort.is_deep() {
        images.extend(others);
    } else {
        images.push(others[k as usize % others.len()]);
    }
    let seeds = (0..effort.times(1)).map(|n| seed.wrapping_add(n));
    images.extend(seeds.map(CrashImage::Seeded));
    images
}

/// Crashes the script after every operation; every `nested`-th image also during the opening.
fn every_crash(script: &Script, nested: u64) -> Tally {
    let name = script.name;
    let mut tally = Tally::new(format!("crashes of a state store: {name}"));
    let nested = (nested / Effort::from_env().times(1)).max(1);
    let mut run = Run::new(script);
    run.until_error().unwrap_or_else(|e| panic!("{name}: {e}"));
    let count = run.harness.fs.ops();
    drop(run);
    let turn = AtomicU64::new(0);
    for k in 0..=count {
        let mut run = Run::new(script);
        run.harness.fs.crash_after(k);
        let is_done = run.until_error().is_ok();
        assert!(is_done || k < count, "{name}: it fails without a crash");
        let Run { harness, expect, mut bytes, store, views, .. } = run;
        drop((store, views));
        tally.add("crash points", 1);
        for image in images(&harness.fs, name, k) {
            let context = format!("{name}, crash after {k} of {count}, {image:?}");
            let found = harness.after_crash(&image);
            check_disk(&found, &expect, &context);
            bytes.check(&found, &context);
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let raw = turn.is_multiple_of(nested).then(|| found.fork());
            let after = check_image(script, &found, &expect, turn, &context, &mut tally);
            bytes.check(&found, &context);
            tally.add("images", 1);
            if let Some(raw) = raw {
                crash_in_opening(script, &raw, &after, &expect, &context, &mut tally);
            }
        }
    }
    tally
}

/// Opens an image and compares it with the model; for some, opens it again and uses it.
fn check_image(
    script: &Script,
    harness: &Harness,
    expect: &Expect,
    turn: u64,
    context: &str,
    tally: &mut Tally,
) -> Expect {
    let store = Store::try_open(script, harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    let found = check_open(&store, harness, expect, context);
    let report = store.state().opened();
    tally.add("images with a replay", u64::from(report.replayed > 0));
    tally.add("images with a new clone", u64::from(report.recloned.is_some()));
    tally.add("images with leftovers", u64::from(!report.leftovers.is_empty()));
    tally.add("images with snapshots", u64::from(!store.state().snapshots().unwrap().is_empty()));
    if let Some(target) = expect.undecided {
        let is_cut = store.state().version() == target;
        tally.add(if is_cut { "images rolled back" } else { "images not rolled back" }, 1);
        tally.add("images with abandoned snapshots", u64::from(!report.abandoned.is_empty()));
    }
    let replayed = report.replayed;
    drop(store);
    if turn.is_multiple_of(3) {
        open_again(script, harness, &found, replayed, context);
        tally.add("images opened twice", 1);
    }
    if turn.is_multiple_of(4) {
        go_on(script, harness, found.clone(), context);
        tally.add("images gone on with", 1);
    }
    found
}

/// Opening again finds the same, and changes nothing.
fn open_again(script: &Script, harness: &Harness, found: &Expect, replayed: u64, context: &str) {
    let context = format!("{context}, opened again");
    let before = without_openings(harness.tree("/"));
    let store = Store::try_open(script, harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    let again = check_open(&store, harness, found, &context);
    assert_eq!(again.durable, found.durable, "{context}");
    let report = store.state().opened();
    assert!(report.recloned.is_none() && report.leftovers.is_empty(), "{context}: {report:?}");
    assert!(report.abandoned.is_empty() && report.rollback.is_none(), "{context}: {report:?}");
    assert!(report.replayed <= replayed, "{context}: {report:?}");
    drop(store);
    let after = without_openings(harness.tree("/"));
    assert_eq!(difference(&before, &after), None, "{context}");
}

/// The store works: versions are committed with contents that no branch had, a snapshot of them is
/// taken, and both survive the next power loss.
fn go_on(script: &Script, harness: &Harness, mut expect: Expect, context: &str) {
    let context = format!("{context}, gone on with");
    let store = Store::try_open(script, harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    let branch = expect.branch + 100;
    for n in 0..3 {
        let changes = changes_of(branch, expect.model.head() + 1);
        let version = expect.model.commit(&changes);
        store.commit(version, &changes).unwrap_or_else(|e| panic!("{context}: {version}: {e}"));
        if n == 1 {
            let snapshot = store.state().snapshot().and_then(|ticket| ticket.wait());
            let snapshot = snapshot.unwrap_or_else(|e| panic!("{context}: snapshot: {e}"));
            assert_eq!(snapshot.version, version, "{context}");
            expect.snapshot = Some(version);
        }
    }
    store.state().flush().unwrap();
    expect.durable = expect.model.head();
    let view = store.state().latest();
    support::check::view(&view, &expect.model, &context);
    drop((store, view));
    let harness = harness.after_crash(&CrashImage::Nothing);
    check_disk(&harness, &expect, &context);
    let store = Store::try_open(script, &harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    check_open(&store, &harness, &expect, &format!("{context}, crashed"));
}

/// The power fails again at every operation of the opening. Nothing is committed by it, so the
/// next one must find what this one would have found.
fn crash_in_opening(
    script: &Script,
    raw: &Harness,
    found: &Expect,
    expect: &Expect,
    context: &str,
    tally: &mut Tally,
) {
    let opened = raw.fork();
    drop(Store::try_open(script, &opened).unwrap_or_else(|e| panic!("{context}: {e}")));
    let count = opened.fs.ops();
    let seed = Effort::from_env().seed(context);
    for j in 0..count {
        let again = raw.fork();
        again.fs.crash_after(j);
        drop(Store::try_open(script, &again));
        tally.add("nested crash points", 1);
        let seeded = CrashImage::Seeded(seed.wrapping_add(j));
        let all = [CrashImage::Nothing, CrashImage::Everything, seeded];
        let images =
            if Effort::from_env().is_deep() { &all[..] } else { &all[j as usize % 3..][..1] };
        for image in images {
            let context = format!("{context}; then after {j} of {count} of opening, {image:?}");
            let after = again.after_crash(image);
            let mut expect = expect.clone();
            // What this opening was replacing may be half replaced.
            expect.is_settled = false;
            check_disk(&after, &expect, &context);
            let store = Store::try_open(script, &after);
            let store = store.unwrap_or_else(|e| panic!("{context}: {e}"));
            let later = check_open(&store, &after, &expect, &context);
            assert_eq!(later.durable, found.durable, "{context}: another version than before");
            tally.add("nested images", 1);
        }
    }
}

fn on_flush() -> StateOptions {
    small().durability(Durability::OnFlush)
}

#[test]
fn creation_and_commits_survive_every_crash() {
    let ops = [Op::Commit, Op::Apply, Op::Commit, Op::Empty, Op::Apply, Op::Discard, Op::Commit];
    let tally = every_crash(&Script::new("create and commit", small(), &ops), 5);
    assert!(tally.get("images") > 100, "{tally:?}");
}
