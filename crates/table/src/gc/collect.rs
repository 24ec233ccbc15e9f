//! Collection: whole segments expire, oldest first. The new watermark is made durable, then the
//! segments leave the table's list; their files are unlinked when the last holder drops them.
//!
//! Invariants: no file is unlinked before the watermark above it is durable, and no segment leaves
//! out of order.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result, millis};
use lithdb_segment::{Metadata, Position, Segment, SegmentId, UnlinkPermission};

use crate::event::Event;
use crate::gc::clock::ClockReading;
use crate::gc::filter::GcFilter;
use crate::options::check_ttl;
use crate::segments::Segments;
use crate::state::TableState;
use crate::table::Table;
use crate::write::writer::Writer;

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Segments collected.
    pub segments: usize,
    /// Their key records.
    pub records: u64,
    /// Their bytes, keys and values.
    pub bytes: u64,
    /// Set while the wall clock is not trusted after a jump: for this long, time follows the
    /// monotonic clock alone.
    pub held_for: Option<Duration>,
}

impl Table {
    /// Collects what has expired, oldest first, stopping at the first segment to keep. Refused
    /// without the filter if the table is collected with one.
    pub fn run_gc(&self) -> Result<GcReport> {
        let writer = self.enter_write()?;
        if self.has_gc_filter() && writer.shared.setup.filter.is_none() {
            let message = format!(
                "table {}: expected the GC filter of its application, found none; open the table with that filter, since the TTL alone may collect more than the filter allows",
                self.name()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        writer.collect()
    }

    /// As [`run_gc`](Self::run_gc), by the TTL alone if the table was opened without its filter:
    /// may collect what the filter would keep.
    pub fn run_gc_without_filter(&self) -> Result<GcReport> {
        self.enter_write()?.collect()
    }

    /// Changes the TTL, durably; `None` keeps values forever. A failed write latches.
    pub fn set_ttl(&self, ttl: Option<Duration>) -> Result<()> {
        let writer = self.enter_write()?;
        let shared = &writer.shared;
        check_ttl(ttl).map_err(|e| shared.in_context(&e))?;
        // Closing waits for this lock, so no state is written after it.
        let _state_changes = writer.state_changes.lock();
        shared.check_open()?;
        let written = writer.state.update(|state| state.ttl_ms = ttl.map(millis));
        written.map_err(|e| shared.fail(&e))?;
        shared.settings.lock().ttl = ttl;
        Ok(())
    }
}

impl Writer {
    /// Collects what is eligible. A panic latches the table.
    pub(crate) fn collect(&self) -> Result<GcReport> {
        self.shared.latch_on_panic("a collection", || self.collect_approved())
    }

    fn collect_approved(&self) -> Result<GcReport> {
        // Only collections wait for this lock. No lock that others wait for is held while the
        // filter runs.
        let mut filter_approved = self.filter_approved.lock();
        let now = self.record_time()?;
        let (shared, filter) = (&self.shared, &self.shared.setup.filter);
        if shared.settings.lock().ttl.is_none() && filter.is_none() {
            return Ok(GcReport::default());
        }
        let segments = self.live.segments();
        if let Some(filter) = filter {
            self.run_filter(filter, &segments, now, &mut filter_approved)?;
        }
        let permission = self.state_changes.lock();
        shared.check_latch()?;
        // The clock may have been accepted, and the TTL changed, while the filter ran.
        let now = self.record_time_alone()?;
        let state = self.state.get();
        let ttl = shared.settings.lock().ttl;
        // Without a TTL the clock decides nothing.
        let held_for = now.held_for.filter(|_| ttl.is_some());
        let mut report = GcReport { held_for, ..GcReport::default() };
        let mut watermark = None;
        for (segment, metadata, next) in expired(&segments, &state, ttl, now) {
            let is_approved = filter.is_none() || segment.id() < filter_approved.segment;
            if !is_approved {
                break;
            }
            watermark = Some(next);
            report.segments += 1;
            report.records += metadata.records;
            report.bytes += metadata.bytes();
        }
        let Some(watermark) = watermark else { return Ok(report) };
        self.update_state(|state| state.watermark = watermark)?;
        self.retire_below(&permission, watermark, report);
        Ok(report)
    }

    /// The watermark is durable: removes the segments below it from the list and the keymap.
    fn retire_below(&self, permission: &UnlinkPermission, watermark: SegmentId, report: GcReport) {
        for segment in self.live.retire_below(watermark) {
            segment.delete_on_drop(permission);
        }
        let table = self.shared.name().clone();
        metrics::counter!("lithdb_collected_segments_total", "table" => table.to_string())
            .increment(report.segments as u64);
        self.shared.setup.listener.emit(&Event::Collected {
            table,
            segments: report.segments,
            records: report.records,
            bytes: report.bytes,
            watermark,
        });
    }

    /// Calls the filter for the keys of expired segments, from the record it last refused to the
    /// next one it refuses.
    fn run_filter(
        &self,
        filter: &GcFilter,
        segments: &Segments,
        now: ClockReading,
        filter_approved: &mut Position,
    ) -> Result<()> {
        let (ttl, state) = (self.shared.settings.lock().ttl, self.state.get());
        for (segment, metadata, next) in expired(segments, &state, ttl, now) {
            if segment.id() < filter_approved.segment {
                continue;
            }
            match self.run_filter_on_segment(filter, segment, metadata, filter_approved) {
                Ok(true) => *filter_approved = Position::new(next, 0),
                Ok(false) => break,
                Err(cause) => {
                    let error = self.shared.in_context(&cause);
                    if self.check_accepting_writes().is_ok() {
                        let table = self.shared.name().clone();
                        self.shared.setup.listener.emit(&Event::GcPaused { table, cause });
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether the filter approves every key of the segment; `filter_approved` becomes the record
    /// it refused.
    fn run_filter_on_segment(
        &self,
        filter: &GcFilter,
        segment: &Arc<Segment>,
        metadata: &Metadata,
        filter_approved: &mut Position,
    ) -> Result<bool> {
        // The filter has approved everything before this position.
        let from = if filter_approved.segment == segment.id() { filter_approved.offset } else { 0 };
        let mut run_filter = |offset, key: &[u8], is_primary| {
            *filter_approved = Position::new(segment.id(), offset);
            // Closing does not wait for the rest of the filter's calls.
            self.check_accepting_writes()?;
            filter.approves(key, is_primary)
        };
        if from > 0 {
            let (key, _, is_primary) = segment.read_key(from)?;
            if !run_filter(from, &key, is_primary)? {
                return Ok(false);
            }
        }
        let mut scanner = segment.scan(metadata.key_end)?;
        while let Some(entry) = scanner.next_entry()? {
            let (key, is_primary) = (entry.record.key, entry.record.is_primary());
            if entry.offset > from && !run_filter(entry.offset, key, is_primary)? {
                return Ok(false);
            }
        }
        scanner.require_clean()?;
        Ok(true)
    }
}

/// The sealed segments that have expired, oldest first up to the first that has not, each with the
/// id of the next.
fn expired<'a>(
    segments: &'a Segments,
    state: &'a TableState,
    ttl: Option<Duration>,
    now: ClockReading,
) -> impl Iterator<Item = (&'a Arc<Segment>, &'a Metadata, SegmentId)> {
    segments.iter().zip(segments.iter().skip(1)).map_while(move |(segment, next)| {
        let metadata = segment.metadata()?;
        let (sealed_at, is_settled) = state.sealed_at(metadata);
        // A segment sealed after the time was recorded counts as sealed at the next recording.
        let is_settled = is_settled || !now.is_certain;
        let has_passed = |ttl| is_settled && sealed_at.saturating_add(ttl) <= now.time;
        ttl.is_none_or(has_passed).then(|| (segment, metadata, next.id()))
    })
}
