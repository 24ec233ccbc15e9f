//! What a reader sees of a table that another process writes: a value that never changes, and is replaced as a whole.

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

/// A view. Those that follow each other share the segments and, as long as the log only grows, the keymap: it may know
/// records behind the end of a view, and all that the view has.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The state that the files were read with.
    pub(crate) state: TableState,
    pub(crate) watermark: SegmentId,
    pub(crate) segments: Segments,
    /// The end of what is seen.
    pub(crate) end: Position,
    /// The newest primary record, the default if there is none.
    pub(crate) newest: Position,
    pub(crate) keymap: Arc<dyn Keymap>,
    /// Of the last segment, which is not sealed; `None` if there is no segment.
    pub(crate) unsealed: Option<UnsealedCursor>,
}

/// How far an unsealed segment was read, and what it takes to read on from there.
#[derive(Debug, Clone)]
pub(crate) struct UnsealedCursor {
    pub(crate) totals: Totals,
    pub(crate) epochs: Vec<(u32, u64)>,
    /// The mark that promises most.
    pub(crate) durable_mark: Mark,
}

impl View {
    /// The view of what a look at all files has found, with a keymap that is empty as yet.
    pub(crate) fn from_plan(
        context: &Arc<Context>,
        state: TableState,
        mut plan: OpenPlan,
        keymap: Arc<dyn Keymap>,
    ) -> Result<Self> {
        let read = plan.take_key_files();
        let mut segments: Segments = plan
            .sealed
            .into_iter()
            .map(|found| {
                let segment = Segment::sealed(context, found.paths, found.header, found.metadata);
                Arc::new(segment.with_waiting_bytes(found.waiting_bytes))
            })
            .collect();
        let unsealed = plan.unsealed.map(|found| {
            let (through, value_ends) = (found.durable.key_end as u32, found.durable.value_ends);
            let durable_mark = Mark { through, value_ends, ..Mark::default() };
            let seen = UnsealedCursor { totals: found.keep, epochs: found.epochs, durable_mark };
            segments.push(seen.segment(context, found.paths, found.header));
            seen
        });
        assert!(unsealed.is_some() || state.empty, "a plan without a segment to go on with");
        keymap.raise_watermark(state.watermark);
        let end = match (segments.back(), &unsealed) {
            (Some(last), Some(unsealed)) => {
                Position::new(last.id(), unsealed.totals.key_end as u32)
            }
            _ => Position::default(),
        };
        let seed = state.hash_seed;
        let newest = build_keymap(&context.env.pool, &keymap, seed, &segments, end, read)?;
        Ok(Self { watermark: state.watermark, state, segments, end, newest, keymap, unsealed })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (segments, end) = (self.segments.clone(), self.end);
        Snapshot { segments, end, newest: Some(self.newest) }
    }

    /// The same, with nothing below `watermark`.
    pub(crate) fn with_watermark(&self, watermark: SegmentId) -> Self {
        let mut above = self.clone();
        above.watermark = above.watermark.max(watermark);
        above.segments.remove_below(above.watermark);
        above
    }

    /// The same, with more of its last segment.
    pub(crate) fn extended(&self, unsealed: UnsealedCursor, newest: Option<Position>) -> Self {
        let end = Position::new(self.end.segment, unsealed.totals.key_end as u32);
        let newest = newest.unwrap_or(self.newest);
        Self { end, newest, unsealed: Some(unsealed), ..self.clone() }
    }

    /// The same, with one more segment.
    pub(crate) fn with_next_segment(&self, next: Arc<Segment>, unsealed: UnsealedCursor) -> Self {
        let end = Position::new(next.id(), unsealed.totals.key_end as u32);
        let mut followed = Self { end, unsealed: Some(unsealed), ..self.clone() };
        followed.segments.push(next);
        followed
    }
}

impl UnsealedCursor {
    /// Nothing of a segment but its header.
    pub(crate) fn begin(header: &KeyHeader) -> Self {
        let (key_end, value_ends) =
            (HEADER_LEN as u64, vec![HEADER_LEN as u64; usize::from(header.shards)]);
        let durable_mark =
            Mark { through: key_end as u32, value_ends: value_ends.clone(), ..Mark::default() };
        let totals = Totals { key_end, value_ends, ..Totals::default() };
        Self { totals, epochs: Vec::new(), durable_mark }
    }

    /// The segment, as far as it was seen.
    pub(crate) fn segment(
        &self,
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
    ) -> Arc<Segment> {
        let (ends, durable) = (self.ends(), self.durable());
        Arc::new(Segment::unsealed_for_reader(context, paths, header, ends, durable, &self.epochs))
    }

    /// Lets a segment that was seen in part be read up to here.
    pub(crate) fn extend_readable(&self, segment: &Segment) {
        segment.extend_readable(self.ends(), self.durable(), &self.epochs);
    }

    fn ends(&self) -> (u64, &[u64]) {
        (self.totals.key_end, &self.totals.value_ends)
    }

    fn durable(&self) -> (u64, &[u64]) {
        (u64::from(self.durable_mark.through), &self.durable_mark.value_ends)
    }

    /// Whether a seal that ends here is one of what was seen.
    pub(crate) fn matches_seal(&self, seal: &Metadata) -> bool {
        let found = &self.totals;
        (found.key_end, found.records, found.primaries, found.running)
            == (seal.key_end, seal.records, seal.primaries, seal.running)
    }
}
