//! Power loss at every operation of a rollback, and of the open that finishes it: all tables are
//! at the old state or all at the new one, and at the new one if the rollback had returned
//! success.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use lithdb_rollback::INTENT_FILE;
use lithdb_sim::{CrashImage, Effort, SimFs, Tally};
use support::Harness;
use support::scenarios::{self, Scenario};

/// The crash images to try.
fn images(fs: &SimFs, name: &str, k: u64) -> Vec<CrashImage> {
    let (unsynced, effort) = (fs.unsynced_ops(), Effort::from_env());
    let mut images = vec![CrashImage::Nothing];
    if unsynced == 0 {
        return images;
    }
    images.push(CrashImage::Everything);
    images.extend([CrashImage::LengthWithoutData, CrashImage::LengthWithOldBlocks]);
    if unsynced > 1 {
        images.extend([1, unsynced - 1].map(CrashImage::Prefix));
        images.extend([unsynced / 2, unsynced - 1].map(CrashImage::OnlyOne));
    }
    let seed = effort.seed(name);
    let seeds = (0..effort.times(2)).map(|n| seed.wrapping_add(k * 1_000_003 + n));
    images.extend(seeds.map(CrashImage::Seeded));
    images
}

#[derive(Debug, Default)]
struct Count {
    points: u64,
    images: u64,
    nested_points: u64,
    nested_images: u64,
    /// Images found at the old state, at the new one, and with a pending rollback.
    old: u64,
    new: u64,
    pending: u64,
}

impl Count {
    fn report(&self, name: &str) {
        let mut tally = Tally::new(format!("crashes of a rollback: {name}"));
        tally.add("crash points", self.points);
        tally.add("images", self.images);
        tally.add("nested crash points", self.nested_points);
        tally.add("nested images", self.nested_images);
        tally.add("images at the old state", self.old);
        tally.add("images at the new state", self.new);
        tally.add("images with a pending rollback", self.pending);
    }
}

fn is_pending(harness: &Harness) -> bool {
    !harness.files(&format!("/{INTENT_FILE}")).iter().all(|path| path.ends_with(".new"))
}

/// Crashes the rollback after every operation, and also inside the open that finishes it.
fn every_crash(scenario: &Scenario) -> Count {
    let run = scenario.copy();
    scenario.execute(&run).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    let total = run.fs.ops();
    scenario.check_all(&run, true, scenario.name);
    let (mut count, effort) = (Count::default(), Effort::from_env());
    for k in 0..=total {
        let run = scenario.copy();
        run.fs.crash_after(k);
        let is_done = scenario.execute(&run).is_ok();
        assert!(is_done || k < total);
        count.points += 1;
        for (n, image) in images(&run.fs, scenario.name, k).into_iter().enumerate() {
            let context = format!("{}, crash after {k} of {total}, {image:?}", scenario.name);
            let after = run.after_crash(&image);
            let pending = is_pending(&after);
            assert!(!(pending && is_done), "{context}: done, and still pending");
            if pending {
                count.pending += 1;
                // Inside the open that finishes it: not for every image, except in a deep run.
                if (n == 0 && k.is_multiple_of(3)) || effort.is_deep() {
                    crash_in_opening(scenario, &after, k, &context, &mut count);
                }
            }
            let expected = if (k + n as u64).is_multiple_of(4) {
                scenario.check_all(&after, is_done || pending, &context)
            } else {
                scenario.check(&after, is_done || pending, &context)
            };
            count.images += 1;
            if *expected == scenario.new { count.new += 1 } else { count.old += 1 }
        }
    }
    count.report(scenario.name);
    assert!(count.points > 25 && count.images > 100, "{count:?}");
    assert!(count.old > 10 && count.new > 10 && count.pending > 10, "{count:?}");
    assert!(count.nested_points > 50 && count.nested_images > 150, "{count:?}");
    count
}

/// The power fails again at every operation of the open that finishes the rollback.
fn crash_in_opening(
    scenario: &Scenario,
    found: &Harness,
    k: u64,
    context: &str,
    count: &mut Count,
) {
    let opened = support::rollback_fixture::fork(found);
    opened.try_open().unwrap_or_else(|e| panic!("{context}: open: {e}")).close().unwrap();
    let total = opened.fs.ops();
    for j in 0..total {
        let again = support::rollback_fixture::fork(found);
        again.fs.crash_after(j);
        drop(again.try_open());
        count.nested_points += 1;
        let seeded = CrashImage::Seeded(k * 50 + j);
        for (n, image) in [CrashImage::Nothing, CrashImage::Everything, seeded].iter().enumerate() {
            let context = format!("{context}; then after {j} of {total} of opening, {image:?}");
            let after = again.after_crash(image);
            // It was decided and durable: it must happen.
            if (k + j + n as u64).is_multiple_of(31) {
                scenario.check_all(&after, true, &context);
            } else {
                scenario.check(&after, true, &context);
            }
            count.nested_images += 1;
        }
    }
}

#[test]
fn truncation_in_a_sealed_segment_survives_every_crash() {
    every_crash(&scenarios::sealed());
}

#[test]
fn truncation_of_unflushed_unsealed_data_survives_every_crash() {
    every_crash(&scenarios::unsealed());
}

#[test]
fn truncation_at_a_segment_end_survives_every_crash() {
    every_crash(&scenarios::end_of_segment());
}

#[test]
fn clearing_a_table_survives_every_crash() {
    every_crash(&scenarios::clear());
}

#[test]
fn rollback_of_several_tables_survives_every_crash() {
    let count = every_crash(&scenarios::everything());
    assert!(count.points > 100, "{count:?}");
}

#[test]
fn rollback_of_hard_linked_files_survives_every_crash() {
    every_crash(&scenarios::linked());
}

#[test]
fn rollback_of_a_linked_unsealed_segment_survives_every_crash() {
    every_crash(&scenarios::linked_unsealed());
}
