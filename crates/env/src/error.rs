//! The error type of all crates: a kind to act on, a message to read, and the cause.
//!
//! [`Error`] is cheap to clone (the latch returns the first failure to every later caller). It
//! never contains user values, only names, sizes and offsets.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a caller can act on. New kinds may appear: match with a wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call is invalid: an argument or option out of its documented range, options that
    /// contradict those of an open table, a plan that is stale, a write to a database that is open
    /// for reading only. Nothing was written. Correct the call.
    InvalidArgument,
    /// The disk is full. Nothing was lost; free space and repeat the call.
    StorageFull,
    /// Descriptors, mappings, memory or write buffers are used up. Nothing was done; raise the
    /// limit that the message names, or hold fewer resources, and retry.
    Exhausted,
    /// The operating system refused a read, a write or another call. This is not evidence of
    /// damage. Check the disk, or the owner and mode of the files if the error
    /// [`is_permission_denied`](Error::is_permission_denied).
    Io,
    /// A checksum, a length or a link between files is wrong. The bytes were not returned. Run
    /// `lith verify`; then restore the file, or repair.
    Corrupt,
    /// A table, directory or file that must exist does not. Nothing was created or deleted. Mount
    /// or restore it, or correct the name.
    Missing,
    /// Another handle or process has the database open. Close it, or open for reading. If
    /// [`is_rollback_pending`](Error::is_rollback_pending), a rollback is under way or was
    /// interrupted: wait for it, or open for writing, which finishes it.
    Locked,
    /// A file or directory does not belong here: another program or database wrote it, a file is
    /// on two roots, a root is given twice or is one too many. Check which directories are given,
    /// and remove the copy.
    Foreign,
    /// The files have a format version or a feature that this build does not know, or the file
    /// system lacks one. Use a newer build, or another file system.
    Unsupported,
    /// An earlier write or sync failed, which closed the table for writing. Check the disk, then
    /// reopen the table.
    Latched,
    /// The key exists, and the table rejects duplicates. Nothing was written.
    DuplicateKey,
    /// The database or the table was closed or dropped. Open it again.
    Closed,
}

impl ErrorKind {
    /// The kind as a lower-case phrase, for messages and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::StorageFull => "storage full",
            Self::Io => "i/o failure",
            Self::Corrupt => "corrupt",
            Self::Missing => "missing",
            Self::Locked => "locked",
            Self::Foreign => "foreign",
            Self::Unsupported => "unsupported",
            Self::Latched => "latched",
            Self::DuplicateKey => "duplicate key",
            Self::Closed => "closed",
            Self::Exhausted => "limit reached",
        }
    }

    /// Whether the call itself failed, which is not evidence of damage: neither damage nor absence
    /// follows from it.
    pub const fn is_system_failure(self) -> bool {
        matches!(self, Self::Io | Self::Exhausted)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of everything that can fail in LithDB.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// An error: [`kind`](Error::kind) to act on, a message that names table, file, offset, what was
/// expected and what was found, and the cause as [`source`](std::error::Error::source).
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    place: Option<Location>,
    source: Option<Source>,
    latches: bool,
    rollback_pending: bool,
}

/// The file or directory that an error concerns, the offset in it, and the message about it.
#[derive(Clone)]
struct Location {
    path: PathBuf,
    offset: Option<u64>,
    what: String,
}

impl Location {
    fn error(self, kind: ErrorKind) -> Error {
        let path = self.path.display();
        let message = match self.offset {
            Some(offset) => format!("{path} at offset {offset}: {}", self.what),
            None => format!("{path}: {}", self.what),
        };
        Inner { place: Some(self), ..Inner::new(kind, message) }.into()
    }
}

impl Inner {
    fn new(kind: ErrorKind, message: String) -> Self {
        Self { kind, message, place: None, source: None, latches: false, rollback_pending: false }
    }
}

impl From<Inner> for Error {
    fn from(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }
}

/// Maps an operating system error to a kind.
fn kind_of(source: &io::Error) -> ErrorKind {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::NotFound => ErrorKind::Missing,
        io::ErrorKind::OutOfMemory => ErrorKind::Exhausted,
        _ if is_out_of_files(source) => ErrorKind::Exhausted,
        _ => ErrorKind::Io,
    }
}

