//! Comparing a store with the model: views, the log, the snapshots on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb::Table;
use lithdb_lthash::RootHash;
use lithdb_state::{SnapshotClass, StateDb, View};
use lithdb_state_engine::{CheckLevel, Engines, ModelEngines, OpenMode};

use super::model::{Model, Rows, root_of, rows_of};
use super::{DIR, Harness};

/// The view is exactly `model` at its version.
pub fn view(view: &View, model: &Model, context: &str) {
    let version = view.version();
    let expected =
        model.get(version).unwrap_or_else(|| panic!("{context}: nobody committed {version}"));
    let rows = rows_of(view);
    assert_eq!(rows, expected.rows, "{context}: the rows of version {version}");
    assert_eq!(root_of(&rows), view.root(), "{context}: the root is that of the rows");
    assert_eq!(view.root(), expected.root, "{context}: the root of version {version}");
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for ((store, key), (value, modified_at)) in &rows {
        let (keys, bytes) = totals.entry(store.clone()).or_default();
        (*keys, *bytes) = (*keys + 1, *bytes + (key.len() + value.len()) as u64);
        assert_eq!(view.get(store, key).unwrap().as_deref(), Some(&value[..]), "{context}");
        assert_eq!(view.modified_at(store, key).unwrap(), Some(*modified_at), "{context}");
    }
    let stores = view.stores().into_iter();
    let stores: BTreeMap<_, _> =
        stores.map(|(name, keys, bytes)| (name.to_string(), (keys, bytes))).collect();
    assert_eq!(stores, totals, "{context}: keys and bytes of the stores");
    let ever = (model.base..=model.head()).flat_map(|version| model.at(version).rows.keys());
    for (store, key) in ever.filter(|key| !rows.contains_key(*key)) {
        assert_eq!(view.get(store, key).unwrap(), None, "{context}: {store}/{key:?}");
    }
}

/// A record of the log, as far as the harness reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub version: u64,
    pub previous_root: RootHash,
    pub root: RootHash,
}

/// The records of a log, decoded by the description of the format.
pub fn log_records(table: &Table) -> Vec<LogRecord> {
    let records = table.iter().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let value = entry.value().unwrap();
        let version = u64::from_be_bytes(entry.key().try_into().unwrap());
        assert_eq!(value[..4], *b"LSWR");
        assert_eq!(value[24..32], version.to_le_bytes(), "the version is that of the key");
        let root = |at: usize| RootHash(value[at..at + 32].try_into().unwrap());
        LogRecord { version, previous_root: root(32), root: root(64) }
    });
    records.collect()
}

/// The log has every version from one that every snapshot can be replayed from to `head`, each
/// with the roots before and after it.
pub fn log(records: &[LogRecord], model: &Model, head: u64, context: &str) {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        panic!("{context}: the log is empty");
    };
    assert_eq!(last.version, head, "{context}: the newest version of the log");
    for (n, record) in records.iter().enumerate() {
        let version = record.version;
        assert_eq!(version, first.version + n as u64, "{context}: the versions have no gap");
        let found = model.get(version);
        let found = found.unwrap_or_else(|| panic!("{context}: nobody committed {version}"));
        assert_eq!(record.root, found.root, "{context}: the root of {version} in the log");
        let before = model.get(version.wrapping_sub(1)).unwrap_or(found);
        assert_eq!(record.previous_root, before.root, "{context}: the root before {version}");
    }
}

/// What a directory of an engine holds.
pub struct EngineContents {
    /// Of the row META.
    pub version: u64,
    pub root: RootHash,
    pub rows: Rows,
}

