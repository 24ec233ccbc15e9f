//! An engine crate of LithDB, without any stability promise: use `lithdb-state`.
//!
//! The mutable ordered map beneath the state store: rows in memory, sealed and flushed in whole
//! commits, with checkpoints and clones by hard links.
//!
//! [`Engine`] and [`Engines`] are the contract; what the state store relies on is written there and
//! tested against every implementation. [`LsmEngines`] is the production engine, and the only code
//! that names the crate it is built on. [`ModelEngines`] keeps the same contract on
//! [`lithdb_env::Fs`], so that a simulated disk can crash it at every operation.
//!
//! This crate knows nothing of versions, roots, logs or retention.

mod batch;
mod engine;
mod files;
mod lsm;
mod model;
mod pin;

pub use engine::{
    CheckLevel, Compacted, Engine, EngineFile, EngineKind, EngineStats, Engines, MAX_KEY_LEN,
    MAX_VALUE_LEN, OpenMode, Row, RowIter, Sealed,
};
pub use lsm::{LsmEngines, LsmOptions};
pub use model::{ModelEngines, in_memory};
pub use pin::Pin;
