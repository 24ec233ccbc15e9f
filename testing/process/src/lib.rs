//! Support for the end-to-end tests, shared with the process that they start and kill (`crashy`):
//! the patterns written, reproducible random numbers, child processes, failing system calls,
//! inspection of files without the engine, and skipping of tests that cannot run on this machine.

#![allow(clippy::expect_used, clippy::panic, reason = "test support stops the test")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests use real files and real processes"
)]

mod child;
mod files;
mod inject;
mod pattern;
mod rng;
mod skip;
mod tagged;

pub use child::Crashy;
pub use files::{check_files, files_below, newest_key_file, scratch, segment_dirs};
pub use inject::{Fault, Run, RunResult, can_trace, sample_of};
pub use pattern::{
    Kind, Op, OpEntry, db_options, plain_options, short_lived_options, stress_options, ttl_options,
};
pub use rng::Rng;
pub use skip::skip_or_fail;
pub use tagged::{put_tagged, summarize_view, tagged_key, tagged_seq, tagged_value, writer_of};
