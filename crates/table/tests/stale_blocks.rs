//! Blocks that a device has lost or misplaced, in a cleanly closed table: each sector of 512 bytes
//! and each block of 4 KiB of each file is replaced by its earlier content, zeros, or another
//! block of the same or another file. Reads return the right bytes or an error; nothing turns into
//! `None`.
//!
//! Undetectable cases are left out and tested on their own: *all* files as they were at one
//! earlier time are the table as it was then. If the table was only put to since, two files are
//! enough: the state and the newest key file.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use lithdb_env::Result;
use lithdb_segment::{HEADER_LEN, ReadMode, SegmentId};
use lithdb_sim::{CrashImage, Effort, Fault, Pages, SeededChoice, SimFs, Tally};
use lithdb_table::{SecondaryKey, Table, TableOptions};
use support::closed_table::{ClosedTable, assert_reported_as_damage, check_reads, clock, files};
use support::script::value_of;
use support::{DAY, Harness, small};

fn options() -> TableOptions {
    small().segment_keys(12).shards(2).inline_max_bytes(300).ttl(DAY / 2).segment_age(DAY)
}

/// Sealed segments on two roots and a mutable one, all of several sectors and the newest of
/// several blocks; values inline and in files, aliases, a watermark above 1; synced, closed and
/// opened often, so that blocks have earlier content.
fn closed() -> ClosedTable {
    let harness = Harness::new(2);
    let mut table = harness.create_and_open(&options());
    let mut gone = Vec::new();
    for n in 0..8_usize {
        let key = format!("old-{n}").into_bytes();
        table.put(&key, &value_of(n, 90 * n)).unwrap();
        gone.push(key);
    }
    table.seal().unwrap();
    harness.clock.advance(DAY);
    assert_eq!(table.run_gc().unwrap().segments, 1);
    let mut records = Vec::new();
    for n in 10..30_usize {
        let key = format!("key-{n}-{}", "k".repeat(n * 7)).into_bytes();
        let value = value_of(n, if n % 3 == 0 { 250 } else { 301 + 20 * n });
        let alias = format!("alias-{n}").into_bytes();
        let part = value.len() / 4..value.len() / 2;
        table.put_with(&key, &value, &[SecondaryKey::range(&alias, part.clone())]).unwrap();
        records.push((key, value.clone()));
        records.push((alias, value[part].to_vec()));
        if n % 2 == 0 {
            table.flush().unwrap();
        }
        if n % 5 == 4 {
            table.close().unwrap();
            // The last one continues in the newest segment until it has several blocks.
            let keys = if n < 24 { 12 } else { 100 };
            table = harness.open(&options().segment_keys(keys)).unwrap();
        }
    }
    for n in 30..42_usize {
        let (key, value) = (format!("key-{n}").into_bytes(), value_of(n, 100 + n % 3 * 250));
        table.put(&key, &value).unwrap();
        table.flush().unwrap();
        records.push((key, value));
    }
    let stats = table.stats();
    assert!(stats.watermark > SegmentId(1) && stats.segments >= 3, "{stats:?}");
    table.close().unwrap();
    ClosedTable { fs: harness.fs.fork(), records, gone }
}

/// Who opens the table.
#[derive(Debug, Clone, Copy)]
enum Role {
    Writer,
    Reader,
}

fn open(fs: &SimFs, mode: ReadMode, who: Role) -> Result<Table> {
    let mut harness = Harness::on(fs.clone(), clock(), 2);
    harness.setup.read_mode = mode;
    match who {
        Role::Writer => harness.open(&options()),
        Role::Reader => Table::open_read_only(&harness.setup, &options()),
    }
}

/// Opens the table and reads everything; returns whether all of it was right.
fn open_and_read(fs: &SimFs, who: Role, closed: &ClosedTable, context: &str) -> bool {
    match open(fs, ReadMode::Map, who) {
        Ok(table) => check_reads(&table, closed, context),
        Err(error) => {
            assert_reported_as_damage(&error, context);
            false
        }
    }
}

