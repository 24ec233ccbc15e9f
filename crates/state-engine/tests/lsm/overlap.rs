//! Tables that overlap in every way: `lsm-tree` before 3.1.9 put them in the wrong order, and a
//! get returned an older value (its pull request 316).

use std::ops::Bound;
use std::sync::Arc;

use lithdb_process_tests::scratch;
use lithdb_sim::{Choice, Effort, SeededChoice, Tally};
use lithdb_state_engine::{Engine, Engines, OpenMode};

use crate::rows::{Map, engines, read, read_at};

const KEYS: usize = 600;

fn key(number: usize) -> Vec<u8> {
    format!("key-{number:04}").into_bytes()
}

/// Puts and deletes in a range of keys of random place and width; returns the number of rows.
fn change(engine: &Arc<dyn Engine>, rows: &mut Map, n: u64, choice: &mut SeededChoice) -> u64 {
    let width = [1, 3, 20, 150, KEYS][choice.choose(5)];
    let begin = choice.choose(KEYS - width + 1);
    let batch: std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>> = (0..1 + choice.choose(30))
        .map(|_| {
            let value = format!("{n:010}-{}", "v".repeat(choice.choose(60))).into_bytes();
            (key(begin + choice.choose(width)), (choice.choose(6) > 0).then_some(value))
        })
        .collect();
    engine.apply(&mut batch.iter().map(|(key, value)| (&key[..], value.as_deref()))).unwrap();
    let changed = batch.len() as u64;
    for (key, value) in batch {
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
    changed
}

fn assert_same(engine: &Arc<dyn Engine>, rows: &Map, choice: &mut SeededChoice) {
    let pin = engine.pin();
    for _ in 0..10 {
        let key = key(choice.choose(KEYS));
        let found = engine.get(&pin, &key).unwrap();
        assert_eq!(found.as_deref(), rows.get(&key).map(|value| &value[..]), "{key:?}");
    }
    let from = choice.choose(KEYS);
    let (from, to) = (key(from), key(from + choice.choose(40)));
    let expected: Vec<_> = rows.range(from.clone()..to.clone()).rev().collect();
    let found = Arc::clone(engine).range(&pin, Bound::Included(&from), Bound::Excluded(&to)).rev();
    let found: Vec<_> =
        found.map(|row| row.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    assert_eq!(found.iter().map(|(k, v)| (k, v)).collect::<Vec<_>>(), expected);
}

#[test]
fn overlapping_runs_never_show_an_older_value() {
    let effort = Effort::from_env();
    let mut choice = SeededChoice::new(effort.seed("overlapping runs"));
    let mut tally = Tally::new("overlapping runs");
    let dir = scratch();
    let path = dir.path().join("engine");
    let mut engine = engines().create(&path).unwrap();
    let (mut rows, mut durable, mut changed, mut n) = (Map::new(), Map::new(), 0, 0);
    let mut pinned = None;
    while changed < effort.times(100_000) {
        n += 1;
        changed += change(&engine, &mut rows, n, &mut choice);
        assert_same(&engine, &rows, &mut choice);
        if choice.choose(6) == 0 {
            engine.flush(&engine.seal(&[]).unwrap()).unwrap();
            durable.clone_from(&rows);
            tally.add("flushes", 1);
        }
        if choice.choose(9) == 0 {
            engine.compact_once().unwrap();
            tally.add("compactions", 1);
        }
        if choice.choose(60) == 0 {
            assert_eq!(read(&engine).unwrap(), rows);
            if let Some((pin, rows)) = pinned.replace((engine.pin(), rows.clone())) {
                assert_eq!(read_at(&engine, &pin).unwrap(), rows);
            }
        }
        if choice.choose(400) == 0 {
            pinned = None;
            drop(engine);
            engine = engines().open(&path, OpenMode::Write).unwrap();
            rows.clone_from(&durable);
            assert_eq!(read(&engine).unwrap(), rows);
            tally.add("reopened", 1);
        }
    }
    tally.add("rows changed", changed);
    assert_eq!(read(&engine).unwrap(), rows);
}
