//! The clones in which views are replayed that outgrow memory: directories `views/<random>`.
//!
//! A clone belongs to the call that made it, in whatever process, which holds an exclusive lock of
//! the directory and removes it before it returns. What a killed process left is not locked: the
//! next clone that is made, and the writer's next open, removes it. Nothing in a clone has to be
//! durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{Env, Error, FileKind, FileLock, Fs, LockKind, Result, exists_as, sync_parent};

use crate::dirs::{Dirs, create_dir, remove_tree};
use crate::files::{is_view_clone_name, view_clone_name};
use crate::snapshot::take::ENGINE_DIR;

/// The directory of a clone, until this is dropped.
#[derive(Debug)]
pub(crate) struct ViewClone {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    _lock: Box<dyn FileLock>,
}

impl ViewClone {
    /// A new directory without an engine, when those that killed processes left have been removed.
    /// `None` if somebody else, who did the same, took it for one of them.
    pub(crate) fn create(env: &Env, dirs: &Dirs) -> Result<Option<Self>> {
        let (fs, views) = (Arc::clone(&env.fs), dirs.views());
        match fs.create_dir(&views) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create directory", &views, error));
            }
            _ => {}
        }
        remove_orphans(&*fs, &views);
        let dir = views.join(view_clone_name(env.random_u64()?));
        create_dir(&*fs, &dir)?;
        let lock = lock(&*fs, &dir)?;
        let is_ours = lock.is_some() && exists_as(&*fs, &dir, FileKind::Dir)?;
        Ok(lock.filter(|_| is_ours).map(|lock| Self { fs, dir, _lock: lock }))
    }

    /// Where the engine is, which the caller makes.
    pub(crate) fn engine_dir(&self) -> PathBuf {
        self.dir.join(ENGINE_DIR)
    }
}

impl Drop for ViewClone {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&*self.fs, &self.dir) {
            tracing::warn!(%error, "the clone of a view stays until the next one is made");
        }
    }
}

/// Removes the clones that killed processes left. They are in nobody's way: what cannot be removed,
/// such as another user's, stays.
fn remove_orphans(fs: &dyn Fs, views: &Path) {
    let warn = |error: Error| tracing::warn!(%error, "clones of views that nobody uses stay");
    let entries = match fs.list(views) {
        Ok(entries) => entries,
        Err(error) => return warn(Error::io("list", views, error)),
    };
    for entry in entries {
        if entry.kind == FileKind::Dir
            && is_view_clone_name(&entry.name)
            && let Err(error) = remove_orphan(fs, &views.join(entry.name))
        {
            warn(error);
        }
    }
}

/// Removes a clone that a killed process left; returns `false` if one that lives is using it.
pub(crate) fn remove_orphan(fs: &dyn Fs, dir: &Path) -> Result<bool> {
    let Some(_lock) = lock(fs, dir)? else { return Ok(false) };
    remove_tree(fs, dir)?;
    sync_parent(fs, dir)?;
    Ok(true)
}

/// The lock of a clone; `None` if another has it, or if the clone is gone.
fn lock(fs: &dyn Fs, dir: &Path) -> Result<Option<Box<dyn FileLock>>> {
    match fs.try_lock(dir, LockKind::Exclusive) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        locked => locked.map_err(|e| Error::io("lock", dir, e)),
    }
}
