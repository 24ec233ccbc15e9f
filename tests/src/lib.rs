//! What the end-to-end tests share with the process that they start and kill (`crashy`): the pattern that is
//! written, random numbers that come again, and the way in which a test says that it cannot run here.

#![allow(clippy::expect_used, clippy::panic, reason = "test support stops the test")]

mod pattern;
mod rng;
mod skip;

pub use pattern::{Kind, Op, OpEntry, aged_options, db_options, plain_options};
pub use rng::Rng;
pub use skip::cannot_run;
