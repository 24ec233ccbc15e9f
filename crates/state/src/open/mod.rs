//! Opening a store: compares the files with the log, heals what differs, and catches up.
//!
//! The steps, each of which may be interrupted and is then done again: the lock; a reset that was
//! interrupted is finished; `state.id`; the log, which finishes a rollback of its own; what the
//! store is opened from is chosen; leftovers are removed by their exact names; snapshots of other
//! branches are moved aside; the working copy is kept, or cloned again from a snapshot; the log is
//! replayed; a flat layout that was adopted is removed. Nothing of a store is removed or moved
//! before it is known what it is opened from. What an error of the operating system leaves
//! unknown ends the opening: it is no reason to replace anything.

mod catch_up;
pub(crate) mod inventory;
pub(crate) mod log;
mod snapshots;
pub(crate) mod working;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use lithdb::rollback::RollbackReport;
use lithdb_env::{Env, Error, ErrorKind, FileLock, Latch, Pool, Result};
use lithdb_state_engine::{Engines, LsmEngines, LsmOptions};
use parking_lot::Mutex;
use serde::Serialize;

use crate::adopt;
use crate::background::Background;
use crate::dirs::{self, Dirs};
use crate::event::EventQueue;
use crate::files::{CurrentFile, StateId};
use crate::head::Head;
use crate::metrics::{Label, Metrics, count_opening, timed};
use crate::open::working::Working;
use crate::options::{Retention, StateComponents, StateOptions, Wal};
use crate::reach::{Base, Reach, reach};
use crate::reset;
use crate::rollback::Held;
use crate::shared::{PendingVersion, Shared, Writer};
use crate::snapshot::list::{Classified, list, valid_versions};

/// Threads for the log's syncs and seals.
const IO_THREADS: usize = 4;

/// What opening found and did.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// The version of the working copy before the log was replayed.
    pub base: u64,
    /// The versions that were replayed.
    pub replayed: u64,
    /// Why the working copy was cloned again; `None` if it was kept.
    pub recloned: Option<Reclone>,
    /// The versions of snapshots of another branch, which were moved aside.
    pub abandoned: Vec<u64>,
    /// Where they are now. One whose version and root had been moved aside before is not among
    /// them.
    #[serde(skip)]
    pub(crate) moved_aside: Vec<(u64, PathBuf)>,
    /// The versions of snapshots that cannot be used, each with the reason.
    pub damaged: Vec<(u64, String)>,
    /// What an interrupted operation had left, and was removed.
    pub leftovers: Vec<String>,
    /// What is not the store's in its directory, and in `snapshots`, `abandoned` and `trash`. It is
    /// not touched.
    pub foreign: Vec<String>,
    /// The interrupted rollback of the log that was finished.
    pub rollback: Option<RollbackReport>,
}

/// Why a working copy was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reclone {
    /// There was none: the store is new, or it was lost.
    Absent,
    /// It could not be opened, for this reason.
    Unusable(String),
    /// Its version is newer than the log: a rollback, or a crash before the log was durable.
    Ahead {
        /// Its version.
        version: u64,
    },
    /// Its root is not that of the log at its version: it is of another branch.
    OtherBranch {
        /// Its version.
        version: u64,
    },
    /// The log does not go on from its version.
    Behind {
        /// Its version.
        version: u64,
    },
}

impl fmt::Display for Reclone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there was none"),
            Self::Unusable(reason) => write!(f, "it could not be opened: {reason}"),
            Self::Ahead { version } => write!(f, "its version {version} is newer than the log"),
            Self::OtherBranch { version } => {
                write!(f, "its version {version} is of another branch than the log")
            }
            Self::Behind { version } => {
                write!(f, "the log does not go on from its version {version}")
            }
        }
    }
}

/// A store that is being opened.
pub(crate) struct Opening {
    pub(crate) dirs: Dirs,
    pub(crate) options: StateOptions,
    pub(crate) components: StateComponents,
    pub(crate) env: Env,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) report: OpenReport,
    /// The locks of snapshots that are to be moved aside, as far as the caller has them.
    pub(crate) held: Held,
}

