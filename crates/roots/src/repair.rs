//! Repair of roots whose `root.id` is lost or damaged, and of roots that are permanently lost.
//!
//! `plan` derives the missing root numbers from the ids of the other roots; then the caller
//! repairs the tables. Writing the ids is the last step: until then the database does not open,
//! and the same repair can be restarted at any point. A renewal on all roots writes the ids, so a
//! removed root that comes back is older than the others.

use std::fmt;
use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Fs, Result, lossy};
use serde::Serialize;

use super::decide::{self, RootsPlan};
use super::root_id::{ROOT_ID_FILE, RootId};
use super::scan::{self, ScannedRoot, TablesFound};
use super::{Access, Roots, create, locks};
use lithdb_segment::quarantine::Quarantine;

/// Why a root needs a new `root.id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RootLoss {
    /// There is no `root.id`.
    IdLost,
    /// Neither of its slots is valid.
    IdDamaged,
    /// The caller says that the root is permanently lost, with everything on it.
    Gone,
}

/// A root that needs a new `root.id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRoot {
    /// The directory.
    #[serde(serialize_with = "lossy::path")]
    pub path: PathBuf,
    /// The root number.
    pub number: u16,
    /// The reason.
    pub loss: RootLoss,
}

impl fmt::Display for LostRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, number, loss } = self;
        write!(f, "root {number}, {}: ", path.display())?;
        f.write_str(match loss {
            RootLoss::IdLost => "its root.id is lost; a new one is written",
            RootLoss::IdDamaged => "its root.id is damaged; a new one is written",
            RootLoss::Gone => "it is permanently lost; a new root replaces it",
        })
    }
}

/// A plan to write new `root.id` files; it uses everything else on these roots as found. Changes
/// nothing until [`Roots::prepare_repair`] and [`Roots::finish_repair`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootsRepair {
    /// The roots that need a new `root.id`, by root number.
    pub lost: Vec<LostRoot>,
    /// Whether the repair is lossless: the files of every table agree on all roots, to the last
    /// byte.
    pub is_lossless: bool,
    /// What the user should know before applying it.
    pub warnings: Vec<String>,
    #[serde(skip)]
    pub(super) paths: Vec<PathBuf>,
    /// The paths among them that do not exist yet.
    #[serde(skip)]
    pub(super) absent: Vec<PathBuf>,
    /// The ids of all roots, before the renewal.
    #[serde(skip)]
    ids: Vec<RootId>,
    #[serde(skip)]
    is_new_identity: bool,
}

impl fmt::Display for RootsRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_lossless {
            true => "roots: the repair is lossless",
            false => "roots: the repair accepts the files as found; missing data is lost",
        })?;
        self.lost.iter().try_for_each(|root| write!(f, "\n  {root}"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))
    }
}

