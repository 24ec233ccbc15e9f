//! Every operation of every scenario fails, once or from then on; and the disk is full at every
//! size.
//!
//! After a failed write or sync the table is latched: nothing later is acknowledged, reads
//! continue, a reopen clears the latch. Nothing else latches: a call that had no space,
//! descriptor, memory or permission has done nothing and succeeds later. Everything acknowledged
//! exists afterwards, whether the process was killed (the page cache survives) or the power
//! failed, too.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use lithdb_env::{ErrorKind, Result};
use lithdb_sim::{CrashImage, Effort, Fault, OpKind, Pages, Tally};
use lithdb_table::{Presence, Table, TableOptions, presence};
use parking_lot::Mutex;
use support::hook::HookFs;
use support::script::{Op, Run, Scenario, check, value_of, verify};
use support::{DAY, Harness, small};

const READ_FAULTS: [Fault; 6] = [
    Fault::Eio,
    Fault::TooManyFiles,
    Fault::OutOfMemory,
    Fault::Denied,
    Fault::Interrupted,
    Fault::ShortWrite,
];

/// The operations of a scenario, in order.
fn operations(scenario: &Scenario) -> Vec<(OpKind, PathBuf)> {
    let ops = Arc::new(Mutex::new(Vec::new()));
    let mut run = Run::new(scenario);
    let log = Arc::clone(&ops);
    let fs = Arc::clone(&run.harness.setup.env.fs);
    let hooked = HookFs::new(fs, move |kind, path, _| log.lock().push((kind, path.to_owned())));
    run.harness.setup.env.fs = Arc::new(hooked);
    run.until_error().unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    let ops = ops.lock().clone();
    assert_eq!(ops.len() as u64, run.harness.fs.ops());
    ops
}

/// The faults that can happen to such an operation.
///
/// Left out: a failed sync of a *directory* that leaves it readable and clean. No program can make
/// its entries durable again by syncing that directory (and ext4 and XFS, whose directories are
/// journalled, stop the whole file system instead).
fn faults(kind: OpKind) -> Vec<(Fault, bool)> {
    let mut faults = vec![
        (Fault::Eio, false),
        (Fault::Eio, true),
        (Fault::NoSpace, false),
        (Fault::NoSpace, true),
    ];
    if kind == OpKind::Write {
        faults.extend([
            (Fault::ShortWrite, false),
            (Fault::Interrupted, false),
            (Fault::Interrupted, true),
        ]);
    }
    if matches!(kind, OpKind::CreateNew | OpKind::SyncDir) {
        faults.extend([(Fault::TooManyFiles, false), (Fault::TooManyFiles, true)]);
        faults.extend([(Fault::Denied, false), (Fault::Denied, true)]);
    }
    if matches!(kind, OpKind::CreateNew | OpKind::Allocate) {
        faults.extend([(Fault::OutOfMemory, false), (Fault::OutOfMemory, true)]);
    }
    let lost = Fault::FailedSync { pages: Pages::Lost };
    let partly = Fault::FailedSync { pages: Pages::PartlyLost };
    let clean = Fault::FailedSync { pages: Pages::ReadableAndClean };
    let unwritable = Fault::FailedSync { pages: Pages::Unwritable };
    match kind {
        OpKind::SyncData | OpKind::SyncAll => {
            faults.extend([(lost, false), (partly, false), (clean, false), (unwritable, false)]);
        }
        OpKind::SyncDir => faults.push((lost, false)),
        _ => {}
    }
    if matches!(kind, OpKind::RemoveFile | OpKind::RemoveDir) {
        faults.retain(|(fault, _)| *fault != Fault::NoSpace);
    }
    faults
}

/// Whether such an operation is a write or a sync.
fn is_write(kind: OpKind) -> bool {
    use OpKind::{Rename, SyncAll, SyncData, SyncDir, Write};
    matches!(kind, Write | SyncData | SyncAll | SyncDir | Rename)
}

/// Whether a fault at such an operation may be a failed write or sync. (A persistent fault may
/// meet one later.)
fn may_latch(kind: OpKind, fault: Fault, sticky: bool) -> bool {
    match fault {
        Fault::TooManyFiles | Fault::Denied | Fault::OutOfMemory => false,
        _ => sticky || is_write(kind),
    }
}

