//! Copies of an engine by hard links.
//!
//! A table is written once, synced, and never again: it is linked. A manifest is a whole file, but
//! `lsm-tree` truncates an old one of the same name before it writes: it is copied, and so is
//! `current`. The copy holds nothing else, because opening it would remove what its manifest does
//! not name.

use std::path::Path;

use lithdb_env::{Error, ErrorKind, Fs, Result};

use super::TABLES;
use super::guard::{CURRENT, Manifest};
use crate::engine::EngineFile;
use crate::files;

/// Links and copies the files of the engine in `dir`, which is at `version` and at rest, into the
/// empty directory `into`.
pub(super) fn checkpoint(
    fs: &dyn Fs,
    dir: &Path,
    version: u64,
    into: &Path,
) -> Result<Vec<EngineFile>> {
    files::require_empty(fs, into)?;
    let manifest = Manifest::read(fs, dir)?;
    if manifest.current.version != version {
        let found = format!("manifest {}", manifest.current.version);
        return Err(Error::corrupt(&dir.join(CURRENT), 0, &format!("manifest {version}"), &found));
    }
    copy(fs, dir, &manifest, into)
}

/// Links and copies the files that a manifest of the engine in `dir` names into the empty directory
/// `into`.
///
/// # Errors
/// `Missing` or `Corrupt` if it is not the manifest of the engine any more.
pub(super) fn copy(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    into: &Path,
) -> Result<Vec<EngineFile>> {
    let tables = into.join(TABLES);
    fs.create_dir(&tables).map_err(|e| Error::io("create directory", &tables, e))?;
    let mut list = Vec::new();
    for table in &manifest.tables {
        let (name, link) = (table.name(), into.join(table.name()));
        files::link(fs, &dir.join(&name), &link)?;
        let len = fs.metadata(&link).map_err(|e| Error::io("stat", &link, e))?.len_bytes;
        list.push(EngineFile { name, len, digest: table.digest, is_linked: true });
    }
    files::sync_dir(fs, &tables)?;
    let manifest_name = manifest.current.manifest_name();
    for name in [manifest_name.as_str(), CURRENT] {
        let (len, digest) = files::copy(fs, &dir.join(name), &into.join(name))?;
        list.push(EngineFile { name: name.to_owned(), len, digest, is_linked: false });
    }
    // The copies are what was read before: nobody has replaced the files meanwhile.
    if Manifest::read(fs, into)? != *manifest {
        let message = "the copy differs from the engine; somebody else is writing to it";
        return Err(Error::at(ErrorKind::Corrupt, into, message));
    }
    files::sync_dir(fs, into)?;
    Ok(list)
}
