//! Writes values that expire soon, and collects all the time.

use std::path::PathBuf;
use std::time::Duration;

use lithdb::Db;
use lithdb_env::{Clock, OsClock};
use lithdb_process_tests::{Op, Rng, db_options, short_lived_options};

/// Runs from operation `next` on, until it is killed. `ack N T`: everything up to N is durable,
/// and N was put at T or later, in milliseconds since 1970. `collected N`: everything below N has
/// been collected, for good.
pub(crate) fn collect(incarnation: u64, ttl: Duration, mut next: u64, roots: &[PathBuf]) {
    let db = Db::open(db_options(roots).gc_interval(Duration::from_millis(7))).expect("open");
    let table = db.table("short", short_lived_options(ttl)).expect("table");
    let (mut rng, clock) = (Rng::of(&[incarnation, 78, next]), OsClock);
    println!("start {next}");
    loop {
        let at = clock.now();
        Op::new("short", incarnation, next).put(&table).expect("put");
        if rng.one_in(4) {
            table.flush().expect("flush");
            println!("ack {next} {}", at.0);
        }
        if rng.one_in(5) && table.run_gc().expect("gc").segments > 0 {
            let oldest = table.oldest_key().expect("oldest");
            println!("collected {}", oldest.map_or(next, |key| Op::seq_of(&key).expect("a key")));
        }
        if rng.one_in(40) {
            std::thread::sleep(Duration::from_millis(5));
        }
        next += 1;
    }
}
