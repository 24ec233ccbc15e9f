//! The directories of a store: where things are, and how directories are made and removed.
//!
//! Removing a directory goes through `trash`: one rename takes it out of the way durably, and what
//! a crash leaves there is removed at the next open.

use std::io;
use std::path::{Path, PathBuf};

use lithdb_env::{
    Env, Error, ErrorKind, FileKind, FileLock, Fs, LockKind, Result, exists_as, sync_parent,
    write_all_at,
};

use crate::files::{new_snapshot_name, snapshot_name, trash_name};

/// The directory of the engine in a flat layout.
pub(crate) const FLAT_DIR: &str = "engine";

/// The paths of a store.
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    root: PathBuf,
}

impl Dirs {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Locked by the one writer.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("state.lock")
    }

    /// Names the newest snapshot, for people and scripts.
    pub(crate) fn current(&self) -> PathBuf {
        self.root.join("CURRENT")
    }

    pub(crate) fn id(&self) -> PathBuf {
        self.root.join("state.id")
    }

    /// The database of the log, if it is the store's own.
    pub(crate) fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn snapshot(&self, version: u64) -> PathBuf {
        self.snapshots().join(snapshot_name(version))
    }

    /// A snapshot that is being made.
    pub(crate) fn new_snapshot(&self, version: u64) -> PathBuf {
        self.snapshots().join(new_snapshot_name(version))
    }

    pub(crate) fn working(&self) -> PathBuf {
        self.root.join("working")
    }

    /// A working copy that is being made.
    pub(crate) fn new_working(&self) -> PathBuf {
        self.root.join("working.new")
    }

    /// Snapshots of branches that were rolled back.
    pub(crate) fn abandoned(&self) -> PathBuf {
        self.root.join("abandoned")
    }

    /// The engine of a flat layout, which has no log and no snapshots.
    pub(crate) fn flat(&self) -> PathBuf {
        self.root.join(FLAT_DIR)
    }

    /// Clones in which views are replayed that outgrow memory.
    pub(crate) fn views(&self) -> PathBuf {
        self.root.join("views")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// Creates the directory of a store and its ancestors if they do not exist, durably. Links on the
/// way to it are followed; below it, none is.
pub(crate) fn create_root(fs: &dyn Fs, root: &Path) -> Result<()> {
    if root.as_os_str().is_empty() || exists_behind_links(fs, root)? {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        create_root(fs, parent)?;
    }
    create_dir(fs, root)?;
    sync_parent(fs, root)
}

/// Whether `path` exists, or what it links to.
pub(crate) fn exists_behind_links(fs: &dyn Fs, path: &Path) -> Result<bool> {
    match fs.canonicalize(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("find", path, error)),
    }
}

/// Creates `dir` and its ancestors if they do not exist, durably.
pub(crate) fn create_dirs(fs: &dyn Fs, dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() || exists_as(fs, dir, FileKind::Dir)? {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dirs(fs, parent)?;
    }
    create_dir(fs, dir)?;
    sync_parent(fs, dir)
}

/// Creates one directory; the caller makes its name durable.
pub(crate) fn create_dir(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.create_dir(dir).map_err(|e| Error::io("create directory", dir, e))
}

/// Renames and makes both names durable.
pub(crate) fn rename(fs: &dyn Fs, from: &Path, to: &Path) -> Result<()> {
    fs.rename(from, to).map_err(|e| Error::io("rename", from, e))?;
    sync_parent(fs, to)?;
    if from.parent() == to.parent() { Ok(()) } else { sync_parent(fs, from) }
}

/// Moves a directory to the trash, durably, and then removes it. What cannot be removed stays there
/// until the next open.
pub(crate) fn discard(env: &Env, dirs: &Dirs, dir: &Path, what: &str) -> Result<()> {
    create_dirs(&*env.fs, &dirs.trash())?;
    let trashed = dirs.trash().join(trash_name(what, env.random_u64()?));
    rename(&*env.fs, dir, &trashed)?;
    if let Err(error) = remove_tree(&*env.fs, &trashed) {
        tracing::warn!(%error, "the next open removes what is left in the trash");
    }
    Ok(())
}

/// Removes a directory with everything in it, if it exists.
pub(crate) fn remove_tree(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let entries = match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| Error::io("list", dir, e))?,
    };
    for entry in entries {
        let path = dir.join(&entry.name);
        if entry.kind == FileKind::Dir {
            remove_tree(fs, &path)?;
        } else {
            fs.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    fs.remove_dir(dir).map_err(|e| Error::io("remove", dir, e))
}

/// Takes the lock of the one writer, and writes its process id into the lock file.
pub(crate) fn lock(fs: &dyn Fs, dirs: &Dirs) -> Result<Box<dyn FileLock>> {
    let path = dirs.lock();
    if !exists_as(fs, &path, FileKind::File)? {
        match fs.create_new(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::failed_new_write("create", &path, error));
            }
            _ => sync_parent(fs, &path)?,
        }
    }
    let lock = fs.try_lock(&path, LockKind::Exclusive).map_err(|e| Error::io("lock", &path, e))?;
    let lock = lock.ok_or_else(|| {
        let message = "the state store is open in another process or handle: close it, or read it \
                       without opening it for writing";
        Error::at(ErrorKind::Locked, dirs.root(), message)
    })?;
    let id = std::process::id().to_string();
    let file = lock.file();
    file.set_len(0)
        .and_then(|()| write_all_at(file, id.as_bytes(), 0))
        .map_err(|e| Error::failed_new_write("write", &path, e))?;
    Ok(lock)
}
