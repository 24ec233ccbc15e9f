//! Reading a store without opening it for writing: beside its writer, or when nobody has it open.
//!
//! Nothing is written, created or removed. A reader finds the log's versions when it begins; what
//! the writer commits meanwhile it does not see. It locks the snapshot that it reads, shared, before
//! it looks at the log, so that neither is removed under it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb::{Components, Db, DbOptions};
use lithdb_env::{Env, Error, ErrorKind, FileKind, FileLock, LockKind, Result, exists_as};
use lithdb_lthash::RootHash;
use lithdb_state_engine::{CheckLevel, Engine, EngineKind, Engines, OpenMode, in_memory};
use serde::Serialize;

use crate::commit::apply_rows;
use crate::dirs::Dirs;
use crate::files::{StateId, StoreId};
use crate::head::Head;
use crate::meta::{META_KEY, Meta};
use crate::open::Opening;
use crate::open::log::WAL_TABLE;
use crate::options::{StateComponents, StateOptions};
use crate::reach::{Base, Reach, reach};
use crate::record::Body;
use crate::rollback::list_abandoned;
use crate::snapshot::list::{Classified, Reference, classify, list};
use crate::snapshot::take::ENGINE_DIR;
use crate::snapshot::{SnapshotClass, SnapshotInfo};
use crate::totals::Totals;
use crate::view::View;
use crate::wal::{Log, WalFloor};

/// How often a reader begins again when the snapshot that it chose was removed.
const ATTEMPTS: usize = 100;

/// What a store holds, without opening it for writing.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StateInspection {
    /// The random number that identifies the store.
    pub store: StoreId,
    /// The first version that could be committed.
    pub initial_version: u64,
    /// The oldest version of the log.
    pub oldest_version: u64,
    /// The newest version of the log.
    pub version: u64,
    /// The root after the newest version.
    pub root: RootHash,
    /// The engine of this build.
    pub engine: EngineKind,
    /// The snapshots, by version.
    pub snapshots: Vec<SnapshotInfo>,
    /// Snapshots of other branches: version and directory.
    #[serde(serialize_with = "abandoned")]
    pub abandoned: Vec<(u64, PathBuf)>,
    /// How the newest version would be reached if there were no working copy.
    pub reach: Option<Reach>,
}

fn abandoned<S: serde::Serializer>(
    abandoned: &[(u64, PathBuf)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let shown = abandoned.iter().map(|(version, path)| (version, path.display().to_string()));
    serializer.collect_seq(shown)
}

/// A store whose log is open for reading.
pub(crate) struct Reader {
    pub(crate) dirs: Dirs,
    pub(crate) env: Env,
    pub(crate) engines: Arc<dyn Engines>,
    pub(crate) id: StateId,
    pub(crate) log: Log,
    pub(crate) versions: RangeInclusive<u64>,
    _db: Db,
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
        if !exists_as(&*env.fs, &dirs.wal(), FileKind::Dir)? {
            let message = "the store has no log of its own: open the application's database";
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        }
        let components = Components { env: Some(env.clone()), ..Components::default() };
        let db = Db::open_read_only_with(DbOptions::new([dirs.wal()]), components)?;
        let log = Log { table: db.existing_table(WAL_TABLE)?, floor: WalFloor::new() };
        let Some(versions) = log.range()? else {
            let message = "the log is empty: restore it";
            return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
        };
        Ok(Self { dirs, env, engines, id, log, versions, _db: db })
    }

    /// The snapshots, and which of them can be used.
    pub(crate) fn snapshots(&self) -> Result<Vec<Classified>> {
        let found = list(&*self.env.fs, &self.dirs)?;
        let (engines, log, versions) = (&*self.engines, &self.log, self.versions.clone());
        classify(found, &Reference { id: self.id.store, engines, log, versions })
    }

    pub(crate) fn reach(&self, snapshots: &[Classified], target: u64) -> Result<Reach> {
        let valid = snapshots.iter().filter(|s| s.class == SnapshotClass::Valid);
        let valid: Vec<u64> = valid.map(|snapshot| snapshot.found.version).collect();
        reach(&self.log, &valid, target)
    }

    fn inspection(&self) -> Result<StateInspection> {
        let fs = &*self.env.fs;
        let snapshots = self.snapshots()?;
        let version = *self.versions.end();
        let Some(root) = self.log.root(version)? else {
            unreachable!("the newest version of the log has a record")
        };
        let reach = match self.reach(&snapshots, version) {
            Err(error) if crate::Unreachable::of(&error).is_some() => None,
            reach => Some(reach?),
        };
        Ok(StateInspection {
            store: self.id.store,
            initial_version: self.id.initial_version,
            oldest_version: *self.versions.start(),
            version,
            root,
            engine: self.engines.kind(),
            snapshots: snapshots.iter().map(|s| s.info(fs)).collect::<Result<_>>()?,
            abandoned: list_abandoned(fs, &self.dirs)?,
            reach,
        })
    }

    /// A view of `target`: the newest snapshot at or below it, opened in place, and the log replayed
    /// into memory. `None` if the snapshot was removed meanwhile.
    fn view(&self, target: u64) -> Result<Option<View>> {
        let snapshots = self.snapshots()?;
        let base = self.reach(&snapshots, target)?.base;
        let (engine, mut meta, lock) = match base {
            Base::Empty { version } => {
                let root = Totals::default().root();
                let totals = Totals::default();
                let meta = Meta { store: self.id.store, version, root, totals };
                (in_memory(self.env.clone())?, meta, None)
            }
            Base::Snapshot { version } => {
                let Some((engine, lock)) = self.open_snapshot(version)? else { return Ok(None) };
                let row = engine.get(&engine.pin(), META_KEY)?;
                let Some(row) = row else {
                    let path = self.dirs.snapshot(version);
                    let message = "the snapshot has no row that names its version";
                    return Err(Error::at(ErrorKind::Corrupt, &path, message));
                };
                (engine, Meta::decode(&row)?, Some(lock))
            }
        };
        self.replay(&*engine, &mut meta, target)?;
        let pin = engine.pin();
        let Meta { version, root, totals, .. } = meta;
        // Every file is open: the snapshot may go.
        drop(lock);
        Ok(Some(View::new(Arc::new(Head { version, root, totals, pin }), engine)))
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

    fn replay(&self, engine: &dyn Engine, meta: &mut Meta, target: u64) -> Result<()> {
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
            apply_rows(engine, version, deltas)?;
            (meta.version, meta.root) = (version, record.root);
        }
        Ok(())
    }
}

/// Inspects the store in `dir`.
pub(crate) fn inspect(dir: PathBuf, components: StateComponents) -> Result<StateInspection> {
    Reader::open(dir, components)?.inspection()
}

/// A view of `version` (`None`: the newest) of the store in `dir`.
pub(crate) fn view_only(
    dir: PathBuf,
    version: Option<u64>,
    components: &StateComponents,
) -> Result<View> {
    for _ in 0..ATTEMPTS {
        let reader = Reader::open(dir.clone(), components.clone())?;
        let target = version.unwrap_or(*reader.versions.end());
        if let Some(view) = reader.view(target)? {
            return Ok(view);
        }
    }
    let message = "the snapshots that were chosen were removed again and again: retry";
    Err(Error::at(ErrorKind::Exhausted, &dir, message))
}