fn is_denied(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

pub(crate) fn is_out_of_files(source: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(source);
    errno.is_some_and(|errno| matches!(errno, rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// How to raise the limit that was reached.
fn remedy(source: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(source) {
        Some(rustix::io::Errno::MFILE) => "; raise `ulimit -n`, or lower `max_open_files`",
        Some(rustix::io::Errno::NFILE) => "; raise `sysctl fs.file-max`",
        Some(rustix::io::Errno::NOMEM) => {
            "; raise the limit on memory (`ulimit -v`, control group) or mappings (`sysctl vm.max_map_count`)"
        }
        _ => "",
    }
}

impl Error {
    /// An error of `kind` with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Inner::new(kind, message.into()).into()
    }

    /// An error of `kind` that concerns the file or directory at `path`.
    pub fn at(kind: ErrorKind, path: &Path, message: impl fmt::Display) -> Self {
        Location { path: path.to_owned(), offset: None, what: message.to_string() }.error(kind)
    }

    /// An error of `kind` that was caused by `source`.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let source: Option<Source> = Some(Arc::new(source));
        Inner { source, ..Inner::new(kind, message.into()) }.into()
    }

    /// The failure of `operation` on `path`, which did nothing. A full disk or quota becomes
    /// [`ErrorKind::StorageFull`], an absent file [`ErrorKind::Missing`], a limit
    /// [`ErrorKind::Exhausted`], anything else [`ErrorKind::Io`].
    pub fn io(operation: &str, path: &Path, source: io::Error) -> Self {
        let message = format!("{operation} {}: {source}{}", path.display(), remedy(&source));
        Self::with_source(kind_of(&source), message, source)
    }

    /// A failed reservation of space. `Unsupported` if the file system has no `fallocate`.
    pub fn failed_reservation(path: &Path, source: io::Error) -> Self {
        // Not every target maps `EOPNOTSUPP` to `Unsupported`.
        let none = source.kind() == io::ErrorKind::Unsupported || source.raw_os_error() == Some(95);
        if !none {
            return Self::io("reserve space in", path, source);
        }
        let message = format!(
            "{}: the file system cannot reserve space (no fallocate); use one that can",
            path.display()
        );
        Self::with_source(ErrorKind::Unsupported, message, source)
    }

    /// A failed write or sync of accepted bytes. The state of the disk is unknown, so the table
    /// must accept no more writes. A lack of space is no exception: a repeated sync could succeed
    /// without having written anything.
    pub fn failed_write(operation: &str, path: &Path, source: io::Error) -> Self {
        Self::io(operation, path, source).with_kind(ErrorKind::Io).latching()
    }

    /// A failed write or sync of a file that nothing refers to yet: like
    /// [`failed_write`](Self::failed_write), but a lack of space means that nothing was done.
    pub fn failed_new_write(operation: &str, path: &Path, source: io::Error) -> Self {
        match kind_of(&source) {
            ErrorKind::StorageFull => Self::io(operation, path, source),
            _ => Self::failed_write(operation, path, source),
        }
    }

    /// A failed sync of directory `dir`: like [`failed_write`](Self::failed_write), unless the
    /// directory could not be opened for it.
    pub fn failed_dir_sync(dir: &Path, source: io::Error) -> Self {
        let is_opening = is_out_of_files(&source)
            || source.kind() == io::ErrorKind::PermissionDenied
            || (source.kind() == io::ErrorKind::OutOfMemory && source.raw_os_error().is_none());
        match is_opening {
            true => Self::io("open directory", dir, source),
            false => Self::failed_write("sync directory", dir, source),
        }
    }

    /// A failed allocation of `len_bytes` for `what`.
    pub fn out_of_memory(what: &str, len_bytes: usize) -> Self {
        let message = format!(
            "cannot allocate {len_bytes} bytes for {what}; raise the memory limit of the process (`ulimit -v`, control group)"
        );
        Self::new(ErrorKind::Exhausted, message)
    }

    /// An error of `kind` at `offset` in the file at `path`.
    pub fn at_offset(
        kind: ErrorKind,
        path: &Path,
        offset: u64,
        message: impl Into<String>,
    ) -> Self {
        Location { path: path.to_owned(), offset: Some(offset), what: message.into() }.error(kind)
    }

    /// Corrupt bytes at `offset` in `path`: what was expected and what was found.
    pub fn corrupt(path: &Path, offset: u64, expected: &str, found: &str) -> Self {
        let what = format!("expected {expected}, found {found}");
        Self::at_offset(ErrorKind::Corrupt, path, offset, what)
    }

    /// The same error with `context` (which table, which task) in front of its message.
    #[must_use]
    pub fn context(&self, context: impl fmt::Display) -> Self {
        self.altered(|inner| inner.message = format!("{context}: {}", inner.message))
    }

    /// The same error with another kind, for a caller that knows better what it means.
    #[must_use]
    pub fn with_kind(&self, kind: ErrorKind) -> Self {
        self.altered(|inner| inner.kind = kind)
    }

    /// The same error as [`ErrorKind::Locked`], because a rollback is under way or was
    /// interrupted.
    #[must_use]
    pub fn for_pending_rollback(&self) -> Self {
        self.altered(|inner| {
            (inner.kind, inner.rollback_pending) = (ErrorKind::Locked, true);
        })
    }

    /// The same error, marked as one after which a table must accept no more writes.
    #[must_use]
    pub fn latching(&self) -> Self {
        self.altered(|inner| inner.latches = true)
    }

    fn altered(&self, alter: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = (*self.inner).clone();
        alter(&mut inner);
        inner.into()
    }

    /// Whether a write or sync failed, so that the table must accept no more writes. Other errors
    /// have done nothing, and the call may be repeated.
    pub fn latches(&self) -> bool {
        self.inner.latches
    }

    /// Whether a rollback is under way or was interrupted: opening the database for writing
    /// finishes it.
    pub fn is_rollback_pending(&self) -> bool {
        self.inner.rollback_pending
    }

    /// Whether the operating system did not permit the call: owner, mode, or a file system that is
    /// mounted read-only. Nothing was done, and it says nothing about what the files hold.
    pub fn is_permission_denied(&self) -> bool {
        let source = self.inner.source.as_ref().and_then(|e| e.downcast_ref::<io::Error>());
        self.kind() == ErrorKind::Io && source.is_some_and(is_denied)
    }

    /// What a caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The message without the kind.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The file or directory that the error concerns, if any.
    pub fn path(&self) -> Option<&Path> {
        self.inner.place.as_ref().map(|place| place.path.as_path())
    }

    /// The offset in [`path`](Self::path), in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.inner.place.as_ref().and_then(|place| place.offset)
    }

    /// The message without context, [`path`](Self::path) and [`offset`](Self::offset).
    pub fn what(&self) -> &str {
        self.inner.place.as_ref().map_or(&self.inner.message, |place| &place.what)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.inner.kind, self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("source", &self.inner.source)
            .finish()
    }
}

/// Serializes as the message with its kind.
impl serde::Serialize for Error {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_and_missing_file_have_distinct_kinds() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let path = Path::new("d/1.keys");
        assert_eq!(Error::io("write", path, full).kind(), ErrorKind::StorageFull);
        assert_eq!(Error::io("open", path, gone).kind(), ErrorKind::Missing);
    }

    #[test]
    fn limits_and_permissions_are_told_from_other_failures() {
        use rustix::io::Errno;
        let error = |errno: Errno| Error::io("open", Path::new("d"), errno.into());
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert_eq!(error(errno).kind(), ErrorKind::Exhausted);
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
            let error = error(errno).context("table t");
            assert!(error.kind() == ErrorKind::Io && error.is_permission_denied());
        }
        assert!(!error(Errno::IO).is_permission_denied());
        assert!(error(Errno::MFILE).to_string().contains("ulimit -n"));
        assert!(error(Errno::NOMEM).to_string().contains("vm.max_map_count"));
    }

    #[test]
    fn only_failed_writes_and_syncs_latch() {
        use rustix::io::Errno;
        let path = Path::new("d/1.keys");
        for errno in [Errno::MFILE, Errno::NOMEM, Errno::ACCESS, Errno::NOSPC, Errno::IO] {
            assert!(!Error::io("open", path, errno.into()).latches());
            let failed = Error::failed_write("sync", path, errno.into());
            assert!(failed.context("table t").latches() && failed.kind() == ErrorKind::Io);
        }
        let new = |errno: Errno| Error::failed_new_write("write", path, errno.into()).latches();
        assert!(new(Errno::IO) && !new(Errno::NOSPC));
        let dir = |errno: Errno| Error::failed_dir_sync(path, errno.into()).latches();
        assert!(dir(Errno::IO) && dir(Errno::NOSPC) && dir(Errno::NOMEM));
        assert!(!dir(Errno::MFILE) && !dir(Errno::NFILE) && !dir(Errno::ACCESS));
    }

    #[test]
    fn path_and_offset_are_fields_whatever_the_context() {
        let error = Error::corrupt(Path::new("d/1.keys"), 64, "a record", "nothing");
        let error = error.context("table t");
        let says = "corrupt: table t: d/1.keys at offset 64: expected a record, found nothing";
        assert_eq!(error.to_string(), says);
        assert_eq!((error.path(), error.offset()), (Some(Path::new("d/1.keys")), Some(64)));
        assert_eq!(error.what(), "expected a record, found nothing");
        let error = Error::new(ErrorKind::Closed, "closed");
        assert_eq!((error.path(), error.offset(), error.what()), (None, None, "closed"));
    }

    #[test]
    fn a_message_names_the_file_and_keeps_the_cause() {
        let error = Error::io("sync", Path::new("d/1.keys"), io::Error::other("device gone"));
        let error = error.context("table blocks");
        assert_eq!(error.to_string(), "i/o failure: table blocks: sync d/1.keys: device gone");
        assert!(std::error::Error::source(&error).is_some());
    }
}