/// Reads an engine's directory without changing it; every byte is checked.
pub fn engine_contents(harness: &Harness, dir: &Path) -> lithdb_state::Result<EngineContents> {
    let engines = ModelEngines::new(harness.env());
    engines.check(dir, None, CheckLevel::Bytes)?;
    let engine = engines.open(dir, OpenMode::ReadInPlace)?;
    let pin = engine.pin();
    let (mut rows, mut meta) = (Rows::new(), None);
    let all =
        Arc::clone(&engine).range(&pin, std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    for row in all {
        let (key, value): (Bytes, Bytes) = row?;
        if key[..] == [0, 0x6d] {
            meta = Some(value);
            continue;
        }
        let end = key.iter().position(|byte| *byte == b'/').unwrap();
        let store = String::from_utf8(key[..end].to_vec()).unwrap();
        let modified_at = u64::from_le_bytes(value[..8].try_into().unwrap());
        rows.insert((store, key[end + 1..].to_vec()), (value[8..].to_vec(), modified_at));
    }
    let meta = meta.expect("a row that names the version");
    let version = u64::from_le_bytes(meta[24..32].try_into().unwrap());
    Ok(EngineContents { version, root: RootHash(meta[32..64].try_into().unwrap()), rows })
}

/// The directories of snapshots that exist, by version, without those that are being made.
pub fn snapshot_dirs(harness: &Harness) -> BTreeMap<u64, PathBuf> {
    let names = harness.names("snapshots").into_iter();
    let versions = names.filter_map(|name| match name.len() {
        20 => Some((name.parse().unwrap(), Path::new(DIR).join("snapshots").join(&name))),
        _ => None,
    });
    versions.collect()
}

/// Every snapshot directory is complete, and holds exactly its version of one of `branches`.
pub fn snapshots_on_disk(harness: &Harness, branches: &[&Model], context: &str) {
    for (version, dir) in &snapshot_dirs(harness) {
        let manifest = dir.join("SNAPSHOT");
        assert!(harness.fs.file_paths().contains(&manifest), "{context}: {version} is incomplete");
        let found = engine_contents(harness, &dir.join("engine"))
            .unwrap_or_else(|e| panic!("{context}: snapshot {version}: {e}"));
        assert_eq!(found.version, *version, "{context}: the version that snapshot {version} holds");
        let of = branches.iter().filter_map(|model| model.get(*version));
        let of = of.into_iter().find(|expected| expected.root == found.root);
        let expected = of.unwrap_or_else(|| panic!("{context}: snapshot {version} of no branch"));
        assert_eq!(found.rows, expected.rows, "{context}: the rows of snapshot {version}");
    }
}

/// All snapshots of an open store are valid and of this branch; versions from the oldest base on
/// can be reached, and no others.
pub fn snapshots(db: &StateDb, model: &Model, context: &str) {
    let snapshots = db.snapshots().unwrap_or_else(|e| panic!("{context}: snapshots: {e}"));
    for snapshot in &snapshots {
        let version = snapshot.version;
        assert_eq!(snapshot.class, SnapshotClass::Valid, "{context}: {snapshot:?}");
        assert!(version <= db.version(), "{context}: snapshot {version} is above the head");
        assert_eq!(snapshot.root, Some(model.at(version).root), "{context}: snapshot {version}");
    }
}

/// Every version from `first` to the head can be reached, and none beyond.
pub fn reach(db: &StateDb, first: u64, context: &str) {
    let head = db.version();
    for version in first..=head {
        let reach = db.reach(version).unwrap_or_else(|e| panic!("{context}: {version}: {e}"));
        assert_eq!(reach.base.version() + reach.replays, version, "{context}: {reach:?}");
    }
    for version in [Some(head + 1), first.checked_sub(1)].into_iter().flatten() {
        let error = db.reach(version).expect_err(context);
        let unreachable = lithdb_state::Unreachable::of(&error);
        let unreachable = unreachable.unwrap_or_else(|| panic!("{context}: {error}"));
        assert_eq!(unreachable.target, version, "{context}: {unreachable}");
    }
}

/// The bytes of every snapshot that was ever seen: they must never change.
#[derive(Debug, Clone, Default)]
pub struct SnapshotBytes {
    /// By manifest.
    seen: BTreeMap<Vec<u8>, BTreeMap<PathBuf, Vec<u8>>>,
}

impl SnapshotBytes {
    /// Compares the snapshots on the disk with what was seen of them before, and remembers them.
    pub fn check(&mut self, harness: &Harness, context: &str) {
        let paths = harness.fs.file_paths();
        for (version, dir) in snapshot_dirs(harness) {
            let manifest = dir.join("SNAPSHOT");
            if !paths.contains(&manifest) {
                continue;
            }
            let files = paths.iter().filter(|path| path.starts_with(&dir));
            let files: BTreeMap<PathBuf, Vec<u8>> =
                files.map(|path| (path.clone(), harness.fs.read_raw(path))).collect();
            let before = self.seen.entry(files[&manifest].clone());
            let before = before.or_insert_with(|| files.clone());
            assert!(*before == files, "{context}: the files of snapshot {version} have changed");
        }
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }
}
