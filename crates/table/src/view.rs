//! What a reader sees of a table that another process writes: a value that never changes, and is replaced as a whole.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_keymap::Keymap;
use lithdb_segment::record::Mark;
use lithdb_segment::scan::Totals;
use lithdb_segment::{
    Context, HEADER_LEN, KeyHeader, Metadata, Position, Segment, SegmentId, SegmentPaths,
};

use crate::fill::fill;
use crate::plan::Plan;
use crate::segments::Segments;
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
    pub(crate) tail: Option<TailSeen>,
}

/// How far an unsealed segment was read, and what it takes to read on from there.
#[derive(Debug, Clone)]
pub(crate) struct TailSeen {
    pub(crate) totals: Totals,
    pub(crate) epochs: Vec<(u32, u64)>,
    /// The mark that promises most.
    pub(crate) promise: Mark,
}

impl View {
    /// The view of what a look at all files has found, with a keymap that is empty as yet.
    pub(crate) fn whole(
        context: &Arc<Context>,
        state: TableState,
        mut plan: Plan,
        keymap: Arc<dyn Keymap>,
    ) -> Result<Self> {
        let read = plan.take_key_files();
        let mut segments: Segments = plan
            .sealed
            .into_iter()
            .map(|found| {
                let segment = Segment::sealed(context, found.paths, found.header, found.metadata);
                Arc::new(segment.with_waiting(found.waiting_bytes))
            })
            .collect();
        let tail = plan.tail.map(|found| {
            let (through, value_ends) = (found.promised.key_end as u32, found.promised.value_ends);
            let promise = Mark { through, value_ends, ..Mark::default() };
            let seen = TailSeen { totals: found.keep, epochs: found.epochs, promise };
            segments.push(seen.segment(context, found.paths, found.header));
            seen
        });
        assert!(tail.is_some() || state.empty, "a plan without a segment to go on with");
        keymap.raise_watermark(state.watermark);
        let end = match (segments.back(), &tail) {
            (Some(last), Some(tail)) => Position::new(last.id(), tail.totals.key_end as u32),
            _ => Position::default(),
        };
        let seed = state.hash_seed;
        let newest = fill(&context.env.pool, &keymap, seed, &segments, end, read)?;
        Ok(Self { watermark: state.watermark, state, segments, end, newest, keymap, tail })
    }

    /// The same, with nothing below `watermark`.
    pub(crate) fn above(&self, watermark: SegmentId) -> Self {
        let mut above = self.clone();
        above.watermark = above.watermark.max(watermark);
        above.segments.remove_below(above.watermark);
        above
    }

    /// The same, with more of its last segment.
    pub(crate) fn grown(&self, tail: TailSeen, newest: Option<Position>) -> Self {
        let end = Position::new(self.end.segment, tail.totals.key_end as u32);
        let newest = newest.unwrap_or(self.newest);
        Self { end, newest, tail: Some(tail), ..self.clone() }
    }

    /// The same, with one more segment.
    pub(crate) fn followed_by(&self, next: Arc<Segment>, tail: TailSeen) -> Self {
        let end = Position::new(next.id(), tail.totals.key_end as u32);
        let mut followed = Self { end, tail: Some(tail), ..self.clone() };
        followed.segments.push(next);
        followed
    }
}

impl TailSeen {
    /// Nothing of a segment but its header.
    pub(crate) fn begin(header: &KeyHeader) -> Self {
        let (key_end, value_ends) =
            (HEADER_LEN as u64, vec![HEADER_LEN as u64; usize::from(header.shards)]);
        let promise =
            Mark { through: key_end as u32, value_ends: value_ends.clone(), ..Mark::default() };
        let totals = Totals { key_end, value_ends, ..Totals::default() };
        Self { totals, epochs: Vec::new(), promise }
    }

    /// The segment, as far as it was seen.
    pub(crate) fn segment(
        &self,
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
    ) -> Arc<Segment> {
        let (ends, durable) = (self.ends(), self.durable());
        Arc::new(Segment::foreign_tail(context, paths, header, ends, durable, &self.epochs))
    }

    /// Lets a segment that was seen in part be read up to here.
    pub(crate) fn grow(&self, segment: &Segment) {
        segment.grow(self.ends(), self.durable(), &self.epochs);
    }

    fn ends(&self) -> (u64, &[u64]) {
        (self.totals.key_end, &self.totals.value_ends)
    }

    fn durable(&self) -> (u64, &[u64]) {
        (u64::from(self.promise.through), &self.promise.value_ends)
    }

    /// Whether a seal that ends here is one of what was seen.
    pub(crate) fn agrees(&self, seal: &Metadata) -> bool {
        let found = &self.totals;
        (found.key_end, found.records, found.primaries, found.running)
            == (seal.key_end, seal.records, seal.primaries, seal.running)
    }
}
