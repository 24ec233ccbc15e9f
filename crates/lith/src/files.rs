//! Reads and writes the user's files, of any length in bounded memory. The database's own files
//! are not handled here.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lithdb::{Position, Table};
use lithdb_env::{
    Clock, File, FileKind, Fs, OsClock, OsFs, read_up_to, remove_best_effort, sync_parent,
    write_all_at,
};

use crate::failure::Failure;

/// The longest value, in bytes.
pub(crate) const MAX_VALUE_LEN: u64 = (1 << 32) - 2;

/// At most this much of a file is in memory; a longer one is streamed.
pub(crate) const MAX_BUFFERED_BYTES: usize = 32 << 20;

/// A file or standard input, read sequentially.
pub(crate) struct Input {
    reader: Box<dyn Read>,
    /// The length at opening, 0 for a pipe: a hint, the file may grow.
    expected_len: u64,
    bytes_read: u64,
    failure: Option<io::Error>,
}

impl Input {
    /// Opens the file or pipe at `path`.
    ///
    /// # Errors
    /// Those of the file system; `FileTooLarge` above [`MAX_VALUE_LEN`].
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let (file, metadata) = OsFs.reader(path)?;
        if metadata.len_bytes > MAX_VALUE_LEN {
            return Err(too_long());
        }
        Ok(Self::new(file, metadata.len_bytes))
    }

    /// Standard input.
    pub(crate) fn stdin() -> Self {
        Self::new(io::stdin().lock(), 0)
    }

    fn new(reader: impl Read + 'static, expected_len: u64) -> Self {
        Self { reader: Box::new(reader), expected_len, bytes_read: 0, failure: None }
    }
}

impl Read for Input {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(room).inspect_err(|error| {
            // Lets the caller tell a failed read from an error of the database.
            self.failure = Some(io::Error::new(error.kind(), error.to_string()));
        })?;
        self.bytes_read += got as u64;
        Ok(got)
    }
}

/// Opens the file or pipe at `path`, of any length, and returns its length if it is known.
///
/// # Errors
/// Those of the file system.
pub(crate) fn stream(path: &Path) -> io::Result<(Box<dyn Read>, Option<u64>)> {
    let (file, metadata) = OsFs.reader(path)?;
    let len = (metadata.kind == FileKind::File).then_some(metadata.len_bytes);
    Ok((Box::new(file), len))
}

fn too_long() -> io::Error {
    let message = format!("longer than the longest value ({MAX_VALUE_LEN} bytes)");
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

/// A reusable buffer for the beginning of an input.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

/// A value to store: its beginning in memory, and the input with the rest if there is more.
pub(crate) struct ValueSource<'a> {
    head: &'a [u8],
    rest: Option<Input>,
}

/// Why a value was not stored.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The input cannot be read.
    Input(io::Error),
    /// The database returned an error.
    Refused(lithdb::Error),
}

impl Buffer {
    /// Reads the beginning of `input`, at most [`MAX_BUFFERED_BYTES`].
    ///
    /// # Errors
    /// Those of the file system; `OutOfMemory`.
    pub(crate) fn begin(&mut self, mut input: Input) -> io::Result<ValueSource<'_>> {
        // One byte more than expected: if it arrives, the file has grown.
        let mut wanted =
            usize::try_from(input.expected_len).map_or(MAX_BUFFERED_BYTES, |len| len + 1);
        let mut len = 0;
        loop {
            wanted = wanted.clamp(4096, MAX_BUFFERED_BYTES);
            if self.bytes.len() < wanted {
                self.bytes.try_reserve_exact(wanted - self.bytes.len())?;
                self.bytes.resize(wanted, 0);
            }
            // The buffer has at least `wanted` bytes, see above.
            let room = self.bytes.get_mut(len..wanted).unwrap_or_default();
            let (got, asked) = (read_up_to(&mut input, room)?, room.len());
            len += got;
            if got < asked || len == MAX_BUFFERED_BYTES {
                let rest = (got == asked).then_some(input);
                // `len` is at most `wanted`.
                return Ok(ValueSource { head: self.bytes.get(..len).unwrap_or_default(), rest });
            }
            wanted = 2 * len;
        }
    }

    /// The whole content of the file at `path`.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); `FileTooLarge` above [`MAX_BUFFERED_BYTES`].
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<&[u8]> {
        let ValueSource { head, rest } = self.begin(Input::open(path)?)?;
        match rest.map_or(Ok(0), |mut rest| read_up_to(&mut rest, &mut [0]))? {
            0 => Ok(head),
            _ => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        }
    }
}

