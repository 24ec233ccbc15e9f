//! The in-memory keymap: partitions, each with its own lock, and the watermark.
//!
//! Growing one partition touches no other, so a writer waits at most for the rewrite of a
//! thousandth of the keymap. A lookup takes one shared lock for a few dozen nanoseconds.

use std::array;
use std::fmt;
use std::mem;

use lithdb_env::Result;
use lithdb_env::sync::RwLock;
use lithdb_env::sync::atomic::{AtomicU32, Ordering};
use lithdb_segment::{Position, SegmentId};

use crate::partition::{Entry, Partition};
use crate::{Candidates, KeyHash, Keymap};

/// Number of items of a batch sorted by partition at a time: a few hundred per lock.
const BATCH_ITEMS: usize = 1 << 18;

/// Has its own cache line, so that neighbouring locks do not slow each other down.
#[derive(Default)]
#[repr(align(64))]
struct PaddedPartition(RwLock<Partition>);

// The model checker's locks have another size.
#[cfg(not(lithdb_shuttle))]
const _: () = assert!(size_of::<PaddedPartition>() == 64);

/// A keymap in memory: 14 to 19 bytes per key, no keys, nothing on disk.
pub struct MemoryKeymap {
    partitions: Box<[PaddedPartition; KeyHash::PARTITIONS]>,
    /// The lowest live segment; at least 1, so that an empty slot (segment 0) is always below it.
    watermark: AtomicU32,
}

