//! Rolling back: the log is truncated by LithDB's rollback, and opening makes the rest follow.

use std::fmt;
use std::io;
use std::path::PathBuf;

use lithdb::rollback::max_be_u64;
use lithdb::{NoMatch, Rollback, RollbackPlan};
use lithdb_env::{Env, Error, ErrorKind, FileLock, Fs, Result};
use serde::Serialize;

use crate::db::StateDb;
use crate::dirs::{self, Dirs, discard};
use crate::event::{StateEvent, refuse_in_listener};
use crate::files::{StateId, parse_abandoned_name};
use crate::metrics::{Label, record};
use crate::open::log::WAL_TABLE;
use crate::open::{OpenReport, Opening};
use crate::options::{Retention, StateComponents, StateOptions};
use crate::reach::{Base, Reach, check_readable, reach};
use crate::reader::{Reader, check_own_log};
use crate::record::version_of;
use crate::shared::Shared;
use crate::snapshot::SnapshotInfo;
use crate::snapshot::list::{Classified, Reference, classify, list, valid_versions};
use crate::wal::{Log, WalFloor};

/// The locks of snapshots that a rollback removes, until they are out of the way: nobody begins to
/// read one meanwhile.
pub(crate) type Held = Vec<(PathBuf, Box<dyn FileLock>)>;

/// Refuses a rollback of an open store that cannot be carried out; changes nothing.
pub(crate) fn check(shared: &Shared, target: u64) -> Result<Held> {
    let reader = Reader::of(shared)?;
    let reached = reader.reach(target)?;
    check_readable(&shared.log, &reached)?;
    lock_removable(&*shared.env.fs, &reader.snapshots, target)
}

/// Locks the snapshots that would go; refuses if somebody reads one.
fn lock_removable(fs: &dyn Fs, snapshots: &[Classified], target: u64) -> Result<Held> {
    let above = snapshots.iter().map(|snapshot| &snapshot.found);
    let above = above.filter(|found| found.version > target);
    above.map(|found| Ok((found.path.clone(), found.lock(fs)?))).collect()
}

/// What truncating the stopped log of the store's own after `target` would do. Executing it decides
/// the rollback: the next open finishes it.
pub(crate) fn plan_truncation(env: &Env, dirs: &Dirs, target: u64) -> Result<RollbackPlan> {
    let rollback = Rollback::new([dirs.wal()])
        .tables([WAL_TABLE])
        .on_no_match(NoMatch::Refuse)
        .env(env.clone());
    let plan = rollback.plan(max_be_u64(0, target))?;
    let boundary = plan.tables.first().and_then(|table| table.boundary.as_ref());
    let kept = boundary.map(|boundary| boundary.key.as_slice()).map(version_of).transpose()?;
    if kept != Some(target) {
        let found = kept.map_or("none".to_owned(), |kept| kept.to_string());
        let message =
            format!("the newest version that the log would keep: expected {target}, found {found}");
        return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
    }
    plan.check()?;
    Ok(plan)
}

/// Removes the snapshots above `target` that opening `db` has moved aside, and nothing else: those
/// that were moved aside before may be all that is left of a log that lost its end. Returns their
/// versions, and those that could not be removed, which the listener is told.
pub(crate) fn remove_moved_aside(db: &StateDb, target: u64) -> (Vec<u64>, Vec<u64>) {
    let shared = &db.shared;
    let _events = shared.events.deliver_on_drop();
    let _housekeeping = shared.housekeeping.lock();
    let (mut removed, mut kept) = (Vec::new(), Vec::new());
    let above = db.opened().moved_aside.iter().filter(|(version, _)| *version > target);
    for (version, path) in above {
        let what = format!("abandoned-{version:020}");
        let done = shared.latch.check();
        match done.and_then(|()| discard(&shared.env, &shared.dirs, path, &what)) {
            Ok(()) => removed.push(*version),
            Err(error) => {
                kept.push(*version);
                let (path, error) = (path.clone(), shared.latch_on(error));
                shared.events.push(StateEvent::SnapshotNotRemoved { path, error });
            }
        }
    }
    (removed, kept)
}

/// Removes the snapshots that openings have moved aside, if `is_removed` says so of their version.
pub(crate) fn remove_abandoned(
    env: &Env,
    dirs: &Dirs,
    is_removed: impl Fn(u64) -> bool,
) -> Result<Vec<u64>> {
    let mut removed = Vec::new();
    for (version, path) in list_abandoned(&*env.fs, dirs)? {
        if is_removed(version) {
            discard(env, dirs, &path, &format!("abandoned-{version:020}"))?;
            removed.push(version);
        }
    }
    Ok(removed)
}

