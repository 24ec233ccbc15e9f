//! Reading and writing whole files that are not the database's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use lithdb::env::{File, Fs, OpenMode, read_up_to_at, write_all_at};

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
    /// The whole content of the file at `path`.
    ///
    /// # Errors
    /// What the file system says; `FileTooLarge` for one that is longer than a value can be.
    pub(crate) fn read(&mut self, fs: &dyn Fs, path: &Path) -> io::Result<&[u8]> {
        if self.bytes.len() > KEEP {
            self.bytes = Vec::new();
        }
        let file = fs.open(path, OpenMode::Read)?;
        let mut len = 0;
        // One byte more than expected: whoever gets it knows that the file has grown.
        let mut wanted = file.len()?.saturating_add(1);
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
            let got = read_up_to_at(&*file, room, len as u64)?;
            let is_over = got < room.len();
            len += got;
            if is_over {
                return Ok(self.bytes.get(..len).unwrap_or_default());
            }
            wanted = (2 * len as u64).clamp(4096, MAX_VALUE_LEN + 1).max(len as u64 + 1);
        }
    }
}

/// Writes `bytes` as the whole content of the file at `path`, new or not.
pub(crate) fn write(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file: Arc<dyn File> = match fs.create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs.open(path, OpenMode::ReadWrite)?
        }
        created => created?,
    };
    write_all_at(&*file, bytes, 0)?;
    // Not for a device, which has no length.
    if file.len()? > bytes.len() as u64 {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lithdb::env::OsFs;

    use super::*;

    #[test]
    fn files_of_any_length_are_read_whole_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::default();
        for len in [100_000, 0, 1, 4096] {
            let path = dir.path().join(len.to_string());
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            write(&OsFs, &path, &content).unwrap();
            assert_eq!(buffer.read(&OsFs, &path).unwrap(), content);
        }
    }

    #[test]
    fn a_file_that_claims_no_length_is_read_to_its_end() {
        let content = Buffer::default().read(&OsFs, Path::new("/proc/self/status")).unwrap().len();
        assert!(content > 100, "{content}");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        OsFs.create_new(&path).unwrap().set_len(MAX_VALUE_LEN + 1).unwrap();
        let mut buffer = Buffer::default();
        let error = buffer.read(&OsFs, &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn writing_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for content in [&b"a long content"[..], b"short", b""] {
            write(&OsFs, &path, content).unwrap();
            assert_eq!(Buffer::default().read(&OsFs, &path).unwrap(), content);
        }
        write(&OsFs, Path::new("/dev/null"), b"anything").unwrap();
    }
}
