//! Looking at a database's files without trusting them: verification, dump, repair.
//!
//! None of these opens a table the ordinary way, so all of them work where opening refuses. Verification and dump hold
//! the readers' lock and write nothing; a repair holds the writer's locks from its plan to its end.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::{Env, Error, Result};
use lithdb_rollback::{PendingRollback, pending};
use lithdb_segment::{HandleLimit, SegmentId, TableName};
use lithdb_table::inspect::{DumpLine, Progress, RepairPlan, RepairReport, VerifyReport};
use lithdb_table::roots::Roots;
use lithdb_table::{EventListener, Presence, TableSetup, inspect, presence};
use serde::{Serialize, Serializer};

use crate::db::Db;
use crate::options::DbOptions;
use crate::shared::{no_table, refuse_pending_rollback};

/// A table of which something was asked that could not be done. The other tables are not affected.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// The table.
    pub table: TableName,
    /// Why; a message where it is serialized.
    #[serde(serialize_with = "as_message")]
    pub error: Error,
}

/// What a verification found, table by table.
#[derive(Debug, Clone)]
pub struct Verification {
    /// A rollback was begun and not finished. Until it is, nothing else is said: files may hold together and yet be neither
    /// what was before the rollback nor what is to be after it, or seem to be left over and yet be needed.
    pub pending_rollback: Option<PendingRollback>,
    /// A report for each table that could be looked at.
    pub tables: Vec<VerifyReport>,
    /// The tables that could not be looked at.
    pub refused: Vec<Refused>,
}

/// What it takes to make a database open again, table by table. Holds the writer's locks.
#[derive(Debug, Serialize)]
pub struct Repair {
    /// A plan for each table that needs one.
    pub tables: Vec<RepairPlan>,
    /// The tables for which no plan can be made.
    pub refused: Vec<Refused>,
    #[serde(skip)]
    setups: Vec<TableSetup>,
    #[serde(skip)]
    _roots: Roots,
}

/// What a repair did, table by table.
#[derive(Debug, Clone, Serialize)]
pub struct Repaired {
    /// A report for each table that was repaired.
    pub tables: Vec<RepairReport>,
    /// The tables whose repair was not finished; it may be planned and applied again.
    pub refused: Vec<Refused>,
}

impl Db {
    /// Reads every byte of the tables (all of them, if none are named) and compares every checksum, link and count. Works on
    /// damaged tables, and beside a writer. A table that cannot be looked at does not keep the others from it; one that is
    /// dropped meanwhile is left out, unless it was named. While a rollback is pending, that is all that is said.
    ///
    /// # Errors
    /// What keeps the roots from being opened for reading, `Missing` for a named table that is not there, `Io`. Damage is not an
    /// error but a finding.
    pub fn verify(
        options: &DbOptions,
        tables: Option<&[String]>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Verification> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_reading(&env, &options.roots)?;
        let mut found =
            Verification { pending_rollback: None, tables: Vec::new(), refused: Vec::new() };
        found.pending_rollback = pending(&env, &roots)?;
        if found.pending_rollback.is_some() {
            return Ok(found);
        }
        for setup in setups(&env, &roots, tables, options)? {
            match inspect::verify(&setup, progress) {
                Ok(report) if report.is_sound() => found.tables.push(report),
                // Whatever was found of it was found while its files went away.
                _ if is_gone(&env, &setup) => {
                    if tables.is_some() {
                        let error = no_table(&setup.name);
                        found.refused.push(Refused { table: setup.name, error });
                    }
                }
                Ok(report) => found.tables.push(report),
                Err(error) => found.refused.push(Refused { table: setup.name, error }),
            }
        }
        // What was seen of files while a rollback began is not said, either.
        if let Some(pending) = pending(&env, &roots)? {
            found = Verification {
                pending_rollback: Some(pending),
                tables: Vec::new(),
                refused: Vec::new(),
            };
        }
        Ok(found)
    }

    /// Calls `each` with every record of a table's key files (of one segment, if one is named), in the order in which they
    /// stand.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and what `each` returns. `RollbackPending` if a rollback was begun and not finished, or
    /// one has begun meanwhile.
    pub fn dump(
        options: &DbOptions,
        table: &str,
        segment: Option<u32>,
        each: &mut dyn FnMut(&DumpLine) -> Result<()>,
    ) -> Result<()> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_reading(&env, &options.roots)?;
        refuse_pending_rollback(&env, &roots)?;
        let setups = setups(&env, &roots, Some(&[table.to_owned()]), options)?;
        let dump = |setup: &TableSetup| inspect::dump(setup, segment.map(SegmentId), each);
        let dumped = setups.iter().try_for_each(dump);
        refuse_pending_rollback(&env, &roots)?;
        dumped
    }

    /// Says what it would take to make the tables (all of them, if none are named) open again: what would be given up, and
    /// what is done. Changes nothing until it is applied. A table for which there can be no plan does not keep the others
    /// from theirs.
    ///
    /// # Errors
    /// `Locked`, `Missing` for a named table that is not there, and what no repair can decide: a missing root, a file on two
    /// roots, a rollback that was begun and not finished.
    pub fn plan_repair(
        options: &DbOptions,
        tables: Option<&[String]>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Repair> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_writing(&env, &options.roots, false)?;
        // Tables half-way through a rollback look damaged, and mending them would undo a part of it.
        refuse_pending_rollback(&env, &roots)?;
        let setups = setups(&env, &roots, tables, options)?;
        let mut repair =
            Repair { tables: Vec::new(), refused: Vec::new(), setups: Vec::new(), _roots: roots };
        for setup in setups {
            match inspect::plan_repair(&setup, progress) {
                Ok(plan) if plan.is_empty() => {}
                Ok(plan) => {
                    repair.tables.push(plan);
                    repair.setups.push(setup);
                }
                Err(error) => repair.refused.push(Refused { table: setup.name, error }),
            }
        }
        Ok(repair)
    }
}

