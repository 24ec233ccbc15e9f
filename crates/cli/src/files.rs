//! Reading and writing whole files that are not the database's.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lithdb::env::{Clock, FileKind, Fs, OsClock, OsFs, write_all_at};

/// The longest value.
pub(crate) const MAX_VALUE_LEN: u64 = (1 << 32) - 2;

/// Memory above this is given back after a large file.
const KEEP: usize = 256 << 20;

/// The content of one file after another, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// The whole content of what is at `path`, from front to back: also of a pipe.
    ///
    /// # Errors
    /// What the file system says; `FileTooLarge` for one that is longer than a value can be.
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<&[u8]> {
        if self.bytes.len() > KEEP {
            self.bytes = Vec::new();
        }
        let (mut file, metadata) = OsFs.reader(path)?;
        let mut len = 0;
        // One byte more than expected: whoever gets it knows that the file has grown.
        let mut wanted = metadata.len_bytes.saturating_add(1);
        loop {
            if len as u64 > MAX_VALUE_LEN || wanted > MAX_VALUE_LEN + 1 {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("longer than a value can be ({MAX_VALUE_LEN} bytes)"),
                ));
            }
            if self.bytes.len() < wanted as usize {
                self.bytes.resize(wanted as usize, 0);
            }
            let room = self.bytes.get_mut(len..).unwrap_or_default();
            let got = read_up_to(&mut file, room)?;
            let is_over = got < room.len();
            len += got;
            if is_over {
                return Ok(self.bytes.get(..len).unwrap_or_default());
            }
            wanted = (2 * len as u64).clamp(4096, MAX_VALUE_LEN + 1).max(len as u64 + 1);
        }
    }
}

/// Reads until `room` is full or the end is reached, and says how many bytes were read.
fn read_up_to(file: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes `bytes` as the whole content of what is at `path`, new or not. A regular file (also behind a link) has the old
/// content or the new one, whole, whatever happens; a pipe or a device is written into.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let found = match OsFs.describe(path) {
        Ok(metadata) => metadata.kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if OsFs.metadata(path).is_ok() {
                let message = "a symbolic link that leads to nothing";
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            return put_in_place(path, None, bytes);
        }
        Err(error) => return Err(error),
    };
    match found {
        FileKind::File => {
            let path = OsFs.canonicalize(path)?;
            // One that may not be written may not be replaced either.
            drop(OsFs.writer(&path)?);
            put_in_place(&path, Some(&path), bytes)
        }
        FileKind::Dir => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        FileKind::Symlink | FileKind::Other => {
            let mut target = OsFs.writer(path)?;
            target.write_all(bytes)?;
            target.flush()
        }
    }
}

/// Writes a file beside `path`, with the permissions of the one before it, and renames it.
fn put_in_place(path: &Path, before: Option<&Path>, bytes: &[u8]) -> io::Result<()> {
    let beside = name_beside(path)?;
    let file = OsFs.create_new(&beside)?;
    let done = before
        .map_or(Ok(()), |before| OsFs.copy_permissions(before, &beside))
        .and_then(|()| write_all_at(&*file, bytes, 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| OsFs.rename(&beside, path));
    if done.is_err() {
        // What went wrong with the content says more than that something stays behind.
        let _ = OsFs.remove_file(&beside);
    }
    done
}

fn name_beside(path: &Path) -> io::Result<PathBuf> {
    let number = OsClock::new().random_u64()?;
    Ok(path.with_file_name(format!(".lith-{number:016x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_are_read_whole_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::default();
        for len in [100_000, 0, 1, 4096] {
            let path = dir.path().join(len.to_string());
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            write(&path, &content).unwrap();
            assert_eq!(buffer.read(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_file_that_claims_no_length_is_read_to_its_end() {
        let content = Buffer::default().read(Path::new("/proc/self/status")).unwrap().len();
        assert!(content > 100, "{content}");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        OsFs.create_new(&path).unwrap().set_len(MAX_VALUE_LEN + 1).unwrap();
        let mut buffer = Buffer::default();
        let error = buffer.read(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn a_link_to_nothing_and_a_directory_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(write(&link, b"").unwrap_err().to_string().contains("leads to nothing"));
        assert_eq!(write(dir.path(), b"").unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn writing_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for content in [&b"a long content"[..], b"short", b""] {
            write(&path, content).unwrap();
            assert_eq!(Buffer::default().read(&path).unwrap(), content);
        }
        write(Path::new("/dev/null"), b"anything").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        write(&link, b"behind a link").unwrap();
        assert_eq!(Buffer::default().read(&path).unwrap(), b"behind a link");
        assert_eq!(OsFs.metadata(&link).unwrap().kind, FileKind::Symlink);
        // Nothing stays beside them.
        assert_eq!(OsFs.list(dir.path()).unwrap().len(), 2);
    }
}
