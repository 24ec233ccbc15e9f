//! Power loss at every operation of every scenario, and again during the recovery.
//!
//! A scenario runs once to count its operations; then the power fails after each of them, and
//! every image that the disk may be left with is opened and compared with the model
//! (`support::script`).

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![expect(clippy::let_underscore_must_use, reason = "runs end where the power fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use lithdb_sim::{CrashImage, Effort, Fault, SimFs, Tally};
use lithdb_table::{Presence, Table, TableOptions, presence};
use support::hook::LateValues;
use support::script::{Model, Op, Run, Scenario, check, value_of, verify};
use support::{DAY, Harness, small};

/// Crashes the scenario after every operation; for every `nested`-th crash, also during the
/// recovery.
fn every_crash(scenario: &Scenario, nested: u64) {
    crash_each(scenario, nested, &|| Harness::new(scenario.roots));
}

/// The same, with the files of a flush written and synced in the opposite order.
fn every_crash_with_late_values(scenario: &Scenario, nested: u64) {
    crash_each(scenario, nested, &|| {
        let mut harness = Harness::new(scenario.roots);
        harness.setup.env.fs = Arc::new(LateValues::new(Arc::clone(&harness.setup.env.fs)));
        harness
    });
}

fn crash_each(scenario: &Scenario, nested: u64, new_harness: &dyn Fn() -> Harness) {
    let (effort, name) = (Effort::from_env(), scenario.name);
    let mut tally = Tally::new(format!("crashes of a table: {name}"));
    let nested = (nested / effort.times(1)).max(1);
    let mut run = Run::on(scenario, new_harness());
    run.until_error().unwrap_or_else(|e| panic!("{name}: {e}"));
    let count = run.harness.fs.ops();
    assert!(count > 10, "{count} operations");
    for k in 0..=count {
        let mut run = Run::on(scenario, new_harness());
        run.harness.fs.crash_after(k);
        let _ = run.until_error();
        let Run { harness, model, table, .. } = run;
        drop(table);
        tally.add("crash points", 1);
        for (n, image) in images(&harness.fs, name, k).into_iter().enumerate() {
            let after = || harness.after_crash(harness.fs.crash_with(&image));
            let context = format!("{name}, crash after {k} of {count}, {image:?}");
            check_reader(scenario, &after(), &model, &context, &mut tally);
            verify(scenario, &after(), &model, &context);
            tally.add("images", 1);
            if (k + n as u64).is_multiple_of(nested) {
                let found = harness.fs.crash_with(&image);
                crash_in_recovery(scenario, &found, &harness, &model, &context, &mut tally);
            }
        }
    }
    assert!(tally.get("images") > count, "{tally:?}");
    assert!(tally.get("nested images") > 3 * tally.get("nested crash points") - 1, "{tally:?}");
    assert!(tally.get("read-only openings") > count / 2, "{tally:?}");
}

/// The images that the disk may be left with.
fn images(fs: &SimFs, name: &str, k: u64) -> Vec<CrashImage> {
    let (unsynced, effort) = (fs.unsynced_ops(), Effort::from_env());
    let mut images = vec![CrashImage::Nothing];
    if unsynced == 0 {
        return images;
    }
    images.extend([CrashImage::Everything, CrashImage::LengthWithoutData]);
    images.push(CrashImage::LengthWithOldBlocks);
    if unsynced > 1 {
        let mut prefixes = vec![1, unsynced / 2, unsynced - 1];
        let mut alone = vec![unsynced / 3, unsynced - 1];
        if effort.is_deep() {
            prefixes = (1..unsynced).collect();
            alone = (0..unsynced).collect();
        }
        prefixes.dedup();
        images.extend(prefixes.into_iter().map(CrashImage::Prefix));
        images.extend(alone.into_iter().map(CrashImage::OnlyOne));
    }
    let seed = effort.seed(name);
    let seeds = (0..effort.times(4)).map(|n| seed.wrapping_add(k * 1_000_003 + n));
    images.extend(seeds.map(CrashImage::Seeded));
    images
}

/// A reader finds the same before recovery, and changes nothing.
fn check_reader(
    scenario: &Scenario,
    harness: &Harness,
    model: &Model,
    context: &str,
    tally: &mut Tally,
) {
    if presence(&harness.fs, &harness.setup.dirs).unwrap() != Presence::Present {
        return;
    }
    let table = Table::open_read_only(&harness.setup, &scenario.options)
        .unwrap_or_else(|e| panic!("{context}: open read-only: {e}"));
    let seen = check(&table, model, &format!("{context}, read-only"));
    table.refresh().unwrap_or_else(|e| panic!("{context}: refresh: {e}"));
    assert_eq!(check(&table, model, &format!("{context}, read-only, refreshed")), seen);
    assert_eq!(harness.fs.ops(), 0, "{context}: a reader wrote");
    tally.add("read-only openings", 1);
}

/// The power fails again at every operation of the next open.
fn crash_in_recovery(
    scenario: &Scenario,
    found: &SimFs,
    harness: &Harness,
    model: &Model,
    context: &str,
    tally: &mut Tally,
) {
    let opened = harness.after_crash(found.fork());
    let before = opened.fs.ops();
    create_if_absent(&opened).unwrap();
    opened.open(&scenario.options).unwrap();
    let count = opened.fs.ops() - before;
    for j in 0..count {
        let again = harness.after_crash(found.fork());
        again.fs.crash_after(j);
        let _ = create_if_absent(&again).and_then(|()| again.open(&scenario.options));
        tally.add("nested crash points", 1);
        let seed = Effort::from_env().seed(context);
        let seeded = CrashImage::Seeded(seed.wrapping_add(j));
        for image in [CrashImage::Nothing, CrashImage::Everything, seeded] {
            let context = format!("{context}; then after {j} of {count} of opening, {image:?}");
            // A table whose creation was being undone or repeated may be at any point of it.
            let mut model = model.clone();
            if presence(found, &harness.setup.dirs).unwrap() != Presence::Present {
                model = Model::default();
            }
            verify(scenario, &harness.after_crash(again.fs.crash_with(&image)), &model, &context);
            tally.add("nested images", 1);
        }
    }
}

/// What the owner of the table does before it opens it.
fn create_if_absent(harness: &Harness) -> lithdb_env::Result<()> {
    match presence(&harness.fs, &harness.setup.dirs)? {
        Presence::Present => return Ok(()),
        Presence::Interrupted => Table::remove(&harness.setup)?,
        Presence::Absent => {}
    }
    harness.create()
}

fn scenario(name: &'static str, roots: usize, options: TableOptions, ops: &[Op]) -> Scenario {
    Scenario { name, roots, options, ops: ops.to_vec() }
}

#[test]
fn crash_during_puts_and_flushes_on_one_root() {
    let options = TableOptions::new().inline_max_bytes(16);
    let ops = [
        Op::Put(40),
        Op::Flush,
        Op::Put(8),
        Op::Put(700),
        Op::Flush,
        Op::Aliased(50),
        Op::Put(0),
        Op::WaitDurable,
        Op::Put(30),
    ];
    every_crash(&scenario("put and flush", 1, options, &ops), 23);
}

#[test]
fn crash_with_values_of_all_sizes_on_two_roots() {
    let options = TableOptions::new().shards(2).inline_max_bytes(16);
    let ops = [
        Op::Put(9),
        Op::Aliased(66_000),
        Op::Put(100),
        Op::Flush,
        Op::Put(70_000),
        Op::Aliased(12),
        Op::Put(5000),
        Op::Flush,
        Op::Put(300),
    ];
    every_crash(&scenario("two roots", 2, options, &ops), 29);
}

#[test]
fn batches_with_aliases_survive_whole_or_not_at_all() {
    let options = TableOptions::new().shards(2).inline_max_bytes(16);
    let ops = [
        Op::Batch(&[40, 10, 600]),
        Op::Batch(&[10, 10]),
        Op::Flush,
        Op::Batch(&[900, 0, 12, 2000]),
        Op::Batch(&[30, 30, 30, 30, 30]),
        Op::Flush,
        Op::Batch(&[5, 400]),
    ];
    every_crash(&scenario("batches", 2, options, &ops), 23);
}

#[test]
fn crash_during_roll_overs_with_flushes() {
    let options = small().segment_keys(2).shards(2);
    let ops = [
        Op::Put(40),
        Op::Put(8),
        Op::Flush,
        Op::Put(50),
        Op::Flush,
        Op::Put(60),
        Op::Put(70),
        Op::Flush,
        Op::Put(5),
        Op::Put(90),
        Op::Flush,
    ];
    every_crash(&scenario("roll over, flushed", 2, options, &ops), 41);
}

#[test]
fn crash_during_roll_overs_without_flushes() {
    let options = small().segment_keys(2);
    let ops = [
        Op::Put(40),
        Op::Put(8),
        Op::Put(50),
        Op::Aliased(9),
        Op::Put(60),
        Op::Put(70),
        Op::Put(5),
        Op::Batch(&[1, 90, 40]),
        Op::Put(3),
    ];
    every_crash(&scenario("roll over, not flushed", 1, options, &ops), 41);
}

#[test]
fn crash_during_seal_on_demand() {
    let ops = [
        Op::Put(40),
        Op::Seal,
        Op::Put(50),
        Op::Flush,
        Op::Put(8),
        Op::Seal,
        Op::Seal,
        Op::Put(100),
        Op::Flush,
    ];
    every_crash(&scenario("seal", 2, small(), &ops), 37);
}

#[test]
fn crash_while_changing_the_shard_count() {
    let options = small().segment_keys(2).shards(1);
    let ops = [
        Op::Put(40),
        Op::Shards(3),
        Op::Put(50),
        Op::Put(60),
        Op::Flush,
        Op::Put(70),
        Op::Shards(1),
        Op::Put(80),
        Op::Flush,
        Op::Put(20),
    ];
    every_crash(&scenario("shards", 2, options, &ops), 41);
}

#[test]
fn collected_keys_never_return_after_a_crash() {
    let options = small().segment_keys(2).ttl(Duration::from_secs(60)).segment_age(DAY);
    let ops = [
        Op::Put(40),
        Op::Put(50),
        Op::Put(8),
        Op::Flush,
        Op::Advance(Duration::from_secs(61)),
        Op::Gc,
        Op::Put(60),
        Op::Put(70),
        Op::Flush,
        Op::Advance(Duration::from_secs(61)),
        Op::Gc,
        Op::Put(80),
        Op::Flush,
        Op::Seal,
        Op::Advance(Duration::from_secs(61)),
        Op::Gc,
    ];
    every_crash(&scenario("gc", 2, options, &ops), 41);
}

#[test]
fn crash_around_close_and_reopen() {
    let options = small().shards(2);
    let ops = [
        Op::Put(40),
        Op::Put(8),
        Op::Reopen,
        Op::Put(50),
        Op::Flush,
        Op::Put(60),
        Op::Reopen,
        Op::Reopen,
        Op::Put(70),
        Op::Flush,
        Op::Put(9),
    ];
    every_crash(&scenario("reopen", 2, options, &ops), 41);
}

#[test]
fn crash_around_kill_and_reopen() {
    let options = small().segment_keys(3);
    let ops = [
        Op::Put(40),
        Op::Flush,
        Op::Put(8),
        Op::Kill,
        Op::Put(50),
        Op::Kill,
        Op::Put(60),
        Op::Flush,
        Op::Kill,
        Op::Put(70),
        Op::Put(71),
        Op::Put(72),
        Op::Kill,
        Op::Put(9),
        Op::Flush,
    ];
    every_crash(&scenario("kill", 1, options, &ops), 41);
}

#[test]
fn crash_during_the_first_segment() {
    let options = TableOptions::new().shards(3).inline_max_bytes(16);
    every_crash(&scenario("first", 2, options, &[Op::Put(40), Op::Flush]), 6);
}

#[test]
fn crash_while_creating_and_closing_an_empty_table() {
    every_crash(&scenario("empty", 2, small(), &[Op::Reopen, Op::Flush, Op::Reopen]), 6);
}

#[test]
fn crash_while_dropping_and_recreating_a_table() {
    let ops = [
        Op::Put(40),
        Op::Put(50),
        Op::Flush,
        Op::Seal,
        Op::Put(9),
        Op::BeginDrop,
        Op::Remove,
        Op::Create,
        Op::Put(60),
        Op::Flush,
    ];
    every_crash(&scenario("drop", 2, small(), &ops), 37);
}

/// The length of an unsynced file may survive while its block shows old content: the header of a
/// segment of a dropped table of the same name. Nobody can have lost anything.
#[test]
fn unacknowledged_first_segment_is_discarded_with_any_header() {
    let dropped = Harness::new(1);
    dropped.create_and_open(&small()).put(b"old", &value_of(1, 40)).unwrap();
    let harness = Harness::new(1);
    harness.setup.env.random_u64().unwrap(); // skips to another table id
    harness.create().unwrap();
    for name in ["1.keys", "1-0.values"] {
        let path = format!("/r0/t/segments/{name}");
        let header = dropped.fs.read_raw(&path)[..64].to_vec();
        harness.fs.write_raw(&path, header);
    }
    Table::open_read_only(&harness.setup, &small()).unwrap();
    let table = harness.open(&small()).unwrap();
    table.put(b"new", &value_of(2, 40)).unwrap();
    table.flush().unwrap();
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    let table = harness.open(&small()).unwrap();
    assert_eq!(table.get(b"new").unwrap().unwrap(), value_of(2, 40)[..]);
    assert!(table.get(b"old").unwrap().is_none());
}

/// The same for the successor of a segment whose seal was interrupted: it may show the key file of
/// a collected segment, marks and all.
#[test]
fn unacknowledged_successor_with_stale_blocks_is_discarded() {
    let harness = Harness::new(1);
    let options = small().segment_keys(100).ttl(Duration::from_secs(60)).segment_age(DAY);
    let table = harness.create_and_open(&options);
    for n in 0..4_u8 {
        table.put(&[b'o', n], &value_of(n.into(), 40)).unwrap();
        table.flush().unwrap();
    }
    let old = harness.fs.read_raw("/r0/t/segments/1.keys");
    table.seal().unwrap();
    harness.clock.advance(Duration::from_secs(61));
    assert_eq!(table.run_gc().unwrap().segments, 1);
    table.put(b"kept", &value_of(9, 40)).unwrap();
    table.flush().unwrap();
    drop(table);
    harness.fs.write_raw("/r0/t/segments/3.keys", old);
    for _ in 0..2 {
        let table = harness.open(&options).unwrap();
        assert_eq!(table.get(b"kept").unwrap().unwrap(), value_of(9, 40)[..]);
        assert_eq!(table.iter().unwrap().count(), 1);
        table.seal().unwrap();
        table.close().unwrap();
    }
}

/// After a crash, files of a discarded segment may be beside newer ones.
/// One opening only, as the next one would sync the directories. Three roots, so that files of the
/// discarded segment are on a root where no segment written later has any.
#[test]
fn discarded_files_that_reappear_are_discarded_again() {
    let options = small().segment_keys(1).shards(1);
    let ops = [Op::Put(40), Op::Flush, Op::Shards(3), Op::Put(50), Op::Flush];
    let scenario = scenario("opened once", 3, options, &ops);
    let mut run = Run::new(&scenario);
    run.until_error().unwrap();
    let mut discarded = 0;
    for (k, closes) in (0..=run.harness.fs.ops()).flat_map(|k| [(k, false), (k, true)]) {
        let mut run = Run::new(&scenario);
        run.harness.fs.crash_after(k);
        let _ = run.until_error();
        drop(run.table.take());
        for image in images(&run.harness.fs, scenario.name, k) {
            let context = format!("crash after {k}, {image:?}, clean close: {closes}");
            let harness = run.harness.after_crash(run.harness.fs.crash_with(&image));
            if presence(&harness.fs, &harness.setup.dirs).unwrap() != Presence::Present {
                continue;
            }
            let before = harness.fs.file_paths().into_iter();
            let before: Vec<_> = before.map(|path| (harness.fs.read_raw(&path), path)).collect();
            let table =
                harness.open(&scenario.options).unwrap_or_else(|e| panic!("{context}: {e}"));
            let after = harness.fs.file_paths();
            let removed: Vec<_> =
                before.into_iter().filter(|(_, path)| !after.contains(path)).collect();
            discarded += u32::from(!removed.is_empty());
            let served = check(&table, &run.model, &context);
            let mut more = vec![(b"one more".to_vec(), true, value_of(9999, 90))];
            if closes {
                more.clear();
                table.close().unwrap();
            } else {
                table.put(&more[0].0, &more[0].2).unwrap();
                table.flush().unwrap();
            }
            drop(table);
            let model = run.model.after_reopen(served, &more);
            let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
            if !closes {
                // As on a file system that forgets a removal, or from a copy of the directory.
                for (bytes, path) in removed {
                    harness.fs.write_raw(path, bytes);
                }
            }
            let table =
                harness.open(&scenario.options).unwrap_or_else(|e| panic!("{context}: {e}"));
            check(&table, &model, &context);
        }
    }
    assert!(discarded > 10, "{discarded}");
}

/// A roll-over fails at any operation and removes what it had made of the next segment; the close
/// after it is clean, so that its state promises that no file is above the end.
#[test]
fn clean_close_after_a_failed_roll_over_opens_after_a_power_loss() {
    let options = small().segment_keys(1).shards(3);
    let mut images_opened = 0;
    for k in 1.. {
        let harness = Harness::new(2);
        let table = harness.create_and_open(&options);
        table.put(b"first", &value_of(1, 40)).unwrap();
        table.flush().unwrap();
        harness.fs.fail_op(k, Fault::NoSpace, false);
        let put = table.put(b"second", &value_of(2, 40));
        let is_past = put.is_ok() && harness.fs.faults_hit() == 0;
        harness.fs.clear_faults();
        if put.is_err() && table.close().is_ok() {
            drop(table);
            for image in images(&harness.fs, "failed roll-over", k) {
                let harness = harness.after_crash(harness.fs.crash_with(&image));
                let table =
                    harness.open(&options).unwrap_or_else(|e| panic!("{k}, {image:?}: {e}"));
                assert_eq!(table.get(b"first").unwrap().unwrap(), value_of(1, 40)[..]);
                assert!(table.get(b"second").unwrap().is_none(), "its put failed");
                images_opened += 1;
            }
        }
        if is_past {
            break;
        }
    }
    assert!(images_opened > 5, "{images_opened}");
}

#[test]
fn crash_around_the_idle_mark() {
    let ops = [
        Op::Put(40),
        Op::Flush,
        Op::Tick,
        Op::Put(50),
        Op::Put(8),
        Op::Flush,
        Op::Tick,
        Op::Tick,
        Op::Put(60),
        Op::Tick,
        Op::Flush,
    ];
    every_crash(&scenario("idle", 1, small(), &ops), 23);
}

#[test]
fn crash_with_keys_on_disk_before_their_values() {
    let options = small().segment_keys(3).shards(2);
    let ops = [
        Op::Put(40),
        Op::Flush,
        Op::Put(50),
        Op::Batch(&[60, 8, 500]),
        Op::Flush,
        Op::Put(70),
        Op::Flush,
        Op::Put(90),
        Op::Put(66_000),
        Op::Flush,
        Op::Reopen,
        Op::Aliased(80),
        Op::Flush,
    ];
    every_crash_with_late_values(&scenario("late values", 2, options, &ops), 41);
}

#[test]
fn stale_bytes_after_the_torn_end_are_never_records() {
    let harness = Harness::new(1);
    let options = TableOptions::new();
    let table = harness.create_and_open(&options);
    table.put(b"first", b"1").unwrap();
    table.close().unwrap();
    let path = "/r0/t/segments/1.keys";
    let closed = harness.fs.read_raw(path);
    let table = harness.open(&options).unwrap();
    table.put(&[b'x'; 2000], b"2").unwrap();
    let stale = table.put(b"stale", b"3").unwrap();
    table.flush().unwrap();
    drop(table);
    // The bytes that a crash takes away here reappear later, behind records that end where they
    // begin.
    let earlier = harness.fs.read_raw(path);
    harness.fs.write_raw(path, closed);
    let table = harness.open(&options).unwrap();
    assert_eq!(table.get(b"stale").unwrap(), None);
    table.put(b"second", b"4").unwrap();
    let gap = (stale.offset - table.stats().log_end.offset) as usize;
    table.put(&vec![b'y'; gap - 32], b"").unwrap();
    assert_eq!(table.stats().log_end, stale);
    table.flush().unwrap();
    drop(table);
    let mut bytes = harness.fs.read_raw(path);
    bytes.extend(&earlier[bytes.len()..]);
    harness.fs.write_raw(path, bytes);
    for _ in 0..2 {
        let table = harness.open(&options).unwrap();
        assert_eq!(table.get(b"stale").unwrap(), None, "it came back from the dead");
        assert_eq!(table.iter().unwrap().count(), 3);
    }
}
