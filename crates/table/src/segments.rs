//! The list of a table's segments, as an immutable value: sorted by id, shared by clones. Who
//! holds a clone keeps its segments, whatever is collected meanwhile.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use lithdb_env::Result;
use lithdb_segment::{Position, Segment, SegmentId};

/// A list of segments, sorted by id. Clones share the list until one of them is changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Segments(Arc<VecDeque<Arc<Segment>>>);

impl Deref for Segments {
    type Target = VecDeque<Arc<Segment>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Segments {
    pub(crate) fn find(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.get(self.below(id)).filter(|segment| segment.id() == id)
    }

    /// Number of segments with a lower id.
    pub(crate) fn below(&self, id: SegmentId) -> usize {
        self.partition_point(|segment| segment.id() < id)
    }

    /// Adds a segment with the highest id.
    pub(crate) fn push(&mut self, segment: Arc<Segment>) {
        assert!(
            self.back().is_none_or(|last| last.id() < segment.id()),
            "segment {} is not newer than the last one",
            segment.id()
        );
        Arc::make_mut(&mut self.0).push_back(segment);
    }

    /// Removes the last segment.
    pub(crate) fn pop(&mut self) {
        Arc::make_mut(&mut self.0).pop_back();
    }

    /// Removes and returns the segments with lower ids.
    pub(crate) fn remove_below(&mut self, id: SegmentId) -> Vec<Arc<Segment>> {
        match self.below(id) {
            0 => Vec::new(),
            gone => Arc::make_mut(&mut self.0).drain(..gone).collect(),
        }
    }
}

impl FromIterator<Arc<Segment>> for Segments {
    fn from_iter<I: IntoIterator<Item = Arc<Segment>>>(segments: I) -> Self {
        Self(Arc::new(segments.into_iter().collect()))
    }
}

/// Whether the records at two positions have one key.
pub(crate) fn same_key(segments: &Segments, new: Position, old: Position) -> Result<bool> {
    // A collected record matches nothing.
    let (Some(newer), Some(older)) = (segments.find(new.segment), segments.find(old.segment))
    else {
        return Ok(false);
    };
    let (key, _, _) = newer.read_key(new.offset)?;
    Ok(older.lookup(old.offset, &key)?.is_some())
}

/// What can be read of a table at one moment.
pub(crate) struct Snapshot {
    pub(crate) segments: Segments,
    /// The end of what can be read of the last one.
    pub(crate) end: Position,
    /// The newest primary record; `None` if large values in flight make it unknown.
    pub(crate) newest: Option<Position>,
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lithdb_segment::{
        Context, HandleCache, Identity, KeyHeader, Leftovers, ReadMode, SegmentPaths, Verify,
    };
    use lithdb_sim::{SimClock, SimFs, sim_env};

    use super::*;

    fn segment(context: &Arc<Context>, id: u32) -> Arc<Segment> {
        let identity = Identity { table_id: 1, segment: SegmentId(id), salt: 0 };
        let header = KeyHeader {
            identity,
            predecessor: SegmentId::NONE,
            created: lithdb_env::UnixMillis(0),
            shards: 1,
        };
        let paths = SegmentPaths::for_new(&context.dirs, SegmentId(id), 1);
        let ends = (64, &[64][..]);
        Arc::new(Segment::unsealed_for_reader(context, paths, header, ends, ends, &[]))
    }

    #[test]
    fn segment_list_matches_a_model() {
        let context = Arc::new(Context {
            env: sim_env(&SimFs::new(), &SimClock::new(1)),
            table_id: 1,
            dirs: vec![PathBuf::from("/r")],
            read_mode: ReadMode::Map,
            verify: Verify::Always,
            handles: Arc::new(HandleCache::new(1)),
            leftovers: Leftovers::default(),
        });
        for step in [1, 2, 50, 300] {
            let (mut list, mut plain) = (Segments::default(), VecDeque::new());
            list.pop();
            for id in 1..=1000_u32 {
                // Ids have gaps.
                let added = segment(&context, 2 * id);
                let before = list.clone();
                list.push(Arc::clone(&added));
                plain.push_back(2 * id);
                assert_eq!(before.len() + 1, list.len(), "a copy stays as it is");
                if id % step != 0 {
                    continue;
                }
                let lowest = id + 1;
                let gone = list.remove_below(SegmentId(lowest));
                let expected = plain.partition_point(|id| *id < lowest);
                assert!(gone.iter().map(|s| s.id().0).eq(plain.drain(..expected)));
                assert!(list.iter().map(|s| s.id().0).eq(plain.iter().copied()));
                assert_eq!(list.len(), plain.len());
                let id_of = |s: Option<&Arc<Segment>>| s.map(|s| s.id().0);
                assert_eq!(id_of(list.front()), plain.front().copied());
                assert_eq!(id_of(list.back()), plain.back().copied());
                for asked in [lowest, lowest + 1, lowest + 130, 2 * id, 2 * id + 1] {
                    let below = plain.partition_point(|id| *id < asked);
                    assert_eq!(list.below(SegmentId(asked)), below, "{asked} after {id}");
                    assert_eq!(id_of(list.get(below)), plain.get(below).copied());
                    let found = plain.contains(&asked).then_some(asked);
                    assert_eq!(id_of(list.find(SegmentId(asked))), found);
                }
            }
            let mut popped = list.clone();
            for len in (0..list.len()).rev() {
                popped.pop();
                assert_eq!((popped.len(), popped.iter().count()), (len, len));
            }
            assert!(popped.front().is_none());
            assert_eq!(list.remove_below(SegmentId(u32::MAX)).len(), plain.len());
            assert!(list.is_empty());
        }
    }
}
