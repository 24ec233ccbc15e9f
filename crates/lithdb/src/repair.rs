//! Repair of a database that does not open: [`Db::plan_repair`] returns a plan, [`Repair::apply`]
//! carries it out.
//!
//! It does not open tables in the ordinary way, so it also works on tables that opening refuses.
//! The plan holds the writer's locks until it is applied or dropped. Where roots have lost their
//! `root.id`, the tables come first and the ids last.

use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_rollback::is_pending;
use lithdb_roots::Roots;
use lithdb_table::TableSetup;
use serde::Serialize;

#[doc(inline)]
pub use lithdb_repair::{Action, PositionRange, RepairPlan, RepairReport, SegmentRepair};
#[doc(inline)]
pub use lithdb_roots::{LostRoot, RootLoss, RootsRepair};

use crate::db::Db;
use crate::inspect::{Progress, RefusedTable, setups};
use crate::limits;
use crate::options::{Components, DbOptions};
use crate::shared::refuse_pending_rollback;

/// What it takes to make a database open again: its roots, and table by table. Holds the writer's
/// locks.
#[derive(Debug, Serialize)]
pub struct Repair {
    /// Roots that get a new `root.id`, if there are any.
    pub roots: Option<RootsRepair>,
    /// A plan for each table that needs one.
    pub tables: Vec<RepairPlan>,
    /// The tables for which no plan can be made.
    pub refused: Vec<RefusedTable>,
    #[serde(skip)]
    held: Roots,
}

/// What a repair did.
#[derive(Debug, Clone, Serialize)]
pub struct Repaired {
    /// The roots that have a new `root.id`.
    pub roots: Vec<LostRoot>,
    /// A report for each table that was repaired.
    pub tables: Vec<RepairReport>,
    /// The tables whose repair was not finished; it may be planned and applied again.
    pub refused: Vec<RefusedTable>,
}

impl Db {
    /// Says what it would take to make the tables (all of them, if none are named) open again:
    /// what would be given up, and what is done. Changes nothing until it is applied. A table for
    /// which there can be no plan does not keep the others from theirs. A root whose `root.id` is
    /// lost or damaged gets a new one.
    ///
    /// # Errors
    /// `Locked`, `Missing` for a named table that is not there, and what no repair can decide: a
    /// missing root, a file on two roots, a rollback that was begun and not finished.
    pub fn plan_repair(
        options: &DbOptions,
        tables: Option<&[String]>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Repair> {
        plan(options, &Components::default(), &[], tables, progress)
    }

    /// As [`plan_repair`](Self::plan_repair), of all tables of a database of which roots are gone
    /// for good: `options` name the others, and `lost_roots` directories that are to take their
    /// places, empty or not there yet. What was on those roots is given up.
    ///
    /// # Errors
    /// As [`plan_repair`](Self::plan_repair); `InvalidArgument`, `Foreign`: what is in the way of
    /// a new root.
    pub fn plan_repair_with_lost_roots(
        options: &DbOptions,
        components: &Components,
        lost_roots: &[PathBuf],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Repair> {
        plan(options, components, lost_roots, None, progress)
    }
}

fn plan(
    options: &DbOptions,
    components: &Components,
    gone: &[PathBuf],
    tables: Option<&[String]>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Repair> {
    let (env, _) = limits::budgeted_env(options, components)?;
    let (held, roots) = Roots::open_for_repair(&env, &options.roots, gone)?;
    if let (Some(_), Some(_)) = (&roots, tables) {
        let message = "a root has lost its root.id: repair all tables together, and name none";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let mut repair = Repair { roots, tables: Vec::new(), refused: Vec::new(), held };
    // Tables half-way through a rollback look damaged, and mending them would undo a part of it.
    // Finishing it needs the ids.
    if let Some(roots) = repair.roots.as_mut().filter(|roots| can_finish_rollback(roots))
        && is_pending(&repair.held)?
    {
        let warning = "a rollback is pending, so nothing is said of the tables: finish it after this (`lith rollback --finish`)";
        roots.warnings.push(warning.to_owned());
        return Ok(repair);
    }
    refuse_pending_rollback(&repair.held)?;
    let (is_one, mut agree) = (repair.held.paths().len() == 1, true);
    for setup in setups(&repair.held, tables)? {
        match lithdb_repair::plan_repair(&setup, progress) {
            Ok(plan) => {
                // One root has no other that could be of another time.
                agree &= if is_one { plan.is_lossless() } else { plan.is_certain() };
                repair.tables.extend(Some(plan).filter(|plan| !plan.is_empty()));
            }
            // A call that failed says nothing of the table, and so nothing of the roots.
            Err(error) if repair.roots.is_some() && error.kind().is_system_failure() => {
                return Err(error);
            }
            Err(error) => {
                agree = false;
                repair.refused.push(RefusedTable { table: setup.name, error });
            }
        }
    }
    if let Some(roots) = &mut repair.roots {
        roots.is_lossless = agree;
        roots.warnings = warnings(roots, is_one, agree).map(str::to_owned).collect();
    }
    Ok(repair)
}

/// The ids are those that a pending rollback names, and its files may all be there.
fn can_finish_rollback(roots: &RootsRepair) -> bool {
    !roots.is_new_identity() && roots.lost.iter().all(|root| root.loss != RootLoss::Gone)
}

fn warnings(
    roots: &RootsRepair,
    is_one: bool,
    agree: bool,
) -> impl Iterator<Item = &'static str> + use<> {
    let has_root_0 = roots.lost.iter().any(|root| root.number == 0);
    let warnings = [
        (
            !agree && !is_one,
            "the files on the roots do not agree to the last byte: what was put last may be lost without being counted",
        ),
        (
            agree && !is_one && has_root_0,
            "that root 0 is not an old copy only the values on the others can show: values that stand in key files alone do not",
        ),
        (roots.is_new_identity(), "no root has an identity: the database gets a new one"),
    ];
    warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, what)| what)
}

impl Repair {
    /// Whether there is nothing to repair, as far as plans could be made: see
    /// [`refused`](Self::refused).
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.roots.is_none()
    }

