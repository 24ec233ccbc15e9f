//! The rollback request: roots, tables, and what to do with a table in which the filter keeps
//! nothing. Planning from it writes nothing.

use std::path::PathBuf;

use lithdb_env::{Env, Error, ErrorKind, Result};
use lithdb_roots::Roots;
use lithdb_segment::{ReadMode, TableName};
use lithdb_table::truncate::{RecordRef, StoppedTable, Verdict};
use lithdb_table::{Presence, TableSetup, presence};
use serde::{Deserialize, Serialize};

use crate::intent::{finish_pending, pending, refuse_pending};
use crate::plan::{RollbackPlan, TablePlan};
use crate::report::{PendingRollback, RollbackReport};

/// How many key files are scanned concurrently while planning.
const SCAN_THREADS: usize = 2;

/// What to do with a table in which the filter keeps nothing: all of it may be newer than the
/// point to roll back to, or the filter may not understand its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoMatch {
    /// Refuse the rollback, with the names of these tables.
    #[default]
    Refuse,
    /// Leave the table as it is.
    Keep,
    /// Empty the table.
    Clear,
}

/// A rollback of a stopped database, not yet planned.
#[derive(Debug, Clone)]
pub struct Rollback {
    roots: Vec<PathBuf>,
    tables: Option<Vec<String>>,
    no_match: NoMatch,
    accept_out_of_order: bool,
    read_mode: ReadMode,
    env: Option<Env>,
}

impl Rollback {
    /// A rollback of the database in these root directories: all its roots, in any order.
    pub fn new<P: Into<PathBuf>>(roots: impl IntoIterator<Item = P>) -> Self {
        let roots = roots.into_iter().map(Into::into).collect();
        let (no_match, read_mode) = (NoMatch::Refuse, ReadMode::Map);
        Self { roots, tables: None, no_match, accept_out_of_order: false, read_mode, env: None }
    }

    /// Rolls back these tables only; the others are left as they are.
    #[must_use]
    pub fn tables<S: Into<String>>(mut self, tables: impl IntoIterator<Item = S>) -> Self {
        self.tables = Some(tables.into_iter().map(Into::into).collect());
        self
    }

    /// What to do with a table in which the filter keeps nothing. By default the rollback is
    /// refused.
    #[must_use]
    pub fn on_no_match(mut self, no_match: NoMatch) -> Self {
        self.no_match = no_match;
        self
    }

    /// Whether to accept that values are kept which the filter would discard, because they were
    /// put before a record that it keeps. Otherwise a plan that keeps some is not executed.
    #[must_use]
    pub fn accept_out_of_order(mut self, accept: bool) -> Self {
        self.accept_out_of_order = accept;
        self
    }

    /// How to read key files. The default, mapping them, is faster.
    #[must_use]
    pub fn read_mode(mut self, read_mode: ReadMode) -> Self {
        self.read_mode = read_mode;
        self
    }

    /// Uses the caller's disk, clock and threads.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    fn environment(&self) -> Result<Env> {
        self.env.clone().map_or_else(|| Env::os(SCAN_THREADS), Ok)
    }

    /// Scans every table from its newest record to older ones, calls `filter` with each key
    /// record, and plans what to remove: everything newer than the first group of which the filter
    /// keeps a record. A filter that knows an order ([`Verdict::KeepAndCheck`]) is also called for
    /// every record that is kept. Writes nothing.
    ///
    /// # Errors
    /// `Locked` if the database is open for writing, or if a rollback is pending: see
    /// [`finish`](Self::finish). An error or a panic of the filter. `InvalidArgument` if the
    /// filter keeps nothing in some table ([`NoMatch::Refuse`]), or if the first record it keeps
    /// has been collected. `Missing` for a missing table or root. `Foreign` for files that are
    /// symbolic links. `Corrupt`.
    pub fn plan<F>(&self, mut filter: F) -> Result<RollbackPlan>
    where
        F: FnMut(&RecordRef<'_>) -> Result<Verdict>,
    {
        let env = self.environment()?;
        let roots = Roots::open_stopped(&env, &self.roots)?;
        refuse_pending(&roots)?;
        let mut plan = RollbackPlan {
            roots: roots.paths().to_vec(),
            database_id: roots.database_id(),
            tables: Vec::new(),
            accept_out_of_order: self.accept_out_of_order,
            all_tables: self.tables.is_none(),
            env,
        };
        let mut unmatched = Vec::new();
        for setup in self.setups(&roots)? {
            let stopped_table = StoppedTable::read(&setup)?;
            let walked = stopped_table.walk(&mut filter)?;
            if walked.boundary.is_none()
                && stopped_table.records() > 0
                && self.no_match == NoMatch::Refuse
            {
                unmatched.push((setup.name.clone(), stopped_table.has_collected()));
                continue;
            }
            plan.tables.push(TablePlan::make(&setup.name, &stopped_table, walked, self.no_match)?);
        }
        refuse_unmatched(&unmatched)?;
        Ok(plan)
    }

    /// The interrupted rollback, if there is one. Changes nothing.
    ///
    /// # Errors
    /// Those of opening the roots for reading, and file system errors.
    pub fn pending(&self) -> Result<Option<PendingRollback>> {
        let env = self.environment()?;
        let roots = Roots::open_for_reading(&env, &self.roots)?;
        pending(&roots)
    }

    /// Finishes an interrupted rollback, if there is one, as opening the database for writing
    /// does.
    ///
    /// # Errors
    /// `Locked`, those of opening the roots, and file system errors; it may be called again.
    pub fn finish(&self) -> Result<Option<RollbackReport>> {
        let env = self.environment()?;
        let roots = Roots::open_for_writing(&env, &self.roots, false)?;
        finish_pending(&roots)
    }

    fn setups(&self, roots: &Roots) -> Result<Vec<TableSetup>> {
        let mut names = roots.table_names()?;
        if let Some(named) = &self.tables {
            // A symbolic link instead of any table directory is refused, as everywhere.
            for name in names {
                let setup = TableSetup::for_files(name, roots.env(), roots.paths());
                presence(&*setup.env.fs, &setup.dirs)?;
            }
            names = named.iter().map(TableName::new).collect::<Result<Vec<_>>>()?;
        }
        names.sort();
        names.dedup();
        let mut setups = Vec::with_capacity(names.len());
        for name in names {
            let setup = TableSetup {
                read_mode: self.read_mode,
                ..TableSetup::for_files(name, roots.env(), roots.paths())
            };
            match presence(&*setup.env.fs, &setup.dirs)? {
                Presence::Present => setups.push(setup),
                // Partly created or partly dropped.
                Presence::Absent | Presence::Interrupted if self.tables.is_none() => {}
                Presence::Absent | Presence::Interrupted => {
                    let message = format!("no such table: {}", setup.name);
                    return Err(Error::new(ErrorKind::Missing, message));
                }
            }
        }
        Ok(setups)
    }
}

fn refuse_unmatched(unmatched: &[(TableName, bool)]) -> Result<()> {
    if unmatched.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = unmatched.iter().map(|(name, _)| name.to_string()).collect();
    let collected = unmatched.iter().any(|(_, has_collected)| *has_collected);
    let hint = if collected { " Older values may have been collected." } else { "" };
    let message = format!(
        "the filter keeps nothing in table {}: all of its data may be newer than the point to roll \
         back to, or the filter does not understand its keys.{hint} Nothing was changed; leave the \
         table out, or choose to keep or clear such tables",
        names.join(", ")
    );
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
