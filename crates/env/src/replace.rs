//! Whole-file replacement that is either done or not done, and its leftovers.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{Fs, write_all_at};

/// What is appended to a file's name while its replacement is being written.
pub const LEFTOVER_SUFFIX: &str = ".new";

/// The name under which the replacement of `path` is written.
pub fn replacement_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(LEFTOVER_SUFFIX);
    path.with_file_name(name)
}

/// If `name` is that of an unfinished replacement, the name of the file it was meant for. The caller
/// decides whether that name is one of its own: leftovers are recognised by exact name only.
pub fn leftover_of(name: &str) -> Option<&str> {
    name.strip_suffix(LEFTOVER_SUFFIX)
}

/// Replaces (or creates) `path` with `bytes`: writes a new file, syncs it, renames it over the old one
/// and syncs the directory. After a crash the file holds the old bytes or the new ones, whole.
/// If it fails, the old file is untouched, unless only the last sync failed (which latches, a lack
/// of space included), when either version may be there after a crash. Without room for the new
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

/// Removes a file that nothing refers to, if that works: what stays is recognised by its name, and the next opening
/// discards it.
#[expect(clippy::let_underscore_must_use, reason = "nothing depends on it")]
pub fn remove_best_effort(fs: &dyn Fs, path: &Path) {
    let _ = fs.remove_file(path);
}

/// Removes a file that may not be there.
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
