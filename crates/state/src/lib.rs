//! A versioned key-value state on LithDB: commits, snapshots, catch-up and rollback.
//!
//! A [`StateDb`] holds named stores of keys and values. Changes are applied to the version that is
//! being prepared, and committed as the next version; every version has a root, the hash of all
//! rows. A restart replays only the versions after the working copy, and a store can be rolled
//! back to any version that it still reaches.
//!
//! The write-ahead log is the truth: a LithDB table that maps each version to its changes and its
//! root. The working copy (a mutable tree) and the snapshots (hard links of its files) are derived
//! from it, and are compared with its roots whenever they are opened. Rolling back truncates the
//! log with LithDB's rollback; opening then makes the rest follow, as after a crash. The idea is
//! FlatKV's, of sei-chain; the set hash that audits the tree is LtHash.
//!
//! ```
//! use lithdb_state::{ChangeSet, StateDb, StateOptions};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("state");
//! let db = StateDb::open(&path, StateOptions::new())?;
//! let changes = ChangeSet::new("bank")?.put("alice", "7").put("note", "").delete("bob");
//! db.apply(1, &[changes])?;
//! assert_eq!(db.pending().get("bank", "alice")?.as_deref(), Some(&b"7"[..]));
//! let first = db.commit(1)?;
//!
//! db.commit_block(2, &[ChangeSet::new("bank")?.put("alice", "9")])?;
//! let now = db.latest();
//! assert_eq!(now.get("bank", "alice")?.as_deref(), Some(&b"9"[..]));
//! assert_eq!(now.modified_at("bank", "alice")?, Some(2));
//!
//! let db = db.rollback_to(1)?;
//! assert_eq!(db.root(), first.root);
//! assert_eq!(db.latest().get("bank", "alice")?.as_deref(), Some(&b"7"[..]));
//! db.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `docs/STATE.md` has the model, the guarantees, and what an operator needs to know.

mod adopt;
mod background;
mod beside;
mod change_set;
mod commit;
mod db;
mod diff;
mod dirs;
mod event;
mod export;
mod files;
mod head;
mod import;
mod inspect;
mod meta;
mod metrics;
mod open;
mod options;
mod overlay;
mod past;
mod pending;
mod prune;
mod reach;
mod reader;
mod record;
mod reset;
mod rollback;
mod row;
mod rows;
mod shared;
mod snapshot;
mod stats;
mod store_name;
mod totals;
mod verify;
mod view;
mod view_clone;
mod wal;

pub use adopt::AdoptReport;
pub use change_set::ChangeSet;
pub use db::StateDb;
pub use diff::{Diff, Difference};
pub use event::{StateEvent, StateListener};
pub use export::ExportReport;
pub use files::StoreId;
pub use head::Committed;
pub use import::ImportReport;
pub use inspect::{StateInspection, StoreInspection};
pub use open::{OpenReport, Reclone};
pub use options::{Durability, Retention, StateComponents, StateOptions, Wal};
pub use pending::Pending;
pub use prune::{Prune, PrunePlan, PruneReport};
pub use reach::{Base, Reach, Unreachable};
pub use reset::ResetReport;
pub use rollback::{StateRollback, StateRollbackPlan, StateRollbackReport};
pub use rows::{Row, Rows};
pub use snapshot::{Snapshot, SnapshotClass, SnapshotInfo, SnapshotTicket};
pub use stats::StateStats;
pub use store_name::StoreName;
pub use verify::{StateReplay, StateVerification, VerifyLevel};
pub use view::View;
pub use wal::WalFloor;

// For the fuzz targets.
#[doc(hidden)]
pub use export::reencode_export;
#[doc(hidden)]
pub use meta::reencode_meta;
#[doc(hidden)]
pub use record::reencode_record;

pub use lithdb::{Error, ErrorKind, Result, UnixMillis};
pub use lithdb_lthash::RootHash;

// The examples of the README and of docs/STATE.md are tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/STATE.md")]
struct StateDocument;
