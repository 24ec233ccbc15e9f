//! The model: the rows of every version, and their roots, computed from the rows.

use std::collections::BTreeMap;

use lithdb_lthash::{LtHash, RootHash};
use lithdb_state::{ChangeSet, View};

/// A row: its value, and the version that last put it.
pub type Row = (Vec<u8>, u64);
/// Rows by store and key.
pub type Rows = BTreeMap<(String, Vec<u8>), Row>;

/// A put, or with `None` a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub store: String,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Change {
    pub fn put(store: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let (key, value) = (key.as_ref().to_vec(), Some(value.as_ref().to_vec()));
        Self { store: store.to_owned(), key, value }
    }

    pub fn delete(store: &str, key: impl AsRef<[u8]>) -> Self {
        Self { store: store.to_owned(), key: key.as_ref().to_vec(), value: None }
    }
}

/// The changes as the store takes them: one set for each, so that their order counts.
pub fn change_sets(changes: &[Change]) -> Vec<ChangeSet> {
    let set = |change: &Change| {
        let set = ChangeSet::new(&change.store).unwrap();
        match &change.value {
            Some(value) => set.put(&change.key, value),
            None => set.delete(&change.key),
        }
    };
    changes.iter().map(set).collect()
}

/// The stores that [`changes_of`] changes.
pub const STORES: [&str; 4] = ["bank", "a", "a-", "log"];

/// What `version` changes; another branch changes something else.
pub fn changes_of(branch: u64, version: u64) -> Vec<Change> {
    let bank = |n: u64| format!("k{}", (version + branch + n) % 5);
    let mut changes = vec![
        Change::put("bank", bank(0), "overwritten in the same version"),
        Change::put("bank", bank(0), format!("{version} of branch {branch}")),
        Change::put("log", version.to_be_bytes(), ""),
        Change::delete("log", version.saturating_sub(3).to_be_bytes()),
        Change::delete("bank", "never put"),
    ];
    if version.is_multiple_of(3) {
        changes.push(Change::delete("bank", bank(2)));
        changes.push(Change::put("a", [version as u8 % 4, 0xff], "x".repeat(branch as usize)));
    }
    if version.is_multiple_of(2) {
        changes.push(Change::put("a-", "one", version.to_le_bytes()));
    } else {
        changes.push(Change::delete("a-", "one"));
    }
    if branch > 0 {
        changes.push(Change::put("a", "branch", branch.to_string()));
    }
    changes
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub rows: Rows,
    pub root: RootHash,
}

/// All versions of a store, from the empty one before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The version of the empty state.
    pub base: u64,
    versions: Vec<Version>,
}

impl Model {
    /// A store whose first version will be `initial_version`.
    pub fn new(initial_version: u64) -> Self {
        let empty = Version { rows: Rows::new(), root: root_of(&Rows::new()) };
        Self { base: initial_version - 1, versions: vec![empty] }
    }

    /// The newest version.
    pub fn head(&self) -> u64 {
        self.base + self.versions.len() as u64 - 1
    }

    /// The state after `version`.
    pub fn at(&self, version: u64) -> &Version {
        &self.versions[(version - self.base) as usize]
    }

    /// The state after `version`, if there is such a version.
    pub fn get(&self, version: u64) -> Option<&Version> {
        self.versions.get(version.checked_sub(self.base)? as usize)
    }

    /// Commits the next version.
    pub fn commit(&mut self, changes: &[Change]) -> u64 {
        let version = self.head() + 1;
        let mut rows = self.at(version - 1).rows.clone();
        for change in changes {
            let key = (change.store.clone(), change.key.clone());
            match &change.value {
                Some(value) => drop(rows.insert(key, (value.clone(), version))),
                None => drop(rows.remove(&key)),
            }
        }
        let root = root_of(&rows);
        self.versions.push(Version { rows, root });
        version
    }

    /// Forgets everything below `version`, which becomes the base.
    pub fn forget_below(&mut self, version: u64) {
        drop(self.versions.drain(..version.saturating_sub(self.base) as usize));
        self.base = self.base.max(version);
    }

    /// Forgets everything after `target`.
    pub fn roll_back(&mut self, target: u64) {
        self.versions.truncate((target - self.base) as usize + 1);
    }
}

/// The root of rows, from nothing but the rows.
pub fn root_of(rows: &Rows) -> RootHash {
    let mut hash = LtHash::default();
    for ((store, key), (value, _modified_at)) in rows {
        hash.add_pair(&[store.as_bytes(), b"/", key].concat(), value);
    }
    hash.root()
}

/// The rows of a view, iterated in both directions.
pub fn rows_of(view: &View) -> Rows {
    let mut rows = Rows::new();
    let mut stores: Vec<String> = view.stores().iter().map(|(name, ..)| name.to_string()).collect();
    stores.extend(STORES.iter().map(|store| (*store).to_owned()));
    stores.sort();
    stores.dedup();
    for store in stores {
        let forwards: Vec<_> = view.iter(&store).unwrap().map(|row| row.unwrap()).collect();
        let mut backwards: Vec<_> =
            view.iter(&store).unwrap().rev().map(|row| row.unwrap()).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards, "store {store}: backwards differs");
        for row in forwards {
            let key = (store.clone(), row.key.to_vec());
            rows.insert(key, (row.value.to_vec(), row.modified_at));
        }
    }
    rows
}
