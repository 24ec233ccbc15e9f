//! The snapshots on disk, and which of them can be used.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, FileKind, FileLock, Fs, LockKind, Result, exists_as};
use lithdb_state_engine::{CheckLevel, Engines};

use crate::dirs::Dirs;
use crate::files::{SnapshotManifest, StoreId, parse_snapshot_name};
use crate::snapshot::take::ENGINE_DIR;
use crate::snapshot::{SnapshotClass, SnapshotInfo};
use crate::wal::Log;

/// A snapshot directory.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: u64,
    pub(crate) path: PathBuf,
    /// Its manifest, or why it cannot be read.
    pub(crate) manifest: Result<SnapshotManifest>,
}

/// A snapshot directory, and whether it can be used.
#[derive(Debug)]
pub(crate) struct Classified {
    pub(crate) found: Found,
    pub(crate) class: SnapshotClass,
    /// Why it cannot be used.
    pub(crate) reason: Option<String>,
}

/// What snapshots are compared with.
#[derive(Debug)]
pub(crate) struct Reference<'a> {
    pub(crate) id: StoreId,
    pub(crate) engines: &'a dyn Engines,
    pub(crate) log: &'a Log,
    /// The versions of the log.
    pub(crate) versions: RangeInclusive<u64>,
}

impl Found {
    /// The lock of whoever removes the snapshot or moves it; `None` if somebody reads it. A reader
    /// holds a shared one while it opens the snapshot by its name, and replays.
    pub(crate) fn try_lock(&self, fs: &dyn Fs) -> Result<Option<Box<dyn FileLock>>> {
        let lock = fs.try_lock(&self.path, LockKind::Exclusive);
        lock.map_err(|e| Error::io("lock", &self.path, e))
    }

    /// As [`try_lock`](Self::try_lock); `Locked` if somebody reads it.
    pub(crate) fn lock(&self, fs: &dyn Fs) -> Result<Box<dyn FileLock>> {
        self.try_lock(fs)?.ok_or_else(|| {
            let message = "the snapshot would be removed or moved, and somebody reads it: retry";
            Error::at(ErrorKind::Locked, &self.path, message)
        })
    }
}

/// All snapshot directories, by version. A directory of another name is not the store's.
pub(crate) fn list(fs: &dyn Fs, dirs: &Dirs) -> Result<Vec<Found>> {
    let snapshots = dirs.snapshots();
    let entries = match fs.list(&snapshots) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("list", &snapshots, e))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let version = parse_snapshot_name(&entry.name);
        let is_own = entry.kind == FileKind::Dir && entry.is_exact;
        let Some(version) = version.filter(|_| is_own) else { continue };
        let path = dirs.snapshot(version);
        let manifest = SnapshotManifest::read(fs, &path);
        if let Err(error) = &manifest
            && error.kind().is_system_failure()
        {
            // It says nothing about the snapshot.
            return Err(error.clone());
        }
        found.push(Found { version, path, manifest });
    }
    found.sort_by_key(|snapshot| snapshot.version);
    Ok(found)
}

/// The versions of those that can be used.
pub(crate) fn valid_versions(snapshots: &[Classified]) -> Vec<u64> {
    let valid = snapshots.iter().filter(|snapshot| snapshot.class == SnapshotClass::Valid);
    valid.map(|snapshot| snapshot.found.version).collect()
}

/// Decides for each snapshot whether it can be used. One that has been removed since it was listed
/// is left out.
pub(crate) fn classify(
    fs: &dyn Fs,
    found: Vec<Found>,
    reference: &Reference<'_>,
) -> Result<Vec<Classified>> {
    let mut classified = Vec::with_capacity(found.len());
    for found in found {
        let (class, reason) = decide(&found, reference)?;
        if class != SnapshotClass::Damaged || exists_as(fs, &found.path, FileKind::Dir)? {
            classified.push(Classified { found, class, reason });
        }
    }
    Ok(classified)
}

fn decide(found: &Found, reference: &Reference<'_>) -> Result<(SnapshotClass, Option<String>)> {
    let because = |class, reason: String| Ok((class, Some(reason)));
    let manifest = match &found.manifest {
        Ok(manifest) => manifest,
        Err(error) => return because(SnapshotClass::Damaged, error.to_string()),
    };
    if manifest.store != reference.id {
        let reason = "it is of another store".to_owned();
        return because(SnapshotClass::Damaged, reason);
    }
    let kind = reference.engines.kind();
    if manifest.engine != kind {
        let reason = format!("{} wrote it; this build reads {kind}", manifest.engine);
        return because(SnapshotClass::Damaged, reason);
    }
    if manifest.version != found.version {
        let reason = format!("its manifest is of version {}", manifest.version);
        return because(SnapshotClass::Damaged, reason);
    }
    if found.version > *reference.versions.end() {
        let reason = format!("the newest version of the log is {}", reference.versions.end());
        return because(SnapshotClass::Abandoned, reason);
    }
    let root = match reference.log.root(found.version) {
        Ok(Some(root)) => root,
        Ok(None) => {
            let reason = format!("the oldest version of the log is {}", reference.versions.start());
            return because(SnapshotClass::Stale, reason);
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let reason = format!("the log cannot say of which branch it is: {error}");
            return because(SnapshotClass::Damaged, reason);
        }
        Err(error) => return Err(error),
    };
    if root != manifest.root {
        let reason = format!("its root is {}; the log has {root}", manifest.root);
        return because(SnapshotClass::Abandoned, reason);
    }
    let dir = found.path.join(ENGINE_DIR);
    match reference.engines.check(&dir, Some(&manifest.files), CheckLevel::Names) {
        Ok(()) => Ok((SnapshotClass::Valid, None)),
        Err(error) if error.kind().is_system_failure() => Err(error),
        Err(error) => because(SnapshotClass::Damaged, error.to_string()),
    }
}

impl Classified {
    /// What users see of it.
    pub(crate) fn info(&self, fs: &dyn Fs) -> Result<SnapshotInfo> {
        let manifest = self.found.manifest.as_ref();
        let files = manifest.map_or(&[][..], |manifest| &manifest.files);
        let mut shared_bytes = 0;
        for file in files.iter().filter(|file| file.is_linked) {
            let path = self.found.path.join(ENGINE_DIR).join(&file.name);
            match fs.metadata(&path) {
                Ok(metadata) if metadata.links > 1 => shared_bytes += file.len,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("stat", &path, error)),
            }
        }
        Ok(SnapshotInfo {
            version: self.found.version,
            root: manifest.map_or(None, |manifest| Some(manifest.root)),
            class: self.class,
            reason: self.reason.clone(),
            created: manifest.map_or(None, |manifest| Some(manifest.created)),
            bytes: files.iter().map(|file| file.len).sum(),
            shared_bytes,
            path: self.found.path.clone(),
        })
    }
}
