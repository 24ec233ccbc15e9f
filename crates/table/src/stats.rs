//! Statistics of a table, gathered without the writer's lock. They change nothing.

use std::time::Duration;

use lithdb_env::UnixMillis;
use lithdb_segment::scan::Totals;
use lithdb_segment::{Position, SegmentId};
use serde::Serialize;

use crate::options::KeymapKind;
use crate::segments::Segments;
use crate::table::{Role, Table};

/// Statistics of a table at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableStats {
    /// Key records that can be read, primary and secondary; a key that was put twice counts twice.
    pub keys: u64,
    /// Values that can be read.
    pub values: u64,
    /// Bytes of keys and values in the segments' files.
    pub bytes: u64,
    /// Bytes that no record names any more and that are freed when their segments expire: recovery
    /// copied them, or a rollback truncated them.
    pub waiting_bytes: u64,
    /// Number of segments, including the mutable one.
    pub segments: usize,
    /// The oldest segment.
    pub oldest_segment: SegmentId,
    /// When the oldest segment was created.
    pub oldest_created: Option<UnixMillis>,
    /// The lowest segment id that may be read.
    pub watermark: SegmentId,
    /// Everything before this position survives power loss.
    pub durable: Position,
    /// The end of the log.
    pub log_end: Position,
    /// Bytes that were put and are not durable yet.
    pub unflushed_bytes: u64,
    /// Value files per segment, from the next segment on.
    pub shards: u16,
    /// Root directories.
    pub roots: usize,
    /// How long values are kept; `None` is forever.
    pub ttl: Option<Duration>,
    /// When the table was created.
    pub created: UnixMillis,
    /// The kind of keymap.
    pub keymap: KeymapKind,
    /// Entries of the keymap, including dead ones that have not been dropped.
    pub keymap_entries: usize,
    /// Memory of the keymap in bytes.
    pub keymap_bytes: usize,
    /// The failure that closed the table for writing.
    pub failure: Option<String>,
}

/// Keys, values, bytes.
type Sum = (u64, u64, u64);

fn add(a: Sum, b: Sum) -> Sum {
    (a.0 + b.0, a.1 + b.1, a.2 + b.2)
}

fn sum_of(totals: &Totals) -> Sum {
    let bytes = totals.key_end + totals.value_ends.iter().sum::<u64>();
    (totals.records, totals.primaries, bytes)
}

fn sum_of_sealed(segments: &Segments) -> Sum {
    let sealed = segments.iter().filter_map(|segment| segment.metadata());
    sealed.map(|m| (m.records, m.primaries, m.bytes())).fold(Sum::default(), add)
}

impl Table {
    /// Returns the table's statistics.
    pub fn stats(&self) -> TableStats {
        let shared = self.shared();
        let (mut settings, mut unflushed_bytes) = (*shared.settings.lock(), 0);
        let (segments, log_end, sum) = match &self.role {
            Role::Reader(reader) => {
                let view = reader.view();
                let shards = view.segments.back().map(|newest| newest.header().shards);
                settings.shards = shards.unwrap_or(settings.shards);
                let unsealed = view.unsealed.as_ref().map(|unsealed| sum_of(&unsealed.totals));
                let sum = add(sum_of_sealed(&view.segments), unsealed.unwrap_or_default());
                (view.segments.clone(), view.end, sum)
            }
            // Without the writer lock: it is held while a segment is created, and while a
            // listener is called.
            Role::Writer(writer) => {
                let segments = writer.live.segments();
                let (mut end, mut written) = (Position::default(), 0);
                if let Some(mutable) = segments.back() {
                    end = Position::new(mutable.id(), mutable.key_end() as u32);
                    written = mutable.key_end() + mutable.value_ends().iter().sum::<u64>();
                    unflushed_bytes = written.saturating_sub(mutable.durable_bytes());
                }
                // The sealed ones first: one whose seal is pending must not be counted twice.
                let sealed = sum_of_sealed(&segments);
                let pending = writer.sealing.pending_totals().map(|totals| sum_of(&totals));
                let (records, primaries) = writer.live.counts();
                let unsealed = add(pending.unwrap_or_default(), (records, primaries, written));
                let log_end = writer.in_flight.complete_end(Position::default(), end);
                (segments, log_end, add(sealed, unsealed))
            }
        };
        let ((keys, values, bytes), read_source) = (sum, self.read_source());
        TableStats {
            keys,
            values,
            bytes,
            waiting_bytes: segments.iter().map(|segment| segment.waiting_bytes()).sum(),
            segments: segments.len(),
            oldest_segment: segments.front().map_or(SegmentId::NONE, |s| s.id()),
            oldest_created: segments.front().map(|s| s.header().created),
            watermark: read_source.watermark(),
            durable: self.durable_position(),
            log_end,
            unflushed_bytes,
            shards: settings.shards,
            roots: shared.context.dirs.len(),
            ttl: settings.ttl,
            created: shared.created,
            keymap: shared.options.keymap.unwrap_or_default(),
            keymap_entries: read_source.keymap().entries(),
            keymap_bytes: read_source.keymap().memory_bytes(),
            failure: shared.latch.cause().map(ToString::to_string),
        }
    }
}
