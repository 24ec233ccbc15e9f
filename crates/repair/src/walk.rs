//! Walks a key file that may be damaged: record by record, skipping damage to the next valid one.
//! Used by `groups` and `dump`.
//!
//! The scanner judges a file that should be whole; this finds what is left of one that is not. The
//! checksum of a record is seeded with its table, segment, offset and epoch, so any valid record
//! after the damage was written at that offset.

use std::ops::Range;

use lithdb_env::Result;
use lithdb_segment::record::{Decoded, EPOCH_LEN, Invalid, MAX_RECORD_LEN, Record, decode};
use lithdb_segment::{HEADER_LEN, Identity};

use crate::epoch::{CONFIRMING_RECORDS, derive};
use lithdb_segment::window::Window;

/// Where to walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub(crate) identity: Identity,
    /// Where epochs began, as the metadata says: for those whose own record is damaged.
    pub(crate) epochs: &'a [(u32, u64)],
    /// Up to here nothing but the records themselves says which epoch is theirs if its own record is damaged. What stands
    /// behind was never acknowledged: it may be of a life that is over, and is not asked.
    pub(crate) derive_epoch_until: u64,
    /// How much of the file counts.
    pub(crate) end: u64,
}

/// A range of a key file: a record with its inline value, or bytes that are not a record.
#[derive(Debug)]
pub(crate) struct WalkItem<'a> {
    pub(crate) at: Range<u64>,
    /// The epoch that the record's checksum was seeded with.
    pub(crate) epoch: u64,
    pub(crate) decoded: Result<Decoded<'a>, Invalid>,
}

impl Walk<'_> {
    /// Calls `each` for every item from the header to the end, in order.
    pub(crate) fn run(
        &self,
        keys: &mut Window,
        each: &mut dyn FnMut(WalkItem<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut epoch = self.identity.salt;
        let mut start = HEADER_LEN as u64;
        while start < self.end {
            let end = match decode(&self.identity, epoch, start as u32, self.bytes(keys, start)?) {
                Ok(decoded) => {
                    if let Record::Epoch(begun, _) = decoded.record {
                        epoch = begun;
                    }
                    let end = start + decoded.len as u64;
                    each(WalkItem { at: start..end, epoch, decoded: Ok(decoded) })?;
                    end
                }
                Err(invalid) => {
                    let (end, next_epoch) = self.resume(keys, start, epoch)?;
                    epoch = next_epoch;
                    if end > start {
                        each(WalkItem { at: start..end, epoch, decoded: Err(invalid) })?;
                    }
                    end
                }
            };
            start = end;
        }
        Ok(())
    }

    /// The next place from `start` on where a record holds, and its epoch.
    fn resume(&self, keys: &mut Window, start: u64, epoch: u64) -> Result<(u64, u64)> {
        for at in start..self.end {
            let bytes = self.bytes(keys, at)?;
            if !matches!(bytes.get(4), Some(1..=5)) {
                continue;
            }
            let recorded = self.epochs.partition_point(|(begun, _)| u64::from(*begun) <= at);
            let recorded = self.epochs.get(..recorded).and_then(<[_]>::last);
            for epoch in [epoch].into_iter().chain(recorded.map(|(_, epoch)| *epoch)) {
                if decode(&self.identity, epoch, at as u32, bytes).is_ok() {
                    return Ok((at, epoch));
                }
            }
            // An epoch record must have stood before.
            if at >= start + EPOCH_LEN as u64
                && at < self.derive_epoch_until
                && let Some(epoch) = derive(&self.identity, at as u32, bytes)
                && self.is_epoch_confirmed(keys, at, epoch)?
            {
                return Ok((at, epoch));
            }
        }
        Ok((self.end, epoch))
    }

    /// Whether a record stands at `at`, and the next ones were written in the same epoch.
    fn is_epoch_confirmed(&self, keys: &mut Window, mut at: u64, epoch: u64) -> Result<bool> {
        let mut confirming = 0;
        while at < self.end {
            let bytes = self.bytes(keys, at)?;
            let Ok(decoded) = decode(&self.identity, epoch, at as u32, bytes) else { break };
            match decoded.record {
                // The first is the one that the epoch was derived from.
                Record::Key(_) | Record::Padding(_) if confirming == CONFIRMING_RECORDS => {
                    return Ok(true);
                }
                Record::Key(_) | Record::Padding(_) => confirming += 1,
                Record::Mark(_) => {}
                Record::Epoch(..) | Record::Chain(_) => break,
            }
            at += decoded.len as u64;
        }
        Ok(false)
    }

    fn bytes<'k>(&self, keys: &'k mut Window, offset: u64) -> Result<&'k [u8]> {
        keys.get(offset, (self.end - offset).min(MAX_RECORD_LEN as u64) as usize)
    }
}
