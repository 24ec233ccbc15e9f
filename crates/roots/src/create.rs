//! Creates a database in its roots, and renews their generation. Callers hold the locks of all
//! roots, except while they create the directories: without those there is nothing to lock.
//!
//! Recovery relies on the write ordering. Creation: all other roots with sequence 0 → durable;
//! root 0 with sequence 1 → durable, which is the commit point; the rest is a renewal. Renewal:
//! root 0 with the next, odd sequence → durable; the others with the even one after that →
//! durable, root by root; root 0 with the even one → durable.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use lithdb_env::{
    Env, Error, Fs, OpenMode, Result, exists, remove_if_exists, replacement_path, sync_parent,
};

use super::locks::LOCK_FILE;
use super::root_id::{ROOT_ID_FILE, RootId};

/// Creates the directories that do not exist, durably.
pub(super) fn create_dirs(fs: &dyn Fs, roots: &[PathBuf]) -> Result<()> {
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

/// `root` and its ancestors that do not exist, the deepest first.
fn absent_dirs<'a>(fs: &dyn Fs, root: &'a Path) -> Result<Vec<&'a Path>> {
    let mut absent = Vec::new();
    for dir in root.ancestors() {
        if exists(fs, dir).map_err(|e| Error::io("stat", dir, e))? {
            break;
        }
        absent.push(dir);
    }
    Ok(absent)
}

/// Syncs the ancestors of the roots: a process that was killed may have created one and not synced
/// it. Ancestors without permission are skipped.
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

/// Refuses a file system that cannot reserve space: a put is accepted only once its space is
/// reserved.
pub(super) fn require_reservation(fs: &dyn Fs, root: &Path) -> Result<()> {
    let path = root.join(LOCK_FILE);
    let file = fs.open(&path, OpenMode::ReadWrite).map_err(|e| Error::io("open", &path, e))?;
    file.allocate(0, 4096).map_err(|e| Error::failed_reservation(&path, e))
}

/// Creates a database in `roots`, of which the first becomes root 0, and returns the id of root 0.
pub(super) fn create(env: &Env, roots: &[PathBuf]) -> Result<RootId> {
    let fs = &*env.fs;
    roots.iter().try_for_each(|root| require_reservation(fs, root))?;
    let others = RootId { sequence: 0, ..RootId::fresh(env, roots.len())? };
    // A single root has no other to compare with, so it needs no renewal.
    let sequence = if roots.len() == 1 { 2 } else { 1 };
    let first = RootId { sequence, token: env.random_u64()?, ..others.clone() };
    let id = |number| match number {
        0 => first.clone(),
        _ => RootId { number, ..others.clone() },
    };
    let ids: Vec<RootId> = (0..).zip(roots).map(|(number, _)| id(number)).collect();
    // In reverse: root 0 is written last.
    roots.iter().zip(&ids).rev().try_for_each(|(root, id)| id.create(fs, root))?;
    renew(env, roots, &ids)?;
    Ok(first)
}

/// Removes unfinished replacements of `root.id`, and makes the directory entries of the roots
/// durable.
pub(super) fn remove_leftovers(fs: &dyn Fs, roots: &[PathBuf]) -> Result<()> {
    for root in roots {
        remove_if_exists(fs, &replacement_path(&root.join(ROOT_ID_FILE)))?;
        fs.sync_dir(root).map_err(|e| Error::io("sync directory", root, e))?;
    }
    Ok(())
}

/// Gives all roots a new generation, or finishes an interrupted renewal (or creation). Writes
/// every root, even one that already has the new contents: what was read may be in the page cache
/// only.
pub(super) fn renew(env: &Env, roots: &[PathBuf], ids: &[RootId]) -> Result<()> {
    let ([root_0, other_roots @ ..], [first, others @ ..]) = (roots, ids) else { return Ok(()) };
    if others.is_empty() {
        return Ok(());
    }
    let fs = &*env.fs;
    let begun = if first.is_renewing() {
        tracing::warn!(roots = ?roots, "finishing an interrupted renewal of the roots");
        first.clone()
    } else {
        let (sequence, token) = (first.sequence + 1, env.random_u64()?);
        RootId { sequence, token, previous_token: first.token, ..first.clone() }
    };
    let renewed =
        |id: &RootId| RootId { number: id.number, sequence: begun.sequence + 1, ..begun.clone() };
    begun.write(fs, root_0)?;
    for (root, id) in other_roots.iter().zip(others) {
        renewed(id).write(fs, root)?;
    }
    renewed(first).write(fs, root_0)
}
