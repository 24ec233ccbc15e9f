//! Reading on in the segment that another process writes, from where a view ends.

use std::sync::Arc;

use lithdb_env::{Error, File, Fs, OpenMode, Result};
use lithdb_keymap::KeyHash;
use lithdb_segment::record::{Flags, KeyRecord, Mark};
use lithdb_segment::scan::{Verdict, corrupt};
use lithdb_segment::{Position, SegmentPaths};

use crate::keyfile::{KeyFile, read};
use crate::view::TailSeen;

/// About so many records are taken at a time.
const PIECE: usize = 64 << 10;
/// So many bytes of a value are read at a time.
const VALUE_PIECE: u64 = 1 << 20;

/// What was found behind the end of a view.
#[derive(Debug)]
pub(crate) struct NewRecords {
    pub(crate) seen: TailSeen,
    pub(crate) keys: Vec<(KeyHash, Position)>,
    /// The last primary record among them.
    pub(crate) newest: Option<Position>,
}

/// The files of the segment that is read on.
pub(crate) struct Followed<'a> {
    pub(crate) fs: &'a dyn Fs,
    pub(crate) keys: &'a KeyFile,
    pub(crate) paths: &'a SegmentPaths,
    pub(crate) hash_seed: u64,
    /// What the table's state promises of the segment.
    pub(crate) promise: Option<Mark>,
    /// Where the segment ends, if it is sealed: everything before that is durable.
    pub(crate) sealed_end: Option<u64>,
}

impl Followed<'_> {
    /// Takes whole batches behind what was `seen`: not all of them, if there are many.
    pub(crate) fn read_on(&self, seen: &TailSeen) -> Result<NewRecords> {
        let mut seen = seen.clone();
        let end = match self.sealed_end {
            Some(end) => end,
            None => self.look_ahead(&mut seen)?,
        };
        let mut scanner = self.keys.scan(end, None).behind(&seen.totals, &seen.epochs);
        let id = scanner.header().identity.segment;
        let mut values = Values { followed: self, files: vec![None; self.paths.values.len()] };
        let (mut keys, mut newest) = (Vec::new(), None);
        let (mut whole, mut newest_whole) = (0, None);
        let mut is_cut_off = false;
        while let Some(entry) = scanner.next_entry()? {
            let at = Position::new(id, entry.offset);
            let record = entry.record;
            if record.is_primary() {
                let is_promised = self.sealed_end.is_some() || entry.offset < seen.promise.through;
                if !is_promised && !values.holds(&record)? {
                    // It is on its way, or was never written: the batch is not seen, nor what is behind it.
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

    /// Finds where the whole batches of the next piece end, and which of them are vouched for.
    fn look_ahead(&self, seen: &mut TailSeen) -> Result<u64> {
        let promise = self.promise.clone().filter(|p| p.through > seen.promise.through);
        let promise = promise.unwrap_or_else(|| seen.promise.clone());
        let mut scanner = self.keys.scan(self.keys.len, Some(promise));
        scanner = scanner.behind(&seen.totals, &seen.epochs);
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
            seen.promise.clone_from(mark);
        }
        Ok(scanner.totals().key_end)
    }
}

/// The value files, opened when they are needed.
struct Values<'a> {
    followed: &'a Followed<'a>,
    files: Vec<Option<Arc<dyn File>>>,
}

impl Values<'_> {
    /// Whether the value of a primary record is there.
    fn holds(&mut self, record: &KeyRecord<'_>) -> Result<bool> {
        let shard = usize::from(record.shard.0);
        let (file, path) = match (self.files.get_mut(shard), self.followed.paths.values.get(shard))
        {
            (Some(file), Some(path)) => match file {
                Some(file) => (&*file, path),
                None => {
                    let opened = self.followed.fs.open(path, OpenMode::Read);
                    let opened = opened.map_err(|e| Error::io("open", path, e))?;
                    (&*file.insert(opened), path)
                }
            },
            // The scanner has compared the number of the shard: the value stands in the key file.
            _ => (&self.followed.keys.file, &self.followed.keys.path),
        };
        let (mut at, end) = (record.offset, record.offset + u64::from(record.stored_len));
        let mut checksum = 0;
        while at < end {
            let bytes = read(&**file, path, at, (end - at).min(VALUE_PIECE) as usize)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            checksum = crc32c::crc32c_append(checksum, &bytes);
            at += bytes.len() as u64;
        }
        Ok(checksum == record.value_checksum)
    }
}
