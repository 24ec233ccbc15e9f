//! Readers, the changing caller and the maintaining caller do not exclude each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use lithdb_sim::Effort;
use lithdb_state_engine::{Engine, Sealed};

use crate::bed::{Bed, map_at};

const ROWS: u64 = 20;

/// Sets all rows to `value`, as one batch; every fourth row is absent now and then.
fn set_all(engine: &Arc<dyn Engine>, value: u64) {
    let rows: Vec<(String, Option<String>)> = (0..ROWS)
        .map(|row| {
            let is_absent = row % 4 == 3 && value.is_multiple_of(3);
            (format!("row-{row:02}"), (!is_absent).then(|| format!("{value:08}")))
        })
        .collect();
    let mut rows =
        rows.iter().map(|(key, value)| (key.as_bytes(), value.as_deref().map(str::as_bytes)));
    engine.apply(&mut rows).unwrap();
}

/// Checks that a map is one batch of [`set_all`], and returns its value.
fn assert_whole(map: &crate::bed::Map) -> Option<u64> {
    let value = map.values().next()?.clone();
    assert!(map.values().all(|other| *other == value), "{map:?}");
    let number: u64 = String::from_utf8(value).unwrap().parse().unwrap();
    let expected = if number.is_multiple_of(3) { ROWS * 3 / 4 } else { ROWS };
    assert_eq!(map.len() as u64, expected, "{map:?}");
    Some(number)
}

/// Flushes what is sealed, and compacts, until the other end hangs up.
fn maintain(engine: &Arc<dyn Engine>, sealed: mpsc::Receiver<Sealed>) {
    for sealed in sealed {
        engine.flush(&sealed).unwrap();
        engine.compact_once().unwrap();
    }
}

pub fn readers_find_whole_batches_beside_changes_and_maintenance(bed: &Bed) {
    let engine = bed.create("engine");
    let rounds = Effort::from_env().times(150);
    let is_done = AtomicBool::new(false);
    let (send, receive) = mpsc::sync_channel(0);
    let reader = || {
        let mut last = 0;
        while !is_done.load(Ordering::Relaxed) {
            let pin = engine.pin();
            let found = map_at(&engine, &pin);
            let Some(value) = assert_whole(&found) else { continue };
            assert!(value >= last, "{value} after {last}");
            last = value;
            for (key, value) in &found {
                assert_eq!(engine.get(&pin, key).unwrap().as_deref(), Some(&value[..]));
            }
        }
    };
    std::thread::scope(|scope| {
        let maintained = &engine;
        scope.spawn(move || maintain(maintained, receive));
        scope.spawn(reader);
        scope.spawn(reader);
        for value in 1..=rounds {
            set_all(&engine, value);
            if value % 4 == 0 {
                send.send(engine.seal(&[]).unwrap()).unwrap();
            }
        }
        is_done.store(true, Ordering::Relaxed);
        drop(send);
    });
    assert_eq!(assert_whole(&map_at(&engine, &engine.pin())), Some(rounds));
}

/// `lsm-tree` looks up what a reader sees by sequence number, and panics if collection has gone
/// past it ("should always find a SuperVersion").
pub fn collection_beside_views_never_panics(bed: &Bed) {
    let engine = bed.create("engine");
    let mut pins = Vec::new();
    for value in 1..=Effort::from_env().times(120) {
        set_all(&engine, value);
        if value % 3 == 0 {
            let sealed = engine.seal(&[]).unwrap();
            pins.push((value, engine.pin()));
            engine.flush(&sealed).unwrap();
            engine.compact_once().unwrap();
        }
        pins.push((value, engine.pin()));
        // Some pins live long, some short.
        pins.retain(|(pinned, _)| value - pinned < 5 + pinned % 40);
        for (pinned, pin) in &pins {
            assert_eq!(assert_whole(&map_at(&engine, pin)), Some(*pinned));
        }
    }
    assert!(engine.failure().is_none());
}
