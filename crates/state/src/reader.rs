//! The parts of a store, open for reading: its log, and snapshots in place. Those of another
//! process's store, or of one that is open in this one.
//!
//! A reader finds the newest version when it begins; what the writer commits meanwhile it does not
//! see. It takes no lock of the writer's. It holds a shared lock of the snapshot that it reads
//! until it has read what it needs: as long as the snapshot stands, the log keeps every version
//! after it.
//! If the snapshot, or a part of the log, was removed before the lock was held, or if the log was
//! rolled back, the reader begins again ([`again`]).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb::{Components, Db, DbOptions};
use lithdb_env::{Env, Error, ErrorKind, FileKind, FileLock, Fs, LockKind, Result, exists_as};
use lithdb_lthash::RootHash;
use lithdb_state_engine::{CheckLevel, Engine, Engines, OpenMode, in_memory};

use crate::dirs::Dirs;
use crate::files::{StateId, StoreId};
use crate::meta::{META_KEY, Meta};
use crate::open::Opening;
use crate::open::log::WAL_TABLE;
use crate::options::{StateComponents, StateOptions};
use crate::reach::{Base, Reach, lowest, reach_within};
use crate::record::{Body, StoreDelta};
use crate::shared::Shared;
use crate::snapshot::list::{Classified, Reference, classify, list, valid_versions};
use crate::snapshot::retain::classified;
use crate::snapshot::take::ENGINE_DIR;
use crate::totals::Totals;
use crate::wal::{Log, WalFloor};

/// How often a reader begins again when the snapshot that it chose was removed.
pub(crate) const ATTEMPTS: usize = 100;

/// A store whose log is open for reading.
pub(crate) struct Reader {
    pub(crate) dirs: Dirs,
    pub(crate) env: Env,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) id: StoreId,
    pub(crate) initial_version: u64,
    pub(crate) log: Log,
    /// The versions of the log, as far as they were committed when the reader began.
    pub(crate) versions: RangeInclusive<u64>,
    /// The root after the newest of them.
    pub(crate) root: RootHash,
    /// The snapshots, and which of them can be used.
    pub(crate) snapshots: Vec<Classified>,
    /// The limit of the rows that a view replays in memory.
    pub(crate) view_memory_bytes: u64,
    /// The log's database, if it was opened for this reader.
    _db: Option<Db>,
}

/// What a version is reached from.
pub(crate) struct Start {
    pub(crate) base: Base,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) meta: Meta,
    /// Keeps the snapshot from being removed, and with it the log's versions after it.
    pub(crate) lock: Option<Box<dyn FileLock>>,
}

impl Reader {
    /// Opens the log of the store in `dir`, which must be the store's own.
    pub(crate) fn open(dir: PathBuf, components: StateComponents) -> Result<Self> {
        Self::open_with(dir, StateOptions::default(), components)
    }

    /// As [`open`](Self::open), with the options that concern reading.
    pub(crate) fn open_with(
        dir: PathBuf,
        options: StateOptions,
        components: StateComponents,
    ) -> Result<Self> {
        let view_memory_bytes = options.view_memory_bytes;
        let Opening { dirs, env, engines, .. } = Opening::new(dir, options, components)?;
        let Some(id) = StateId::read(&*env.fs, &dirs.id())? else {
            let message = "there is no state store: state.id is missing";
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        };
        id.check_ready(dirs.root())?;
        check_own_log(&*env.fs, &dirs)?;
        // Before the log: a snapshot that the writer takes meanwhile would be newer than the log.
        let found = list(&*env.fs, &dirs)?;
        let components = Components { env: Some(env.clone()), ..Components::default() };
        let db = Db::open_read_only_with(DbOptions::new([dirs.wal()]), components)?;
        let log = Log { table: db.existing_table(WAL_TABLE)?, floor: WalFloor::new() };
        let Some(versions) = log.versions_of(id.store, dirs.root())? else {
            let message = "the log is empty: restore it";
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        };
        let Some(root) = log.root(*versions.end())? else {
            let message = format!("version {} of the log was removed: retry", versions.end());
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        };
        let reference =
            Reference { id: id.store, engines: &*engines, log: &log, versions: versions.clone() };
        let snapshots = classify(&*env.fs, found, &reference)?;
        let StateId { store: id, initial_version, .. } = id;
        let _db = Some(db);
        Ok(Self {
            dirs,
            env,
            engines,
            id,
            initial_version,
            log,
            versions,
            root,
            snapshots,
            view_memory_bytes,
            _db,
        })
    }

