//! Exports: all rows of a version as one stream of bytes, in bounded memory.
//!
//! An export depends on the version and its rows alone: two states with the same rows, put by the
//! same versions, have equal exports. It names no state store, machine, engine or time, and so it
//! is the way to another engine, format or file system.

use std::io::Write;

use lithdb_env::Result;
use lithdb_lthash::RootHash;
use serde::Serialize;

use crate::metrics::timed;
use crate::view::View;

mod format;
mod reader;
mod writer;

pub(crate) use format::{Header, sums};
pub(crate) use reader::ExportReader;
use writer::ExportWriter;

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// The version.
    pub version: u64,
    /// The root after it.
    pub root: RootHash,
    /// The number of rows.
    pub rows: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// The length of the export, in bytes.
    pub export_bytes: u64,
}

impl View {
    /// Writes all rows to `out`, in the format of `docs/FORMAT.md`, in bounded memory.
    /// [`StateDb::import`](crate::StateDb::import) makes a state store of it. Two views with the
    /// same version and the same rows write the same bytes.
    ///
    /// The rows are hashed on the way. If they are not those of the root, the trailer is not
    /// written, and what was written cannot be imported.
    ///
    /// ```
    /// use lithdb_state::{ChangeSet, StateDb, StateOptions};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    /// let db = StateDb::open(&old, StateOptions::new())?;
    /// db.commit_block(1, &[ChangeSet::new("bank")?.put("alice", "7")])?;
    /// let mut export = Vec::new();
    /// db.latest().export(&mut export)?;
    ///
    /// StateDb::import(&new, &export[..], StateOptions::new(), Some(db.root()))?;
    /// let copy = StateDb::open(&new, StateOptions::new())?;
    /// assert_eq!((copy.version(), copy.root()), (1, db.root()));
    /// # copy.close()?;
    /// # db.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Corrupt` if the rows are not those of the root; `Io`, `StorageFull`, `Exhausted`.
    pub fn export(&self, out: impl Write) -> Result<ExportReport> {
        let metrics = self.metrics();
        timed(&*metrics.clock, &metrics.export, || self.write_export(out))
    }

    fn write_export(&self, mut out: impl Write) -> Result<ExportReport> {
        let (version, root) = (self.version(), self.root());
        let totals = &self.head().totals;
        let mut writer = ExportWriter::new(&mut out, Header { version, root })?;
        for (store, _) in totals.iter() {
            for row in self.iter(store.as_str())? {
                let row = row?;
                writer.put(store, &row.key, row.modified_at, &row.value)?;
            }
        }
        let export_bytes = writer.finish(totals)?;
        let (rows, bytes) = sums(totals);
        Ok(ExportReport { version, root, rows, bytes, export_bytes })
    }
}

/// Reads an export and writes it again, for the fuzzer.
#[doc(hidden)]
pub fn reencode_export(mut export: &[u8]) -> Result<Vec<u8>> {
    let mut reader = ExportReader::open(&mut export)?;
    let mut again = Vec::new();
    let mut writer = ExportWriter::new(&mut again, reader.header())?;
    while let Some(row) = reader.next_row()? {
        writer.put(row.store, row.key, row.modified_at, row.value)?;
    }
    writer.finish(&reader.finish()?)?;
    Ok(again)
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
