//! What has to be true before `lsm-tree` may open a directory.
//!
//! `lsm-tree` reads `current` (which manifest is valid) and `v<N>` (that manifest) without
//! comparing their checksums, and reserves memory by lengths that it finds there. It removes every
//! table that the manifest does not name and every other manifest, whatever it was opened for.
//!
//! ```text
//! current      N u64, xxh3-128 of `v<N>`, kind u8 = 0
//! v<N>         an archive; section `tables`: levels u8, each: runs u8, each: tables u32,
//!              each: id u64, kind u8 = 0, xxh3-128 of `tables/<id>`, offset of seqnos u64
//! tables/<id>  an archive
//! .tmp??????   a new `current` that was not renamed
//! ```

use std::path::Path;

use lithdb_env::{
    DirEntry, Error, ErrorKind, FileKind, Fs, OpenMode, Result, read_exact_at, read_file,
    remove_if_exists, zeroed,
};
use xxhash_rust::xxh3::xxh3_128;

use super::TABLES;
use super::archive::{self, Fields, Section};
use crate::engine::EngineFile;
use crate::files;

/// The name of the file that says which manifest is valid.
pub(super) const CURRENT: &str = "current";
/// The length of `current`.
const CURRENT_LEN: usize = 25;
/// The longest manifest: about a million tables.
const MAX_MANIFEST_LEN: u64 = 64 << 20;

/// Which manifest is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) version: u64,
    pub(super) digest: u128,
}

/// A manifest that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) current: Current,
    pub(super) tables: Vec<TableFile>,
}

/// A table that a manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableFile {
    pub(super) id: u64,
    pub(super) digest: u128,
}

impl TableFile {
    /// The name below the engine's directory.
    pub(super) fn name(self) -> String {
        format!("{TABLES}/{}", self.id)
    }
}

impl Current {
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Result<Self> {
        let path = dir.join(CURRENT);
        let bytes = read_small(fs, &path, CURRENT_LEN as u64)?;
        let mut fields = Fields { rest: &bytes };
        let parsed = (fields.u64(), fields.u128(), fields.u8(), fields.rest.is_empty());
        let (Some(version), Some(digest), Some(0), true) = parsed else {
            let found = format!("{} bytes that are none", bytes.len());
            return Err(Error::corrupt(&path, 0, "the number and digest of a manifest", &found));
        };
        Ok(Self { version, digest })
    }

    /// The name of the manifest.
    pub(super) fn manifest_name(self) -> String {
        format!("v{}", self.version)
    }
}

impl Manifest {
    /// Reads the valid manifest of the engine in `dir` and checks it.
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Result<Self> {
        let current = Current::read(fs, dir)?;
        let path = dir.join(current.manifest_name());
        let bytes = read_small(fs, &path, MAX_MANIFEST_LEN)?;
        let found = xxh3_128(&bytes);
        if found != current.digest {
            let expected = format!("digest {:032x}", current.digest);
            return Err(Error::corrupt(&path, 0, &expected, &format!("{found:032x}")));
        }
        let sections = archive::sections(&path, bytes.len() as u64, &|pos, len| {
            let part = bytes.get(pos as usize..).and_then(|rest| rest.get(..len));
            Ok(part.map(<[u8]>::to_vec).unwrap_or_default())
        })?;
        match parse(&bytes, &sections) {
            Some(tables) => Ok(Self { current, tables }),
            None => {
                let message = "expected a manifest of lsm-tree 3 without blob files; it was written by another version: export the state with that version and import it";
                Err(Error::at(ErrorKind::Unsupported, &path, message))
            }
        }
    }

    /// Checks what `lsm-tree` believes of each table.
    pub(super) fn check_tables(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        self.tables.iter().try_for_each(|table| check_table(fs, &dir.join(table.name())))
    }

    /// Compares every table with the manifest, and the manifest with `files`, whose bytes somebody
    /// else reads.
    pub(super) fn check_digests(
        &self,
        fs: &dyn Fs,
        dir: &Path,
        files: &[EngineFile],
    ) -> Result<()> {
        for table in &self.tables {
            let (name, path) = (table.name(), dir.join(table.name()));
            let found = match files.iter().find(|file| file.name == name) {
                Some(file) => file.digest,
                None => files::digest_of(fs, &path)?.1,
            };
            if found != table.digest {
                let expected = format!("digest {:032x}", table.digest);
                return Err(Error::corrupt(&path, 0, &expected, &format!("{found:032x}")));
            }
        }
        Ok(())
    }

