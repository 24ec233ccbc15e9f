//! One partition of the in-memory keymap: an open-addressing hash table of 12-byte entries.
//!
//! An entry's home slot is monotone in its tag, so the table is kept sorted by tag, newest
//! position first among equal tags. Invariants:
//!
//! - no empty slot lies between an entry and its home slot;
//! - the entries, front to back, are sorted by tag, then by descending position;
//! - nothing wraps around: spare slots after the last home slot take what is pushed over the end,
//!   and the table is rewritten when they are full.
//!
//! So a lookup is one multiplication and a short scan of adjacent slots, and a rewrite is one pass
//! that reads and writes sequentially.

use std::hint::black_box;

use lithdb_segment::{Position, SegmentId};

use crate::Candidates;

/// A table is rewritten at a load of `MAX_LOAD.0 / MAX_LOAD.1`, to one of `REWRITTEN_LOAD.0 /
/// REWRITTEN_LOAD.1`: 14.1 to 18.5 bytes per key.
const MAX_LOAD: (usize, usize) = (17, 20);
const REWRITTEN_LOAD: (usize, usize) = (13, 20);
const MIN_CAPACITY: usize = 8;

/// What the table stores for a key. `segment` 0 marks an empty slot, which has the highest tag, so
/// that a scan for a lower tag stops there without a separate test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    tag: u32,
    segment: u32,
    offset: u32,
}

const _: () = assert!(size_of::<Entry>() == 12);

const EMPTY: Entry = Entry { tag: u32::MAX, segment: 0, offset: 0 };

impl Entry {
    pub(crate) const fn new(tag: u32, at: Position) -> Self {
        Self { tag, segment: at.segment.0, offset: at.offset }
    }

    pub(crate) const fn at(&self) -> Position {
        Position::new(SegmentId(self.segment), self.offset)
    }

    const fn is_empty(&self) -> bool {
        self.segment == 0
    }

    /// Whether this is an entry at or above the watermark, which is at least 1.
    const fn is_live(&self, watermark: SegmentId) -> bool {
        self.segment >= watermark.0
    }

    const fn has_tag(&self, tag: u32) -> bool {
        self.tag == tag && !self.is_empty()
    }

    /// Whether this slot sorts before `entry`.
    fn precedes(&self, entry: &Self) -> bool {
        self.tag < entry.tag || (self.has_tag(entry.tag) && self.at() > entry.at())
    }
}

/// The table. The caller locks it.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// `capacity` home slots and the spare ones.
    slots: Vec<Entry>,
    capacity: usize,
    len: usize,
}

