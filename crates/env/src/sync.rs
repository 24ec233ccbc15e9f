//! Locks, atomics and threads for all other crates: `parking_lot`'s and the standard library's,
//! re-exported.
//!
//! With `--cfg lithdb_shuttle` they are those of a model checker, which decides at each of them
//! which thread runs next, so that `crates/table/tests/threads` explores schedules of the
//! production code. Without it this module only re-exports. The model checker explores
//! interleavings in which all threads see every step at once: it checks nothing about orderings
//! weaker than `SeqCst`.

#[cfg(lithdb_shuttle)]
mod model;

#[cfg(not(lithdb_shuttle))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(lithdb_shuttle))]
pub use std::sync::{OnceLock, atomic};
#[cfg(not(lithdb_shuttle))]
pub use std::thread;

#[cfg(lithdb_shuttle)]
pub use model::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(lithdb_shuttle)]
pub use shuttle::{sync::atomic, thread};
