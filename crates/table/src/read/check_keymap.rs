//! Verification of an open table's keymap against its key files.

use std::fmt;

use lithdb_env::Result;
use lithdb_segment::{Position, TableName};
use serde::Serialize;

use crate::batch::show_key;
use crate::progress::{Meter, Progress};
use crate::read::iter::Iter;
use crate::table::Table;

/// Maximum number of mismatches listed.
const MOST: usize = 64;

/// A record for which the keymap gives a wrong position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeymapMismatch {
    /// The record's key.
    pub key: String,
    /// The record's position.
    pub position: Position,
    /// What the keymap has for its key: nothing, or an older record.
    pub found: Option<Position>,
}

/// The result of comparing the keymap with the key files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeymapReport {
    /// The table.
    pub table: TableName,
    /// Readable key records; each was looked up.
    pub records: u64,
    /// Distinct keys among them: records to which the keymap points.
    pub keys: u64,
    /// Records superseded by a newer one of the same key.
    pub superseded: u64,
    /// Entries of the keymap. Those beyond the distinct keys are dead, or were kept apart because
    /// their hashes collide.
    pub entries: u64,
    /// Records with a wrong position.
    pub wrong: u64,
    /// The first of them.
    pub wrong_answers: Vec<KeymapMismatch>,
}

impl KeymapReport {
    /// Whether every key leads to its newest record, and there are enough entries for all keys.
    pub fn is_sound(&self) -> bool {
        self.wrong == 0 && self.entries >= self.keys
    }
}

impl fmt::Display for KeymapReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, records, keys, superseded, entries, wrong, .. } = self;
        let verdict = if self.is_sound() { "ok" } else { "WRONG" };
        write!(f, "table {table}: keymap {verdict}: {records} records, {keys} keys found")?;
        write!(f, ", {superseded} superseded, {entries} entries, {wrong} wrong")?;
        for KeymapMismatch { key, position, found } in &self.wrong_answers {
            write!(f, "\n  {key} at {position}: the keymap names ")?;
            match found {
                Some(found) => write!(f, "{found}")?,
                None => f.write_str("nothing")?,
            }
        }
        Ok(())
    }
}

/// Looks up the key of every record in the keymap of an open table: it must lead to that record or
/// a newer one of the same key, so the newest record of each key is found. Records that are put or
/// collected meanwhile are not counted.
///
/// # Errors
/// `Closed`; a key file that cannot be read.
pub fn verify_keymap(table: &Table, progress: &mut dyn FnMut(Progress)) -> Result<KeymapReport> {
    let shared = table.enter()?;
    let now = table.snapshot(Position::default());
    let total = now.segments.iter().map(|segment| segment.key_end()).sum();
    let mut meter = Meter::new(progress, total);
    let mut report = KeymapReport {
        table: shared.name().clone(),
        records: 0,
        keys: 0,
        superseded: 0,
        entries: 0,
        wrong: 0,
        wrong_answers: Vec::new(),
    };
    let mut before = Position::default();
    for entry in Iter::new(now, Position::default()) {
        let entry = entry.map_err(|e| shared.in_context(&e))?;
        let at = entry.position();
        let is_next = at.segment == before.segment;
        meter.add(u64::from(at.offset - if is_next { before.offset } else { 0 }));
        before = at;
        let found = table.find(entry.key()).map_err(|e| shared.in_context(&e.error))?;
        let found = found.map(|found| found.at);
        if found.is_none() && at.segment < table.read_source().watermark() {
            continue;
        }
        report.records += 1;
        match found {
            Some(found) if found == at => report.keys += 1,
            Some(found) if found > at => report.superseded += 1,
            _ => {
                report.wrong += 1;
                if report.wrong_answers.len() < MOST {
                    let key = show_key(entry.key());
                    report.wrong_answers.push(KeymapMismatch { key, position: at, found });
                }
            }
        }
    }
    report.entries = table.read_source().keymap().entries() as u64;
    meter.finish();
    Ok(report)
}