/// A block of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    path: PathBuf,
    offset: usize,
    bytes: Vec<u8>,
}

fn blocks(fs: &SimFs, unit: usize) -> Vec<Block> {
    let blocks = files(fs).into_iter().flat_map(|(path, bytes)| {
        let chunks = bytes.chunks(unit).enumerate();
        let blocks = chunks.map(|(n, bytes)| (path.clone(), n * unit, bytes.to_vec()));
        blocks.collect::<Vec<_>>()
    });
    blocks.map(|(path, offset, bytes)| Block { path, offset, bytes }).collect()
}

/// Whether a right result depends on the block: not on one slot of the state, nor on reserved
/// space.
fn is_needed(block: &Block) -> bool {
    let is_slot = block.path.ends_with("table.state");
    let is_value_header = block.path.extension().is_some_and(|e| e == "values")
        && block.bytes.len() <= HEADER_LEN
        && block.offset == 0;
    !is_slot && !is_value_header
}

/// Every replacement of every block of `unit` bytes, opened by a writer; every seventh by a
/// reader, too.
fn every_replacement(unit: usize, others: u64) {
    let closed = closed();
    let effort = Effort::from_env();
    let mut random = SeededChoice::new(effort.seed("blocks") ^ unit as u64);
    let mut tally = Tally::new(format!("replaced blocks of {unit} bytes"));
    let blocks = blocks(&closed.fs, unit);
    tally.add("blocks", blocks.len() as u64);
    let mut tried = 0;
    let mut check = |tally: &mut Tally, fs: SimFs, needed: bool, context: String| {
        tried += 1;
        if tried % 7 == 0 {
            tally.add("readers", 1);
            open_and_read(&fs, Role::Reader, &closed, &format!("{context}, reader"));
            assert_eq!(fs.ops(), 0, "{context}: a reader writes nothing");
        }
        let is_right = open_and_read(&fs, Role::Writer, &closed, &context);
        assert!(!is_right || !needed, "{context}: not noticed");
        tally.add(if is_right { "harmless" } else { "refused" }, 1);
    };
    for block in &blocks {
        let (path, at) = (&block.path, block.offset as u64);
        let name = format!("{} at {at}", path.display());
        for (n, older) in closed.fs.older_blocks(path, at, block.bytes.len()).iter().enumerate() {
            let fs = closed.fs.fork();
            fs.write_block(path, at, older);
            tally.add("stale", 1);
            check(&mut tally, fs, is_needed(block), format!("{name} as it was {} ago", n + 1));
        }
        if block.bytes.iter().any(|byte| *byte != 0) {
            let fs = closed.fs.fork();
            fs.write_block(path, at, &vec![0; unit]);
            tally.add("zeros", 1);
            check(&mut tally, fs, is_needed(block), format!("{name} as zeros"));
        }
        // A quick run takes some of the other blocks, a deep run all; those at the same offset
        // always.
        for other in &blocks {
            let same_place = other.offset == block.offset;
            let chosen = random.next_u64() % (blocks.len() as u64) < effort.times(others);
            let len = block.bytes.len();
            let is_same = (0..len).all(|n| other.bytes.get(n).unwrap_or(&0) == &block.bytes[n]);
            if is_same || !(same_place || chosen) {
                continue;
            }
            let from = format!("{} at {}", other.path.display(), other.offset);
            let fs = closed.fs.fork();
            let mut bytes = other.bytes.clone();
            bytes.resize(unit, 0);
            fs.write_block(path, at, &bytes);
            tally.add("overwritten", 1);
            check(&mut tally, fs, is_needed(block), format!("{name} overwritten by {from}"));

            let fs = closed.fs.fork();
            fs.misdirect_block((&other.path, other.offset as u64), (path, at), unit);
            tally.add("misdirected", 1);
            check(&mut tally, fs, is_needed(block), format!("{from} went to {name}"));
        }
    }
    for what in ["stale", "zeros", "overwritten", "misdirected", "harmless", "refused", "readers"] {
        assert!(tally.get(what) > 0, "{what}: none");
    }
}

