//! An engine crate of LithDB, without any stability promise: use `lithdb`.
//!
//! The root directories of one open database: their identities, generations and locks, and the
//! list of tables. Callers: the facade and `rollback`.
//!
//! Every root has a `root.id` (see `docs/FORMAT.md`) that names its database, its root number and
//! the ids of all roots. Writing it on root 0 is the commit point of a creation. A database opens
//! only with exactly its own roots, listed in any order; with a missing, foreign or duplicate root
//! it is refused, and nothing is created, changed or removed. Every read-write open, and every
//! close, renews the generation on all roots, so a root restored from a backup is refused, too.
//!
//! Invariants: a database is created only in directories that are empty or hold what an
//! interrupted creation left; nothing in a root changes unless `lith.lock` of every root is held;
//! a plan made from the `root.id` files before taking the locks is made again, and compared, under
//! them.

mod create;
mod decide;
mod locks;
mod repair;
mod root_id;
mod scan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lithdb_env::{Env, Error, ErrorKind, FileKind, Fs, Result};
use lithdb_segment::TableName;

use decide::RootsPlan;
use locks::HeldLocks;
pub use repair::{LostRoot, RootLoss, RootsRepair};
use root_id::RootId;

use lithdb_segment::key_file::Access;

/// How often a scan is repeated when the roots change concurrently.
const ATTEMPTS: u32 = 20;

/// The root directories of one open database, by root number, and the locks held on them. Dropping
/// it releases the locks.
#[derive(Debug)]
pub struct Roots {
    env: Env,
    access: Access,
    paths: Vec<PathBuf>,
    /// The id of root 0.
    id: RootId,
    created: bool,
    /// Directories that a repair still has to create.
    absent: Vec<PathBuf>,
    locks: HeldLocks,
}

impl Roots {
    /// Opens the database in `roots` for writing; finishes or restarts an interrupted creation. If
    /// there is no database and `create_if_missing` is set, creates one, with the first of `roots`
    /// as root 0, and the directories that do not exist.
    ///
    /// # Errors
    /// Each names the directory and the remedy. `InvalidArgument`: no roots, one listed twice, one
    /// inside another. `Missing`: no database and `create_if_missing` not set, or a root is
    /// missing. `Foreign`: roots of two databases, a duplicate root, one too many, or creation
    /// among other files. `Corrupt`, `Unsupported`: a `root.id`. `Locked`: open for
    /// writing elsewhere. File system errors.
    pub fn open_for_writing(env: &Env, roots: &[PathBuf], create_if_missing: bool) -> Result<Self> {
        let fs = &*env.fs;
        let plan = || plan_open(fs, roots, Access::Write, create_if_missing);
        let (plan, locks) = plan_under_locks(roots, plan, |plan| {
            if let RootsPlan::Create(roots) = plan {
                create::create_dirs(fs, roots)?;
            }
            locks::take(fs, plan.roots(), Access::Write)
        })?;
        match plan {
            RootsPlan::Create(paths) => {
                let id = create::create(env, &paths)?;
                tracing::info!(database_id = id.database_id, roots = ?paths, "created a database");
                let opened = Self::of(env, Access::Write, paths, id, locks);
                Ok(Self { created: true, ..opened })
            }
            RootsPlan::Open { roots: paths, ids } => {
                create::remove_leftovers(fs, &paths)?;
                create::renew(env, &paths, &ids)?;
                Ok(Self::of(env, Access::Write, paths, first_id(ids), locks))
            }
        }
    }

    /// Opens the database in `roots` for reading, with or without a writer in another process.
    /// Changes nothing and takes no lock.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing) without creation.
    pub fn open_for_reading(env: &Env, roots: &[PathBuf]) -> Result<Self> {
        let plan = plan_open(&*env.fs, roots, Access::Read, false)?;
        locks::check_files(&*env.fs, plan.roots())?;
        Self::from_plan(env, roots, plan, HeldLocks::default())
    }

    /// Opens the database in `roots` for inspection while no process has it open for writing:
    /// keeps writers out and changes nothing, not even the lock files.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing) without creation.
    pub fn open_stopped(env: &Env, roots: &[PathBuf]) -> Result<Self> {
        let fs = &*env.fs;
        let plan = || plan_open(fs, roots, Access::Write, false);
        let lock = |plan: &RootsPlan| locks::take(fs, plan.roots(), Access::Read);
        let (plan, locks) = plan_under_locks(roots, plan, lock)?;
        Self::from_plan(env, roots, plan, locks)
    }

    /// Opens the database in `roots` for repair, even if some roots have no valid `root.id`; the
    /// second value is the plan that gives them one. `gone` are replacements for roots that are
    /// permanently lost: directories that are empty or do not exist yet.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing), if there is nothing to reconstruct the ids
    /// from.
    pub fn open_for_repair(
        env: &Env,
        roots: &[PathBuf],
        gone: &[PathBuf],
    ) -> Result<(Self, Option<RootsRepair>)> {
        let refusal = if gone.is_empty() {
            match Self::open_for_writing(env, roots, false) {
                Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => e,
                opened => return opened.map(|roots| (roots, None)),
            }
        } else {
            let message = "every root has a valid root.id: no root is lost";
            Error::new(ErrorKind::InvalidArgument, message)
        };
        let fs = &*env.fs;
        let fresh = RootId::fresh(env, roots.len() + gone.len())?;
        let plan = || repair::plan(fs, roots, gone, &fresh, &refusal);
        let lock = |plan: &RootsRepair| locks::take(fs, &plan.existing_paths(), Access::Write);
        let (plan, locks) = plan_under_locks(roots, plan, lock)?;
        let opened = Self::of(env, Access::Write, plan.paths.clone(), plan.first_id(), locks);
        Ok((Self { absent: plan.absent.clone(), ..opened }, Some(plan)))
    }

