//! Shared by the benchmarks: medians, timing, incompressible bytes, and the plain file writer that
//! every figure is compared with.

use std::time::{Duration, Instant};

use lithdb_env::{File, write_all_at};

/// The median of several measurements (the upper one of an even number).
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The time `work` takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Bytes that do not compress and differ by `seed`.
pub fn incompressible(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Appends `buf` to the file and returns the offset it was written at.
pub fn append(file: &dyn File, buf: &[u8]) -> std::io::Result<u64> {
    let offset = file.len()?;
    write_all_at(file, buf, offset)?;
    Ok(offset)
}
