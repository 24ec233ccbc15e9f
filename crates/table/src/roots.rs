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
mod judge;
mod locks;
mod repair;
mod root_id;
mod survey;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{Env, Error, ErrorKind, FileKind, Fs, Result, exists};
use lithdb_segment::TableName;

use judge::Plan;
use locks::HeldLocks;
use repair::Fresh;
pub use repair::{LostRoot, LostRoots, RootLoss};
use root_id::RootId;

/// How often a change of the roots that happens at the same time is waited out.
const ATTEMPTS: u32 = 20;

/// What a process may do with a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read and write: one process at a time.
    Write,
    /// Read only: any number of processes, beside a writer.
    Read,
}

/// The root directories of one open database, in the order of their numbers, and the locks held on them.
/// Dropped, it releases them.
#[derive(Debug)]
pub struct Roots {
    fs: Arc<dyn Fs>,
    access: Access,
    paths: Vec<PathBuf>,
    database_id: u64,
    root_ids: Vec<u64>,
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
        for _ in 0..ATTEMPTS {
            let plan = look(fs, roots, Access::Write, create_if_missing)?;
            if let Plan::Create { roots, .. } = &plan {
                create::make_dirs(fs, roots)?;
            }
            let locks = locks::lock_for_writing(fs, plan.roots())?;
            let seen = survey::survey(fs, roots, Access::Write)?;
            if judge::judge(&seen, create_if_missing)? != plan {
                continue; // another process created or completed the database before the locks were ours
            }
            let created = matches!(plan, Plan::Create { .. });
            let (paths, id) = carry_out(env, plan)?;
            return Ok(Self::of(env, Access::Write, paths, id, created, locks));
        }
        Err(unsteady(roots))
    }

    /// Opens the database that lives in `roots` for reading, beside a writer or without one. Changes nothing, and takes no
    /// lock.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing) without creation.
    pub fn open_for_reading(env: &Env, roots: &[PathBuf]) -> Result<Self> {
        match look(&*env.fs, roots, Access::Read, false)? {
            Plan::Open { roots: paths, ids } => {
                locks::check_files(&*env.fs, &paths)?;
                let locks = HeldLocks::default();
                Ok(Self::of(env, Access::Read, paths, first_id(ids), false, locks))
            }
            Plan::Create { .. } => Err(unsteady(roots)),
        }
    }

    /// Opens the database that lives in `roots`, which no process may have open for writing, to look at it: keeps writers
    /// out and changes nothing, not even in the lock files.
    ///
    /// # Errors
    /// As [`open_for_writing`](Self::open_for_writing) without creation.
    pub fn open_stopped(env: &Env, roots: &[PathBuf]) -> Result<Self> {
        let fs = &*env.fs;
        for _ in 0..ATTEMPTS {
            let plan = look(fs, roots, Access::Write, false)?;
            let locks = locks::lock_out_writers(fs, plan.roots())?;
            if look(fs, roots, Access::Write, false)? != plan {
                continue;
            }
            if let Plan::Open { roots: paths, ids } = plan {
                return Ok(Self::of(env, Access::Read, paths, first_id(ids), false, locks));
            }
        }
        Err(unsteady(roots))
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
    ) -> Result<(Self, Option<LostRoots>)> {
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
        let fresh = Fresh::draw(env, roots.len() + gone.len())?;
        for _ in 0..ATTEMPTS {
            let plan = repair::plan(fs, roots, gone, &fresh, &refusal)?;
            let (mut there, mut absent) = (Vec::new(), Vec::new());
            for path in plan.paths() {
                let is_there = exists(fs, path).map_err(|e| Error::io("look for", path, e))?;
                if is_there { &mut there } else { &mut absent }.push(path.clone());
            }
            let locks = locks::lock_for_writing(fs, &there)?;
            if repair::plan(fs, roots, gone, &fresh, &refusal)? != plan {
                continue;
            }
            let (paths, id) = (plan.paths().to_vec(), plan.first_id());
            let opened = Self::of(env, Access::Write, paths, id, false, locks);
            return Ok((Self { absent, ..opened }, Some(plan)));
        }
        Err(unsteady(roots))
    }

    fn of(
        env: &Env,
        access: Access,
        paths: Vec<PathBuf>,
        id: RootId,
        created: bool,
        locks: HeldLocks,
    ) -> Self {
        let (fs, RootId { database_id, root_ids, .. }) = (Arc::clone(&env.fs), id);
        Self { fs, access, paths, database_id, root_ids, created, absent: Vec::new(), locks }
    }

    /// Gives all roots a new generation, as each opening for writing does: a copy of one root that was taken until now is
    /// older than the others from now on.
    ///
    /// # Errors
    /// What the file system says: the next opening for writing finishes it.
    pub fn renew(&self, env: &Env) -> Result<()> {
        // One root has no other that it could be compared with.
        if self.access == Access::Read || self.paths.len() < 2 {
            return Ok(());
        }
        let mut ids = Vec::with_capacity(self.paths.len());
        for root in &self.paths {
            let id = RootId::read(&*self.fs, root, Access::Write)?;
            ids.push(id.ok_or_else(|| {
                let message = format!("{}: root.id is gone", root.display());
                Error::new(ErrorKind::Missing, message)
            })?);
        }
        create::renew(env, &self.paths, &ids)
    }

    /// The directories, absolute and without symbolic links, root 0 first.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The random number that tells this database from all others.
    pub fn database_id(&self) -> u64 {
        self.database_id
    }

    /// The random numbers of the roots, in the order of their numbers.
    pub fn root_ids(&self) -> &[u64] {
        &self.root_ids
    }

    /// Whether the call that opened these roots created the database.
    pub fn created(&self) -> bool {
        self.created
    }

    /// What the roots were opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The names of all tables in name order: directories (and links) with the name of a table, on root 0 or (what a creation
    /// or a drop leaves when it is interrupted) only on others. All other entries are foreign and ignored.
    ///
    /// # Errors
    /// What the file system says.
    pub fn table_names(&self, env: &Env) -> Result<Vec<TableName>> {
        let mut names = BTreeSet::new();
        for root in self.paths.iter().filter(|root| !self.absent.contains(root)) {
            let entries = env.fs.list(root).map_err(|e| Error::io("list", root, e))?;
            // A link is listed and refused when it is looked at: left out, a table would be passed over in silence.
            let dirs = entries.into_iter();
            let dirs = dirs.filter(|e| matches!(e.kind, FileKind::Dir | FileKind::Symlink));
            #[expect(clippy::disallowed_methods, reason = "what has no table's name is foreign")]
            names.extend(dirs.filter_map(|dir| TableName::new(dir.name).ok()));
        }
        Ok(names.into_iter().collect())
    }
}

