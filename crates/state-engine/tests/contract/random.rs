//! Random histories beside a map for every moment.

use std::ops::Bound;
use std::sync::Arc;

use lithdb_sim::{Effort, Tally};
use lithdb_state_engine::{Engine, Pin, Sealed};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::bed::{Bed, Map, map_at};

type Batch = Vec<(u8, Option<u8>)>;

#[derive(Debug, Clone)]
enum Op {
    Apply(Batch),
    Seal,
    Flush,
    Compact,
    Pin,
    Unpin(usize),
    Read { from: u8, to: u8, kinds: u8, ends: Vec<bool> },
    Checkpoint,
    Clone,
    Reopen,
    ReadCopy,
}

fn op() -> impl Strategy<Value = Op> {
    let batch = prop::collection::vec((0..24_u8, prop::option::weighted(0.75, any::<u8>())), 0..6);
    let ends = prop::collection::vec(any::<bool>(), 0..30);
    prop_oneof![
        12 => batch.prop_map(Op::Apply),
        4 => Just(Op::Seal),
        4 => Just(Op::Flush),
        3 => Just(Op::Compact),
        4 => Just(Op::Pin),
        2 => any::<usize>().prop_map(Op::Unpin),
        6 => (0..26_u8, 0..26_u8, 0..9_u8, ends)
            .prop_map(|(from, to, kinds, ends)| Op::Read { from, to, kinds, ends }),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Clone),
        1 => Just(Op::Reopen),
        1 => Just(Op::ReadCopy),
    ]
}

fn key(number: u8) -> Vec<u8> {
    // Some keys are prefixes of others.
    vec![b'k'; usize::from(number % 3) + 1].into_iter().chain([number]).collect()
}

fn value(number: u8) -> Vec<u8> {
    vec![number; usize::from(number)]
}

/// An engine, and what it must hold.
struct Beside<'a> {
    bed: &'a Bed,
    engine: Arc<dyn Engine>,
    now: Map,
    /// What is durable, and what is sealed and not durable.
    durable: Map,
    sealed: Vec<(Sealed, Map)>,
    pins: Vec<(Arc<dyn Engine>, Pin, Map)>,
    copies: Vec<(String, Vec<lithdb_state_engine::EngineFile>, Map)>,
    names: usize,
}

