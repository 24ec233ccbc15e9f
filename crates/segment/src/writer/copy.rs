//! Copies records of an older segment into a new one: what recovery keeps of an unsealed segment
//! after its durable end.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result};

use super::SegmentWriter;
use crate::ids::ShardId;
use crate::record::{KEY_FIXED_LEN, KeyRecord};

/// Bytes of a value in memory at a time.
const PIECE: u32 = 1 << 20;

/// The place of a group's value in the old segment and in the new one.
#[derive(Debug, Clone, Copy)]
struct Relocation {
    from: u64,
    to: u64,
    shard: ShardId,
}

/// Appends records one by one, in the order of the old segment, to a new segment that no reader
/// sees yet.
#[derive(Debug)]
pub struct Copier {
    writer: SegmentWriter,
    relocation: Relocation,
}

impl Copier {
    /// A copier that appends after what `writer` has written.
    pub fn new(writer: SegmentWriter) -> Self {
        Self { writer, relocation: Relocation { from: 0, to: 0, shard: ShardId::INLINE } }
    }

    /// Appends a key record and, if it is primary, its value. A value in the key file stays in the
    /// key file. `read` returns up to the given number of bytes of the value at an offset; the
    /// bytes written are those that are compared with the record's checksum. `path` is the old key
    /// file, for errors. `Io` if the value's checksum does not match. If this fails, the new
    /// segment must be discarded.
    pub fn record(
        &mut self,
        record: &KeyRecord<'_>,
        path: &Path,
        mut read: impl FnMut(u64, usize) -> Result<Bytes>,
    ) -> Result<()> {
        let Self { writer, relocation } = self;
        let start = writer.totals.key_end;
        writer.reserve_key_space(start + record.encoded_len() as u64 + writer.record_overhead())?;
        if record.is_primary() {
            *relocation = writer.allocate_for_copy(record)?;
        }
        let Relocation { from, to, shard } = *relocation;
        let segment = Arc::clone(&writer.segment);
        writer.push_records(|encoder| {
            encoder.key(&KeyRecord { shard, offset: record.offset - from + to, ..*record });
            if !record.is_primary() {
                return Ok(());
            }
            let (mut done, mut checksum) = (0, 0);
            while done < record.stored_len {
                let room = (record.stored_len - done).min(PIECE);
                let bytes = read(record.offset + u64::from(done), room as usize)?;
                if bytes.is_empty() {
                    break;
                }
                checksum = crc32c::crc32c_append(checksum, &bytes);
                match segment.values.get(usize::from(shard.0)) {
                    Some(file) => {
                        file.expect_write_buffer().append(to + u64::from(done), &bytes);
                        segment.write_full_chunks()?;
                    }
                    None => encoder.inline(&bytes),
                }
                done += bytes.len() as u32;
            }
            if (done, checksum) != (record.stored_len, record.value_checksum) {
                let (path, at) = (path.display(), record.offset);
                let message = format!(
                    "the value at {at} of a record in {path}: two reads gave different bytes; reopen"
                );
                return Err(Error::new(ErrorKind::Io, message));
            }
            Ok(())
        })?;
        writer.totals.records += 1;
        writer.totals.primaries += u64::from(record.is_primary());
        segment.write_full_chunks()
    }

    /// Makes everything appended durable, with the directory entries, and returns the writer,
    /// which continues there.
    pub fn finish(self) -> Result<SegmentWriter> {
        let segment = &self.writer.segment;
        segment.make_durable(&self.writer.totals)?;
        segment.sync_everything()?;
        Ok(self.writer)
    }
}

impl SegmentWriter {
    /// The place of a copied value: the key file if it was there, else one file per old shard.
    fn allocate_for_copy(&mut self, record: &KeyRecord<'_>) -> Result<Relocation> {
        let from = record.offset;
        if record.shard == ShardId::INLINE {
            let to = self.totals.key_end + (KEY_FIXED_LEN + record.key.len()) as u64;
            return Ok(Relocation { from, to, shard: ShardId::INLINE });
        }
        let shard = ShardId(record.shard.0 % self.segment.header().shards);
        #[expect(clippy::indexing_slicing, reason = "the shard is one of the segment's")]
        let file = &self.segment.values[usize::from(shard.0)];
        let to = file.end();
        let end = to + u64::from(record.stored_len);
        self.segment.reserve(file, end)?;
        self.set_value_end(shard, end);
        Ok(Relocation { from, to, shard })
    }
}
