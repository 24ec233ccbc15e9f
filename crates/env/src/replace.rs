//! Atomic replacement of whole files, and the leftovers of interrupted replacements.
//!
//! A replacement is written to `NAME.new`, synced and renamed. After a crash the file holds the
//! old bytes or the new ones, never a mixture.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{Fs, write_all_at};

/// The suffix of the temporary file that a replacement is written to.
pub const LEFTOVER_SUFFIX: &str = ".new";

/// The path of the temporary file that the replacement of `path` is written to.
pub fn replacement_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(LEFTOVER_SUFFIX);
    path.with_file_name(name)
}

/// If `name` is a leftover of an interrupted replacement, the name of the file to be replaced. The
/// caller decides whether that name is one of its own: leftovers are recognised by exact name
/// only.
pub fn leftover_of(name: &str) -> Option<&str> {
    name.strip_suffix(LEFTOVER_SUFFIX)
}

/// Replaces (or creates) `path` with `bytes`: writes a temporary file, syncs it, renames it over
/// the old one and syncs the directory. After a crash the file holds all of the old bytes or all
/// of the new ones.
///
/// # Errors
/// The old file is unchanged, unless the last step, the directory sync, failed: that latches (even
/// for a lack of space), and a crash may leave either version. Without space for the temporary
/// file nothing was done.
pub fn replace_file(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<()> {
    let new = replacement_path(path);
    write_replacement(fs, &new, bytes)?;
    fs.rename(&new, path).map_err(|e| Error::failed_new_write("rename into place", path, e))?;
    sync_parent(fs, path)
}

fn write_replacement(fs: &dyn Fs, new: &Path, bytes: &[u8]) -> Result<()> {
    remove_if_exists(fs, new)?;
    let file = fs.create_new(new).map_err(|e| Error::io("create", new, e))?;
    let written = write_all_at(&*file, bytes, 0)
        .map_err(|e| Error::failed_new_write("write", new, e))
        .and_then(|()| file.sync_all().map_err(|e| Error::failed_new_write("sync", new, e)));
    if written.is_err() {
        remove_best_effort(fs, new);
    }
    written
}

/// Removes a file that nothing refers to; a failure is ignored. If the file remains, the next open
/// recognises it by its name and removes it.
#[expect(clippy::let_underscore_must_use, reason = "nothing depends on the removal")]
pub fn remove_best_effort(fs: &dyn Fs, path: &Path) {
    let _ = fs.remove_file(path);
}

/// Removes a file if it exists.
pub fn remove_if_exists(fs: &dyn Fs, path: &Path) -> Result<()> {
    match fs.remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the directory entry of `path` durable.
pub fn sync_parent(fs: &dyn Fs, path: &Path) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs.sync_dir(dir).map_err(|e| Error::failed_dir_sync(dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::read_file;
    use crate::os::OsFs;

    #[test]
    fn replacement_leaves_one_file_with_the_new_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace_file(&OsFs, &path, b"one").unwrap();
        replace_file(&OsFs, &path, b"two and more").unwrap();
        assert_eq!(read_file(&OsFs, &path, 100).unwrap(), b"two and more");
        assert_eq!(OsFs.list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn leftover_of_interrupted_replacement_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let leftover = OsFs.create_new(&replacement_path(&path)).unwrap();
        write_all_at(&*leftover, b"half of someth", 0).unwrap();
        replace_file(&OsFs, &path, b"new").unwrap();
        assert_eq!(read_file(&OsFs, &path, 100).unwrap(), b"new");
        assert_eq!(leftover_of("state.new"), Some("state"));
        assert_eq!(leftover_of("state"), None);
    }
}
