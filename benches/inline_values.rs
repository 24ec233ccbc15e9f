//! Should a small value be stored inline, after its key in the key file? The measurement behind
//! the format's decision.
//!
//! Three layouts write the same keys and values durably, alternating, with one sync per put, and
//! the same puts with one sync per 4 MiB; then keys are scanned as a keymap rebuild does, and
//! values are read at random:
//! * `inline`: record and value in one file, one sync;
//! * `apart`: record in one file, value in another, both synced at the same time;
//! * `apart, in turn`: the same, one sync after the other.
//!
//! `cargo bench -p lithdb-benches --bench inline_values`

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Instant;

use lithdb_benches::{incompressible, median, timed};
use lithdb_env::{Env, File, write_all_at};

const RECORD: usize = 64; // a 32-byte key and the fields before it
const ROUNDS: usize = 5;

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Inline,
    Apart,
    InTurn,
}

struct Files {
    keys: Arc<dyn File>,
    values: Arc<dyn File>,
    key_end: u64,
    value_end: u64,
}

impl Files {
    fn create(env: &Env, dir: &std::path::Path, name: &str) -> Self {
        let keys = env.fs.create_new(&dir.join(format!("{name}.keys"))).unwrap();
        let values = env.fs.create_new(&dir.join(format!("{name}.values"))).unwrap();
        keys.allocate(0, 256 << 20).unwrap();
        values.allocate(0, 256 << 20).unwrap();
        env.fs.sync_dir(dir).unwrap();
        Self { keys, values, key_end: 0, value_end: 0 }
    }

    /// Appends `count` records of `value` in one write to each file.
    fn append(&mut self, layout: Layout, value: &[u8], count: usize) {
        let mut keys = Vec::with_capacity(count * (RECORD + value.len()));
        let mut values = Vec::with_capacity(count * value.len());
        for n in 0..count {
            keys.extend_from_slice(&[n as u8; RECORD]);
            if layout == Layout::Inline { &mut keys } else { &mut values }.extend_from_slice(value);
        }
        write_all_at(&*self.keys, &keys, self.key_end).unwrap();
        self.key_end += keys.len() as u64;
        if !values.is_empty() {
            write_all_at(&*self.values, &values, self.value_end).unwrap();
            self.value_end += values.len() as u64;
        }
    }

    fn sync(&self, env: &Env, layout: Layout) {
        match layout {
            Layout::Inline => self.keys.sync_data().unwrap(),
            Layout::InTurn => {
                self.values.sync_data().unwrap();
                self.keys.sync_data().unwrap();
            }
            Layout::Apart => {
                let tasks: Vec<_> = [&self.keys, &self.values]
                    .map(|file| {
                        let file = Arc::clone(file);
                        move || {
                            file.sync_data().unwrap();
                            Ok(())
                        }
                    })
                    .into_iter()
                    .collect();
                env.pool.run_all(tasks).unwrap();
            }
        }
    }
}

fn main() {
    let env = Env::os(2).unwrap();
    let dir = tempfile::tempdir_in(".").unwrap();
    println!(
        "value size | durable put p50, us: inline apart in-turn | bulk, MB/s: inline apart | key scan, M/s: inline apart"
    );
    for size in [64_usize, 256, 512, 1024, 2048, 4096] {
        let value = incompressible(7, size);
        let layouts = [Layout::Inline, Layout::Apart, Layout::InTurn];
        let mut p50 = [const { Vec::new() }; 3];
        let mut bulk = [const { Vec::new() }; 2];
        let mut scan = [const { Vec::new() }; 2];
        for round in 0..ROUNDS {
            for (n, layout) in layouts.into_iter().enumerate() {
                let mut files = Files::create(&env, dir.path(), &format!("{size}-{round}-{n}"));
                let times = (0..200).map(|_| {
                    let start = Instant::now();
                    files.append(layout, &value, 1);
                    files.sync(&env, layout);
                    start.elapsed().as_secs_f64() * 1e6
                });
                p50[n].push(median(times.collect()));
                if n == 2 {
                    continue;
                }
                let per_sync = (4 << 20) / (size + RECORD);
                let (time, ()) = timed(|| {
                    for _ in 0..16 {
                        files.append(layout, &value, per_sync);
                        files.sync(&env, layout);
                    }
                });
                bulk[n].push((16 * per_sync * size) as f64 / 1e6 / time.as_secs_f64());
                let map = files.keys.map(files.key_end, Default::default()).unwrap();
                let bytes = map.bytes(0, files.key_end as usize).unwrap();
                let step = if layout == Layout::Inline { RECORD + size } else { RECORD };
                let (time, sum) = timed(|| {
                    bytes
                        .chunks_exact(step)
                        .fold(0_u32, |sum, r| sum ^ crc32c::crc32c(&r[..RECORD]))
                });
                std::hint::black_box(sum);
                scan[n].push((bytes.len() / step) as f64 / 1e6 / time.as_secs_f64());
            }
        }
        let [a, b, c] = p50.map(median);
        let [d, e] = bulk.map(median);
        let [f, g] = scan.map(median);
        println!("{size:>10} | {a:>8.1} {b:>8.1} {c:>8.1} | {d:>8.0} {e:>8.0} | {f:>8.1} {g:>8.1}");
    }
}
