//! The parts of a store, open for reading: its log, and snapshots in place.
//!
//! Nothing is written, created or removed. A reader finds the log's versions when it begins; what
//! the writer commits meanwhile it does not see. It holds a shared lock of the snapshot that it reads
//! until all its files are open. If the snapshot, or a part of the log, is removed before that, the
//! reader begins again.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb::{Components, Db, DbOptions};
use lithdb_env::{Env, Error, ErrorKind, FileKind, FileLock, Fs, LockKind, Result, exists_as};
use lithdb_state_engine::{CheckLevel, Engine, Engines, OpenMode, in_memory};

use crate::commit::apply_rows;
use crate::dirs::Dirs;
use crate::files::StateId;
use crate::head::Head;
use crate::meta::{META_KEY, Meta};
use crate::open::Opening;
use crate::open::log::WAL_TABLE;
use crate::options::{StateComponents, StateOptions};
use crate::reach::{Base, Reach, reach};
use crate::record::{Body, StoreDelta};
use crate::snapshot::list::{Classified, Reference, classify, list, valid_versions};
use crate::snapshot::take::ENGINE_DIR;
use crate::totals::Totals;
use crate::view::View;
use crate::wal::{Log, WalFloor};

/// A store whose log is open for reading.
pub(crate) struct Reader {
    pub(crate) dirs: Dirs,
    pub(crate) env: Env,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) id: StateId,
    pub(crate) log: Log,
    pub(crate) versions: RangeInclusive<u64>,
    /// The snapshots, and which of them can be used.
    pub(crate) snapshots: Vec<Classified>,
    _db: Db,
}

/// What a version is reached from.
struct Start {
    engine: Arc<dyn Engine>,
    meta: Meta,
    /// Keeps the snapshot from being removed.
    lock: Option<Box<dyn FileLock>>,
}

impl Reader {
    /// Opens the log of the store in `dir`, which must be the store's own.
    pub(crate) fn open(dir: PathBuf, components: StateComponents) -> Result<Self> {
        let Opening { dirs, env, engines, .. } =
            Opening::new(dir, StateOptions::default(), components)?;
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
        let reference =
            Reference { id: id.store, engines: &*engines, log: &log, versions: versions.clone() };
        let snapshots = classify(&*env.fs, found, &reference)?;
        Ok(Self { dirs, env, engines, id, log, versions, snapshots, _db: db })
    }

    pub(crate) fn reach(&self, target: u64) -> Result<Reach> {
        reach(&self.log, &valid_versions(&self.snapshots), target)
    }

    /// A view of `target`: the newest snapshot at or below it, opened in place, and the log replayed
    /// into memory. `None` if the snapshot was removed meanwhile.
    pub(crate) fn view(&self, target: u64) -> Result<Option<View>> {
        let Some(Start { engine, mut meta, lock }) = self.start(target)? else { return Ok(None) };
        self.replay(&mut meta, target, &mut |version, deltas| {
            apply_rows(&*engine, version, deltas)
        })?;
        let pin = engine.pin();
        let Meta { version, root, totals, .. } = meta;
        // Every file is open: the snapshot may go.
        drop(lock);
        Ok(Some(View::new(Arc::new(Head { version, root, totals, pin }), engine)))
    }

    /// The totals of the stores after `target`, without any rows. `None` if the snapshot from which
    /// they are counted was removed meanwhile.
    pub(crate) fn totals(&self, target: u64) -> Result<Option<Totals>> {
        let Some(Start { mut meta, .. }) = self.start(target)? else { return Ok(None) };
        self.replay(&mut meta, target, &mut |_version, _deltas| Ok(()))?;
        Ok(Some(meta.totals))
    }

    /// Where the way to `target` begins. `None` if the snapshot was removed meanwhile.
    fn start(&self, target: u64) -> Result<Option<Start>> {
        match self.reach(target)?.base {
            Base::Empty { version } => {
                let totals = Totals::default();
                let root = totals.root();
                let meta = Meta { store: self.id.store, version, root, totals };
                Ok(Some(Start { engine: in_memory(self.env.clone())?, meta, lock: None }))
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
                // The writer may have rolled back and taken another of that version meanwhile.
                let is_chosen = meta.store == self.id.store
                    && meta.version == version
                    && self.log.root(version)? == Some(meta.root);
                Ok(is_chosen.then_some(Start { engine, meta, lock: Some(lock) }))
            }
        }
    }

    /// Opens a snapshot in place and holds its shared lock, so that it is not removed before all
    /// its files are open.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn open_snapshot(&self, version: u64) -> Result<Option<(Arc<dyn Engine>, Box<dyn FileLock>)>> {
        let path = self.dirs.snapshot(version);
        let lock = match self.env.fs.try_lock(&path, LockKind::Shared) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("lock", &path, error)),
        };
        if !exists_as(&*self.env.fs, &path, FileKind::Dir)? {
            return Ok(None);
        }
        let dir = path.join(ENGINE_DIR);
        self.engines.check(&dir, None, CheckLevel::Names)?;
        Ok(Some((self.engines.open(&dir, OpenMode::ReadInPlace)?, lock)))
    }

    /// Passes the versions of the log after `meta` to `apply`, up to `target`.
    fn replay(
        &self,
        meta: &mut Meta,
        target: u64,
        apply: &mut dyn FnMut(u64, &[StoreDelta]) -> Result<()>,
    ) -> Result<()> {
        while meta.version < target {
            let version = meta.version + 1;
            let Some(record) = self.log.record(version)? else {
                let message =
                    format!("log {}: version {version} is missing", self.log.table.name());
                return Err(Error::new(ErrorKind::Missing, message));
            };
            let Body::Commit(deltas) = &record.body else {
                let message = format!("version {version} of the log is a base record");
                return Err(Error::new(ErrorKind::Corrupt, message));
            };
            meta.totals.apply(deltas)?;
            if record.previous_root != meta.root || record.root != meta.totals.root() {
                let message = format!(
                    "version {version} of the log: expected the root {}, found {}",
                    record.root,
                    meta.totals.root()
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            apply(version, deltas)?;
            (meta.version, meta.root) = (version, record.root);
        }
        Ok(())
    }
}

/// Refuses a store whose log is a table of the application's database.
pub(crate) fn check_own_log(fs: &dyn Fs, dirs: &Dirs) -> Result<()> {
    if exists_as(fs, &dirs.wal(), FileKind::Dir)? {
        return Ok(());
    }
    let message = "the store has no log of its own: open the application's database";
    Err(Error::at(ErrorKind::Missing, dirs.root(), message))
}
