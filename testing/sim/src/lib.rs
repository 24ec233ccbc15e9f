//! A disk and a clock in memory that crash and fail on demand: test support, never published.
//!
//! [`SimFs`] implements [`lithdb_env::Fs`] and keeps two images of every file and directory: the
//! *live* image, which reads see, and the *durable* image, which only syncs advance. A crash
//! builds a new file system from the durable image and one decision for every unsynced operation.
//! The rules are those of POSIX, not of one particular file system: anything that no sync has
//! covered may be lost, in any combination.
//!
//! The simulation is deterministic: the same calls in the same order give the same results.
//! Nothing here reads a clock, a random source or an address.
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
//! assert!(file.len().is_err(), "a crash invalidates the handles of the old file system");
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

/// An environment of `fs` and `clock` whose pool runs every task in the caller, so that every run
/// has the same order of operations.
///
/// # Panics
/// Never: a pool without threads allocates no system resources.
#[expect(clippy::expect_used, reason = "a pool without threads starts none and cannot fail")]
pub fn sim_env(fs: &SimFs, clock: &SimClock) -> Env {
    let pool = Pool::new(0).expect("a pool without threads");
    Env {
        fs: Arc::new(fs.clone()),
        clock: Arc::new(clock.clone()),
        pool: Arc::new(pool),
        budgets: Default::default(),
    }
}