    /// `Foreign` if `lsm-tree` would remove something from `dir`, which must not be changed.
    pub(super) fn require_no_orphans(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        let own = self.current.manifest_name();
        let is_orphan = |entry: &DirEntry| entry.name.starts_with('v') && entry.name != own;
        let tables = dir.join(TABLES);
        let is_orphan_table =
            |entry: &DirEntry| self.tables.iter().all(|table| entry.name != table.id.to_string());
        let orphan = list(fs, dir)?
            .into_iter()
            .find(is_orphan)
            .map(|entry| dir.join(entry.name))
            .or(list(fs, &tables)?.into_iter().find(is_orphan_table).map(|e| tables.join(e.name)));
        match orphan {
            None => Ok(()),
            Some(path) => {
                let message = "the engine's manifest does not name it; open the engine for writing, which removes what an interrupted write left";
                Err(Error::at(ErrorKind::Foreign, &path, message))
            }
        }
    }
}

/// Removes the temporary files that an interrupted switch of manifests left: `lsm-tree` removes
/// its other leftovers itself when it opens a directory.
pub(super) fn remove_leftovers(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for entry in list(fs, dir)? {
        let is_leftover = entry.kind == FileKind::File
            && entry.name.len() == 10
            && entry
                .name
                .strip_prefix(".tmp")
                .is_some_and(|random| random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if is_leftover {
            remove_if_exists(fs, &dir.join(entry.name))?;
        }
    }
    Ok(())
}

fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<DirEntry>> {
    fs.list(dir).map_err(|e| Error::io("list", dir, e))
}

/// Reads a whole file; one that is too long is `Corrupt`.
fn read_small(fs: &dyn Fs, path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_file(fs, path, limit).map_err(|error| {
        let is_corrupt = error.kind() == std::io::ErrorKind::FileTooLarge;
        let error = Error::io("read", path, error);
        if is_corrupt { error.with_kind(ErrorKind::Corrupt) } else { error }
    })
}

fn parse(bytes: &[u8], sections: &[Section]) -> Option<Vec<TableFile>> {
    let section = |name: &str| {
        let section = sections.iter().find(|section| section.name == name.as_bytes())?;
        bytes.get(section.pos as usize..)?.get(..section.len as usize)
    };
    let is_standard = section("format_version")? == [3] && section("tree_type")? == [0];
    let blob_files = Fields { rest: section("blob_files")? }.u32()?;
    if !is_standard || blob_files != 0 {
        return None;
    }
    let mut fields = Fields { rest: section("tables")? };
    let mut tables = Vec::new();
    for _ in 0..fields.u8()? {
        for _ in 0..fields.u8()? {
            for _ in 0..fields.u32()? {
                let (id, kind, digest) = (fields.u64()?, fields.u8()?, fields.u128()?);
                let seqno_offset = fields.u64()?;
                if (kind, seqno_offset) != (0, 0) {
                    return None;
                }
                tables.push(TableFile { id, digest });
            }
        }
    }
    fields.rest.is_empty().then_some(tables)
}

fn check_table(fs: &dyn Fs, path: &Path) -> Result<()> {
    let file = fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))?;
    let len = file.len().map_err(|e| Error::io("stat", path, e))?;
    archive::sections(path, len, &|pos, len| {
        let mut part = zeroed(len).map_err(|e| Error::io("read", path, e))?;
        read_exact_at(&*file, &mut part, pos).map_err(|e| Error::io("read", path, e))?;
        Ok(part)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use lithdb_env::OsFs;

    use super::*;
    use crate::engine::Engines;
    use crate::{LsmEngines, LsmOptions};

    #[test]
    fn manifest_names_the_version_of_the_crate_that_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let (engines, path) = (LsmEngines::new(LsmOptions::default()), dir.path().join("engine"));
        drop(engines.create(&path).unwrap());
        let manifest = Manifest::read(&OsFs, &path).unwrap();
        assert_eq!(manifest, Manifest { current: manifest.current, tables: Vec::new() });
        let bytes = read_small(&OsFs, &path.join("v0"), MAX_MANIFEST_LEN).unwrap();
        let version = engines.kind().version.into_bytes();
        assert!(bytes.windows(version.len()).any(|window| window == version));
    }
}
