//! A disk and a clock in memory that crash and fail on demand: test support, never published.
//!
//! [`SimFs`] implements [`lithdb_env::Fs`] and keeps two images of everything: the *live* one, which
//! reads see, and the *durable* one, which only syncs advance. A crash makes a new file system from
//! the durable image and a choice for every operation that was not synced. The rules are those of
//! POSIX, not of one kind of file system: what no sync asked for may be lost, in any combination.
//!
//! The same calls in the same order give the same results: nothing here reads a clock, a random
//! source or an address.
//!
//! ```
//! use std::path::Path;
//! use lithdb_env::{Fs, write_all_at};
//! use lithdb_sim::{CrashImage, SimFs};
//!
//! let fs = SimFs::new();
//! let file = fs.create_new(Path::new("/a"))?;
//! write_all_at(&*file, b"never synced", 0)?;
//! fs.sync_dir(Path::new("/"))?;
//!
//! let after = fs.crash_with(&CrashImage::Nothing);
//! assert_eq!(after.read_raw("/a"), b"");
//! assert!(file.len().is_err(), "the old handles died with the old file system");
//! # Ok::<(), std::io::Error>(())
//! ```

mod choice;
mod clock;
mod corrupt;
mod crash;
mod crash_outcome;
mod device;
mod dir;
mod effort;
mod errno;
mod fault;
mod file;
mod freed;
mod fs;
mod inode;
mod lock;
mod namespace;
mod sector_history;
mod space;
mod trace;
mod tree;

use std::sync::Arc;

use lithdb_env::{Env, Pool};

pub use choice::{BytesChoice, Choice, ExhaustiveChoice, ScriptedChoice, SeededChoice};
pub use clock::SimClock;
pub use crash::CrashImage;
pub use effort::{Effort, Tally};
pub use fault::{Fault, Pages};
pub use fs::SimFs;
pub use trace::{OpKind, TraceOp};

/// A world of `fs` and `clock` whose pool runs every task in the caller, so that the order of
/// operations is the same in every run.
///
/// # Panics
/// Never: a pool without threads asks the system for nothing.
#[expect(clippy::expect_used, reason = "a pool of no threads cannot fail to start them")]
pub fn sim_env(fs: &SimFs, clock: &SimClock) -> Env {
    let pool = Pool::new(0).expect("a pool without threads");
    Env {
        fs: Arc::new(fs.clone()),
        clock: Arc::new(clock.clone()),
        pool: Arc::new(pool),
        budgets: Default::default(),
    }
}
