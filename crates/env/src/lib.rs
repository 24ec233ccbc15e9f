//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! The only access path to the disk, the clock and threads.
//!
//! All other crates reach them through [`Env`], so that tests can substitute an in-memory file
//! system and a simulated clock, and inject a crash or a failure at every operation. This crate
//! knows nothing of segments or tables. It adds what every caller needs and must not reimplement:
//! loops over short and interrupted transfers, atomic replacement of whole files, budgets, the
//! failure latch.

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

/// The environment: file system, clock and threads. Cheap to clone; shared by everything in a
/// database.
#[derive(Debug, Clone)]
pub struct Env {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// The clock and random source.
    pub clock: Arc<dyn Clock>,
    /// Threads for syncs and seals.
    pub pool: Arc<Pool>,
    /// Resource budgets. Hidden: a database overrides them from its options.
    #[doc(hidden)]
    pub budgets: Budgets,
}

impl Env {
    /// `fs` and `clock`, with `threads` threads for syncs and seals; with 0, they run on the
    /// calling thread.
    ///
    /// # Errors
    /// `Io` if a thread cannot be started.
    pub fn new(fs: Arc<dyn Fs>, clock: Arc<dyn Clock>, threads: usize) -> Result<Self> {
        let pool = Pool::new(threads).map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("start {threads} threads: {e}"), e)
        })?;
        Ok(Self { fs, clock, pool: Arc::new(pool), budgets: Budgets::default() })
    }

    /// As [`new`](Self::new), with the operating system's file system and clock.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn os(threads: usize) -> Result<Self> {
        Self::new(Arc::new(OsFs), Arc::new(OsClock), threads)
    }

    /// The same environment with these budgets enforced. Hidden.
    #[doc(hidden)]
    #[must_use]
    pub fn with_budgets(self, budgets: Budgets) -> Self {
        let fs = Arc::new(budget::CountedFs { fs: self.fs, budgets: budgets.clone() });
        Self { fs, budgets, ..self }
    }

    /// A random number.
    ///
    /// # Errors
    /// `Io` if the clock's random source fails.
    pub fn random_u64(&self) -> Result<u64> {
        self.clock.random_u64().map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("read from the random source: {e}"), e)
        })
    }
}