impl ValueSource<'_> {
    /// Stores the value under `key`; returns its position and length.
    pub(crate) fn store(self, table: &Table, key: &[u8]) -> Result<(Position, u64), StoreError> {
        let Self { head, rest } = self;
        let Some(mut rest) = rest else {
            let stored = table.put(key, head).map(|at| (at, head.len() as u64));
            return stored.map_err(StoreError::Refused);
        };
        let expected_len = rest.expected_len;
        let stored = table.put_from(key, expected_len, &mut head.chain(&mut rest));
        match (stored, rest.failure) {
            (Ok(at), _) => Ok((at, rest.bytes_read)),
            (Err(_), Some(failure)) => Err(StoreError::Input(failure)),
            (Err(error), None) => Err(StoreError::Refused(error)),
        }
    }
}

/// Produces the content of a file by writing it.
pub(crate) type WriteFn<'a> = &'a mut dyn FnMut(&mut dyn Write) -> Result<(), Failure>;

/// Writes the output of `produce` as the content of the file at `path`, new or existing. A regular
/// file (also through a symbolic link) has the complete old or the complete new content at any
/// time; a pipe or device is written to in place.
pub(crate) fn write(path: &Path, produce: WriteFn<'_>) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::io(path.display(), &error);
    let found = match OsFs.describe(path) {
        Ok(metadata) => metadata.kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match OsFs.metadata(path) {
                Ok(_) => {
                    let message = "dangling symbolic link";
                    return Err(cannot(io::Error::new(io::ErrorKind::NotFound, message)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot(error)),
            }
            return replace_atomically(path, None, produce);
        }
        Err(error) => return Err(cannot(error)),
    };
    match found {
        FileKind::File => {
            let path = OsFs.canonicalize(path).map_err(cannot)?;
            // A file that this user may not write must not be replaced either.
            drop(OsFs.writer(&path).map_err(cannot)?);
            replace_atomically(&path, Some(&path), produce)
        }
        FileKind::Dir => Err(cannot(io::Error::from(io::ErrorKind::IsADirectory))),
        FileKind::Symlink | FileKind::Other => {
            let mut target = OsFs.writer(path).map_err(cannot)?;
            produce(&mut target)?;
            target.flush().map_err(cannot)
        }
    }
}

/// Writes the output of `produce` as a new file at `path`, durably with its name. A file that
/// exists is refused; after a failure there is none.
pub(crate) fn create(path: &Path, produce: WriteFn<'_>) -> Result<(), Failure> {
    require_absent(path)?;
    replace_atomically(path, None, &mut |out| {
        produce(out)?;
        // It may have taken hours.
        require_absent(path)
    })?;
    Ok(sync_parent(&OsFs, path)?)
}

fn require_absent(path: &Path) -> Result<(), Failure> {
    let error = match OsFs.metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => error,
        Ok(_) => io::Error::new(io::ErrorKind::AlreadyExists, "the file exists: give another name"),
    };
    Err(Failure::io(path.display(), &error))
}

/// Writes a file sequentially.
struct AppendWriter<'a> {
    file: &'a dyn File,
    len: u64,
}

impl Write for AppendWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_all_at(self.file, bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a new file in the same directory, with the permissions of `before`, syncs it and renames
/// it to `path`.
fn replace_atomically(
    path: &Path,
    before: Option<&Path>,
    produce: WriteFn<'_>,
) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::io(path.display(), &error);
    let beside = temp_path(path).map_err(cannot)?;
    let file = OsFs.create_new(&beside).map_err(cannot)?;
    let done = before
        .map_or(Ok(()), |before| OsFs.copy_permissions(before, &beside))
        .map_err(cannot)
        .and_then(|()| produce(&mut AppendWriter { file: &*file, len: 0 }))
        .and_then(|()| file.sync_all().map_err(cannot))
        .and_then(|()| OsFs.rename(&beside, path).map_err(cannot));
    if done.is_err() {
        remove_best_effort(&OsFs, &beside);
    }
    done
}

