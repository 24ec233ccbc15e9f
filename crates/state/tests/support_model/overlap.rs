//! Very many operations on tables so small that runs overlap in several levels, compared with a
//! map: `lsm-tree` before 3.1.9 put such runs in the wrong order, and a read returned an older
//! value (its pull request 316).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lithdb::{DuplicateKeys, TableOptions};
use lithdb_lthash::LtHash;
use lithdb_process_tests::scratch;
use lithdb_sim::{Choice, Effort, SeededChoice, Tally};
use lithdb_state::{ChangeSet, Durability, StateComponents, StateDb, StateOptions, View};
use lithdb_state_engine::{LsmEngines, LsmOptions};

use crate::support::model::{Rows, root_of, rows_of};

const KEYS: usize = 600;
const STORES: [&str; 2] = ["a", "bank"];

fn key(number: usize) -> Vec<u8> {
    format!("key-{number:04}").into_bytes()
}

/// The rows, and their hash as it follows from every change alone.
#[derive(Default)]
struct Map {
    rows: Rows,
    hash: LtHash,
}

impl Map {
    fn set(&mut self, store: &str, key: &[u8], row: Option<(Vec<u8>, u64)>) {
        let physical = [store.as_bytes(), b"/", key].concat();
        let name = (store.to_owned(), key.to_vec());
        if let Some((value, _)) = &row {
            self.hash.add_pair(&physical, value);
        }
        let old = match row {
            Some(row) => self.rows.insert(name, row),
            None => self.rows.remove(&name),
        };
        if let Some((value, _)) = old {
            self.hash.remove_pair(&physical, &value);
        }
    }
}

/// A version that changes keys in a range of random place and width.
fn changes(
    version: u64,
    choice: &mut SeededChoice,
) -> (&'static str, BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
    let width = [1, 3, 20, 150, KEYS][choice.choose(5)];
    let (begin, store) = (choice.choose(KEYS - width + 1), STORES[choice.choose(2)]);
    let changes = (0..1 + choice.choose(60)).map(|_| {
        let value = format!("{version}-{}", "v".repeat(choice.choose(60))).into_bytes();
        (key(begin + choice.choose(width)), (choice.choose(6) > 0).then_some(value))
    });
    (store, changes.collect())
}

fn commit(db: &StateDb, map: &mut Map, choice: &mut SeededChoice) -> u64 {
    let version = db.version() + 1;
    let (store, changes) = changes(version, choice);
    let mut set = ChangeSet::new(store).unwrap();
    for (key, value) in &changes {
        set = match value {
            Some(value) => set.put(key, value),
            None => set.delete(key),
        };
    }
    let done = db.commit_block(version, &[set]).unwrap();
    let count = changes.len() as u64;
    for (key, value) in changes {
        map.set(store, &key, value.map(|value| (value, version)));
    }
    assert_eq!(done.root, map.hash.root(), "version {version}");
    count
}

/// Some keys, and a range from both ends.
fn compare_some(view: &View, rows: &Rows, choice: &mut SeededChoice) {
    let store = STORES[choice.choose(2)];
    for _ in 0..10 {
        let key = key(choice.choose(KEYS));
        let row = rows.get(&(store.to_owned(), key.clone()));
        let found = view.get(store, &key).unwrap();
        assert_eq!(found.as_deref(), row.map(|row| &row.0[..]), "{key:?} of {}", view.version());
        assert_eq!(view.modified_at(store, &key).unwrap(), row.map(|row| row.1), "{key:?}");
    }
    let from = choice.choose(KEYS);
    let (from, to) = (key(from), key(from + choice.choose(60)));
    let name = |key: &[u8]| (store.to_owned(), key.to_vec());
    let expected: Vec<_> = rows.range(name(&from)..name(&to)).collect();
    let range = || view.range(store, &from[..]..&to[..]).unwrap();
    let (found, mut reversed): (Vec<_>, Vec<_>) = (
        range().map(|row| row.unwrap()).collect(),
        range().rev().map(|row| row.unwrap()).collect(),
    );
    reversed.reverse();
    assert_eq!(found, reversed, "{from:?} to {to:?} of version {}", view.version());
    assert_eq!(found.len(), expected.len(), "{from:?} to {to:?} of version {}", view.version());
    for (found, ((_, key), (value, modified_at))) in found.iter().zip(expected) {
        assert_eq!((&found.key[..], &found.value[..]), (&key[..], &value[..]));
        assert_eq!(found.modified_at, *modified_at, "{key:?}");
    }
}

/// Everything, from both ends, and the hash of what was found.
fn compare_all(view: &View, rows: &Rows) {
    let found = rows_of(view);
    assert_eq!(found, *rows, "version {}", view.version());
    assert_eq!(root_of(&found), view.root(), "version {}", view.version());
}

fn open(dir: &Path) -> StateDb {
    let wal = TableOptions::new().segment_keys(400).duplicate_keys(DuplicateKeys::Reject);
    let options = StateOptions::new()
        .durability(Durability::OnFlush)
        .memtable_bytes(3_000)
        .snapshot_interval(700)
        .keep_snapshots(0)
        .hash_threads(1)
        .wal(wal);
    let tables = LsmOptions { table_bytes: 4096, level_0_tables: 6, ..LsmOptions::default() };
    let mut components = StateComponents::default();
    components.engines = Some(Arc::new(LsmEngines::new(tables)));
    StateDb::open_with(dir, options, components).unwrap()
}

pub fn overlapping_runs() {
    let effort = Effort::from_env();
    let mut choice = SeededChoice::new(effort.seed("overlapping runs of a store"));
    let mut tally = Tally::new("overlapping runs of a state store");
    let dir = scratch();
    let path = dir.path().join("state");
    let (mut db, mut map) = (open(&path), Map::default());
    let mut kept: Option<(View, Rows)> = None;
    let mut changed = 0;
    while changed < effort.times(50_000) {
        changed += commit(&db, &mut map, &mut choice);
        let view = db.latest();
        compare_some(&view, &map.rows, &mut choice);
        let stats = db.stats().engine;
        let is_deep = stats.level_0_runs > 1 && stats.files > stats.level_0_runs;
        tally.add("versions with overlapping runs and a lower level", u64::from(is_deep));
        tally.add("versions", 1);
        if choice.choose(60) == 0 {
            compare_all(&view, &map.rows);
            if let Some((view, rows)) = kept.replace((view, map.rows.clone())) {
                compare_all(&view, &rows);
            }
            tally.add("versions compared whole", 1);
        }
        if choice.choose(500) == 0 {
            kept = None;
            if choice.choose(2) == 0 {
                db.close().unwrap();
            }
            drop(db);
            db = open(&path);
            assert_eq!(db.root(), map.hash.root());
            compare_all(&db.latest(), &map.rows);
            tally.add("opened again", 1);
            tally.add("versions replayed", db.opened().replayed);
        }
    }
    compare_all(&db.latest(), &map.rows);
    tally.add("rows changed", changed);
    let overlapping = tally.get("versions with overlapping runs and a lower level");
    assert!(overlapping * 4 > tally.get("versions"), "{tally:?}");
}
