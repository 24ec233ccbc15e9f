//! Looking at a database's files without trusting them: verification, dump, repair.
//!
//! None of these opens a table the ordinary way, so all of them work where opening refuses. Verification and dump hold
//! the readers' lock and write nothing; a repair holds the writer's locks from its plan to its end.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::{Env, Error, ErrorKind, Result};
use lithdb_segment::{HandleLimit, SegmentId, TableName};
use lithdb_table::inspect::{DumpLine, Progress, RepairPlan, RepairReport, VerifyReport};
use lithdb_table::roots::Roots;
use lithdb_table::{EventListener, Presence, TableSetup, inspect, presence};
use serde::Serialize;

use crate::db::Db;
use crate::options::DbOptions;

/// What it takes to make a database open again, table by table. Holds the writer's locks.
#[derive(Debug, Serialize)]
pub struct Repair {
    /// A plan for each table that needs one.
    pub tables: Vec<RepairPlan>,
    #[serde(skip)]
    setups: Vec<TableSetup>,
    #[serde(skip)]
    _roots: Roots,
}

/// What a repair did, table by table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// A report for each table that was repaired.
    pub tables: Vec<RepairReport>,
}

impl Db {
    /// Reads every byte of the tables (all of them, if none are named) and compares every checksum, link and count. Works on
    /// damaged tables, and beside a writer.
    ///
    /// # Errors
    /// What keeps the roots from being opened for reading, `Missing` for a named table that is not there, `Io`. Damage is not an
    /// error but a finding.
    pub fn verify(
        options: &DbOptions,
        tables: Option<&[String]>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<VerifyReport>> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_reading(&env, &options.roots)?;
        let setups = setups(&env, &roots, tables, options)?;
        setups.iter().map(|setup| inspect::verify(setup, progress)).collect()
    }

    /// Calls `each` with every record of a table's key files (of one segment, if one is named), in the order in which they
    /// stand.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and what `each` returns.
    pub fn dump(
        options: &DbOptions,
        table: &str,
        segment: Option<u32>,
        each: &mut dyn FnMut(&DumpLine) -> Result<()>,
    ) -> Result<()> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_reading(&env, &options.roots)?;
        let setups = setups(&env, &roots, Some(&[table.to_owned()]), options)?;
        setups.iter().try_for_each(|setup| inspect::dump(setup, segment.map(SegmentId), each))
    }

    /// Says what it would take to make the database open again: what would be given up, and what is done. Changes nothing
    /// until it is applied.
    ///
    /// # Errors
    /// `Locked`, and what no repair can decide: a missing root, a file on two roots, another format version.
    pub fn plan_repair(options: &DbOptions, progress: &mut dyn FnMut(Progress)) -> Result<Repair> {
        let env = Env::os(options.io_threads)?;
        let roots = Roots::open_for_writing(&env, &options.roots, false)?;
        let mut repair = Repair { tables: Vec::new(), setups: Vec::new(), _roots: roots };
        for setup in setups(&env, &repair._roots, None, options)? {
            let plan = inspect::plan_repair(&setup, progress)?;
            if !plan.is_empty() {
                repair.tables.push(plan);
                repair.setups.push(setup);
            }
        }
        Ok(repair)
    }
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
            let message = format!("table {}: there is none of this name", setup.name);
            return Err(Error::new(ErrorKind::Missing, message));
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

impl Repair {
    /// Whether there is nothing to repair.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Carries the plan out. Damaged files are kept aside, none is deleted.
    ///
    /// # Errors
    /// What the file system says; the repair may be planned and applied again.
    pub fn apply(self) -> Result<Repaired> {
        let plans = self.tables.into_iter().zip(&self.setups);
        let tables = plans.map(|(plan, setup)| plan.apply(setup)).collect::<Result<_>>()?;
        Ok(Repaired { tables })
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, &self.tables)
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(f, &self.tables)
    }
}

fn lines(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    if items.is_empty() {
        return f.write_str("nothing to repair");
    }
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            writeln!(f)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}