fn temp_path(path: &Path) -> io::Result<PathBuf> {
    let number = OsClock.random_u64()?;
    Ok(path.with_file_name(format!(".lith-{number:016x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, content: &[u8]) -> Result<(), Failure> {
        write(path, &mut |out| out.write_all(content).map_err(|e| Failure::io("produce", &e)))
    }

    #[test]
    fn buffer_reads_files_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::default();
        for len in [100_000, 0, 1, 4096, MAX_BUFFERED_BYTES] {
            let path = dir.path().join(len.to_string());
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            put(&path, &content).unwrap();
            assert!(buffer.read(&path).unwrap() == content, "{len}");
        }
    }

    #[test]
    fn long_file_is_not_buffered_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        OsFs.create_new(&path).unwrap().set_len(MAX_BUFFERED_BYTES as u64 + 1).unwrap();
        let mut buffer = Buffer::default();
        let content = buffer.begin(Input::open(&path).unwrap()).unwrap();
        assert_eq!((content.head.len(), content.rest.is_some()), (MAX_BUFFERED_BYTES, true));
        assert_eq!(buffer.bytes.len(), MAX_BUFFERED_BYTES);
        assert_eq!(buffer.read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn file_reporting_zero_length_is_read_to_the_end() {
        let content = Buffer::default().read(Path::new("/proc/self/status")).unwrap().len();
        assert!(content > 100, "{content}");
    }

    #[test]
    fn oversized_file_is_refused_before_allocation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        OsFs.create_new(&path).unwrap().set_len(MAX_VALUE_LEN + 1).unwrap();
        let error = Input::open(&path).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn dangling_symlink_and_directory_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(put(&link, b"").unwrap_err().to_string().contains("dangling"));
        assert!(put(dir.path(), b"").unwrap_err().to_string().contains("directory"));
    }

    #[test]
    fn failed_write_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        put(&path, b"old").unwrap();
        let failed = write(&path, &mut |out| {
            out.write_all(b"half").map_err(|e| Failure::io("produce", &e))?;
            Err(Failure::failed("gone"))
        });
        assert!(failed.unwrap_err().to_string().contains("gone"));
        assert_eq!(Buffer::default().read(&path).unwrap(), b"old");
        assert_eq!(OsFs.list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn created_file_is_new_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let put = |content: &[u8]| {
            create(&path, &mut |out| out.write_all(content).map_err(|e| Failure::io("put", &e)))
        };
        put(b"first").unwrap();
        assert!(put(b"second").unwrap_err().to_string().contains("the file exists"));
        assert_eq!(Buffer::default().read(&path).unwrap(), b"first");
        let other = dir.path().join("other");
        create(&other, &mut |_| Err(Failure::failed("gone"))).unwrap_err();
        // Somebody else creates it meanwhile.
        let taken = create(&other, &mut |_| {
            OsFs.create_new(&other).map(drop).map_err(|e| Failure::io("put", &e))
        });
        assert!(taken.unwrap_err().to_string().contains("the file exists"));
        assert_eq!(OsFs.list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn write_replaces_existing_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for content in [&b"a long content"[..], b"short", b""] {
            put(&path, content).unwrap();
            assert_eq!(Buffer::default().read(&path).unwrap(), content);
        }
        put(Path::new("/dev/null"), b"anything").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        put(&link, b"behind a link").unwrap();
        assert_eq!(Buffer::default().read(&path).unwrap(), b"behind a link");
        assert_eq!(OsFs.metadata(&link).unwrap().kind, FileKind::Symlink);
        // No temporary file is left.
        assert_eq!(OsFs.list(dir.path()).unwrap().len(), 2);
    }
}
