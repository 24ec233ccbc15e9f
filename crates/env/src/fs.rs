//! The file system interface: the traits [`Fs`], [`File`] and [`Map`].
//!
//! Everything that touches the disk (locks, listings, directory syncs, links, the command line)
//! uses these traits, so that an in-memory file system can replace the real one and fail or crash
//! at every operation. Implementations return what the operating system returns and decide
//! nothing: retrying, latching and classifying errors belong to the callers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Permit;
use crate::error::{Error, ErrorKind, Result};

/// How an existing file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; works on a read-only mount.
    Read,
    /// Read and write in place.
    ReadWrite,
}

/// The type of a directory entry. Symbolic links are reported, never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, whatever its target is.
    Symlink,
    /// A socket, a device or a pipe.
    Other,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The entry's name, without the directory. A name that is not UTF-8 is converted lossily:
    /// LithDB creates none, so such an entry is foreign.
    pub name: String,
    /// Whether `name` is the exact name. If not, it may be the name of another entry, and nothing
    /// may be opened by it.
    pub is_exact: bool,
    /// The type of the entry.
    pub kind: FileKind,
}

/// What the file system records of a path. Symbolic links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// The type of the entry at the path.
    pub kind: FileKind,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Number of hard links to the file. Above 1, another name refers to the same bytes.
    pub links: u64,
    /// Device and inode: equal for two paths exactly if they are one file.
    pub identity: (u64, u64),
}

/// The mode of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Any number of shared holders, no exclusive one.
    Shared,
    /// One exclusive holder, no shared ones.
    Exclusive,
}

/// A file system. Paths are used as given; nothing is cached.
///
/// Errors are the operating system's own ([`io::Error`]); a full disk is
/// [`io::ErrorKind::StorageFull`].
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a file that must not exist yet. [`sync_dir`](Fs::sync_dir) makes its name durable.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Lists a directory in name order, without `.` and `..`.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Returns the metadata of a path; does not follow a symbolic link.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Renames within one file system, replacing `to` atomically if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. The bytes remain while the file is open or has another link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a second name for an existing file.
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()>;
    /// Creates one directory; its parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable: files created, renamed and removed in it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an advisory lock on an existing file or directory without waiting. Returns `None` if
    /// another holder conflicts. The lock is held until the returned value is dropped. Two handles
    /// in one process exclude each other like two processes.
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>>;
    /// Free space, in bytes, that this process may use on the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// The absolute path with all symbolic links resolved.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
}

/// An open file with positional access. It has no cursor, so threads share one handle.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `offset`; 0 at or past the end. May be short.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes at `offset`, extending the file if necessary. May be short.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes data and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes data, length and attributes durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Truncates or extends (with zeros) to `len_bytes`; releases space reserved beyond it.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Reserves disk space for a range, so that writes to it cannot run out of space. The length
    /// does not change.
    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Number of hard links to the file.
    fn links(&self) -> io::Result<u64>;
    /// Maps `len_bytes` from the start of the file for reading. The mapping may be longer than the
    /// file, but only bytes within the file's length may be requested. `permit` is released with
    /// the mapping, which values may keep alive longer than the [`Map`].
    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>>;
    /// Asks the system to start writing a range back. A hint: only the sync calls make it durable.
    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
}

/// A mapped file. Requested bytes must be within the file's length, and must not be overwritten or
/// truncated while the map is alive: the caller maps only immutable bytes (see `mmap.rs`).
pub trait Map: Send + Sync + fmt::Debug {
    /// A handle to mapped bytes that keeps the mapping alive. `None` if the range is outside the
    /// mapping.
    fn bytes(&self, offset: u64, len: usize) -> Option<Bytes>;
}

/// An advisory lock, released when dropped.
pub trait FileLock: Send + Sync + fmt::Debug {
    /// The locked file, for writing the holder's name into it.
    fn file(&self) -> &dyn File;
}

/// Reads exactly `buf.len()` bytes at `offset`, continuing after short and interrupted reads.
/// [`io::ErrorKind::UnexpectedEof`] if the file ends earlier.
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let wanted = buf.len();
    let got = read_up_to_at(file, buf, offset)?;
    if got == wanted {
        return Ok(());
    }
    let message = format!("expected {wanted} bytes at offset {offset}, the file ends after {got}");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
}

/// Reads until `buf` is full or the file ends, and returns the number of bytes read. An
/// interrupted or short read is not the end of the file.
pub fn read_up_to_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    fill(buf, |rest, done| file.read_at(rest, offset + done as u64))
}

/// Like [`read_up_to_at`], for a sequential source such as a pipe.
pub fn read_up_to(source: &mut dyn io::Read, buf: &mut [u8]) -> io::Result<usize> {
    fill(buf, |rest, _| source.read(rest))
}

/// Fills `buf` by calling `read(rest, done)`, which may read less than `rest`.
fn fill(
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let room = rest.len();
        match read(rest, done) {
            Ok(0) => break,
            // A caller's source may return a wrong count; bytes that were not read must not count.
            Ok(n) if n > room => {
                let message = format!("the source returned {n} bytes read into a buffer of {room}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at `offset`, continuing after short and interrupted writes.
pub fn write_all_at(file: &dyn File, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = buf.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a whole small file. A file larger than `limit_bytes` is refused, so that a damaged length
/// cannot exhaust memory.
pub fn read_file(fs: &dyn Fs, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > limit_bytes {
        let message = format!("expected at most {limit_bytes} bytes, found {len}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let mut buf = zeroed(len as usize)?;
    read_exact_at(&*file, &mut buf, 0)?;
    Ok(buf)
}

/// A buffer of `len` zeros, for a length that comes from a file or a caller.
/// [`io::ErrorKind::OutOfMemory`] if the allocation fails.
pub fn zeroed(len: usize) -> io::Result<Vec<u8>> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(len).map_err(|_| {
        let message = format!(
            "cannot allocate a buffer of {len} bytes; raise the memory limit of the process (`ulimit -v`, control group)"
        );
        io::Error::new(io::ErrorKind::OutOfMemory, message)
    })?;
    buf.resize(len, 0);
    Ok(buf)
}

/// Whether `path` exists; a dangling symbolic link counts.
pub fn exists(fs: &dyn Fs, path: &Path) -> io::Result<bool> {
    match fs.metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `path` exists as an entry of type `kind`. An entry of another type is `Foreign`: no
/// command follows links below a root.
pub fn exists_as(fs: &dyn Fs, path: &Path, kind: FileKind) -> Result<bool> {
    let found = match fs.metadata(path) {
        Ok(found) => found.kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("stat", path, error)),
    };
    if found == kind { Ok(true) } else { Err(wrong_kind(path, kind, found)) }
}

/// The error for an entry of another type where LithDB expects its own file or directory.
pub fn wrong_kind(path: &Path, expected: FileKind, found: FileKind) -> Error {
    let name = |kind| match kind {
        FileKind::File => "a file",
        FileKind::Dir => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::Other => "a special file",
    };
    let (expected, found) = (name(expected), name(found));
    let message = format!("expected {expected}, found {found}; remove or rename it");
    Error::at(ErrorKind::Foreign, path, message)
}