/// The snapshots that were moved aside.
pub(crate) fn list_abandoned(fs: &dyn Fs, dirs: &Dirs) -> Result<Vec<(u64, PathBuf)>> {
    let dir = dirs.abandoned();
    let entries = match fs.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("list", &dir, e))?,
    };
    let named = |entry: lithdb_env::DirEntry| {
        let version = parse_abandoned_name(&entry.name)?;
        Some((version, dir.join(&entry.name)))
    };
    let mut found: Vec<_> = entries.into_iter().filter_map(named).collect();
    found.sort();
    Ok(found)
}

/// Rolls back a store that nobody has open.
///
/// ```
/// use lithdb_state::{ChangeSet, StateDb, StateOptions, StateRollback};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("state");
/// # let db = StateDb::open(&path, StateOptions::new())?;
/// # for version in 1..4 {
/// #     db.commit_block(version, &[ChangeSet::new("bank")?.put("alice", version.to_string())])?;
/// # }
/// # db.close()?;
/// let plan = StateRollback::new(&path).plan(2)?;
/// println!("{plan}");
/// let report = plan.execute()?;
/// assert_eq!(report.version, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StateRollback {
    dir: PathBuf,
    options: StateOptions,
    components: StateComponents,
}

/// What a rollback of a stopped store would do. Holds the store's lock.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct StateRollbackPlan {
    /// The version that the store would have.
    pub target: u64,
    /// The newest version now.
    pub newest: u64,
    /// How the target is reached.
    pub reach: Reach,
    /// The number of versions that would be gone.
    pub versions_removed: u64,
    /// The snapshots that would be removed.
    pub snapshots_removed: Vec<SnapshotInfo>,
    #[serde(skip)]
    request: StateRollback,
    #[serde(skip)]
    snapshots: Vec<Classified>,
    /// `None` if there is nothing to truncate.
    #[serde(skip)]
    truncation: Option<RollbackPlan>,
    #[serde(skip)]
    lock: Box<dyn FileLock>,
}

/// What a rollback of a stopped store did.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StateRollbackReport {
    /// The version of the store now.
    pub version: u64,
    /// The root after it.
    pub root: lithdb_lthash::RootHash,
    /// What opening the store again did.
    pub opened: OpenReport,
    /// The snapshots that were removed.
    pub snapshots_removed: Vec<u64>,
    /// What failed when the rollback was done, one sentence each: snapshots that are still in
    /// `abandoned`, a working copy that was not flushed. The store is at the target nevertheless.
    pub problems: Vec<String>,
}

impl StateRollback {
    /// A rollback of the store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let (options, components) = (StateOptions::default(), StateComponents::default());
        Self { dir: dir.into(), options, components }
    }

    /// Opens the store with these options when it has been rolled back.
    #[must_use]
    pub fn options(mut self, options: StateOptions) -> Self {
        self.options = options;
        self
    }

    /// Uses the caller's disk, clock, threads and engine. The log must be the store's own.
    #[must_use]
    pub fn components(mut self, components: StateComponents) -> Self {
        self.components = components;
        self
    }

    /// Finds out what rolling back to `target` would do. Changes nothing.
    ///
    /// # Errors
    /// `Missing` with [`Unreachable`](crate::Unreachable) if the version cannot be reached, and if
    /// there is no such store. `Locked` if the store is open, or a snapshot that would go is being
    /// read, or a rollback of the log was interrupted: open the store, which finishes it.
    pub fn plan(self, target: u64) -> Result<StateRollbackPlan> {
        let opening =
            Opening::new(self.dir.clone(), self.options.clone(), self.components.clone())?;
        let (fs, dirs) = (&*opening.env.fs, &opening.dirs);
        let Some(id) = StateId::read(fs, &dirs.id())? else {
            let message = "there is no state store: state.id is missing";
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        };
        id.check_ready(dirs.root())?;
        check_own_log(fs, dirs)?;
        let lock = dirs::lock(fs, dirs)?;
        let components =
            lithdb::Components { env: Some(opening.env.clone()), ..Default::default() };
        let db = lithdb::Db::open_read_only_with(lithdb::DbOptions::new([dirs.wal()]), components)?;
        let log = Log { table: db.existing_table(WAL_TABLE)?, floor: WalFloor::new() };
        let Some(versions) = log.versions_of(id.store, dirs.root())? else {
            let message = "the log is empty: restore it";
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        };
        let newest = *versions.end();
        let engines = &*opening.engines;
        let reference = Reference { id: id.store, engines, log: &log, versions };
        let snapshots = classify(fs, list(fs, dirs)?, &reference)?;
        let reach = reach(&log, &valid_versions(&snapshots), target)?;
        check_readable(&log, &reach)?;
        // A plan may be looked at for long: it holds up no readers.
        drop(lock_removable(fs, &snapshots, target)?);
        drop((log, db));
        let versions_removed = newest - target;
        let truncation = (versions_removed > 0)
            .then(|| plan_truncation(&opening.env, dirs, target))
            .transpose()?;
        // Of one whose manifest is damaged, opening does not know the branch: it stays.
        let is_gone = |snapshot: &&Classified| {
            versions_removed > 0
                && snapshot.found.version > target
                && snapshot.found.manifest.is_ok()
        };
        let gone = snapshots.iter().filter(is_gone);
        let snapshots_removed = gone.map(|snapshot| snapshot.info(fs)).collect::<Result<_>>()?;
        Ok(StateRollbackPlan {
            target,
            newest,
            reach,
            versions_removed,
            snapshots_removed,
            request: self,
            snapshots,
            truncation,
            lock,
        })
    }
}

