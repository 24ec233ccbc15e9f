//! The only door to the disk: the traits [`Fs`], [`File`] and [`Map`].
//!
//! Everything that touches the disk (locks, listings, directory syncs, links, the command line)
//! crosses these traits, so that a file system in memory can stand in and fail or crash at every
//! single operation. Implementations report what the operating system says and decide nothing:
//! retrying, latching and classifying belong to the callers.

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
    /// For reading; works on a read-only mount.
    Read,
    /// For reading and writing in place.
    ReadWrite,
}

/// What a directory entry is. Symbolic links are reported, never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, whatever it points to.
    Symlink,
    /// A socket, a device, a pipe.
    Other,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The entry's name, without the directory. Names that are not UTF-8 are given lossily: LithDB
    /// creates none, so such an entry is foreign whatever it is called.
    pub name: String,
    /// Whether `name` is the whole truth. If not, it may be the name of another entry, and nothing
    /// may be opened by it.
    pub is_exact: bool,
    /// What the entry is.
    pub kind: FileKind,
}

/// What is known of a path without opening it. A symbolic link is described itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What the path is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Number of hard links to the file; above 1 somebody else holds the same bytes.
    pub links: u64,
    /// Identity of the file on this machine: equal for two paths exactly if they are one file.
    pub identity: (u64, u64),
}

/// Shared or exclusive hold of a lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Any number of holders.
    Shared,
    /// One holder, and no shared ones.
    Exclusive,
}

/// A file system. All paths are used as given; nothing is cached.
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
    /// Describes a path; does not follow a symbolic link.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Renames within one file system, replacing `to` atomically if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; the bytes live on while somebody holds the file open or linked.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives an existing file a second name.
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()>;
    /// Creates one directory whose parent exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable: files created, renamed and removed in it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an advisory lock on an existing file or directory without waiting. `None`: somebody else holds it.
    /// The lock is held until the returned value is dropped, and two handles of one process exclude
    /// each other like two processes.
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>>;
    /// Bytes that this process may still write to the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// The absolute path with every symbolic link resolved.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
}

/// An open file with positional access: no cursor, so that threads share one handle.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `offset`; 0 at or past the end. May be short.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes at `offset`, extending the file if need be. May be short.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes data and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes data, length and attributes durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `len_bytes`; gives back space reserved beyond it.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Reserves disk space for a range, so that writes to it find space. The length stays.
    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Number of hard links to the file.
    fn links(&self) -> io::Result<u64>;
    /// Maps `len_bytes` from the start of the file for reading; may be longer than the file, but
    /// only bytes within the file's length may then be asked for.
    /// `permit` is given back with the mapping, which values may hold for longer than the [`Map`].
    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>>;
    /// Asks the system to begin writing a range back. A hint: only the sync calls make it durable.
    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
}

/// A mapped file. The bytes asked for must be within the file's length, and must not be written or
/// cut while the map is alive: the caller maps only what is immutable (see `mapped.rs`).
pub trait Map: Send + Sync + fmt::Debug {
    /// A handle to mapped bytes that keeps the mapping alive. `None`: outside the mapping.
    fn bytes(&self, offset: u64, len: usize) -> Option<Bytes>;
}

/// An advisory lock; dropped, it is released.
pub trait FileLock: Send + Sync + fmt::Debug {
    /// The locked file, to write the holder's name into it.
    fn file(&self) -> &dyn File;
}

/// Reads exactly `buf.len()` bytes at `offset`, going on after short and interrupted reads.
/// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let wanted = buf.len();
    let got = read_up_to_at(file, buf, offset)?;
    if got == wanted {
        return Ok(());
    }
    let message = format!("expected {wanted} bytes at offset {offset}, the file ends after {got}");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
}

/// Reads until `buf` is full or the file ends, and says how many bytes were read. An interrupted or
/// short read is not the end of the file.
pub fn read_up_to_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    fill(buf, |rest, done| file.read_at(rest, offset + done as u64))
}

/// As [`read_up_to_at`], from where a source is: a pipe, say.
pub fn read_up_to(source: &mut dyn io::Read, buf: &mut [u8]) -> io::Result<usize> {
    fill(buf, |rest, _| source.read(rest))
}

/// `read` reads behind so many bytes, perhaps not all of them.
fn fill(
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let room = rest.len();
        match read(rest, done) {
            Ok(0) => break,
            // A caller's source may be wrong about it; what was not read must not count.
            Ok(n) if n > room => {
                let message = format!("a source claims to have read {n} bytes into {room}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at `offset`, going on after short and interrupted writes.
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

/// Reads a whole small file, refusing one above `limit_bytes` so that a damaged length cannot make
/// memory grow.
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

/// A buffer of so many zeros, for a length that comes from a file or a caller.
/// [`io::ErrorKind::OutOfMemory`] if there is no memory for it.
pub fn zeroed(len: usize) -> io::Result<Vec<u8>> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(len).map_err(|_| {
        let message = format!(
            "no memory for a buffer of {len} bytes; raise the limit of the process (`ulimit -v`, control group)"
        );
        io::Error::new(io::ErrorKind::OutOfMemory, message)
    })?;
    buf.resize(len, 0);
    Ok(buf)
}

/// Whether something has this name (a dangling symbolic link counts).
pub fn exists(fs: &dyn Fs, path: &Path) -> io::Result<bool> {
    match fs.metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether something is at `path`. Of another kind it is `Foreign`: links below a root are followed by nobody.
pub fn exists_as(fs: &dyn Fs, path: &Path, kind: FileKind) -> Result<bool> {
    let found = match fs.metadata(path) {
        Ok(found) => found.kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("look for", path, error)),
    };
    if found == kind { Ok(true) } else { Err(wrong_kind(path, kind, found)) }
}

/// The error of something else in the place of a file or directory of ours.
pub fn wrong_kind(path: &Path, expected: FileKind, found: FileKind) -> Error {
    let name = |kind| match kind {
        FileKind::File => "a file",
        FileKind::Dir => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::Other => "something else",
    };
    let (expected, found) = (name(expected), name(found));
    let message = format!("expected {expected}, found {found}; move it out of the way");
    Error::at(ErrorKind::Foreign, path, message)
}
