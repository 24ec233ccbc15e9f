//! Roll-over: ends the mutable segment and begins the next one.
//!
//! The ended segment is sealed on the pool. Nothing in the next one is acknowledged before that,
//! so a flush waits for the seal and, if it failed without a failed write or sync (no space, no
//! descriptor), retries it.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_segment::record::Chain;
use lithdb_segment::scan::Totals;
use lithdb_segment::{NewSegment, Position, SealJob, Segment, SegmentId, SegmentWriter};

use crate::event::Event;
use crate::gc::clock::ClockReading;
use crate::state::{RecordedEnd, next_id};
use crate::table::Table;
use crate::write::seal::Seal;
use crate::write::writer::{Log, Writer};

impl Table {
    /// Seals the mutable segment now if it has records, and waits until that is durable.
    ///
    /// # Errors
    /// `StorageFull` with nothing lost; `Io`, which latches the table.
    pub fn seal(&self) -> Result<()> {
        let writer = self.enter_write()?;
        let (shared, mut log) = (&writer.shared, writer.log.lock());
        if log.has_records() {
            let sealed = shared.latch_on_panic("a seal", || writer.roll_over(&mut log));
            sealed.map_err(|e| shared.fail(&e))?;
        }
        drop(log);
        writer.finish_seal()
    }
}

impl Writer {
    /// Creates the segment after the one that `chain` describes; it is not durable yet.
    fn create_segment(&self, chain: Option<Chain>, now: ClockReading) -> Result<SegmentWriter> {
        let newest = chain.as_ref().map_or(SegmentId::NONE, |chain| chain.predecessor);
        let id = next_id(newest, self.state.get().next_id_floor)?;
        self.state.reserve(id)?;
        let (shared, now) = (&self.shared, now.time);
        let new = NewSegment { id, chain, shards: shared.settings.lock().shards, now };
        let (segment, totals) = Segment::create(&shared.context, &new)?;
        Ok(SegmentWriter::new(segment, shared.options.inline_max_bytes, totals, None))
    }

    /// Creates the first segment of a table: durable before anything is accepted.
    pub(super) fn create_first_segment(&self, log: &mut Log) -> Result<()> {
        let first = self.create_segment(None, self.now())?;
        let (segment, id) = (first.segment(), first.segment().id());
        let durable = segment.sync_everything().and_then(|()| {
            self.state.update(|state| {
                (state.empty, state.watermark) = (false, id);
                state.begin_segment(RecordedEnd::of(id, first.totals()));
            })
        });
        if let Err(error) = durable {
            // After a failed write or sync only recovery can tell what is durable. Else nothing
            // refers to the files.
            if !error.latches() {
                segment.remove_files();
            }
            return Err(error);
        }
        self.live.begin(Arc::clone(segment));
        log.segment = Some(first);
        Ok(())
    }

    /// Ends the mutable segment, begins the next one, and seals the old one in the background.
    pub(crate) fn roll_over(self: &Arc<Self>, log: &mut Log) -> Result<()> {
        // The table may have been closed, dropped or latched while the caller waited for the lock.
        self.shared.check_open()?;
        self.shared.latch.check()?;
        let Some(ending) = &log.segment else { return Ok(()) };
        self.finish_seal()?;
        let now = self.now();
        let chain = ending.totals().chain(ending.segment().id());
        let next = self.create_segment(Some(chain), now)?;
        let begun = RecordedEnd::of(next.segment().id(), next.totals());
        let job = SealJob {
            segment: Arc::clone(ending.segment()),
            totals: ending.totals().clone(),
            successor: next.segment().id(),
            sealed_at: now.stamp(),
            successor_end: None,
        };
        let seal = Seal { job, next: Arc::clone(next.segment()), begun };
        self.live.push(Arc::clone(&seal.next));
        log.segment = Some(next);
        log.begun = None;
        self.live.set_counts(&Totals::default());
        self.sealing.begin(seal);
        let writer = Arc::clone(self);
        self.shared.env().pool.submit(move || {
            #[expect(clippy::let_underscore_must_use, reason = "the next flush reports it")]
            let _ = writer.finish_seal();
        });
        Ok(())
    }

    /// Waits for the pending seal, or runs it here.
    pub(crate) fn finish_seal(&self) -> Result<()> {
        let shared = &self.shared;
        let may_begin = || shared.check_open().and_then(|()| shared.check_latch());
        // A panic must not leave other threads waiting, not even one of the metrics in `fail`.
        let run = |seal: &Seal| {
            let run = || self.run_seal(seal).map_err(|e| shared.fail(&e));
            shared.latch_on_panic("the seal", run)
        };
        if let Some(done) = self.sealing.finish(may_begin, run)? {
            self.announce(&done.job);
        }
        Ok(())
    }

    fn run_seal(&self, Seal { job, next, begun }: &Seal) -> Result<()> {
        self.in_flight.wait_below(Position::new(job.segment.id(), u32::MAX));
        // A failed large value has latched the table.
        self.shared.latch.check()?;
        next.sync_everything()?;
        job.run()?;
        // From now on, before anything in the next segment is acknowledged, the loss of that
        // segment or of this metadata is detected.
        self.update_state(|state| state.begin_segment(begun.clone())).map(drop)
    }

    fn announce(&self, job: &SealJob) {
        let table = self.shared.name().clone();
        let bytes = job.totals.key_end + job.totals.value_ends.iter().sum::<u64>();
        metrics::counter!("lithdb_sealed_segments_total", "table" => table.to_string())
            .increment(1);
        self.shared.setup.listener.emit(&Event::Sealed {
            table,
            segment: job.segment.id(),
            records: job.totals.records,
            bytes,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lithdb_env::ErrorKind;
    use lithdb_sim::SimFs;

    use super::*;
    use crate::test_support::{open, setup};

    /// The seal was called before the drop, and gets the writer lock after it.
    #[test]
    fn seal_waiting_during_a_drop_creates_no_segment() {
        let fs = SimFs::new();
        let setup = setup(&fs);
        let table = open(&setup);
        table.put(b"key", b"value").unwrap();
        let writer = table.enter_write().unwrap();
        table.begin_drop().unwrap();
        let refused = writer.roll_over(&mut writer.log.lock()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
        writer.sealing.wait_idle();
        drop(table);
        Table::remove(&setup).unwrap();
        assert_eq!(fs.file_paths(), Vec::<PathBuf>::new());
    }
}
