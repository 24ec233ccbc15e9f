//! The one scanner of key files, used by recovery, verification, dump, rebuild, iteration and
//! rollback.
//!
//! It walks the records from the header on, follows epochs, checks that groups and batches are
//! well-formed, counts, and reports where and why it stopped: see [`Verdict`]. It only reads.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result, UnixMillis};

use crate::header::{HEADER_LEN, KeyHeader};
use crate::ids::{SegmentId, ShardId};
use crate::record::{
    Chain, Decoded, FileSeeds, Flags, Invalid, KeyRecord, MARK_ALIGN, MARK_FIXED_LEN, MARK_MAGIC,
    MAX_RECORD_LEN, Mark, Record, decode_unchecked, decode_with, encoded_len,
};
use crate::seed::append_word;

/// Bytes read at a time when the file is not mapped.
const WINDOW_LEN: usize = 1 << 20;

/// The scanner's source of bytes, called with an offset and a wanted length. The bytes must not
/// change.
type Source<'a> = Box<dyn Fn(u64, usize) -> Result<Bytes> + Send + Sync + 'a>;

/// The scanner's verdict on the end of a key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The file ends after a complete batch.
    Clean,
    /// The bytes from `offset` on were never acknowledged.
    Torn {
        /// The end of the last complete batch.
        offset: u64,
        /// Why the scan stopped.
        reason: String,
    },
    /// Acknowledged bytes are damaged.
    Corrupt {
        /// The end of the last complete batch: the damage is after it.
        offset: u64,
        /// The durable end: this many bytes of the file were acknowledged.
        acknowledged: u64,
        /// Why the scan stopped.
        reason: String,
    },
}

/// What a key file holds up to the end of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// The end, in bytes from the start of the file.
    pub key_end: u64,
    /// Number of key records.
    pub records: u64,
    /// Number of primary records among them.
    pub primaries: u64,
    /// The running checksum: the checksum over the checksums of all records.
    pub running: u32,
    /// The highest end of any value, per value file.
    pub value_ends: Vec<u64>,
}

impl Totals {
    /// The chain record of the successor of `segment`, if it ends here.
    pub fn chain(&self, segment: SegmentId) -> Chain {
        Chain {
            predecessor: segment,
            key_end: self.key_end as u32,
            records: self.records,
            running: self.running,
            value_ends: self.value_ends.clone(),
        }
    }

    /// The mark that records it as durable.
    pub fn mark(&self, time: UnixMillis) -> Mark {
        let (through, value_ends) = (self.key_end as u32, self.value_ends.clone());
        Mark { through, time, records: self.records, value_ends }
    }

    /// Copies `now`, of the same file, without allocating a new list.
    fn update_to(&mut self, now: &Self) {
        let Self { key_end, records, primaries, running, value_ends } = now;
        (self.key_end, self.records) = (*key_end, *records);
        (self.primaries, self.running) = (*primaries, *running);
        self.value_ends.copy_from_slice(value_ends);
    }
}

/// One key record, borrowed from the scanner's window.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Offset of the record in the key file.
    pub offset: u32,
    /// The record.
    pub record: KeyRecord<'a>,
}

/// Walks a key file.
pub struct Scanner<'a> {
    source: Source<'a>,
    path: PathBuf,
    header: KeyHeader,
    end: u64,
    window: Bytes,
    window_start: u64,
    offset: u64,
    seeds: FileSeeds,
    epochs: Vec<(u32, u64)>,
    now: Totals,
    committed: Totals,
    group: Option<Group>,
    mark: Option<Mark>,
    /// For every mark passed: its durable end and time. Recorded only on request.
    times: Option<Vec<(u32, UnixMillis)>>,
    verdict: Option<Verdict>,
}