impl Beside<'_> {
    fn name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}-{}", self.names)
    }

    fn apply(&mut self, batch: &Batch) {
        let mut rows: std::collections::BTreeMap<_, _> = Default::default();
        rows.extend(batch.iter().map(|(k, v)| (key(*k), v.map(value))));
        let mut given = rows.iter().map(|(key, value)| (&key[..], value.as_deref()));
        self.engine.apply(&mut given).unwrap();
        for (key, value) in rows {
            match value {
                Some(value) => drop(self.now.insert(key, value)),
                None => drop(self.now.remove(&key)),
            }
        }
    }

    fn flush(&mut self, upto: usize) {
        if let Some((sealed, rows)) = self.sealed.get(upto) {
            self.engine.flush(sealed).unwrap();
            self.durable = rows.clone();
            self.sealed.drain(..=upto);
        }
    }

    fn seal(&mut self) {
        let sealed = self.engine.seal(&[]).unwrap();
        self.sealed.push((sealed, self.now.clone()));
    }

    fn checkpoint(&mut self) {
        self.seal();
        let sealed = self.sealed.last().unwrap().0.clone();
        self.flush(self.sealed.len() - 1);
        let name = self.name("copy");
        let files = self.engine.checkpoint(&sealed, &self.bed.make_dir(&name)).unwrap();
        self.copies.push((name, files, self.now.clone()));
    }

    /// Continues in a clone of the last copy.
    fn clone_copy(&mut self) {
        let Some((copy, files, rows)) = self.copies.last().cloned() else { return };
        let name = self.name("engine");
        self.bed
            .engines()
            .clone_into(&self.bed.path(&copy), &files, &self.bed.path(&name))
            .unwrap();
        self.engine = self.bed.open(&name);
        (self.now, self.durable) = (rows.clone(), rows);
        self.sealed.clear();
    }

    fn reopen(&mut self, name: &str) {
        // Old pins stay and read what they read before.
        let engine = self.bed.open(name);
        self.engine = engine;
        self.now = self.durable.clone();
        self.sealed.clear();
    }

    fn read(&self, from: u8, to: u8, kinds: u8, ends: &[bool]) {
        let bound = |kind: u8, key: Vec<u8>| match kind {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let range = (bound(kinds / 3, key(from)), bound(kinds % 3, key(to)));
        let now = (Arc::clone(&self.engine), self.engine.pin(), self.now.clone());
        for (engine, pin, rows) in self.pins.iter().chain([&now]) {
            let is_within = |key: &Vec<u8>| std::ops::RangeBounds::contains(&range, key);
            let mut expected: std::collections::VecDeque<_> =
                rows.iter().filter(|(key, _)| is_within(key)).collect();
            let (lo, hi) = (range.0.as_ref().map(|k| &k[..]), range.1.as_ref().map(|k| &k[..]));
            let mut found = Arc::clone(engine).range(pin, lo, hi);
            for is_first in ends.iter().copied().chain(std::iter::repeat(true)) {
                let (row, wanted) = match is_first {
                    true => (found.next(), expected.pop_front()),
                    false => (found.next_back(), expected.pop_back()),
                };
                let row = row.map(|row| row.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec()));
                assert_eq!(row.as_ref().map(|(k, v)| (k, v)), wanted, "{range:?} {ends:?}");
                if row.is_none() {
                    break;
                }
            }
            for number in [from, to] {
                let found = engine.get(pin, &key(number)).unwrap();
                assert_eq!(found.as_deref(), rows.get(&key(number)).map(|v| &v[..]));
            }
        }
    }

    fn read_copies(&self) {
        for (name, _, rows) in &self.copies {
            let reader = self.bed.read_in_place(name);
            assert_eq!(map_at(&reader, &reader.pin()), *rows);
        }
    }
}

fn run(bed: &Bed, ops: &[Op], case: usize) {
    let mut name = format!("case-{case}");
    let engine = bed.create(&name);
    let mut beside = Beside {
        bed,
        engine,
        now: Map::new(),
        durable: Map::new(),
        sealed: Vec::new(),
        pins: Vec::new(),
        copies: Vec::new(),
        names: case * 1000,
    };
    for op in ops {
        match op {
            Op::Apply(batch) => beside.apply(batch),
            Op::Seal => beside.seal(),
            Op::Flush => beside.flush(0),
            Op::Compact => drop(beside.engine.compact_once().unwrap()),
            Op::Pin => {
                let pin = (Arc::clone(&beside.engine), beside.engine.pin(), beside.now.clone());
                beside.pins.push(pin);
            }
            Op::Unpin(_) if beside.pins.is_empty() => {}
            Op::Unpin(which) => drop(beside.pins.swap_remove(which % beside.pins.len())),
            Op::Read { from, to, kinds, ends } => beside.read(*from, *to, *kinds, ends),
            Op::Checkpoint => beside.checkpoint(),
            Op::Clone => {
                let before = beside.names;
                beside.clone_copy();
                if beside.names > before {
                    name = format!("engine-{}", beside.names);
                }
            }
            Op::Reopen => beside.reopen(&name),
            Op::ReadCopy => beside.read_copies(),
        }
        assert!(beside.engine.failure().is_none());
    }
    beside.read(0, 0, 8, &[]);
    beside.read_copies();
    let Beside { durable, pins, engine, .. } = beside;
    drop((pins, engine));
    let engine = bed.open(&name);
    assert_eq!(map_at(&engine, &engine.pin()), durable);
}

pub fn random_histories_agree_with_a_map_for_every_moment(bed: &Bed) {
    let effort = Effort::from_env();
    let cases = effort.times(60) as u32;
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let seed = effort.seed("engine histories");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (case, mut tally) = (std::cell::Cell::new(0), Tally::new("engine histories"));
    let history = prop::collection::vec(op(), 1..80);
    runner
        .run(&history, |ops| {
            case.set(case.get() + 1);
            run(bed, &ops, case.get());
            Ok(())
        })
        .unwrap();
    tally.add("histories", u64::from(cases));
}
