//! Closing a table: everything durable, and a state that says where its files end.
//!
//! After [`Table::close`] nothing is written or removed through any handle.

use std::path::Path;
use std::sync::atomic::Ordering;

use lithdb_env::{Error, Result};
use lithdb_segment::STATE_FILE;

use crate::callback::refuse_in_callback;
use crate::open::chain::stale_file_error;
use crate::open::inventory::Inventory;
use crate::state::{DurableEnd, TableState};
use crate::table::{Role, Table};
use crate::write::writer::Writer;

impl Table {
    /// Makes everything durable and leaves the table so that the next opening has nothing to repair. Every later call on
    /// any handle is refused. Closing a second time waits until it is closed, and does nothing.
    ///
    /// # Errors
    /// As [`flush`](Self::flush): then something that was put is not durable. The table is closed all the same.
    /// `InvalidArgument` in a callback, which closes nothing.
    pub fn close(&self) -> Result<()> {
        refuse_in_callback()?;
        let writer = match &self.role {
            Role::Writer(writer) => writer,
            Role::Reader(reader) => {
                reader.shared.set_closed();
                return Ok(());
            }
        };
        let _shutdown = writer.shutdown.lock();
        {
            // Whatever was put before this is made durable; whatever comes after is refused.
            let _log = writer.log.lock();
            if self.is_closed() {
                return Ok(());
            }
            writer.closing.store(true, Ordering::Release);
        }
        let left = self.flush().and_then(|()| writer.write_mark());
        {
            let _log = writer.log.lock();
            writer.shared.set_closed();
        }
        writer.quiesce();
        // Nobody appends any more: what the state says now stays true.
        left.and_then(|()| writer.record_clean_close())
    }
}

impl Writer {
    /// The durable tail in the state, and that nothing is behind it: an opening then knows how long the files must be.
    fn record_clean_close(&self) -> Result<()> {
        let shared = &self.shared;
        shared.check_latch()?;
        let log = self.log.lock();
        // What another thread put meanwhile is not promised.
        if self.commit.durable() < log.end() {
            return Ok(());
        }
        let mut left = self.state.get();
        if let Some(segment) = &log.segment {
            // A length that was cut before a crash may be in the page cache alone.
            segment.segment().sync_everything().map_err(|e| shared.fail(&e))?;
            left.durable_end = Some(DurableEnd::of(segment.segment().id(), segment.totals()));
        }
        let tail = left.durable_end.clone();
        if tail.as_ref().is_none_or(|tail| left.highest_id > tail.segment) {
            // What a roll-over that found no space left of the next id is gone for good.
            for dir in &shared.context.dirs {
                shared.env().fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
            }
        }
        left.closed_cleanly = true;
        // What cannot be measured is not promised; everything is durable all the same.
        let closed_cleanly = self.matches_files(&left).unwrap_or_else(|error| {
            tracing::warn!(%error, table = %shared.name(), "the files could not be measured at the close");
            false
        });
        let written = self.update_state(|state| {
            // The next id has not been given away: whatever has it is newer than this state. Unless it
            // is what a failed roll-over has left, and could not remove.
            if closed_cleanly {
                state.highest_id = tail.as_ref().map_or(state.highest_id, |tail| tail.segment);
            }
            state.durable_end = tail;
            state.closed_cleanly = closed_cleanly;
        });
        written.map(drop)
    }

    /// Whether no file goes on behind what `left` says. A value that failed on its way may have left bytes.
    fn matches_files(&self, left: &TableState) -> Result<bool> {
        let fs = &*self.shared.env().fs;
        let inventory = Inventory::list(fs, &self.shared.context.dirs)?;
        let live = inventory.segments.range(left.watermark..).map(|(id, found)| (*id, found));
        Ok(stale_file_error(left, fs, Path::new(STATE_FILE), live)?.is_none())
    }
}