/// Plans ids for those of `roots` that have none, and for `gone`, the replacements of permanently
/// lost roots. `fresh` is used if no root has an id. `no_id_is_lost` is returned if all have one.
///
/// # Errors
/// The error of opening, if no id is lost or if nothing shows that a directory is a root;
/// `InvalidArgument`, `Foreign`: a directory that cannot be a root.
pub(super) fn plan(
    fs: &dyn Fs,
    roots: &[PathBuf],
    gone: &[PathBuf],
    fresh: &RootId,
    no_id_is_lost: &Error,
) -> Result<RootsRepair> {
    let all: Vec<PathBuf> = roots.iter().chain(gone).cloned().collect();
    let mut seen = scan::scan(fs, &all, Access::Write)?;
    let refusal = decide::decide(&seen, false);
    if let Some(seen) = seen.iter().skip(roots.len()).find(|seen| seen.id.is_some()) {
        let path = seen.path.display();
        let message = format!("{path} has a root.id: it is not lost; list it with the other roots");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let refusal = match refusal {
        Ok(_) => return Err(no_id_is_lost.clone()),
        Err(refusal) => refusal,
    };
    let known: Vec<RootId> = seen.iter().filter_map(|seen| seen.id.clone()).collect();
    let is_creation = !known.is_empty() && !known.iter().any(RootId::is_complete);
    if known.len() == seen.len() || is_creation {
        return Err(refusal);
    }
    let holds = |seen: &ScannedRoot| match seen.id {
        Some(_) => scan::holds(fs, &seen.path, &scan::list(fs, &seen.path)?),
        None => Ok(seen.holds),
    };
    let most = seen.iter().map(holds).collect::<Result<Vec<_>>>()?.into_iter().max();
    let is_blank = most.is_none_or(|most| most == TablesFound::Nothing);
    if known.is_empty() && is_blank {
        return Err(refusal);
    }
    for (n, seen) in seen.iter().enumerate().filter(|(_, seen)| seen.id.is_none()) {
        if n >= roots.len() {
            refuse_foreign_entries(fs, seen)?;
        } else if !seen.exists() || seen.is_blank() && !is_blank {
            // It may be the empty mount point of a root whose disk is not mounted.
            return Err(refusal);
        }
    }
    let mut lost = Vec::new();
    for (n, id) in assign_numbers(&seen, &known, fresh, &refusal)? {
        let Some(seen) = seen.get_mut(n) else { continue };
        if id.number > 0 && seen.holds == TablesFound::State {
            let message = format!(
                "{} holds a table.state, which only root 0 has, but would become root {}; list the \
                 right directory",
                seen.path.display(),
                id.number
            );
            return Err(Error::new(ErrorKind::Foreign, message));
        }
        let loss = match seen.damage.take() {
            _ if n >= roots.len() => RootLoss::Gone,
            Some(_) => RootLoss::IdDamaged,
            None => RootLoss::IdLost,
        };
        lost.push(LostRoot { path: seen.path.clone(), number: id.number, loss });
        seen.id = Some(id);
    }
    let RootsPlan::Open { roots: paths, ids } = decide::decide(&seen, false)? else {
        return Err(refusal);
    };
    let absent = seen.into_iter().filter(|seen| !seen.exists()).map(|seen| seen.path).collect();
    Ok(RootsRepair {
        lost,
        is_lossless: false,
        warnings: Vec::new(),
        paths,
        absent,
        ids,
        is_new_identity: known.is_empty(),
    })
}

/// The replacement of a lost root must be empty, or hold what an earlier attempt left.
fn refuse_foreign_entries(fs: &dyn Fs, seen: &ScannedRoot) -> Result<()> {
    let foreign_entry =
        if seen.exists() { scan::first_foreign_entry(fs, &seen.path)? } else { None };
    let Some(name) = foreign_entry else { return Ok(()) };
    let message = format!(
        "{} holds {name:?}: expected an empty directory as the replacement of a lost root",
        seen.path.display()
    );
    Err(Error::new(ErrorKind::Foreign, message))
}

/// The ids for the directories without one, with their indexes in `seen`. `known`: the ids of the
/// others.
fn assign_numbers(
    seen: &[ScannedRoot],
    known: &[RootId],
    fresh: &RootId,
    refusal: &Error,
) -> Result<Vec<(usize, RootId)>> {
    let mut places: Vec<(usize, &ScannedRoot)> =
        seen.iter().enumerate().filter(|(_, seen)| seen.id.is_none()).collect();
    // Root 0 has the table states; the order of the others does not matter: files are found by
    // listing.
    places.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.holds));
    let reference = match root_0(known) {
        Some(reference) => reference,
        None => {
            let is_certain =
                seen.len() == 1 || seen.iter().any(|seen| seen.holds == TablesFound::State);
            if !is_certain {
                return Err(refusal.clone());
            }
            fresh.clone()
        }
    };
    let is_absent = |number: &u16| known.iter().all(|id| id.number != *number);
    let numbers: Vec<u16> =
        (0..).zip(&reference.root_ids).map(|(number, _)| number).filter(is_absent).collect();
    if numbers.len() > places.len() {
        let message = format!(
            "{}; expected a directory for each of the {} roots without a root.id, found {}; list one \
             for each (`--lost-root` for a root that is permanently lost)",
            refusal.message(),
            numbers.len(),
            places.len()
        );
        return Err(Error::new(ErrorKind::Missing, message));
    }
    let of_others = reference.sequence + u64::from(reference.is_renewing());
    let id = |number: u16| {
        let sequence = if number == 0 { reference.sequence } else { of_others };
        RootId { number, sequence, ..reference.clone() }
    };
    Ok(places.into_iter().map(|(n, _)| n).zip(numbers.into_iter().map(id)).collect())
}

/// The id of root 0, or what it must have been: the others show whether a renewal was in progress.
fn root_0(known: &[RootId]) -> Option<RootId> {
    if let Some(found) = known.iter().find(|id| id.number == 0) {
        return Some(found.clone());
    }
    let newest = known.iter().max_by_key(|id| id.sequence)?;
    let is_renewing = known.iter().any(|id| id.sequence < newest.sequence);
    let sequence = newest.sequence - u64::from(is_renewing);
    Some(RootId { number: 0, sequence, ..newest.clone() })
}

impl RootsRepair {
    /// Whether the database gets a new identity because no root has an id.
    pub fn is_new_identity(&self) -> bool {
        self.is_new_identity
    }

    /// The directories that exist.
    pub(super) fn existing_paths(&self) -> Vec<PathBuf> {
        self.paths.iter().filter(|path| !self.absent.contains(path)).cloned().collect()
    }

    pub(super) fn first_id(&self) -> RootId {
        super::first_id(self.ids.clone())
    }
}

impl Roots {
    /// Creates and locks the replacement directories, durably. Call before repairing tables;
    /// idempotent.
    pub fn prepare_repair(&mut self, plan: &RootsRepair) -> Result<()> {
        let fs = &*self.env.fs;
        create::create_dirs(fs, &self.absent)?;
        self.locks.append(locks::take(fs, &self.absent, Access::Write)?);
        self.absent.clear();
        let gone = plan.lost.iter().filter(|lost| lost.loss == RootLoss::Gone);
        gone.map(|lost| &lost.path).try_for_each(|path| create::require_reservation(fs, path))
    }

    /// Writes all `root.id` files, the last step of a repair. If it fails, plan again.
    pub fn finish_repair(&self, plan: &RootsRepair) -> Result<()> {
        let env = &self.env;
        let damaged = plan.lost.iter().filter(|lost| lost.loss == RootLoss::IdDamaged);
        let damaged: Vec<PathBuf> = damaged.map(|lost| lost.path.join(ROOT_ID_FILE)).collect();
        if !damaged.is_empty() {
            Quarantine::new(env, &plan.paths)?.move_files(&damaged)?;
        }
        create::remove_leftovers(&*env.fs, &plan.paths)?;
        match (plan.paths.as_slice(), plan.ids.as_slice()) {
            ([path], [id]) => id.create(&*env.fs, path),
            (paths, ids) => create::renew(env, paths, ids),
        }
    }
}