impl Opening {
    pub(crate) fn new(
        dir: PathBuf,
        options: StateOptions,
        components: StateComponents,
    ) -> Result<Self> {
        options.validate()?;
        let env = match &components.env {
            Some(env) => env.clone(),
            None => Env::os(IO_THREADS)?,
        };
        let engines: Arc<dyn Engines> = match &components.engines {
            Some(engines) => Arc::clone(engines),
            None => {
                let cache_bytes = options.cache_bytes;
                Arc::new(LsmEngines::new(LsmOptions { cache_bytes, ..LsmOptions::default() }))
            }
        };
        let (dirs, report) = (Dirs::new(dir), OpenReport::default());
        Ok(Self { dirs, options, components, env, engines, report, held: Held::new() })
    }

    /// Creates the directory if there is none, and takes the lock of the writer. Changes nothing
    /// where no store may be created.
    pub(crate) fn lock(&self) -> Result<Box<dyn FileLock>> {
        let fs = &*self.env.fs;
        if let Wal::Table { table, floor } = &self.components.wal {
            Self::check_table(table, floor)?;
        }
        if StateId::read(fs, &self.dirs.id())?.is_none() {
            let inventory = match dirs::exists_behind_links(fs, self.dirs.root())? {
                true => inventory::take(fs, &self.dirs)?,
                false => inventory::Inventory::default(),
            };
            let checked = self.check_creatable(&inventory);
            // Unless somebody has created it meanwhile.
            if StateId::read(fs, &self.dirs.id())?.is_none() {
                checked?;
            }
        }
        dirs::create_root(fs, self.dirs.root())?;
        dirs::lock(fs, &self.dirs)
    }

    /// Refuses to create a store where one has been, beside the files of others, or if none is to
    /// be created.
    pub(crate) fn check_creatable(&self, inventory: &inventory::Inventory) -> Result<()> {
        let refuse = |kind, message: String| Err(Error::at(kind, self.dirs.root(), message));
        if inventory.is_flat() && !inventory.has("working") {
            let message = "the directory holds engine and no state store: if it has a flat layout, \
                           adopt it with `lith state adopt`; otherwise choose another directory";
            return refuse(ErrorKind::Foreign, message.to_owned());
        }
        if let Some(name) = inventory.first_of_a_store() {
            let message = format!("state.id is missing beside {name}: restore it");
            return refuse(ErrorKind::Missing, message);
        }
        if !self.options.create_if_missing {
            let message = "there is no state store: state.id is missing".to_owned();
            return refuse(ErrorKind::Missing, message);
        }
        if let Wal::Table { table, .. } = &self.components.wal
            && table.newest_key()?.is_some()
        {
            let message = format!(
                "the log {} holds records, and the directory no state store: give the directory of \
                 its store, or an empty table",
                table.name()
            );
            return refuse(ErrorKind::Foreign, message);
        }
        match inventory.first_foreign() {
            None => Ok(()),
            Some(name) => {
                let message = format!(
                    "the directory holds {name:?} and no state store: expected an empty directory \
                     to create one in; choose another directory"
                );
                refuse(ErrorKind::Foreign, message)
            }
        }
    }

    /// Opens the store whose lock is `lock`.
    pub(crate) fn open(mut self, lock: Box<dyn FileLock>) -> Result<(Arc<Shared>, OpenReport)> {
        let fs = Arc::clone(&self.env.fs);
        self.report.leftovers.extend(reset::finish_interrupted(&*fs, &self.dirs)?);
        let inventory = inventory::take(&*fs, &self.dirs)?;
        let mut id = self.identity(&inventory)?;
        self.check_stopped_log(&inventory, &id)?;
        let (own_db, log, floor) = self.open_log()?;
        let versions = self.log_versions(&log, &mut id)?;
        let snapshots = self.classify_snapshots(&log, &id, &versions)?;
        let valid = valid_versions(&snapshots);
        let chosen = self.choose_working(&log, &id, || reach(&log, &valid, *versions.end()))?;
        // It is known what the store is opened from.
        inventory.remove_leftovers(&*fs, &self.dirs, &mut self.report)?;
        let snapshots = self.abandon(snapshots)?;
        let working = self.prepare_working(&log, &id, &snapshots, chosen)?;
        let label = Label::of(self.dirs.root());
        let clock = Arc::clone(&self.env.clock);
        let caught_up = label.histogram("lithdb_state_catch_up_seconds");
        let (working, head) =
            timed(&*clock, &caught_up, || self.catch_up(&log, &versions, working))?;
        self.settle(&log, &snapshots)?;
        adopt::finish(&mut self, &mut id)?;
        let newest = valid.last().copied();
        let shared = self.shared(lock, id, own_db, log, floor, working, head, newest)?;
        shared.show_opened(*versions.start());
        count_opening(&label, &self.report);
        Ok((shared, self.report))
    }

