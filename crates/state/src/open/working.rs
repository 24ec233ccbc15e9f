//! The working copy at an opening: kept if the log has its version with its root, else cloned.
//!
//! A working copy is one directory `engine-<random>` in `working`. The name is never used again: a
//! tree of an earlier opening that a view still holds removes its files by their paths.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, FileKind, Fs, Result, exists_as, sync_parent};
use lithdb_state_engine::{CheckLevel, Engine, OpenMode};

use crate::commit::flush_at;
use crate::dirs::{self, Dirs, create_dir, discard};
use crate::files::{BaseFile, StateId, engine_dir_name, is_engine_dir_name};
use crate::meta::{META_KEY, Meta};
use crate::open::{Opening, Reclone};
use crate::reach::Base;
use crate::snapshot::list::Classified;
use crate::snapshot::take::ENGINE_DIR;
use crate::totals::Totals;
use crate::wal::Log;

/// An open working copy, and what it holds.
pub(crate) struct Working {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) meta: Meta,
    /// The version that is durable in it.
    pub(crate) flushed_version: u64,
}

/// Opens the working copy and compares it with the log. The inner error says why it cannot be kept;
/// an error of the operating system is an outer one.
pub(super) fn inspect(
    opening: &Opening,
    log: &Log,
    id: &StateId,
) -> Result<std::result::Result<Working, Reclone>> {
    let dir = engine_dir(&*opening.env.fs, &opening.dirs)?;
    let Some(dir) = dir else { return Ok(Err(Reclone::Absent)) };
    let opened = opening
        .engines
        .check(&dir, None, CheckLevel::Names)
        .and_then(|()| opening.engines.open(&dir, OpenMode::Write))
        .and_then(|engine| Ok((read_meta(&*engine)?, engine)));
    let (meta, engine) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind().is_system_failure() => return Err(error),
        Err(error) => return Ok(Err(Reclone::Unusable(error.to_string()))),
    };
    if meta.store != id.store {
        let reason = format!("it is of another store, {}", meta.store);
        return Ok(Err(Reclone::Unusable(reason)));
    }
    let version = meta.version;
    let newest = log.range()?.map(|versions| *versions.end());
    if Some(version) > newest {
        return Ok(Err(Reclone::Ahead { version }));
    }
    match log.root(version)? {
        None => Ok(Err(Reclone::Behind { version })),
        Some(root) if root != meta.root => Ok(Err(Reclone::OtherBranch { version })),
        Some(_) => Ok(Ok(Working { engine, flushed_version: version, meta })),
    }
}

/// The one engine directory in `working`.
pub(crate) fn engine_dir(fs: &dyn Fs, dirs: &Dirs) -> Result<Option<PathBuf>> {
    let working = dirs.working();
    let entries = match fs.list(&working) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        listed => listed.map_err(|e| Error::io("list", &working, e))?,
    };
    let names = entries.into_iter().map(|entry| entry.name);
    let mut names = names.filter(|name| is_engine_dir_name(name));
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(Some(working.join(name))),
        // None is whole, or it is not known which.
        _ => Ok(None),
    }
}

pub(crate) fn read_meta(engine: &dyn Engine) -> Result<Meta> {
    let row = engine.get(&engine.pin(), META_KEY)?;
    let row = row.ok_or_else(|| {
        Error::new(ErrorKind::Missing, "the engine has no row that names its version")
    })?;
    Meta::decode(&row)
}

/// Makes a working copy from `base` in place of the one that is there, and opens it.
pub(super) fn make(
    opening: &Opening,
    log: &Log,
    id: &StateId,
    snapshots: &[Classified],
    base: Base,
) -> Result<Working> {
    let fs = &*opening.env.fs;
    let (new, working) = (opening.dirs.new_working(), opening.dirs.working());
    dirs::remove_tree(fs, &new)?;
    create_dir(fs, &new)?;
    let name = engine_dir_name(opening.env.random_u64()?);
    let into = new.join(&name);
    let base_file = match base {
        Base::Empty { version } => {
            create_empty(opening, log, id, version, &into)?;
            let root = Totals::default().root();
            BaseFile { version, root }
        }
        Base::Snapshot { version } => {
            let snapshot = snapshots.iter().find(|snapshot| snapshot.found.version == version);
            let Some(snapshot) = snapshot else {
                unreachable!("version {version} was chosen among the snapshots")
            };
            let manifest = snapshot.found.manifest.as_ref().map_err(Error::clone)?;
            let from = snapshot.found.path.join(ENGINE_DIR);
            (*opening.engines).clone_into(&from, &manifest.files, &into)?;
            BaseFile { version, root: manifest.root }
        }
    };
    base_file.write(fs, &new)?;
    sync_parent(fs, &into)?;
    if exists_as(fs, &working, FileKind::Dir)? {
        discard(&opening.env, &opening.dirs, &working, "working")?;
    }
    dirs::rename(fs, &new, &working)?;
    let engine = opening.engines.open(&working.join(name), OpenMode::Write)?;
    let meta = read_meta(&*engine)?;
    if (meta.version, meta.root, meta.store) != (base_file.version, base_file.root, id.store) {
        let message = format!(
            "the clone of version {} holds version {} with root {}; expected root {}: the \
             snapshot is damaged, move it away",
            base_file.version, meta.version, meta.root, base_file.root
        );
        return Err(Error::at(ErrorKind::Corrupt, &working, message));
    }
    Ok(Working { engine, flushed_version: meta.version, meta })
}

/// An engine that holds the empty state of `version`, durable.
fn create_empty(
    opening: &Opening,
    log: &Log,
    id: &StateId,
    version: u64,
    dir: &std::path::Path,
) -> Result<()> {
    let root = Totals::default().root();
    assert_eq!(log.root(version)?, Some(root), "the log begins with the empty state");
    let engine = opening.engines.create(dir)?;
    let meta = Meta { store: id.store, version, root, totals: Totals::default() };
    flush_at(&*engine, &meta)
}
