//! The options of a database: plain data, validated once when the database is opened; and its
//! components, which are not data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lithdb_env::{Env, Error, ErrorKind, Result, human};
use lithdb_segment::ReadMode;
use lithdb_table::{EventListener, KeymapKind};
use serde::{Deserialize, Serialize};

/// The options of a database. Plain data: read them from a file, or set them one by one. In TOML
/// and JSON, durations and sizes are written as `"30 days"` and `"64 MiB"`, or as numbers of
/// seconds and bytes; `None` is written `"never"`.
///
/// ```
/// use lithdb::{DbOptions, ReadMode};
/// let options = DbOptions::new(["./data"]).read_mode(ReadMode::Pread).max_open_files(64);
/// assert!(options.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DbOptions {
    /// The root directories; values are distributed over them. The order does not matter once the
    /// database exists.
    pub roots: Vec<PathBuf>,
    /// Create the database if there is none. Default: true.
    pub create_if_missing: bool,
    /// The keymap of tables that do not choose one. Default: in memory.
    pub keymap: KeymapKind,
    /// How files are read: mapped (zero-copy; an unreadable page raises SIGBUS) or by positional
    /// reads (an error instead). Default: mapped.
    pub read_mode: ReadMode,
    /// Maximum number of open file descriptors of any kind: segment files, state files, locks.
    /// Idle files are closed and reopened when needed. 1 to 1,000,000, default 512; at least a few
    /// dozen and at most three quarters of the process limit (`ulimit -n`) are used.
    pub max_open_files: usize,
    /// Maximum number of file mappings, held by the database and by values. 1 to 1,000,000,
    /// default 16,384, at most three quarters of `vm.max_map_count`.
    pub max_mappings: usize,
    /// Total size of the write buffers of all tables, in bytes. At least 1 MiB, default 256 MiB.
    #[serde(with = "human")]
    pub write_buffer_bytes: u64,
    /// How long a flush waits for others to join it. 0 to 1 s, default 0: callers that arrive
    /// during a sync share the next one.
    #[serde(with = "human")]
    pub flush_coalesce: Duration,
    /// Flush a table automatically when about this many of its bytes are not durable. Default: 256
    /// MiB; `None`: never.
    #[serde(with = "human::or_never")]
    pub flush_bytes: Option<u64>,
    /// Flush a table automatically when data has been non-durable for about this long. Default:
    /// `None`, never.
    #[serde(with = "human::or_never")]
    pub flush_after: Option<Duration>,
    /// Idle time, without a put, after which a table writes its mark. Default: 1 s.
    #[serde(with = "human")]
    pub idle_after: Duration,
    /// Interval between collections. At least 1 ms, default 10 s.
    #[serde(with = "human")]
    pub gc_interval: Duration,
    /// How far the wall clock may be ahead after downtime and still be trusted. Default: 24 h.
    #[serde(with = "human")]
    pub clock_jump_limit: Duration,
    /// How long a wall clock that jumped must run steadily before it is trusted again. Default: 1
    /// h.
    #[serde(with = "human")]
    pub clock_jump_hold: Duration,
    /// Threads for syncs and seals, shared by all tables. 0 to 256 (0: syncs run sequentially on
    /// the calling thread), default 4.
    pub io_threads: usize,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            create_if_missing: true,
            keymap: KeymapKind::Memory,
            read_mode: ReadMode::Map,
            max_open_files: 512,
            max_mappings: 16_384,
            write_buffer_bytes: 256 << 20,
            flush_coalesce: Duration::ZERO,
            flush_bytes: Some(256 << 20),
            flush_after: None,
            idle_after: Duration::from_secs(1),
            gc_interval: Duration::from_secs(10),
            clock_jump_limit: Duration::from_secs(24 * 3600),
            clock_jump_hold: Duration::from_secs(3600),
            io_threads: 4,
        }
    }
}

impl DbOptions {
    /// The defaults for a database in these root directories.
    pub fn new(roots: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { roots: roots.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets whether [`Db::open`](crate::Db::open) creates a database that does not exist. Default:
    /// true.
    #[must_use]
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.create_if_missing = create;
        self
    }

    /// Sets the keymap of tables that do not choose one. Default: [`KeymapKind::Memory`].
    #[must_use]
    pub fn keymap(mut self, keymap: KeymapKind) -> Self {
        self.keymap = keymap;
        self
    }

    /// Sets how files are [read](Self::read_mode). Default: [`ReadMode::Map`].
    #[must_use]
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// Sets the budget of [file descriptors](Self::max_open_files): 1 to 1,000,000, default 512.
    #[must_use]
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = files;
        self
    }

