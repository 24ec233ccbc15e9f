//! Reading a store without opening it for writing: beside its writer, or when nobody has it open.

use std::path::{Path, PathBuf};

use lithdb_env::{Env, Error, Result, exists};
use lithdb_lthash::RootHash;

use crate::db::StateDb;
use crate::dirs::Dirs;
use crate::inspect::{self, StateInspection};
use crate::options::{StateComponents, StateOptions};
use crate::reader::{Reader, again};
use crate::verify::{self, StateVerification, VerifyLevel};
use crate::view::View;

/// Calls that open nothing for writing. Those that end in `_with` take the caller's file system,
/// clock, threads and engine; the log must be the store's own.
impl StateDb {
    /// The newest version in the log of the store in `dir`, beside a writer or not; `None` if
    /// there is no store. The log must be the store's own.
    ///
    /// # Errors
    /// `Missing` for a store without its log or its `state.id`; those of opening the log for
    /// reading.
    pub fn latest_version(dir: impl Into<PathBuf>) -> Result<Option<u64>> {
        Self::latest_version_with(dir, StateComponents::default())
    }

    /// As [`latest_version`](Self::latest_version), with components of the caller's.
    ///
    /// # Errors
    /// As [`latest_version`](Self::latest_version).
    pub fn latest_version_with(
        dir: impl Into<PathBuf>,
        components: StateComponents,
    ) -> Result<Option<u64>> {
        let dirs = Dirs::new(dir.into());
        let env = components.env.clone().map_or_else(|| Env::os(0), Ok)?;
        let exists = |path: &Path| exists(&*env.fs, path).map_err(|e| Error::io("stat", path, e));
        if !exists(&dirs.id())? && !exists(&dirs.wal())? {
            return Ok(None);
        }
        let open = || Reader::open(dirs.root().to_path_buf(), components.clone());
        again(dirs.root(), open, |reader| Ok(Some(Some(*reader.versions.end()))))
    }

    /// What the store in `dir` holds, without opening it for writing, beside a writer or not. The
    /// log must be the store's own.
    ///
    /// # Errors
    /// `Missing` if there is no store; those of opening the log for reading.
    pub fn inspect(dir: impl Into<PathBuf>) -> Result<StateInspection> {
        Self::inspect_with(dir, StateComponents::default())
    }

    /// As [`inspect`](Self::inspect), with components of the caller's.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect).
    pub fn inspect_with(
        dir: impl Into<PathBuf>,
        components: StateComponents,
    ) -> Result<StateInspection> {
        inspect::inspect(dir.into(), components)
    }

    /// The root after a version (`None`: the newest) in the log of the store in `dir`, with that
    /// version, beside a writer or not. The log must be the store's own.
    ///
    /// # Errors
    /// `Missing` if the log does not have the version; as [`inspect`](Self::inspect).
    pub fn root_at(dir: impl Into<PathBuf>, version: Option<u64>) -> Result<(u64, RootHash)> {
        inspect::root_at(dir.into(), version, StateComponents::default())
    }

    /// As [`inspect`](Self::inspect), with the [`stores`](StateInspection::stores). Reads the log
    /// after the newest snapshot, but no rows.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect); `Corrupt`.
    pub fn inspect_stores(dir: impl Into<PathBuf>) -> Result<StateInspection> {
        inspect::inspect_stores(dir.into(), &StateComponents::default())
    }

    /// A view of a version (`None`: the newest) of the store in `dir`, without opening it for
    /// writing, beside a writer or not: as [`view`](Self::view). The log must be the store's own.
    ///
    /// # Errors
    /// As [`view`](Self::view) and [`inspect`](Self::inspect).
    pub fn view_only(dir: impl Into<PathBuf>, version: Option<u64>) -> Result<View> {
        let (options, components) = (StateOptions::default(), StateComponents::default());
        Self::view_only_with(dir, version, options, components)
    }

    /// As [`view_only`](Self::view_only), with components of the caller's. Of the options,
    /// [`view_memory_bytes`](StateOptions::view_memory_bytes) and
    /// [`cache_bytes`](StateOptions::cache_bytes) count.
    ///
    /// # Errors
    /// As [`view_only`](Self::view_only); `InvalidArgument` for options that cannot work.
    pub fn view_only_with(
        dir: impl Into<PathBuf>,
        version: Option<u64>,
        options: StateOptions,
        components: StateComponents,
    ) -> Result<View> {
        inspect::view_only(&dir.into(), version, &options, &components)
    }

    /// Verifies the store in `dir`, beside a writer or not. `progress` receives the number of
    /// records or rows so far. At [`VerifyLevel::Replay`] the store's directory `views` is written
    /// to: the files of the working copy are linked there for a moment, and a replay that outgrows
    /// [`view_memory_bytes`](StateOptions::view_memory_bytes) has a clone there until it is over.
    ///
    /// # Errors
    /// As [`view_only`](Self::view_only). What is wrong with the store is in the verification.
    pub fn verify(
        dir: impl Into<PathBuf>,
        level: VerifyLevel,
        progress: impl FnMut(u64),
    ) -> Result<StateVerification> {
        let (options, components) = (StateOptions::default(), StateComponents::default());
        Self::verify_with(dir, level, options, components, progress)
    }

    /// As [`verify`](Self::verify), with options and components as
    /// [`view_only_with`](Self::view_only_with) takes them.
    ///
    /// # Errors
    /// As [`verify`](Self::verify); `InvalidArgument` for options that cannot work.
    pub fn verify_with(
        dir: impl Into<PathBuf>,
        level: VerifyLevel,
        options: StateOptions,
        components: StateComponents,
        mut progress: impl FnMut(u64),
    ) -> Result<StateVerification> {
        verify::verify(dir.into(), level, &options, &components, &mut progress)
    }
}
