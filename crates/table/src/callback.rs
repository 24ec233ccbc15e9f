//! Calls into the application: its GC filter, its event listener and its sources of values.
//!
//! They run on threads that are in the middle of something, and that may hold locks. Every call of the database that could
//! wait is refused there, so that none can wait for itself.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lithdb_env::{Error, ErrorKind, Result};

thread_local! {
    /// What of the application this thread is in.
    static CURRENT_CALLBACK: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Calls `what` of the application. A panic in it is the error.
pub(crate) fn call<T>(what: &'static str, callback: impl FnOnce() -> T) -> std::thread::Result<T> {
    let outer = CURRENT_CALLBACK.replace(Some(what));
    let answer = catch_unwind(AssertUnwindSafe(callback));
    CURRENT_CALLBACK.set(outer);
    answer
}

/// Refuses calls that come out of a filter, a listener or a source.
pub fn refuse_in_callback() -> Result<()> {
    let Some(what) = CURRENT_CALLBACK.get() else { return Ok(()) };
    let message = format!(
        "{what} called the database: expected it to return, and the call from a thread of the application"
    );
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
