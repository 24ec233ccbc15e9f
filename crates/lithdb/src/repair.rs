//! Repair of a database that does not open: [`Db::plan_repair`] returns a plan, [`Repair::apply`]
//! applies it.
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

/// A plan that makes the database open again: for its roots and for each table. Holds the writer's
/// locks.
#[derive(Debug, Serialize)]
pub struct Repair {
    /// The plan for roots that need a new `root.id`; `None` if none does.
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
    /// The tables whose repair failed; plan and apply again.
    pub refused: Vec<RefusedTable>,
}

impl Db {
    /// Plans the repair of the named tables, or of all: what would be done and what would be lost.
    /// Changes nothing. A table that cannot be planned does not stop the others. A root whose
    /// `root.id` is lost or damaged gets a new one.
    ///
    /// # Errors
    /// `Locked`; `Missing` for a named table that does not exist; and cases that repair cannot
    /// resolve: a missing root, a file on two roots, an unfinished rollback.
    pub fn plan_repair(
        options: &DbOptions,
        tables: Option<&[String]>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Repair> {
        plan(options, &Components::default(), &[], tables, progress)
    }

    /// As [`plan_repair`](Self::plan_repair), for a database with permanently lost roots:
    /// `options` lists the others, `lost_roots` the empty or new directories that replace them.
    /// Plans all tables. Data on the lost roots is lost.
    ///
    /// # Errors
    /// As [`plan_repair`](Self::plan_repair); `InvalidArgument` or `Foreign` for a directory that
    /// cannot become a root.
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
        let message = "a root has lost its root.id: repair all tables together, without naming any";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let mut repair = Repair { roots, tables: Vec::new(), refused: Vec::new(), held };
    // Tables half-way through a rollback look damaged, and repairing them would undo part of it.
    // Finishing it needs the ids.
    if let Some(roots) = repair.roots.as_mut().filter(|roots| can_finish_rollback(roots))
        && is_pending(&repair.held)?
    {
        let warning = "a rollback is pending, so the tables were not examined; finish it afterwards (`lith rollback --finish`)";
        roots.warnings.push(warning.to_owned());
        return Ok(repair);
    }
    refuse_pending_rollback(&repair.held)?;
    let (is_one, mut agree) = (repair.held.paths().len() == 1, true);
    for setup in setups(&repair.held, tables)? {
        match lithdb_repair::plan_repair(&setup, progress) {
            Ok(plan) => {
                // A single root has nothing to be compared with.
                agree &= if is_one { plan.is_lossless() } else { plan.is_certain() };
                repair.tables.extend(Some(plan).filter(|plan| !plan.is_empty()));
            }
            // A failed system call tells nothing about the table or the roots.
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

/// Whether the ids match the pending rollback's and no root's files are gone.
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
            "the files on the roots do not agree to the last byte: the latest puts may be lost and are not counted",
        ),
        (
            agree && !is_one && has_root_0,
            "only values on the other roots can show that root 0 is not a stale copy; inline values cannot",
        ),
        (roots.is_new_identity(), "no root has an identity: the database gets a new one"),
    ];
    warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, what)| what)
}

impl Repair {
    /// Whether there is nothing to repair in what could be planned: see
    /// [`refused`](Self::refused).
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.roots.is_none()
    }

    /// Whether nothing is lost: see [`RepairPlan::is_lossless`] and [`RootsRepair::is_lossless`].
    pub fn is_lossless(&self) -> bool {
        self.are_roots_lossless() && self.tables.iter().all(RepairPlan::is_lossless)
    }

    fn are_roots_lossless(&self) -> bool {
        self.roots.as_ref().is_none_or(|roots| roots.is_lossless)
    }

    /// Applies the plans. Damaged files are quarantined, none is deleted. A failed table does not
    /// stop the others, but the `root.id` files are then not written: see [`Repaired::refused`].
    ///
    /// # Errors
    /// Writing a `root.id` failed; plan again.
    pub fn apply(self) -> Result<Repaired> {
        self.apply_if(|_| true)
    }

    /// As [`apply`](Self::apply), but only lossless plans. Other tables are left unchanged; all
    /// are if a root may be a stale copy.
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
        // Until the ids are written, the half-repaired database cannot be opened.
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
