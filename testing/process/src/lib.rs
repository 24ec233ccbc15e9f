//! What the end-to-end tests share with the process that they start and kill (`crashy`): the patterns that are
//! written, random numbers that come again, children that are talked to, system calls that fail, files looked at without
//! the engine, and the way in which a test says that it cannot run here.

#![allow(clippy::expect_used, clippy::panic, reason = "test support stops the test")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real files and real processes are what is tested"
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
