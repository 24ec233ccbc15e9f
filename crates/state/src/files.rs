//! The small files of a store, each an envelope that is replaced as a whole; and the names of its
//! directories.
//!
//! | file | magic | record |
//! | --- | --- | --- |
//! | `state.id` | `LITHSTID` | [`StateId`]: which store this is, and whether it can be opened |
//! | `snapshots/<version>/SNAPSHOT` | `LITHSNAP` | [`SnapshotManifest`]: what the snapshot holds |
//! | `CURRENT` | `LITHCURR` | [`CurrentFile`]: the newest snapshot, for people and scripts |
//! | `working/BASE` | `LITHBASE` | [`BaseFile`]: what the working copy was cloned from |
//!
//! Nothing depends on `CURRENT` and `BASE`. The order of a struct's fields is the order of its
//! bytes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use lithdb_env::{
    Error, ErrorKind, Fs, Result, UnixMillis, read_file, remove_if_exists, replace_file,
    sync_parent,
};
use lithdb_lthash::RootHash;
use lithdb_segment::envelope::{self, ENVELOPE_LEN, MAX_PAYLOAD_LEN, Magic};
use lithdb_state_engine::{EngineFile, EngineKind};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::store_name::StoreName;
use crate::totals::StoreTotals;

mod names;

pub(crate) use names::{
    abandoned_name, engine_dir_name, is_engine_dir_name, is_trash_name, is_view_clone_name,
    new_snapshot_name, parse_abandoned_name, parse_snapshot_name, snapshot_name, trash_name,
    view_clone_name,
};

/// The manifest in a snapshot's directory.
pub(crate) const SNAPSHOT_FILE: &str = "SNAPSHOT";
/// The file in the working copy that names its base.
pub(crate) const BASE_FILE: &str = "BASE";

const STATE_ID: Magic = Magic(*b"LITHSTID");
const SNAPSHOT: Magic = Magic(*b"LITHSNAP");
const CURRENT: Magic = Magic(*b"LITHCURR");
const BASE: Magic = Magic(*b"LITHBASE");

/// The directory layout that this build writes and reads.
pub(crate) const LAYOUT: u16 = 1;

/// Identifies a state store: random, made when it is created or imported. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub(crate) [u8; StoreId::LEN]);

impl StoreId {
    pub(crate) const LEN: usize = 16;
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As text in formats that people read, otherwise as 16 bytes.
impl Serialize for StoreId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StoreId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Deserialize::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        let id = u128::from_str_radix(&text, 16).map(|id| Self(id.to_be_bytes()));
        match id {
            Ok(id) if id.to_string() == text => Ok(id),
            _ => Err(D::Error::custom(format_args!(
                "expected the id of a store, 32 lower-case hexadecimal digits, found {text:?}"
            ))),
        }
    }
}

/// Whether a store can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// It is being created: its log may have no record.
    Creating,
    /// It can.
    Ready,
    /// An import has begun and not finished.
    Importing,
    /// A reset has begun and not finished.
    Resetting,
    /// A flat layout has been adopted: it can be opened, which removes the flat layout.
    Adopting,
}

/// How rows are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HashKind {
    /// `lithdb_lthash`: 1,024 limbs of 16 bits, BLAKE3.
    LtHash16Blake3,
}

/// `state.id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateId {
    /// [`LAYOUT`].
    pub(crate) layout: u16,
    pub(crate) store: StoreId,
    pub(crate) phase: Phase,
    pub(crate) hash: HashKind,
    /// The first version that can be committed: at least 1.
    pub(crate) initial_version: u64,
}

impl StateId {
    /// Of a new store, with two random numbers.
    pub(crate) fn fresh(low: u64, high: u64, initial_version: u64) -> Self {
        let mut id = [0; StoreId::LEN];
        for (byte, random) in id.iter_mut().zip([low, high].map(u64::to_le_bytes).as_flattened()) {
            *byte = *random;
        }
        Self {
            layout: LAYOUT,
            store: StoreId(id),
            phase: Phase::Creating,
            hash: HashKind::LtHash16Blake3,
            initial_version,
        }
    }

    /// The file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// `Unsupported` for another layout; `Corrupt`; file system errors.
    pub(crate) fn read(fs: &dyn Fs, path: &Path) -> Result<Option<Self>> {
        let Some(id) = read::<Self>(fs, path, STATE_ID)? else { return Ok(None) };
        if id.layout != LAYOUT {
            let found = id.layout;
            let message =
                format!("expected layout {LAYOUT}, found {found}: a newer build wrote it");
            return Err(Error::at(ErrorKind::Unsupported, path, message));
        }
        if id.initial_version == 0 {
            let message = "expected an initial version of at least 1, found 0";
            return Err(Error::at(ErrorKind::Corrupt, path, message));
        }
        Ok(Some(id))
    }

    /// Replaces the file at `path`, durably.
    pub(crate) fn write(&self, fs: &dyn Fs, path: &Path) -> Result<()> {
        replace_file(fs, path, &envelope::encode(STATE_ID, self)?)
    }

