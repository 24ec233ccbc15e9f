//! Inspection of a database's files: what [`Db::verify`], [`Db::dump`] and
//! [`Table::verify_keymap`](crate::Table::verify_keymap) report.
//!
//! Verification and dump do not open tables in the ordinary way, so they also work on tables that
//! opening refuses. They take no lock and write nothing.

use std::fmt;

use lithdb_env::{Env, Error, Result};
use lithdb_rollback::{PendingRollback, pending};
use lithdb_roots::Roots;
use lithdb_segment::{SegmentId, TableName};
use lithdb_table::{Presence, TableSetup, presence};
use serde::Serialize;

#[doc(inline)]
pub use lithdb_repair::{DumpLine, Finding, Progress, Severity, VerifyReport};
#[doc(inline)]
pub use lithdb_segment::ShardId;
#[doc(inline)]
pub use lithdb_table::{KeymapMismatch, KeymapReport};

use crate::db::Db;
use crate::options::DbOptions;
use crate::shared::{no_table, refuse_pending_rollback};

/// A table of which something was asked that could not be done. The other tables are not affected.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedTable {
    /// The table.
    pub table: TableName,
    /// Why; a message where it is serialized.
    pub error: Error,
}

/// What a verification found, table by table.
#[derive(Debug, Clone)]
pub struct Verification {
    /// A rollback was begun and not finished. Until it is, nothing else is said: files may hold
    /// together and yet be neither what was before the rollback nor what is to be after it, or
    /// seem to be left over and yet be needed.
    pub pending_rollback: Option<PendingRollback>,
    /// A report for each table that could be looked at.
    pub tables: Vec<VerifyReport>,
    /// The tables that could not be looked at.
    pub refused: Vec<RefusedTable>,
}

impl Db {
    /// Reads every byte of the tables (all of them, if none are named) and compares every
    /// checksum, link and count. Works on damaged tables, and beside a writer. A table that cannot
    /// be looked at does not keep the others from it; one that is dropped meanwhile is left out,
    /// unless it was named. While a rollback is pending, that is all that is said.
    ///
    /// # Errors
    /// What keeps the roots from being opened for reading, `Missing` for a named table that is not
    /// there, `Io`. Damage is not an error but a finding.
    pub fn verify(
        options: &DbOptions,
        tables: Option<&[String]>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Verification> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_reading(&env, &options.roots)?;
        let empty_report = |pending_rollback| Verification {
            pending_rollback,
            tables: Vec::new(),
            refused: Vec::new(),
        };
        if let Some(pending) = pending(&roots)? {
            return Ok(empty_report(Some(pending)));
        }
        let mut found = empty_report(None);
        for setup in setups(&roots, tables)? {
            match lithdb_repair::verify(&setup, progress) {
                Ok(report) if report.is_sound() => found.tables.push(report),
                // Whatever was found of it was found while its files went away.
                _ if is_dropped(&setup) => {
                    if tables.is_some() {
                        let error = no_table(&setup.name);
                        found.refused.push(RefusedTable { table: setup.name, error });
                    }
                }
                Ok(report) => found.tables.push(report),
                Err(error) => found.refused.push(RefusedTable { table: setup.name, error }),
            }
        }
        // What was seen of files while a rollback began is not said, either.
        if let Some(pending) = pending(&roots)? {
            found = empty_report(Some(pending));
        }
        Ok(found)
    }

    /// Calls `each` with every record of a table's key files (of one segment, if one is named), in
    /// the order in which they stand.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and what `each` returns. `Locked` if a rollback was begun
    /// and not finished, or one has begun meanwhile.
    pub fn dump(
        options: &DbOptions,
        table: &str,
        segment: Option<u32>,
        each: &mut dyn FnMut(&DumpLine) -> Result<()>,
    ) -> Result<()> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_reading(&env, &options.roots)?;
        refuse_pending_rollback(&roots)?;
        let setups = setups(&roots, Some(&[table.to_owned()]))?;
        let dump = |setup: &TableSetup| lithdb_repair::dump(setup, segment.map(SegmentId), each);
        let dumped = setups.iter().try_for_each(dump);
        refuse_pending_rollback(&roots)?;
        dumped
    }
}

/// Whether there is no such table. One that is damaged or cannot be read is there.
pub(crate) fn is_dropped(setup: &TableSetup) -> bool {
    let found = presence(&*setup.env.fs, &setup.dirs);
    matches!(found, Ok(Presence::Absent | Presence::Interrupted))
}

/// What is needed to look at tables: named ones, or all that are there.
pub(crate) fn setups(roots: &Roots, named: Option<&[String]>) -> Result<Vec<TableSetup>> {
    let present = roots.table_names()?;
    let is_there = |setup: &TableSetup| present.contains(&setup.name) && !is_dropped(setup);
    let Some(names) = named else {
        let setups = present
            .iter()
            .map(|name| TableSetup::for_files(name.clone(), roots.env(), roots.paths()));
        return Ok(setups.filter(is_there).collect());
    };
    let setup = |name| {
        let setup = TableSetup::for_files(TableName::new(name)?, roots.env(), roots.paths());
        if is_there(&setup) { Ok(setup) } else { Err(no_table(&setup.name)) }
    };
    names.iter().map(setup).collect()
}

impl Verification {
    /// Whether every table could be looked at and none is damaged, and no rollback is pending.
    pub fn is_sound(&self) -> bool {
        let is_whole = self.refused.is_empty() && self.pending_rollback.is_none();
        is_whole && self.tables.iter().all(VerifyReport::is_sound)
    }
}

impl fmt::Display for RefusedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The message names the table.
        self.error.fmt(f)
    }
}
