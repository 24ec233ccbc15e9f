//! The changes of the version that is being prepared, and how they are hashed.
//!
//! Preparing reads and hashes without changing anything; [`Overlay::accept`] then takes over what
//! was prepared, and cannot fail. So a failed `apply` leaves the overlay as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lithdb_env::{Clock, Pool, Result};
use lithdb_lthash::LtHash;
use lithdb_state_engine::{Engine, Pin};
use parking_lot::Mutex;

use crate::change_set::ChangeSet;
use crate::record::StoreDelta;
use crate::row::{physical_key, split_row};
use crate::store_name::StoreName;
use crate::totals::Totals;

/// At least the bytes that a store takes in a record, beside its changes.
const STORE_BYTES: u64 = 2_048 + 128;
/// Keys that one thread reads and hashes at a time.
const CHUNK_KEYS: usize = 32;
/// Old values that a thread reads before it hashes them, in bytes, and one more.
const OLD_VALUES_BYTES: usize = 1 << 20;

/// The changes of one version, by physical key. The last change of a key counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    entries: BTreeMap<Bytes, Entry>,
    sums: BTreeMap<StoreName, Sum>,
    bytes: u64,
}

/// A change that has not been committed.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The new value; `None` deletes.
    pub(crate) value: Option<Bytes>,
    /// Whether the committed version has a row of this key.
    is_committed: bool,
}

/// What the changes of a store add to its totals.
#[derive(Debug, Clone, Default)]
struct Sum {
    vector: LtHash,
    keys: i64,
    bytes: i64,
}

/// Changes that have been read and hashed.
#[derive(Debug)]
pub(crate) struct Prepared {
    entries: Vec<(Bytes, Entry)>,
    sums: Vec<(StoreName, Sum)>,
    /// The size of the changes.
    bytes: u64,
    /// The size of those that they replace.
    replaced_bytes: u64,
    pub(crate) times: Times,
}

/// How long all threads together have read old values and hashed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) reading: Duration,
    pub(crate) hashing: Duration,
}

/// A change whose old value has not been read.
#[derive(Debug)]
struct Change {
    store: usize,
    /// The length of the store's prefix in `key`.
    prefix: usize,
    key: Bytes,
    value: Option<Bytes>,
    /// What the overlay holds of the key.
    pending: Option<Entry>,
}

/// What a thread found about a chunk of changes.
#[derive(Debug, Default)]
struct ChunkResult {
    sums: BTreeMap<usize, Sum>,
    are_committed: Vec<bool>,
    times: Times,
}

/// Changes that several threads read and hash.
struct Work {
    changes: Vec<Change>,
    engine: Arc<dyn Engine>,
    pin: Pin,
    clock: Arc<dyn Clock>,
    results: Mutex<BTreeMap<usize, ChunkResult>>,
}

