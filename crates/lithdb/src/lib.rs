//! LithDB: an embedded storage engine for data that is **written once, kept for a while and
//! dropped in bulk**: blocks, receipts, blobs, chunks, events, artefacts.
//!
//! A database has one or more root directories and any number of tables. A table is a log of
//! immutable segments; its keymap can always be rebuilt. Values expire by whole segments. There
//! are no updates in place, no deletes of single keys, no query language.
//!
//! ```
//! use lithdb::{Batch, Db, DbOptions, SecondaryKey, TableOptions};
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("data");
//!
//! let db = Db::open(DbOptions::new([&path]))?;
//! let blocks = db.table("blocks", TableOptions::new())?;
//!
//! // Readable at once; durable after flush.
//! blocks.put_with(b"h:1", b"the body of block 1", &[
//!     SecondaryKey::whole(b"hash-1"),         // an alias for the value
//!     SecondaryKey::range(b"tx-9", 4..8),     // an alias for a byte range
//! ])?;
//!
//! // All or nothing after a crash.
//! let mut batch = Batch::new();
//! batch.put(b"h:2", b"block 2").alias(b"hash-2", ..);
//! batch.put(b"h:3", b"block 3").alias(b"hash-3", ..);
//! blocks.put_batch(&batch)?;
//! blocks.flush()?;
//!
//! assert_eq!(blocks.get(b"tx-9")?.unwrap(), b"body");
//! for entry in blocks.iter()?.rev() {
//!     let entry = entry?;
//!     println!("{:?} {} bytes", entry.key(), entry.value()?.len());
//! }
//! db.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The README states the guarantees for crashes, full disks and flipped bits; `docs/FORMAT.md`
//! describes the files.

mod db;
pub mod inspect;
mod limits;
mod maintenance;
mod options;
pub mod repair;
mod shared;
mod table;
mod tables;

pub use db::{Db, DbStats};
pub use options::{Components, DbOptions};
pub use table::Table;

#[doc(inline)]
pub use lithdb_env::{ErrorKind, Result, UnixMillis};

/// ```
/// use lithdb::{Db, DbOptions, ErrorKind};
/// let error = Db::open(DbOptions::new(["/nowhere"]).create_if_missing(false)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Missing);
/// assert!(error.to_string().contains("/nowhere"));
/// ```
#[doc(inline)]
pub use lithdb_env::Error;

#[doc(inline)]
pub use lithdb_segment::{Position, ReadMode, SegmentId, TableName, Value, Verify};

#[doc(inline)]
pub use lithdb_table::{
    BatchEntry, DuplicateKeys, Entry, Event, EventListener, GcFilter, GcReport, Iter, KeymapKind,
    MAX_BATCH_BYTES, MAX_BATCH_KEYS, RecoveryReport, TableStats, Ttl,
};

/// ```
/// use lithdb::Batch;
/// let mut batch = Batch::new();
/// batch.put(b"h:3", b"body three").alias(b"hash-3", ..).alias(b"tx-10", 0..4);
/// batch.put(b"h:4", b"body four");
/// assert_eq!((batch.len(), batch.keys()), (2, 4));
/// ```
#[doc(inline)]
pub use lithdb_table::Batch;

/// ```
/// use lithdb::SecondaryKey;
/// let whole = SecondaryKey::whole(b"hash-2");
/// let part = SecondaryKey::range(b"tx-9", 128..512);
/// assert_eq!((whole.key(), part.key()), (&b"hash-2"[..], &b"tx-9"[..]));
/// ```
#[doc(inline)]
pub use lithdb_table::SecondaryKey;

/// ```
/// use std::time::Duration;
/// use lithdb::TableOptions;
/// let options = TableOptions::new().ttl(Duration::from_secs(86_400)).shards(2);
/// assert!(options.validate().is_ok());
/// assert!(options.shards(0).validate().is_err());
/// ```
#[doc(inline)]
pub use lithdb_table::TableOptions;

#[doc(inline)]
pub use lithdb_rollback::{NoMatch, RecordRef, Rollback, RollbackPlan, Verdict};

pub mod rollback {
    //! Types used with [`Rollback`](crate::Rollback): ready-made filters, progress, plans per
    //! table, reports.
    //!
    //! Each filter is a function that can be passed to [`Rollback::plan`](crate::Rollback::plan).
    //! [`PerTable`] combines several, for tables with different keys:
    //!
    //! ```
    //! use lithdb::Rollback;
    //! use lithdb::rollback::{PerTable, max_be_u64, through_key};
    //! # use lithdb::{Db, DbOptions};
    //! # let dir = tempfile::tempdir()?;
    //! # let path = dir.path().join("data");
    //! # Db::open(DbOptions::new([&path]))?.close()?;
    //! // `blocks`: a letter and the height; `receipts`: through one key; all others: keys that
    //! // begin with the height.
    //! let filter = PerTable::new()
    //!     .table("blocks", max_be_u64(1, 100))
    //!     .table("receipts", through_key(b"r:100:7"))
    //!     .otherwise(max_be_u64(0, 100));
    //! let plan = Rollback::new([&path]).plan(filter.into_filter())?;
    //! assert!(plan.is_empty(), "the database has no tables");
    //! # Ok::<(), Box<dyn std::error::Error>>(())
    //! ```

    #[doc(inline)]
    pub use lithdb_rollback::{
        Action, Boundary, Discarded, KeyAt, OutOfOrder, PendingRollback, PerTable, Phase, Progress,
        RollbackReport, TablePlan, TableReport, max_be_u64, through_key, through_position,
        written_before,
    };
}

pub mod env {
    //! The file system and the clock of a database, which
    //! [`Components::env`](crate::Components::env) can replace: for tests, or for a custom file
    //! system.
    //!
    //! [`Fs`] and [`Clock`] are the interfaces, [`OsFs`] and [`OsClock`] the defaults.
    //!
    //! ```
    //! use std::sync::Arc;
    //! use std::time::Duration;
    //! use lithdb::env::{Clock, Env, OsClock, OsFs};
    //! use lithdb::{Components, Db, DbOptions, UnixMillis};
    //!
    //! /// A clock that is an hour behind.
    //! #[derive(Debug)]
    //! struct Behind(OsClock);
    //!
    //! impl Clock for Behind {
    //!     fn now(&self) -> UnixMillis {
    //!         UnixMillis(self.0.now().0 - 3_600_000)
    //!     }
    //!     fn monotonic(&self) -> Duration {
    //!         self.0.monotonic()
    //!     }
    //!     fn random_u64(&self) -> std::io::Result<u64> {
    //!         self.0.random_u64()
    //!     }
    //! }
    //!
    //! # let dir = tempfile::tempdir()?;
    //! # let path = dir.path().join("data");
    //! let env = Env::new(Arc::new(OsFs), Arc::new(Behind(OsClock)), 4)?;
    //! let components = Components { env: Some(env), ..Components::default() };
    //! let db = Db::open_with(DbOptions::new([&path]), components)?;
    //! # db.close()?;
    //! # Ok::<(), Box<dyn std::error::Error>>(())
    //! ```

    #[doc(inline)]
    pub use lithdb_env::{
        Clock, DirEntry, Env, File, FileKind, FileLock, Fs, LockKind, Map, Metadata, OpenMode,
        OsClock, OsFs, Permit, Pool,
    };
}

// The examples of the documents are tests; those of the README are tests of `lithdb-state`, because
// one of them needs it.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/ROLLBACK.md")]
struct RollingBack;
