//! Baseline figures: LithDB against the simplest implementation of the same work, alternating in
//! one run.
//!
//! *Raw* is one append-only file with buffered positional writes of 1 MiB and one data sync per
//! flush, a hash map from key to offset, and reads from a mapping with the same checksum over the
//! same bytes: no keys on disk, no recovery. Every figure is the median of the rounds; compare
//! ratios, not absolute values.
//!
//! `cargo bench -p lithdb-benches --bench baseline [-- ROUNDS [MIB_PER_ROUND [ONLY]]]`

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lithdb::{Batch, Db, DbOptions, Table, TableOptions};
use lithdb_benches::{append, incompressible, median, timed};
use lithdb_env::human::parsed;
use lithdb_env::{File, Fs, OsFs, write_all_at};

const FLUSH_EVERY: usize = 64 << 20;
const WRITE_LEN: usize = 1 << 20;

struct Run {
    rounds: usize,
    bytes: usize,
    dir: tempfile::TempDir,
    count: usize,
}

impl Run {
    fn fresh(&mut self) -> std::path::PathBuf {
        self.count += 1;
        self.dir.path().join(format!("run-{}", self.count))
    }

    fn table(&mut self) -> (Db, Table) {
        let db = Db::open(DbOptions::new([self.fresh()])).unwrap();
        let table = db.table("t", TableOptions::new()).unwrap();
        (db, table)
    }
}

/// One append-only file.
struct Raw {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
}

impl Raw {
    fn create(path: &Path) -> Self {
        Self { file: OsFs.create_new(path).unwrap(), buffer: Vec::new(), written: 0 }
    }

    fn put(&mut self, value: &[u8]) {
        self.buffer.extend_from_slice(value);
        if self.buffer.len() >= WRITE_LEN {
            self.write();
        }
    }

    fn write(&mut self) {
        write_all_at(&*self.file, &self.buffer, self.written).unwrap();
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
    }

    fn flush(&mut self) {
        self.write();
        self.file.sync_data().unwrap();
    }
}

fn key(n: usize) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[24..].copy_from_slice(&(n as u64).to_be_bytes());
    key
}

fn report(what: &str, unit: &str, ours: Vec<f64>, raw: Vec<f64>) {
    let ratios = ours.iter().zip(&raw).map(|(ours, raw)| ours / raw).collect();
    let (ours, raw, ratio) = (median(ours), median(raw), median(ratios));
    println!("{what:<44} {ours:>12.2} {raw:>12.2} {unit:<6} ratio {ratio:.2}");
}

/// Puts of `size` bytes, flushed every 64 MiB: MB/s.
fn puts(run: &mut Run, size: usize) {
    let value = incompressible(size as u64, size);
    let count = run.bytes / size;
    let per_flush = FLUSH_EVERY / size;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        let path = run.fresh();
        let (time, ()) = timed(|| {
            let mut raw = Raw::create(&path);
            for n in 1..=count {
                raw.put(&value);
                if n % per_flush == 0 {
                    raw.flush();
                }
            }
            raw.flush();
        });
        raw.push((count * size) as f64 / 1e6 / time.as_secs_f64());
        let (db, table) = run.table();
        let (time, ()) = timed(|| {
            for n in 1..=count {
                table.put(key(n), &value).unwrap();
                if n % per_flush == 0 {
                    table.flush().unwrap();
                }
            }
            table.flush().unwrap();
        });
        ours.push((count * size) as f64 / 1e6 / time.as_secs_f64());
        db.close().unwrap();
    }
    report(&format!("put {size} B, flush every 64 MiB"), "MB/s", ours, raw);
}

/// Puts of 256 bytes in batches of 1,000: MB/s.
fn batches(run: &mut Run) {
    let (size, value) = (256, incompressible(1, 256));
    let count = run.bytes / size / 4;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        let mut file = Raw::create(&run.fresh());
        let (time, ()) = timed(|| {
            for n in 1..=count {
                file.put(&value);
                if n % (FLUSH_EVERY / size) == 0 {
                    file.flush();
                }
            }
            file.flush();
        });
        raw.push((count * size) as f64 / 1e6 / time.as_secs_f64());
        let (db, table) = run.table();
        let (time, ()) = timed(|| {
            let mut batch = Batch::new();
            for n in 1..=count {
                batch.put(key(n), &value[..]);
                if batch.len() == 1000 || n == count {
                    table.put_batch(&batch).unwrap();
                    batch.clear();
                }
                if n % (FLUSH_EVERY / size) == 0 {
                    table.flush().unwrap();
                }
            }
            table.flush().unwrap();
        });
        ours.push((count * size) as f64 / 1e6 / time.as_secs_f64());
        db.close().unwrap();
    }
    report("put 256 B in batches of 1,000", "MB/s", ours, raw);
}

