//! Writing a key file anew with nothing but its whole groups.
//!
//! Values stay where they are, inline ones move with their records. What is written is what was verified: every record is
//! decoded again from the bytes it is taken from, and every inline value is compared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{
    Env, Error, ErrorKind, File, OpenMode, Result, remove_if_there, replacement_path, write_all_at,
};
use lithdb_segment::record::{
    Chain, Encoder, Flags, KEY_FIXED_LEN, KeyRecord, MAX_RECORD_LEN, Record, decode,
};
use lithdb_segment::scan::Totals;
use lithdb_segment::{HEADER_LEN, ShardId};

use super::examine::{Readable, digest};
use crate::keyfile::read;
use crate::window::{PIECE, Window};

/// A key file that has been written and synced beside the one it is to replace.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// Where it is.
    pub(super) staged: PathBuf,
    pub(super) totals: Totals,
    pub(super) epochs: Vec<(u32, u64)>,
    pub(super) digest: [u8; 16],
    /// Value files with values that no mark vouches for.
    pub(super) unpromised: BTreeSet<ShardId>,
}

/// Where the present group's inline value stood, and where it stands now.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    from: u64,
    to: u64,
}

struct Rewriting<'a> {
    readable: &'a Readable,
    values: &'a [PathBuf],
    env: &'a Env,
    file: Arc<dyn File>,
    path: &'a Path,
    buffer: Vec<u8>,
    epoch: u64,
    totals: Totals,
    /// What the buffer begins at.
    written: u64,
    moved: Moved,
    unpromised: BTreeSet<ShardId>,
}

/// Writes the whole groups of `readable` to a file beside `path`, behind `chain` and a new epoch. Of a tail, it says
/// where values stand that no mark vouches for: they may have been read from the page cache alone.
pub(super) fn rewrite(
    env: &Env,
    readable: &Readable,
    values: &[PathBuf],
    chain: Option<&Chain>,
    path: &Path,
) -> Result<Rewritten> {
    let fs = &*env.fs;
    let staged = replacement_path(path);
    remove_if_there(fs, &staged)?;
    let file = fs.create_new(&staged).map_err(|e| Error::io("create", &staged, e))?;
    let header = HEADER_LEN as u64;
    let value_ends = vec![header; usize::from(readable.key_file.header.shards)];
    let mut rewriting = Rewriting {
        readable,
        values,
        env,
        file,
        path: &staged,
        buffer: readable.key_file.header.encode().to_vec(),
        epoch: env.random_u64()?,
        totals: Totals { key_end: header, value_ends, ..Totals::default() },
        written: 0,
        moved: Moved::default(),
        unpromised: BTreeSet::new(),
    };
    let epoch_at = rewriting.begin(chain);
    rewriting.groups()?;
    rewriting.flush()?;
    rewriting.file.sync_all().map_err(|e| Error::io("sync", &staged, e))?;
    let Rewriting { file, totals, epoch, unpromised, .. } = rewriting;
    let digest = digest(&mut Window::new(file, &staged, totals.key_end), totals.key_end)?;
    Ok(Rewritten { totals, epochs: vec![(epoch_at, epoch)], digest, staged, unpromised })
}

impl Rewriting<'_> {
    fn encode(&mut self, append: impl FnOnce(&mut Encoder<'_>)) {
        let mut encoder = Encoder {
            buffer: &mut self.buffer,
            identity: self.readable.key_file.header.identity,
            epoch: self.epoch,
            running: self.totals.running,
            offset: self.totals.key_end,
        };
        append(&mut encoder);
        (self.totals.running, self.totals.key_end) = (encoder.running, encoder.offset);
    }

    /// Chain and epoch; says where the epoch begins.
    fn begin(&mut self, chain: Option<&Chain>) -> u32 {
        if let Some(chain) = chain {
            self.encode(|encoder| encoder.chain(chain));
        }
        let (at, epoch, now) = (self.totals.key_end as u32, self.epoch, self.env.clock.now());
        self.encode(|encoder| encoder.epoch(epoch, now));
        at
    }

    fn flush(&mut self) -> Result<()> {
        write_all_at(&*self.file, &self.buffer, self.written)
            .map_err(|e| Error::io("write", self.path, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn groups(&mut self) -> Result<()> {
        let readable = self.readable;
        let identity = readable.key_file.header.identity;
        let mut keys = Window::of(&readable.key_file);
        for span in &readable.groups.spans {
            let mut at = u64::from(span.start);
            let end = u64::from(span.end);
            while at < end {
                let room = (end - at).min(MAX_RECORD_LEN as u64) as usize;
                let bytes = keys.get(at, room)?;
                let decoded = decode(&identity, span.epoch, at as u32, bytes);
                let (Ok(decoded), path) = (decoded, &readable.key_file.path) else {
                    return Err(changed(&readable.key_file.path, at));
                };
                let Record::Key(record) = decoded.record else { return Err(changed(path, at)) };
                let value = bytes.get(KEY_FIXED_LEN + record.key.len()..decoded.len);
                self.key(&record, value.unwrap_or_default(), at)?;
                at += decoded.len as u64;
                if self.buffer.len() >= PIECE {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    /// Appends a record as it is, but for the place of an inline value and the batches: each group is one of its own.
    fn key(&mut self, old: &KeyRecord<'_>, inline: &[u8], at: u64) -> Result<()> {
        let mut record = *old;
        record.flags = Flags(old.flags.0 & !Flags::END_OF_BATCH.0);
        if old.flags.has(Flags::END_OF_GROUP) {
            record.flags = record.flags.with(Flags::END_OF_BATCH);
        }
        if old.carries_value() {
            let path = &self.readable.key_file.path;
            if crc32c::crc32c(inline) != old.value_checksum {
                return Err(changed(path, old.offset));
            }
            let to = self.totals.key_end + (KEY_FIXED_LEN + old.key.len()) as u64;
            self.moved = Moved { from: old.offset, to };
        }
        if old.shard == ShardId::INLINE {
            record.offset = old.offset - self.moved.from + self.moved.to;
        } else {
            let end = old.offset + u64::from(old.stored_len);
            if let Some(value_end) = self.totals.value_ends.get_mut(usize::from(old.shard.0)) {
                *value_end = end.max(*value_end);
            }
            if old.is_primary() && at >= self.readable.promised && old.stored_len > 0 {
                self.compare_value(old)?;
                self.unpromised.insert(old.shard);
            }
        }
        self.encode(|encoder| {
            encoder.key(&record);
            encoder.inline(inline);
        });
        self.totals.records += 1;
        self.totals.primaries += u64::from(old.is_primary());
        Ok(())
    }

    fn compare_value(&self, record: &KeyRecord<'_>) -> Result<()> {
        let Some(path) = self.values.get(usize::from(record.shard.0)) else { return Ok(()) };
        let file = self.env.fs.open(path, OpenMode::Read);
        let file = file.map_err(|e| Error::io("open", path, e))?;
        let bytes = read(&*file, path, record.offset, record.stored_len as usize)?;
        let is_whole = bytes.len() == record.stored_len as usize;
        if !is_whole || crc32c::crc32c(&bytes) != record.value_checksum {
            return Err(changed(path, record.offset));
        }
        Ok(())
    }
}

fn changed(path: &Path, offset: u64) -> Error {
    let path = path.display();
    let message = format!("{path} at offset {offset}: it changed since the repair was planned");
    Error::new(ErrorKind::Io, message)
}
