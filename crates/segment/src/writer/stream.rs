//! A value that comes in pieces: its bytes go to their place before the record that names them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};

use super::{DirectWrite, SegmentWriter};
use crate::handle::OpenFile;
use crate::ids::{Position, ShardId};
use crate::record::{Encoder, Flags, KEY_FIXED_LEN, KeyRecord};

/// A value under way: appended in the end, or [given up](SegmentWriter::give_up), and the next value
/// goes to its place.
#[derive(Debug)]
pub struct Stream {
    shard: ShardId,
    file: Arc<OpenFile>,
    offset: u64,
    len: u32,
    checksum: u32,
}

impl SegmentWriter {
    /// Begins a value in the value file with the least in it.
    ///
    /// # Errors
    /// What the file system says: the file could not be opened, and nothing was done.
    pub fn begin_stream(&self) -> Result<Stream> {
        let ends = self.totals.value_ends.iter().enumerate();
        let least = ends.min_by_key(|(_, end)| **end);
        let (index, offset) = least.map_or((0, 0), |(index, end)| (index, *end));
        assert!(offset > 0, "a segment has at least one value file, with a header");
        #[expect(clippy::indexing_slicing, reason = "the shard was chosen among these")]
        let file = self.segment.writing(&self.segment.values[index])?;
        Ok(Stream { shard: ShardId(index as u16), file, offset, len: 0, checksum: 0 })
    }

    /// Writes the next bytes of the value.
    ///
    /// # Errors
    /// `InvalidArgument` for a value longer than 2^32 − 2 bytes and `StorageFull`: the value is to be
    /// given up. Else what the file system says.
    pub fn stream(&mut self, stream: &mut Stream, piece: &[u8]) -> Result<()> {
        let len = u64::from(stream.len) + piece.len() as u64;
        if len >= u64::from(u32::MAX) {
            let message = format!("value: expected at most {} bytes, found more", u32::MAX - 1);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (shard, offset) = (stream.shard, stream.offset + u64::from(stream.len));
        self.reserve_values(usize::from(shard.0), offset + piece.len() as u64)?;
        let file = Arc::clone(&stream.file);
        self.segment.write_direct(&DirectWrite { group: 0, shard, offset, file }, piece)?;
        stream.checksum = crc32c::crc32c_append(stream.checksum, piece);
        stream.len = len as u32;
        Ok(())
    }

    /// Gives up a value whose record was not appended: nobody was ever shown a byte of it, so its
    /// file is cut off where the last value ends, durably, and the space is free again.
    ///
    /// # Errors
    /// What the file system says: the bytes stay, and the file is longer than its end. A failed sync
    /// latches.
    pub fn give_up(&mut self, stream: &Stream) -> Result<()> {
        let (index, end) = (usize::from(stream.shard.0), stream.offset);
        let (Some(file), Some(reserved)) =
            (self.segment.values.get(index), self.value_reserved.get_mut(index))
        else {
            unreachable!("a shard is one of the segment's value files")
        };
        let cut = stream.file.file.set_len(end);
        cut.map_err(|e| Error::io("give space back", file.handle.path(), e))?;
        *reserved = end;
        file.sync_all(&stream.file)
    }

    /// Appends the record of a value that is whole, as a batch of its own.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_stream(
        &mut self,
        key: &[u8],
        value: &Stream,
        now: UnixMillis,
    ) -> Result<Position> {
        let record_len = (KEY_FIXED_LEN + key.len()) as u64;
        self.reserve_key_bytes(self.totals.key_end + record_len + self.slack())?;
        self.append_due(now);
        let start = self.totals.key_end;
        let &Stream { shard, offset, len, checksum, .. } = value;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut encoder = Encoder {
            buffer: &mut scratch,
            identity: *self.segment.identity(),
            epoch: self.epoch,
            running: self.totals.running,
            offset: start,
        };
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
        self.totals.running = encoder.running;
        self.totals.key_end = encoder.offset;
        self.totals.records += 1;
        self.totals.primaries += 1;
        let index = usize::from(shard.0);
        let end = offset + u64::from(len);
        #[expect(clippy::indexing_slicing, reason = "the shard was chosen among these")]
        {
            self.totals.value_ends[index] = end;
            self.segment.values[index].end.store(end, Ordering::Release);
        }
        self.push_keys(start, scratch);
        Ok(Position::new(self.segment.id(), start as u32))
    }
}