    /// Sets the budget of [mapped files](Self::max_mappings): 1 to 1,000,000, default 16,384.
    #[must_use]
    pub fn max_mappings(mut self, mappings: usize) -> Self {
        self.max_mappings = mappings;
        self
    }

    /// Sets the budget of [write buffers](Self::write_buffer_bytes): at least 1 MiB, default 256
    /// MiB.
    #[must_use]
    pub fn write_buffer_bytes(mut self, bytes: u64) -> Self {
        self.write_buffer_bytes = bytes;
        self
    }

    /// Sets how long a flush [waits for others](Self::flush_coalesce) to join it: 0 to 1 s,
    /// default 0.
    #[must_use]
    pub fn flush_coalesce(mut self, wait: Duration) -> Self {
        self.flush_coalesce = wait;
        self
    }

    /// Sets when a table is flushed automatically: when about [`bytes`](Self::flush_bytes) of it
    /// (at least 1) are not durable, or data has been non-durable for about
    /// [`after`](Self::flush_after). `None`: never. Default: 256 MiB and `None`.
    #[must_use]
    pub fn auto_flush(mut self, bytes: Option<u64>, after: Option<Duration>) -> Self {
        (self.flush_bytes, self.flush_after) = (bytes, after);
        self
    }

    /// Sets how long a table must be idle before its [idle mark](Self::idle_after) is written.
    /// Default: 1 s.
    #[must_use]
    pub fn idle_after(mut self, idle: Duration) -> Self {
        self.idle_after = idle;
        self
    }

    /// Sets how often expired segments are [collected](Self::gc_interval): at least 1 ms, default
    /// 10 s.
    #[must_use]
    pub fn gc_interval(mut self, interval: Duration) -> Self {
        self.gc_interval = interval;
        self
    }

    /// Sets how far the wall clock may be [ahead after downtime](Self::clock_jump_limit) and still
    /// be trusted. Default: 24 h.
    #[must_use]
    pub fn clock_jump_limit(mut self, limit: Duration) -> Self {
        self.clock_jump_limit = limit;
        self
    }

    /// Sets how long a wall clock that jumped must [run steadily](Self::clock_jump_hold) before it
    /// is trusted again. Default: 1 h.
    #[must_use]
    pub fn clock_jump_hold(mut self, hold: Duration) -> Self {
        self.clock_jump_hold = hold;
        self
    }

    /// Sets the number of [threads for syncs and seals](Self::io_threads): 0 to 256, default 4.
    #[must_use]
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = threads;
        self
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`]; the message names the field, its range and the value.
    pub fn validate(&self) -> Result<()> {
        let check = |is_valid: bool, field: &str, range: &str, found: &dyn fmt::Debug| {
            if is_valid {
                return Ok(());
            }
            let message = format!("{field}: expected {range}, found {found:?}");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        };
        let (files, maps, buffer) =
            (self.max_open_files, self.max_mappings, self.write_buffer_bytes);
        let (coalesce, interval, threads) =
            (self.flush_coalesce, self.gc_interval, self.io_threads);
        let (most, no_roots) = (1_000_000, format_args!("none"));
        check(!self.roots.is_empty(), "roots", "at least one directory", &no_roots)?;
        check((1..=most).contains(&files), "max_open_files", "1 to 1000000", &files)?;
        check((1..=most).contains(&maps), "max_mappings", "1 to 1000000", &maps)?;
        check(buffer >= 1 << 20, "write_buffer_bytes", "at least 1048576", &buffer)?;
        check(coalesce <= Duration::from_secs(1), "flush_coalesce", "at most 1 s", &coalesce)?;
        check(self.flush_bytes != Some(0), "flush_bytes", "at least 1, or none", &0)?;
        check(interval >= Duration::from_millis(1), "gc_interval", "at least 1 ms", &interval)?;
        check(threads <= 256, "io_threads", "at most 256", &threads)
    }
}

/// The parts of a database that are not plain data, for [`Db::open_with`](crate::Db::open_with).
///
/// ```
/// use lithdb::{Components, Db, DbOptions, EventListener};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data");
/// let listener = EventListener::new(|event| println!("{event:?}"));
/// let components = Components { listener, ..Components::default() };
/// let db = Db::open_with(DbOptions::new([&path]), components)?;
/// # db.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Components {
    /// Receives events. Default: none.
    pub listener: EventListener,
    /// File system, clock and threads. Default: `None`, that of the operating system with
    /// [`io_threads`](DbOptions::io_threads) threads.
    pub env: Option<Env>,
    /// Start no threads for maintenance and GC filters: the caller calls
    /// [`Db::maintain`](crate::Db::maintain) instead. Default: false.
    pub without_maintenance: bool,
}