    fn from_plan(env: &Env, roots: &[PathBuf], plan: RootsPlan, locks: HeldLocks) -> Result<Self> {
        match plan {
            RootsPlan::Open { roots: paths, ids } => {
                Ok(Self::of(env, Access::Read, paths, first_id(ids), locks))
            }
            RootsPlan::Create(_) => Err(roots_keep_changing(roots)),
        }
    }

    fn of(env: &Env, access: Access, paths: Vec<PathBuf>, id: RootId, locks: HeldLocks) -> Self {
        Self { env: env.clone(), access, paths, id, created: false, absent: Vec::new(), locks }
    }

    /// Gives all roots a new generation, as each read-write open does. From then on, any earlier
    /// copy of one root is older than the other roots.
    ///
    /// # Errors
    /// File system errors; the next read-write open finishes the renewal.
    pub fn renew(&self) -> Result<()> {
        // A single root has no other root to compare generations with.
        if self.access == Access::Read || self.paths.len() < 2 {
            return Ok(());
        }
        let read = |root: &PathBuf| {
            let id = RootId::read(&*self.env.fs, root, Access::Write)?;
            let message = "expected root.id in this root, found none";
            id.ok_or_else(|| Error::at(ErrorKind::Missing, root, message))
        };
        let ids = self.paths.iter().map(read).collect::<Result<Vec<_>>>()?;
        create::renew(&self.env, &self.paths, &ids)
    }

    /// The disk, clock and threads with which the roots were opened.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The directories: absolute, symbolic links resolved, root 0 first.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The random number that identifies this database.
    pub fn database_id(&self) -> u64 {
        self.id.database_id
    }

    /// The random ids of the roots, by root number.
    pub fn root_ids(&self) -> &[u64] {
        &self.id.root_ids
    }

    /// Whether the call that opened these roots created the database.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The names of all tables, sorted: directories (and symbolic links) with a valid table name
    /// on root 0, or only on other roots (an interrupted creation or drop). All other entries are
    /// foreign and ignored.
    ///
    /// # Errors
    /// File system errors.
    pub fn table_names(&self) -> Result<Vec<TableName>> {
        let mut names = BTreeSet::new();
        for root in self.paths.iter().filter(|root| !self.absent.contains(root)) {
            // Links are listed, and refused later: skipping them here would silently skip a table.
            let dirs = scan::list(&*self.env.fs, root)?.into_iter();
            let dirs = dirs.filter(|e| matches!(e.kind, FileKind::Dir | FileKind::Symlink));
            #[expect(clippy::disallowed_methods, reason = "an invalid table name is foreign")]
            names.extend(dirs.filter_map(|dir| TableName::new(dir.name).ok()));
        }
        Ok(names.into_iter().collect())
    }
}

/// Plans how to open `roots`. Returns an error only if a second scan reads the same bytes: another
/// process may be creating the database between two reads of one scan.
fn plan_open(fs: &dyn Fs, roots: &[PathBuf], access: Access, create: bool) -> Result<RootsPlan> {
    let mut seen = scan::scan(fs, roots, access)?;
    for _ in 0..ATTEMPTS {
        let error = match decide::decide(&seen, create) {
            Ok(plan) => return Ok(plan),
            Err(error) => error,
        };
        let again = scan::scan(fs, roots, access)?;
        if again == seen {
            return Err(error);
        }
        seen = again;
    }
    Err(roots_keep_changing(roots))
}

/// Makes a plan, takes the locks it needs, and makes it again; retries until both are equal:
/// another process may have changed the roots before this one held the locks.
fn plan_under_locks<P: PartialEq>(
    roots: &[PathBuf],
    plan: impl Fn() -> Result<P>,
    lock: impl Fn(&P) -> Result<HeldLocks>,
) -> Result<(P, HeldLocks)> {
    for _ in 0..ATTEMPTS {
        let planned = plan()?;
        let locks = lock(&planned)?;
        if plan()? == planned {
            return Ok((planned, locks));
        }
    }
    Err(roots_keep_changing(roots))
}

/// The id of root 0.
#[expect(
    clippy::expect_used,
    reason = "a plan to open has an id for every root, and at least one root"
)]
fn first_id(ids: Vec<RootId>) -> RootId {
    ids.into_iter().next().expect("a database that opens has a root 0")
}

fn roots_keep_changing(roots: &[PathBuf]) -> Error {
    let first = roots.first().map_or(Path::new(""), |root| root);
    let message = format!(
        "{}: other processes kept changing the roots of this database during opening; try again",
        first.display()
    );
    Error::new(ErrorKind::Locked, message)
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "roots_crash_tests.rs"]
mod crash_tests;

#[cfg(test)]
#[path = "roots_race_tests.rs"]
mod race_tests;
