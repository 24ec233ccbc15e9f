//! Walks a key file that may be damaged: record by record, skipping damage to the next valid one.
//! Used by `groups` and `dump`.
//!
//! The scanner checks a file that should be intact; this finds valid records in a damaged one. The
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
    /// Epochs listed in the metadata, for damaged epoch records.
    pub(crate) epochs: &'a [(u32, u64)],
    /// Epochs are reconstructed from records only up to this offset. Later bytes were never
    /// acknowledged and may be stale.
    pub(crate) derive_epoch_until: u64,
    /// The end of the walk.
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

    /// The next offset at or after `start` with a valid record, and its epoch.
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
            // Only after room for an epoch record.
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

    /// Whether the record at `at` and the following ones verify with `epoch`.
    fn is_epoch_confirmed(&self, keys: &mut Window, mut at: u64, epoch: u64) -> Result<bool> {
        let mut confirming = 0;
        while at < self.end {
            let bytes = self.bytes(keys, at)?;
            let Ok(decoded) = decode(&self.identity, epoch, at as u32, bytes) else { break };
            match decoded.record {
                // The first is the record that the epoch was derived from.
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