impl Overlay {
    /// The change of a physical key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn entries(&self) -> &BTreeMap<Bytes, Entry> {
        &self.entries
    }

    /// The size of the changes in bytes, at least that of their record.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the old values of `sets` (from the overlay, else from the engine at `pin`) and hashes
    /// the differences, on the threads of `pool`. Changes nothing.
    pub(crate) fn prepare(
        &self,
        sets: &[ChangeSet],
        engine: &Arc<dyn Engine>,
        pin: &Pin,
        pool: &Pool,
        clock: &Arc<dyn Clock>,
    ) -> Result<Prepared> {
        let (mut stores, mut numbers) = (Vec::<StoreName>::new(), BTreeMap::new());
        let mut latest: BTreeMap<Bytes, (usize, usize, Option<Bytes>)> = BTreeMap::new();
        for set in sets {
            let store = *numbers.entry(set.store()).or_insert(stores.len());
            if store == stores.len() {
                stores.push(set.store().clone());
            }
            for (key, value) in set.changes() {
                let prefix = set.store().as_str().len() + 1;
                latest.insert(physical_key(set.store(), key), (store, prefix, value.clone()));
            }
        }
        let change = |(key, (store, prefix, value)): (Bytes, _)| {
            let pending = self.entries.get(&key).cloned();
            Change { store, prefix, key, value, pending }
        };
        let changes = latest.into_iter().map(change).collect();
        let results = Mutex::default();
        let (engine, clock) = (Arc::clone(engine), Arc::clone(clock));
        let work = Work { changes, engine, pin: pin.clone(), clock, results };
        Ok(work.run(pool)?.prepared(stores))
    }

    /// Takes over what [`prepare`](Self::prepare) of this overlay returned.
    pub(crate) fn accept(&mut self, prepared: Prepared) {
        self.bytes = self.bytes_with(&prepared);
        for (key, entry) in prepared.entries {
            self.entries.insert(key, entry);
        }
        for (store, sum) in prepared.sums {
            self.sums.entry(store).or_default().add(&sum);
        }
    }

    /// Whether it holds these changes already.
    pub(crate) fn holds(&self, prepared: &Prepared) -> bool {
        let is_held = |(key, new): &(Bytes, Entry)| {
            self.entries.get(key).is_some_and(|entry| entry.value == new.value)
        };
        prepared.entries.iter().all(is_held)
    }

    /// The size of the changes with `prepared`.
    pub(crate) fn bytes_with(&self, prepared: &Prepared) -> u64 {
        let new = |(store, _): &&(StoreName, Sum)| !self.sums.contains_key(store);
        let new_stores = prepared.sums.iter().filter(new).count() as u64;
        (self.bytes + prepared.bytes + new_stores * STORE_BYTES)
            .checked_sub(prepared.replaced_bytes)
            .unwrap_or_else(|| unreachable!("what is replaced was counted"))
    }

    /// The number of stores with rows after the changes and `prepared`, of those with `totals`.
    pub(crate) fn stores_with(&self, prepared: &Prepared, totals: &Totals) -> usize {
        let sums = self.sums.iter().chain(prepared.sums.iter().map(|(name, sum)| (name, sum)));
        let mut changed: BTreeMap<&StoreName, i64> = BTreeMap::new();
        for (name, sum) in sums {
            *changed.entry(name).or_default() += sum.keys;
        }
        let mut stores = totals.len();
        for (name, keys) in changed {
            let before = totals.get(name).map_or(0, |totals| totals.keys);
            stores += usize::from(before.saturating_add_signed(keys) > 0);
            stores -= usize::from(before > 0);
        }
        stores
    }

    /// The changes as a record holds them: a key that neither was nor is there is left out.
    pub(crate) fn deltas(&self) -> Vec<StoreDelta> {
        let deltas = self.sums.iter().map(|(name, sum)| {
            let prefix = physical_key(name, b"");
            let of_store = self.entries.range(prefix.clone()..);
            let of_store = of_store.take_while(|(key, _)| key.starts_with(&prefix));
            let recorded = of_store.filter(|(_, entry)| entry.is_recorded());
            let changes =
                recorded.map(|(key, entry)| (key.slice(prefix.len()..), entry.value.clone()));
            StoreDelta {
                name: name.clone(),
                delta: sum.vector.clone(),
                keys: sum.keys,
                bytes: sum.bytes,
                changes: changes.collect(),
            }
        });
        deltas.filter(|delta| !delta.changes.is_empty()).collect()
    }
}

impl Entry {
    fn is_recorded(&self) -> bool {
        self.value.is_some() || self.is_committed
    }
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.vector.add(&other.vector);
        self.keys += other.keys;
        self.bytes += other.bytes;
    }
}

impl Work {
    /// Reads and hashes all changes.
    fn run(self, pool: &Pool) -> Result<Arc<Self>> {
        let work = Arc::new(self);
        let chunks = work.changes.chunks(CHUNK_KEYS).len();
        let theirs = Arc::clone(&work);
        pool.parallel_for(chunks, move |numbers| {
            for number in numbers {
                theirs.run_chunk(number)?;
            }
            Ok(())
        })?;
        assert_eq!(work.results.lock().len(), chunks, "every chunk has a result");
        Ok(work)
    }

