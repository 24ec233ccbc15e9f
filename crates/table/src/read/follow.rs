//! Reading what another process has appended to an unsealed segment since a view was taken.

use lithdb_env::{Fs, Result};
use lithdb_keymap::KeyHash;
use lithdb_segment::record::{Flags, Mark};
use lithdb_segment::scan::{Totals, Verdict, corrupt};
use lithdb_segment::{Position, SegmentPaths};

use crate::read::view::UnsealedCursor;
use lithdb_segment::key_file::KeyFile;
use lithdb_segment::values::ValueVerifier;

/// About this many records are read at a time.
const PIECE: usize = 64 << 10;

/// The records after the end of a view.
#[derive(Debug)]
pub(crate) struct NewRecords {
    pub(crate) seen: UnsealedCursor,
    pub(crate) keys: Vec<(KeyHash, Position)>,
    /// The last primary record among them.
    pub(crate) newest: Option<Position>,
}

/// The files of the segment that is being followed.
pub(crate) struct FollowedSegment<'a> {
    pub(crate) fs: &'a dyn Fs,
    pub(crate) keys: &'a KeyFile,
    pub(crate) paths: &'a SegmentPaths,
    pub(crate) hash_seed: u64,
    /// The durable end of the segment that other files record.
    pub(crate) external_end: Option<Mark>,
    /// The end of the segment if it is sealed: everything before it is durable.
    pub(crate) sealed_end: Option<u64>,
}

impl FollowedSegment<'_> {
    /// Reads complete batches after `seen`, up to about [`PIECE`] records.
    pub(crate) fn read_new(&self, seen: &UnsealedCursor) -> Result<NewRecords> {
        let mut seen = seen.clone();
        let Totals { key_end, value_ends, .. } = match self.sealed_end {
            Some(key_end) => Totals { key_end, ..seen.totals.clone() },
            None => self.scan_next_piece(&mut seen)?,
        };
        let mut scanner = self.keys.scan(key_end, None).resume_after(&seen.totals, &seen.epochs);
        let id = self.keys.header.identity.segment;
        let mut values = ValueVerifier::new(self.fs, self.paths, self.keys, &value_ends);
        let (mut keys, mut newest) = (Vec::new(), None);
        let (mut whole, mut newest_whole) = (0, None);
        let mut is_cut_off = false;
        while let Some(entry) = scanner.next_entry()? {
            let at = Position::new(id, entry.offset);
            let record = entry.record;
            if record.is_primary() {
                let is_durable =
                    self.sealed_end.is_some() || entry.offset < seen.furthest_mark.through;
                if !is_durable && !values.holds(&record)? {
                    // The value is in flight or was never written: the batch and everything after
                    // it is not shown.
                    is_cut_off = true;
                    break;
                }
                newest = Some(at);
            }
            keys.push((KeyHash::of(self.hash_seed, record.key), at));
            if record.flags.has(Flags::END_OF_BATCH) {
                (whole, newest_whole) = (keys.len(), newest);
                seen.totals.clone_from(scanner.totals());
                if whole >= PIECE {
                    is_cut_off = true;
                    break;
                }
            }
        }
        if !is_cut_off {
            scanner.require_clean()?;
            seen.totals.clone_from(scanner.totals());
        }
        keys.truncate(whole);
        let epochs = scanner.epochs().iter().copied();
        seen.epochs = epochs.filter(|(at, _)| u64::from(*at) < seen.totals.key_end).collect();
        Ok(NewRecords { seen, keys, newest: newest_whole })
    }

    /// Finds the end of the complete batches of the next piece, and the newest mark in it.
    fn scan_next_piece(&self, seen: &mut UnsealedCursor) -> Result<Totals> {
        let external_end =
            self.external_end.clone().filter(|p| p.through > seen.furthest_mark.through);
        let external_end = external_end.unwrap_or_else(|| seen.furthest_mark.clone());
        let mut scanner = self.keys.scan(self.keys.len, Some(external_end));
        scanner = scanner.resume_after(&seen.totals, &seen.epochs);
        let mut records = 0;
        while let Some(entry) = scanner.next_entry()? {
            records += 1;
            if records >= PIECE && entry.record.flags.has(Flags::END_OF_BATCH) {
                break;
            }
        }
        if let Some(Verdict::Corrupt { offset, acknowledged, reason }) = scanner.verdict() {
            let reason = format!("{reason}; {acknowledged} bytes were acknowledged");
            return Err(corrupt(&self.keys.path, *offset, &reason));
        }
        if let Some(mark) = scanner.mark() {
            seen.furthest_mark.clone_from(mark);
        }
        Ok(scanner.totals().clone())
    }
}
