//! What is checked after every step, and the steps that only read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use lithdb_state::{Pending, Row, Rows as Iter, SnapshotClass, StateDb, Unreachable, View};

use super::op::{End, KEYS, STORES};
use super::run::{Run, count};
use crate::support::model::{Change, Rows, root_of};
use crate::support::{DIR, Harness, small};

/// A view and the pending changes of its moment, which are kept, with an iterator of each, and what
/// they must return for ever.
pub struct Held {
    view: View,
    rows: Rows,
    pending: Pending,
    rows_pending: Rows,
    iters: [Begun; 2],
}

/// An iterator that was begun, and the rows that it has not returned.
struct Begun {
    iter: Iter,
    left: VecDeque<Row>,
}

impl Begun {
    fn new(mut iter: Iter, rows: Vec<Row>, (front, back): (usize, usize), context: &str) -> Self {
        let mut left: VecDeque<Row> = rows.into();
        for _ in 0..front {
            assert_eq!(iter.next().map(|row| row.unwrap()), left.pop_front(), "{context}");
        }
        for _ in 0..back {
            assert_eq!(iter.next_back().map(|row| row.unwrap()), left.pop_back(), "{context}");
        }
        Self { iter, left }
    }
}

impl Held {
    fn check(&self, context: &str) {
        let context = format!("{context}: kept");
        check_view(&self.view, &self.rows, &context);
        for store in STORES {
            let expected = rows_of(&self.rows_pending, store);
            assert_eq!(read(self.pending.iter(store).unwrap()), expected, "{context}: {store}");
        }
    }

    /// Reads the rest of the iterators.
    pub fn end(self) {
        self.check("the end");
        for Begun { iter, left } in self.iters {
            assert_eq!(VecDeque::from(read(iter)), left, "an iterator that was kept");
        }
    }
}

/// The rows of a store, in order.
fn rows_of(rows: &Rows, store: &str) -> Vec<Row> {
    let of_store = rows.iter().filter(|((name, _), _)| name == store);
    of_store
        .map(|((_, key), (value, modified_at))| Row {
            key: key.clone().into(),
            value: value.clone().into(),
            modified_at: *modified_at,
        })
        .collect()
}

fn read(iter: Iter) -> Vec<Row> {
    iter.map(|row| row.unwrap()).collect()
}

fn read_back(iter: Iter) -> Vec<Row> {
    let mut rows: Vec<Row> = iter.rev().map(|row| row.unwrap()).collect();
    rows.reverse();
    rows
}

/// The view returns exactly `rows`, by keys and by iteration from both ends.
fn check_view(view: &View, rows: &Rows, context: &str) {
    let mut stores = Vec::new();
    for store in STORES {
        let expected = rows_of(rows, store);
        assert_eq!(read(view.iter(store).unwrap()), expected, "{context}: {store}");
        assert_eq!(read_back(view.iter(store).unwrap()), expected, "{context}: {store}, back");
        for key in KEYS {
            let row = rows.get(&(store.to_owned(), key.to_vec()));
            let value = row.map(|(value, _)| &value[..]);
            assert_eq!(view.get(store, key).unwrap().as_deref(), value, "{context}: {store}");
            let modified_at = row.map(|(_, modified_at)| *modified_at);
            assert_eq!(view.modified_at(store, key).unwrap(), modified_at, "{context}: {store}");
        }
        assert_eq!(view.store_hash(store).unwrap().is_some(), !expected.is_empty(), "{context}");
        if !expected.is_empty() {
            let bytes = expected.iter().map(|row| (row.key.len() + row.value.len()) as u64);
            stores.push((store.to_owned(), expected.len() as u64, bytes.sum::<u64>()));
        }
    }
    stores.sort();
    let found = view.stores().into_iter().map(|(name, keys, len)| (name.to_string(), keys, len));
    assert_eq!(found.collect::<Vec<_>>(), stores, "{context}: keys and bytes of the stores");
}

