//! Iteration over the records of a table in write order, from either end.
//!
//! An iterator works on a snapshot: the segments and the end of the log at its creation. It holds
//! the segments, so collection does not affect it. Creating one does not seal the segment.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::record::KEY_FIXED_LEN;
use lithdb_segment::scan::Scanner;
use lithdb_segment::{Address, HEADER_LEN, Position, Segment, Value};

use crate::batch::show_key;
use crate::read::reader::Reader;
use crate::read::source::FailedRead;
use crate::segments::{Segments, Snapshot};
use crate::table::{Role, Table};

/// One record: a key and the bytes it refers to.
#[derive(Clone)]
pub struct Entry {
    key: Bytes,
    position: Position,
    is_primary: bool,
    address: Address,
    segment: Arc<Segment>,
}

impl Entry {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether this is the primary key, not an alias.
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// The record's position.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The length of the value in bytes.
    pub fn value_len(&self) -> u32 {
        self.address.len_bytes
    }

    /// Reads and verifies the bytes that the key refers to.
    ///
    /// # Errors
    /// As [`Table::get`]; `Missing` if another process has since collected them or rolled them
    /// back.
    pub fn value(&self) -> Result<Value> {
        self.segment.read_value(&self.address)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &show_key(&self.key))
            .field("position", &self.position)
            .field("is_primary", &self.is_primary)
            .field("value_len", &self.address.len_bytes)
            .finish()
    }
}

/// The records of a table, oldest first, or newest first with `rev()`. See [`Table::iter`].
pub struct Iter {
    segments: Segments,
    /// The end of the snapshot in its last segment.
    end: Position,
    /// Where the front begins in the first segment.
    start: Position,
    front: Option<Front>,
    back: Option<Back>,
    failed: bool,
    /// Another process may collect the files of this reader's table.
    reader: Option<Arc<Reader>>,
}

struct Front {
    scanner: Scanner<'static>,
    segment: Arc<Segment>,
}

/// The offsets in one segment that the back has not returned yet, in order.
struct Back {
    segment: Arc<Segment>,
    offsets: VecDeque<u32>,
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("segments", &self.segments.len())
            .field("end", &self.end)
            .finish()
    }
}

impl Table {
    /// All records in write order, as of the call. A reader's iterator ends with `Missing` where
    /// another process rolled back what is left to read.
    pub fn iter(&self) -> Result<Iter> {
        self.enter()?;
        let start = Position::default();
        Ok(Iter::new(self.snapshot(start), start).of(self))
    }

    /// The records from the newest record of `key` on; `None` if the key is absent.
    pub fn iter_from(&self, key: &[u8]) -> Result<Option<Iter>> {
        self.enter()?.check_lookup_key(key)?;
        let mut read_source = self.read_source();
        while let Some(found) = self.read(|| self.find(key))? {
            let now = self.snapshot(found.at);
            if found.at < now.end && now.segments.find(found.at.segment).is_some() {
                return Ok(Some(Iter::new(now, found.at).of(self)));
            }
            // Collected or rolled back since, or newer than a reader's view. The key may have been
            // put again, or have an older value.
            if !read_source.advance() {
                break;
            }
        }
        Ok(None)
    }

    /// The key of the oldest record.
    pub fn oldest_key(&self) -> Result<Option<Vec<u8>>> {
        let entry = self.iter()?.next().transpose()?;
        Ok(entry.map(|entry| entry.key().to_vec()))
    }

    /// The primary key of the newest value. Reads one record, unless large values are being
    /// written.
    pub fn newest_key(&self) -> Result<Option<Vec<u8>>> {
        self.enter()?;
        let start = Position::default();
        let read = || {
            let now = self.snapshot(start);
            let Some(newest) = now.newest else { return Ok(Err(now)) };
            // If its segment was collected, so was every older one.
            let Some(segment) = now.segments.find(newest.segment).cloned() else {
                return Ok(Ok(None));
            };
            let read = segment.read_key(newest.offset);
            let (key, _, is_primary) = read.map_err(|error| FailedRead { segment, error })?;
            assert!(is_primary, "{newest}: an alias was noted as the newest value");
            Ok(Ok(Some(key.to_vec())))
        };
        match self.read(read)? {
            Ok(key) => Ok(key),
            Err(now) => {
                let walk = Iter::new(now, start).rev();
                let mut primaries = walk.filter(|entry| !matches!(entry, Ok(e) if !e.is_primary()));
                Ok(primaries.next().transpose()?.map(|entry| entry.key().to_vec()))
            }
        }
    }
}

impl Iter {
    pub(crate) fn new(Snapshot { mut segments, end, .. }: Snapshot, start: Position) -> Self {
        segments.remove_below(start.segment);
        while segments.back().is_some_and(|segment| segment.id() > end.segment) {
            segments.pop();
        }
        Self { segments, end, start, front: None, back: None, failed: false, reader: None }
    }

    fn of(mut self, table: &Table) -> Self {
        if let Role::Reader(reader) = &table.role {
            self.reader = Some(Arc::clone(reader));
        }
        self
    }

