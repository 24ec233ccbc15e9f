//! Locks, atomics and threads of everything above: `parking_lot`'s and the standard library's, by other names.
//!
//! Compiled with `--cfg lithdb_shuttle` they are those of a model checker, which decides at each of them which thread
//! goes on: so the code that users run is the code whose schedules are searched (`crates/table/tests/threads`). What a
//! user builds does not know of it: there this module is a list of names. The model checker tries orders of steps, each of which is
//! seen by all threads at once: it says nothing of orderings weaker than `SeqCst`.

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
