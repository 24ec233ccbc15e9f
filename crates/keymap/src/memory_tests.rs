//! The in-memory keymap compared with a model that knows the keys.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Barrier;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::{Position, SegmentId};
use proptest::prelude::*;

use crate::{Candidates, KeyHash, Keymap, MemoryKeymap};

fn at(segment: u32, offset: u32) -> Position {
    Position::new(SegmentId(segment), offset)
}

fn candidates(keymap: &MemoryKeymap, hash: KeyHash) -> Vec<Position> {
    let mut out = Candidates::new();
    keymap.candidates(hash, &mut out);
    out.to_vec()
}

fn never_compared(_: Position) -> Result<bool> {
    panic!("nothing looks alike")
}

fn spread(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Seven hashes for all keys, in three partitions; two of them differ only in bits that are not
/// stored.
fn poor_hash(key: u8) -> KeyHash {
    const HASHES: [u64; 7] =
        [0, 1, 1 << 22, u64::MAX, u64::MAX - (1 << 22), 5 << 54, (5 << 54) | 9];
    KeyHash(HASHES[key as usize % HASHES.len()])
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, u32),
    Batch(Vec<(u8, u32)>),
    Raise(u32),
    Reserve(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = || (any::<u8>(), 1..20u32);
    let step = prop_oneof![
        8 => record().prop_map(|(key, segment)| Step::Insert(key, segment)),
        2 => prop::collection::vec(record(), 0..40).prop_map(Step::Batch),
        1 => (1..12u32).prop_map(Step::Raise),
        1 => (0..200_000usize).prop_map(Step::Reserve),
    ];
    prop::collection::vec(step, 1..80)
}

/// Keys with their only position, and the key of every position ever created.
#[derive(Default)]
struct Model {
    newest: BTreeMap<u8, Position>,
    key_at: BTreeMap<Position, u8>,
    watermark: u32,
}

impl Model {
    fn record(&mut self, key: u8, segment: u32) -> (KeyHash, Position) {
        let position = at(segment, self.key_at.len() as u32);
        self.key_at.insert(position, key);
        if segment >= self.watermark {
            let newest = self.newest.entry(key).or_insert(position);
            *newest = position.max(*newest);
        }
        (poor_hash(key), position)
    }

    fn expected(&self, key: u8) -> Vec<Position> {
        let alike = |other: u8| (poor_hash(other).0 >> 22) == (poor_hash(key).0 >> 22);
        let alike = self.newest.iter().filter(|(other, _)| alike(**other)).map(|(_, at)| *at);
        let mut all: Vec<_> = alike.filter(|at| at.segment.0 >= self.watermark).collect();
        all.sort_by(|a, b| b.cmp(a));
        all
    }
}

proptest! {
    #[test]
    fn keymap_matches_a_model_map(steps in steps()) {
        let keymap = MemoryKeymap::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Insert(key, segment) => {
                    let (hash, new) = model.record(key, segment);
                    keymap.insert(hash, new, &mut |old| Ok(model.key_at[&old] == key)).unwrap();
                }
                Step::Batch(records) => {
                    let items: Vec<_> =
                        records.into_iter().map(|(key, segment)| model.record(key, segment)).collect();
                    let same = |new, old| Ok(model.key_at[&new] == model.key_at[&old]);
                    keymap.insert_batch(&items, &mut { same }).unwrap();
                }
                Step::Raise(segment) => {
                    keymap.raise_watermark(SegmentId(segment));
                    model.watermark = model.watermark.max(segment);
                    model.newest.retain(|_, at| at.segment.0 >= model.watermark);
                }
                Step::Reserve(keys) => keymap.reserve(keys),
            }
            keymap.check();
        }
        for key in 0..=u8::MAX {
            prop_assert_eq!(candidates(&keymap, poor_hash(key)), model.expected(key));
        }
        prop_assert!(keymap.entries() >= model.newest.len());
    }

    #[test]
    fn one_key_resolves_to_its_highest_position(
        order in Just((0..50u32).collect::<Vec<_>>()).prop_shuffle(),
        batch in any::<bool>(),
    ) {
        let keymap = MemoryKeymap::new();
        let hash = KeyHash(42);
        let positions = order.iter().map(|n| at(1 + n / 7, n % 7));
        if batch {
            let items: Vec<_> = positions.map(|at| (hash, at)).collect();
            keymap.insert_batch(&items, &mut |_, _| Ok(true)).unwrap();
        } else {
            positions.for_each(|at| keymap.insert(hash, at, &mut |_| Ok(true)).unwrap());
        }
        prop_assert_eq!(candidates(&keymap, hash), [at(8, 0)]);
        prop_assert_eq!(keymap.entries(), 1);
    }
}

#[test]
fn existing_position_changes_nothing_without_comparing() {
    let keymap = MemoryKeymap::new();
    for _ in 0..2 {
        keymap.insert(KeyHash(1), at(1, 1), &mut never_compared).unwrap();
        keymap.insert_batch(&[(KeyHash(1), at(1, 1)); 2], &mut |_, _| panic!("compared")).unwrap();
    }
    assert_eq!(candidates(&keymap, KeyHash(1)), [at(1, 1)]);
}

