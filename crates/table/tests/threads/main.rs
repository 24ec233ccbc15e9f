//! Models of the table's threads: the table's own code over the simulated disk, under schedules
//! that a model checker chooses.
//!
//! Empty unless built for it:
//!
//! ```sh
//! RUSTFLAGS="--cfg lithdb_shuttle" cargo test --release -p lithdb-table --test threads --target-dir target/shuttle
//! ```
//!
//! Every lock, condition variable, atomic and thread of the crates `env`, `segment`, `keymap` and
//! `table` is then one of the model checker (`crates/env/src/sync.rs`), and so is the moment
//! before each change of the disk. `LITHDB_EFFORT` multiplies the schedules, `LITHDB_SEED` seeds
//! them. A failing schedule is printed; `LITHDB_SCHEDULE=<it>` with the name of the test replays
//! it. Not modelled: orderings weaker than `SeqCst`, spurious wake-ups, and readers in other
//! processes.

#![cfg(lithdb_shuttle)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod closing;
mod collecting;
mod failing;
mod flushing;
mod harness;
#[path = "../support/hook.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)] // the other tests use more of it
mod hook;
mod keymap;
mod large;
mod sealing;
mod search;
