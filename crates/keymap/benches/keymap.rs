//! Compares the keymap with `HashMap<u64, u64>`: inserts, hits, misses, resident memory per key.
//!
//! `cargo bench -p lithdb-keymap -- 10000000` sets the number of keys (or the variable
//! `KEYMAP_BENCH_KEYS`; default one million). Rates are medians of five rounds in which the two
//! alternate.

use std::collections::HashMap;
use std::env;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use lithdb_env::human::parsed;
use lithdb_env::{Fs, OpenMode, OsFs, Result, read_up_to_at};
use lithdb_keymap::{Candidates, KeyHash, Keymap, MemoryKeymap};
use lithdb_segment::{Position, SegmentId};

const ROUNDS: usize = 5;
/// Keys per `insert_batch`.
const BATCH: usize = 1 << 16;

/// The `n`th pseudo-random number: the same keys for both, without storing them.
fn key(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

const fn position(n: u64) -> Position {
    Position::new(SegmentId(1 + (n >> 20) as u32), n as u32)
}

/// Nanoseconds per key.
fn timed(keys: u64, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / keys as f64
}

#[expect(clippy::unwrap_used, reason = "a benchmark without this figure is none")]
fn resident_bytes() -> u64 {
    // Files in /proc report no length, so it is read up to a limit.
    let file = OsFs.open(Path::new("/proc/self/status"), OpenMode::Read).unwrap();
    let mut buf = vec![0; 1 << 16];
    let len = read_up_to_at(&*file, &mut buf, 0).unwrap();
    buf.truncate(len);
    let status = String::from_utf8_lossy(&buf);
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| parsed::<u64>(rest.split_whitespace().next()?));
    kib.unwrap_or(0) * 1024
}

/// A hasher that returns a random number unchanged: the fastest possible map.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// Nanoseconds per key, for the measurements in [`NAMES`].
type Row = [f64; 5];
const NAMES: [&str; 5] = ["insert", "hit", "miss", "insert_batch", "reserved batch"];

fn keymap_round(keys: u64) -> Result<Row> {
    let keymap = MemoryKeymap::new();
    let mut failure = Ok(());
    let insert = timed(keys, || {
        for n in 0..keys {
            let result = keymap.insert(KeyHash(key(n)), position(n), &mut |_| Ok(false));
            failure = failure.clone().and(result);
        }
    });
    failure?;
    let mut out = Candidates::new();
    let mut hits = 0;
    let hit = timed(keys, || {
        for n in 0..keys {
            keymap.candidates(KeyHash(key(n)), &mut out);
            hits += u64::from(out.contains(&position(n)));
        }
    });
    let mut false_hits = 0;
    let miss = timed(keys, || {
        for n in keys..2 * keys {
            keymap.candidates(KeyHash(key(n)), &mut out);
            false_hits += out.len();
        }
    });
    assert_eq!(hits, keys);
    black_box(false_hits);
    drop(keymap);

    Ok([insert, hit, miss, batches(keys, 0)?, batches(keys, keys as usize)?])
}

/// Inserts like a rebuild, after reserving room for `reserved` keys.
fn batches(keys: u64, reserved: usize) -> Result<f64> {
    let keymap = MemoryKeymap::new();
    let mut items = Vec::with_capacity(BATCH);
    let mut outcome = Ok(());
    let batch = timed(keys, || {
        keymap.reserve(reserved);
        for from in (0..keys).step_by(BATCH) {
            let to = keys.min(from + BATCH as u64);
            items.clear();
            items.extend((from..to).map(|n| (KeyHash(key(n)), position(n))));
            outcome = outcome.clone().and(keymap.insert_batch(&items, &mut |_, _| Ok(false)));
        }
    });
    outcome.map(|()| batch)
}

fn map_round<S: BuildHasher + Default>(keys: u64) -> Row {
    let mut map: HashMap<u64, u64, S> = HashMap::default();
    let insert = timed(keys, || {
        for n in 0..keys {
            map.insert(key(n), n);
        }
    });
    let mut hits = 0;
    let hit = timed(keys, || {
        (0..keys).for_each(|n| hits += u64::from(map.get(&key(n)) == Some(&n)));
    });
    let mut false_hits = 0;
    let miss = timed(keys, || {
        (keys..2 * keys).for_each(|n| false_hits += u64::from(map.contains_key(&key(n))));
    });
    assert_eq!(hits, keys);
    black_box(false_hits);
    [insert, hit, miss, insert, insert]
}

/// Resident and accounted bytes per key, starting from an empty process.
fn memory(keys: u64) -> Result<()> {
    let before = resident_bytes();
    let keymap = MemoryKeymap::new();
    for n in 0..keys {
        keymap.insert(KeyHash(key(n)), position(n), &mut |_| Ok(false))?;
        if (n + 1) % (keys / 8).max(1) == 0 {
            println!(
                "{:>12} keys: {:5.1} bytes resident, {:5.1} accounted per key",
                n + 1,
                resident_bytes().saturating_sub(before) as f64 / (n + 1) as f64,
                keymap.memory_bytes() as f64 / (n + 1) as f64,
            );
        }
    }
    Ok(())
}

fn medians(rows: Vec<Row>) -> Row {
    let mut medians = [0.0; 5];
    for (column, median) in medians.iter_mut().enumerate() {
        let mut values: Vec<f64> = rows.iter().filter_map(|row| row.get(column).copied()).collect();
        values.sort_by(f64::total_cmp);
        *median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    }
    medians
}

fn main() -> Result<()> {
    let given = env::args().skip(1).chain(env::var("KEYMAP_BENCH_KEYS"));
    let keys = given.filter_map(|text| parsed(&text)).next().unwrap_or(1_000_000);
    memory(keys)?;
    let (mut ours, mut std_map, mut identity) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(keymap_round(keys)?);
        std_map.push(map_round::<RandomState>(keys));
        identity.push(map_round::<BuildHasherDefault<Identity>>(keys));
    }
    println!(
        "{keys} keys, nanoseconds each, medians of {ROUNDS}; ratio above 1: the keymap is faster"
    );
    println!("{:14} {:>8} {:>16} {:>16}", "", "keymap", "HashMap", "unhashed HashMap");
    let maps = medians(std_map).into_iter().zip(medians(identity));
    for ((name, ours), (std_map, identity)) in NAMES.into_iter().zip(medians(ours)).zip(maps) {
        println!(
            "{name:14} {ours:8.1} {std_map:8.1} ({:4.2}x) {identity:8.1} ({:4.2}x)",
            std_map / ours,
            identity / ours,
        );
    }
    Ok(())
}
