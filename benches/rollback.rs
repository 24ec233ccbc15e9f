//! Rolling back half of a database: how fast a plan walks through records, and the cost of
//! executing it.
//!
//! *Raw* is the minimum that the walk needs: the checksum of as many records of the same length
//! and stride in memory mapped from a file, and a comparison of eight bytes of each. The execution
//! is compared with the sum of its minimal parts: one copy of the truncated key file, and one
//! unlink for each removed segment. Medians of the rounds.
//!
//! `cargo bench -p lithdb-benches --bench rollback [-- ROUNDS [RECORDS]]`

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::path::Path;

use lithdb::rollback::through_key;
use lithdb::{Batch, Db, DbOptions, Rollback, TableOptions};
use lithdb_benches::{append, incompressible, median, timed};
use lithdb_env::{Fs, OsFs};

const VALUE_LEN: usize = 256;
const RECORD_LEN: usize = 32 + 16;

fn key(n: u64) -> [u8; 16] {
    let mut key = [7; 16];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

fn fill(path: &Path, records: u64, inline: bool) {
    let inline_max = if inline { 1024 } else { 0 };
    let options = TableOptions::new().segment_bytes(64 << 20).inline_max_bytes(inline_max);
    let db = Db::open(DbOptions::new([path])).unwrap();
    let table = db.table("t", options).unwrap();
    let value = incompressible(1, VALUE_LEN);
    let mut batch = Batch::new();
    for n in 0..records {
        batch.put(key(n), &value[..]);
        if batch.len() == 1000 {
            table.put_batch(&batch).unwrap();
            batch.clear();
        }
    }
    table.put_batch(&batch).unwrap();
    db.close().unwrap();
}

/// Checksums `count` records at a stride of `stride` bytes, and compares bytes of each.
fn raw_walk(bytes: &[u8], count: usize, stride: usize) -> u64 {
    let mut kept = 0;
    for n in (0..count).rev() {
        let record = &bytes[n * stride..n * stride + RECORD_LEN];
        kept += u64::from(black_box(crc32c::crc32c(&record[4..])));
        let number = u64::from_be_bytes(record[32..40].try_into().unwrap());
        kept += u64::from(black_box(number <= 7));
    }
    kept
}

fn run(dir: &Path, rounds: usize, records: u64, inline: bool) {
    let (mut walked, mut raw, mut executed, mut floor) = (vec![], vec![], vec![], vec![]);
    let stride = if inline { RECORD_LEN + VALUE_LEN } else { RECORD_LEN };
    for round in 0..rounds {
        let path = dir.join(format!("{inline}-{round}"));
        fill(&path, records, inline);
        let half = records / 2;
        let mut examined = 0_u64;
        let mut filter = through_key(key(half));
        let rollback = Rollback::new([&path]);
        let (time, plan) = timed(|| {
            rollback.plan(|record| {
                examined += 1;
                filter(record)
            })
        });
        let plan = plan.unwrap();
        walked.push(examined as f64 / 1e6 / time.as_secs_f64());

        let file = OsFs.create_new(&dir.join(format!("raw-{inline}-{round}"))).unwrap();
        let piece = incompressible(2, stride * 1000);
        for _ in 0..examined.div_ceil(1000) {
            append(&*file, &piece).unwrap();
        }
        let count = examined as usize;
        let mapped = file.map(file.len().unwrap(), Default::default()).unwrap();
        let (time, _) =
            timed(|| raw_walk(&mapped.bytes(0, count * stride).unwrap(), count, stride));
        raw.push(examined as f64 / 1e6 / time.as_secs_f64());

        let cut = plan.tables[0].segment_truncated.unwrap();
        let segments = path.join("t/segments");
        let keys = segments.join(format!("{cut}.keys"));
        let (time, ()) = timed(|| {
            let source = OsFs.open(&keys, lithdb_env::OpenMode::Read).unwrap();
            let len = source.len().unwrap();
            let copy = OsFs.create_new(&dir.join(format!("copy-{inline}-{round}"))).unwrap();
            append(
                &*copy,
                &source.map(len, Default::default()).unwrap().bytes(0, len as usize).unwrap(),
            )
            .unwrap();
            copy.sync_all().unwrap();
        });
        let removed = plan.tables[0].segments_removed;
        let (unlinks, ()) = timed(|| {
            for n in 0..removed {
                let path = dir.join(format!("removed-{inline}-{round}-{n}"));
                let file = OsFs.create_new(&path).unwrap();
                file.set_len(64 << 20).unwrap();
                OsFs.remove_file(&path).unwrap();
            }
        });
        floor.push((time + unlinks).as_secs_f64() * 1e3);
        let report = plan.execute().unwrap();
        executed.push(report.took.as_secs_f64() * 1e3);
        if round == 0 {
            println!(
                "{} records examined, {removed} segments removed, one of {} bytes truncated",
                examined,
                OsFs.metadata(&keys).unwrap().len_bytes
            );
        }
    }
    let what = if inline { "values in the key file" } else { "values apart" };
    let (walked, raw) = (median(walked), median(raw));
    println!("plan, {what}: {walked:.1} M records/s, raw {raw:.1}, ratio {:.2}", walked / raw);
    let (executed, floor) = (median(executed), median(floor));
    println!("execute, {what}: {executed:.1} ms, copy and unlinks {floor:.1} ms");
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let rounds = args.next().map_or(3, |n| n.parse().unwrap());
    let records = args.next().map_or(2_000_000, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), rounds, records, true);
    run(dir.path(), rounds, records, false);
}
