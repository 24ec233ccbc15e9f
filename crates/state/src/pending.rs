//! The version that is being prepared, for reading.

use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::Result;
use lithdb_lthash::RootHash;

use crate::overlay::Overlay;
use crate::row::physical_key;
use crate::rows::{Bounds, Rows, bounds_in, prefix_bounds};
use crate::store_name::StoreName;
use crate::view::View;

/// The newest committed version with the changes that have been applied to the next one, as they
/// were when [`StateDb::pending`](crate::StateDb::pending) was called.
#[derive(Debug, Clone)]
pub struct Pending {
    base: View,
    overlay: Arc<Overlay>,
    version: u64,
}

impl Pending {
    pub(crate) fn new(base: View, overlay: Arc<Overlay>) -> Self {
        let version = base.version().saturating_add(1);
        Self { base, overlay, version }
    }

    /// The version that a commit would make.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The hash of all rows if it were committed now.
    ///
    /// # Errors
    /// `Corrupt` if the totals of a store would become negative.
    pub fn root(&self) -> Result<RootHash> {
        let mut totals = self.base.head().totals.clone();
        totals.apply(&self.overlay.deltas())?;
        Ok(totals.root())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn get(&self, store: &str, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let name = StoreName::new(store)?;
        match self.overlay.get(&physical_key(&name, key.as_ref())) {
            Some(entry) => Ok(entry.value.clone()),
            None => self.base.get(store, key),
        }
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn contains(&self, store: &str, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(store, key)?.is_some())
    }

    /// The version that last put the key; for a pending value, that of the commit.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn modified_at(&self, store: &str, key: impl AsRef<[u8]>) -> Result<Option<u64>> {
        let name = StoreName::new(store)?;
        match self.overlay.get(&physical_key(&name, key.as_ref())) {
            Some(entry) => Ok(entry.value.as_ref().map(|_value| self.version)),
            None => self.base.modified_at(store, key),
        }
    }

    /// The rows of a store in a range of keys, in ascending order; `rev()` descends.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn range<K: AsRef<[u8]>>(&self, store: &str, range: impl RangeBounds<K>) -> Result<Rows> {
        let store = StoreName::new(store)?;
        Ok(self.rows(&store, &bounds_in(&store, &range)))
    }

    /// The rows of a store whose keys begin with `prefix`, in ascending order.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn prefix(&self, store: &str, prefix: impl AsRef<[u8]>) -> Result<Rows> {
        let store = StoreName::new(store)?;
        Ok(self.rows(&store, &prefix_bounds(&store, prefix.as_ref())))
    }

    /// All rows of a store, in ascending order.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn iter(&self, store: &str) -> Result<Rows> {
        self.prefix(store, b"")
    }

    fn rows(&self, store: &StoreName, bounds: &Bounds) -> Rows {
        let committed = Rows::of_view(self.base.engine(), &self.base.head().pin, store, bounds);
        committed.with_changes(self.overlay.entries(), store, bounds, self.version)
    }
}