    /// Whether another process has collected `segment`; then continues after what is gone.
    fn was_collected(&mut self, error: &Error, segment: Option<Arc<Segment>>) -> bool {
        let (Some(reader), Some(segment)) = (&self.reader, segment) else { return false };
        // If that fails, too, the iteration ends with the first error.
        if error.kind() != ErrorKind::Missing || reader.catch_up(&segment).is_err() {
            return false;
        }
        let watermark = reader.view().watermark;
        let gone = self.segments.remove_below(watermark);
        self.front.take_if(|front| front.segment.id() < watermark);
        self.back.take_if(|back| back.segment.id() < watermark);
        !gone.is_empty()
    }

    /// The end of the snapshot in a segment's key file.
    fn end_of(&self, segment: &Segment) -> u64 {
        if segment.id() == self.end.segment {
            u64::from(self.end.offset).min(segment.key_end())
        } else {
            segment.metadata().map_or_else(|| segment.key_end(), |metadata| metadata.key_end)
        }
    }

    fn scanner(&self, segment: &Arc<Segment>) -> Result<Scanner<'static>> {
        segment.scan(self.end_of(segment).max(HEADER_LEN as u64))
    }

    fn next_front(&mut self) -> Result<Option<Entry>> {
        loop {
            if self.front.is_none() {
                let Some(segment) = self.segments.front().cloned() else { return Ok(None) };
                let scanner = self.scanner(&segment)?;
                self.front = Some(Front { scanner, segment });
            }
            let Some(front) = &mut self.front else { return Ok(None) };
            let start =
                if front.segment.id() == self.start.segment { self.start.offset } else { 0 };
            while let Some(entry) = front.scanner.next_entry()? {
                if entry.offset < start {
                    continue;
                }
                let (offset, key_len) = (entry.offset, entry.record.key.len());
                let (address, is_primary) =
                    (entry.record.address(front.segment.id()), entry.record.is_primary());
                if let Some(back) = &mut self.back
                    && !back.take_from_back(&front.segment, offset)
                {
                    return Ok(None);
                }
                let (window, window_start) = front.scanner.window();
                let key_start = (u64::from(offset) - window_start) as usize + KEY_FIXED_LEN;
                return Ok(Some(Entry {
                    key: window.slice(key_start..key_start + key_len),
                    position: Position::new(front.segment.id(), offset),
                    is_primary,
                    address,
                    segment: Arc::clone(&front.segment),
                }));
            }
            front.scanner.require_clean()?;
            match front.segment.id().next() {
                Some(behind) => drop(self.segments.remove_below(behind)),
                None => self.segments = Segments::default(), // it was the last id of all
            }
            self.front = None;
        }
    }

    fn next_from_back(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(back) = &mut self.back {
                if let Some(offset) = back.offsets.pop_back() {
                    let (key, address, is_primary) = back.segment.read_key(offset)?;
                    let position = Position::new(back.segment.id(), offset);
                    let segment = Arc::clone(&back.segment);
                    return Ok(Some(Entry { key, position, is_primary, address, segment }));
                }
                // If the front is in the same segment, it has nothing left either.
                self.front.take_if(|front| Arc::ptr_eq(&front.segment, &back.segment));
                self.segments.pop();
                self.back = None;
            }
            let Some(segment) = self.segments.back().cloned() else { return Ok(None) };
            let front = self.front.as_ref().filter(|front| Arc::ptr_eq(&front.segment, &segment));
            // Skip what the front has returned.
            let given = front.map_or(0, |front| front.scanner.next_offset());
            let start = if segment.id() == self.start.segment { self.start.offset } else { 0 };
            let start = start.max(given);
            let mut scanner = self.scanner(&segment)?;
            let mut offsets = VecDeque::new();
            scanner.run(|entry| {
                if entry.offset >= start {
                    offsets.push_back(entry.offset);
                }
                Ok(())
            })?;
            scanner.require_clean()?;
            self.back = Some(Back { segment, offsets });
        }
    }

    /// Calls `next`; `at` is the segment it reads. Skips what another process has collected
    /// meanwhile. After an error the iterator is exhausted: it must not continue as if nothing had
    /// happened.
    fn step(
        &mut self,
        next: impl Fn(&mut Self) -> Result<Option<Entry>>,
        at: impl Fn(&Segments) -> Option<&Arc<Segment>>,
    ) -> Option<Result<Entry>> {
        while !self.failed {
            match next(self) {
                Err(error) if self.was_collected(&error, at(&self.segments).cloned()) => {}
                next => {
                    self.failed = next.is_err();
                    return next.transpose();
                }
            }
        }
        None
    }
}

impl Back {
    /// Whether the back has not returned the record at `offset` of `segment` yet; takes it from
    /// the back.
    fn take_from_back(&mut self, segment: &Arc<Segment>, offset: u32) -> bool {
        if !Arc::ptr_eq(&self.segment, segment) {
            return true;
        }
        let is_left = self.offsets.front() == Some(&offset);
        if is_left {
            self.offsets.pop_front();
        }
        is_left
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Self::next_front, |segments| segments.front())
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Self::next_from_back, |segments| segments.back())
    }
}
