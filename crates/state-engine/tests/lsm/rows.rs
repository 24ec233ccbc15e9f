//! Versions whose rows can be computed again, and short forms of calls.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use lithdb_env::Result;
use lithdb_sim::{Choice, SeededChoice};
use lithdb_state_engine::{Engine, Engines, LsmEngines, LsmOptions, OpenMode, Pin};

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The row that says which version an engine is at.
pub const META: &[u8] = b"!meta";

/// Engines with tables so small that a few versions make several levels.
pub fn engines() -> LsmEngines {
    LsmEngines::new(LsmOptions { table_bytes: 4096, level_0_tables: 2, ..LsmOptions::default() })
}

/// The rows that a version changes, without META.
pub fn changes(version: u64) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut choice = SeededChoice::new(version);
    let mut changes = BTreeMap::new();
    for _ in 0..14 {
        let key = format!("key-{:02}", choice.choose(50)).into_bytes();
        let len = choice.choose(400);
        let value = (choice.choose(5) > 0).then(|| {
            let begin = format!("{version}:").into_bytes();
            begin.into_iter().chain((0..len).map(|at| (at as u64 * version) as u8)).collect()
        });
        changes.insert(key, value);
    }
    changes
}

pub fn meta_of(version: u64) -> Vec<u8> {
    version.to_be_bytes().to_vec()
}

/// All rows of a version.
pub fn rows_at(version: u64) -> Map {
    let mut rows = Map::new();
    for version in 1..=version {
        for (key, value) in changes(version) {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
        rows.insert(META.to_vec(), meta_of(version));
    }
    rows
}

/// Applies the rows of a version as two batches.
pub fn apply(engine: &Arc<dyn Engine>, version: u64) -> Result<()> {
    let changes = changes(version);
    let half = changes.len() / 2;
    let row = |(key, value): (&'_ Vec<u8>, &'_ Option<Vec<u8>>)| (key.clone(), value.clone());
    let rows: Vec<_> = changes.iter().map(row).collect();
    for part in [&rows[..half], &rows[half..]] {
        engine.apply(&mut part.iter().map(|(key, value)| (&key[..], value.as_deref())))?;
    }
    Ok(())
}

pub fn read_at(engine: &Arc<dyn Engine>, pin: &Pin) -> Result<Map> {
    let rows = Arc::clone(engine).range(pin, Bound::Unbounded, Bound::Unbounded);
    rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

pub fn read(engine: &Arc<dyn Engine>) -> Result<Map> {
    read_at(engine, &engine.pin())
}

/// The version that a map says it is; 0 for an empty one.
pub fn version_of(rows: &Map) -> u64 {
    let meta = rows.get(META).map(|meta| u64::from_be_bytes(meta[..].try_into().unwrap()));
    meta.unwrap_or(0)
}

/// Opens a directory and returns its rows.
pub fn read_dir(dir: &Path, mode: OpenMode) -> Result<Map> {
    read(&engines().open(dir, mode)?)
}

/// The files below a directory with their bytes.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tree = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            let below = self::tree(&entry.path());
            tree.extend(below.into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            tree.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    tree
}

/// Makes a directory of these files.
pub fn write_tree(dir: &Path, tree: &BTreeMap<String, Vec<u8>>) {
    std::fs::create_dir_all(dir.join("tables")).unwrap();
    for (name, bytes) in tree {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
