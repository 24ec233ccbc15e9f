//! The filter by which an application decides what may be collected.

use std::fmt;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};

use crate::callback::call;

/// Says of a key (and whether it is a primary one) if it may be collected. It must be monotonic: once it has said yes
/// it says yes for ever. A segment goes when it says yes to every key in it.
#[derive(Clone)]
pub struct GcFilter(Arc<Filter>);

type Filter = dyn Fn(&[u8], bool) -> Result<bool> + Send + Sync;

impl GcFilter {
    /// Wraps a function. It runs on a thread for filters and holds up nothing but the collection of its own table. It decides
    /// by the key alone: calls of the database are refused in it, with `InvalidArgument`.
    pub fn new(filter: impl Fn(&[u8], bool) -> Result<bool> + Send + Sync + 'static) -> Self {
        Self(Arc::new(filter))
    }

    /// Asks the filter. A panic in it is an error.
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
