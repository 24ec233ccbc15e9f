//! What a pin reads: the memtables and the tables of one instant, which stay as they are.
//!
//! A view never looks at its tree again, so that it takes none of its locks, and nothing that the
//! tree forgets concerns it. `lsm-tree` does not export the types of a tree's state; closures
//! capture them.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use lsm_tree::table::filter::standard_bloom::Builder;
use lsm_tree::{AbstractTree, InternalValue, Memtable, SeqNo, Slice, Tree, UserKey};

use super::lifetime::Lifetime;

/// A range of keys.
pub(super) type KeyRange = (Bound<UserKey>, Bound<UserKey>);
/// Rows from both ends, the newest version of each; no deleted ones.
pub(super) type Rows = Box<dyn DoubleEndedIterator<Item = lsm_tree::Result<InternalValue>> + Send>;

type Lookup = dyn Fn(&[u8], SeqNo) -> lsm_tree::Result<Option<InternalValue>> + Send + Sync;
type Scan = dyn Fn(&View, &KeyRange, SeqNo) -> Rows + Send + Sync;

/// The tables of a tree at one instant. They hold their files open.
pub(super) struct Tables {
    lookup: Box<Lookup>,
    scan: Box<Scan>,
    pub(super) level_0_runs: usize,
    pub(super) count: usize,
    pub(super) disk_bytes: u64,
    _lifetime: Option<Arc<Lifetime>>,
}

impl Tables {
    /// The tables of `tree` now. Nobody may be changing them.
    pub(super) fn of(tree: &Tree, lifetime: Option<Arc<Lifetime>>) -> Self {
        let version = tree.current_version();
        let level_0_runs = version.level(0).map_or(0, |level| level.run_count());
        let (count, disk_bytes) = (version.table_count(), tree.disk_space());
        let lookup = move |key: &[u8], seqno| {
            let hash = Builder::get_hash(key);
            let runs = version.iter_levels().flat_map(|level| level.iter());
            for table in runs.filter_map(|run| run.get_for_key(key)) {
                // The runs are in the order of their age: the first version is the newest.
                if let Some(found) = table.get(key, seqno, hash)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        };
        // The memtables of the tree itself are always empty: ours take their place.
        let state = tree.get_version_history_lock().latest_version();
        let scan = move |view: &View, range: &KeyRange, seqno| -> Rows {
            let mut state = state.clone();
            state.active_memtable = Arc::clone(&view.active);
            let sealed = view.sealed_as_one().map(|memtable| (memtable, seqno));
            Box::new(Tree::create_internal_range(state, range, seqno, sealed))
        };
        let (lookup, scan) = (Box::new(lookup), Box::new(scan));
        Self { lookup, scan, level_0_runs, count, disk_bytes, _lifetime: lifetime }
    }
}

/// Everything that an engine holds at one instant. The active memtable grows; what it gets later
/// is newer than the pins of this view.
pub(super) struct View {
    pub(super) active: Arc<Memtable>,
    /// Those that have not been flushed, from the oldest to the newest, with their numbers.
    pub(super) sealed: Vec<(u64, Arc<Memtable>)>,
    pub(super) tables: Arc<Tables>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sealed: Vec<u64> = self.sealed.iter().map(|(number, _)| *number).collect();
        f.debug_struct("View")
            .field("memtable_bytes", &self.active.size())
            .field("sealed", &sealed)
            .field("tables", &self.tables.count)
            .finish()
    }
}

impl View {
    /// The value of a row as of `moment`.
    pub(super) fn get(&self, moment: u64, key: &[u8]) -> lsm_tree::Result<Option<Bytes>> {
        let seqno = moment + 1;
        let sealed = self.sealed.iter().rev().map(|(_, memtable)| memtable);
        let mut memtables = std::iter::once(&self.active).chain(sealed);
        let found = match memtables.find_map(|memtable| memtable.get(key, seqno)) {
            Some(found) => Some(found),
            None => (self.tables.lookup)(key, seqno)?,
        };
        Ok(found.filter(|row| !row.is_tombstone()).map(|row| bytes_of(&row.value)))
    }

    /// The rows in a range as of `moment`. The range must not end before it begins.
    pub(super) fn rows(&self, moment: u64, range: &KeyRange) -> Rows {
        (self.tables.scan)(self, range, moment + 1)
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|(_, memtable)| memtable.size()).sum();
        self.active.size() + sealed
    }

    /// The sealed memtables as one. Copies them if there are several, which the state store never
    /// lets happen.
    fn sealed_as_one(&self) -> Option<Arc<Memtable>> {
        merged(self.sealed.iter().map(|(_, memtable)| memtable))
    }
}

/// Several memtables as one.
pub(super) fn merged<'a>(
    mut memtables: impl Iterator<Item = &'a Arc<Memtable>>,
) -> Option<Arc<Memtable>> {
    let first = memtables.next()?;
    let Some(second) = memtables.next() else { return Some(Arc::clone(first)) };
    let merged = Memtable::new(0);
    for memtable in [first, second].into_iter().chain(memtables) {
        memtable.iter().for_each(|row| {
            merged.insert(row);
        });
    }
    Some(Arc::new(merged))
}

/// Our own copy of a key or a value: a part of a block would keep the block in memory.
pub(super) fn bytes_of(slice: &Slice) -> Bytes {
    Bytes::copy_from_slice(slice)
}
