//! Statistics of a table, gathered without the writer's lock. They change nothing.

use std::time::Duration;

use lithdb_env::UnixMillis;
use lithdb_segment::{Position, SegmentId};
use serde::Serialize;

use crate::options::KeymapKind;
use crate::table::{Mode, Table};

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
    /// How long values are kept; `None` is for ever.
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

impl Table {
    /// Returns the table's statistics.
    pub fn stats(&self) -> TableStats {
        let inner = &self.inner;
        let (mut keys, mut values, mut bytes, mut unflushed_bytes) = (0, 0, 0, 0);
        let (segments, log_end) = match &inner.mode {
            Mode::Read(side) => {
                let view = side.view();
                (view.segments.clone(), view.end)
            }
            // Without the writer's lock: it is held while a segment is created, and while a
            // listener is called.
            Mode::Write(side) => {
                let segments = side.segments.read().clone();
                let end = segments.back().map_or(Position::default(), |mutable| {
                    Position::new(mutable.id(), mutable.key_end() as u32)
                });
                (segments, side.in_flight.complete_end(Position::default(), end))
            }
        };
        for metadata in segments.iter().filter_map(|s| s.metadata()) {
            keys += metadata.records;
            values += metadata.primaries;
            bytes += metadata.bytes();
        }
        if let Mode::Write(side) = &inner.mode {
            // A segment whose seal is pending, and the mutable one.
            if let Some(totals) = side.sealing.pending_totals() {
                keys += totals.records;
                values += totals.primaries;
                bytes += totals.key_end + totals.value_ends.iter().sum::<u64>();
            }
            let (records, primaries) = side.counts.get();
            keys += records;
            values += primaries;
            if let Some(mutable) = segments.back() {
                let written = mutable.key_end() + mutable.value_ends().iter().sum::<u64>();
                bytes += written;
                unflushed_bytes = written.saturating_sub(mutable.durable_bytes());
            }
        } else if let Mode::Read(side) = &inner.mode {
            let view = side.view();
            if let Some(unsealed) = view.unsealed.as_ref().map(|unsealed| &unsealed.totals) {
                keys += unsealed.records;
                values += unsealed.primaries;
                bytes += unsealed.key_end + unsealed.value_ends.iter().sum::<u64>();
            }
        }
        let settings = *inner.settings.lock();
        TableStats {
            keys,
            values,
            bytes,
            waiting_bytes: segments.iter().map(|segment| segment.waiting_bytes()).sum(),
            segments: segments.len(),
            oldest_segment: segments.front().map_or(SegmentId::NONE, |s| s.id()),
            oldest_created: segments.front().map(|s| s.header().created),
            watermark: inner.watermark(),
            durable: self.durable_position(),
            log_end,
            unflushed_bytes,
            shards: if self.is_read_only() {
                segments.back().map_or(settings.shards, |s| s.header().shards)
            } else {
                settings.shards
            },
            roots: inner.context.dirs.len(),
            ttl: settings.ttl,
            created: inner.created,
            keymap: inner.options.keymap.unwrap_or_default(),
            keymap_entries: inner.read_source().keymap().entries(),
            keymap_bytes: inner.read_source().keymap().memory_bytes(),
            failure: inner.latch.cause().map(ToString::to_string),
        }
    }
}