fn bound(end: End) -> Bound<&'static [u8]> {
    match end {
        None => Bound::Unbounded,
        Some((key, true)) => Bound::Included(KEYS[key]),
        Some((key, false)) => Bound::Excluded(KEYS[key]),
    }
}

fn is_within(key: &[u8], from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    let is_after = match from {
        Bound::Unbounded => true,
        Bound::Included(from) => key >= from,
        Bound::Excluded(from) => key > from,
    };
    let is_before = match to {
        Bound::Unbounded => true,
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
    };
    is_after && is_before
}

impl Run {
    /// Everything that must hold after every step.
    pub fn check(&mut self) {
        assert!(!self.harness.fs.is_dead(), "{}", self.context);
        self.note_events();
        let context = &self.context;
        let (db, head) = (self.db(), self.model.head());
        let at_head = self.model.at(head);
        assert_eq!((db.version(), db.root()), (head, at_head.root), "{context}");
        let latest = db.latest();
        assert_eq!((latest.version(), latest.root()), (head, at_head.root), "{context}");
        check_view(&latest, &at_head.rows, context);
        self.check_pending();
        let durable = db.durable_version();
        assert!((self.durable..=head).contains(&durable), "{context}: durable {durable}");
        self.check_snapshots();
        let stats = db.stats();
        assert_eq!((stats.version, stats.failure), (head, None), "{context}");
        assert_eq!(stats.last_snapshot_error, None, "{context}");
        self.durable = durable;
        if let Some(held) = self.held.get(self.serial as usize % self.held.len().max(1)) {
            held.check(&self.context);
        }
    }

    /// The rows after what is pending.
    fn rows_pending(&self) -> Rows {
        let head = self.model.head();
        let mut rows = self.model.at(head).rows.clone();
        for Change { store, key, value } in &self.pending {
            let key = (store.clone(), key.clone());
            match value {
                Some(value) => drop(rows.insert(key, (value.clone(), head + 1))),
                None => drop(rows.remove(&key)),
            }
        }
        rows
    }

    fn check_pending(&self) {
        let (pending, rows) = (self.db().pending(), self.rows_pending());
        let context = format!("{}: pending", self.context);
        assert_eq!(pending.version(), self.model.head() + 1, "{context}");
        assert_eq!(self.db().stats().pending_bytes > 0, !self.pending.is_empty(), "{context}");
        for store in STORES {
            let expected = rows_of(&rows, store);
            assert_eq!(read(pending.iter(store).unwrap()), expected, "{context}: {store}");
            let back = read_back(pending.iter(store).unwrap());
            assert_eq!(back, expected, "{context}: {store}, back");
            for key in KEYS {
                let row = rows.get(&(store.to_owned(), key.to_vec()));
                let value = row.map(|(value, _)| &value[..]);
                assert_eq!(pending.get(store, key).unwrap().as_deref(), value, "{context}");
                let modified_at = row.map(|(_, modified_at)| *modified_at);
                assert_eq!(pending.modified_at(store, key).unwrap(), modified_at, "{context}");
            }
        }
    }

    /// The root that a commit would give now.
    pub fn check_pending_root(&self) {
        let expected = root_of(&self.rows_pending());
        assert_eq!(self.db().pending().root().unwrap(), expected, "{}", self.context);
    }

    fn check_snapshots(&self) {
        let context = &self.context;
        let found = self.db().snapshots().unwrap();
        let versions: Vec<u64> = found.iter().map(|snapshot| snapshot.version).collect();
        let expected: Vec<u64> = self.snapshots.iter().copied().collect();
        assert_eq!(versions, expected, "{context}: the snapshots");
        for snapshot in found {
            let root = self.model.at(snapshot.version).root;
            assert_eq!(snapshot.class, SnapshotClass::Valid, "{context}: {snapshot:?}");
            assert_eq!(snapshot.root, Some(root), "{context}: {snapshot:?}");
        }
        for dir in ["working.new", "trash", "views"] {
            assert!(self.harness.names(dir).is_empty(), "{context}: {dir} was left");
        }
    }

