//! Whole files of engines: digests, links, copies, and checks against the list of a checkpoint.
//!
//! Everything here works on closed files that nobody writes meanwhile. Both engines use it.

use std::path::{Path, PathBuf};

use lithdb_env::{
    Error, ErrorKind, File, FileKind, Fs, OpenMode, Result, exists, exists_as, read_up_to_at,
    write_all_at, zeroed,
};
use xxhash_rust::xxh3::Xxh3;

use crate::engine::{CheckLevel, EngineFile};

/// How much is read at a time.
const CHUNK_LEN: usize = 256 << 10;

/// The length and the xxh3-128 of a file.
pub(crate) fn digest_of(fs: &dyn Fs, path: &Path) -> Result<(u64, u128)> {
    let file = fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))?;
    read_through(&*file, path, |_, _| Ok(()))
}

/// Copies a file to `to`, which must not exist, and syncs it, but not its name. Returns its length
/// and its xxh3-128.
pub(crate) fn copy(fs: &dyn Fs, from: &Path, to: &Path) -> Result<(u64, u128)> {
    let source = fs.open(from, OpenMode::Read).map_err(|e| Error::io("open", from, e))?;
    let copy = fs.create_new(to).map_err(|e| Error::io("create", to, e))?;
    let copied = read_through(&*source, from, |bytes, offset| {
        write_all_at(&*copy, bytes, offset).map_err(|e| Error::failed_new_write("write", to, e))
    })?;
    copy.sync_all().map_err(|e| Error::failed_new_write("sync", to, e))?;
    Ok(copied)
}

/// Links a file. Its name is not synced. Another file system is an error: nothing is copied
/// instead.
pub(crate) fn link(fs: &dyn Fs, from: &Path, to: &Path) -> Result<()> {
    fs.hard_link(from, to).map_err(|e| {
        let operation = format!("link {} to", from.display());
        Error::io(&operation, to, e)
    })
}

fn read_through(
    file: &dyn File,
    path: &Path,
    mut each: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<(u64, u128)> {
    let mut buf = zeroed(CHUNK_LEN).map_err(|e| Error::io("read", path, e))?;
    let (mut digest, mut len) = (Xxh3::new(), 0);
    loop {
        let got = read_up_to_at(file, &mut buf, len).map_err(|e| Error::io("read", path, e))?;
        let Some(bytes) = buf.get(..got).filter(|bytes| !bytes.is_empty()) else { break };
        digest.update(bytes);
        each(bytes, len)?;
        len += got as u64;
    }
    Ok((len, digest.digest128()))
}

/// `InvalidArgument` if `dir` exists.
pub(crate) fn require_absent(fs: &dyn Fs, dir: &Path) -> Result<()> {
    match exists(fs, dir).map_err(|e| Error::io("stat", dir, e))? {
        false => Ok(()),
        true => Err(Error::at(ErrorKind::InvalidArgument, dir, "exists already; remove it first")),
    }
}

/// `InvalidArgument` unless `dir` is an empty directory.
pub(crate) fn require_empty(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let entries = fs.list(dir).map_err(|e| Error::io("list", dir, e))?;
    let Some(first) = entries.first() else { return Ok(()) };
    let message = format!("expected an empty directory, found {}", first.name);
    Err(Error::at(ErrorKind::InvalidArgument, dir, message))
}

/// Syncs a new directory that nothing refers to yet.
pub(crate) fn sync_dir(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.sync_dir(dir).map_err(|e| Error::failed_dir_sync(dir, e))
}

/// The path of a file of a checkpoint. A name that leads elsewhere is `Corrupt`.
fn path_of(dir: &Path, file: &EngineFile) -> Result<PathBuf> {
    let is_plain = |part: &str| {
        let bytes = || part.bytes();
        !part.is_empty()
            && bytes().any(|byte| byte != b'.')
            && bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if file.name.split('/').count() <= 2 && file.name.split('/').all(is_plain) {
        return Ok(dir.join(&file.name));
    }
    let message = format!("expected the name of an engine's file, found {:?}", file.name);
    Err(Error::at(ErrorKind::Corrupt, dir, message))
}

/// Makes a directory of `files`, the list of a checkpoint, out of those in `from`: see
/// [`Engines::clone_into`](crate::Engines::clone_into). `dirs` are made even if they stay empty.
pub(crate) fn clone_files(
    fs: &dyn Fs,
    from: &Path,
    files: &[EngineFile],
    into: &Path,
    dirs: &[&str],
) -> Result<()> {
    require_absent(fs, into)?;
    check_files(fs, from, files, CheckLevel::Names)?;
    fs.create_dir(into).map_err(|e| Error::io("create directory", into, e))?;
    for dir in dirs {
        let dir = into.join(dir);
        fs.create_dir(&dir).map_err(|e| Error::io("create directory", &dir, e))?;
    }
    for file in files {
        let (source, target) = (path_of(from, file)?, path_of(into, file)?);
        match file.is_linked {
            true => link(fs, &source, &target)?,
            false => require_digest(&source, file, copy(fs, &source, &target)?)?,
        }
    }
    dirs.iter().try_for_each(|dir| sync_dir(fs, &into.join(dir)))?;
    sync_dir(fs, into)
}

/// Checks that `dir` holds `files`, the list of a checkpoint.
pub(crate) fn check_files(
    fs: &dyn Fs,
    dir: &Path,
    files: &[EngineFile],
    level: CheckLevel,
) -> Result<()> {
    for file in files {
        let path = path_of(dir, file)?;
        require_len(fs, &path, file.len)?;
        if level == CheckLevel::Bytes {
            require_digest(&path, file, digest_of(fs, &path)?)?;
        }
    }
    Ok(())
}

/// `Missing` if the file does not exist, `Corrupt` if it has another length.
pub(crate) fn require_len(fs: &dyn Fs, path: &Path, expected: u64) -> Result<()> {
    if !exists_as(fs, path, FileKind::File)? {
        let message = "does not exist, and the engine's other files name it";
        return Err(Error::at(ErrorKind::Missing, path, message));
    }
    let found = fs.metadata(path).map_err(|e| Error::io("stat", path, e))?.len_bytes;
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (format!("{expected} bytes"), format!("{found} bytes"));
    Err(Error::corrupt(path, 0, &expected, &found))
}

fn require_digest(path: &Path, file: &EngineFile, found: (u64, u128)) -> Result<()> {
    if found == (file.len, file.digest) {
        return Ok(());
    }
    let describe = |len, digest| format!("{len} bytes with the digest {digest:032x}");
    Err(Error::corrupt(path, 0, &describe(file.len, file.digest), &describe(found.0, found.1)))
}
