//! What a store holds, without opening it for writing: beside its writer, or when nobody has it
//! open.

use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::RootHash;
use lithdb_state_engine::EngineKind;
use serde::Serialize;

use crate::files::StoreId;
use crate::options::{StateComponents, StateOptions};
use crate::reach::{Reach, Unreachable};
use crate::reader::{Reader, again};
use crate::rollback::list_abandoned;
use crate::snapshot::SnapshotInfo;
use crate::store_name::StoreName;
use crate::totals::Totals;
use crate::view::View;

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
    /// The lowest version that a view or a rollback reaches; `None` if they reach none.
    pub floor: Option<u64>,
    /// The engine of this build.
    pub engine: EngineKind,
    /// The snapshots, by version.
    pub snapshots: Vec<SnapshotInfo>,
    /// Snapshots of other branches: version and directory.
    #[serde(serialize_with = "abandoned")]
    pub abandoned: Vec<(u64, PathBuf)>,
    /// How the newest version would be reached if there were no working copy.
    pub reach: Option<Reach>,
    /// The stores after the newest version, by name. `None` if they were not asked for, or if the
    /// version cannot be reached.
    pub stores: Option<Vec<StoreInspection>>,
}

/// A store of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreInspection {
    /// Its name.
    pub name: StoreName,
    /// The number of its keys.
    pub keys: u64,
    /// The bytes of its keys and values.
    pub bytes: u64,
    /// The hash of its rows.
    pub hash: RootHash,
}

fn abandoned<S: serde::Serializer>(
    abandoned: &[(u64, PathBuf)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shown<'a> {
        version: u64,
        #[serde(serialize_with = "lithdb_env::lossy::path")]
        path: &'a PathBuf,
    }
    serializer
        .collect_seq(abandoned.iter().map(|(version, path)| Shown { version: *version, path }))
}

impl Reader {
    fn inspection(&self) -> Result<StateInspection> {
        let fs = &*self.env.fs;
        let version = *self.versions.end();
        let floor = reached(self.rollback_floor())?;
        let reach = reached(self.reach(version))?;
        Ok(StateInspection {
            store: self.id,
            initial_version: self.initial_version,
            oldest_version: *self.versions.start(),
            version,
            root: self.root,
            floor,
            engine: self.engines.kind(),
            snapshots: self.snapshots.iter().map(|s| s.info(fs)).collect::<Result<_>>()?,
            abandoned: list_abandoned(fs, &self.dirs)?,
            reach,
            stores: None,
        })
    }
}

/// `None` for what cannot be reached.
fn reached<T>(reached: Result<T>) -> Result<Option<T>> {
    match reached {
        Err(error) if Unreachable::of(&error).is_some() => Ok(None),
        reached => reached.map(Some),
    }
}

fn stores(totals: &Totals) -> Vec<StoreInspection> {
    let stores = totals.iter().map(|(name, totals)| StoreInspection {
        name: name.clone(),
        keys: totals.keys,
        bytes: totals.bytes,
        hash: totals.vector.root(),
    });
    stores.collect()
}

/// The root after `version` (`None`: the newest) in the log of the store in `dir`.
pub(crate) fn root_at(
    dir: PathBuf,
    version: Option<u64>,
    components: StateComponents,
) -> Result<(u64, RootHash)> {
    let open = || Reader::open(dir.clone(), components.clone());
    again(&dir, open, |reader| {
        let version = version.unwrap_or(*reader.versions.end());
        if let Some(head) = reader.log.head(version)? {
            return Ok(Some((version, head.root)));
        }
        let (first, last) = (reader.versions.start(), reader.versions.end());
        let message = format!("version {version} is not in the log, which has {first}..={last}");
        Err(Error::at(ErrorKind::Missing, reader.dirs.root(), message))
    })
}

/// Inspects the store in `dir`.
pub(crate) fn inspect(dir: PathBuf, components: StateComponents) -> Result<StateInspection> {
    inspect_each(dir, &components, |_reader, inspection| Ok(Some(inspection)))
}

/// As [`inspect`], with the stores after the newest version.
pub(crate) fn inspect_stores(
    dir: PathBuf,
    components: &StateComponents,
) -> Result<StateInspection> {
    inspect_each(dir, components, |reader, mut inspection| {
        let Some(totals) = reader.totals(inspection.version)? else { return Ok(None) };
        inspection.stores = Some(stores(&totals));
        Ok(Some(inspection))
    })
}

/// Inspects the store in `dir`, and completes the inspection with its reader, if its newest version
/// can be reached.
fn inspect_each(
    dir: PathBuf,
    components: &StateComponents,
    complete: impl Fn(&Reader, StateInspection) -> Result<Option<StateInspection>>,
) -> Result<StateInspection> {
    let open = || Reader::open(dir.clone(), components.clone());
    let inspected = again(&dir, open, |reader| {
        let inspection = reader.inspection()?;
        if inspection.reach.is_none() {
            // Begins again, if the log was collected meanwhile.
            reader.reach(inspection.version)?;
        }
        complete(reader, inspection)
    });
    match inspected {
        Err(error) if Unreachable::of(&error).is_some() => {
            Reader::open(dir, components.clone())?.inspection()
        }
        inspected => inspected,
    }
}

/// A view of `version` (`None`: the newest) of the store in `dir`.
pub(crate) fn view_only(
    dir: &Path,
    version: Option<u64>,
    options: &StateOptions,
    components: &StateComponents,
) -> Result<View> {
    let open = || Reader::open_with(dir.to_path_buf(), options.clone(), components.clone());
    again(dir, open, |reader| reader.view(version.unwrap_or(*reader.versions.end())))
}