    /// After a commit: no snapshot is overdue.
    pub fn check_interval(&mut self) {
        self.note_events();
        let interval = self.environment.snapshot_interval;
        if interval > 0 && !self.harness.fs.is_dead() {
            let newest = self.snapshots.last().copied().unwrap_or(self.model.base);
            let since = self.model.head() - newest;
            assert!(since < interval, "{}: {since} versions without a snapshot", self.context);
        }
    }

    /// The oldest version of the log. Beside the writer, which may be closed.
    fn oldest_version(&self) -> u64 {
        // A disk that has crashed cannot be asked; a copy of it has the same bytes.
        let harness = self.harness.fork();
        StateDb::inspect_with(DIR, harness.components()).unwrap().oldest_version
    }

    /// Whether a snapshot, or the empty state, and the log lead to `version`.
    pub fn is_reachable(&self, version: u64) -> bool {
        let (oldest, base) = (self.oldest_version(), self.model.base);
        if version > self.model.head() || version < base {
            return false;
        }
        let from_snapshot = self.snapshots.range(..=version).next_back();
        oldest == base || from_snapshot.is_some_and(|snapshot| snapshot + 1 >= oldest)
    }

    pub fn hold(&mut self, front: usize, back: usize) {
        self.keep(self.db().latest(), front, back);
    }

    /// A view of a past version: it is kept, and compared then and later.
    pub fn view(&mut self, back: u64) {
        let version = self.version_back(back);
        match self.db().view(version) {
            Ok(view) => {
                let expected = self.model.at(version);
                let found = (view.version(), view.root());
                assert_eq!(found, (version, expected.root), "{}", self.context);
                check_view(&view, &expected.rows, &format!("{}: past", self.context));
                let is_newest = version == self.model.head();
                assert!(is_newest || self.is_reachable(version), "{}", self.context);
                assert_eq!(self.harness.names("views"), [""; 0], "{}", self.context);
                if !is_newest {
                    count("views of past versions");
                }
                self.keep(view, version as usize % 3, back as usize % 2);
            }
            Err(error) if self.is_dead() => {
                self.done::<()>(Err(error));
            }
            Err(error) => self.refused(version, &error),
        }
    }

    /// Keeps a view, and an iterator that has read some rows.
    fn keep(&mut self, view: View, front: usize, back: usize) {
        let rows = self.model.at(view.version()).rows.clone();
        let (pending, rows_pending) = (self.db().pending(), self.rows_pending());
        let store = STORES[front % STORES.len()];
        let begun = |iter: lithdb_state::Result<Iter>, rows: &Rows| {
            Begun::new(iter.unwrap(), rows_of(rows, store), (front, back), &self.context)
        };
        let iters = [begun(view.iter(store), &rows), begun(pending.iter(store), &rows_pending)];
        self.held.push(Held { view, rows, pending, rows_pending, iters });
        if self.held.len() > 4 {
            self.held.remove(0).end();
        }
    }

    pub fn walk(&self, store: usize, from: End, to: End, turns: u64, is_pending: bool) {
        let (store, range) = (STORES[store], (bound(from), bound(to)));
        let (mut iter, rows) = match is_pending {
            true => {
                let iter = self.db().pending().range::<&[u8]>(store, range);
                (iter.unwrap(), self.rows_pending())
            }
            false => {
                let iter = self.db().latest().range::<&[u8]>(store, range);
                (iter.unwrap(), self.model.at(self.model.head()).rows.clone())
            }
        };
        let mut left: VecDeque<Row> = rows_of(&rows, store).into();
        left.retain(|row| is_within(&row.key, range.0, range.1));
        for turn in 0..left.len() + 2 {
            let is_front = turns >> (turn % 64) & 1 == 0;
            let (found, expected) = match is_front {
                true => (iter.next(), left.pop_front()),
                false => (iter.next_back(), left.pop_back()),
            };
            assert_eq!(found.map(|row| row.unwrap()), expected, "{}: row {turn}", self.context);
        }
    }

