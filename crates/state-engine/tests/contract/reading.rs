//! Moments, pins, gets and ranges.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use lithdb_env::ErrorKind;
use lithdb_state_engine::{MAX_KEY_LEN, OpenMode};

use crate::bed::{Bed, compact, delete, flush, get, keys, map, map_at, overwrite, put, seal};

pub fn every_batch_makes_a_moment_and_a_pin_reads_its_own(bed: &Bed) {
    let engine = bed.create("engine");
    let nothing = engine.pin();
    put(&engine, "a", "1");
    let first = engine.pin();
    put(&engine, "a", "2");
    delete(&engine, "b");
    let second = engine.pin();
    delete(&engine, "a");
    let third = engine.pin();
    assert_eq!(first.moment(), nothing.moment() + 1);
    assert_eq!(second.moment(), first.moment() + 2);
    assert_eq!(third.moment(), second.moment() + 1);
    let values = [&nothing, &first, &second, &third].map(|pin| get(&engine, pin, "a"));
    assert_eq!(values, [None, Some("1".into()), Some("2".into()), None]);
    assert_eq!(map_at(&engine, &second.clone()).len(), 1);
    assert_eq!(map_at(&engine, &third).len(), 0);
}

pub fn apply_is_all_or_nothing(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "a", "1");
    let (before, long) = (engine.pin().moment(), vec![b'k'; MAX_KEY_LEN + 1]);
    let rows: [(&[u8], Option<&[u8]>); 3] = [(b"a", Some(b"2")), (b"b", Some(b"2")), (&long, None)];
    let error = engine.apply(&mut rows.into_iter()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(engine.pin().moment(), before);
    assert_eq!(map(&engine), [(b"a".to_vec(), b"1".to_vec())].into());
    let error = engine.seal(&[(b"a", b"2"), (b"", b"")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    put(&engine, "c", "3");
    assert_eq!(get(&engine, &engine.pin(), "a").as_deref(), Some("1"));
}

pub fn keys_and_values_have_limits(bed: &Bed) {
    let engine = bed.create("engine");
    let error = engine.apply(&mut [(&b""[..], Some(&b"1"[..]))].into_iter()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let (long, big) = (vec![0xff; MAX_KEY_LEN], vec![7; 1 << 20]);
    engine
        .apply(&mut [(&long[..], Some(&big[..])), (&[0][..], Some(&[][..]))].into_iter())
        .unwrap();
    flush(&engine);
    drop(engine);
    let engine = bed.open("engine");
    assert_eq!(engine.get(&engine.pin(), &long).unwrap().as_deref(), Some(&big[..]));
    assert_eq!(map(&engine), [(long, big), (vec![0], vec![])].into());
}

pub fn empty_value_is_a_value(bed: &Bed) {
    let engine = bed.create("engine");
    put(&engine, "empty", "");
    put(&engine, "gone", "");
    delete(&engine, "gone");
    for _ in 0..2 {
        assert_eq!(get(&engine, &engine.pin(), "empty").as_deref(), Some(""));
        assert_eq!(get(&engine, &engine.pin(), "gone"), None);
        assert_eq!(map(&engine).len(), 1);
        flush(&engine);
    }
}

pub fn range_has_all_kinds_of_bounds_and_both_ends(bed: &Bed) {
    let engine = bed.create("engine");
    // Rows in a compacted file, in a newer file, in a sealed memtable and in the active one.
    ["b", "e"].iter().for_each(|key| put(&engine, key, "1"));
    flush(&engine);
    compact(&engine);
    ["a", "e"].iter().for_each(|key| put(&engine, key, "2"));
    flush(&engine);
    ["c", "f"].iter().for_each(|key| put(&engine, key, "3"));
    seal(&engine);
    ["d", "e"].iter().for_each(|key| put(&engine, key, "4"));
    delete(&engine, "f");
    let pin = engine.pin();
    let all = ["a", "b", "c", "d", "e"];
    let points = ["", "a", "aa", "b", "c", "cc", "d", "e", "ee", "f"];
    let bounds = |key: &'static str| [Included(key), Excluded(key), Unbounded];
    for from in points.into_iter().flat_map(bounds) {
        for to in points.into_iter().flat_map(bounds) {
            let is_within = |key: &&str| {
                let is_after = match from {
                    Included(from) => *key >= from,
                    Excluded(from) => *key > from,
                    Unbounded => true,
                };
                is_after
                    && match to {
                        Included(to) => *key <= to,
                        Excluded(to) => *key < to,
                        Unbounded => true,
                    }
            };
            let expected: Vec<&str> = all.into_iter().filter(is_within).collect();
            let rows =
                || Arc::clone(&engine).range(&pin, from.map(str::as_bytes), to.map(str::as_bytes));
            assert_eq!(keys(rows()), expected, "{from:?} {to:?}");
            let mut backwards = keys(rows().rev());
            backwards.reverse();
            assert_eq!(backwards, expected, "{from:?} {to:?} from the end");
            for first in [true, false] {
                assert_eq!(from_both_ends(rows(), first), expected, "{from:?} {to:?} mixed");
            }
        }
    }
    let e = Arc::clone(&engine).range(&pin, Included(b"e"), Unbounded).next().unwrap().unwrap();
    assert_eq!(&*e.1, b"4");
}

/// The keys of a range that is read alternately from both ends.
fn from_both_ends(mut rows: lithdb_state_engine::RowIter, mut is_first: bool) -> Vec<String> {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    loop {
        let row = if is_first { rows.next() } else { rows.next_back() };
        let Some(row) = row else { break };
        let key = String::from_utf8(row.unwrap().0.to_vec()).unwrap();
        if is_first {
            front.push(key)
        } else {
            back.push(key)
        }
        is_first = !is_first;
    }
    assert!(rows.next().is_none() && rows.next_back().is_none(), "an end is an end");
    front.extend(back.into_iter().rev());
    front
}

pub fn range_without_keys_is_empty(bed: &Bed) {
    let engine = bed.create("engine");
    let count = |from, to| Arc::clone(&engine).range(&engine.pin(), from, to).count();
    assert_eq!(count(Unbounded, Unbounded), 0);
    put(&engine, "b", "1");
    flush(&engine);
    put(&engine, "c", "1");
    for (from, to) in [
        (Included("c"), Included("b")),
        (Excluded("b"), Excluded("b")),
        (Included("b"), Excluded("b")),
        (Excluded("b"), Included("b")),
        (Excluded("b"), Excluded("c")),
        (Excluded("c"), Unbounded),
        (Unbounded, Excluded("b")),
    ] {
        assert_eq!(count(from.map(str::as_bytes), to.map(str::as_bytes)), 0, "{from:?} {to:?}");
    }
}

pub fn pin_survives_overwriting_flushing_and_compacting(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 6, "old");
    put(&engine, "key-000", "in the memtable");
    let (pin, expected) = (engine.pin(), map(&engine));
    let mut rows = Arc::clone(&engine).range(&pin, Unbounded, Unbounded);
    let first = rows.next().unwrap().unwrap();
    overwrite(&engine, 12, "new");
    assert!(compact(&engine) > 0);
    for key in 0..100 {
        delete(&engine, &format!("key-{key:03}"));
    }
    flush(&engine);
    compact(&engine);
    assert_eq!(map(&engine).len(), 0);
    assert_eq!(map_at(&engine, &pin), expected);
    for (key, value) in &expected {
        assert_eq!(engine.get(&pin, key).unwrap().as_deref(), Some(&value[..]));
    }
    let rest = rows.map(|row| row.unwrap());
    let rows = std::iter::once(first).chain(rest);
    assert_eq!(rows.map(|(k, v)| (k.to_vec(), v.to_vec())).collect::<crate::bed::Map>(), expected);
}

pub fn rows_outlive_their_engine_and_their_pin(bed: &Bed) {
    let engine = bed.create("engine");
    overwrite(&engine, 3, "old");
    let (pin, expected) = (engine.pin(), map(&engine));
    let rows = Arc::clone(&engine).range(&pin, Unbounded, Unbounded);
    drop((engine, pin));
    assert_eq!(keys(rows).len(), expected.len());
}

pub fn pin_of_another_engine_is_refused(bed: &Bed) {
    let (one, two) = (bed.create("one"), bed.create("two"));
    let error = one.get(&two.pin(), b"a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let mut rows = Arc::clone(&one).range(&two.pin(), Unbounded, Unbounded);
    assert_eq!(rows.next().unwrap().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(rows.next().is_none());
    assert!(one.failure().is_none());
}

pub fn memtable_bytes_are_those_since_the_last_seal(bed: &Bed) {
    let engine = bed.create("engine");
    assert_eq!(engine.memtable_bytes(), 0);
    put(&engine, "a", &"x".repeat(1000));
    let one = engine.memtable_bytes();
    assert!((1001..2000).contains(&one), "{one}");
    put(&engine, "b", &"x".repeat(1000));
    assert!(engine.memtable_bytes() > one + 1000);
    let sealed = seal(&engine);
    assert_eq!(engine.memtable_bytes(), 0);
    assert!(engine.stats().memory_bytes > 2000, "sealed memtables count as memory");
    engine.flush(&sealed).unwrap();
    assert_eq!(engine.stats().memory_bytes, 0);
}

pub fn stats_count_files_and_memory(bed: &Bed) {
    let engine = bed.create("engine");
    assert_eq!(engine.stats(), Default::default());
    overwrite(&engine, 3, "old");
    let stats = engine.stats();
    assert_eq!((stats.level_0_runs, stats.files), (3, 3));
    assert!(stats.disk_bytes > 3 * 40 * 60, "{stats:?}");
    drop(engine);
    let reopened = bed.engines().open(&bed.path("engine"), OpenMode::Write).unwrap();
    assert_eq!(reopened.stats(), stats);
}
