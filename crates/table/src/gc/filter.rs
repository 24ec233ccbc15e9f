//! The GC filter: lets the application decide what may be collected.
//!
//! Only collections call it, on the thread that collects, without a lock that others wait for.

use std::fmt;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};

use crate::callback::call;

/// Decides whether a key may be collected; the flag says whether it is primary. It must be
/// monotonic: once true for a key, always true. A segment is collected when the filter returns
/// true for every key in it.
#[derive(Clone)]
pub struct GcFilter(Arc<Filter>);

type Filter = dyn Fn(&[u8], bool) -> Result<bool> + Send + Sync;

impl GcFilter {
    /// Wraps a function. It runs on the thread that collects: a filter thread of the database, or
    /// the caller of `run_gc`. It delays nothing but the collection of its own table. It must
    /// decide by the key alone: calls of the database inside it return `InvalidArgument`.
    pub fn new(filter: impl Fn(&[u8], bool) -> Result<bool> + Send + Sync + 'static) -> Self {
        Self(Arc::new(filter))
    }

    /// Whether both are clones of one filter.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Calls the filter. A panic in it becomes an error.
    pub(crate) fn approves(&self, key: &[u8], is_primary: bool) -> Result<bool> {
        call("a GC filter", || (self.0)(key, is_primary)).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::InvalidArgument, "the GC filter panicked"))
        })
    }
}

impl fmt::Debug for GcFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcFilter")
    }
}
