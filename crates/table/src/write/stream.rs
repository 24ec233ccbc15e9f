//! put, for a value that does not fit into memory.

use std::io::Read;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis, read_up_to};
use lithdb_segment::{Appended, Group, Position, SegmentWriter};

use crate::batch::check_key;
use crate::batch::show_key;
use crate::callback::call;
use crate::table::{Inner, Table};

/// So much of a value is in memory at a time.
const PIECE: usize = 1 << 20;

impl Table {
    /// Stores what `source` yields, holding one mebibyte of it at a time. Holds the writer's lock
    /// while it reads the source. If the source fails or panics, nothing is stored and the space
    /// is free again. `expected_len` decides whether a segment that would grow too large is sealed
    /// first.
    pub fn put_from(
        &self,
        key: &[u8],
        expected_len: u64,
        source: &mut dyn Read,
    ) -> Result<Position> {
        let inner = &self.inner;
        inner.enter_write()?;
        check_key(key).map_err(|e| inner.in_context(&e))?;
        let mut piece = vec![0; PIECE];
        let mut next = || {
            let read = call("the source of put_from", || read_up_to(source, &mut piece));
            let panicked =
                |_| Error::new(ErrorKind::InvalidArgument, "the source of put_from panicked");
            let len = read.map_err(|p| inner.in_context(&panicked(p)))?.map_err(|e| {
                let message = format!("read the value of key {}: {e}", show_key(key));
                inner.in_context(&Error::with_source(ErrorKind::Io, message, e))
            })?;
            Ok(piece.split_at(len).0.to_vec())
        };
        let first = next()?;
        if first.len() < PIECE {
            return self.put(key, &first);
        }
        inner.write_stream(key, expected_len, first, &mut next)
    }
}

impl Inner {
    fn write_stream(
        self: &Arc<Self>,
        key: &[u8],
        expected_len: u64,
        first: Vec<u8>,
        next: &mut dyn FnMut() -> Result<Vec<u8>>,
    ) -> Result<Position> {
        let groups = [Group { key, value: &first, checksum: 0, aliases: &[] }];
        self.write_placed(&groups, |side, writer| {
            // As with every put: the records before an epoch are older than the opening.
            let now = writer.opened;
            let expected_len = expected_len.max(first.len() as u64);
            let segment = self.ensure_room(side, writer, &groups, expected_len)?;
            self.stream_into(segment, key, now, &first, next)
        })
    }

    fn stream_into(
        &self,
        segment: &mut SegmentWriter,
        key: &[u8],
        now: UnixMillis,
        first: &[u8],
        next: &mut dyn FnMut() -> Result<Vec<u8>>,
    ) -> Result<(Appended, u64)> {
        let mut stream = segment.begin_stream().map_err(|e| self.fail(&e))?;
        let mut put = || {
            segment.stream(&mut stream, first)?;
            let mut len = first.len() as u64;
            loop {
                let piece = next()?;
                if piece.is_empty() {
                    break;
                }
                segment.stream(&mut stream, &piece)?;
                len += piece.len() as u64;
            }
            let positions = vec![segment.append_stream(key, &stream, now)?];
            Ok((Appended { positions, direct: Vec::new() }, len))
        };
        put().map_err(|error| {
            let error = self.fail(&error);
            // After a failed write or sync nobody knows what is in the file: it is left alone.
            if !error.latches()
                && let Err(left) = segment.abort_stream(&stream)
            {
                let left = self.fail(&left);
                tracing::warn!(error = %left, "the bytes of a value that was given up stay");
            }
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lithdb_env::sync::Mutex;
    use lithdb_segment::TableName;
    use lithdb_sim::{SimClock, SimFs, sim_env};

    use super::*;
    use crate::options::DuplicateKeys;
    use crate::read::get::tests::Answered;
    use crate::table::TableSetup;
    use crate::{OpenForWriting, TableOptions};

    /// Whether another writer gets in before the key is in the keymap.
    fn gets_in(duplicates: DuplicateKeys) -> bool {
        let fs = SimFs::new();
        fs.make_dirs("/r");
        let name = TableName::new("t").unwrap();
        let setup = TableSetup::for_files(name, &sim_env(&fs, &SimClock::new(1)), &["/r".into()]);
        Table::create(&setup).unwrap();
        let options = TableOptions::new().duplicate_keys(duplicates);
        let how = OpenForWriting { coalesce: Duration::ZERO };
        let table = Table::open(&setup, &options, how).unwrap();
        let (table, _, before_inserting) = Answered::of(table);
        let (other, seen) = (table.clone(), Arc::new(Mutex::new(None)));
        let told = Arc::clone(&seen);
        *before_inserting.lock() = Some(Box::new(move || {
            *told.lock() = Some(other.inner.write_side().unwrap().writer.try_lock().is_some());
        }));
        table.put_from(b"key", 0, &mut &vec![7; 2 * PIECE][..]).unwrap();
        seen.lock().unwrap()
    }

    #[test]
    fn streamed_key_is_published_before_the_next_writer() {
        assert!(!gets_in(DuplicateKeys::Reject));
        assert!(gets_in(DuplicateKeys::NewestWins));
    }
}
