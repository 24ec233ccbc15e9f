//! Uses state stores for as long as you like, with processes that are killed, and compares every
//! answer with a model:
//!
//! ```sh
//! cargo run -p lithdb-state --example soak -- --minutes 10
//! ```
//!
//! One process commits, takes snapshots, prunes, rolls back, closes and opens; others read random
//! versions beside it, export them and import the exports. All are killed with SIGKILL at random
//! moments. After each death of the writer the store is opened and compared whole: its rows, root
//! and counts, its log, its snapshots, earlier versions. `--readers N` changes the number of
//! readers (2), `LITHDB_SEED` all choices but the moments of death. It ends with the counts of what
//! was done, or with the first answer that differs.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    unreachable_pub
)]

// The tests of processes: they run the same for a few seconds.
#[path = "../../tests/processes/child.rs"]
mod child;
#[path = "../../tests/processes/harness.rs"]
mod harness;
#[path = "../../tests/processes/history.rs"]
mod history;
#[path = "../../tests/processes/known.rs"]
mod known;
#[path = "../../tests/processes/reading.rs"]
mod reading;
#[path = "../../tests/processes/soak.rs"]
mod soak;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::Duration;

fn main() {
    if child::run_if_asked() {
        return;
    }
    let (mut minutes, mut readers) = (1.0_f64, 2_u64);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{option}: expected a number after it"));
        match &*option {
            "--minutes" => {
                minutes = value.parse().unwrap_or_else(|e| panic!("{option} {value}: {e}"))
            }
            "--readers" => {
                readers = value.parse().unwrap_or_else(|e| panic!("{option} {value}: {e}"))
            }
            _ => panic!("{option}: expected --minutes or --readers"),
        }
    }
    drop(soak::run(Duration::from_secs_f64(minutes * 60.0), readers));
}
