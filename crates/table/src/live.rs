//! What the threads of a writing process see of its table: keymap, segments and watermark, changed in place.
//!
//! Only the writer changes it. A position that the keymap names is one of a segment in the list, or of one that was
//! collected since. Readers take no other lock than that of the list, which is held for moments only.

use std::sync::Arc;

use lithdb_env::sync::RwLock;
use lithdb_env::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lithdb_keymap::Keymap;
use lithdb_segment::scan::Totals;
use lithdb_segment::{Position, Segment, SegmentId};

use crate::segments::Segments;

#[derive(Debug)]
pub(crate) struct LiveView {
    pub(crate) keymap: Arc<dyn Keymap>,
    /// The last one is mutable.
    segments: RwLock<Segments>,
    watermark: AtomicU32,
    pub(crate) counts: Counts,
}

/// The records and the primary ones among them of the mutable segment, for those who do not take the writer lock. Both
/// stay below 2^32, as key files do.
#[derive(Debug, Default)]
pub(crate) struct Counts(AtomicU64);

impl Counts {
    /// Called under the writer lock.
    pub(crate) fn set(&self, totals: &Totals) {
        self.0.store(totals.records << 32 | totals.primaries, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> (u64, u64) {
        let packed = self.0.load(Ordering::Relaxed);
        (packed >> 32, packed & u64::from(u32::MAX))
    }
}

impl LiveView {
    pub(crate) fn new(keymap: Arc<dyn Keymap>, segments: Segments, watermark: SegmentId) -> Self {
        let (segments, watermark) = (RwLock::new(segments), watermark.0.into());
        Self { keymap, segments, watermark, counts: Counts::default() }
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

    /// Whether the record at `at` has this key. One that cannot be read stays for whoever asks for it.
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

    /// The watermark is durable: returns the segments below it, which nobody finds any more.
    pub(crate) fn retire_below(&self, watermark: SegmentId) -> Vec<Arc<Segment>> {
        assert!(self.watermark() <= watermark, "watermark {watermark}: it moved back");
        self.watermark.store(watermark.0, Ordering::Release);
        self.keymap.raise_watermark(watermark);
        self.segments.write().remove_below(watermark)
    }
}