    /// The parts of an open store.
    ///
    /// # Errors
    /// `Closed` if it was closed; those of listing the snapshots.
    pub(crate) fn of(shared: &Shared) -> Result<Self> {
        shared.check_open()?;
        // The log may have one version more, which is being committed: nobody may see it yet.
        let head = shared.head();
        let snapshots = classified(shared)?;
        let Some(versions) = shared.log.range()? else {
            unreachable!("the log of an open store has a base record")
        };
        Ok(Self {
            dirs: shared.dirs.clone(),
            env: shared.env.clone(),
            engines: Arc::clone(&shared.engines),
            id: shared.id,
            initial_version: shared.initial_version,
            log: shared.log.clone(),
            versions: *versions.start()..=head.version,
            root: head.root,
            snapshots,
            view_memory_bytes: shared.options.view_memory_bytes,
            _db: None,
        })
    }

    pub(crate) fn reach(&self, target: u64) -> Result<Reach> {
        let valid = valid_versions(&self.snapshots);
        reach_within(&self.log, self.has()?, &valid, target)
    }

    /// The lowest version that [`reach`](Self::reach) accepts.
    pub(crate) fn rollback_floor(&self) -> Result<u64> {
        lowest(&self.log, self.has()?, &valid_versions(&self.snapshots))
    }

    /// The versions of the log, without one that is being committed.
    fn has(&self) -> Result<Option<RangeInclusive<u64>>> {
        let newest = *self.versions.end();
        Ok(self.log.range()?.map(|has| *has.start()..=newest.min(*has.end())))
    }

    /// The totals of the stores after `target`, without any rows. `None` if the snapshot from which
    /// they are counted was removed meanwhile.
    pub(crate) fn totals(&self, target: u64) -> Result<Option<Totals>> {
        let Some(Start { mut meta, .. }) = self.start(target)? else { return Ok(None) };
        while meta.version < target {
            self.advance(&mut meta)?;
        }
        Ok(Some(meta.totals))
    }

    /// Where the way to `target` begins. `None` if the snapshot was removed meanwhile.
    pub(crate) fn start(&self, target: u64) -> Result<Option<Start>> {
        let base = self.reach(target)?.base;
        match base {
            Base::Empty { version } => {
                let totals = Totals::default();
                let root = totals.root();
                let meta = Meta { store: self.id, version, root, totals };
                Ok(Some(Start { base, engine: in_memory(self.env.clone())?, meta, lock: None }))
            }
            Base::Snapshot { version } => {
                let Some((engine, lock)) = self.open_snapshot(version)? else { return Ok(None) };
                let row = engine.get(&engine.pin(), META_KEY)?;
                let Some(row) = row else {
                    let path = self.dirs.snapshot(version);
                    let message = "the snapshot has no row that names its version";
                    return Err(Error::at(ErrorKind::Corrupt, &path, message));
                };
                let meta = Meta::decode(&row)?;
                // If not, the writer may have rolled back and taken another of that version
                // meanwhile: whoever begins again finds out.
                let root = self.log.root(version)?;
                if (meta.store, meta.version, Some(meta.root)) != (self.id, version, root) {
                    let path = self.dirs.snapshot(version);
                    let message = format!(
                        "the snapshot's META row: expected version {version} of store {} with the \
                         root of the log, found version {} of store {} with root {}",
                        self.id, meta.version, meta.store, meta.root
                    );
                    return Err(Error::at(ErrorKind::Corrupt, &path, message));
                }
                Ok(Some(Start { base, engine, meta, lock: Some(lock) }))
            }
        }
    }

    /// Whether the log of `later`, another reader of the store, goes on from what this one found:
    /// it was not rolled back meanwhile.
    pub(crate) fn is_continued_by(&self, later: &Self) -> Result<bool> {
        let newest = *self.versions.end();
        if newest > *later.versions.end() {
            return Ok(false);
        }
        match later.log.root(newest) {
            // Nobody knows, and that is why the caller asks.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            root => Ok(root? == Some(self.root)),
        }
    }

