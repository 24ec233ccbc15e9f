//! What a lookup reads: the live view of a writing process, or a reader's present view.
//!
//! A lookup asks the keymap, then the segments. If a segment was collected in between, it asks
//! again: the key may have been put again.

use std::sync::Arc;

use lithdb_env::Error;
use lithdb_keymap::{Candidates, KeyHash, Keymap};
use lithdb_segment::{Address, Position, Segment, SegmentId};

use crate::live::LiveView;
use crate::read::reader::Reader;
use crate::read::view::View;

/// A key that was found.
pub(crate) struct Found {
    pub(crate) at: Position,
    pub(crate) segment: Arc<Segment>,
    pub(crate) address: Address,
}

/// A failed read, and its segment.
#[derive(Debug)]
pub(crate) struct FailedRead {
    pub(crate) segment: Arc<Segment>,
    pub(crate) error: Error,
}

impl From<FailedRead> for Error {
    fn from(failed: FailedRead) -> Self {
        failed.error
    }
}

pub(crate) enum ReadSource<'a> {
    /// With the watermark at the time of the lookup.
    Live(&'a LiveView, SegmentId),
    View(&'a Reader, Arc<View>),
}

impl<'a> ReadSource<'a> {
    pub(crate) fn live(live: &'a LiveView) -> Self {
        Self::Live(live, live.watermark())
    }

    pub(crate) fn view(reader: &'a Reader) -> Self {
        Self::View(reader, reader.view())
    }

    pub(crate) fn keymap(&self) -> &dyn Keymap {
        match self {
            Self::Live(live, _) => &*live.keymap,
            Self::View(_, view) => &*view.keymap,
        }
    }

    pub(crate) fn watermark(&self) -> SegmentId {
        match self {
            Self::Live(_, watermark) => *watermark,
            Self::View(_, view) => view.watermark,
        }
    }

    fn segment(&self, id: SegmentId) -> Option<Arc<Segment>> {
        match self {
            Self::Live(live, _) => live.find(id),
            Self::View(_, view) => view.segments.find(id).cloned(),
        }
    }

    /// Moves on to the present view. False if nothing was collected and no other view published.
    pub(crate) fn advance(&mut self) -> bool {
        match self {
            Self::Live(live, before) => {
                let now = live.watermark();
                std::mem::replace(before, now) != now
            }
            Self::View(reader, before) => {
                let now = reader.view();
                let is_same = Arc::ptr_eq(before, &now);
                *before = now;
                !is_same
            }
        }
    }

    /// The newest record of `key`; `hash` is its hash.
    pub(crate) fn find(&mut self, hash: KeyHash, key: &[u8]) -> Result<Option<Found>, FailedRead> {
        let mut candidates = Candidates::new();
        loop {
            self.keymap().candidates(hash, &mut candidates);
            let mut passed_over = false;
            for at in candidates.iter().copied() {
                // Collected since the lookup in the keymap, or newer than the view.
                let Some(segment) = self.segment(at.segment) else {
                    passed_over = true;
                    continue;
                };
                match segment.lookup(at.offset, key) {
                    Ok(Some(address)) => return Ok(Some(Found { at, segment, address })),
                    Ok(None) => {}
                    Err(error) => return Err(FailedRead { segment, error }),
                }
            }
            // The key may have been put again before the collection, or be in a newer view: then
            // the keymap has it now.
            if !passed_over || !self.advance() {
                return Ok(None);
            }
        }
    }
}
