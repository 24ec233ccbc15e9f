//! The operating system's implementation of [`Fs`], [`File`] and [`FileLock`], and the process
//! limits.
//!
//! The only module besides `user_files` that calls `std::fs`. It keeps no state and retries
//! nothing but an interrupted `fallocate`.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // this is the crate for it

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::budget::Permit;
use crate::fs::{DirEntry, File, FileKind, FileLock, Fs, LockKind, Map, Metadata, OpenMode};
use crate::mmap::MappedFile;

/// The operating system's file system, without any state of its own.
///
/// ```
/// use lithdb_env::{Fs, OsFs};
/// let dir = tempfile::tempdir()?;
/// let file = OsFs.create_new(&dir.path().join("greeting"))?;
/// lithdb_env::write_all_at(&*file, b"hello", 0)?;
/// assert_eq!(OsFs.list(dir.path())?[0].name, "greeting");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFs;

/// Raises the soft limit on open files to the hard limit, for the whole process. Returns the old
/// and the new soft limit; `None` means no limit.
pub fn raise_file_limit() -> io::Result<(Option<u64>, Option<u64>)> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    }
    Ok((limit.current, limit.maximum))
}

/// The maximum number of mappings of a process (`vm.max_map_count`).
pub fn max_map_count() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count")?;
    text.trim().parse().map_err(io::Error::other)
}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
}

#[derive(Debug)]
struct OsLock {
    file: OsFile,
}

fn kind_of(file_type: fs::FileType) -> FileKind {
    if file_type.is_symlink() {
        FileKind::Symlink
    } else if file_type.is_dir() {
        FileKind::Dir
    } else if file_type.is_file() {
        FileKind::File
    } else {
        FileKind::Other
    }
}

pub(crate) fn describe(metadata: &fs::Metadata) -> Metadata {
    Metadata {
        kind: kind_of(metadata.file_type()),
        len_bytes: metadata.len(),
        links: metadata.nlink(),
        identity: (metadata.dev(), metadata.ino()),
    }
}

impl Fs for OsFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(OsFile { file }))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let write = mode == OpenMode::ReadWrite;
        let file = fs::OpenOptions::new().read(true).write(write).open(path)?;
        Ok(Arc::new(OsFile { file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = kind_of(entry.file_type()?);
            let (name, is_exact) = match entry.file_name().into_string() {
                Ok(name) => (name, true),
                Err(name) => (name.to_string_lossy().into_owned(), false),
            };
            entries.push(DirEntry { name, is_exact, kind });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(describe(&fs::symlink_metadata(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        fs::hard_link(original, link)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        let writable = fs::OpenOptions::new().read(true).write(true).open(path);
        let file = match writable {
            Ok(file) => file,
            // A reader on a read-only mount, or without write permission, can still lock.
            Err(_) if kind == LockKind::Shared => fs::File::open(path)?,
            // A directory can only be opened for reading.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::File::open(path)?,
            Err(error) => return Err(error),
        };
        let taken = match kind {
            LockKind::Shared => fs4::FileExt::try_lock_shared(&file),
            LockKind::Exclusive => fs4::FileExt::try_lock(&file),
        };
        match taken {
            Ok(()) => Ok(Some(Box::new(OsLock { file: OsFile { file } }))),
            Err(fs4::TryLockError::WouldBlock) => Ok(None),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len_bytes) {
                Err(rustix::io::Errno::INTR) => {}
                answer => return answer.map_err(io::Error::from),
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        // Takes half the time of `fstat`. Nothing uses the cursor: reads and writes are
        // positional.
        Ok(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))?)
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.nlink())
    }

    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>> {
        Ok(Arc::new(MappedFile::new(&self.file, len_bytes, permit)?))
    }

    fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        // For DONTNEED, Linux starts write-back of the range's dirty pages without waiting, and
        // drops only pages that are already clean. Called once on bytes just written, that is
        // `sync_file_range(SYNC_FILE_RANGE_WRITE)` through a safe interface.
        let len = std::num::NonZeroU64::new(len_bytes);
        rustix::fs::fadvise(&self.file, offset, len, Advice::DontNeed).map_err(io::Error::from)
    }
}

impl Drop for OsLock {
    /// Unlocks explicitly. A child process that another thread is just forking has a copy of the
    /// descriptor until it calls exec; merely closing ours would leave the lock with the child
    /// until then.
    fn drop(&mut self) {
        #[expect(clippy::let_underscore_must_use, reason = "closing the file also unlocks")]
        let _ = fs4::FileExt::unlock(&self.file.file);
    }
}

impl FileLock for OsLock {
    fn file(&self) -> &dyn File {
        &self.file
    }
}