impl Partition {
    /// Number of entries, including dead ones.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes allocated for the slots.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Entry>()
    }

    /// Appends to `out` all live positions with this tag, newest first.
    #[inline]
    pub(crate) fn find(&self, tag: u32, watermark: SegmentId, out: &mut Candidates) {
        for entry in self.with_tag(tag).filter(|entry| entry.is_live(watermark)) {
            out.push(entry.at());
        }
    }

    /// Adds an entry unless a live one has its tag; then returns false and changes nothing.
    pub(crate) fn add_if_unique(&mut self, entry: Entry, watermark: SegmentId) -> bool {
        let mut dead = false;
        for rival in self.with_tag(entry.tag) {
            if rival.is_live(watermark) {
                return false;
            }
            dead = true;
        }
        match self.oldest_with_tag_mut(entry.tag) {
            // All entries with this tag are dead, hence lower: the new entry may replace the
            // oldest.
            Some(place) if dead => *place = entry,
            _ => self.add(entry, watermark),
        }
        true
    }

    /// Adds an entry, whatever others have its tag.
    pub(crate) fn add(&mut self, entry: Entry, watermark: SegmentId) {
        if (self.len + 1) * MAX_LOAD.1 > self.capacity * MAX_LOAD.0 || !self.place(entry) {
            self.grow(watermark);
            let placed = self.place(entry);
            debug_assert!(placed, "a fresh table has room");
        }
    }

    /// Replaces the entry with this tag at `old` by a higher position.
    pub(crate) fn replace(&mut self, tag: u32, old: Position, new: Position) {
        let (old, new) = (Entry::new(tag, old), Entry::new(tag, new));
        debug_assert!(old.at() < new.at());
        let from = self.home(tag);
        let Some(slots) = self.slots.get_mut(from..) else { return };
        let to = slots.iter().take_while(|slot| slot.precedes(&new)).count();
        let Some(found) = slots.iter().position(|slot| *slot == old) else { return };
        if let Some(moved) = slots.get_mut(to..=found) {
            moved.rotate_right(1);
        }
        if let Some(place) = slots.get_mut(to) {
            *place = new;
        }
    }

    /// Makes room for `additional` keys.
    pub(crate) fn reserve(&mut self, additional: usize, watermark: SegmentId) {
        let capacity = (self.len + additional) * MAX_LOAD.1 / MAX_LOAD.0 + 1;
        if capacity > self.capacity {
            self.rewrite(capacity.max(MIN_CAPACITY), watermark);
        }
    }

    /// The entries with this tag, newest first.
    #[inline]
    fn with_tag(&self, tag: u32) -> impl Iterator<Item = &Entry> {
        let slots = self.slots.get(self.home(tag)..).unwrap_or_default();
        slots
            .iter()
            .skip_while(move |slot| slot.tag < tag)
            .take_while(move |slot| slot.has_tag(tag))
    }

    fn oldest_with_tag_mut(&mut self, tag: u32) -> Option<&mut Entry> {
        let from = self.home(tag);
        self.slots.get_mut(from..)?.iter_mut().find(|slot| slot.tag >= tag)
    }

    /// The slot where the search for a tag begins: below the capacity and monotone in the tag.
    #[inline]
    const fn home(&self, tag: u32) -> usize {
        home(tag, self.capacity)
    }

    /// Reads the slots where the searches for `tags` begin, so that the cache misses of a batch
    /// overlap; one insertion after another would not overlap them.
    pub(crate) fn prefetch(&self, tags: impl Iterator<Item = u32>) {
        let slots = tags.filter_map(|tag| self.slots.get(self.home(tag)));
        black_box(slots.fold(0, |sum, slot| sum ^ slot.tag));
    }

    /// Inserts an entry in sort order, moving the following entries up to the next empty slot.
    /// Returns false and changes nothing if there is none.
    fn place(&mut self, entry: Entry) -> bool {
        let from = self.home(entry.tag);
        let Some(slots) = self.slots.get_mut(from..) else { return false };
        let to = slots.iter().take_while(|slot| slot.precedes(&entry)).count();
        let Some(slots) = slots.get_mut(to..) else { return false };
        let Some(gap) = slots.iter().position(Entry::is_empty) else { return false };
        slots.copy_within(..gap, 1);
        if let Some(place) = slots.first_mut() {
            *place = entry;
            self.len += 1;
        }
        true
    }

    /// Rewrites the table for one more entry, sized by the number of live ones.
    #[cold]
    fn grow(&mut self, watermark: SegmentId) {
        let live = self.slots.iter().filter(|entry| entry.is_live(watermark)).count();
        let fresh = ((live + 1) * REWRITTEN_LOAD.1 / REWRITTEN_LOAD.0 + 1).max(MIN_CAPACITY);
        // Without dead entries, only full spare slots lead here below the maximum load: keep the
        // reserved capacity; the rewrite adds spare slots.
        let capacity = if live < self.len { fresh } else { fresh.max(self.capacity) };
        self.rewrite(capacity, watermark);
    }

    /// Moves the live entries to a table of `capacity` home slots.
    fn rewrite(&mut self, capacity: usize, watermark: SegmentId) {
        let spare = (capacity / 16).clamp(4, 32);
        let mut slots = vec![EMPTY; capacity + spare];
        let mut next = 0;
        let mut len = 0;
        for entry in self.slots.iter().filter(|entry| entry.is_live(watermark)) {
            let to = next.max(home(entry.tag, capacity));
            match slots.get_mut(to) {
                Some(slot) => *slot = *entry,
                None => slots.push(*entry),
            }
            next = to + 1;
            len += 1;
        }
        // Tags clustered at the end can need many spare slots; a quarter more keeps rewrites rare.
        let overflow = next.saturating_sub(capacity);
        let total = slots.len().max(next + overflow / 4 + 4);
        slots.reserve_exact(total - slots.len());
        slots.resize(total, EMPTY);
        *self = Self { slots, capacity, len };
    }

    /// Asserts the invariants of the slots, for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let entries = self.slots.iter().filter(|slot| !slot.is_empty());
        let keys: Vec<_> = entries.map(|e| (e.tag, std::cmp::Reverse(e.at()))).collect();
        assert!(keys.is_sorted(), "the entries are out of order");
        assert_eq!(keys.len(), self.len);
        for (i, slot) in self.slots.iter().enumerate().filter(|(_, slot)| !slot.is_empty()) {
            let home = self.home(slot.tag);
            assert!(self.slots[home..i].iter().all(|s| !s.is_empty()), "a gap before slot {i}");
        }
        assert!(self.slots.len() >= self.capacity);
    }
}

#[inline]
const fn home(tag: u32, capacity: usize) -> usize {
    // The product overflows only above a capacity of 2^32 slots, 48 GiB for one partition.
    ((tag as u64 * capacity as u64) >> u32::BITS) as usize
}
