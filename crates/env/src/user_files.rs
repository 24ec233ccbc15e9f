//! Files outside the database that a user names on a command line.
//!
//! These functions follow symbolic links, and read and write sequentially what has no positions
//! (pipes, terminals, devices). Database files never use them, so [`Fs`](crate::Fs) sees every
//! operation on the database.

// File access belongs to this crate.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::fs::Metadata;
use crate::os::{OsFs, describe};

impl OsFs {
    /// Returns the metadata of the target of `path`, following symbolic links. `NotFound` also for
    /// a dangling link.
    pub fn describe(&self, path: &Path) -> io::Result<Metadata> {
        Ok(describe(&fs::metadata(path)?))
    }

    /// Opens `path` for sequential reading and returns its metadata. Opening a pipe blocks until
    /// there is a writer.
    pub fn reader(&self, path: &Path) -> io::Result<(impl Read + use<>, Metadata)> {
        let file = fs::File::open(path)?;
        let metadata = describe(&file.metadata()?);
        Ok((file, metadata))
    }

    /// Opens `path` for sequential writing. Opening a pipe blocks until there is a reader.
    pub fn writer(&self, path: &Path) -> io::Result<impl Write + use<>> {
        fs::OpenOptions::new().write(true).open(path)
    }

    /// Copies the permissions of `from` to `to`.
    pub fn copy_permissions(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::set_permissions(to, fs::metadata(from)?.permissions())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{FileKind, Fs, write_all_at};

    #[test]
    fn symlinks_are_followed_and_pipes_are_streamed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write_all_at(&*OsFs.create_new(&file).unwrap(), b"content", 0).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(OsFs.metadata(&link).unwrap().kind, FileKind::Symlink);
        assert_eq!(OsFs.describe(&link).unwrap(), OsFs.metadata(&file).unwrap());
        let (mut reader, metadata) = OsFs.reader(&link).unwrap();
        let mut content = String::new();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), metadata.len_bytes), ("content", 7));
        OsFs.writer(Path::new("/dev/null")).unwrap().write_all(b"anything").unwrap();
        let (_, metadata) = OsFs.reader(Path::new("/dev/null")).unwrap();
        assert_eq!(metadata.kind, FileKind::Other);
    }

    #[test]
    fn a_file_gets_the_permissions_of_another() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for path in [&from, &to] {
            OsFs.create_new(path).unwrap();
        }
        fs::set_permissions(&from, fs::Permissions::from_mode(0o600)).unwrap();
        OsFs.copy_permissions(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_marked() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"n\xff"[..], "n\u{fffd}".as_bytes()] {
            OsFs.create_new(&dir.path().join(std::ffi::OsStr::from_bytes(name))).unwrap();
        }
        let mut listed = OsFs.list(dir.path()).unwrap();
        listed.sort_by_key(|entry| entry.is_exact);
        let names: Vec<_> = listed.iter().map(|e| (e.name.as_str(), e.is_exact)).collect();
        assert_eq!(names, [("n\u{fffd}", false), ("n\u{fffd}", true)]);
    }
}
