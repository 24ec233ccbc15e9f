//! Options of a state store, and the components that replace its defaults.

use std::sync::Arc;
use std::time::Duration;

use lithdb::{DuplicateKeys, Table, TableOptions, Ttl};
use lithdb_env::{Env, Error, ErrorKind, Result, human};
use lithdb_state_engine::Engines;
use serde::{Deserialize, Serialize};

use crate::event::StateListener;
use crate::wal::WalFloor;

/// How a state store works. Plain data: it can be written in TOML or JSON.
///
/// ```
/// use lithdb_state::{Durability, StateOptions};
///
/// let options = StateOptions::new().snapshot_interval(1_000).durability(Durability::OnFlush);
/// assert_eq!(options.keep_snapshots, 2);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StateOptions {
    /// Create the store if there is none. Default: true.
    pub create_if_missing: bool,
    /// The first version that is committed to a store that is created. Default: 1.
    pub initial_version: u64,
    /// When a commit is durable. Default: every commit.
    pub durability: Durability,
    /// Versions between two snapshots; 0 takes them on demand only. Default: 10,000.
    pub snapshot_interval: u64,
    /// How many snapshots are kept beside the newest. Default: 2.
    pub keep_snapshots: usize,
    /// Who removes snapshots and truncates the log. Default: the store, by their number.
    pub retention: Retention,
    /// The size of the memtable that is flushed, in bytes. Default: 64 MiB.
    #[serde(with = "human")]
    pub memtable_bytes: u64,
    /// The block cache of the working copy, in bytes. Default: 256 MiB.
    #[serde(with = "human")]
    pub cache_bytes: u64,
    /// How much a view of a past version may replay in memory, in bytes. What takes more is
    /// replayed in a clone in the directory `views`, which is removed before the view is returned.
    /// Default: 256 MiB.
    #[serde(with = "human")]
    pub view_memory_bytes: u64,
    /// The largest commit, in bytes of its log record. Default: 1 GiB.
    #[serde(with = "human")]
    pub max_commit_bytes: u64,
    /// Commits wait for compaction when a read would look into more sorted runs than this.
    /// Default: 20.
    pub stall_l0_runs: usize,
    /// Threads that read old values and hash; 0 is one per core. Default: 0.
    pub hash_threads: usize,
    /// Whether closing flushes the working copy, so that the next open replays nothing. Default:
    /// true.
    pub flush_on_close: bool,
    /// Options of the log's table, if the store has its own. Default: segments of 64 MiB.
    pub wal: TableOptions,
}

/// When a commit survives a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Before `commit` returns.
    EveryCommit,
    /// With the next [`flush`](crate::StateDb::flush), at the latest when the working copy is
    /// flushed. A crash may lose the newest commits, never one in the middle.
    OnFlush,
}

/// Who removes old snapshots and, with them, the log's oldest versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Retention {
    /// The store keeps [`keep_snapshots`](StateOptions::keep_snapshots) beside the newest.
    Count,
    /// The application, by [`prune_snapshots_below`](crate::StateDb::prune_snapshots_below).
    Manual,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            create_if_missing: true,
            initial_version: 1,
            durability: Durability::EveryCommit,
            snapshot_interval: 10_000,
            keep_snapshots: 2,
            retention: Retention::Count,
            memtable_bytes: 64 << 20,
            cache_bytes: 256 << 20,
            view_memory_bytes: 256 << 20,
            max_commit_bytes: 1 << 30,
            stall_l0_runs: 20,
            hash_threads: 0,
            flush_on_close: true,
            wal: TableOptions::new().segment_bytes(64 << 20).duplicate_keys(DuplicateKeys::Reject),
        }
    }
}

/// Setters of the same name as the fields they set.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        impl StateOptions {
            $($(#[$doc])* #[must_use] pub fn $name(mut self, $name: $type) -> Self {
                self.$name = $name;
                self
            })*
        }
    };
}

setters! {
    /// Sets [`create_if_missing`](Self::create_if_missing).
    create_if_missing: bool,
    /// Sets [`initial_version`](Self::initial_version).
    initial_version: u64,
    /// Sets [`durability`](Self::durability).
    durability: Durability,
    /// Sets [`snapshot_interval`](Self::snapshot_interval), in versions.
    snapshot_interval: u64,
    /// Sets [`keep_snapshots`](Self::keep_snapshots).
    keep_snapshots: usize,
    /// Sets [`retention`](Self::retention).
    retention: Retention,
    /// Sets [`memtable_bytes`](Self::memtable_bytes).
    memtable_bytes: u64,
    /// Sets [`cache_bytes`](Self::cache_bytes).
    cache_bytes: u64,
    /// Sets [`view_memory_bytes`](Self::view_memory_bytes).
    view_memory_bytes: u64,
    /// Sets [`max_commit_bytes`](Self::max_commit_bytes).
    max_commit_bytes: u64,
    /// Sets [`stall_l0_runs`](Self::stall_l0_runs).
    stall_l0_runs: usize,
    /// Sets [`hash_threads`](Self::hash_threads).
    hash_threads: usize,
    /// Sets [`flush_on_close`](Self::flush_on_close).
    flush_on_close: bool,
    /// Sets [`wal`](Self::wal).
    wal: TableOptions,
}

impl StateOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses options that cannot work.
    ///
    /// # Errors
    /// `InvalidArgument` names the option, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        self.wal.validate()?;
        let refuse = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
        if self.initial_version == 0 {
            return refuse("initial_version is 0; expected at least 1".to_owned());
        }
        if self.memtable_bytes == 0 {
            return refuse("memtable_bytes is 0; expected at least 1".to_owned());
        }
        if self.max_commit_bytes > MAX_COMMIT_BYTES {
            let (found, limit) = (self.max_commit_bytes, MAX_COMMIT_BYTES);
            return refuse(format!("max_commit_bytes is {found}; expected at most {limit}"));
        }
        if matches!(self.wal.ttl, Ttl::After(_)) {
            return refuse("wal.ttl is set; expected none: the store truncates its log".to_owned());
        }
        if self.stall_l0_runs < 2 {
            let found = self.stall_l0_runs;
            return refuse(format!("stall_l0_runs is {found}; expected at least 2"));
        }
        Ok(())
    }
}

/// The largest log record: a value of a LithDB table has a length of 32 bits.
const MAX_COMMIT_BYTES: u64 = u32::MAX as u64 - 1;

/// What a state store is built from. The default is right for an application that has no database
/// of its own.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct StateComponents {
    /// File system, clock and threads. Default: those of the operating system.
    pub env: Option<Env>,
    /// The engine of the working copy. Default: [`LsmEngines`](lithdb_state_engine::LsmEngines).
    pub engines: Option<Arc<dyn Engines>>,
    /// Where the log is. Default: a database of the store's own.
    pub wal: Wal,
    /// Receives events. Default: nobody.
    pub listener: StateListener,
    /// Start no threads: the caller of a commit, a snapshot or a flush does the work that they
    /// cause, before the call returns. For simulations. Default: false.
    pub without_background: bool,
}

/// Where the log of a state store is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Wal {
    /// In a database of the store's own, in its directory `wal`.
    #[default]
    Own,
    /// In a table of the application's database, so that one rollback of that database rolls back
    /// the state with everything else.
    Table {
        /// The table. Nobody else puts into it.
        table: Table,
        /// What the store says may be collected: its filter must be the table's. See
        /// [`WalFloor`].
        floor: WalFloor,
    },
}

/// Attempts to repeat a flush that a full disk stopped, in this interval.
pub(crate) const RETRY_FLUSH_AFTER: Duration = Duration::from_secs(1);
