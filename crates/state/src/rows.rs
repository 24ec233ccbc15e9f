//! Iterating over rows, from both ends, with or without changes that are not committed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::iter::Peekable;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::Result;
use lithdb_state_engine::{Engine, Pin, RowIter};

use crate::overlay::Entry;
use crate::row::{physical_key, prefix_end, split_row};
use crate::store_name::StoreName;

/// A row of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The version that last put it.
    pub modified_at: u64,
}

/// Rows of one store in the order of their keys. Holds its version; an error ends it.
pub struct Rows {
    committed: RowIter,
    /// The length of the store's prefix in physical keys.
    prefix: usize,
    /// Rows that were read and not yet compared with the changes.
    front: Option<Row>,
    back: Option<Row>,
    /// The changes in the range that have not been passed.
    changes: VecDeque<(Bytes, Option<Bytes>)>,
    /// The version of the changes.
    pending_version: u64,
    has_failed: bool,
}

/// A range of physical keys.
pub(crate) type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// The physical keys of a range of keys of `store`.
pub(crate) fn bounds_in<K: AsRef<[u8]>>(store: &StoreName, range: &impl RangeBounds<K>) -> Bounds {
    let whole = prefix_bounds(store, b"");
    let physical = |bound: Bound<&K>| bound.map(|key| physical_key(store, key.as_ref()));
    let or = |bound: Bound<Bytes>, open: Bound<Bytes>| match bound {
        Bound::Unbounded => open,
        bound => bound,
    };
    (or(physical(range.start_bound()), whole.0), or(physical(range.end_bound()), whole.1))
}

/// The physical keys of those keys of `store` that begin with `prefix`.
pub(crate) fn prefix_bounds(store: &StoreName, prefix: &[u8]) -> Bounds {
    let start = physical_key(store, prefix);
    let Some(end) = prefix_end(&start) else {
        unreachable!("the name of a store ends with a character below 0xff")
    };
    (Bound::Included(start), Bound::Excluded(end))
}

/// The rows with the next key of two iterators in the order of keys: of one of them, or of both.
pub(crate) fn merged<T, I: Iterator<Item = Result<T>>>(
    before: &mut Peekable<I>,
    after: &mut Peekable<I>,
    key: impl Fn(&T) -> &Bytes,
) -> Result<Option<(Option<T>, Option<T>)>> {
    let order = match (before.peek(), after.peek()) {
        (None, None) => return Ok(None),
        (Some(Ok(before)), Some(Ok(after))) => key(before).cmp(key(after)),
        (Some(Ok(_)), None) => Ordering::Less,
        (None, Some(Ok(_))) => Ordering::Greater,
        (Some(Err(error)), _) | (_, Some(Err(error))) => return Err(error.clone()),
    };
    let old = if order.is_le() { before.next().transpose()? } else { None };
    let new = if order.is_ge() { after.next().transpose()? } else { None };
    Ok(Some((old, new)))
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

fn is_empty(bounds: &Bounds) -> bool {
    match bounds {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (
            Bound::Included(start) | Bound::Excluded(start),
            Bound::Included(end) | Bound::Excluded(end),
        ) => start >= end,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

impl Rows {
    pub(crate) fn of_view(
        engine: &Arc<dyn Engine>,
        pin: &Pin,
        store: &StoreName,
        bounds: &Bounds,
    ) -> Self {
        let committed: RowIter = if is_empty(bounds) {
            Box::new(std::iter::empty())
        } else {
            Arc::clone(engine).range(pin, as_slice(&bounds.0), as_slice(&bounds.1))
        };
        Self {
            committed,
            prefix: store.as_str().len() + 1,
            front: None,
            back: None,
            changes: VecDeque::new(),
            pending_version: 0,
            has_failed: false,
        }
    }

    /// The same rows after `changes`.
    pub(crate) fn with_changes(
        mut self,
        changes: &BTreeMap<Bytes, Entry>,
        store: &StoreName,
        bounds: &Bounds,
        version: u64,
    ) -> Self {
        let prefix = store.as_str().len() + 1;
        if !is_empty(bounds) {
            let in_range = changes.range::<Bytes, _>((bounds.0.as_ref(), bounds.1.as_ref()));
            let change =
                |(key, entry): (&Bytes, &Entry)| (key.slice(prefix..), entry.value.clone());
            self.changes = in_range.map(change).collect();
        }
        self.pending_version = version;
        self
    }

    fn read(&mut self, row: Result<(Bytes, Bytes)>) -> Result<Row> {
        let (key, row) = row?;
        let (modified_at, value) = split_row(&row)?;
        Ok(Row { key: key.slice(self.prefix..), value, modified_at })
    }

    fn changed(&self, change: (Bytes, Option<Bytes>)) -> Option<Row> {
        let (key, value) = change;
        value.map(|value| Row { key, value, modified_at: self.pending_version })
    }

    /// The next committed row from the front: that which the back has read, if there is no other.
    fn fill_front(&mut self) -> Result<()> {
        if self.front.is_none() {
            self.front = match self.committed.next() {
                Some(row) => Some(self.read(row)?),
                None => self.back.take(),
            };
        }
        Ok(())
    }

    fn fill_back(&mut self) -> Result<()> {
        if self.back.is_none() {
            self.back = match self.committed.next_back() {
                Some(row) => Some(self.read(row)?),
                None => self.front.take(),
            };
        }
        Ok(())
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            self.fill_front()?;
            let Some((key, _)) = self.changes.front() else { return Ok(self.front.take()) };
            match &self.front {
                Some(row) if row.key < *key => return Ok(self.front.take()),
                Some(row) if row.key == *key => self.front = None,
                _ => {}
            }
            let row = self.changes.pop_front().and_then(|change| self.changed(change));
            if row.is_some() {
                return Ok(row);
            }
        }
    }

    fn next_row_back(&mut self) -> Result<Option<Row>> {
        loop {
            self.fill_back()?;
            let Some((key, _)) = self.changes.back() else { return Ok(self.back.take()) };
            match &self.back {
                Some(row) if row.key > *key => return Ok(self.back.take()),
                Some(row) if row.key == *key => self.back = None,
                _ => {}
            }
            let row = self.changes.pop_back().and_then(|change| self.changed(change));
            if row.is_some() {
                return Ok(row);
            }
        }
    }

    fn ended(&mut self, row: Result<Option<Row>>) -> Option<Result<Row>> {
        self.has_failed = row.is_err();
        row.transpose()
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let row = self.next_row();
        self.ended(row)
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let row = self.next_row_back();
        self.ended(row)
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rows")
    }
}