/// What is to be done with `roots`. An error is believed only if a second look at the same bytes repeats it:
/// another process may be creating the database between two reads of one look.
fn look(fs: &dyn Fs, roots: &[PathBuf], access: Access, create: bool) -> Result<Plan> {
    let mut seen = survey::survey(fs, roots, access)?;
    for _ in 0..ATTEMPTS {
        let error = match judge::judge(&seen, create) {
            Ok(plan) => return Ok(plan),
            Err(error) => error,
        };
        let again = survey::survey(fs, roots, access)?;
        if again == seen {
            return Err(error);
        }
        seen = again;
    }
    Err(unsteady(roots))
}

/// Does what was planned, under the locks; returns the roots in order and the id of the first.
fn carry_out(env: &Env, plan: Plan) -> Result<(Vec<PathBuf>, RootId)> {
    match plan {
        Plan::Create { roots, restarted } => {
            let id = create::create(env, &roots)?;
            let database_id = id.database_id;
            tracing::info!(database_id, roots = ?roots, restarted, "created a database");
            Ok((roots, id))
        }
        Plan::Open { roots, ids } => {
            create::tidy(&*env.fs, &roots)?;
            create::renew(env, &roots, &ids)?;
            Ok((roots, first_id(ids)))
        }
    }
}

/// What root 0 says.
#[expect(
    clippy::expect_used,
    reason = "a plan to open has an id for every root, and there is one at least"
)]
fn first_id(ids: Vec<RootId>) -> RootId {
    ids.into_iter().next().expect("a database that opens has a root 0")
}

fn unsteady(roots: &[PathBuf]) -> Error {
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
