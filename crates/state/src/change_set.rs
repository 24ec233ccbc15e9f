//! The changes that a caller wants to apply to one store.
//!
//! A change set says what shall be, not what was: it knows no old values. Its limits are checked
//! when it is applied, all sets of a call before anything is read.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use lithdb_env::Result;

use crate::record::StoreDelta;
use crate::row;
use crate::store_name::StoreName;

/// Changes to one store: keys to put, keys to delete. The last change of a key counts.
///
/// An empty value is a value. Deleting a key that does not exist does nothing.
///
/// ```
/// use lithdb_state::ChangeSet;
///
/// let changes = ChangeSet::new("bank")?.put("alice", "7").put("note", "").delete("bob");
/// assert_eq!(changes.len(), 3);
/// # Ok::<(), lithdb_state::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ChangeSet {
    store: StoreName,
    changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl ChangeSet {
    /// The maximum length of a key, in bytes. A key has at least one byte.
    pub const MAX_KEY_LEN: usize = row::MAX_KEY_LEN;
    /// The maximum length of a value, in bytes.
    pub const MAX_VALUE_LEN: usize = row::MAX_VALUE_LEN;

    /// No changes to `store`.
    ///
    /// # Errors
    /// `InvalidArgument` if this is not the name of a store: see [`StoreName`].
    pub fn new(store: &str) -> Result<Self> {
        Ok(Self::of(StoreName::new(store)?))
    }

    /// No changes to `store`.
    #[must_use]
    pub fn of(store: StoreName) -> Self {
        Self { store, changes: BTreeMap::new() }
    }

    /// Sets the value of `key`.
    #[must_use]
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.with(key.as_ref(), Some(value.as_ref()))
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.with(key.as_ref(), None)
    }

    fn with(mut self, key: &[u8], value: Option<&[u8]>) -> Self {
        let value = value.map(Bytes::copy_from_slice);
        self.changes.insert(Bytes::copy_from_slice(key), value);
        self
    }

    /// The store that is changed.
    pub fn store(&self) -> &StoreName {
        &self.store
    }

    /// The number of keys that are changed.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes by key; `None` deletes.
    pub(crate) fn changes(&self) -> &BTreeMap<Bytes, Option<Bytes>> {
        &self.changes
    }

    /// The changes that a version of the log makes to its store.
    pub(crate) fn of_delta(delta: &StoreDelta) -> Self {
        Self { store: delta.name.clone(), changes: delta.changes.iter().cloned().collect() }
    }

    /// Checks the lengths of all keys and values.
    ///
    /// # Errors
    /// `InvalidArgument` names the store, the key, the limit and the length.
    pub(crate) fn validate(&self) -> Result<()> {
        self.changes
            .iter()
            .try_for_each(|(key, value)| row::check_lengths(&self.store, key, value.as_deref()))
    }
}

/// The store and the number of changes: keys and values are the caller's.
impl fmt::Debug for ChangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeSet({}, {} changes)", self.store, self.len())
    }
}

#[cfg(test)]
#[path = "change_set_tests.rs"]
mod tests;