/// The primary record of the group being read.
#[derive(Debug, Clone, Copy)]
struct Group {
    shard: ShardId,
    start: u64,
    end: u64,
    open: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner of the key file at `path` with the given header and end. `source` returns up to
    /// the wanted number of bytes at an offset; before `end`, at least one.
    pub fn new(
        source: impl Fn(u64, usize) -> Result<Bytes> + Send + Sync + 'a,
        path: &Path,
        header: KeyHeader,
        end: u64,
    ) -> Self {
        let start = HEADER_LEN as u64;
        let value_ends = vec![HEADER_LEN as u64; usize::from(header.shards)];
        let totals = Totals { key_end: start, value_ends, ..Totals::default() };
        Self {
            source: Box::new(source),
            path: path.to_owned(),
            header,
            end,
            window: Bytes::new(),
            window_start: start,
            offset: start,
            seeds: FileSeeds::new(&header.identity, header.identity.salt),
            epochs: Vec::new(),
            now: totals.clone(),
            committed: totals,
            group: None,
            mark: None,
            times: None,
            verdict: None,
        }
    }

    /// The same scanner, continuing after `counted` and `epochs` of another scanner of the file.
    #[must_use]
    pub fn resume_after(mut self, counted: &Totals, epochs: &[(u32, u64)]) -> Self {
        (self.offset, self.window_start) = (counted.key_end, counted.key_end);
        self.now.update_to(counted);
        self.committed.update_to(counted);
        self.epochs = epochs.to_vec();
        let identity = &self.header.identity;
        let epoch = epochs.last().map_or(identity.salt, |(_, epoch)| *epoch);
        self.seeds = FileSeeds::new(identity, epoch);
        self
    }

    /// The same scanner, with a mark known from outside the file (the recorded end in the table's
    /// state).
    #[must_use]
    pub fn with_external_end(mut self, external_end: Option<Mark>) -> Self {
        self.mark = external_end.or(self.mark);
        self
    }

    /// The same scanner, recording the [times](Self::mark_times) of all marks.
    #[must_use]
    pub fn with_mark_times(mut self) -> Self {
        self.times = Some(Vec::new());
        self
    }

    /// For every mark passed, in order: how much of the file was durable, and when.
    pub fn mark_times(&self) -> &[(u32, UnixMillis)] {
        self.times.as_deref().unwrap_or_default()
    }

