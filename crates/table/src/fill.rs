//! Filling a keymap from key files, when a table is opened.
//!
//! Segments are scanned in parallel, each by one thread; every record's checksum is compared on the way, and what a
//! sealed segment holds is compared with its seal.

use std::sync::Arc;

use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicUsize, Ordering};
use lithdb_env::{Error, Pool, Result};
use lithdb_keymap::{KeyHash, Keymap};
use lithdb_segment::record::KEY_FIXED_LEN;
use lithdb_segment::scan::Totals;
use lithdb_segment::{HEADER_LEN, Metadata, Position, Segment};

use crate::segments::Segments;

/// So many keys are inserted at a time.
const BATCH: usize = 64 << 10;
/// More threads than this do not help: they wait for memory.
const MAX_THREADS: usize = 8;

/// What is to be filled from where.
pub(crate) struct Fill<'a> {
    pub(crate) keymap: &'a Arc<dyn Keymap>,
    pub(crate) hash_seed: u64,
    pub(crate) segments: &'a Segments,
    /// The end of the last segment; the others end where their seals say.
    pub(crate) end: Position,
}

impl Fill<'_> {
    /// Returns the position of the newest primary record that was put in; the default if there was none.
    pub(crate) fn run(&self, pool: &Pool) -> Result<Position> {
        // A damaged count must not make memory grow: there are no more records than fit into the file.
        let fit = |m: &Metadata| m.records.min(m.key_end / KEY_FIXED_LEN as u64);
        let known: u64 =
            self.segments.iter().filter_map(|segment| segment.metadata()).map(fit).sum();
        self.keymap.reserve(known as usize);
        let next = Arc::new(AtomicUsize::new(0));
        let newest = Arc::new(Mutex::new(Position::default()));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MAX_THREADS).min(self.segments.len());
        let tasks: Vec<_> = (0..threads)
            .map(|_| {
                let (segments, next) = (self.segments.clone(), Arc::clone(&next));
                let (keymap, seed) = (Arc::clone(self.keymap), self.hash_seed);
                let (end, newest) = (self.end, Arc::clone(&newest));
                move || {
                    while let Some(segment) = segments.at(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = fill_one(&*keymap, seed, segment, &segments, end)?;
                        let mut newest = newest.lock();
                        *newest = found.max(*newest);
                    }
                    Ok(())
                }
            })
            .collect();
        pool.run_all(tasks)?;
        let newest = *newest.lock();
        Ok(newest)
    }
}

fn fill_one(
    keymap: &dyn Keymap,
    seed: u64,
    segment: &Arc<Segment>,
    all: &Segments,
    end: Position,
) -> Result<Position> {
    let key_end = match segment.metadata() {
        Some(metadata) => metadata.key_end,
        None if segment.id() == end.segment => u64::from(end.offset),
        None => segment.key_end(),
    };
    let mut scanner = segment.scan(key_end.max(HEADER_LEN as u64))?;
    let mut batch = Vec::with_capacity(BATCH.min((key_end / 64) as usize + 1));
    let mut same_key = |new: Position, old: Position| same_key(all, new, old);
    let mut newest = Position::default();
    while let Some(entry) = scanner.next_entry()? {
        let at = Position::new(segment.id(), entry.offset);
        if entry.record.is_primary() {
            newest = at;
        }
        batch.push((KeyHash::of(seed, entry.record.key), at));
        if batch.len() == BATCH {
            keymap.insert_batch(&batch, &mut same_key)?;
            batch.clear();
        }
    }
    scanner.require_clean()?;
    keymap.insert_batch(&batch, &mut same_key)?;
    check_totals(segment, scanner.totals())?;
    Ok(newest)
}

/// A sealed segment holds what its seal says.
fn check_totals(segment: &Segment, found: &Totals) -> Result<()> {
    let Some(metadata) = segment.metadata() else { return Ok(()) };
    let expected = (metadata.records, metadata.primaries, metadata.running);
    let counted = (found.records, found.primaries, found.running);
    if expected == counted {
        return Ok(());
    }
    let path = &segment.paths().keys;
    let show = |(records, primaries, running): (u64, u64, u32)| {
        format!("{records} records, {primaries} values, running checksum {running:08x}")
    };
    Err(Error::corrupt(path, found.key_end, &show(expected), &show(counted)))
}

/// Whether the records at two positions have one key.
pub(crate) fn same_key(segments: &Segments, new: Position, old: Position) -> Result<bool> {
    // One whose segment was collected has nothing in common with anything.
    let (Some(newer), Some(older)) = (segments.get(new.segment), segments.get(old.segment)) else {
        return Ok(false);
    };
    let (key, _, _) = newer.read_key(new.offset)?;
    Ok(older.lookup(old.offset, &key)?.is_some())
}