    fn identity(&self, inventory: &inventory::Inventory) -> Result<StateId> {
        let fs = &*self.env.fs;
        if let Some(id) = StateId::read(fs, &self.dirs.id())? {
            id.check_ready(self.dirs.root())?;
            return Ok(id);
        }
        self.check_creatable(inventory)?;
        let (low, high) = (self.env.random_u64()?, self.env.random_u64()?);
        let id = StateId::fresh(low, high, self.options.initial_version);
        id.write(fs, &self.dirs.id())?;
        Ok(id)
    }

    /// What follows from the snapshots: the floor of the log, and `CURRENT`.
    fn settle(&self, log: &crate::wal::Log, snapshots: &[Classified]) -> Result<()> {
        let fs = &*self.env.fs;
        let newest = snapshots.last().map(|newest| newest.found.manifest.clone()).transpose()?;
        if newest.is_some() && self.options.retention == Retention::Count {
            // The rename of a snapshot may not be durable yet.
            let dir = self.dirs.snapshots();
            fs.sync_dir(&dir).map_err(|e| Error::failed_dir_sync(&dir, e))?;
            let lowest = list(fs, &self.dirs)?.first().map(|found| found.version);
            log.floor.raise(lowest.unwrap_or(0));
        }
        let current = newest.as_ref().map(CurrentFile::of);
        if let Err(error) = CurrentFile::replace(fs, &self.dirs.current(), current.as_ref()) {
            // Nobody believes the file.
            tracing::warn!(%error, "CURRENT does not name the newest snapshot");
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of an open store")]
    fn shared(
        &self,
        lock: Box<dyn FileLock>,
        id: StateId,
        own_db: Option<lithdb::Db>,
        log: crate::wal::Log,
        floor: crate::wal::FloorHold,
        working: Working,
        head: Head,
        newest_snapshot: Option<u64>,
    ) -> Result<Arc<Shared>> {
        let threads = match self.options.hash_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let hash_pool = Pool::new(threads - 1).map_err(|e| {
            Error::with_source(ErrorKind::Io, format!("start {threads} threads: {e}"), e)
        })?;
        let has_thread = !self.components.without_background;
        let snapshot_version = newest_snapshot.unwrap_or(id.initial_version - 1);
        let metrics = Metrics::new(Label::of(self.dirs.root()), Arc::clone(&self.env.clock));
        Ok(Arc::new(Shared {
            dirs: self.dirs.clone(),
            options: self.options.clone(),
            env: self.env.clone(),
            events: EventQueue::new(self.components.listener.clone()),
            housekeeping: Mutex::default(),
            closing: Mutex::default(),
            engines: Arc::clone(&self.engines),
            id: id.store,
            initial_version: id.initial_version,
            log,
            floor: Mutex::new(Some(floor)),
            own_db: Mutex::new(own_db),
            engine: working.engine,
            hash_pool,
            writer: Mutex::new(Writer {
                sealed_version: working.flushed_version,
                ..Writer::default()
            }),
            pending: Mutex::new(PendingVersion::default()),
            durable: AtomicU64::new(head.version),
            head: Mutex::new(Arc::new(head)),
            latch: Latch::default(),
            metrics,
            background: Background::new(snapshot_version, has_thread),
            is_closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// The working copy, or why it is not kept and from where it is cloned again.
    fn choose_working(
        &self,
        log: &crate::wal::Log,
        id: &StateId,
        base: impl FnOnce() -> Result<Reach>,
    ) -> Result<std::result::Result<Working, (Reclone, Base)>> {
        match working::inspect(self, log, id)? {
            Ok(working) => Ok(Ok(working)),
            Err(reason) => Ok(Err((reason, base()?.base))),
        }
    }

    fn prepare_working(
        &mut self,
        log: &crate::wal::Log,
        id: &StateId,
        snapshots: &[Classified],
        chosen: std::result::Result<Working, (Reclone, Base)>,
    ) -> Result<Working> {
        let (reason, base) = match chosen {
            Ok(working) => return Ok(working),
            Err(clone) => clone,
        };
        tracing::info!(?reason, ?base, "the working copy is cloned again");
        self.report.recloned = Some(reason);
        working::make(self, log, id, snapshots, base)
    }
}