/// Whether a table that was there was dropped meanwhile.
fn is_gone(env: &Env, setup: &TableSetup) -> bool {
    matches!(presence(&*env.fs, &setup.dirs), Ok(Presence::Absent | Presence::Interrupted))
}

/// What is needed to look at tables: named ones, or all that are there. One whose state is gone or damaged is there.
fn setups(
    env: &Env,
    roots: &Roots,
    named: Option<&[String]>,
    options: &DbOptions,
) -> Result<Vec<TableSetup>> {
    let present = roots.table_names(env)?;
    let names: Vec<TableName> = match named {
        Some(names) => names.iter().map(TableName::new).collect::<Result<_>>()?,
        None => present.clone(),
    };
    let mut setups = Vec::with_capacity(names.len());
    for name in names {
        let setup = setup(env, roots.paths(), name, options);
        let is_there = present.contains(&setup.name)
            && !matches!(
                presence(&*env.fs, &setup.dirs),
                Ok(Presence::Absent | Presence::Interrupted)
            );
        if is_there {
            setups.push(setup);
        } else if named.is_some() {
            return Err(no_table(&setup.name));
        }
    }
    Ok(setups)
}

fn setup(env: &Env, roots: &[PathBuf], name: TableName, options: &DbOptions) -> TableSetup {
    TableSetup {
        dirs: roots.iter().map(|root| root.join(name.as_str())).collect(),
        name,
        env: env.clone(),
        read_mode: options.read_mode,
        handles: Arc::new(HandleLimit::new(options.max_open_files)),
        listener: EventListener::default(),
        filter: None,
        clock_jump_limit: options.clock_jump_limit,
        clock_jump_hold: options.clock_jump_hold,
    }
}

impl Verification {
    /// Whether every table could be looked at and none is damaged, and no rollback is pending.
    pub fn is_sound(&self) -> bool {
        let is_whole = self.refused.is_empty() && self.pending_rollback.is_none();
        is_whole && self.tables.iter().all(VerifyReport::is_sound)
    }
}

impl Repair {
    /// Whether there is nothing to repair, as far as plans could be made: see [`refused`](Self::refused).
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether nothing is given up: see [`RepairPlan::is_lossless`].
    pub fn is_lossless(&self) -> bool {
        self.tables.iter().all(RepairPlan::is_lossless)
    }

    /// Carries the plans out. Damaged files are kept aside, none is deleted. A table whose repair fails does not keep the
    /// others from theirs: see [`Repaired::refused`].
    pub fn apply(self) -> Repaired {
        self.apply_if(|_| true)
    }

    /// As [`apply`](Self::apply), but only the plans by which nothing is lost. The other tables stay as they are.
    pub fn apply_lossless(self) -> Repaired {
        self.apply_if(RepairPlan::is_lossless)
    }

    fn apply_if(self, may: impl Fn(&RepairPlan) -> bool) -> Repaired {
        let mut repaired = Repaired { tables: Vec::new(), refused: Vec::new() };
        let planned = self.tables.into_iter().zip(&self.setups);
        for (plan, setup) in planned.filter(|(plan, _)| may(plan)) {
            match plan.apply(setup) {
                Ok(report) => repaired.tables.push(report),
                Err(error) => {
                    repaired.refused.push(Refused { table: setup.name.clone(), error });
                }
            }
        }
        repaired
    }
}

fn as_message<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(error)
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The message names the table.
        self.error.fmt(f)
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, &self.tables, &self.refused)
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, &self.tables, &self.refused)
    }
}

fn lines(
    f: &mut fmt::Formatter<'_>,
    items: &[impl fmt::Display],
    refused: &[Refused],
) -> fmt::Result {
    if items.is_empty() && refused.is_empty() {
        return f.write_str("nothing to repair");
    }
    let refused = refused.iter().map(|refused| refused as &dyn fmt::Display);
    for (n, item) in items.iter().map(|item| item as &dyn fmt::Display).chain(refused).enumerate() {
        if n > 0 {
            writeln!(f)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}