#[test]
fn the_watermark_hides_lower_segments_before_and_after_growth() {
    let keymap = MemoryKeymap::new();
    let segment = |n: u64| 1 + (n % 4) as u32;
    let check = |keys: std::ops::Range<u64>, lowest: u32| {
        for n in keys {
            let expected: &[Position] =
                if segment(n) >= lowest { &[at(segment(n), n as u32)] } else { &[] };
            assert_eq!(candidates(&keymap, KeyHash(spread(n))), expected);
        }
    };
    for n in 0..50_000 {
        keymap.insert(KeyHash(spread(n)), at(segment(n), n as u32), &mut never_compared).unwrap();
    }
    check(0..50_000, 1);
    keymap.raise_watermark(SegmentId(3));
    keymap.raise_watermark(SegmentId(2));
    check(0..50_000, 3);
    assert_eq!(keymap.entries(), 50_000, "nothing is walked");
    for n in 50_000..200_000 {
        keymap.insert(KeyHash(spread(n)), at(segment(n), n as u32), &mut never_compared).unwrap();
    }
    check(0..200_000, 3);
    assert_eq!(keymap.entries(), 100_000, "the dead were dropped by the growth");
}

#[test]
fn positions_below_the_watermark_are_ignored_uncompared() {
    let keymap = MemoryKeymap::new();
    keymap.insert(KeyHash(1), at(4, 0), &mut never_compared).unwrap();
    keymap.raise_watermark(SegmentId(5));
    keymap.insert(KeyHash(1), at(4, 9), &mut never_compared).unwrap();
    assert_eq!(candidates(&keymap, KeyHash(1)), []);
    keymap.insert(KeyHash(1), at(5, 0), &mut never_compared).unwrap();
    assert_eq!(candidates(&keymap, KeyHash(1)), [at(5, 0)]);
    keymap.insert(KeyHash(2), at(0, 7), &mut never_compared).unwrap();
    assert_eq!(keymap.entries(), 1, "no segment is below every watermark");
}

#[test]
fn failed_comparison_inserts_nothing_unless_expired() {
    let keymap = MemoryKeymap::new();
    let failure = || Err(Error::new(ErrorKind::Missing, "no such file"));
    keymap.insert(KeyHash(1), at(1, 0), &mut never_compared).unwrap();
    let error = keymap.insert(KeyHash(1), at(2, 0), &mut |_| failure()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    let error = keymap.insert_batch(&[(KeyHash(1), at(2, 0))], &mut |_, _| failure()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert_eq!(candidates(&keymap, KeyHash(1)), [at(1, 0)]);
    let expiring = &mut |_| {
        keymap.raise_watermark(SegmentId(2));
        failure()
    };
    keymap.insert(KeyHash(1), at(2, 0), expiring).unwrap();
    assert_eq!(candidates(&keymap, KeyHash(1)), [at(2, 0)]);
}

#[test]
fn no_lock_is_held_while_a_key_is_compared() {
    let keymap = MemoryKeymap::new();
    let hash = KeyHash(1);
    keymap.insert(hash, at(1, 0), &mut never_compared).unwrap();
    // While position 1:0 is compared, the same key is inserted at 3:0; that must be compared too.
    let compared = Cell::new(0);
    let mut same_key = |old| {
        compared.set(compared.get() + 1);
        if old == at(1, 0) {
            keymap.insert(hash, at(3, 0), &mut |_| Ok(true))?;
        }
        Ok(true)
    };
    keymap.insert(hash, at(2, 0), &mut same_key).unwrap();
    assert_eq!(compared.get(), 2);
    assert_eq!(candidates(&keymap, hash), [at(3, 0)], "the higher of both stays");
}

#[test]
fn inserts_of_four_threads_at_once_lose_nothing() {
    const KEYS: u64 = 100_000;
    let keymap = MemoryKeymap::new();
    let start = Barrier::new(4);
    // Every thread inserts every key, each at its own position; one uses batches.
    let same_key = |new: u64, old: Position| Ok(u64::from(old.offset) == new);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (keymap, start) = (&keymap, &start);
            scope.spawn(move || {
                start.wait();
                let segment = 1 + thread as u32;
                let items = (0..KEYS).map(|n| (n + thread * KEYS / 4) % KEYS);
                let items = items.map(|n| (KeyHash(spread(n)), at(segment, n as u32)));
                if thread == 0 {
                    let items: Vec<_> = items.collect();
                    let same = |new: Position, old| same_key(u64::from(new.offset), old);
                    keymap.insert_batch(&items, &mut { same }).unwrap();
                } else {
                    for (hash, at) in items {
                        let same = |old| same_key(u64::from(at.offset), old);
                        keymap.insert(hash, at, &mut { same }).unwrap();
                    }
                }
            });
        }
    });
    keymap.check();
    assert_eq!(keymap.entries() as u64, KEYS);
    for n in 0..KEYS {
        assert_eq!(candidates(&keymap, KeyHash(spread(n))), [at(4, n as u32)]);
    }
}

#[test]
fn a_key_takes_at_most_24_bytes_even_while_partitions_grow() {
    const FIRST: u64 = 1_000_000;
    let keymap = MemoryKeymap::new();
    for n in 0..FIRST * 3 / 2 {
        keymap.insert(KeyHash(spread(n)), at(1, n as u32), &mut never_compared).unwrap();
        // Enough for more than one growth of every partition.
        if n >= FIRST && n % 5_000 == 0 {
            // At worst two threads each hold an old partition beside its new one, which is larger
            // by less than a half.
            let growing = 2 * keymap.largest_partition_bytes() * 3 / 2;
            let worst = (keymap.memory_bytes() + growing) as u64;
            assert!(worst <= 24 * n, "{worst} bytes for {n} keys");
        }
    }
}

#[test]
fn an_empty_keymap_is_small() {
    let keymap = MemoryKeymap::new();
    assert!(keymap.memory_bytes() < 128 << 10);
    assert_eq!(candidates(&keymap, KeyHash(7)), []);
}
