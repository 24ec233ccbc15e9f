//! Creating a database in its roots, and making good what an interrupted creation left.
//!
//! The order is what recovery relies on: all other roots with `complete` false → durable; root 0 → durable,
//! which is the commit point; the others with `complete` true → durable. All of it happens under the locks of
//! all roots, but for the directories themselves, without which there is nothing to lock.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use lithdb_env::{Env, Error, Fs, Result, exists, remove_if_there, replacement_path, sync_parent};

use super::root_id::{ROOT_ID_FILE, RootId};

/// Creates the directories that are not there, durably.
pub(super) fn make_dirs(fs: &dyn Fs, roots: &[PathBuf]) -> Result<()> {
    for root in roots {
        for dir in absent_dirs(fs, root)?.into_iter().rev() {
            match fs.create_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create directory", dir, e));
                }
                _ => sync_parent(fs, dir)?,
            }
        }
    }
    sync_ancestors(fs, roots)
}

/// `root` and those above it that do not exist, the deepest first.
fn absent_dirs<'a>(fs: &dyn Fs, root: &'a Path) -> Result<Vec<&'a Path>> {
    let mut absent = Vec::new();
    for dir in root.ancestors() {
        if exists(fs, dir).map_err(|e| Error::io("look for", dir, e))? {
            break;
        }
        absent.push(dir);
    }
    Ok(absent)
}

/// A directory that is there may have been created a moment ago by somebody who was killed before it was
/// durable. Those that this user must not open are somebody else's care.
fn sync_ancestors(fs: &dyn Fs, roots: &[PathBuf]) -> Result<()> {
    let above: BTreeSet<&Path> = roots.iter().flat_map(|root| root.ancestors().skip(1)).collect();
    for dir in above {
        match fs.sync_dir(dir) {
            Err(error) if is_not_ours(&error) => {
                tracing::debug!(dir = %dir.display(), %error, "not synced");
            }
            synced => synced.map_err(|e| Error::io("sync directory", dir, e))?,
        }
    }
    Ok(())
}

fn is_not_ours(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidInput // a file system without directory syncs
            | io::ErrorKind::Unsupported
    )
}

/// Creates a database in `roots`, root 0 first, and returns the id of that.
pub(super) fn create(env: &Env, roots: &[PathBuf]) -> Result<RootId> {
    let fs = &*env.fs;
    let database_id = env.random_u64()?;
    let root_ids = roots.iter().map(|_| env.random_u64()).collect::<Result<Vec<u64>>>()?;
    let id = |number| RootId {
        database_id,
        number,
        version: 0,
        complete: number == 0,
        root_ids: root_ids.clone(),
    };
    let all: Vec<(u16, &PathBuf)> = (0..).zip(roots).collect();
    let (root_0, others) = all.split_at_checked(1).unwrap_or_default();
    for (number, root) in others {
        id(*number).write(fs, root)?;
    }
    for (number, root) in root_0 {
        id(*number).write(fs, root)?;
    }
    for (number, root) in others {
        id(*number).completed().write(fs, root)?;
    }
    Ok(id(0))
}

/// Makes the roots of a database what its creation would have made them. Root 0 first: what a process that was
/// killed wrote there may be readable and yet not durable, and the others must not be ahead of it.
pub(super) fn make_good(fs: &dyn Fs, roots: &[PathBuf], ids: &[RootId]) -> Result<()> {
    for root in roots {
        remove_if_there(fs, &replacement_path(&root.join(ROOT_ID_FILE)))?;
        fs.sync_dir(root).map_err(|e| Error::io("sync directory", root, e))?;
    }
    for (root, id) in roots.iter().zip(ids).filter(|(_, id)| !id.complete) {
        tracing::warn!(root = %root.display(), "completing an interrupted creation");
        id.completed().write(fs, root)?;
    }
    Ok(())
}
