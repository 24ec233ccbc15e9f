//! Builds the keymap from the key files when a table is opened.
//!
//! Worker threads scan the segments in parallel, one thread per segment. The scan verifies the
//! checksum of every record and compares the totals of a sealed segment with its metadata.

use std::sync::Arc;

use lithdb_env::sync::Mutex;
use lithdb_env::{Error, Pool, Result};
use lithdb_keymap::{KeyHash, Keymap, MemoryKeymap};
use lithdb_segment::record::KEY_FIXED_LEN;
use lithdb_segment::scan::{Scanner, Totals};
use lithdb_segment::{HEADER_LEN, Metadata, Position, Segment};

use crate::options::KeymapKind;
use crate::segments::{Segments, same_key};
use lithdb_segment::key_file::{KeyFile, KeyFiles};

/// Keys inserted into the keymap at a time.
const BATCH: usize = 64 << 10;
/// Key files of sealed segments up to this length in bytes are read, longer ones mapped.
const SMALL: u64 = 1 << 20;

pub(crate) fn new_keymap(kind: KeymapKind) -> Arc<dyn Keymap> {
    match kind {
        KeymapKind::Memory => Arc::new(MemoryKeymap::new()),
    }
}

/// Inserts the records of `segments` into `keymap`. The last segment ends at `end`, the others
/// where their metadata says. `read` holds key files that are already in memory. Returns the
/// position of the newest primary record, or the default position if there is none.
pub(crate) fn build_keymap(
    pool: &Pool,
    keymap: &Arc<dyn Keymap>,
    seed: u64,
    segments: &Segments,
    end: Position,
    read: KeyFiles,
) -> Result<Position> {
    // A damaged count must not allocate too much: a file holds no more records than fit into it.
    let fit = |m: &Metadata| m.records.min(m.key_end / KEY_FIXED_LEN as u64);
    let known: u64 = segments.iter().filter_map(|segment| segment.metadata()).map(fit).sum();
    keymap.reserve(known as usize);
    let newest = Arc::new(Mutex::new(Position::default()));
    let (keymap, segments, most) = (Arc::clone(keymap), segments.clone(), Arc::clone(&newest));
    pool.parallel_for(segments.len(), move |numbers| {
        let (keymap, read, batch) = (&*keymap, &read, Vec::new());
        let mut filling = KeymapBuilder { keymap, seed, segments: &segments, end, read, batch };
        for segment in numbers.map_while(|number| segments.get(number)) {
            let found = filling.take(segment)?;
            let mut newest = most.lock();
            *newest = found.max(*newest);
        }
        filling.insert()
    })?;
    let newest = *newest.lock();
    Ok(newest)
}

/// The work of one thread.
struct KeymapBuilder<'a> {
    keymap: &'a dyn Keymap,
    seed: u64,
    segments: &'a Segments,
    end: Position,
    read: &'a KeyFiles,
    /// Keys not yet in the keymap.
    batch: Vec<(KeyHash, Position)>,
}

impl KeymapBuilder<'_> {
    /// Adds the keys of one segment; returns the position of its newest primary record.
    fn take(&mut self, segment: &Arc<Segment>) -> Result<Position> {
        let key_end = match segment.metadata() {
            Some(metadata) => metadata.key_end,
            None if segment.id() == self.end.segment => u64::from(self.end.offset),
            None => segment.key_end(),
        };
        let end = key_end.max(HEADER_LEN as u64);
        if let Some(bytes) = self.read.get(&segment.id()) {
            let source = |offset: u64, len: usize| {
                // As with a file, reads past the end return nothing; the scanner reports what is
                // missing.
                let rest = bytes.get(offset as usize..).unwrap_or_default();
                Ok(bytes.slice_ref(rest.get(..len).unwrap_or(rest)))
            };
            let (path, header) = (&segment.paths().keys, *segment.header());
            return self.scan(segment, Scanner::new(source, path, header, end));
        }
        if segment.metadata().is_some() && end <= SMALL {
            // There may be many of these: neither map it nor keep it open.
            let keys = KeyFile::open(&*segment.context().env.fs, &segment.paths().keys)?;
            if keys.header == *segment.header() && keys.len >= end {
                return self.scan(segment, keys.scan(end, None));
            }
        }
        self.scan(segment, segment.scan(end)?)
    }

    fn scan(&mut self, segment: &Segment, mut scanner: Scanner<'_>) -> Result<Position> {
        let mut newest = Position::default();
        while let Some(entry) = scanner.next_entry()? {
            let at = Position::new(segment.id(), entry.offset);
            if entry.record.is_primary() {
                newest = at;
            }
            self.batch.push((KeyHash::of(self.seed, entry.record.key), at));
            if self.batch.len() == BATCH {
                self.insert()?;
            }
        }
        scanner.require_clean()?;
        check_totals(segment, scanner.totals())?;
        Ok(newest)
    }

    fn insert(&mut self) -> Result<()> {
        let mut same_key = |new: Position, old: Position| same_key(self.segments, new, old);
        self.keymap.insert_batch(&self.batch, &mut same_key)?;
        self.batch.clear();
        Ok(())
    }
}

/// Compares the totals of a scan with the metadata of a sealed segment.
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
