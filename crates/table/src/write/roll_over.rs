//! Ending the mutable segment and beginning the next one.
//!
//! The seal of the segment that ends runs on the pool. Nothing in the next one is acknowledged before it is done, so a flush
//! waits for it and, if it failed without a failed write or sync (no space, no descriptor), tries it again.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_segment::record::Chain;
use lithdb_segment::scan::Totals;
use lithdb_segment::{NewSegment, Position, SealJob, Segment, SegmentId, SegmentWriter};

use crate::event::Event;
use crate::gc::clock::ClockReading;
use crate::state::{DurableEnd, next_id};
use crate::table::Table;
use crate::write::seal::Seal;
use crate::write::writer::{Log, Writer};

impl Table {
    /// Seals the mutable segment now if there is anything in it, and waits until that is durable.
    ///
    /// # Errors
    /// `StorageFull` with nothing lost; `Io`, which latches the table.
    pub fn seal(&self) -> Result<()> {
        let writer = self.enter_write()?;
        {
            let (shared, mut log) = (&writer.shared, writer.log.lock());
            if log.has_records() {
                let sealed = shared.latch_on_panic("a seal", || writer.roll_over(&mut log));
                sealed.map_err(|e| shared.fail(&e))?;
            }
        }
        writer.finish_seal()
    }
}

impl Writer {
    /// Creates the segment that follows what `chain` describes; nothing of it is durable.
    fn create_segment(
        &self,
        chain: Option<Chain>,
        now: ClockReading,
    ) -> Result<(Arc<Segment>, Totals)> {
        let newest = chain.as_ref().map_or(SegmentId::NONE, |chain| chain.predecessor);
        let id = next_id(newest, self.state.get().next_id_floor)?;
        self.state.reserve(id)?;
        let shards = self.shared.settings.lock().shards;
        Segment::create(&self.shared.context, &NewSegment { id, chain, shards, now: now.time })
    }

    /// The first segment of a table: durable before anything is accepted.
    pub(super) fn create_first_segment(&self, log: &mut Log) -> Result<()> {
        let (segment, totals) = self.create_segment(None, self.now())?;
        let id = segment.id();
        let durable = segment.sync_everything().and_then(|()| {
            self.state.update(|state| {
                (state.empty, state.watermark) = (false, id);
                state.begin_segment(DurableEnd::of(id, &totals));
            })
        });
        if let Err(error) = durable {
            // After a failed write or sync only a reopening knows what is durable. Else nothing refers to the files.
            if !error.latches() {
                segment.remove_files();
            }
            return Err(error);
        }
        self.live.begin(Arc::clone(&segment));
        let inline_max = self.shared.options.inline_max_bytes;
        log.segment = Some(SegmentWriter::new(segment, inline_max, totals, None));
        Ok(())
    }

    /// Ends the mutable segment and begins the next one. The seal goes on in the background; only one can be pending.
    pub(crate) fn roll_over(self: &Arc<Self>, log: &mut Log) -> Result<()> {
        // Whoever waited for the writer lock may find the table closed, dropped or latched.
        self.shared.check_open()?;
        self.shared.latch.check()?;
        let Some(ending) = &log.segment else { return Ok(()) };
        self.finish_seal()?;
        let now = self.now();
        let chain = ending.totals().chain(ending.segment().id());
        let (next, next_totals) = self.create_segment(Some(chain), now)?;
        let begun = DurableEnd::of(next.id(), &next_totals);
        let job = SealJob {
            segment: Arc::clone(ending.segment()),
            totals: ending.totals().clone(),
            successor: next.id(),
            stamp: now.stamp(),
            successor_end: None,
        };
        self.live.push(Arc::clone(&next));
        let inline_max = self.shared.options.inline_max_bytes;
        log.segment = Some(SegmentWriter::new(Arc::clone(&next), inline_max, next_totals, None));
        log.begun = None;
        self.live.counts.set(&Totals::default());
        self.sealing.begin(Seal { job, next, begun });
        let writer = Arc::clone(self);
        self.shared.env().pool.submit(move || {
            #[expect(clippy::let_underscore_must_use, reason = "the next flush reports it")]
            let _ = writer.finish_seal();
        });
        Ok(())
    }

    /// Waits for the pending seal, or carries it out here if no thread does.
    pub(crate) fn finish_seal(&self) -> Result<()> {
        let shared = &self.shared;
        let may_begin = || shared.check_open().and_then(|()| shared.check_latch());
        // A panic on the way must not leave others waiting.
        let run = |seal: &Seal| shared.latch_on_panic("the seal", || self.run_seal(seal));
        let run = |seal: &Seal| run(seal).map_err(|e| shared.fail(&e));
        if let Some(done) = self.sealing.finish(may_begin, run)? {
            self.announce(&done.job);
        }
        Ok(())
    }

    fn run_seal(&self, Seal { job, next, begun }: &Seal) -> Result<()> {
        self.in_flight.wait_below(Position::new(job.segment.id(), u32::MAX));
        // A large value that failed on its way has latched the table.
        self.shared.latch.check()?;
        next.sync_everything()?;
        job.run()?;
        // From now on the loss of the seal, or of the segment that took over, is seen. Before anything in there is acknowledged.
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

    /// Its call was let in before the table was dropped, and it gets the writer lock only then.
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
