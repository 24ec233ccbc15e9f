//! Walking a key file that may be damaged: record by record, and over what is no record to the next one that is.
//!
//! The scanner says what a file that should be whole is worth; this says what is left of one that is not. A record's
//! checksum is seeded with its table, segment, offset and epoch, so what holds at any byte behind the damage is a record
//! that was written there.

use lithdb_env::Result;
use lithdb_segment::record::{Decoded, EPOCH_LEN, MAX_RECORD_LEN, Record, decode};
use lithdb_segment::{HEADER_LEN, Identity};

use super::epoch::{WITNESSES, derive};
use crate::window::Window;

/// Where to walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) identity: Identity,
    /// Where epochs began, as the metadata says: for those whose own record is damaged.
    pub(super) epochs: &'a [(u32, u64)],
    /// Up to here nothing but the records themselves says which epoch is theirs if its own record is damaged. What stands
    /// behind was never acknowledged: it may be of a life that is over, and is not asked.
    pub(super) asks_records_until: u64,
    /// How much of the file counts.
    pub(super) end: u64,
}

/// What stands at an offset.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A record.
    Record {
        /// Where it begins.
        offset: u32,
        /// The epoch that its checksum was seeded with.
        epoch: u64,
        /// The record.
        decoded: Decoded<'a>,
        /// Its bytes, with the value it carries.
        bytes: &'a [u8],
    },
    /// Bytes that are no record.
    Damage {
        /// Where they begin.
        start: u64,
        /// Where the next record begins, or the end.
        end: u64,
        /// What is wrong with them.
        reason: String,
    },
}

impl Walk<'_> {
    /// Calls `each` for everything from the header to the end, in order.
    pub(super) fn run(
        &self,
        keys: &mut Window,
        each: &mut dyn FnMut(Step<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut epoch = self.identity.salt;
        let mut offset = HEADER_LEN as u64;
        while offset < self.end {
            let bytes = keys.get(offset, self.room(offset))?;
            match decode(&self.identity, epoch, offset as u32, bytes) {
                Ok(decoded) => {
                    if let Record::Epoch(begun, _) = decoded.record {
                        epoch = begun;
                    }
                    let len = decoded.len;
                    let bytes = bytes.get(..len).unwrap_or_default();
                    each(Step::Record { offset: offset as u32, epoch, decoded, bytes })?;
                    offset += len as u64;
                }
                Err(invalid) => {
                    let start = offset;
                    (offset, epoch) = self.resume(keys, start, epoch)?;
                    if offset > start {
                        let reason = invalid.to_string();
                        each(Step::Damage { start, end: offset, reason })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The next place from `start` on where a record holds, and its epoch.
    fn resume(&self, keys: &mut Window, start: u64, epoch: u64) -> Result<(u64, u64)> {
        let mut at = start;
        while at < self.end {
            let bytes = keys.get(at, self.room(at))?;
            if matches!(bytes.get(4), Some(1..=5)) {
                let recorded = self.recorded_epoch(at as u32);
                for epoch in std::iter::once(epoch).chain(recorded) {
                    if decode(&self.identity, epoch, at as u32, bytes).is_ok() {
                        return Ok((at, epoch));
                    }
                }
                // An epoch record must have stood before.
                if at >= start + EPOCH_LEN as u64
                    && at < self.asks_records_until
                    && let Some(epoch) = derive(&self.identity, at as u32, bytes)
                    && self.is_witnessed(keys, at, epoch)?
                {
                    return Ok((at, epoch));
                }
            }
            at += 1;
        }
        Ok((self.end, epoch))
    }

    /// Whether a record stands at `at`, and the next ones were written in the same epoch.
    fn is_witnessed(&self, keys: &mut Window, at: u64, epoch: u64) -> Result<bool> {
        let (mut at, mut witnesses) = (at, 0);
        while at < self.end {
            let bytes = keys.get(at, self.room(at))?;
            let Ok(decoded) = decode(&self.identity, epoch, at as u32, bytes) else { break };
            match decoded.record {
                // The first is the one that the epoch was derived from.
                Record::Key(_) | Record::Padding(_) if witnesses == WITNESSES => return Ok(true),
                Record::Key(_) | Record::Padding(_) => witnesses += 1,
                Record::Mark(_) => {}
                Record::Epoch(..) | Record::Chain(_) => break,
            }
            at += decoded.len as u64;
        }
        Ok(false)
    }

    fn recorded_epoch(&self, offset: u32) -> Option<u64> {
        let before = self.epochs.partition_point(|(at, _)| *at <= offset);
        let newest = before.checked_sub(1).and_then(|n| self.epochs.get(n));
        newest.map(|(_, epoch)| *epoch)
    }

    fn room(&self, offset: u64) -> usize {
        (self.end - offset).min(MAX_RECORD_LEN as u64) as usize
    }
}
