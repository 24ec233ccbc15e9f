//! The filter by which an application decides what may be collected.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};

/// Says of a key (and whether it is a primary one) if it may be collected. It must be monotonic: once it has said yes
/// it says yes for ever. A segment goes when it says yes to every key in it.
#[derive(Clone)]
pub struct GcFilter(Arc<Filter>);

type Filter = dyn Fn(&[u8], bool) -> Result<bool> + Send + Sync;

thread_local! {
    /// This thread is inside of a filter.
    static FILTERING: Cell<bool> = const { Cell::new(false) };
}

impl GcFilter {
    /// Wraps a function. It runs on the maintenance thread, holds up nothing else, and must not call the table.
    pub fn new(filter: impl Fn(&[u8], bool) -> Result<bool> + Send + Sync + 'static) -> Self {
        Self(Arc::new(filter))
    }

    /// Asks the filter. A panic in it is an error.
    pub(crate) fn agrees(&self, key: &[u8], is_primary: bool) -> Result<bool> {
        FILTERING.set(true);
        let answer = catch_unwind(AssertUnwindSafe(|| (self.0)(key, is_primary)));
        FILTERING.set(false);
        answer.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::InvalidArgument, "the GC filter panicked"))
        })
    }
}

impl fmt::Debug for GcFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcFilter")
    }
}

/// Refuses calls that come out of a filter.
pub(crate) fn refuse_in_filter() -> Result<()> {
    if FILTERING.get() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "a GC filter called a table: expected it to decide by the key alone",
        ));
    }
    Ok(())
}