#[test]
fn every_replaced_sector_is_an_error_or_harmless() {
    every_replacement(512, 6);
}

#[test]
fn every_replaced_block_is_an_error_or_harmless() {
    every_replacement(4096, 24);
}

#[test]
fn stale_file_is_an_error_or_harmless() {
    let closed = closed();
    let mut tally = Tally::new("stale files");
    for (path, bytes) in files(&closed.fs) {
        for (n, older) in closed.fs.older_blocks(&path, 0, bytes.len()).iter().enumerate() {
            let fs = closed.fs.fork();
            fs.write_block(&path, 0, older);
            let context = format!("{} as it was {} syncs ago", path.display(), n + 1);
            let is_right = open_and_read(&fs, Role::Writer, &closed, &context);
            let is_state = path.ends_with("table.state");
            assert!(!is_right || is_state, "{context}: not noticed");
            tally.add(if is_right { "harmless" } else { "refused" }, 1);
            // Both slots as one of them was: the state that was current then.
            if is_state {
                for slot in older.chunks(4096) {
                    let fs = closed.fs.fork();
                    fs.write_block(&path, 0, &slot.repeat(2));
                    let context = format!("{context}, both slots");
                    let is_right = open_and_read(&fs, Role::Writer, &closed, &context);
                    tally.add(if is_right { "harmless" } else { "refused" }, 1);
                }
            }
        }
    }
    assert!(tally.get("harmless") > 0 && tally.get("refused") > 10);
}

#[test]
fn stale_read_is_an_error_or_harmless() {
    let closed = closed();
    let mut tally = Tally::new("stale reads");
    for who in [Role::Writer, Role::Reader] {
        for n in 1.. {
            let fs = closed.fs.fork();
            fs.fail_read(n, Fault::StaleRead);
            let context = format!("older bytes at read {n}, {who:?}");
            let is_right = match open(&fs, ReadMode::Pread, who) {
                Ok(table) => check_reads(&table, &closed, &context),
                // The second read of the same bytes may show that the first was wrong.
                Err(error) if error.to_string().contains("two reads gave different bytes") => false,
                Err(error) => {
                    assert_reported_as_damage(&error, &context);
                    false
                }
            };
            if fs.faults_hit() == 0 {
                break;
            }
            tally.add(if is_right { "harmless" } else { "refused" }, 1);
            // The disk itself still holds the newer bytes unchanged.
            assert!(open_and_read(&fs, Role::Writer, &closed, &format!("{context}, and again")));
        }
    }
    assert!(tally.get("harmless") > 0 && tally.get("refused") > 0);
}

#[test]
fn stale_files_are_noticed_unless_the_whole_table_is_stale() {
    let harness = Harness::new(1);
    let options = small().segment_keys(100);
    let put = |table: &Table, name: u8| {
        for n in 0..10 {
            table.put(&[name, n], &value_of(usize::from(n), 10 + 4 * usize::from(n))).unwrap();
        }
        table.close().unwrap();
    };
    put(&harness.create_and_open(&options), b'a');
    let earlier = files(&harness.fs);
    put(&harness.open(&options).unwrap(), b'b');
    let changed: Vec<_> =
        earlier.iter().filter(|(path, bytes)| harness.fs.read_raw(path) != *bytes).collect();
    assert_eq!(changed.len(), 3, "state, keys, values");
    for chosen in 1_u32..8 {
        let fs = harness.fs.fork();
        let is_chosen = |n: &usize| chosen >> n & 1 == 1;
        for (_, (path, bytes)) in changed.iter().enumerate().filter(|(n, _)| is_chosen(n)) {
            fs.write_raw(path, bytes.clone());
        }
        let names: Vec<_> = (0..3).filter(is_chosen).map(|n| &changed[n].0).collect();
        let opened = Harness::on(fs, clock(), 1).open(&options);
        let has = |name: &str| names.iter().any(|path| path.ends_with(name));
        match (has("table.state"), has("1.keys"), has("1-0.values")) {
            // The whole table as it was then: indistinguishable from one that was not written
            // since.
            (true, true, true) => {
                let table = opened.unwrap();
                assert!(table.get(&[b'a', 9]).unwrap().is_some());
                assert!(table.get(&[b'b', 0]).unwrap().is_none());
            }
            _ => drop(opened.map(|_| panic!("not noticed: {names:?}")).unwrap_err()),
        }
    }
}