impl MemoryKeymap {
    /// An empty keymap; memory is allocated as keys arrive.
    pub fn new() -> Self {
        Self {
            partitions: Box::new(array::from_fn(|_| PaddedPartition::default())),
            watermark: AtomicU32::new(SegmentId::FIRST.0),
        }
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a hash's partition is below PARTITIONS")]
    fn partition(&self, hash: KeyHash) -> &RwLock<Partition> {
        &self.partitions[hash.partition()].0
    }

    fn partitions(&self) -> impl Iterator<Item = &RwLock<Partition>> {
        self.partitions.iter().map(|cell| &cell.0)
    }

    #[inline]
    fn watermark(&self) -> SegmentId {
        SegmentId(self.watermark.load(Ordering::Acquire))
    }

    fn is_dead(&self, at: Position) -> bool {
        at.segment < self.watermark()
    }

    /// Inserts where another entry has the same tag: compares keys without the lock, decides under
    /// the lock, and compares again if another thread has inserted meanwhile.
    #[cold]
    fn insert_with_collisions(
        &self,
        hash: KeyHash,
        at: Position,
        same_key: &mut dyn FnMut(Position) -> Result<bool>,
    ) -> Result<()> {
        let partition = self.partition(hash);
        let (mut collisions, mut same, mut other) =
            (Candidates::new(), Candidates::new(), Candidates::new());
        self.candidates(hash, &mut collisions);
        loop {
            let is_new = |collision: &&Position| {
                **collision != at && !same.contains(*collision) && !other.contains(*collision)
            };
            let Some(&unknown) = collisions.iter().find(is_new) else {
                let mut partition = partition.write();
                collisions.clear();
                partition.find(hash.tag(), self.watermark(), &mut collisions);
                if collisions.iter().any(|collision| is_new(&collision)) {
                    continue;
                }
                let is_there = collisions.contains(&at);
                match collisions.iter().find(|collision| same.contains(*collision)) {
                    _ if is_there => {}
                    Some(newer) if *newer > at => {}
                    Some(older) => partition.replace(hash.tag(), *older, at),
                    None => partition.add(Entry::new(hash.tag(), at), self.watermark()),
                }
                return Ok(());
            };
            match same_key(unknown) {
                Ok(true) => same.push(unknown),
                Ok(false) => other.push(unknown),
                // Its segment is below the watermark and may be deleted, so the comparison may
                // fail.
                Err(_) if self.is_dead(unknown) => other.push(unknown),
                Err(error) => return Err(error),
            }
        }
    }

    /// Inserts the items without a tag collision into one partition under one lock; appends the
    /// others to `collisions`.
    fn insert_partition(
        &self,
        group: &[(KeyHash, Position)],
        collisions: &mut Vec<(KeyHash, Position)>,
    ) {
        let Some((first, _)) = group.first() else { return };
        let mut partition = self.partition(*first).write();
        let watermark = self.watermark();
        partition.prefetch(group.iter().map(|(hash, _)| hash.tag()));
        for &(hash, at) in group {
            if at.segment >= watermark
                && !partition.add_if_unique(Entry::new(hash.tag(), at), watermark)
            {
                collisions.push((hash, at));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.partitions().for_each(|partition| partition.read().check());
    }

    #[cfg(test)]
    pub(crate) fn largest_partition_bytes(&self) -> usize {
        self.partitions().map(|partition| partition.read().memory_bytes()).max().unwrap()
    }
}

impl Keymap for MemoryKeymap {
    fn insert(
        &self,
        hash: KeyHash,
        at: Position,
        same_key: &mut dyn FnMut(Position) -> Result<bool>,
    ) -> Result<()> {
        let watermark = self.watermark();
        if at.segment < watermark {
            return Ok(());
        }
        let entry = Entry::new(hash.tag(), at);
        let added = self.partition(hash).write().add_if_unique(entry, watermark);
        if added { Ok(()) } else { self.insert_with_collisions(hash, at, same_key) }
    }

    fn insert_batch(
        &self,
        items: &[(KeyHash, Position)],
        same_key: &mut dyn FnMut(Position, Position) -> Result<bool>,
    ) -> Result<()> {
        let mut collisions = Vec::new();
        for items in items.chunks(BATCH_ITEMS) {
            let sorted = by_partition(items);
            for group in sorted.chunk_by(|(a, _), (b, _)| a.partition() == b.partition()) {
                self.insert_partition(group, &mut collisions);
            }
            for (hash, at) in collisions.drain(..) {
                self.insert_with_collisions(hash, at, &mut |old| same_key(at, old))?;
            }
        }
        Ok(())
    }

    #[inline]
    fn candidates(&self, hash: KeyHash, out: &mut Candidates) {
        out.clear();
        let partition = self.partition(hash).read();
        partition.find(hash.tag(), self.watermark(), out);
    }

    fn raise_watermark(&self, lowest: SegmentId) {
        self.watermark.fetch_max(lowest.0, Ordering::AcqRel);
    }

    fn entries(&self) -> usize {
        self.partitions().map(|partition| partition.read().len()).sum()
    }

    fn memory_bytes(&self) -> usize {
        let slots: usize = self.partitions().map(|partition| partition.read().memory_bytes()).sum();
        size_of::<Self>() + size_of_val(&*self.partitions) + slots
    }

    fn reserve(&self, additional_keys: usize) {
        if additional_keys == 0 {
            return;
        }
        // Three standard deviations above the mean, so that few partitions fall short.
        let mean = additional_keys.div_ceil(KeyHash::PARTITIONS);
        let share = mean + 3 * mean.isqrt();
        for partition in self.partitions() {
            partition.write().reserve(share, self.watermark());
        }
    }
}

/// The items sorted by partition: a counting sort.
fn by_partition(items: &[(KeyHash, Position)]) -> Vec<(KeyHash, Position)> {
    let mut next = [0usize; KeyHash::PARTITIONS];
    for (hash, _) in items {
        if let Some(count) = next.get_mut(hash.partition()) {
            *count += 1;
        }
    }
    let mut start = 0;
    for next in &mut next {
        start += mem::replace(next, start);
    }
    let mut sorted = items.to_vec();
    for item in items {
        let Some(next) = next.get_mut(item.0.partition()) else { continue };
        if let Some(slot) = sorted.get_mut(*next) {
            *slot = *item;
        }
        *next += 1;
    }
    sorted
}

impl Default for MemoryKeymap {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryKeymap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKeymap")
            .field("entries", &self.entries())
            .field("memory_bytes", &self.memory_bytes())
            .field("watermark", &self.watermark())
            .finish()
    }
}
