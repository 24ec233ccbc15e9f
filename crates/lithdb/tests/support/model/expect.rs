//! The allowed contents of a table: what was put, in order, how much of it must exist, and how
//! much may have been collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lithdb::{Position, Table};

/// A record as iteration gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Vec<u8>,
    pub is_primary: bool,
    pub value: Vec<u8>,
}

/// A batch that was put, or what a rollback has left of one.
#[derive(Debug, Clone)]
pub struct Written {
    pub records: Arc<Vec<Record>>,
    /// The position of its last value's record, once it is known.
    pub at: Option<Position>,
    /// The earliest time that its segment can have been sealed at (the true time), and the latest,
    /// once it is sealed.
    pub earliest: u64,
    pub sealed_by: Option<u64>,
    /// The wall clock when it was put.
    pub put_at: u64,
    /// A clock that was ahead has been accepted since: it may be collected at any time.
    pub may_go: bool,
}

/// The model of one table.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// It exists.
    pub exists: bool,
    /// It may or may not exist: a creation or a removal has failed.
    pub in_doubt: bool,
    /// What was put and is not known to be collected.
    pub batches: Vec<Written>,
    /// The number of batches that are durable.
    pub acked: usize,
    /// The number of batches that may have been collected.
    pub collectable: usize,
    /// The last put was refused in a way that leaves open whether it is in the log.
    pub is_attempt: bool,
    /// The wall clock may have been untrusted since the last collection by a clock that was
    /// trusted.
    pub was_held: bool,
    /// How much its time may be ahead of the true one (or behind).
    pub clock_error: i64,
    /// Since when its wall clock has been further ahead than that, and whether it already was when
    /// the table was opened.
    pub ahead_since: Option<(u64, bool)>,
    /// The possible values of its TTL, in milliseconds.
    pub ttls: Vec<Option<u64>>,
    /// Every key that was ever put into a table of this name.
    pub known: BTreeSet<Vec<u8>>,
    /// The number of the next new key.
    pub next: u64,
}

/// The contents found in a table.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub records: Vec<(Position, Record)>,
}

impl Found {
    /// Reads the whole table forwards, and checks that reading it backwards gives the same.
    pub fn read(table: &Table, context: &str) -> Self {
        let entry = |entry: lithdb::Result<lithdb::Entry>| {
            let entry = entry.unwrap_or_else(|e| panic!("{context}: iterating: {e}"));
            let value = entry.value().unwrap_or_else(|e| panic!("{context}: {entry:?}: {e}"));
            assert_eq!(entry.value_len() as usize, value.len(), "{context}: {entry:?}");
            let (key, is_primary) = (entry.key().to_vec(), entry.is_primary());
            (entry.position(), Record { key, is_primary, value: value.to_vec() })
        };
        let records: Vec<_> = table.iter().unwrap().map(entry).collect();
        let mut backwards: Vec<_> = table.iter().unwrap().rev().map(entry).collect();
        backwards.reverse();
        assert!(records == backwards, "{context}: backwards differs");
        Self { records }
    }
}

impl Expected {
    /// A table that was just created; keeps the keys known from earlier tables of its name.
    pub fn created(&self, wall_ahead: i64) -> Self {
        Self {
            exists: true,
            clock_error: wall_ahead,
            ttls: vec![None],
            known: self.known.clone(),
            next: self.next,
            ..Self::default()
        }
    }

    /// The model after the table was dropped.
    pub fn dropped(&self) -> Self {
        Self { known: self.known.clone(), next: self.next, ..Self::default() }
    }

    /// The wall clock sets the table's time: one that is ahead makes everything older.
    pub fn adopt_wall_clock(&mut self, wall_ahead: i64, makes_old: bool) {
        if wall_ahead > self.clock_error && makes_old {
            self.batches.iter_mut().for_each(|batch| batch.may_go = true);
        }
        (self.clock_error, self.ahead_since) = (wall_ahead, None);
    }

    /// The number of batches that are certainly below this segment.
    pub fn below(&self, segment: u32) -> usize {
        let is_below = |batch: &&Written| batch.at.is_some_and(|at| at.segment.0 < segment);
        self.batches.iter().take_while(is_below).count()
    }

    /// Forgets the first `count` batches: they have been collected.
    pub fn forget(&mut self, count: usize) {
        self.batches.drain(..count);
        self.acked = self.acked.saturating_sub(count);
        self.collectable = self.collectable.saturating_sub(count);
    }

    /// `count` batches are durable.
    pub fn acknowledge(&mut self, count: usize) {
        self.acked = self.acked.max(count);
    }