/// Durable puts of 1 KiB, one at a time: microseconds, p50.
fn durable_puts(run: &mut Run) {
    let value = incompressible(3, 1024);
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        let file = OsFs.create_new(&run.fresh()).unwrap();
        let (db, table) = run.table();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for n in 0..400 {
            let start = Instant::now();
            append(&*file, &value).unwrap();
            file.sync_data().unwrap();
            b.push(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            table.put(key(n), &value).unwrap();
            table.flush().unwrap();
            a.push(start.elapsed().as_secs_f64() * 1e6);
        }
        db.close().unwrap();
        ours.push(median(a));
        raw.push(median(b));
    }
    report("durable put 1 KiB, p50 (lower is better)", "us", ours, raw);
}

/// Random gets of warm values, checksummed: thousands per second. And the time of a lookup of an
/// absent key.
fn gets(run: &mut Run, size: usize) {
    let count = (256 << 20) / size;
    let value = incompressible(5, size);
    let (db, table) = run.table();
    let file = OsFs.create_new(&run.fresh()).unwrap();
    let mut map = HashMap::new();
    for n in 0..count {
        table.put(key(n), &value).unwrap();
        let at = append(&*file, &value).unwrap();
        map.insert(key(n), (at, size, crc32c::crc32c(&value)));
    }
    table.flush().unwrap();
    let mapped = file.map((count * size) as u64, Default::default()).unwrap();
    let order: Vec<usize> =
        (0..count.max(100_000)).map(|n| n.wrapping_mul(0x9e37_79b9) % count).collect();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for round in 0..=run.rounds {
        let (time, ()) = timed(|| {
            for n in &order {
                let (at, len, checksum) = map[&key(*n)];
                let bytes = mapped.bytes(at, len).unwrap();
                assert_eq!(crc32c::crc32c(&bytes), checksum);
                black_box(&bytes);
            }
        });
        let (our_time, ()) = timed(|| {
            for n in &order {
                black_box(table.get(key(*n)).unwrap().unwrap());
            }
        });
        if round > 0 {
            // The first round is a warm-up. Rates, so that a higher ratio is better.
            raw.push(order.len() as f64 / 1e3 / time.as_secs_f64());
            ours.push(order.len() as f64 / 1e3 / our_time.as_secs_f64());
        }
    }
    report(&format!("get {size} B, warm, verified"), "k/s", ours, raw);
    let (time, ()) = timed(|| {
        for n in 0..200_000 {
            black_box(table.contains(key(count + n)).unwrap());
        }
    });
    println!("{:<44} {:>12.1} ns", "absent key", time.as_nanos() as f64 / 2e5);
    db.close().unwrap();
}

/// A million keys: reopening after a clean close, and iteration.
fn million(run: &mut Run) {
    let value = incompressible(9, 64);
    let path = run.fresh();
    let options = DbOptions::new([&path]);
    let db = Db::open(options.clone()).unwrap();
    let table = db.table("t", TableOptions::new()).unwrap();
    for n in 0..1_000_000 {
        table.put(key(n), &value).unwrap();
    }
    db.close().unwrap();
    let (mut reopen, mut iterate) = (Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        let (time, (db, table)) = timed(|| {
            let db = Db::open(options.clone()).unwrap();
            let table = db.table("t", TableOptions::new()).unwrap();
            (db, table)
        });
        reopen.push(time.as_secs_f64());
        let (time, count) = timed(|| table.iter().unwrap().inspect(|e| assert!(e.is_ok())).count());
        assert_eq!(count, 1_000_000);
        iterate.push(count as f64 / 1e6 / time.as_secs_f64());
        let stats = table.stats();
        let per_key = stats.keymap_bytes as f64 / stats.keys as f64;
        black_box(per_key);
        db.close().unwrap();
    }
    println!("{:<44} {:>12.3} s", "reopen with 1,000,000 keys", median(reopen));
    println!("{:<44} {:>12.2} M/s", "iterate 1,000,000 keys (64-byte values)", median(iterate));
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |n: usize, default| args.get(n).and_then(|a| parsed(a)).unwrap_or(default);
    let only = args.get(2).cloned().unwrap_or_default();
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut run = Run { rounds: number(0, 5), bytes: number(1, 512) << 20, dir, count: 0 };
    println!("{:<44} {:>12} {:>12}", "", "LithDB", "raw");
    for (name, measure) in [
        ("put4", (|run| puts(run, 4 << 10)) as fn(&mut Run)),
        ("put64", |run| puts(run, 64 << 10)),
        ("put1m", |run| puts(run, 1 << 20)),
        ("batch", batches),
        ("durable", durable_puts),
        ("get4", |run| gets(run, 4 << 10)),
        ("get256", |run| gets(run, 256)),
        ("million", million),
    ] {
        if only.is_empty() || only == name {
            measure(&mut run);
        }
    }
}
