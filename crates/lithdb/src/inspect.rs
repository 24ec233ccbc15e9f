//! Inspection of a database's files: what [`Db::verify`], [`Db::dump`] and
//! [`Table::verify_keymap`](crate::Table::verify_keymap) report.
//!
//! Verification and dump do not open tables in the ordinary way, so they also work on tables that
//! opening refuses. They take no lock, write nothing, and report nothing but a pending rollback
//! while there is one.

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

/// A table on which the operation failed, and why. Other tables are unaffected.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedTable {
    /// The table.
    pub table: TableName,
    /// The error; serialized as its message.
    pub error: Error,
}

/// The result of a verification.
#[derive(Debug, Clone)]
pub struct Verification {
    /// A pending rollback. Until it is finished, nothing else is reported: the files may be in a
    /// mixed state, consistent or not, and apparent leftovers may be needed.
    pub pending_rollback: Option<PendingRollback>,
    /// A report for each table that could be verified.
    pub tables: Vec<VerifyReport>,
    /// The tables that could not be verified.
    pub refused: Vec<RefusedTable>,
}

impl Db {
    /// Reads every byte of the tables (all of them, if none are named) and checks every checksum,
    /// link and count. Works on damaged tables, and beside a writer. A failure on one table does
    /// not stop the others; a table dropped during the run is omitted unless named. A pending
    /// rollback is the only finding.
    ///
    /// # Errors
    /// As opening the roots for reading; `Missing` for a named table that does not exist; `Io`.
    /// Damage is not an error but a finding.
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
                // These findings are due to its concurrent removal.
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
        // Findings made while a rollback started are dropped, too.
        if let Some(pending) = pending(&roots)? {
            found = empty_report(Some(pending));
        }
        Ok(found)
    }

    /// Calls `each` with every record of a table's key files (of one segment, if one is named), in
    /// file order.
    ///
    /// # Errors
    /// As [`verify`](Self::verify); errors of `each`. `Locked` if a rollback is pending, or starts
    /// during the dump.
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

/// Whether the table does not exist. A damaged or unreadable table exists.
pub(crate) fn is_dropped(setup: &TableSetup) -> bool {
    let found = presence(&*setup.env.fs, &setup.dirs);
    matches!(found, Ok(Presence::Absent | Presence::Interrupted))
}

/// The setups of the named tables, or of all tables.
pub(crate) fn setups(roots: &Roots, named: Option<&[String]>) -> Result<Vec<TableSetup>> {
    let present = roots.table_names()?;
    let exists = |setup: &TableSetup| present.contains(&setup.name) && !is_dropped(setup);
    let Some(names) = named else {
        let setups = present
            .iter()
            .map(|name| TableSetup::for_files(name.clone(), roots.env(), roots.paths()));
        return Ok(setups.filter(exists).collect());
    };
    let setup = |name| {
        let setup = TableSetup::for_files(TableName::new(name)?, roots.env(), roots.paths());
        if exists(&setup) { Ok(setup) } else { Err(no_table(&setup.name)) }
    };
    names.iter().map(setup).collect()
}

impl Verification {
    /// Whether every table was verified and is intact, and no rollback is pending.
    pub fn is_sound(&self) -> bool {
        let is_complete = self.refused.is_empty() && self.pending_rollback.is_none();
        is_complete && self.tables.iter().all(VerifyReport::is_sound)
    }
}

impl fmt::Display for RefusedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The message names the table.
        self.error.fmt(f)
    }
}
