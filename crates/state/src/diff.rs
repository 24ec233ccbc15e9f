//! The rows in which two versions differ: two iterators in the order of keys, merged.
//!
//! A difference is one of rows: of a value, or of the version that put it. So two versions without
//! a difference have the same export, but for its header.

use std::collections::BTreeSet;
use std::fmt;
use std::iter::Peekable;
use std::vec;

use bytes::Bytes;
use lithdb_env::Result;

use crate::rows::{Row, Rows, merged};
use crate::store_name::StoreName;
use crate::view::View;

/// A row in which two versions differ: it is absent in one of them, or has another value, or was
/// put by another version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The store.
    pub store: StoreName,
    /// The key.
    pub key: Bytes,
    /// The row of the view that was asked; `None` if it has none.
    pub before: Option<Row>,
    /// The row of the other view.
    pub after: Option<Row>,
}

/// The rows in which two versions differ, by store and key. Reads both views as it goes; an error
/// ends it.
pub struct Diff {
    before: View,
    after: View,
    /// The stores that come after the current one.
    stores: vec::IntoIter<StoreName>,
    current: Option<(StoreName, Peekable<Rows>, Peekable<Rows>)>,
}

impl View {
    /// The rows in which `after` differs from this view, of one store or of all. Reads every row
    /// of both.
    ///
    /// ```
    /// # use lithdb_state::{ChangeSet, StateDb, StateOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = StateDb::open(dir.path().join("state"), StateOptions::new())?;
    /// let before = db.latest();
    /// db.commit_block(1, &[ChangeSet::new("bank")?.put("alice", "7")])?;
    /// for difference in before.diff(&db.latest(), None)? {
    ///     let difference = difference?;
    ///     assert_eq!(&difference.key[..], b"alice");
    ///     assert!(difference.before.is_none() && difference.after.is_some());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no store can have; those of [`get`](Self::get).
    pub fn diff(&self, after: &Self, store: Option<&str>) -> Result<Diff> {
        let stores: BTreeSet<StoreName> = match store {
            Some(store) => [StoreName::new(store)?].into(),
            None => {
                let all = self.head().totals.iter().chain(after.head().totals.iter());
                all.map(|(name, _)| name.clone()).collect()
            }
        };
        let stores = stores.into_iter().collect::<Vec<_>>().into_iter();
        Ok(Diff { before: self.clone(), after: after.clone(), stores, current: None })
    }
}

impl Diff {
    fn next_difference(&mut self) -> Result<Option<Difference>> {
        loop {
            if let Some((store, before, after)) = &mut self.current
                && let Some((before, after)) = next_pair(before, after)?
            {
                let Some(row) = before.as_ref().or(after.as_ref()) else {
                    unreachable!("a pair has a row")
                };
                let (store, key) = (store.clone(), row.key.clone());
                return Ok(Some(Difference { store, key, before, after }));
            }
            let Some(store) = self.stores.next() else { return Ok(None) };
            let before = self.before.iter(store.as_str())?.peekable();
            let after = self.after.iter(store.as_str())?.peekable();
            self.current = Some((store, before, after));
        }
    }
}

/// The next rows of a key that are not equal.
fn next_pair(
    before: &mut Peekable<Rows>,
    after: &mut Peekable<Rows>,
) -> Result<Option<(Option<Row>, Option<Row>)>> {
    loop {
        let pair = merged(before, after, |row| &row.key)?;
        let Some((old, new)) = pair else { return Ok(None) };
        if old != new {
            return Ok(Some((old, new)));
        }
    }
}

impl Iterator for Diff {
    type Item = Result<Difference>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_difference();
        if next.is_err() {
            self.current = None;
            self.stores = Vec::new().into_iter();
        }
        next.transpose()
    }
}

impl fmt::Debug for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Diff")
    }
}
