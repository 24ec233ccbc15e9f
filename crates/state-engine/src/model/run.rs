//! The files of a model engine: sorted runs, and the manifest that names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lithdb_env::{
    Error, ErrorKind, Fs, Result, read_file, remove_best_effort, replace_file, write_all_at,
};
use lithdb_segment::envelope::{self, Magic};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::engine::EngineFile;
use crate::files;

/// The name of the manifest.
pub(super) const MANIFEST: &str = "manifest";
const MANIFEST_MAGIC: Magic = Magic(*b"LITHMODL");
const RUN_MAGIC: Magic = Magic(*b"LITHMRUN");
/// No file of a model engine is larger.
const MAX_FILE_LEN: u64 = 65 << 20;

/// The rows of a memtable or a run; `None` for what was deleted.
pub(super) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// What the engine consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The moment of the last row.
    pub(super) moment: u64,
    /// From the oldest to the newest.
    pub(super) runs: Vec<Run>,
}

/// A sorted file, never written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) len: u64,
    pub(super) digest: u128,
}

/// The id of the run with that file name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let Ok(id) = name.strip_prefix("run-")?.parse() else { return None };
    (name_of(id) == name).then_some(id)
}

/// The file name of a run.
pub(super) fn name_of(id: u64) -> String {
    format!("run-{id}")
}

impl Manifest {
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let bytes = read_file(fs, &path, MAX_FILE_LEN).map_err(|e| Error::io("read", &path, e))?;
        envelope::decode_file(MANIFEST_MAGIC, &path, &bytes)
    }

    /// Links the runs of the engine in `dir`, whose manifest this is, and copies the manifest, into
    /// the empty directory `into`, and syncs it.
    ///
    /// # Errors
    /// `Missing` or `Corrupt` if it is not the engine's manifest any more.
    pub(super) fn copy(&self, fs: &dyn Fs, dir: &Path, into: &Path) -> Result<Vec<EngineFile>> {
        let mut list = Vec::new();
        for run in &self.runs {
            files::link(fs, &run.path(dir), &run.path(into))?;
            let (name, len, digest) = (name_of(run.id), run.len, run.digest);
            list.push(EngineFile { name, len, digest, is_linked: true });
        }
        let (len, digest) = files::copy(fs, &dir.join(MANIFEST), &into.join(MANIFEST))?;
        list.push(EngineFile { name: MANIFEST.to_owned(), len, digest, is_linked: false });
        if Self::read(fs, into)? != *self {
            let message = "the copy differs from the engine; somebody else is writing to it";
            return Err(Error::at(ErrorKind::Corrupt, into, message));
        }
        files::sync_dir(fs, into)?;
        Ok(list)
    }

    /// Replaces the manifest on disk; durable when this returns.
    pub(super) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        let bytes = envelope::encode(MANIFEST_MAGIC, self)?;
        replace_file(fs, &dir.join(MANIFEST), &bytes)
    }
}

impl Run {
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(name_of(self.id))
    }

    /// Writes a new file and makes it durable, its name included. Without space nothing was done.
    pub(super) fn write(fs: &dyn Fs, dir: &Path, id: u64, rows: &Changes) -> Result<Self> {
        let rows: Vec<(&[u8], Option<&[u8]>)> =
            rows.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
        let bytes = envelope::encode(RUN_MAGIC, &rows)?;
        let run = Self { id, len: bytes.len() as u64, digest: xxh3_128(&bytes) };
        let path = run.path(dir);
        let file = fs.create_new(&path).map_err(|e| Error::io("create", &path, e))?;
        let written = write_all_at(&*file, &bytes, 0)
            .map_err(|e| Error::failed_new_write("write", &path, e))
            .and_then(|()| file.sync_all().map_err(|e| Error::failed_new_write("sync", &path, e)))
            .and_then(|()| fs.sync_dir(dir).map_err(|e| Error::failed_dir_sync(dir, e)));
        if written.is_err() {
            remove_best_effort(fs, &path);
        }
        written.map(|()| run)
    }

    /// Reads and checks the file.
    pub(super) fn read(&self, fs: &dyn Fs, dir: &Path) -> Result<Changes> {
        let path = self.path(dir);
        let bytes = read_file(fs, &path, MAX_FILE_LEN).map_err(|e| Error::io("read", &path, e))?;
        let found = (bytes.len() as u64, xxh3_128(&bytes));
        if found != (self.len, self.digest) {
            let describe = |len, digest| format!("{len} bytes with the digest {digest:032x}");
            let expected = describe(self.len, self.digest);
            return Err(Error::corrupt(&path, 0, &expected, &describe(found.0, found.1)));
        }
        let rows: Vec<(Vec<u8>, Option<Vec<u8>>)> =
            envelope::decode_file(RUN_MAGIC, &path, &bytes)?;
        Ok(rows.into_iter().map(|(key, value)| (key.into(), value.map(Bytes::from))).collect())
    }
}
