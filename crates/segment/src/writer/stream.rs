//! A value that arrives in pieces: its bytes are written to their place before the record that
//! names them.
//!
//! Until [`SegmentWriter::append_stream`], no reader can see the value, and it can be aborted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};

use super::{DirectWrite, SegmentWriter, smallest_value_file};
use crate::data_file::DataFile;
use crate::handle::OpenFile;
use crate::ids::{Position, ShardId};
use crate::record::{Flags, KEY_FIXED_LEN, KeyRecord};

/// A value in progress: eventually appended, or [aborted](SegmentWriter::abort_stream), after
/// which the next value takes its place.
#[derive(Debug)]
pub struct Stream {
    shard: ShardId,
    file: Arc<OpenFile>,
    offset: u64,
    len: u32,
    checksum: u32,
}

impl SegmentWriter {
    /// Begins a value in the value file with the fewest bytes. If the file cannot be opened,
    /// nothing was done.
    pub fn begin_stream(&self) -> Result<Stream> {
        let mut ends = self.totals.value_ends.clone();
        let (file, offset) = smallest_value_file(&self.segment, &mut ends);
        let (shard, offset, open) = (file.shard, *offset, self.segment.open(file)?);
        Ok(Stream { shard, file: open, offset, len: 0, checksum: 0 })
    }

    /// Writes the next bytes of the value. `InvalidArgument` for a value longer than 2^32 − 2
    /// bytes, or `StorageFull`: the caller must abort the value.
    pub fn stream(&self, stream: &mut Stream, piece: &[u8]) -> Result<()> {
        let len = u64::from(stream.len) + piece.len() as u64;
        if len >= u64::from(u32::MAX) {
            let message = format!("value: expected at most {} bytes, found more", u32::MAX - 1);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (shard, offset) = (stream.shard, stream.offset + u64::from(stream.len));
        self.segment.reserve(self.value_file(stream), offset + piece.len() as u64)?;
        let file = Arc::clone(&stream.file);
        self.segment.write_direct(&DirectWrite { group: 0, shard, offset, file }, piece)?;
        stream.checksum = crc32c::crc32c_append(stream.checksum, piece);
        stream.len = len as u32;
        Ok(())
    }

    /// Aborts a value whose record was not appended. No reader ever saw a byte of it, so its file
    /// is truncated at the end of the last value, durably, and the space is free again. If this
    /// fails, the bytes stay, and the file is longer than its end. A failed sync latches.
    pub fn abort_stream(&self, stream: &Stream) -> Result<()> {
        let (file, end) = (self.value_file(stream), stream.offset);
        let truncated = stream.file.file.set_len(end);
        truncated.map_err(|e| Error::io("truncate", file.handle.path(), e))?;
        file.reserved.store(end, Ordering::Relaxed);
        file.sync_all(&stream.file)
    }

    #[expect(clippy::indexing_slicing, reason = "the shard was chosen among these")]
    fn value_file(&self, stream: &Stream) -> &DataFile {
        &self.segment.values[usize::from(stream.shard.0)]
    }

    /// Appends the record of a complete value, as a batch of its own.
    pub fn append_stream(
        &mut self,
        key: &[u8],
        value: &Stream,
        now: UnixMillis,
    ) -> Result<Position> {
        let record_len = (KEY_FIXED_LEN + key.len()) as u64;
        self.reserve_key_space_and_memory(
            self.totals.key_end + record_len + self.record_overhead(),
        )?;
        self.append_pending(now);
        let &Stream { shard, offset, len, checksum, .. } = value;
        self.set_value_end(shard, offset + u64::from(len));
        let at = Position::new(self.segment.id(), self.totals.key_end as u32);
        self.push_records(|encoder| {
            encoder.key(&KeyRecord {
                flags: Flags::PRIMARY.with(Flags::END_OF_GROUP).with(Flags::END_OF_BATCH),
                key,
                stored_len: len,
                raw_len: len,
                value_checksum: checksum,
                shard,
                offset,
                codec: 0,
            });
        });
        self.totals.records += 1;
        self.totals.primaries += 1;
        Ok(at)
    }
}
