//! A committed version for reading.

use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::Result;
use lithdb_lthash::RootHash;
use lithdb_state_engine::Engine;

use crate::head::Head;
use crate::metrics::ViewMetrics;
use crate::row::{physical_key, split_row};
use crate::rows::{Rows, bounds_in, prefix_bounds};
use crate::store_name::StoreName;

/// A committed version: what it returns never changes, whatever is committed, rolled back or closed
/// meanwhile. Cheap to clone. While it exists, the working copy keeps the rows that it sees.
#[derive(Debug, Clone)]
pub struct View {
    head: Arc<Head>,
    engine: Arc<dyn Engine>,
    metrics: Arc<ViewMetrics>,
}

impl View {
    pub(crate) fn new(head: Arc<Head>, engine: Arc<dyn Engine>, metrics: Arc<ViewMetrics>) -> Self {
        Self { head, engine, metrics }
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.head.version
    }

    /// The hash of all rows.
    #[must_use]
    pub fn root(&self) -> RootHash {
        self.head.root
    }

    /// The hash of the rows of one store; `None` if it has no rows.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no store can have.
    pub fn store_hash(&self, store: &str) -> Result<Option<RootHash>> {
        let name = StoreName::new(store)?;
        Ok(self.head.totals.get(&name).map(|totals| totals.vector.root()))
    }

    /// The stores in name order, each with its number of keys and the bytes of its keys and values.
    #[must_use]
    pub fn stores(&self) -> Vec<(StoreName, u64, u64)> {
        let stores = self.head.totals.iter();
        stores.map(|(name, totals)| (name.clone(), totals.keys, totals.bytes)).collect()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no store can have; `Corrupt` or `Io` if the working copy
    /// cannot be read.
    pub fn get(&self, store: &str, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.row(store, key.as_ref())?.map(|(_modified_at, value)| value))
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains(&self, store: &str, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.row(store, key.as_ref())?.is_some())
    }

    /// The version that last put the key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn modified_at(&self, store: &str, key: impl AsRef<[u8]>) -> Result<Option<u64>> {
        Ok(self.row(store, key.as_ref())?.map(|(modified_at, _value)| modified_at))
    }

    fn row(&self, store: &str, key: &[u8]) -> Result<Option<(u64, Bytes)>> {
        let key = physical_key(&StoreName::new(store)?, key);
        let row = self.engine.get(&self.head.pin, &key)?;
        row.map(|row| split_row(&row)).transpose()
    }

    /// The rows of a store in a range of keys, in ascending order; `rev()` descends.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn range<K: AsRef<[u8]>>(&self, store: &str, range: impl RangeBounds<K>) -> Result<Rows> {
        let store = StoreName::new(store)?;
        let bounds = bounds_in(&store, &range);
        Ok(Rows::of_view(&self.engine, &self.head.pin, &store, &bounds))
    }

    /// The rows of a store whose keys begin with `prefix`, in ascending order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn prefix(&self, store: &str, prefix: impl AsRef<[u8]>) -> Result<Rows> {
        let store = StoreName::new(store)?;
        let bounds = prefix_bounds(&store, prefix.as_ref());
        Ok(Rows::of_view(&self.engine, &self.head.pin, &store, &bounds))
    }

    /// All rows of a store, in ascending order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn iter(&self, store: &str) -> Result<Rows> {
        self.prefix(store, b"")
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub(crate) fn metrics(&self) -> &ViewMetrics {
        &self.metrics
    }

    pub(crate) fn head(&self) -> &Arc<Head> {
        &self.head
    }
}