    fn run_chunk(&self, number: usize) -> Result<()> {
        let Some(chunk) = self.changes.chunks(CHUNK_KEYS).nth(number) else {
            unreachable!("chunk {number} is within the changes")
        };
        let (mut result, mut rest) = (ChunkResult::default(), chunk);
        while !rest.is_empty() {
            let started = self.clock.monotonic();
            let old_values = self.old_values(rest)?;
            let read = self.clock.monotonic();
            let (part, later) = rest.split_at(old_values.len());
            for (change, (old, is_committed)) in part.iter().zip(old_values) {
                result.are_committed.push(is_committed);
                result.sums.entry(change.store).or_default().change(change, old.as_ref());
            }
            result.times.reading += read.saturating_sub(started);
            result.times.hashing += self.clock.monotonic().saturating_sub(read);
            rest = later;
        }
        self.results.lock().insert(number, result);
        Ok(())
    }

    /// The values before the first of some changes: as many as may be in memory together.
    fn old_values(&self, changes: &[Change]) -> Result<Vec<(Option<Bytes>, bool)>> {
        let (mut old_values, mut bytes) = (Vec::new(), 0);
        for change in changes {
            let old = self.old_value(change)?;
            bytes += old.0.as_ref().map_or(0, Bytes::len);
            old_values.push(old);
            if bytes >= OLD_VALUES_BYTES {
                break;
            }
        }
        Ok(old_values)
    }

    /// The value before the change, and whether the committed version has the key.
    fn old_value(&self, change: &Change) -> Result<(Option<Bytes>, bool)> {
        if let Some(pending) = &change.pending {
            return Ok((pending.value.clone(), pending.is_committed));
        }
        let Some(row) = self.engine.get(&self.pin, &change.key)? else { return Ok((None, false)) };
        let (_modified_at, value) = split_row(&row)?;
        Ok((Some(value), true))
    }
}

/// At least the bytes that a change takes in a record.
fn size(key: &Bytes, value: Option<&Bytes>) -> u64 {
    (16 + key.len() + value.map_or(0, Bytes::len)) as u64
}

impl Sum {
    fn change(&mut self, change: &Change, old: Option<&Bytes>) {
        let key_len = change.key.len() - change.prefix;
        let len = |value: &Bytes| (key_len + value.len()) as i64;
        if let Some(old) = old {
            self.vector.remove_pair(&change.key, old);
            self.keys -= 1;
            self.bytes -= len(old);
        }
        if let Some(new) = &change.value {
            self.vector.add_pair(&change.key, new);
            self.keys += 1;
            self.bytes += len(new);
        }
    }
}

impl Work {
    /// The results in the order of the changes. A thread of the pool may hold this a little longer
    /// than it works on it, so that it is copied from.
    fn prepared(&self, stores: Vec<StoreName>) -> Prepared {
        let changes = &self.changes;
        let mut sums: BTreeMap<usize, Sum> = BTreeMap::new();
        let (mut are_committed, mut times) = (Vec::with_capacity(changes.len()), Times::default());
        for result in std::mem::take(&mut *self.results.lock()).into_values() {
            are_committed.extend(result.are_committed);
            times.reading += result.times.reading;
            times.hashing += result.times.hashing;
            for (store, sum) in result.sums {
                sums.entry(store).or_default().add(&sum);
            }
        }
        assert_eq!(are_committed.len(), changes.len(), "every change has a result");
        let bytes = changes.iter().map(|change| size(&change.key, change.value.as_ref())).sum();
        let replaced = |change: &Change| {
            let pending = change.pending.as_ref();
            pending.map_or(0, |pending| size(&change.key, pending.value.as_ref()))
        };
        let replaced_bytes = changes.iter().map(replaced).sum();
        let entry = |(change, is_committed): (&Change, bool)| {
            (change.key.clone(), Entry { value: change.value.clone(), is_committed })
        };
        let entries = changes.iter().zip(are_committed).map(entry).collect();
        let by_number = stores.into_iter().enumerate();
        let sums = by_number.filter_map(|(number, name)| Some((name, sums.remove(&number)?)));
        Prepared { entries, sums: sums.collect(), bytes, replaced_bytes, times }
    }
}