    /// New records go to this segment: those before it are sealed.
    pub fn note_mutable_segment(&mut self, segment: u32, now: u64) {
        let below = self.below(segment);
        for batch in self.batches.iter_mut().take(below) {
            batch.sealed_by.get_or_insert(now);
        }
    }

    /// Like [`note_mutable_segment`](Self::note_mutable_segment), after an open: a failed seal has
    /// not happened.
    pub fn reset_mutable_segment(&mut self, segment: u32) {
        let below = self.below(segment);
        self.batches.iter_mut().skip(below).for_each(|batch| batch.sealed_by = None);
    }

    /// What `get` must return for every key ever put, if these batches exist.
    pub fn expected_values(&self, range: std::ops::Range<usize>) -> BTreeMap<&[u8], Option<&[u8]>> {
        let mut answers: BTreeMap<&[u8], Option<&[u8]>> =
            self.known.iter().map(|key| (&key[..], None)).collect();
        for record in self.batches[range].iter().flat_map(|batch| batch.records.iter()) {
            answers.insert(&record.key, Some(&record.value));
        }
        answers
    }

    /// Determines which batches were found: whole ones, in order, without a gap; all that must
    /// exist, and nothing else.
    pub fn find(&self, found: &Found) -> Result<std::ops::Range<usize>, String> {
        let mut reason = String::new();
        for start in (0..=self.collectable).rev() {
            match self.find_from(start, found) {
                Ok(end) => return Ok(start..end),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    fn find_from(&self, start: usize, found: &Found) -> Result<usize, String> {
        let (mut end, mut rest) = (start, &found.records[..]);
        while !rest.is_empty() {
            let Some(batch) = self.batches.get(end) else {
                let (at, record) = &rest[0];
                return Err(format!(
                    "{} exists at {at}, after everything expected",
                    name(&record.key)
                ));
            };
            let count = batch.records.len().min(rest.len());
            let (here, behind) = rest.split_at(count);
            if !here.iter().map(|(_, record)| record).eq(batch.records.iter()) {
                return Err(format!(
                    "batch {end} of {} ({} durable) is not complete: expected {}, found {}",
                    self.batches.len(),
                    self.acked,
                    names(batch.records.iter()),
                    names(here.iter().map(|(_, record)| record)),
                ));
            }
            let last = here.iter().rev().find(|(_, record)| record.is_primary);
            let last = last.map(|(at, _)| *at);
            // Recovery may have moved it to a new segment.
            let is_at = |at: lithdb::Position| {
                last == Some(at) || last.is_some_and(|last| last.segment > at.segment)
            };
            if batch.at.is_some_and(|at| !is_at(at)) {
                return Err(format!("batch {end} was put at {:?}, found at {last:?}", batch.at));
            }
            (end, rest) = (end + 1, behind);
        }
        if end < self.acked {
            let lost = &self.batches[end];
            return Err(format!(
                "{} batches were durable, found {start}..{end}: {} is lost",
                self.acked,
                names(lost.records.iter())
            ));
        }
        Ok(end)
    }

    /// The table holds exactly this, all of it durable.
    pub fn settle(&mut self, range: std::ops::Range<usize>, found: &Found) {
        self.batches.truncate(range.end);
        self.batches.drain(..range.start);
        (self.acked, self.collectable, self.is_attempt) = (self.batches.len(), 0, false);
        // A crash loses some of the elapsed time, and the wall clock is then ahead of the table's.
        self.was_held = true;
        self.note_positions(found);
    }

    /// Records the position of everything that was found.
    pub fn note_positions(&mut self, found: &Found) {
        let mut rest = &found.records[..];
        for batch in &mut self.batches {
            let Some((here, behind)) = rest.split_at_checked(batch.records.len()) else { return };
            batch.at = here.iter().rev().find(|(_, r)| r.is_primary).map(|(at, _)| *at);
            rest = behind;
        }
    }

    /// All records, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.batches.iter().flat_map(|batch| batch.records.iter())
    }
}

/// A readable form of a key.
pub fn name(key: &[u8]) -> String {
    let (kind, number) = key.split_last_chunk::<8>().unwrap_or((&key[..0], &[0; 8]));
    match key.first_chunk::<8>() {
        Some(number) if key.len() == 9 => format!("key {}", u64::from_be_bytes(*number)),
        _ => format!("{} {}", String::from_utf8_lossy(kind), u64::from_be_bytes(*number)),
    }
}

fn names<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let names: Vec<String> =
        records.map(|r| format!("{} ({} bytes)", name(&r.key), r.value.len())).collect();
    format!("[{}]", names.join(", "))
}