    /// A view of another process. It sees what is in the files of the log: at least what is
    /// durable.
    pub fn view_only(&self, back: Option<u64>) {
        let head = self.model.head();
        let (version, expected) = match back {
            None => (None, self.durable..=head),
            Some(back) => {
                let count = head - self.model.base + 3;
                let version = (head + 1).saturating_sub(back % count);
                (Some(version), version..=version)
            }
        };
        match StateDb::view_only_with(
            DIR,
            version,
            self.harness.options.clone(),
            self.harness.components(),
        ) {
            Ok(view) => {
                let found = view.version();
                assert!(expected.contains(&found), "{}: {found}, {expected:?}", self.context);
                let expected = self.model.at(found);
                assert_eq!(view.root(), expected.root, "{}", self.context);
                check_view(&view, &expected.rows, &format!("{}: beside", self.context));
                assert!(self.is_reachable(found), "{}", self.context);
                self.import_elsewhere(&view);
            }
            Err(error) if self.harness.fs.is_dead() => {
                self.done::<()>(Err(error));
            }
            Err(error) => {
                let version = version.unwrap_or(head);
                // The writer has versions that are not in the files.
                if !(self.durable + 1..=head).contains(&version) {
                    self.refused(version, &error);
                }
            }
        }
    }

    /// An import of the view is the same version.
    fn import_elsewhere(&self, view: &View) {
        let (mut export, harness) = (Vec::new(), Harness::new(small().memtable_bytes(200)));
        view.export(&mut export).unwrap();
        harness.import(&export).unwrap();
        let latest = harness.open().latest();
        assert_eq!(latest.version(), view.version(), "{}", self.context);
        let rows = &self.model.at(view.version()).rows;
        check_view(&latest, rows, &format!("{}: imported", self.context));
    }

    /// The inspection beside the writer agrees with what the writer says.
    pub fn inspect(&self) {
        let context = &self.context;
        let found = StateDb::inspect_with(DIR, self.harness.components()).unwrap();
        let head = self.model.head();
        assert!((self.durable..=head).contains(&found.version), "{context}: {found:?}");
        assert_eq!(found.root, self.model.at(found.version).root, "{context}");
        assert_eq!(found.initial_version, self.model.base + 1, "{context}");
        let snapshots: Vec<u64> = found.snapshots.iter().map(|it| it.version).collect();
        assert_eq!(snapshots, self.snapshots.iter().copied().collect::<Vec<_>>(), "{context}");
        let oldest = found.oldest_version;
        match self.snapshots.first() {
            Some(lowest) => assert!(oldest <= *lowest, "{context}: {oldest}, {lowest}"),
            None => assert_eq!(oldest, self.model.base, "{context}"),
        }
        if oldest > self.model.base {
            count("logs collected");
        }
        let outcomes: BTreeMap<u64, bool> =
            (self.model.base..=head + 1).map(|v| (v, self.db().reach(v).is_ok())).collect();
        let expected: BTreeMap<u64, bool> =
            outcomes.keys().map(|version| (*version, self.is_reachable(*version))).collect();
        assert_eq!(outcomes, expected, "{context}: the versions that can be reached");
        let lowest = outcomes.iter().find(|(_, is_reachable)| **is_reachable);
        let floor = match self.db().rollback_floor() {
            Ok(floor) => Some(floor),
            Err(error) => {
                assert!(Unreachable::of(&error).is_some(), "{context}: {error}");
                None
            }
        };
        assert_eq!(floor, lowest.map(|(version, _)| *version), "{context}");
    }
}
