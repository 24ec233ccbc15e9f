//! Double faults: a lost, stale or damaged file, and a read that fails while the table is opened.
//! The failing read makes no damage worse: the opening is refused and nothing is removed, or the
//! outcome is the same as without it.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lithdb_env::ErrorKind;
use lithdb_sim::{Effort, Fault, SimFs, Tally};
use lithdb_table::TableOptions;
use support::{DAY, Harness, small};

const KEYS: usize = 11;

fn options() -> TableOptions {
    small().ttl(Duration::from_secs(3600)).segment_age(DAY)
}

/// The outcome of an open: what each key returns, or the error.
type Outcome = Result<Vec<Option<Vec<u8>>>, ErrorKind>;

fn outcome(harness: &Harness) -> Outcome {
    let table = harness.open(&options()).map_err(|e| e.kind())?;
    let found = (0..KEYS).map(|n| {
        let value = table.get(format!("key-{n}").as_bytes()).map_err(|e| e.kind())?;
        Ok(value.map(|value| value.to_vec()))
    });
    found.collect()
}

/// Images of the disk, the last one after a kill: segments 1 to 3 on two roots, the last one with
/// a mark.
fn snapshots() -> (Harness, Vec<SimFs>) {
    let harness = Harness::new(2);
    let table = harness.create_and_open(&options());
    let mut snapshots = Vec::new();
    let mut put = |table: &lithdb_table::Table, n: usize| {
        let value = vec![n as u8; if n.is_multiple_of(3) { 8 } else { 40 }];
        table.put(format!("key-{n}").as_bytes(), &value).unwrap();
        if n.is_multiple_of(2) {
            table.flush().unwrap();
        }
        if n == 2 {
            snapshots.push(harness.fs.fork());
        }
    };
    (0..6).for_each(|n| put(&table, n));
    table.close().unwrap();
    drop(table);
    harness.fs.release_locks();
    let table = harness.open(&options()).unwrap();
    (6..KEYS).for_each(|n| put(&table, n));
    table.flush().unwrap();
    drop(table);
    harness.fs.release_locks();
    snapshots.push(harness.fs.fork());
    (harness, snapshots)
}

/// Every way to lose, age or damage one file.
fn damages(fs: &SimFs, older: &[SimFs]) -> BTreeMap<String, SimFs> {
    let mut all = BTreeMap::new();
    for path in fs.file_paths() {
        let name = path.display().to_string();
        let lost = fs.fork();
        lost.remove_raw(&path);
        all.insert(format!("{name} lost"), lost);
        for (n, age) in older.iter().enumerate() {
            let is_there = age.file_paths().contains(&path);
            if is_there && age.read_raw(&path) != fs.read_raw(&path) {
                let old = fs.fork();
                old.write_raw(&path, age.read_raw(&path));
                all.insert(format!("{name} of age {n}"), old);
            }
        }
        let len = fs.read_raw(&path).len() as u64;
        for at in [0, 40, 64 + 10, len / 2, len.saturating_sub(1)] {
            if at < len {
                let damaged = fs.fork();
                damaged.flip_bit(&path, at, 3);
                all.insert(format!("{name} damaged at {at}"), damaged);
            }
        }
    }
    all
}

fn contents(fs: &SimFs) -> BTreeMap<PathBuf, Vec<u8>> {
    fs.file_paths().into_iter().map(|path| (path.clone(), fs.read_raw(path))).collect()
}

#[test]
fn failing_read_with_a_damaged_file_destroys_nothing() {
    let effort = Effort::from_env();
    let (harness, snapshots) = snapshots();
    let (last, older) = snapshots.split_last().unwrap();
    let whole: Outcome = outcome(&harness.after_crash(last.fork()));
    assert!(whole.unwrap().iter().all(Option::is_some));
    let mut tally = Tally::new("two faults");
    // A quick run fails every other read: the first, the third, …, shifted from one damage to the
    // next.
    let step = if effort.is_deep() { 1 } else { 3 };
    for (shift, (what, damaged)) in damages(last, older).into_iter().enumerate() {
        let alone = outcome(&harness.after_crash(damaged.fork()));
        for fault in [Fault::Eio, Fault::TooManyFiles] {
            let mut n = 1 + (shift % step) as u64;
            loop {
                let context = format!("{what}, {fault:?} at read {n}");
                let fs = damaged.fork();
                let before = contents(&fs);
                fs.fail_read(n, fault);
                let harness = harness.after_crash(fs.clone());
                let opened = harness.open(&options());
                if fs.faults_hit() == 0 {
                    break;
                }
                tally.add("openings", 1);
                drop(opened);
                fs.clear_faults();
                fs.release_locks();
                let after = contents(&fs);
                if alone.is_err() {
                    let is_segment = |path: &Path| path.to_string_lossy().contains("/segments/");
                    for path in before.keys().filter(|path| is_segment(path)) {
                        assert!(after.contains_key(path), "{context}: {path:?} is gone");
                    }
                }
                assert_eq!(outcome(&harness.after_crash(fs)), alone, "{context}");
                n += step as u64;
            }
        }
    }
    assert!(tally.get("openings") > 500, "{tally:?}");
}
