//! The root directories of one open database: who they are, and the locks that keep others out.
//!
//! Every root carries a `root.id` (see `docs/FORMAT.md`) that says which database it belongs to, which of
//! its roots it is and what the others are. The one on root 0 is the commit point of a creation. A
//! database opens only with exactly its own roots, in whatever order they are listed; a root that is
//! absent, foreign or doubled is refused and nothing is created, changed or removed. Every opening for writing, and
//! every close, renews a generation on all roots, so that one that was put back is refused, too.
//!
//! Invariants: a database is created only in directories that hold nothing, or what an interrupted
//! creation left; nothing in a root is changed without holding `lith.lock` of every root; what was
//! concluded from the `root.id` files before the locks were taken is concluded again under them.

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

/// How often a change of the roots that happens at the same time is waited out.
const ATTEMPTS: u32 = 20;

/// The root directories of one open database, in the order of their numbers, and the locks held on them.
/// Dropped, it releases them.
#[derive(Debug)]
pub struct Roots {
    env: Env,
    access: Access,
    paths: Vec<PathBuf>,
    /// That of root 0.
    id: RootId,
    created: bool,
    /// Directories that a repair is to create.
    absent: Vec<PathBuf>,
    locks: HeldLocks,
}

impl Roots {
    /// Opens the database that lives in `roots` for writing, finishing or restarting a creation that
    /// was interrupted. If there is none and `create_if_missing` is set, creates one whose root 0 is the first of
    /// `roots`; directories that do not exist are created, too.
    ///
    /// # Errors
    /// Each names the directory and the remedy. `InvalidArgument`: no roots, one twice, one inside another.
    /// `Missing`: no database and none to be created, or a root of it is absent. `Foreign`: roots of two
    /// databases, or a database to be created among other files. `Conflict`: one root doubled, or one too many.
    /// `Corrupt`, `Unsupported`: a `root.id`. `Locked`: open for writing elsewhere. Else what the file system
    /// says.
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

    /// Opens the database that lives in `roots` for reading, beside a writer or without one. Changes nothing, and takes no
    /// lock.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing) without creation.
    pub fn open_for_reading(env: &Env, roots: &[PathBuf]) -> Result<Self> {
        let plan = plan_open(&*env.fs, roots, Access::Read, false)?;
        locks::check_files(&*env.fs, plan.roots())?;
        Self::from_plan(env, roots, plan, HeldLocks::default())
    }

    /// Opens the database that lives in `roots`, which no process may have open for writing, to look at it: keeps writers
    /// out and changes nothing, not even in the lock files.
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

    /// Opens the database that lives in `roots` to repair it, though some have no `root.id` that holds; what they need is the
    /// second value. `gone` are directories, empty or not there yet, that take the place of roots that nobody has any more.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing), where a repair has nothing to go by.
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
            let message = "every root has its root.id: none is lost";
            Error::new(ErrorKind::InvalidArgument, message)
        };
        let fs = &*env.fs;
        let fresh = RootId::fresh(env, roots.len() + gone.len())?;
        let plan = || repair::plan(fs, roots, gone, &fresh, &refusal);
        let lock = |plan: &RootsRepair| locks::take(fs, &plan.there(), Access::Write);
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

    /// Gives all roots a new generation, as each opening for writing does: a copy of one root that was taken until now is
    /// older than the others from now on.
    ///
    /// # Errors
    /// What the file system says: the next opening for writing finishes it.
    pub fn renew(&self) -> Result<()> {
        // One root has no other that it could be compared with.
        if self.access == Access::Read || self.paths.len() < 2 {
            return Ok(());
        }
        let read = |root: &PathBuf| {
            let id = RootId::read(&*self.env.fs, root, Access::Write)?;
            id.ok_or_else(|| Error::at(ErrorKind::Missing, root, "root.id is gone"))
        };
        let ids = self.paths.iter().map(read).collect::<Result<Vec<_>>>()?;
        create::renew(&self.env, &self.paths, &ids)
    }

    /// The disk, clock and threads that the roots were opened with.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The directories, absolute and without symbolic links, root 0 first.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The random number that tells this database from all others.
    pub fn database_id(&self) -> u64 {
        self.id.database_id
    }

    /// The random numbers of the roots, in the order of their numbers.
    pub fn root_ids(&self) -> &[u64] {
        &self.id.root_ids
    }

    /// Whether the call that opened these roots created the database.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The names of all tables in name order: directories (and links) with the name of a table, on root 0 or (what a creation
    /// or a drop leaves when it is interrupted) only on others. All other entries are foreign and ignored.
    ///
    /// # Errors
    /// What the file system says.
    pub fn table_names(&self) -> Result<Vec<TableName>> {
        let mut names = BTreeSet::new();
        for root in self.paths.iter().filter(|root| !self.absent.contains(root)) {
            // A link is listed and refused when it is looked at: left out, a table would be passed over in silence.
            let dirs = scan::list(&*self.env.fs, root)?.into_iter();
            let dirs = dirs.filter(|e| matches!(e.kind, FileKind::Dir | FileKind::Symlink));
            #[expect(clippy::disallowed_methods, reason = "what has no table's name is foreign")]
            names.extend(dirs.filter_map(|dir| TableName::new(dir.name).ok()));
        }
        Ok(names.into_iter().collect())
    }
}

/// What is to be done with `roots`. An error is believed only if a second look at the same bytes repeats it:
/// another process may be creating the database between two reads of one look.
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

/// A plan that is made again under the locks it needs, and is still the same: another process may have changed the roots
/// before the locks were ours.
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

/// What root 0 says.
#[expect(
    clippy::expect_used,
    reason = "a plan to open has an id for every root, and there is one at least"
)]
fn first_id(ids: Vec<RootId>) -> RootId {
    ids.into_iter().next().expect("a database that opens has a root 0")
}

fn roots_keep_changing(roots: &[PathBuf]) -> Error {
    let first = roots.first().map_or(Path::new(""), |root| root);
    let message = format!(
        "{}: other processes kept changing the roots of this database while it was being opened; \
         try again",
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
