//! Calls into the application: its GC filter, its event listener and its sources of values.
//!
//! They run on threads that are in the middle of an operation and may hold locks. So every call of
//! the database that could wait is refused inside them: none can wait for itself.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lithdb_env::{Error, ErrorKind, Result};

thread_local! {
    /// The callback that this thread is in.
    static CURRENT_CALLBACK: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs the callback `what`. A panic in it is returned as the error.
pub(crate) fn call<T>(what: &'static str, callback: impl FnOnce() -> T) -> std::thread::Result<T> {
    let outer = CURRENT_CALLBACK.replace(Some(what));
    let answer = catch_unwind(AssertUnwindSafe(callback));
    CURRENT_CALLBACK.set(outer);
    answer
}

/// Refuses calls from inside a filter, a listener or a source.
pub fn refuse_in_callback() -> Result<()> {
    let Some(what) = CURRENT_CALLBACK.get() else { return Ok(()) };
    let message = format!(
        "{what} called the database: expected it to return first; make the call from another thread"
    );
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
