//! put, for a value that does not fit into memory.

use std::borrow::Cow;
use std::io::Read;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis, read_up_to};
use lithdb_segment::{Appended, Group, Position, SegmentWriter};

use crate::batch::{check_key, show_key};
use crate::callback::call;
use crate::table::Table;
use crate::write::writer::Writer;

/// Bytes of a value in memory at a time.
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
        let writer = self.enter_write()?;
        let shared = &writer.shared;
        check_key(key).map_err(|e| shared.in_context(&e))?;
        let mut piece = vec![0; PIECE];
        let mut next = || {
            let read = call("the source of put_from", || read_up_to(source, &mut piece));
            let panicked =
                |_| Error::new(ErrorKind::InvalidArgument, "the source of put_from panicked");
            let len = read.map_err(|p| shared.in_context(&panicked(p)))?.map_err(|e| {
                let message = format!("read the value of key {}: {e}", show_key(key));
                shared.in_context(&Error::with_source(ErrorKind::Io, message, e))
            })?;
            Ok(piece.split_at(len).0.to_vec())
        };
        let first = next()?;
        if first.len() < PIECE {
            return self.put(key, &first);
        }
        let groups = [Group { key, value: &first, checksum: 0, aliases: &[] }];
        writer.write_placed(&groups, |log| {
            // As in every put: records before an epoch are older than the opening.
            let now = log.opened;
            let expected_len = expected_len.max(first.len() as u64);
            let segment = writer.ensure_room(log, &groups, expected_len)?;
            writer.stream_into(segment, key, now, &first, &mut next)
        })
    }
}

impl Writer {
    fn stream_into(
        &self,
        segment: &mut SegmentWriter,
        key: &[u8],
        now: UnixMillis,
        first: &[u8],
        next: &mut dyn FnMut() -> Result<Vec<u8>>,
    ) -> Result<(Appended, u64)> {
        let mut stream = segment.begin_stream().map_err(|e| self.shared.fail(&e))?;
        let mut put = || {
            let (mut piece, mut len) = (Cow::Borrowed(first), 0);
            while !piece.is_empty() {
                segment.stream(&mut stream, &piece)?;
                len += piece.len() as u64;
                piece = next()?.into();
            }
            let positions = vec![segment.append_stream(key, &stream, now)?];
            Ok((Appended { positions, direct: Vec::new() }, len))
        };
        put().map_err(|error| {
            let error = self.shared.fail(&error);
            // After a failed write or sync the contents of the file are unknown: leave it alone.
            if !error.latches()
                && let Err(left) = segment.abort_stream(&stream)
            {
                let left = self.shared.fail(&left);
                tracing::warn!(error = %left, "cannot truncate an aborted value");
            }
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use lithdb_env::sync::Mutex;
    use lithdb_segment::TableName;
    use lithdb_sim::{SimClock, SimFs, sim_env};

    use super::*;
    use crate::options::DuplicateKeys;
    use crate::read::get::tests::Answered;
    use crate::{OpenForWriting, TableOptions, TableSetup};

    /// Whether another writer can start before the key is in the keymap.
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
            *told.lock() = Some(other.enter_write().unwrap().log.try_lock().is_some());
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