/// Runs all steps, continuing after failed ones, and checks that a latched table acknowledges
/// nothing and can be read. If `must_latch`, an i/o failure is one of a write or sync. Returns how
/// it ended.
fn run_through_faults(run: &mut Run<'_>, must_latch: bool, context: &str) -> Result<()> {
    run.step(&Op::Create)?;
    for op in run.scenario.ops.clone() {
        if run.table.is_none() && !matches!(op, Op::Remove | Op::Create) {
            run.open()?;
        }
        if run.table.is_some() && matches!(op, Op::Remove) {
            continue; // the drop did not begin
        }
        let was_latched = run.table.as_ref().is_some_and(|t| t.failure().is_some());
        let acked = run.model.acked;
        let done = run.step(&op);
        let writes = !matches!(op, Op::Kill | Op::Reopen | Op::Advance(_));
        if was_latched && writes {
            let error = done.as_ref().expect_err("a latched table did something");
            assert_eq!(error.kind(), ErrorKind::Latched, "{context}, {op:?}: {error}");
            assert_eq!(
                run.model.acked, acked,
                "{context}, {op:?}: acknowledged by a latched table"
            );
        }
        match (done, &run.table) {
            (Ok(()), _) => {}
            (Err(error), Some(table)) => {
                let has_failed = error.kind() == ErrorKind::Io && !error.is_permission_denied();
                let latches = error.latches() || (must_latch && has_failed);
                assert!(
                    !latches || table.failure().is_some(),
                    "{context}, {op:?}: failed and goes on as if nothing had happened: {error}"
                );
                assert_reads_work(run, &format!("{context}, {op:?}"));
            }
            (Err(error), None) => match op {
                Op::Reopen | Op::Kill => {} // the next step repeats it
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// The failed call had done nothing: without a reopen, everything can be made durable, and more be
/// put.
fn assert_writes_work(run: &mut Run<'_>, context: &str) {
    run.harness.fs.clear_faults();
    if run.table.is_none() || run.model.dropping {
        return;
    }
    for op in [Op::Flush, Op::Put(20), Op::Seal, Op::Put(30), Op::Flush] {
        run.step(&op).unwrap_or_else(|e| panic!("{context}: {op:?} when it has passed: {e}"));
    }
    let range = check(run.table(), &run.model, context);
    assert_eq!(range.1, run.model.batches.len(), "{context}");
}

/// What was acknowledged is read; what was only put is read or an error, but nothing else.
fn assert_reads_work(run: &Run<'_>, context: &str) {
    let model = &run.model;
    for (n, batch) in model.batches.iter().enumerate().skip(model.collectable) {
        let returned = batch.segment.is_some();
        for (key, _, value) in batch.records.iter() {
            match run.table().get(key) {
                Ok(Some(got)) => assert!(got == value[..], "{context}: wrong bytes, batch {n}"),
                Ok(None) => assert!(!returned, "{context}: batch {n} is not found"),
                Err(e) => assert!(n >= model.acked, "{context}: batch {n} was acknowledged: {e}"),
            }
        }
    }
}

fn every_fault(scenario: &Scenario) {
    let (effort, name) = (Effort::from_env(), scenario.name);
    let mut tally = Tally::new(format!("faults of a table: {name}"));
    let operations = operations(scenario);
    let ops = operations.iter().map(|(kind, _)| *kind);
    for (i, kind) in ops.enumerate() {
        tally.add("operations", 1);
        for (fault, sticky) in faults(kind) {
            tally.add("error points", 1);
            let how = if sticky { "from then on" } else { "once" };
            let context = format!("{name}, {fault:?} {how} at {i}, {kind:?}");
            let broken = || {
                let mut run = Run::new(scenario);
                run.harness.fs.fail_op(i as u64 + 1, fault, sticky);
                let ended = run_through_faults(&mut run, is_write(kind) && !sticky, &context);
                assert!(run.harness.fs.faults_hit() > 0, "{context}: never struck");
                assert_eq!(run.harness.fs.bus_errors(), 0, "{context}: read behind the end");
                let harmless = matches!(fault, Fault::ShortWrite | Fault::Interrupted);
                if harmless {
                    assert!(ended.is_ok(), "{context}: {ended:?}");
                    let failure = run.table.as_ref().and_then(|t| t.failure());
                    assert!(failure.is_none(), "{context}: latched: {failure:?}");
                }
                let failure = run.table.as_ref().and_then(|t| t.failure());
                let latches = may_latch(kind, fault, sticky);
                assert!(failure.is_none() || latches, "{context}: latched: {failure:?}");
                run
            };
            if !may_latch(kind, fault, sticky) {
                assert_writes_work(&mut broken(), &context);
            }
            // The process is killed; another one finds what the page cache holds.
            let mut run = broken();
            let failed = run.table.as_ref().and_then(|t| t.failure());
            drop(run.table.take());
            run.harness.fs.release_locks();
            run.harness.fs.clear_faults();
            if run.model.created && !run.model.dropping {
                let table = run
                    .harness
                    .open(&scenario.options)
                    .unwrap_or_else(|e| panic!("{context}: {failed:?}: open: {e}"));
                let served = check(&table, &run.model, &format!("{context}, killed and opened"));
                drop(table);
                assert_eq!(run.harness.fs.bus_errors(), 0, "{context}: read behind the end");
                // What it served survives a power loss now: it did not trust the page cache.
                let model = run.model.after_reopen(served, &[]);
                let harness =
                    run.harness.after_crash(run.harness.fs.crash_with(&CrashImage::Nothing));
                verify(scenario, &harness, &model, &format!("{context}, killed, opened, crashed"));
            } else {
                verify(scenario, &run.harness, &run.model, &format!("{context}, killed"));
            }
            // The power fails instead.
            let mut run = broken();
            drop(run.table.take());
            let mut images = vec![CrashImage::Nothing, CrashImage::Everything];
            let seeds =
                (0..effort.times(1)).map(|n| effort.seed(name).wrapping_add(i as u64 * 1009 + n));
            images.extend(seeds.map(CrashImage::Seeded));
            for image in images {
                let harness = run.harness.after_crash(run.harness.fs.crash_with(&image));
                verify(scenario, &harness, &run.model, &format!("{context}, {image:?}"));
                tally.add("images", 1);
            }
        }
    }
    assert!(tally.get("error points") > 3 * tally.get("operations"), "{tally:?}");
}

/// Every read of every step fails, once or until the step ends. That is an error of this step and
/// latches nothing: no acknowledged data is lost by it, and a repeated call succeeds.
fn every_read_fails(scenario: &Scenario) {
    let name = scenario.name;
    let mut tally = Tally::new(format!("failed reads of a table: {name}"));
    let steps = std::iter::once(&Op::Create).chain(&scenario.ops).enumerate();
    for (at, op) in steps {
        let before = || {
            let mut run = Run::new(scenario);
            let ops = std::iter::once(&Op::Create).chain(&scenario.ops).take(at);
            ops.for_each(|op| run.step(op).unwrap());
            run
        };
        for fault in READ_FAULTS {
            for (sticky, nth) in (1..).map(|n| (n % 2 == 0, n / 2 + n % 2)) {
                let how = if sticky { "until it ends" } else { "once" };
                let context = format!("{name}, {fault:?} {how} at read {nth} of {at}, {op:?}");
                let mut run = before();
                run.clear_faults_after_open = true;
                match sticky {
                    true => run.harness.fs.fail_reads_from(nth, fault),
                    false => run.harness.fs.fail_read(nth, fault),
                }
                let done = run.step(op);
                let struck = run.harness.fs.faults_hit();
                run.harness.fs.clear_faults();
                if struck == 0 {
                    assert!(done.is_ok(), "{context}: {done:?}");
                    break;
                }
                tally.add("error points", 1);
                if matches!(fault, Fault::Interrupted | Fault::ShortWrite) {
                    assert!(done.is_ok(), "{context}: {done:?}");
                }
                if let Err(error) = done {
                    tally.add("errors", 1);
                    assert_eq!(error.is_permission_denied(), fault == Fault::Denied, "{error}");
                    let kind = match fault {
                        Fault::TooManyFiles | Fault::OutOfMemory => ErrorKind::Exhausted,
                        _ => ErrorKind::Io,
                    };
                    assert_eq!(error.kind(), kind, "{context}: {error}");
                    retry_after_failed_read(&mut run, op, &context);
                }
                let harness =
                    run.harness.after_crash(run.harness.fs.crash_with(&CrashImage::Nothing));
                verify(scenario, &harness, &run.model, &context);
            }
        }
    }
    assert!(tally.get("error points") > 20 && tally.get("errors") > 5, "{tally:?}");
}

/// The step is repeated, on the same table or after a reopen.
fn retry_after_failed_read(run: &mut Run<'_>, op: &Op, context: &str) {
    let again = match (op, &run.table) {
        (Op::Reopen | Op::Kill, None) => run.open(),
        (Op::Create, _) if run.model.created => run.open(),
        (Op::Create, _) => {
            let harness = &run.harness;
            if presence(&harness.fs, &harness.setup.dirs).unwrap() == Presence::Interrupted {
                Table::remove(&harness.setup).unwrap_or_else(|e| panic!("{context}: remove: {e}"));
            }
            run.step(op)
        }
        _ => {
            let failure = run.table.as_ref().and_then(|table| table.failure());
            assert!(failure.is_none(), "{context}: a read has latched: {failure:?}");
            run.step(op)
        }
    };
    again.unwrap_or_else(|e| panic!("{context}: tried again: {e}"));
}

fn scenario(name: &'static str, roots: usize, options: TableOptions, ops: &[Op]) -> Scenario {
    Scenario { name, roots, options, ops: ops.to_vec() }
}

#[test]
fn read_faults_at_every_operation() {
    let options = small().segment_keys(3).shards(2).ttl(Duration::from_secs(60)).segment_age(DAY);
    let ops = [
        Op::Put(40),
        Op::Aliased(66_000),
        Op::Flush,
        Op::Batch(&[10, 400, 9]),
        Op::Flush,
        Op::Seal,
        Op::Reopen,
        Op::Put(8),
        Op::Kill,
        Op::Advance(Duration::from_secs(61)),
        Op::Gc,
        Op::Put(9),
        Op::Tick,
        Op::Shards(1),
        Op::Put(50),
        Op::Flush,
        Op::Kill,
        Op::BeginDrop,
        Op::Remove,
        Op::Create,
    ];
    every_read_fails(&scenario("reads", 2, options, &ops));
}

#[test]
fn faults_at_every_operation_of_puts_flushes_and_batches() {
    let options = TableOptions::new().shards(2).inline_max_bytes(16);
    let ops = [
        Op::Put(40),
        Op::Aliased(66_000),
        Op::Flush,
        Op::Batch(&[10, 400, 70_000]),
        Op::Put(8),
        Op::Flush,
        Op::Put(30),
        Op::Flush,
    ];
    every_fault(&scenario("puts", 2, options, &ops));
}

#[test]
fn faults_at_every_operation_of_a_roll_over() {
    let options = small().segment_keys(2);
    let ops = [
        Op::Put(40),
        Op::Flush,
        Op::Put(8),
        Op::Put(50),
        Op::Put(60),
        Op::Flush,
        Op::Put(70),
        Op::Put(5),
        Op::Seal,
        Op::Put(90),
        Op::Flush,
    ];
    every_fault(&scenario("roll over", 2, options, &ops));
}

#[test]
fn faults_at_every_operation_of_close_open_and_kill() {
    let options = small().segment_keys(3);
    let ops = [
        Op::Put(40),
        Op::Reopen,
        Op::Put(50),
        Op::Flush,
        Op::Put(8),
        Op::Kill,
        Op::Put(60),
        Op::Flush,
        Op::Tick,
        Op::Kill,
        Op::Put(70),
        Op::Flush,
    ];
    every_fault(&scenario("reopen", 1, options, &ops));
}

#[test]
fn faults_at_every_operation_of_collection() {
    let options = small().segment_keys(2).ttl(Duration::from_secs(60)).segment_age(DAY);
    let ops = [
        Op::Put(40),
        Op::Put(50),
        Op::Put(8),
        Op::Flush,
        Op::Advance(Duration::from_secs(61)),
        Op::Gc,
        Op::Put(60),
        Op::Seal,
        Op::Advance(Duration::from_secs(61)),
        Op::Gc,
        Op::Put(70),
        Op::Flush,
    ];
    every_fault(&scenario("gc", 1, options, &ops));
}

#[test]
fn faults_at_every_operation_of_a_drop() {
    let ops = [Op::Put(40), Op::Flush, Op::Seal, Op::Put(9), Op::BeginDrop, Op::Remove];
    every_fault(&scenario("drop", 2, small(), &ops));
}

#[test]
fn disk_full_at_any_size_loses_and_latches_nothing() {
    const BLOCK: u64 = 4096;
    let options = small().segment_keys(3).shards(2);
    let ops = [
        Op::Put(40),
        Op::Put(6000),
        Op::Flush,
        Op::Put(9000),
        Op::Aliased(70_000),
        Op::Flush,
        Op::Put(5000),
        Op::Batch(&[100, 8, 12_000]),
        Op::Flush,
        Op::Seal,
        Op::Put(20_000),
        Op::Flush,
    ];
    let scenario = scenario("full", 2, options, &ops);
    let mut seen_full = 0;
    // The roots take two blocks; the directories and the state of the table some more.
    for blocks in 14..90 {
        let mut run = Run::new(&scenario);
        run.step(&Op::Create).unwrap();
        run.harness.fs.set_capacity(Some(blocks * BLOCK));
        let context = format!("{blocks} blocks");
        for op in &ops {
            if let Err(error) = run.step(op) {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{context}, {op:?}: {error}");
                seen_full += 1;
            }
            assert!(run.table().failure().is_none(), "{context}, {op:?}: latched");
            assert_reads_work(&run, &context);
        }
        // There is space again: the table continues, and nothing that was put is lost.
        run.harness.fs.set_capacity(None);
        run.step(&Op::Put(500)).unwrap_or_else(|e| panic!("{context}: put: {e}"));
        run.step(&Op::Flush).unwrap_or_else(|e| panic!("{context}: flush: {e}"));
        let range = check(run.table(), &run.model, &context);
        assert_eq!(range, (0, run.model.batches.len()), "{context}");
        drop(run.table.take());
        let harness = run.harness.after_crash(run.harness.fs.crash_with(&CrashImage::Nothing));
        verify(&scenario, &harness, &run.model, &context);
    }
    assert!(seen_full > 100, "{seen_full}");
}

/// A harness whose disk is full while the flag is set: nothing can be reserved or created, but
/// reserved space can be written.
fn full_disk_harness(
    roots: usize,
    is_full: impl Fn(OpKind, &Path) -> bool + Send + Sync + 'static,
) -> Harness {
    let mut harness = Harness::new(roots);
    let fs = harness.fs.clone();
    let inner = Arc::clone(&harness.setup.env.fs);
    let hooked = HookFs::new(inner, move |kind, path, _| {
        if matches!(kind, OpKind::Allocate | OpKind::CreateNew) && is_full(kind, path) {
            fs.fail_op(1, Fault::NoSpace, false);
        }
    });
    harness.setup.env.fs = Arc::new(hooked);
    harness
}

#[test]
fn no_space_for_reservation_or_file_refuses_without_latching() {
    let options = small().segment_keys(2).shards(2);
    let ops =
        [Op::Put(40), Op::Put(50), Op::Flush, Op::Put(60), Op::Put(70), Op::Put(80), Op::Seal];
    let scenario = scenario("no space", 2, options, &ops);
    let mut refused = 0;
    for from in 0..40 {
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let count = Arc::clone(&left);
        let is_full = move |_: OpKind, _: &Path| count.fetch_sub(1, Ordering::Relaxed) <= 0;
        let mut run = Run::on(&scenario, full_disk_harness(2, is_full));
        run.step(&Op::Create).unwrap();
        left.store(from, Ordering::Relaxed);
        let context = format!("full after {from} reservations and files");
        for op in &ops {
            if let Err(error) = run.step(op) {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{context}, {op:?}: {error}");
                refused += 1;
            }
            let failure = run.table().failure();
            assert!(failure.is_none(), "{context}, {op:?}: {failure:?}");
            assert_reads_work(&run, &context);
        }
        left.store(i64::MAX, Ordering::Relaxed);
        run.step(&Op::Put(90)).unwrap();
        run.step(&Op::Flush).unwrap();
        let range = check(run.table(), &run.model, &context);
        assert_eq!(range, (0, run.model.batches.len()), "{context}");
    }
    assert!(refused > 40, "{refused}");
}

/// Two faults: files of a segment cannot be created, and those that were cannot be removed.
#[test]
fn failed_creation_that_left_files_is_repeated() {
    let mut tally = Tally::new("files of failed creations that stayed");
    for (is_first, shards, fault) in [
        (false, 3, Fault::Eio),
        (false, 1, Fault::Eio),
        (false, 2, Fault::Denied),
        (true, 3, Fault::Eio),
        (true, 1, Fault::Denied),
    ] {
        for k in 1.. {
            let context = format!("first: {is_first}, {fault:?} from operation {k} on");
            let harness = Harness::new(2);
            let table = harness.create_and_open(&small().segment_keys(1).shards(3));
            if !is_first {
                table.put(b"first", &value_of(1, 40)).unwrap();
                table.flush().unwrap();
            }
            let files = harness.fs.file_paths();
            harness.fs.fail_op(k, fault, true);
            let refused = table.put(b"second", &value_of(2, 40)).is_err();
            let is_past = harness.fs.faults_hit() == 0;
            harness.fs.clear_faults();
            if is_past {
                break;
            }
            if !refused || table.failure().is_some() {
                continue;
            }
            let left = harness.fs.file_paths().len() - files.len();
            tally.add("files", left as u64);
            table.set_shards(shards).unwrap();
            table
                .put(b"second", &value_of(2, 40))
                .unwrap_or_else(|e| panic!("{context}, {left} files left: {e}"));
            table.flush().unwrap();
            drop(table);
            let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
            let table = harness.open(&small()).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(table.get(b"second").unwrap().unwrap(), value_of(2, 40)[..], "{context}");
            assert_eq!(table.get(b"first").unwrap().is_some(), !is_first, "{context}");
        }
    }
    assert!(tally.get("files") > 10, "{tally:?}");
}

#[test]
fn next_flush_retries_a_seal_that_found_no_space() {
    let full = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&full);
    let is_full = move |_: OpKind, path: &Path| {
        path.ends_with("1.metadata.new") && flag.load(Ordering::Relaxed)
    };
    let harness = full_disk_harness(1, is_full);
    let table = harness.create_and_open(&small().segment_keys(1));
    table.put(b"a", &value_of(1, 40)).unwrap();
    table.flush().unwrap();
    full.store(true, Ordering::Relaxed);
    table.put(b"b", &value_of(2, 40)).unwrap();
    for _ in 0..3 {
        assert_eq!(table.flush().unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(table.durable_position() < table.stats().log_end);
        assert!(table.failure().is_none());
        assert_eq!(table.get(b"b").unwrap().unwrap(), &value_of(2, 40)[..]);
    }
    // One seal is pending, the most there may be: no further segment is begun.
    assert_eq!(table.put(b"c", b"").unwrap_err().kind(), ErrorKind::StorageFull);
    full.store(false, Ordering::Relaxed);
    table.flush().unwrap();
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    let table = harness.open(&small()).unwrap();
    assert_eq!(table.get(b"b").unwrap().unwrap(), &value_of(2, 40)[..]);
    assert_eq!(table.get(b"c").unwrap(), None);
}

#[test]
fn clock_jump_does_not_age_a_seal_waiting_for_space() {
    let full = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&full);
    let is_full = move |_: OpKind, path: &Path| {
        path.ends_with("1.metadata.new") && flag.load(Ordering::Relaxed)
    };
    let harness = full_disk_harness(1, is_full);
    let table = harness.create_and_open(&small().segment_keys(1).ttl(DAY));
    table.put(b"a", &value_of(1, 40)).unwrap();
    full.store(true, Ordering::Relaxed);
    table.put(b"b", &value_of(2, 40)).unwrap();
    assert_eq!(table.flush().unwrap_err().kind(), ErrorKind::StorageFull);
    // The clock jumps, and is followed after the hold.
    harness.clock.jump(365 * DAY.as_millis() as i64);
    assert!(table.run_gc().unwrap().held_for.is_some());
    harness.clock.advance(harness.setup.clock_jump_hold);
    assert_eq!(table.run_gc().unwrap().held_for, None);
    full.store(false, Ordering::Relaxed);
    table.flush().unwrap();
    assert_eq!(table.run_gc().unwrap().segments, 0, "its stamp is older than the jump");
    harness.clock.advance(DAY);
    assert_eq!(table.run_gc().unwrap().segments, 1);
}

#[test]
fn sync_returning_no_space_latches() {
    // A retry could succeed without having written anything.
    let options = small().segment_keys(1);
    let scenario = scenario("sync", 1, options, &[Op::Put(40), Op::Flush, Op::Put(50), Op::Flush]);
    let mut created = Run::new(&scenario);
    created.step(&Op::Create).unwrap();
    let created = created.harness.fs.ops() as usize;
    let mut seen = 0;
    for (i, (kind, path)) in operations(&scenario).into_iter().enumerate() {
        let is_replacement = path.extension().is_some_and(|e| e == "new");
        let is_data = path.iter().any(|name| name == "segments");
        let is_sync = matches!(kind, OpKind::SyncData | OpKind::SyncAll | OpKind::SyncDir);
        if !is_sync || is_replacement || !is_data || i < created {
            continue;
        }
        let context = format!("{i}, {kind:?} {}", path.display());
        let mut run = Run::new(&scenario);
        run.harness.fs.fail_op(i as u64 + 1, Fault::NoSpace, false);
        run_through_faults(&mut run, true, &context).unwrap();
        assert!(run.table().failure().is_some(), "{context}: not latched");
        seen += 1;
    }
    assert!(seen > 4, "{seen}");
}

#[test]
fn unwritten_large_value_is_invisible_and_not_damage() {
    let mut seen = 0;
    for n in 1..=12 {
        let harness = Harness::new(1);
        let table = harness.create_and_open(&small());
        table.put(b"a", &value_of(1, 100)).unwrap();
        harness.fs.fail_op(n, Fault::Eio, false);
        if table.put(b"large", &value_of(2, 100_000)).is_ok() {
            continue; // a hint, or a later operation
        }
        let Some(failure) = table.failure() else { continue };
        let context = format!("operation {n}: {failure}");
        let entries: Vec<_> = table.iter().unwrap().map(|entry| entry.unwrap()).collect();
        for entry in &entries {
            let value = entry.value().unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!((entry.key(), &*value), (&b"a"[..], &value_of(1, 100)[..]), "{context}");
        }
        assert_eq!(entries.len(), 1, "{context}");
        assert_eq!(table.newest_key().unwrap().unwrap(), b"a", "{context}");
        assert_eq!(table.get(b"large").unwrap(), None, "{context}");
        assert_eq!(table.flush().unwrap_err().kind(), ErrorKind::Latched, "{context}");
        seen += u64::from(failure.to_string().contains("values"));
    }
    assert!(seen > 0, "no write of the value failed");
}

#[test]
fn read_errors_never_latch_and_reads_recover() {
    for fault in READ_FAULTS {
        let mut n = 0;
        loop {
            n += 1;
            let mut harness = Harness::new(2);
            harness.setup.read_mode = lithdb_segment::ReadMode::Pread;
            let table = harness.create_and_open(&small().segment_keys(2));
            for n in 0..7_u8 {
                table.put(&[n + 1], &value_of(n.into(), 100)).unwrap();
            }
            table.close().unwrap();
            drop(table);
            let hits = harness.fs.faults_hit();
            harness.fs.fail_read(n, fault);
            let context = format!("{fault:?} at read {n}");
            let opened = harness.open(&small());
            let harmless = matches!(fault, Fault::Interrupted | Fault::ShortWrite);
            assert!(opened.is_ok() || !harmless, "{context}: {opened:?}");
            let table = opened.unwrap_or_else(|_| harness.open(&small()).unwrap());
            for n in 0..7_u8 {
                let read = table.get(&[n + 1]);
                assert!(read.is_ok() || !harmless, "{context}: {read:?}");
                let value = read.unwrap_or_else(|_| table.get(&[n + 1]).unwrap());
                assert_eq!(value.unwrap(), &value_of(n.into(), 100)[..], "{context}");
            }
            assert!(table.failure().is_none(), "{context}");
            table.put(b"more", b"x").unwrap();
            table.flush().unwrap();
            if harness.fs.faults_hit() == hits {
                break;
            }
        }
        assert!(n > 10, "{fault:?}: {n} reads");
    }
}

#[test]
fn short_and_interrupted_transfers_everywhere_change_nothing() {
    let options = small().segment_keys(2).shards(2);
    let ops = [
        Op::Put(40),
        Op::Aliased(66_000),
        Op::Flush,
        Op::Batch(&[10, 400, 70_000]),
        Op::Put(8),
        Op::Reopen,
        Op::Put(30),
        Op::Kill,
        Op::Put(300),
        Op::Flush,
    ];
    let scenario = scenario("short", 2, options, &ops);
    let mut run = Run::new(&scenario);
    run.harness.fs.short_transfers(true);
    run.until_error().unwrap();
    drop(run.table.take());
    let harness = run.harness.after_crash(run.harness.fs.crash_with(&CrashImage::Nothing));
    verify(&scenario, &harness, &run.model, "short transfers");
}
