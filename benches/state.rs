//! The versioned state store: commits, snapshots, reopening, catch-up, rollback and reads.
//!
//! *Raw* of a commit is the same record appended to one file with `fdatasync`, and its rows put
//! into a `BTreeMap`; *hash* is the set hash of the same differences alone, on one thread. Raw of a
//! snapshot is as many hard links and three directory syncs; raw of a catch-up reads the records
//! from one file and puts their rows into a `BTreeMap`; that of a durable commit is a durable put
//! of the same bytes into a LithDB table. All in one run, medians.
//!
//! Keys of 57 bytes and values of 64, uniform; half of the changes overwrite, one in twenty
//! deletes.
//!
//! `cargo bench -p lithdb-benches --bench state [-- ROWS [BLOCKS]]`: 1,000,000 rows and 20 blocks of
//! 10,000 keys if not given; 7,500,000 rows are about 1 GB. `--no-default-features` hashes
//! with BLAKE3's assembly.
//!
//! `… --bench state -- latency [SECONDS [ROWS]] [FILE.svg]`: commits of 1,000 keys for so long (600
//! seconds), with flushes and compaction, and a snapshot every 20 seconds; a line of
//! comma-separated values for every ten seconds, the quantiles of all, and a chart. The file is
//! relative to `benches`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use lithdb::{Db, DbOptions, TableOptions};
use lithdb_benches::{median, timed};
use lithdb_lthash::LtHash;
use lithdb_state::{ChangeSet, StateDb, StateOptions, StateStats};
use plotters::prelude::*;

const KEY_LEN: usize = 57;
const VALUE_LEN: usize = 64;
const BLOCK_KEYS: u64 = 10_000;
const STORE: &str = "bank";

/// A pseudo-random sequence (splitmix64): the same in every run.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn key(n: u64) -> [u8; KEY_LEN] {
    let mut key = [b'k'; KEY_LEN];
    key[..8].copy_from_slice(&Sequence(n).next().to_be_bytes());
    key
}

type Change = ([u8; KEY_LEN], Option<[u8; VALUE_LEN]>);

/// The changes of a block: half of the keys are among the first `rows`.
fn block(version: u64, keys: u64, rows: u64) -> Vec<Change> {
    let mut random = Sequence(version << 32);
    (0..keys)
        .map(|n| {
            let number = random.next();
            let row = if n % 2 == 0 { number % rows.max(1) } else { number };
            let mut value = [0; VALUE_LEN];
            for part in value.chunks_mut(8) {
                part.copy_from_slice(&random.next().to_be_bytes());
            }
            (key(row), (n % 20 != 0).then_some(value))
        })
        .collect()
}