    /// The next key record, or `None` at the end of the scan: see [`verdict`](Self::verdict). The
    /// records of a torn batch are returned before the tear is found.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>> {
        // The borrow checker cannot return a borrow of `self.window` from the loop: get the offset
        // first, then decode again.
        let Some(offset) = self.advance_to_key()? else { return Ok(None) };
        let start = (u64::from(offset) - self.window_start) as usize;
        let (_, bytes) = self.window.split_at(start);
        Ok(decode_unchecked(bytes).map(|record| Entry { offset, record }))
    }

    /// Scans the rest of the file, calling `each` for every key record, and returns the verdict.
    pub fn run(&mut self, mut each: impl FnMut(&Entry<'_>) -> Result<()>) -> Result<Verdict> {
        while let Some(entry) = self.next_entry()? {
            each(&entry)?;
        }
        Ok(self.verdict.clone().unwrap_or(Verdict::Clean))
    }

    fn advance_to_key(&mut self) -> Result<Option<u32>> {
        while self.verdict.is_none() {
            if self.offset >= self.end {
                self.finish_at_end()?;
                break;
            }
            self.fill()?;
            let Ok(offset) = u32::try_from(self.offset) else {
                self.stop(Invalid::Malformed("expected records below 4 GiB"))?;
                break;
            };
            match self.consume_record(offset) {
                Ok(true) => return Ok(Some(offset)),
                Ok(false) => {}
                Err(invalid) => self.stop(invalid)?,
            }
        }
        Ok(None)
    }

    /// Counts the record at the current offset; returns whether it is a key record.
    fn consume_record(&mut self, offset: u32) -> Result<bool, Invalid> {
        let start = (self.offset - self.window_start) as usize;
        let (_, bytes) = self.window.split_at(start);
        let decoded = decode_with(&self.seeds, offset, bytes)?;
        let ends_batch =
            count_record(&mut self.now, &mut self.group, &decoded).map_err(Invalid::Malformed)?;
        let Decoded { record, len, .. } = decoded;
        let is_key = matches!(record, Record::Key(_));
        match record {
            Record::Epoch(epoch, _) => {
                self.seeds = FileSeeds::new(&self.header.identity, epoch);
                self.epochs.push((offset, epoch));
            }
            Record::Chain(chain) => self.check_chain(&chain)?,
            Record::Mark(mark) => self.consume_mark(mark)?,
            Record::Key(_) | Record::Padding(_) => {}
        }
        self.offset += len as u64;
        self.now.key_end = self.offset;
        if ends_batch {
            self.committed.update_to(&self.now);
        }
        Ok(is_key)
    }

    /// Makes the window contain the record at the current offset, if the file does. A source may
    /// return less than requested (a write buffer ends where the file begins), but it never splits
    /// a record.
    fn fill(&mut self) -> Result<()> {
        let start = (self.offset - self.window_start) as usize;
        let (_, bytes) = self.window.split_at(start);
        let want = MAX_RECORD_LEN.min((self.end - self.offset) as usize);
        if bytes.len() >= want || encoded_len(bytes).is_some_and(|len| len <= bytes.len()) {
            return Ok(());
        }
        let len = (self.end - self.offset).min(WINDOW_LEN as u64) as usize;
        self.window = (self.source)(self.offset, len)?;
        self.window_start = self.offset;
        if self.window.is_empty() {
            let found = format!("none; the file should have {} bytes", self.end);
            return Err(Error::corrupt(&self.path, self.offset, "more bytes", &found));
        }
        Ok(())
    }

    fn check_chain(&self, chain: &Chain) -> Result<(), Invalid> {
        if self.offset == HEADER_LEN as u64 && chain.predecessor == self.header.predecessor {
            return Ok(());
        }
        Err(Invalid::Malformed("expected the chain record first, naming the predecessor"))
    }

    fn consume_mark(&mut self, mark: Mark) -> Result<(), Invalid> {
        let is_valid = u64::from(mark.through) <= self.offset
            && self.offset.is_multiple_of(MARK_ALIGN as u64)
            && mark.value_ends.len() == usize::from(self.header.shards);
        if !is_valid {
            return Err(Invalid::Malformed(
                "expected an aligned mark that covers only earlier bytes",
            ));
        }
        if let Some(times) = &mut self.times {
            times.push((mark.through, mark.time));
        }
        self.raise_mark(mark);
        Ok(())
    }

    /// Keeps the mark with the highest durable end.
    fn raise_mark(&mut self, mark: Mark) {
        if self.mark.as_ref().is_none_or(|known| known.through <= mark.through) {
            self.mark = Some(mark);
        }
    }

    fn finish_at_end(&mut self) -> Result<()> {
        let durable_end = self.mark.as_ref().map_or(0, |mark| u64::from(mark.through));
        if self.committed.key_end == self.now.key_end && durable_end <= self.end {
            self.verdict = Some(Verdict::Clean);
            return Ok(());
        }
        self.stop(Invalid::Truncated)
    }

    /// Ends the scan at an invalid record and decides whether it was ever acknowledged.
    fn stop(&mut self, invalid: Invalid) -> Result<()> {
        if let Some(mark) = self.marks_after()? {
            self.raise_mark(mark);
        }
        let offset = self.committed.key_end;
        let acknowledged = self.mark.as_ref().map_or(0, |mark| u64::from(mark.through));
        let reason = format!("record at {}: {invalid}", self.offset);
        self.verdict = Some(if acknowledged > offset {
            Verdict::Corrupt { offset, acknowledged, reason }
        } else {
            Verdict::Torn { offset, reason }
        });
        Ok(())
    }

    /// The mark with the highest durable end between the current offset and the end of the file.
    fn marks_after(&self) -> Result<Option<Mark>> {
        let mut furthest: Option<Mark> = None;
        let mut at = self.offset.next_multiple_of(MARK_ALIGN as u64);
        // Windows overlap by the longest mark, so that none is missed at an edge.
        let longest = MARK_FIXED_LEN + 8 * usize::from(ShardId::MAX_SHARDS);
        while at < self.end {
            let len = (self.end - at).min((WINDOW_LEN + longest) as u64) as usize;
            let bytes = (self.source)(at, len)?;
            let step = if bytes.len() < len { bytes.len() } else { len.min(WINDOW_LEN) };
            if step == 0 {
                break;
            }
            for start in (0..step).step_by(MARK_ALIGN) {
                let (_, candidate) = bytes.split_at(start);
                if candidate.get(8..16) != Some(&MARK_MAGIC) {
                    continue;
                }
                let offset = (at + start as u64) as u32;
                let decoded = decode_with(&self.seeds, offset, candidate);
                if let Ok(Decoded { record: Record::Mark(mark), .. }) = decoded
                    && mark.value_ends.len() == usize::from(self.header.shards)
                    && furthest.as_ref().is_none_or(|known| known.through < mark.through)
                {
                    furthest = Some(mark);
                }
            }
            // The source may return less than up to the next aligned offset; the file continues.
            at += (step / MARK_ALIGN * MARK_ALIGN).max(MARK_ALIGN) as u64;
        }
        Ok(furthest)
    }

    /// How the scan ended; `None` before the end.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Returns an error for a verdict other than clean, for a file that must be whole.
    pub fn require_clean(&self) -> Result<()> {
        match &self.verdict {
            None | Some(Verdict::Clean) => Ok(()),
            Some(Verdict::Torn { offset, reason } | Verdict::Corrupt { offset, reason, .. }) => {
                Err(corrupt(&self.path, *offset, reason))
            }
        }
    }

    /// What the file holds up to the end of the last complete batch.
    pub fn totals(&self) -> &Totals {
        &self.committed
    }

    /// The mark with the highest durable end.
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// The offset and number of each epoch.
    pub fn epochs(&self) -> &[(u32, u64)] {
        &self.epochs
    }

    /// The offset after the last record returned.
    pub fn next_offset(&self) -> u32 {
        self.offset as u32
    }

    /// The bytes that contain the last entry, and their offset in the file: an iterator keeps them
    /// without copying.
    pub fn window(&self) -> (&Bytes, u64) {
        (&self.window, self.window_start)
    }
}

