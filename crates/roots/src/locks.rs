//! `lith.lock` of every root: the writer holds it exclusively and writes its process id into it.
//! Readers take no lock: nothing that a writer does changes what they rely on.
//!
//! Lock files are never removed: a lock on a removed file excludes no other process. In case
//! somebody removes one anyway, the writer also locks the root directory itself. Locks are taken
//! in root order.

use std::io;
use std::path::{Path, PathBuf};

use lithdb_env::human::parsed;
use lithdb_env::{
    Error, ErrorKind, File, FileKind, FileLock, Fs, LockKind, Result, read_file, write_all_at,
};

use super::Access;
use lithdb_env::exists_as;

pub(super) const LOCK_FILE: &str = "lith.lock";

/// Locks, in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct HeldLocks(Vec<Box<dyn FileLock>>);

impl HeldLocks {
    /// Takes over the locks of `other`.
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

impl Drop for HeldLocks {
    fn drop(&mut self) {
        // The last one first: a process that gets the first lock then gets the others, too.
        while self.0.pop().is_some() {}
    }
}

/// Takes the writer lock of every root. With `Access::Read` it creates no lock file: where there
/// is none, nobody holds the lock.
pub(super) fn take(fs: &dyn Fs, roots: &[PathBuf], access: Access) -> Result<HeldLocks> {
    let mut held = HeldLocks::default();
    for root in roots {
        held.0.extend(lock_directory(fs, root)?);
        let path = root.join(LOCK_FILE);
        if access == Access::Write {
            ensure_file(fs, &path)?;
        } else if !exists_as(fs, &path, FileKind::File)? {
            continue;
        }
        let lock = fs.try_lock(&path, LockKind::Exclusive);
        let lock = lock.map_err(|e| Error::io("lock", &path, e))?;
        let lock = lock.ok_or_else(|| locked(fs, root))?;
        if access == Access::Write {
            write_process_id(lock.file(), &path)?;
        }
        held.0.push(lock);
    }
    Ok(held)
}

/// Refuses a lock file that is not a regular file, for callers that take no lock.
pub(super) fn check_files(fs: &dyn Fs, roots: &[PathBuf]) -> Result<()> {
    roots
        .iter()
        .try_for_each(|root| exists_as(fs, &root.join(LOCK_FILE), FileKind::File).map(|_exists| ()))
}

/// Locks the directory itself. Some network file systems lock files only; there, the lock file
/// must suffice.
fn lock_directory(fs: &dyn Fs, root: &Path) -> Result<Option<Box<dyn FileLock>>> {
    match fs.try_lock(root, LockKind::Exclusive) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(locked(fs, root)),
        Err(error) if locks_files_only(&error) => {
            tracing::warn!(root = %root.display(), %error, "cannot lock the root directory itself");
            Ok(None)
        }
        Err(error) => Err(Error::io("lock", root, error)),
    }
}

/// NFS returns `EBADF` or `ENOLCK`.
fn locks_files_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || matches!(error.raw_os_error(), Some(9 | 37 | 95))
}

fn locked(fs: &dyn Fs, root: &Path) -> Error {
    Error::new(
        ErrorKind::Locked,
        format!(
            "{} is open for writing in {}; close it there, or open it for reading",
            root.display(),
            holder(fs, &root.join(LOCK_FILE))
        ),
    )
}

/// Creates an empty file unless it exists.
fn ensure_file(fs: &dyn Fs, path: &Path) -> Result<()> {
    if exists_as(fs, path, FileKind::File)? {
        return Ok(());
    }
    match fs.create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("create", path, error))
        }
        _ => Ok(()),
    }
}

/// Writes this process's id into a lock file. It writes the line before it truncates the file
/// after it, so it needs no space that the file does not already have: opening works on a full
/// disk.
fn write_process_id(file: &dyn File, path: &Path) -> Result<()> {
    let line = format!("{}\n", std::process::id());
    let written = write_all_at(file, line.as_bytes(), 0)
        .and_then(|()| file.set_len(line.len() as u64))
        .map_err(|e| Error::io("write", path, e));
    match written {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            tracing::warn!(%error, "no space to write the process id into the lock file");
            Ok(())
        }
        written => written,
    }
}

/// The holder of a lock, as its lock file names it, for a message.
fn holder(fs: &dyn Fs, path: &Path) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "for a message only: an unreadable holder stays unnamed"
    )]
    let bytes = read_file(fs, path, 64).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    match text.lines().next().and_then(|line| parsed::<u32>(line.trim())) {
        Some(pid) if pid == std::process::id() => format!("this process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process (with no process id in the lock file)".to_owned(),
    }
}