/// A wrong read of the bytes of the last flush, which no mark covers yet, may be taken for a torn
/// end (`FORMAT.md`, *Undetectable damage*). But recovery writes only what it verified.
#[test]
fn stale_read_is_never_copied_by_recovery() {
    let harness = Harness::new(1);
    let options = small().segment_keys(100);
    let table = harness.create_and_open(&options);
    let put = |n: u8| {
        table.put(&[n], &value_of(n.into(), 60)).unwrap();
        table.flush().unwrap();
    };
    (0..6).for_each(put);
    drop(table); // killed
    let mut tally = Tally::new("stale reads of an unmarked end");
    for n in 1.. {
        let fs = harness.fs.fork();
        fs.fail_read(n, Fault::StaleRead);
        let open = || Harness::on(fs.clone(), clock(), 1).open(&options);
        let first = open();
        if fs.faults_hit() == 0 {
            break;
        }
        fs.clear_faults();
        let context = format!("older bytes at read {n}");
        let may_be_cut = first.is_ok();
        tally.add(if may_be_cut { "opened" } else { "refused" }, 1);
        let mut check = |table: &Table| {
            for key in 0..6_u8 {
                let found = table.get(&[key]).unwrap_or_else(|e| panic!("{context}: {key}: {e}"));
                let is_right = found.as_ref().is_some_and(|v| *v == value_of(key.into(), 60)[..]);
                let is_cut = found.is_none() && may_be_cut && key == 5;
                tally.add("cut", is_cut.into());
                assert!(is_right || is_cut, "{context}: {key}: {found:?}");
            }
        };
        if let Ok(table) = first {
            check(&table);
        }
        check(&open().unwrap_or_else(|e| panic!("{context}: {e}")));
    }
    assert!(tally.get("opened") > 0 && tally.get("refused") > 0, "{tally:?}");
}

/// Data must not be served, flushed and then lost after the next mount: recovery must not write
/// over blocks that take no writes.
#[test]
fn what_recovery_keeps_is_safe_from_unwritable_blocks() {
    for is_reported in [true, false] {
        for inline_max in [16, 4000] {
            let options = TableOptions::new().shards(1).inline_max_bytes(inline_max);
            let harness = Harness::new(2);
            let table = harness.create_and_open(&options);
            table.put(b"flushed", &[1; 700]).unwrap();
            table.flush().unwrap();
            // More than the write buffer holds.
            let value = |n: usize| vec![n as u8; 1000];
            for n in 0..2500 {
                table.put(format!("key-{n}").as_bytes(), &value(n)).unwrap();
            }
            if is_reported {
                harness.fs.fail_op(1, Fault::FailedSync { pages: Pages::Unwritable }, true);
                assert!(table.flush().is_err());
            } else {
                harness.fs.fail_writeback();
            }
            drop(table);
            harness.fs.clear_faults();
            // In the same mount, everything can be read, and every sync succeeds.
            let table = harness.open(&options).unwrap();
            table.put(b"more", &[2; 700]).unwrap();
            table.flush().unwrap();
            let served = table.stats().keys;
            assert!(served >= 2 && (!is_reported || served == 2502), "{served}");
            drop(table);
            let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Everything));
            let table = harness.open(&options).unwrap();
            assert_eq!(table.stats().keys, served, "reported {is_reported}, inline {inline_max}");
            for n in 0..served as usize - 2 {
                let got = table.get(format!("key-{n}").as_bytes()).unwrap();
                assert_eq!(got.unwrap(), &value(n)[..]);
            }
        }
    }
}
