//! Writes a new key file with only the whole groups of a damaged one. Called by `repair_segment`.
//!
//! Values stay in their value files; inline values move with their records. Only verified bytes
//! are written: every record is decoded again from the bytes that are copied, and the checksum of
//! every inline value is verified again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{
    Env, Error, ErrorKind, File, Result, remove_if_exists, replacement_path, write_all_at,
};
use lithdb_segment::record::{
    Chain, Encoder, Flags, KEY_FIXED_LEN, KeyRecord, MAX_RECORD_LEN, Record, decode,
};
use lithdb_segment::scan::Totals;
use lithdb_segment::{HEADER_LEN, SegmentPaths, ShardId, digest_of};

use crate::examine::Readable;
use lithdb_segment::key_file::read;
use lithdb_segment::values::ValueVerifier;
use lithdb_segment::window::{PIECE, Window};

/// A key file that has been written and synced beside the one it is to replace.
#[derive(Debug)]
pub(crate) struct RewrittenKeyFile {
    /// Its path.
    pub(crate) staged: PathBuf,
    pub(crate) totals: Totals,
    pub(crate) epochs: Vec<(u32, u64)>,
    pub(crate) digest: [u8; 16],
    /// Value files with values that no mark covers.
    pub(crate) unmarked_shards: BTreeSet<ShardId>,
}

struct KeyFileRewriter<'a> {
    readable: &'a Readable,
    paths: &'a SegmentPaths,
    values: ValueVerifier<'a>,
    file: Arc<dyn File>,
    path: &'a Path,
    /// The last bytes that `totals` covers; everything before them has been written.
    buffer: Vec<u8>,
    epoch: u64,
    totals: Totals,
    /// The old and the new offset of the current group's inline value.
    moved: (u64, u64),
    unmarked_shards: BTreeSet<ShardId>,
}

/// Writes the whole groups of `readable` to a file beside its key file, after `chain` and a new
/// epoch. For an unsealed segment, also returns which value files have values that no mark covers:
/// they may have been read from the page cache only.
pub(crate) fn rewrite(
    env: &Env,
    readable: &Readable,
    paths: &SegmentPaths,
    chain: Option<&Chain>,
) -> Result<RewrittenKeyFile> {
    let fs = &*env.fs;
    let staged = replacement_path(&paths.keys);
    remove_if_exists(fs, &staged)?;
    let file = fs.create_new(&staged).map_err(|e| Error::io("create", &staged, e))?;
    let header = &readable.key_file.header;
    let start = HEADER_LEN as u64;
    let value_ends = vec![start; usize::from(header.shards)];
    let ends = &readable.groups.value_ends;
    let mut rewriter = KeyFileRewriter {
        readable,
        paths,
        values: ValueVerifier::new(fs, paths, &readable.key_file, ends),
        file,
        path: &staged,
        buffer: header.encode(),
        epoch: env.random_u64()?,
        totals: Totals { key_end: start, value_ends, ..Totals::default() },
        moved: (0, 0),
        unmarked_shards: BTreeSet::new(),
    };
    if let Some(chain) = chain {
        rewriter.encode(|encoder| encoder.chain(chain));
    }
    let (epoch, now) = (rewriter.epoch, env.clock.now());
    let epochs = vec![(rewriter.totals.key_end as u32, epoch)];
    rewriter.encode(|encoder| encoder.epoch(epoch, now));
    rewriter.groups()?;
    rewriter.flush()?;
    rewriter.file.sync_all().map_err(|e| Error::io("sync", &staged, e))?;
    let KeyFileRewriter { file, totals, unmarked_shards, .. } = rewriter;
    let piece = |offset, len| read(&*file, &staged, offset, len);
    let digest = digest_of(&staged, totals.key_end, piece)?;
    Ok(RewrittenKeyFile { totals, epochs, digest, staged, unmarked_shards })
}

impl KeyFileRewriter<'_> {
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

    fn flush(&mut self) -> Result<()> {
        let start = self.totals.key_end - self.buffer.len() as u64;
        write_all_at(&*self.file, &self.buffer, start)
            .map_err(|e| Error::io("write", self.path, e))?;
        self.buffer.clear();
        Ok(())
    }

    fn groups(&mut self) -> Result<()> {
        let key_file = &self.readable.key_file;
        let mut keys = Window::of(key_file);
        for span in &self.readable.groups.spans {
            let mut at = span.at.start;
            while at < span.at.end {
                let room = (span.at.end - at).min(MAX_RECORD_LEN as u64) as usize;
                let bytes = keys.get(at, room)?;
                let decoded = decode(&key_file.header.identity, span.epoch, at as u32, bytes);
                let changed = || changed(&key_file.path, at);
                let decoded = decoded.map_err(|_| changed())?;
                let Record::Key(record) = decoded.record else { return Err(changed()) };
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

    /// Appends a record unchanged, except for the offset of an inline value and the batch flags:
    /// each group becomes its own batch.
    fn key(&mut self, old: &KeyRecord<'_>, inline: &[u8], at: u64) -> Result<()> {
        let path = &self.readable.key_file.path;
        let mut record = *old;
        record.flags = Flags(old.flags.0 & !Flags::END_OF_BATCH.0);
        if old.flags.has(Flags::END_OF_GROUP) {
            record.flags = record.flags.with(Flags::END_OF_BATCH);
        }
        if old.has_inline_value() {
            if crc32c::crc32c(inline) != old.value_checksum {
                return Err(changed(path, old.offset));
            }
            let to = self.totals.key_end + (KEY_FIXED_LEN + old.key.len()) as u64;
            self.moved = (old.offset, to);
        }
        if old.shard == ShardId::INLINE {
            let (from, to) = self.moved;
            record.offset = old.offset - from + to;
        } else {
            let end = old.offset + u64::from(old.stored_len);
            if let Some(value_end) = self.totals.value_ends.get_mut(usize::from(old.shard.0)) {
                *value_end = end.max(*value_end);
            }
            if old.is_primary() && at >= self.readable.durable && old.stored_len > 0 {
                if !self.values.holds(old)? {
                    let path = self.paths.values.get(usize::from(old.shard.0)).unwrap_or(path);
                    return Err(changed(path, old.offset));
                }
                self.unmarked_shards.insert(old.shard);
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
}

fn changed(path: &Path, offset: u64) -> Error {
    let what = "the file changed since the repair was planned; plan again";
    Error::at_offset(ErrorKind::Io, path, offset, what)
}