    /// Whether nothing is given up: see [`RepairPlan::is_lossless`] and
    /// [`RootsRepair::is_lossless`].
    pub fn is_lossless(&self) -> bool {
        self.are_roots_lossless() && self.tables.iter().all(RepairPlan::is_lossless)
    }

    fn are_roots_lossless(&self) -> bool {
        self.roots.as_ref().is_none_or(|roots| roots.is_lossless)
    }

    /// Carries the plans out. Damaged files are kept aside, none is deleted. A table whose repair
    /// fails does not keep the others from theirs, but roots from their ids: see
    /// [`Repaired::refused`].
    ///
    /// # Errors
    /// A root that could not be given its id: plan again.
    pub fn apply(self) -> Result<Repaired> {
        self.apply_if(|_| true)
    }

    /// As [`apply`](Self::apply), but only the plans by which nothing is lost. The other tables
    /// stay as they are, and all do if a root would be taken that may not be what it was.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_lossless(self) -> Result<Repaired> {
        if !self.are_roots_lossless() {
            return Ok(Repaired { roots: Vec::new(), tables: Vec::new(), refused: Vec::new() });
        }
        self.apply_if(RepairPlan::is_lossless)
    }

    fn apply_if(mut self, may: impl Fn(&RepairPlan) -> bool) -> Result<Repaired> {
        let mut repaired = Repaired { roots: Vec::new(), tables: Vec::new(), refused: Vec::new() };
        if let Some(roots) = &self.roots {
            self.held.prepare_repair(roots)?;
        }
        for plan in self.tables.into_iter().filter(may) {
            let setup =
                TableSetup::for_files(plan.table.clone(), self.held.env(), self.held.paths());
            match lithdb_repair::apply(plan, &setup) {
                Ok(report) => repaired.tables.push(report),
                Err(error) => repaired.refused.push(RefusedTable { table: setup.name, error }),
            }
        }
        // Until the ids are there, nobody opens what is half done.
        let is_done = repaired.refused.is_empty();
        if let Some(roots) = self.roots.filter(|_| is_done) {
            self.held.finish_repair(&roots)?;
            repaired.roots = roots.lost;
        }
        Ok(repaired)
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.roots.iter().map(ToString::to_string), &self.tables, &self.refused)
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = |root: &LostRoot| format!("root {}: root.id written", root.path.display());
        show(f, self.roots.iter().map(written), &self.tables, &self.refused)
    }
}

fn show(
    f: &mut fmt::Formatter<'_>,
    roots: impl Iterator<Item = String>,
    tables: &[impl fmt::Display],
    refused: &[RefusedTable],
) -> fmt::Result {
    let refused = refused.iter().map(ToString::to_string);
    let all: Vec<String> =
        roots.chain(tables.iter().map(ToString::to_string)).chain(refused).collect();
    if all.is_empty() { f.write_str("nothing to repair") } else { f.write_str(&all.join("\n")) }
}
