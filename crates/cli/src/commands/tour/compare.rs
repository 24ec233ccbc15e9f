//! Comparing what the database answers with the files on disk. Step 2: all of them.

use std::fmt;
use std::time::Instant;

use lithdb::{Db, Table};

use super::files::{Digest, Item, Loaded};
use super::{TABLE, Tour};
use crate::failure::Failure;
use crate::files::Buffer;
use crate::output::{counted, size};
use crate::progress::Progress;

/// What all comparisons found.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Answers that were compared.
    pub(super) compared: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Files that are not on disk any more as they were loaded.
    pub(super) changed: Vec<String>,
    /// Answers that are not what was loaded.
    pub(super) wrong: Vec<String>,
}

/// How far a tally has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    compared: u64,
    bytes: u64,
    wrong: usize,
}

/// What was compared between two counts.
pub(super) struct Compared {
    pub(super) answers: u64,
    pub(super) bytes: u64,
    wrong: usize,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) compared byte by byte: ",
            counted(self.answers, "file"),
            size(self.bytes)
        )?;
        match self.wrong {
            0 => f.write_str("all equal"),
            wrong => write!(f, "{wrong} WRONG"),
        }
    }
}

impl Tally {
    /// How far it has come.
    pub(super) fn counts(&self) -> Counts {
        Counts { compared: self.compared, bytes: self.bytes, wrong: self.wrong.len() }
    }

    /// What was compared since then.
    pub(super) fn since(&self, before: Counts) -> Compared {
        Compared {
            answers: self.compared - before.compared,
            bytes: self.bytes - before.bytes,
            wrong: self.wrong.len() - before.wrong,
        }
    }

    /// Something is not as promised.
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// Compares what `key` answers with the file of `item`.
    pub(super) fn compare(
        &mut self,
        table: &Table,
        key: &str,
        item: &Item,
        buffer: &mut Buffer,
    ) -> Result<(), Failure> {
        let answer = match table.get(key.as_bytes()) {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                self.wrong(format!("{key}: stored, and not found"));
                return Ok(());
            }
            Err(error) => {
                self.wrong(format!("{key}: {error}"));
                return Ok(());
            }
        };
        self.compared += 1;
        self.bytes += answer.len() as u64;
        match buffer.read(&item.path) {
            Ok(on_disk) if on_disk == &answer[..] => return Ok(()),
            // One that cannot be read any more has changed: the digest tells whether the answer is right.
            Ok(_) | Err(_) => {}
        }
        if Digest::of(&answer) == item.digest {
            // The answer is what was loaded: it is the file that is another.
            if !self.changed.contains(&item.key) {
                self.changed.push(item.key.clone());
            }
        } else {
            self.wrong(format!(
                "{key}: the answer is not what was stored ({} bytes)",
                answer.len()
            ));
        }
        Ok(())
    }
}

impl Loaded {
    /// Compares about `most` of the files, evenly spread.
    pub(super) fn compare_sample(
        &self,
        table: &Table,
        most: usize,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        compare_sample(&self.items, table, most, tally)
    }
}

/// Compares about `most` of the files, evenly spread.
pub(super) fn compare_sample(
    items: &[Item],
    table: &Table,
    most: usize,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut buffer = Buffer::default();
    for item in items.iter().step_by(items.len().div_ceil(most.max(1)).max(1)) {
        tally.compare(table, &item.key, item, &mut buffer)?;
    }
    Ok(())
}

/// Compares all of them.
pub(super) fn compare_all(items: &[Item], table: &Table, tally: &mut Tally) -> Result<(), Failure> {
    let mut buffer = Buffer::default();
    let mut bar = Progress::counting("comparing");
    let before = tally.counts();
    for item in items {
        tally.compare(table, &item.key, item, &mut buffer)?;
        bar.done(tally.since(before).bytes);
    }
    Ok(())
}

impl Tour<'_> {
    /// Reads everything back.
    pub(super) fn read_back(&mut self, db: &Db) -> Result<(), Failure> {
        let started = Instant::now();
        let table = db.table(TABLE, self.table_options.clone())?;
        let before = self.tally.counts();
        compare_all(&self.loaded.items, &table, &mut self.tally)?;
        let all = self.tally.since(before);
        let took = started.elapsed();
        // The second names find the same contents.
        let mut buffer = Buffer::default();
        let items = &self.loaded.items;
        let mut aliases = 0;
        for item in items.iter().step_by(items.len().div_ceil(500).max(1)) {
            self.tally.compare(&table, &item.digest.key(), item, &mut buffer)?;
            aliases += 1;
        }
        // And a walk through the table meets each record once, in the order of loading.
        let mut expected = items.iter();
        let mut records = 0;
        for entry in table.iter()? {
            let entry = entry?;
            records += 1;
            let is_next = !entry.is_primary()
                || expected.next().map(|i| i.key.as_bytes()) == Some(entry.key());
            if !is_next {
                self.tally
                    .wrong(format!("iteration: record {records} is not the next that was put"));
                break;
            }
        }
        if expected.next().is_some() {
            self.tally.wrong(format!("iteration: ended after {records} records, too soon"));
        }
        let what = format!(
            "{all}; {} also found by digest; iteration gives {} in the order of loading",
            counted(aliases, "file"),
            counted(records, "record")
        );
        self.tell("Read back", took, Some(all.bytes), what)
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