/// The error for a damaged key file that must be whole.
pub fn corrupt(path: &Path, offset: u64, reason: &str) -> Error {
    let message = format!(
        "acknowledged records are damaged: {reason}; `lith repair` shows what can be salvaged"
    );
    Error::at_offset(ErrorKind::Corrupt, path, offset, message)
}

/// Counts a record; returns whether it ends a batch.
fn count_record(
    totals: &mut Totals,
    group: &mut Option<Group>,
    decoded: &Decoded<'_>,
) -> Result<bool, &'static str> {
    let Record::Key(record) = &decoded.record else {
        if group.is_some() {
            return Err("expected the rest of the batch");
        }
        totals.running = append_word(totals.running, decoded.checksum);
        return Ok(true);
    };
    let start = record.offset;
    let end =
        start.checked_add(u64::from(record.stored_len)).ok_or("expected an offset in range")?;
    match (group.as_ref(), record.is_primary()) {
        (Some(Group { open: true, .. }), true) => return Err("expected the rest of the group"),
        (None | Some(Group { open: false, .. }), false) => return Err("expected a primary record"),
        (Some(primary), false) => {
            if record.shard != primary.shard || start < primary.start || end > primary.end {
                return Err("expected a range inside the primary record's value");
            }
        }
        (_, true) => {
            *group = Some(Group { shard: record.shard, start, end, open: true });
            totals.primaries += 1;
        }
    }
    if record.shard != ShardId::INLINE {
        let value_end = totals.value_ends.get_mut(usize::from(record.shard.0));
        let value_end = value_end.ok_or("expected a shard that the segment has")?;
        *value_end = end.max(*value_end);
    }
    totals.records += 1;
    totals.running = append_word(totals.running, decoded.checksum);
    let ends_group = record.flags.has(Flags::END_OF_GROUP);
    if record.flags.has(Flags::END_OF_BATCH) {
        *group = None;
        return if ends_group { Ok(true) } else { Err("expected the batch to end with a group") };
    }
    if let Some(group) = group
        && ends_group
    {
        group.open = false;
    }
    Ok(false)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
