//! LithDB: an embedded storage engine for data that is **written once, kept for a while and dropped in bulk**: blocks,
//! receipts, blobs, chunks, events, artefacts.
//!
//! A database has one or more root directories and any number of tables. A table is a log of immutable segments; its
//! keymap can always be rebuilt. Values expire by whole segments. There are no updates in place, no deletes of single
//! keys, no query language: everything else depends on that.
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
//!     SecondaryKey::whole(b"hash-1"),         // another name for it
//!     SecondaryKey::range(b"tx-9", 4..8),     // a name for a part of it
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
//! What is promised about crashes, full disks and flipped bits stands in the project's README; how the files look in
//! `docs/FORMAT.md`.

mod db;
mod inspect;
mod limits;
mod maintenance;
mod options;
mod repair;
mod shared;
mod tables;

pub use db::{Db, DbStats};
pub use inspect::{RefusedTable, Verification};
/// Disk, clock and threads, for tools that go through the same door.
pub use lithdb_env as env;
pub use lithdb_env::{Error, ErrorKind, Result, UnixMillis};
pub use lithdb_repair::{
    DumpLine, Finding, Progress, RepairPlan, RepairReport, Severity, VerifyReport,
};
/// Rewinding a stopped database: plans, ready-made filters, reports.
pub use lithdb_rollback as rollback;
pub use lithdb_rollback::{NoMatch, RecordRef, Rollback, RollbackPlan, Verdict};
pub use lithdb_roots::{LostRoot, RootLoss, RootsRepair};
pub use lithdb_segment::{Position, ReadMode, SegmentId, TableName, Value, Verify};
pub use lithdb_table::{
    Batch, BatchEntry, DuplicateKeys, Entry, Event, EventListener, GcFilter, GcReport, Iter,
    KeymapKind, KeymapReport, MAX_BATCH_BYTES, MAX_BATCH_KEYS, Maintenance, RecoveryReport,
    SecondaryKey, Table, TableOptions, TableStats, Ttl, show_key, verify_keymap,
};
pub use options::{Components, DbOptions};
pub use repair::{Repair, Repaired};

// The examples of the README and of the other documents are tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/ROLLBACK.md")]
struct RollingBack;
