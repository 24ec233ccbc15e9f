//! The working copy as it is on the disk, for a verification that its writer must not notice.
//!
//! A writer replaces the files of its working copy at any time, and opening them in place would
//! remove what it has just written. So they are linked into a directory of a view's, opened there,
//! and that directory is removed again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_state_engine::{Engine, OpenMode};

use crate::meta::Meta;
use crate::open::working::{engine_dir, read_meta};
use crate::reader::{ATTEMPTS, Reader, is_surprise};
use crate::verify::findings::is_of_the_call;
use crate::view_clone::ViewClone;

/// The rows of a working copy at the version of its newest flush.
pub(super) struct WorkingCopy {
    pub(super) meta: Meta,
    pub(super) engine: Arc<dyn Engine>,
}

/// The entries of an engine's directory: a flush and a compaction replace some of them.
type Entries = Vec<(String, (u64, u64))>;

impl WorkingCopy {
    /// Opens a copy of the working copy of the store of `reader`; `None` if there is none.
    ///
    /// # Errors
    /// Those of reading it, `Missing` and `Corrupt` only if the writer has replaced nothing
    /// meanwhile; those of linking its files.
    pub(super) fn open(reader: &Reader) -> Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let Some(dir) = engine_dir(&*reader.env.fs, &reader.dirs)? else { return Ok(None) };
            let before = entries(reader, &dir)?;
            match open_copy(reader, &dir) {
                Ok(Some(copy)) => return Ok(Some(copy)),
                Ok(None) => {}
                Err(error) if is_surprise(&error) && entries(reader, &dir)? != before => {}
                Err(error) => return Err(error),
            }
        }
        let message = "the files of the working copy are replaced again and again: retry";
        Err(Error::at(ErrorKind::Exhausted, &reader.dirs.working(), message))
    }
}

/// Makes a copy of the working copy and removes it again, to find out whether one can be made: no
/// permission, a read-only file system, no space and no hard links are known before hours of work.
/// What is wrong with the working copy itself is found when it is compared.
pub(super) fn check_copying(reader: &Reader) -> Result<()> {
    match WorkingCopy::open(reader) {
        Err(error) if is_of_the_call(error.kind()) => Err(error),
        _ => Ok(()),
    }
}

/// `None` if somebody took the copy for one that was left.
fn open_copy(reader: &Reader, dir: &Path) -> Result<Option<WorkingCopy>> {
    copy(reader, dir).map_err(|error| {
        let views = reader.dirs.views();
        error.context(format_args!(
            "to be compared by a replay, the working copy is linked into {}, which needs \
             permission to write there, space, and a file system with hard links; without them, \
             verify at another level",
            views.display()
        ))
    })
}

fn copy(reader: &Reader, dir: &Path) -> Result<Option<WorkingCopy>> {
    let Some(clone) = ViewClone::create(&reader.env, &reader.dirs)? else { return Ok(None) };
    let into: PathBuf = clone.engine_dir();
    reader.engines.copy_beside_writer(dir, &into)?;
    let engine = reader.engines.open(&into, OpenMode::ReadInPlace)?;
    let meta = read_meta(&*engine)?;
    Ok(Some(WorkingCopy { meta, engine }))
}

/// Empty if there is no such directory any more.
fn entries(reader: &Reader, dir: &Path) -> Result<Entries> {
    let fs = &reader.env.fs;
    let listed = match fs.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Entries::new()),
        listed => listed.map_err(|e| Error::io("list", dir, e))?,
    };
    let mut entries = Entries::new();
    for entry in listed {
        match fs.metadata(&dir.join(&entry.name)) {
            Ok(metadata) => entries.push((entry.name, metadata.identity)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("stat", &dir.join(&entry.name), error)),
        }
    }
    Ok(entries)
}