fn change_set(changes: &[Change]) -> ChangeSet {
    changes.iter().fold(ChangeSet::new(STORE).unwrap(), |set, (key, value)| match value {
        Some(value) => set.put(key, value),
        None => set.delete(key),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

/// A record as raw writes it: the changes, one after the other.
fn raw_record(changes: &[Change]) -> Vec<u8> {
    let mut record = vec![0; 2_200];
    for (key, value) in changes {
        record.push(u8::from(value.is_some()));
        record.extend_from_slice(key);
        record.extend_from_slice(value.as_ref().map_or(&[][..], |value| &value[..]));
    }
    record
}

type Rows = BTreeMap<[u8; KEY_LEN], [u8; VALUE_LEN]>;

fn raw_apply(rows: &mut Rows, changes: &[Change]) {
    for (key, value) in changes {
        match value {
            Some(value) => rows.insert(*key, *value),
            None => rows.remove(key),
        };
    }
}

/// The set hash of the differences: what was there is removed, what is new is added.
fn raw_hash(hash: &mut LtHash, rows: &Rows, changes: &[Change]) {
    let physical = |key: &[u8; KEY_LEN]| [STORE.as_bytes(), b"/", key].concat();
    for (key, value) in changes {
        if let Some(old) = rows.get(key) {
            hash.remove_pair(&physical(key), old);
        }
        if let Some(new) = value {
            hash.add_pair(&physical(key), new);
        }
    }
}

fn row(name: &str, figure: String, against: &str, ratio: Option<f64>) {
    let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2} x"));
    println!("{name:<46} {figure:>16}  {against:<30} {ratio:>8}");
}

fn options() -> StateOptions {
    StateOptions::new().snapshot_interval(0)
}

/// Fills a store with `rows` rows in blocks.
fn fill(db: &StateDb, rows: u64) {
    let mut next = 0;
    while next < rows {
        let end = rows.min(next + BLOCK_KEYS);
        let value = |n: u64| {
            let mut value = [0; VALUE_LEN];
            value[..8].copy_from_slice(&n.to_be_bytes());
            value[8..16].copy_from_slice(&Sequence(n).next().to_be_bytes());
            value
        };
        let changes: Vec<Change> = (next..end).map(|n| (key(n), Some(value(n)))).collect();
        db.commit_block(db.version() + 1, &[change_set(&changes)]).unwrap();
        next = end;
    }
}

/// Commits of large blocks against raw and hash.
fn commits(dir: &Path, db: &StateDb, rows: u64, blocks: u64) -> f64 {
    let mut raw_rows = Rows::new();
    for n in 0..rows {
        raw_rows.insert(key(n), [0; VALUE_LEN]);
    }
    let mut hash = LtHash::default();
    let mut file = File::create(dir.join("raw")).unwrap();
    let (mut ours, mut raw, mut hashing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..blocks {
        let version = db.version() + 1;
        let changes = block(version, BLOCK_KEYS, rows);
        let set = [change_set(&changes)];
        ours.push(ms(timed(|| db.commit_block(version, &set).unwrap()).0));
        hashing.push(ms(timed(|| raw_hash(&mut hash, &raw_rows, &changes)).0));
        let appended = timed(|| {
            file.write_all(&raw_record(&changes)).unwrap();
            file.sync_data().unwrap();
            raw_apply(&mut raw_rows, &changes);
        });
        raw.push(ms(appended.0));
    }
    black_box(hash.root());
    let (ours, raw, hashing) = (median(ours), median(raw), median(hashing));
    let against = format!("raw {raw:.1} ms + hash {hashing:.1} ms");
    row(
        "commit_block, 10,000 keys, p50",
        format!("{ours:.1} ms"),
        &against,
        Some(ours / (raw + hashing)),
    );
    BLOCK_KEYS as f64 / ours * 1e3
}

/// Durable commits of 100 keys against durable puts of the same bytes.
fn small_commits(dir: &Path, db: &StateDb, rows: u64) {
    let raw = Db::open(DbOptions::new([dir.join("puts")])).unwrap();
    let table = raw.table("t", TableOptions::new()).unwrap();
    let (mut ours, mut puts) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let version = db.version() + 1;
        let changes = block(version, 100, rows);
        let set = [change_set(&changes)];
        ours.push(ms(timed(|| db.commit_block(version, &set).unwrap()).0));
        let record = raw_record(&changes);
        let put = timed(|| {
            let at = table.put(version.to_be_bytes(), &record).unwrap();
            table.wait_durable(at).unwrap();
        });
        puts.push(ms(put.0));
    }
    let (ours, puts) = (median(ours), median(puts));
    let against = format!("durable put {puts:.3} ms");
    row("commit of 100 keys, durable, p50", format!("{ours:.3} ms"), &against, Some(ours / puts));
}

/// Snapshots of a flushed store against as many links.
fn snapshots(dir: &Path, db: &StateDb, rows: u64) {
    let (mut took, mut raw, mut held, mut space) = (vec![], vec![], vec![], vec![]);
    let mut links = 0;
    for round in 0..20u64 {
        let version = db.version() + 1;
        db.commit_block(version, &[change_set(&block(version, 1_000, rows))]).unwrap();
        let (call, ticket) = timed(|| db.snapshot().unwrap());
        held.push(ms(call));
        let snapshot = ticket.wait().unwrap();
        took.push(snapshot.took_ms as f64);
        let infos = db.snapshots().unwrap();
        let info = infos.iter().find(|info| info.version == snapshot.version).unwrap();
        space.push((info.bytes - info.shared_bytes) as f64 / 1024.0);
        let tables = snapshot.path.join("engine").join("tables");
        let files: Vec<_> = match std::fs::read_dir(&tables) {
            Ok(files) => files.map(|file| file.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        };
        links = files.len();
        let into = dir.join(format!("links-{round}"));
        let linked = timed(|| {
            std::fs::create_dir(&into).unwrap();
            for (n, file) in files.iter().enumerate() {
                std::fs::hard_link(file, into.join(n.to_string())).unwrap();
            }
            for synced in [&into, dir, &tables] {
                OpenOptions::new().read(true).open(synced).and_then(|d| d.sync_all()).unwrap();
            }
        });
        raw.push(ms(linked.0));
        std::fs::remove_dir_all(&into).unwrap();
    }
    let (took, raw) = (median(took), median(raw));
    let against = format!("{links} links {raw:.1} ms");
    row("snapshot after its flush, p50", format!("{took:.1} ms"), &against, Some(took / raw));
    row(
        &format!("snapshot, the writer's lock held, worst of {}", held.len()),
        format!("{:.3} ms", quantile(&held, 1.0)),
        &format!("p50 {:.3} ms", median(held.clone())),
        None,
    );
    row("space of a fresh snapshot", format!("{:.1} KiB", median(space)), "files of its own", None);
}

/// Commits beside snapshots: how long the slowest takes.
fn commits_beside_snapshots(db: &StateDb, rows: u64) {
    let mut latencies = Vec::new();
    for n in 0..300 {
        let version = db.version() + 1;
        let set = [change_set(&block(version, 100, rows))];
        if n % 30 == 0 {
            db.snapshot().unwrap();
        }
        latencies.push(ms(timed(|| db.commit_block(version, &set).unwrap()).0));
    }
    let (p50, p99) = (median(latencies.clone()), quantile(&latencies, 0.99));
    row(
        "commit of 100 keys beside snapshots, p99",
        format!("{p99:.2} ms"),
        &format!("p50 {p50:.2} ms"),
        Some(p99 / p50),
    );
}

/// Reading: rows all over the state store, then the same few again, whose blocks are in the cache.
fn reads(db: &StateDb, rows: u64) {
    let view = db.latest();
    let get = |row: u64| {
        let key = key(row);
        timed(|| black_box(view.get(STORE, key).unwrap())).0.as_secs_f64() * 1e6
    };
    let mut random = Sequence(9);
    let numbers: Vec<u64> = (0..20_000).map(|_| random.next() % rows).collect();
    let pass = || median(numbers.iter().map(|row| get(*row)).collect());
    let spread = pass();
    // The cache keeps a block that was read before and is read again.
    pass();
    pass();
    let cached = pass();
    row("get, files in the page cache, p50", format!("{spread:.2} us"), "", None);
    row("get, blocks in the block cache, p50", format!("{cached:.2} us"), "", None);
    let (time, count) = timed(|| view.iter(STORE).unwrap().take(1_000_000).count());
    let rate = count as f64 / time.as_secs_f64() / 1e6;
    row("iterate", format!("{rate:.2} M rows/s"), &format!("{count} rows"), None);
}

/// The latencies of the commits of one step, in milliseconds.
struct Step {
    seconds: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

/// How long commits take while the store is flushed, compacted and copied.
fn latency(path: &Path, length: Duration, rows: u64, chart_file: Option<&str>) {
    const STEP: Duration = Duration::from_secs(10);
    let db = StateDb::open(path, options()).unwrap();
    fill(&db, rows);
    println!("seconds,commits,p50_ms,p99_ms,max_ms,level_0_runs,snapshots");
    let (start, mut all, mut steps, mut snapshots) = (Instant::now(), vec![], vec![], 0);
    while start.elapsed() < length {
        let number = steps.len() as u32 + 1;
        if number % 2 == 1 {
            db.snapshot().unwrap();
            snapshots += 1;
        }
        let mut latencies = Vec::new();
        while start.elapsed() < STEP * number {
            let version = db.version() + 1;
            let set = [change_set(&block(version, 1_000, rows))];
            latencies.push(ms(timed(|| db.commit_block(version, &set).unwrap()).0));
        }
        let step = Step {
            seconds: (STEP * number).as_secs(),
            p50: median(latencies.clone()),
            p99: quantile(&latencies, 0.99),
            max: quantile(&latencies, 1.0),
        };
        let (commits, runs) = (latencies.len(), db.stats().engine.level_0_runs);
        let Step { seconds, p50, p99, max } = step;
        println!("{seconds},{commits},{p50:.2},{p99:.2},{max:.2},{runs},{snapshots}");
        steps.push(step);
        all.append(&mut latencies);
    }
    let (p50, p99) = (median(all.clone()), quantile(&all, 0.99));
    row(
        "commit of 1,000 keys beside compaction, p99",
        format!("{p99:.2} ms"),
        &format!("p50 {p50:.2} ms, worst {:.0} ms", quantile(&all, 1.0)),
        Some(p99 / p50),
    );
    if let Some(file) = chart_file {
        chart(Path::new(file), &steps).unwrap();
    }
    db.close().unwrap();
}

/// Draws the latencies of all steps, on a logarithmic scale.
fn chart(file: &Path, steps: &[Step]) -> Result<(), Box<dyn Error>> {
    let end = steps.last().map_or(0, |step| step.seconds);
    let lowest = steps.iter().map(|step| step.p50).fold(f64::INFINITY, f64::min);
    let highest = steps.iter().map(|step| step.max).fold(0.0, f64::max);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (900, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("commits of 1,000 keys, with flushes, compaction and snapshots", 18)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0..end, (lowest / 2.0..highest * 2.0).log_scale())?;
        chart.configure_mesh().x_desc("seconds").y_desc("milliseconds").draw()?;
        let latencies = |step: &Step| [step.max, step.p99, step.p50];
        for (n, (name, colour)) in
            [("worst", RED), ("p99", BLUE), ("p50", BLACK)].into_iter().enumerate()
        {
            let points = steps.iter().map(|step| (step.seconds, latencies(step)[n]));
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour);
            chart.draw_series(LineSeries::new(points, &colour))?.label(name).legend(legend);
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        area.present()?;
    }
    std::fs::write(file, text)?;
    Ok(())
}

fn main() {
    let is_latency = std::env::args().any(|arg| arg == "latency");
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("state");
    if is_latency {
        let length = Duration::from_secs(args.next().unwrap_or(600));
        let chart_file = std::env::args().find(|arg| arg.ends_with(".svg"));
        return latency(&path, length, args.next().unwrap_or(1_000_000), chart_file.as_deref());
    }
    let rows: u64 = args.next().unwrap_or(1_000_000);
    let blocks: u64 = args.next().unwrap_or(20);
    let db = StateDb::open(&path, options()).unwrap();
    let (time, ()) = timed(|| fill(&db, rows));
    println!("{rows} rows filled in {:.1} s", time.as_secs_f64());
    db.snapshot().unwrap().wait().unwrap();
    let StateStats { engine, .. } = db.stats();
    println!("working copy: {} files, {:.0} MB", engine.files, engine.disk_bytes as f64 / 1e6);

    let commit_rate = commits(dir.path(), &db, rows, blocks);
    small_commits(dir.path(), &db, rows);
    snapshots(dir.path(), &db, rows);
    commits_beside_snapshots(&db, rows);
    reads(&db, rows);

    db.close().unwrap();
    drop(db);
    let (wal, _) = timed(|| {
        Db::open_read_only(DbOptions::new([path.join("wal")]))
            .unwrap()
            .existing_table("wal")
            .unwrap()
    });
    let (time, db) = timed(|| StateDb::open(&path, options()).unwrap());
    assert_eq!(db.opened().replayed, 0);
    row(
        "reopen, nothing to replay",
        format!("{:.1} ms", ms(time)),
        &format!("log for reading {:.1} ms", ms(wal)),
        None,
    );
    let (time, view) = timed(|| {
        StateDb::view_only(&path, db.snapshots().unwrap().last().map(|s| s.version)).unwrap()
    });
    row("view of a snapshot, other handle", format!("{:.1} ms", ms(time)), "", None);
    drop(view);

    catch_up_and_rollback(dir.path(), db, rows, blocks, commit_rate);
}

/// Versions that were not flushed are replayed; then half of them are rolled back.
fn catch_up_and_rollback(dir: &Path, db: StateDb, rows: u64, blocks: u64, commit_rate: f64) {
    let path = dir.join("state");
    db.snapshot().unwrap().wait().unwrap();
    let (base, versions) = (db.version(), blocks * 10);
    let mut file = File::create(dir.join("log")).unwrap();
    let mut lens = Vec::new();
    for _ in 0..versions {
        let version = db.version() + 1;
        let changes = block(version, 1_000, rows);
        db.commit_block(version, &[change_set(&changes)]).unwrap();
        let record = raw_record(&changes);
        lens.push(record.len());
        file.write_all(&record).unwrap();
    }
    // Without a close: what is in the memtable is replayed.
    drop(db);
    let (time, db) = timed(|| StateDb::open(&path, options()).unwrap());
    let replayed = db.opened().replayed;
    let rate = (replayed * 1_000) as f64 / time.as_secs_f64();
    let raw = timed(|| {
        let mut file = File::open(dir.join("log")).unwrap();
        let mut raw_rows = Rows::new();
        for len in &lens {
            let mut record = vec![0; *len];
            file.read_exact(&mut record).unwrap();
            let mut at = 2_200;
            while at < record.len() {
                let key: [u8; KEY_LEN] = record[at + 1..at + 1 + KEY_LEN].try_into().unwrap();
                let has_value = record[at] == 1;
                at += 1 + KEY_LEN;
                if has_value {
                    raw_rows.insert(key, record[at..at + VALUE_LEN].try_into().unwrap());
                    at += VALUE_LEN;
                }
            }
        }
        black_box(raw_rows.len())
    });
    let raw_rate = (versions * 1_000) as f64 / raw.0.as_secs_f64();
    let against = format!("commit_block {:.0} k, raw {:.0} k", commit_rate / 1e3, raw_rate / 1e3);
    let name = format!("catch-up, {replayed} versions x 1,000 keys");
    row(&name, format!("{:.0} k ops/s", rate / 1e3), &against, Some(rate / commit_rate));
    let target = base + versions / 2;
    let (time, db) = timed(|| db.rollback_to(target).unwrap());
    assert_eq!(db.version(), target);
    let name = format!("rollback by {} versions x 1,000 keys", versions - versions / 2);
    let replayed = db.opened().replayed;
    row(&name, format!("{:.0} ms", ms(time)), &format!("replays {replayed} versions"), None);
    db.close().unwrap();
}
