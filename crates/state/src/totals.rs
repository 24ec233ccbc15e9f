//! What is known of all rows without reading them: for each store its set hash, its number of keys
//! and their bytes.
//!
//! Totals depend on the rows alone, not on their history: a store without rows is not listed. So a
//! scan of the rows, a replay and a live store give equal totals. Totals are changed by deltas, all
//! of a version or none. The root covers the set hashes, not the counts; a count that would become
//! negative, or a last key that leaves something behind, shows that a delta belongs to other rows.
//!
//! Versions share the totals of the stores in which they do not differ: a version copies those that
//! it changes.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::{LtHash, RootHash};

use crate::row::physical_key;
use crate::store_name::StoreName;

/// The maximum number of stores with rows: the totals are written whenever a memtable is sealed,
/// and take 2 KiB for each.
pub(crate) const MAX_STORES: usize = 4096;

/// The totals of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoreTotals {
    /// The set hash of its rows: physical keys, and values without `modified_at`.
    pub(crate) vector: LtHash,
    /// The number of rows: at least 1 in [`Totals`].
    pub(crate) keys: u64,
    /// The lengths of its keys, without the name of the store, and of its values.
    pub(crate) bytes: u64,
}

/// What a version changes in one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreDelta {
    pub(crate) name: StoreName,
    /// What it adds to the [vector](StoreTotals::vector).
    pub(crate) delta: LtHash,
    /// What it adds to [`keys`](StoreTotals::keys).
    pub(crate) keys: i64,
    /// What it adds to [`bytes`](StoreTotals::bytes).
    pub(crate) bytes: i64,
    /// The new values, in ascending order of their keys, which are without the name of the store;
    /// `None` deletes a row that exists. Not empty.
    pub(crate) changes: Vec<(Bytes, Option<Bytes>)>,
}

/// The totals of all stores with rows, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    stores: BTreeMap<StoreName, Arc<StoreTotals>>,
}

impl StoreTotals {
    /// These totals after `delta`.
    fn after(&self, delta: &StoreDelta) -> Result<Self> {
        let sum = |what: &str, total: u64, delta_of: i64| {
            total.checked_add_signed(delta_of).ok_or_else(|| {
                let message = format!(
                    "store {}: expected a number of {what} from 0 to {}, found {total} \
                     {delta_of:+}",
                    delta.name,
                    u64::MAX
                );
                Error::new(ErrorKind::Corrupt, message)
            })
        };
        let keys = sum("keys", self.keys, delta.keys)?;
        let bytes = sum("bytes", self.bytes, delta.bytes)?;
        let mut vector = self.vector.clone();
        vector.add(&delta.delta);
        if keys == 0 && (bytes != 0 || !vector.is_empty()) {
            let message = format!(
                "store {}: expected 0 bytes and an empty set hash after its last key, found {bytes} \
                 bytes, {vector:?}",
                delta.name
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Self { vector, keys, bytes })
    }
}

impl Totals {
    /// The totals of `store`; `None` if it has no rows.
    pub(crate) fn get(&self, store: &StoreName) -> Option<&StoreTotals> {
        self.stores.get(store).map(|totals| &**totals)
    }

    /// The stores with rows, in the order of their names.
    pub(crate) fn iter(&self) -> btree_map::Iter<'_, StoreName, Arc<StoreTotals>> {
        self.stores.iter()
    }

    /// The number of stores with rows.
    pub(crate) fn len(&self) -> usize {
        self.stores.len()
    }

    /// The hash of all rows: the digest of the sum of all vectors.
    pub(crate) fn root(&self) -> RootHash {
        let mut sum = LtHash::default();
        self.stores.values().for_each(|totals| sum.add(&totals.vector));
        sum.root()
    }

    /// Adds the deltas of a version, by ascending names of stores: all or none.
    ///
    /// # Errors
    /// `Corrupt` if they are not deltas of these rows, as far as the counts show it;
    /// `InvalidArgument` if there would be more than [`MAX_STORES`] stores.
    pub(crate) fn apply(&mut self, deltas: &[StoreDelta]) -> Result<()> {
        assert!(
            deltas.is_sorted_by(|one, next| one.name < next.name),
            "there is one delta for each store"
        );
        let none = StoreTotals::default();
        let changed: Vec<(&StoreName, StoreTotals)> = deltas
            .iter()
            .map(|delta| {
                let before = self.get(&delta.name).unwrap_or(&none);
                Ok((&delta.name, before.after(delta)?))
            })
            .collect::<Result<_>>()?;
        let mut stores = self.stores.len();
        for (name, after) in &changed {
            stores += usize::from(after.keys > 0);
            stores -= usize::from(self.stores.contains_key(*name));
        }
        check_stores(stores)?;
        for (name, after) in changed {
            self.set(name.clone(), after);
        }
        Ok(())
    }

    /// Adds a row that is not in the totals yet, for a scan.
    ///
    /// # Errors
    /// `InvalidArgument` if there would be more than [`MAX_STORES`] stores.
    pub(crate) fn add_row(&mut self, store: &StoreName, key: &[u8], value: &[u8]) -> Result<()> {
        if !self.stores.contains_key(store) {
            check_stores(self.stores.len() + 1)?;
        }
        let totals = Arc::make_mut(self.stores.entry(store.clone()).or_default());
        totals.vector.add_pair(&physical_key(store, key), value);
        // Rows that exist are fewer than 2^64, and so are their bytes.
        totals.keys += 1;
        totals.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    /// Replaces the totals of a store.
    pub(crate) fn set(&mut self, store: StoreName, totals: StoreTotals) {
        match totals.keys {
            0 => self.stores.remove(&store),
            _ => self.stores.insert(store, Arc::new(totals)),
        };
    }
}

fn check_stores(found: usize) -> Result<()> {
    if found <= MAX_STORES {
        return Ok(());
    }
    let message = format!("expected at most {MAX_STORES} stores, found {found}; use fewer");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

#[cfg(test)]
#[path = "totals_tests.rs"]
mod tests;
