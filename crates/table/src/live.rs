//! What the threads of a writing process see of its table: keymap, segments and watermark, updated
//! in place.
//!
//! Only the writer changes it. Every position in the keymap is in a segment of the list or in one
//! that was collected since. The list is locked only briefly.

use std::sync::Arc;

use lithdb_env::sync::RwLock;
use lithdb_env::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lithdb_keymap::Keymap;
use lithdb_segment::scan::Totals;
use lithdb_segment::{Position, Segment, SegmentId};

use crate::segments::Segments;

pub(crate) struct LiveView {
    pub(crate) keymap: Arc<dyn Keymap>,
    /// The last one is mutable.
    segments: RwLock<Segments>,
    watermark: AtomicU32,
    /// Records and primary records of the mutable segment, 32 bits each (a key file is shorter
    /// than 2^32 bytes): read without the writer lock.
    counts: AtomicU64,
}

impl LiveView {
    pub(crate) fn new(keymap: Arc<dyn Keymap>, segments: Segments, watermark: SegmentId) -> Self {
        let (segments, watermark) = (RwLock::new(segments), watermark.0.into());
        Self { keymap, segments, watermark, counts: AtomicU64::default() }
    }

    /// Called under the writer lock.
    pub(crate) fn set_counts(&self, mutable: &Totals) {
        self.counts.store(mutable.records << 32 | mutable.primaries, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        let packed = self.counts.load(Ordering::Relaxed);
        (packed >> 32, packed & u64::from(u32::MAX))
    }

    pub(crate) fn segments(&self) -> Segments {
        self.segments.read().clone()
    }

    pub(crate) fn find(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.segments.read().find(id).cloned()
    }

    pub(crate) fn watermark(&self) -> SegmentId {
        SegmentId(self.watermark.load(Ordering::Acquire))
    }

    /// Whether the record at `at` has this key. A failed read counts as no match; whoever looks
    /// the key up gets the error.
    pub(crate) fn has_key(&self, at: Position, key: &[u8]) -> bool {
        let segment = self.find(at.segment);
        segment.is_some_and(|segment| matches!(segment.lookup(at.offset, key), Ok(Some(_))))
    }

    /// Adds the table's first segment, which is durable.
    pub(crate) fn begin(&self, first: Arc<Segment>) {
        self.watermark.store(first.id().0, Ordering::Release);
        self.push(first);
    }

    /// Adds the new mutable segment.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        self.segments.write().push(segment);
    }

    /// Removes the segments below a durable watermark from the view, and returns them.
    pub(crate) fn retire_below(&self, watermark: SegmentId) -> Vec<Arc<Segment>> {
        assert!(self.watermark() <= watermark, "watermark {watermark}: it moved back");
        self.watermark.store(watermark.0, Ordering::Release);
        self.keymap.raise_watermark(watermark);
        self.segments.write().remove_below(watermark)
    }
}