impl StateRollbackPlan {
    /// Carries the plan out: truncates the log, opens the store, which heals and replays it, and
    /// closes it again.
    ///
    /// # Errors
    /// `Locked`, `StorageFull`, `Io`, `Corrupt`. Once the rollback of the log is decided, the next
    /// open of the store finishes it. What fails when it is done is in the report.
    pub fn execute(self) -> Result<StateRollbackReport> {
        refuse_in_listener()?;
        let StateRollback { dir, options, components } = self.request;
        // No snapshot is taken or removed that the application has not asked for.
        let options = options.snapshot_interval(0).retention(Retention::Manual);
        let mut opening = Opening::new(dir, options, components)?;
        let (label, clock) = (Label::of(opening.dirs.root()), opening.env.clock.clone());
        let started = clock.monotonic();
        opening.held = lock_removable(&*opening.env.fs, &self.snapshots, self.target)?;
        let is_truncated = self.truncation.is_some();
        self.truncation.map(RollbackPlan::execute).transpose()?;
        let db = StateDb::open_locked(opening, self.lock)?;
        let (snapshots_removed, kept) = match is_truncated {
            // Their branch was rolled back on purpose.
            true => remove_moved_aside(&db, self.target),
            false => (Vec::new(), Vec::new()),
        };
        let stays = |version| format!("snapshot {version} could not be removed from abandoned");
        let mut problems: Vec<String> = kept.into_iter().map(stays).collect();
        let (version, root, opened) = (db.version(), db.root(), db.opened().clone());
        if let Err(error) = db.close() {
            problems.push(format!("the store was closed without flushing everything: {error}"));
        }
        let took = clock.monotonic().saturating_sub(started);
        record(&label.histogram("lithdb_state_rollback_seconds"), took);
        Ok(StateRollbackReport { version, root, opened, snapshots_removed, problems })
    }
}

impl fmt::Display for StateRollbackPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, newest, .. } = self;
        write!(f, "roll back to   version {target}, from {newest}")?;
        match self.versions_removed {
            0 => write!(f, "\n  log          no versions removed")?,
            1 => write!(f, "\n  log          1 version removed: {newest}")?,
            removed => {
                let first = target.saturating_add(1);
                write!(f, "\n  log          {removed} versions removed: {first} to {newest}")?;
            }
        }
        let snapshots: Vec<String> =
            self.snapshots_removed.iter().map(|snapshot| snapshot.version.to_string()).collect();
        match &snapshots[..] {
            [] => write!(f, "\n  snapshots    none removed")?,
            _ => {
                write!(f, "\n  snapshots    {} removed: {}", snapshots.len(), snapshots.join(", "))?
            }
        }
        let plural = if self.reach.replays == 1 { "" } else { "s" };
        write!(f, "\n  replays      {} version{plural}, from ", self.reach.replays)?;
        match self.reach.base {
            Base::Empty { version } => write!(f, "the empty state of version {version}"),
            Base::Snapshot { version } => write!(f, "the snapshot of version {version}"),
        }
    }
}
