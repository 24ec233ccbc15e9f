//! The only door to the disk, the clock and threads.
//!
//! Everything above reaches them through [`Env`], so that tests can put a file system in memory and
//! a clock of their own in their place, and crash or fail at every single operation. This crate knows
//! nothing of segments or tables; it adds what every caller needs and must not get wrong alone:
//! loops over short and interrupted transfers, replacement of whole files, the failure latch.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("LithDB supports Linux on 64-bit little-endian machines");

mod budget;
mod clock;
mod error;
mod fs;
pub mod human;
mod latch;
pub mod lossy;
mod mmap;
mod os;
mod pool;
mod replace;
pub mod sync;
mod user_files;

use std::sync::Arc;

pub use budget::{Budget, Budgets, Permit, Reclaim};
pub use clock::{Clock, OsClock, UnixMillis, millis};
pub use error::{Error, ErrorKind, Result};
pub use fs::{
    DirEntry, File, FileKind, FileLock, Fs, LockKind, Map, Metadata, OpenMode, exists, exists_as,
    read_exact_at, read_file, read_up_to, read_up_to_at, write_all_at, wrong_kind, zeroed,
};
pub use latch::Latch;
pub use os::{OsFs, max_map_count, raise_file_limit};
pub use pool::{Pool, spawn};
pub use replace::{
    LEFTOVER_SUFFIX, leftover_of, remove_best_effort, remove_if_exists, replace_file,
    replacement_path, sync_parent,
};

/// The world a database lives in: cheap to clone, shared by everything that is open.
#[derive(Debug, Clone)]
pub struct Env {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// The clock and random source.
    pub clock: Arc<dyn Clock>,
    /// Threads for syncs and seals.
    pub pool: Arc<Pool>,
    /// How much may be held at a time.
    pub budgets: Budgets,
}

impl Env {
    /// The operating system, with `threads` threads for syncs and seals.
    pub fn os(threads: usize) -> Result<Self> {
        let pool = Pool::new(threads).map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("start {threads} threads: {e}"), e)
        })?;
        let clock = Arc::new(OsClock);
        Ok(Self { fs: Arc::new(OsFs), clock, pool: Arc::new(pool), budgets: Budgets::default() })
    }

    /// The same world, in which no more is held at a time than the budgets allow.
    #[must_use]
    pub fn with_budgets(self, budgets: Budgets) -> Self {
        let fs = Arc::new(budget::CountedFs { fs: self.fs, budgets: budgets.clone() });
        Self { fs, budgets, ..self }
    }

    /// A random number.
    pub fn random_u64(&self) -> Result<u64> {
        self.clock.random_u64().map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("read the random source: {e}"), e)
        })
    }
}