    /// Whether nothing that a reader relies on was removed since `earlier` began.
    fn has_all_of(&self, earlier: &Self) -> Result<bool> {
        let versions = |reader: &Self| -> Vec<u64> {
            reader.snapshots.iter().map(|snapshot| snapshot.found.version).collect()
        };
        let is_same = self.versions.start() == earlier.versions.start()
            && versions(self) == versions(earlier);
        Ok(is_same && earlier.is_continued_by(self)?)
    }

    /// Opens a snapshot in place and holds its shared lock, so that it is neither removed nor moved
    /// before all its files are open: whoever does that takes the exclusive lock.
    #[expect(clippy::type_complexity, reason = "used twice")]
    pub(crate) fn open_snapshot(
        &self,
        version: u64,
    ) -> Result<Option<(Arc<dyn Engine>, Box<dyn FileLock>)>> {
        let path = self.dirs.snapshot(version);
        let Some(before) = self.identity(&path)? else { return Ok(None) };
        let lock = match self.env.fs.try_lock(&path, LockKind::Shared) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("lock", &path, error)),
        };
        // Its engine is opened by its name, and opening it where it is not could create one.
        if self.identity(&path)? != Some(before) {
            return Ok(None);
        }
        let dir = path.join(ENGINE_DIR);
        self.engines.check(&dir, None, CheckLevel::Names)?;
        let engine = self.engines.open(&dir, OpenMode::ReadInPlace)?;
        // What was opened is what is locked.
        Ok((self.identity(&path)? == Some(before)).then_some((engine, lock)))
    }

    /// Which directory has a path; `None` if there is none.
    fn identity(&self, path: &Path) -> Result<Option<(u64, u64)>> {
        match self.env.fs.metadata(path) {
            Ok(metadata) => Ok((metadata.kind == FileKind::Dir).then_some(metadata.identity)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("stat", path, error)),
        }
    }

    /// Makes `meta` the next version, and returns what that changed.
    pub(crate) fn advance(&self, meta: &mut Meta) -> Result<Vec<StoreDelta>> {
        let version = meta.version + 1;
        let Some(record) = self.log.record(version)? else {
            let message = format!("log {}: version {version} is missing", self.log.table.name());
            return Err(Error::new(ErrorKind::Missing, message));
        };
        let Body::Commit(deltas) = record.body else {
            let message = format!("version {version} of the log is a base record");
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        meta.totals.apply(&deltas)?;
        if record.previous_root != meta.root || record.root != meta.totals.root() {
            let message = format!(
                "version {version} of the log: expected the root {}, found {}",
                record.root,
                meta.totals.root()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        (meta.version, meta.root) = (version, record.root);
        Ok(deltas)
    }
}

/// Whether an error may be due to a writer: a version or a file that is missing, or not the
/// expected one.
pub(crate) fn is_surprise(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Missing | ErrorKind::Corrupt)
}

/// Calls `attempt` with a reader of the store in `dir`, again if a snapshot was removed or the log
/// rolled back meanwhile. `Locked` if a rollback of the log is under way when an attempt begins.
pub(crate) fn again<T>(
    dir: &Path,
    open: impl Fn() -> Result<Reader>,
    mut attempt: impl FnMut(&Reader) -> Result<Option<T>>,
) -> Result<T> {
    let (mut surprised, mut could_not_open) = (None::<Reader>, false);
    for _ in 0..ATTEMPTS {
        let reader = match open() {
            Err(error) if is_surprise(&error) && !could_not_open => {
                could_not_open = true;
                continue;
            }
            opened => opened?,
        };
        match attempt(&reader) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // By a rollback that began after the attempt: the next one waits for nobody.
            Err(error) if error.is_rollback_pending() => {}
            // Unless nothing has changed since the last attempt.
            Err(error) if is_surprise(&error) => match &surprised {
                Some(earlier) if reader.has_all_of(earlier)? => return Err(error),
                _ => surprised = Some(reader),
            },
            Err(error) => return Err(error),
        }
    }
    let message = "what was read was removed or rolled back again and again: retry";
    Err(Error::at(ErrorKind::Exhausted, dir, message))
}

/// Refuses a store whose log is a table of the application's database.
pub(crate) fn check_own_log(fs: &dyn Fs, dirs: &Dirs) -> Result<()> {
    if exists_as(fs, &dirs.wal(), FileKind::Dir)? {
        return Ok(());
    }
    let message = "the store has no log of its own: open the application's database";
    Err(Error::at(ErrorKind::Missing, dirs.root(), message))
}
