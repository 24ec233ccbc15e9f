//! Measures the set hash: microseconds per element, and per sum and digest of vectors.
//!
//! `cargo bench -p lithdb-lthash` measures portable code; `--no-default-features` BLAKE3's
//! assembly, which is faster only with AVX-512. `-- 1000000` sets the number of elements (or the
//! variable `LTHASH_BENCH_ELEMENTS`; default 200,000). Medians of five rounds; the last column
//! compares with BLAKE3-256 of the same input, measured in the same round.

use std::env;
use std::hint::black_box;
use std::time::Instant;

use lithdb_lthash::LtHash;

#[expect(clippy::disallowed_methods, reason = "only the text can fail to parse")]
fn parsed(text: &str) -> Option<u64> {
    text.parse().ok()
}

const ROUNDS: usize = 5;
/// The lengths of keys and values in the measurements of the state store.
const KEY_LEN: usize = 57;
const VALUE_LEN: usize = 64;

/// Microseconds each, for the measurements in [`NAMES`].
type Row = [f64; 6];
const NAMES: [&str; 6] = ["BLAKE3-256", "of", "add_pair", "remove_pair", "add", "root"];

/// Calls `work` with 0 to `count` and returns the microseconds of a call.
fn timed(count: u64, mut work: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(&mut work);
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// The `n`th pair: other bytes for each, without storing them.
fn pair(n: u64) -> ([u8; KEY_LEN], [u8; VALUE_LEN]) {
    let (mut key, mut value) = ([b'k'; KEY_LEN], [b'v'; VALUE_LEN]);
    key[..8].copy_from_slice(&n.to_le_bytes());
    value[..8].copy_from_slice(&n.to_le_bytes());
    (key, value)
}

fn round(elements: u64) -> Row {
    let plain = timed(elements, |n| {
        let (key, value) = pair(n);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key).update(&value);
        black_box(hasher.finalize());
    });
    let of = timed(elements, |n| {
        let (key, value) = pair(n);
        black_box(LtHash::of(&key, &value));
    });
    let mut hash = LtHash::default();
    let add_pair = timed(elements, |n| {
        let (key, value) = pair(n);
        hash.add_pair(&key, &value);
    });
    let remove_pair = timed(elements, |n| {
        let (key, value) = pair(n);
        hash.remove_pair(&key, &value);
    });
    assert!(hash.is_empty());
    let element = LtHash::of(b"key", b"value");
    let add = timed(elements, |_| black_box(&mut hash).add(black_box(&element)));
    let root = timed(elements, |_| {
        black_box(black_box(&hash).root());
    });
    [plain, of, add_pair, remove_pair, add, root]
}

fn main() {
    let given = env::args().skip(1).chain(env::var("LTHASH_BENCH_ELEMENTS"));
    let elements = given.filter_map(|text| parsed(&text)).next().unwrap_or(200_000);
    let mut rounds: [Vec<f64>; NAMES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (values, value) in rounds.iter_mut().zip(round(elements)) {
            values.push(value);
        }
    }
    let build = if cfg!(feature = "pure") { "portable" } else { "assembly" };
    println!(
        "{elements} pairs of {KEY_LEN} + {VALUE_LEN} bytes, {build}, microseconds each, medians of {ROUNDS}"
    );
    let medians = rounds.map(median);
    let [plain, ..] = medians;
    for (name, median) in NAMES.into_iter().zip(medians) {
        println!("{name:12} {median:8.3} {:6.2}x", median / plain);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
