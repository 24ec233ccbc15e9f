//! A reader's view of a table that another process writes: an immutable value, replaced as a
//! whole.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_keymap::Keymap;
use lithdb_segment::record::Mark;
use lithdb_segment::scan::Totals;
use lithdb_segment::{
    Context, HEADER_LEN, KeyHeader, Metadata, Position, Segment, SegmentId, SegmentPaths,
};

use crate::open::chain::OpenPlan;
use crate::open::index::build_keymap;
use crate::segments::{Segments, Snapshot};
use crate::state::TableState;

/// Successive views share segments and, as long as the log only grows, the keymap: it has all keys
/// of the view, and may have keys after its end.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The state that the files were read with.
    pub(crate) state: TableState,
    pub(crate) watermark: SegmentId,
    pub(crate) segments: Segments,
    /// The end of the view.
    pub(crate) end: Position,
    /// The newest primary record, the default if there is none.
    pub(crate) newest: Position,
    pub(crate) keymap: Arc<dyn Keymap>,
    /// How far the last, unsealed segment was read; `None` if there is no segment.
    pub(crate) unsealed: Option<UnsealedCursor>,
}

/// How far an unsealed segment was read, and what continuing there needs.
#[derive(Debug, Clone)]
pub(crate) struct UnsealedCursor {
    pub(crate) totals: Totals,
    pub(crate) epochs: Vec<(u32, u64)>,
    /// The mark with the furthest durable end.
    pub(crate) furthest_mark: Mark,
}

impl View {
    /// The view of an open plan; `keymap` is empty and gets its keys.
    pub(crate) fn from_plan(
        context: &Arc<Context>,
        state: TableState,
        mut plan: OpenPlan,
        keymap: Arc<dyn Keymap>,
    ) -> Result<Self> {
        let read = plan.take_key_files();
        let sealed = plan.sealed.into_iter().map(|sealed| sealed.into_segment(context));
        let mut segments: Segments = sealed.collect();
        let unsealed = plan.unsealed.map(|found| {
            let (through, value_ends) = (found.durable.key_end as u32, found.durable.value_ends);
            let furthest_mark = Mark { through, value_ends, ..Mark::default() };
            let seen = UnsealedCursor { totals: found.keep, epochs: found.epochs, furthest_mark };
            segments.push(seen.segment(context, found.paths, found.header));
            seen
        });
        assert!(unsealed.is_some() || state.empty, "a plan without a segment to go on with");
        keymap.raise_watermark(state.watermark);
        let end = unsealed.as_ref().map(|unsealed| unsealed.totals.key_end as u32);
        let end = segments.back().zip(end).map(|(last, end)| Position::new(last.id(), end));
        let end = end.unwrap_or_default();
        let seed = state.hash_seed;
        let newest = build_keymap(&context.env.pool, &keymap, seed, &segments, end, read)?;
        Ok(Self { watermark: state.watermark, state, segments, end, newest, keymap, unsealed })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (segments, end) = (self.segments.clone(), self.end);
        Snapshot { segments, end, newest: Some(self.newest) }
    }

    /// This view with nothing below `watermark`.
    pub(crate) fn with_watermark(&self, watermark: SegmentId) -> Self {
        let mut above = self.clone();
        above.watermark = above.watermark.max(watermark);
        above.segments.remove_below(above.watermark);
        above
    }

    /// This view with more of its last segment.
    pub(crate) fn extended(&self, unsealed: UnsealedCursor, newest: Option<Position>) -> Self {
        let end = Position::new(self.end.segment, unsealed.totals.key_end as u32);
        let newest = newest.unwrap_or(self.newest);
        Self { end, newest, unsealed: Some(unsealed), ..self.clone() }
    }

    /// This view with one more segment.
    pub(crate) fn with_next_segment(&self, next: Arc<Segment>, unsealed: UnsealedCursor) -> Self {
        let end = Position::new(next.id(), unsealed.totals.key_end as u32);
        let mut followed = Self { end, unsealed: Some(unsealed), ..self.clone() };
        followed.segments.push(next);
        followed
    }
}

impl UnsealedCursor {
    /// Only the header was read.
    pub(crate) fn begin(header: &KeyHeader) -> Self {
        let (key_end, value_ends) =
            (HEADER_LEN as u64, vec![HEADER_LEN as u64; usize::from(header.shards)]);
        let furthest_mark =
            Mark { through: key_end as u32, value_ends: value_ends.clone(), ..Mark::default() };
        let totals = Totals { key_end, value_ends, ..Totals::default() };
        Self { totals, epochs: Vec::new(), furthest_mark }
    }

    /// The segment, readable up to here.
    pub(crate) fn segment(
        &self,
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
    ) -> Arc<Segment> {
        let (ends, durable) = (self.ends(), self.durable());
        Arc::new(Segment::unsealed_for_reader(context, paths, header, ends, durable, &self.epochs))
    }

    /// Makes the segment readable up to here.
    pub(crate) fn extend_readable(&self, segment: &Segment) {
        segment.extend_readable(self.ends(), self.durable(), &self.epochs);
    }

    fn ends(&self) -> (u64, &[u64]) {
        (self.totals.key_end, &self.totals.value_ends)
    }

    fn durable(&self) -> (u64, &[u64]) {
        (u64::from(self.furthest_mark.through), &self.furthest_mark.value_ends)
    }

    /// Whether the metadata matches what was read.
    pub(crate) fn matches_metadata(&self, metadata: &Metadata) -> bool {
        let found = &self.totals;
        (found.key_end, found.records, found.primaries, found.running)
            == (metadata.key_end, metadata.records, metadata.primaries, metadata.running)
    }
}
