//! Removing a state store: what makes room for an import, or for a new state store.
//!
//! `state.id` decides: once it says *resetting*, nothing reads the rest any more, which is removed
//! in any order. `state.id` goes last, when the removal of everything else is durable; so there is
//! never a part of a store without it. A reset that was interrupted is finished by the next one, by
//! an import, or by opening the store for writing.

use std::io;
use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, FileKind, Fs, Result, exists_as, remove_if_exists};
use serde::Serialize;

use crate::StateDb;
use crate::adopt;
use crate::dirs::{self, Dirs, remove_tree};
use crate::event::refuse_in_listener;
use crate::files::{Phase, StateId, StoreId, parse_abandoned_name, parse_snapshot_name};
use crate::open::Opening;
use crate::options::{StateComponents, StateOptions};

/// What a reset removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResetReport {
    /// The random number that identified the store.
    pub store: StoreId,
    /// What was removed from the store's directory, beside `state.id`.
    pub removed: Vec<String>,
    /// Whether the store was in use and had no log of its own: then the log is a table of the
    /// application's database, which has to drop it.
    pub is_log_elsewhere: bool,
}

impl StateDb {
    /// Removes everything that belongs to the state store in `dir`, which nobody may have open:
    /// its log, its snapshots, those that were moved aside too, and its working copy. Nothing can
    /// bring it back. The directory stays, and what is not the store's in it; a new state store can
    /// be opened or imported there.
    ///
    /// If the log is a table of the application's database, the table stays: drop it, or opening a
    /// new state store with it is refused as `Foreign`.
    ///
    /// # Errors
    /// `Missing` if there is no state store; `Locked` if it is open; `Foreign` if there is
    /// something among its snapshots that is not the store's. Then nothing was changed. After
    /// another error the reset may have begun: repeat it.
    pub fn reset(dir: impl Into<PathBuf>) -> Result<ResetReport> {
        Self::reset_with(dir, StateComponents::default())
    }

    /// As [`reset`](Self::reset), with components of the caller's.
    ///
    /// # Errors
    /// As [`reset`](Self::reset).
    pub fn reset_with(dir: impl Into<PathBuf>, components: StateComponents) -> Result<ResetReport> {
        refuse_in_listener()?;
        let Opening { dirs, env, .. } =
            Opening::new(dir.into(), StateOptions::default(), components)?;
        let fs = &*env.fs;
        require(fs, &dirs)?;
        let _lock = dirs::lock(fs, &dirs)?;
        let mut id = require(fs, &dirs)?;
        let has_own_log = exists_as(fs, &dirs.wal(), FileKind::Dir)?;
        let is_complete = matches!(id.phase, Phase::Ready | Phase::Adopting);
        let is_log_elsewhere = is_complete && !has_own_log;
        let parts = Parts::list(fs, &dirs)?;
        if id.phase == Phase::Adopting {
            adopt::discard_flat(&env, &dirs)?;
        }
        id.phase = Phase::Resetting;
        id.write(fs, &dirs.id())?;
        let removed = finish(fs, &dirs, parts)?;
        Ok(ResetReport { store: id.store, removed, is_log_elsewhere })
    }
}

fn require(fs: &dyn Fs, dirs: &Dirs) -> Result<StateId> {
    StateId::read(fs, &dirs.id())?.ok_or_else(|| {
        let message = "there is no state store: state.id is missing";
        Error::at(ErrorKind::Missing, dirs.root(), message)
    })
}

/// Finishes a reset that was interrupted, if there is one, and returns what it removed.
pub(crate) fn finish_interrupted(fs: &dyn Fs, dirs: &Dirs) -> Result<Vec<String>> {
    match StateId::read(fs, &dirs.id())? {
        Some(StateId { phase: Phase::Resetting, .. }) => finish(fs, dirs, Parts::list(fs, dirs)?),
        _ => Ok(Vec::new()),
    }
}

fn finish(fs: &dyn Fs, dirs: &Dirs, parts: Parts) -> Result<Vec<String>> {
    let removed = parts.remove(fs, dirs)?;
    remove_if_exists(fs, &dirs.id())?;
    sync(fs, dirs.root())?;
    Ok(removed)
}

/// What belongs to a store beside `state.id` and the lock. Leftovers in `trash` stay for the next
/// open.
#[derive(Debug)]
pub(crate) struct Parts {
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Parts {
    /// Lists them, and changes nothing.
    ///
    /// # Errors
    /// `Foreign` if something that is not the store's would be removed with them.
    pub(crate) fn list(fs: &dyn Fs, dirs: &Dirs) -> Result<Self> {
        let is_snapshot =
            |name: &str| parse_snapshot_name(name.strip_suffix(".new").unwrap_or(name)).is_some();
        require_own(fs, &dirs.snapshots(), is_snapshot)?;
        require_own(fs, &dirs.abandoned(), |name| parse_abandoned_name(name).is_some())?;
        let mut parts = Self { dirs: Vec::new(), files: Vec::new() };
        let all = [
            dirs.wal(),
            dirs.snapshots(),
            dirs.abandoned(),
            dirs.working(),
            dirs.new_working(),
            dirs.views(),
        ];
        for dir in all {
            if exists_as(fs, &dir, FileKind::Dir)? {
                parts.dirs.push(dir);
            }
        }
        // Another `state.id` that was not renamed into place belongs to nobody any more.
        let files = [dirs.current()].into_iter();
        let new = ["CURRENT.new", "state.id.new"].map(|name| dirs.root().join(name));
        for file in files.chain(new) {
            if exists_as(fs, &file, FileKind::File)? {
                parts.files.push(file);
            }
        }
        Ok(parts)
    }

    /// Removes them, durably, and returns their names.
    pub(crate) fn remove(&self, fs: &dyn Fs, dirs: &Dirs) -> Result<Vec<String>> {
        for dir in &self.dirs {
            remove_tree(fs, dir)?;
        }
        for file in &self.files {
            remove_if_exists(fs, file)?;
        }
        sync(fs, dirs.root())?;
        let all = self.dirs.iter().chain(&self.files);
        let names = all.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }
}

/// Refuses entries of `dir` that are not the store's.
fn require_own(fs: &dyn Fs, dir: &Path, is_own: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| Error::io("list", dir, e))?,
    };
    let foreign = entries
        .iter()
        .find(|entry| !(entry.is_exact && entry.kind == FileKind::Dir && is_own(&entry.name)));
    let Some(entry) = foreign else { return Ok(()) };
    let message = format!("{:?} is not the state store's: move it away", entry.name);
    Err(Error::at(ErrorKind::Foreign, dir, message))
}

fn sync(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.sync_dir(dir).map_err(|e| Error::failed_dir_sync(dir, e))
}