    /// Refuses the store in `dir` unless it is ready.
    ///
    /// # Errors
    /// `Missing` with the remedy.
    pub(crate) fn check_ready(&self, dir: &Path) -> Result<()> {
        let message = match self.phase {
            Phase::Creating | Phase::Ready | Phase::Adopting => return Ok(()),
            Phase::Importing => {
                "an import was not finished: import again, or reset the state store"
            }
            Phase::Resetting => "a reset was not finished: reset the state store again",
        };
        Err(Error::at(ErrorKind::Missing, dir, message))
    }
}

/// The totals of a store in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreSummary {
    pub(crate) name: StoreName,
    /// The digest of its set hash.
    pub(crate) digest: RootHash,
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
}

impl StoreSummary {
    pub(crate) fn of(name: &StoreName, totals: &StoreTotals) -> Self {
        let StoreTotals { vector, keys, bytes } = totals;
        Self { name: name.clone(), digest: vector.root(), keys: *keys, bytes: *bytes }
    }
}

/// `SNAPSHOT`: what a snapshot holds. Written last, when everything else is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotManifest {
    pub(crate) store: StoreId,
    pub(crate) version: u64,
    pub(crate) root: RootHash,
    /// By strictly ascending names.
    pub(crate) stores: Vec<StoreSummary>,
    pub(crate) engine: EngineKind,
    pub(crate) created: UnixMillis,
    /// The files below `engine/`, each once.
    pub(crate) files: Vec<EngineFile>,
}

impl SnapshotManifest {
    /// The manifest in `dir`.
    ///
    /// # Errors
    /// `Missing` if there is none; `Corrupt`, `Unsupported`; file system errors.
    pub(crate) fn read(fs: &dyn Fs, dir: &Path) -> Result<Self> {
        let path = dir.join(SNAPSHOT_FILE);
        let manifest = read::<Self>(fs, &path, SNAPSHOT)?.ok_or_else(|| {
            Error::at(
                ErrorKind::Missing,
                &path,
                "the snapshot has no manifest; restore or prune it",
            )
        })?;
        match manifest.problem() {
            None => Ok(manifest),
            Some(problem) => Err(Error::at(ErrorKind::Corrupt, &path, problem)),
        }
    }

    /// Writes the manifest into `dir`, durably.
    ///
    /// # Errors
    /// `InvalidArgument` if it is too large, or would be refused when it is read; file system
    /// errors.
    pub(crate) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        let path = dir.join(SNAPSHOT_FILE);
        match self.problem() {
            None => replace_file(fs, &path, &envelope::encode(SNAPSHOT, self)?),
            Some(problem) => Err(Error::at(ErrorKind::InvalidArgument, &path, problem)),
        }
    }

    /// Why this is no manifest of a snapshot.
    fn problem(&self) -> Option<String> {
        if !self.stores.is_sorted_by(|one, next| one.name < next.name) {
            return Some("expected stores in strictly ascending order".to_owned());
        }
        let mut names = BTreeSet::new();
        let bad = self.files.iter().map(|file| &file.name).find(|name| {
            let is_below = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
            !is_below || name.contains('\0') || !names.insert(*name)
        })?;
        Some(format!("expected files below engine/, each once, found {bad:?}"))
    }
}

/// `CURRENT`: the newest complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CurrentFile {
    pub(crate) version: u64,
    pub(crate) root: RootHash,
    /// Its directory, below the store's.
    pub(crate) directory: String,
}

impl CurrentFile {
    pub(crate) fn of(manifest: &SnapshotManifest) -> Self {
        let directory = format!("snapshots/{}", snapshot_name(manifest.version));
        Self { version: manifest.version, root: manifest.root, directory }
    }

    /// Replaces the file at `path`, durably.
    pub(crate) fn write(&self, fs: &dyn Fs, path: &Path) -> Result<()> {
        replace_file(fs, path, &envelope::encode(CURRENT, self)?)
    }

    /// Makes the file at `path` say `current`; removes it if there is no snapshot. Writes only if
    /// it says something else.
    pub(crate) fn replace(fs: &dyn Fs, path: &Path, current: Option<&Self>) -> Result<()> {
        let found = read::<Self>(fs, path, CURRENT);
        match (found, current) {
            (Ok(found), current) if found.as_ref() == current => Ok(()),
            // What it says is not believed, so a file that cannot be read is replaced, too.
            (_, Some(current)) => current.write(fs, path),
            (_, None) => {
                remove_if_exists(fs, path)?;
                sync_parent(fs, path)
            }
        }
    }
}

/// `BASE`: what the working copy was cloned from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseFile {
    pub(crate) version: u64,
    pub(crate) root: RootHash,
}

impl BaseFile {
    /// Writes the file into the directory of a working copy, durably.
    pub(crate) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        replace_file(fs, &dir.join(BASE_FILE), &envelope::encode(BASE, self)?)
    }
}

/// The record in the envelope at `path`; `None` if there is no file.
fn read<T: DeserializeOwned>(fs: &dyn Fs, path: &Path, magic: Magic) -> Result<Option<T>> {
    let limit = (MAX_PAYLOAD_LEN + ENVELOPE_LEN) as u64;
    let bytes = match read_file(fs, path, limit) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // The file is no record of ours, which says something about it.
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            return Err(Error::at(ErrorKind::Corrupt, path, error));
        }
        read => read.map_err(|e| Error::io("read", path, e))?,
    };
    envelope::decode_file(magic, path, &bytes).map(Some)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
