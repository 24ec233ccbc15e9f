//! Replaying the log onto the working copy. No old value is read and nothing is hashed: the records
//! hold the differences, and each version's root is compared with the record's.

use std::ops::RangeInclusive;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::RootHash;
use lithdb_state_engine::Compacted;

use crate::commit::{apply_rows, flush_at};
use crate::head::Head;
use crate::meta::Meta;
use crate::open::Opening;
use crate::open::working::Working;
use crate::record::{Body, Record, version_of};
use crate::wal::Log;

impl Opening {
    /// Replays the log from the version of `working` to the newest. The totals of the working copy
    /// have the root that the log has for its version, so that what does not fit is the log's fault:
    /// cloning again would not help.
    pub(super) fn catch_up(
        &mut self,
        log: &Log,
        versions: &RangeInclusive<u64>,
        working: Working,
    ) -> Result<(Working, Head)> {
        self.report.base = working.meta.version;
        let (working, replayed) = self.replay(log, working, versions)?;
        self.report.replayed = replayed;
        let Meta { version, root, totals, .. } = &working.meta;
        let pin = working.engine.pin();
        let head = Head { version: *version, root: *root, totals: totals.clone(), pin };
        Ok((working, head))
    }

    fn replay(
        &self,
        log: &Log,
        mut working: Working,
        versions: &RangeInclusive<u64>,
    ) -> Result<(Working, u64)> {
        let from = working.meta.version;
        if from == *versions.end() {
            return Ok((working, 0));
        }
        let first = from + 1;
        let Some(entries) = log.iter_from(first)? else {
            return Err(gap(log, first, versions));
        };
        for entry in entries {
            let entry = entry?;
            if !entry.is_primary() {
                continue;
            }
            let expected = working.meta.version + 1;
            if version_of(entry.key())? != expected {
                return Err(gap(log, expected, versions));
            }
            let record = log.decode(entry.key(), &entry.value()?.into_bytes())?;
            replay_record(log, &mut working, &record)?;
            if working.engine.memtable_bytes() >= self.options.memtable_bytes {
                flush(&mut working)?;
                self.compact(&working)?;
            }
        }
        if working.meta.version != *versions.end() {
            return Err(gap(log, working.meta.version + 1, versions));
        }
        let replayed = working.meta.version - from;
        Ok((working, replayed))
    }

    /// Nobody else compacts yet: without this a long replay would leave any number of sorted runs,
    /// each with files that are open.
    fn compact(&self, working: &Working) -> Result<()> {
        let engine = &working.engine;
        while engine.stats().level_0_runs > self.options.stall_l0_runs {
            match engine.compact_once() {
                Ok(Compacted::Some) => {}
                Ok(Compacted::Nothing) => break,
                Err(error) if error.latches() => return Err(error),
                Err(error) => {
                    // No row depends on it.
                    tracing::warn!(%error, "compaction of the working copy");
                    break;
                }
            }
        }
        Ok(())
    }
}

fn replay_record(log: &Log, working: &mut Working, record: &Record) -> Result<()> {
    let meta = &mut working.meta;
    check(log, record, "the root before it", record.previous_root, meta.root)?;
    let Body::Commit(deltas) = &record.body else {
        let message = format!("log {}: a base record in the middle", log.table.name());
        return Err(Error::new(ErrorKind::Corrupt, message));
    };
    meta.totals.apply(deltas)?;
    check(log, record, "the root after it", record.root, meta.totals.root())?;
    apply_rows(&*working.engine, record.version, deltas)?;
    (meta.version, meta.root) = (record.version, record.root);
    Ok(())
}

fn check(
    log: &Log,
    record: &Record,
    what: &str,
    expected: RootHash,
    found: RootHash,
) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let (name, version) = (log.table.name(), record.version);
    let message =
        format!("log {name}, version {version}: {what}: expected {expected}, found {found}");
    Err(Error::new(ErrorKind::Corrupt, message))
}

/// The records are durable: opening the log has made them so.
fn flush(working: &mut Working) -> Result<()> {
    flush_at(&*working.engine, &working.meta)?;
    working.flushed_version = working.meta.version;
    Ok(())
}

fn gap(log: &Log, expected: u64, versions: &RangeInclusive<u64>) -> Error {
    let message = format!(
        "log {}: version {expected} is missing between {} and {}: restore the log",
        log.table.name(),
        versions.start(),
        versions.end()
    );
    Error::new(ErrorKind::Missing, message)
}
