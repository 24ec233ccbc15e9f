//! The one error of the project: a kind to act on, a sentence to read, and the cause.
//!
//! Every crate of the house returns this type. It is a cheap clone (the latch hands the first
//! failure to every later caller) and never carries user values, only names, sizes and offsets.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What a caller can act on. New kinds may appear: match with a wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's argument is outside what is documented; nothing was written.
    InvalidArgument,
    /// The disk is full. Nothing was lost; the call may be repeated when there is space.
    StorageFull,
    /// The operating system refused a read, a write or another call.
    Io,
    /// A checksum, a length or a link of the files does not hold. The bytes were not handed out.
    Corrupt,
    /// A directory or a file that must be there is not.
    Missing,
    /// Another handle or process holds the database.
    Locked,
    /// The files were written by something else, or by another database.
    Foreign,
    /// The files are of a format version or carry a feature that this build does not know.
    Unsupported,
    /// An earlier failed write or sync closed the table for writing; only a reopen clears it.
    Latched,
    /// The key is there already, and the table refuses duplicates.
    DuplicateKey,
    /// The options contradict those the table or database is already open with.
    Conflict,
    /// The call needs write access, and the database was opened for reading only.
    ReadOnly,
    /// The database or the table was closed or dropped.
    Closed,
    /// A rollback was begun and is not finished: opening the database for writing finishes it.
    RollbackPending,
    /// The caller stopped the call; nothing was changed.
    Cancelled,
}

impl ErrorKind {
    /// The kind as one lower-case word group, for messages and logs.
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
            Self::Conflict => "conflict",
            Self::ReadOnly => "read-only",
            Self::Closed => "closed",
            Self::RollbackPending => "rollback pending",
            Self::Cancelled => "cancelled",
        }
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
///
/// ```
/// use lithdb_env::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::InvalidArgument, "a key is empty; 1 to 65535 bytes are allowed");
/// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
/// assert!(error.to_string().contains("1 to 65535"));
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` with a message for the person who reads it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, message: message.into(), source: None }) }
    }

    /// An error of `kind` that was caused by `source`.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let source: Option<Source> = Some(Arc::new(source));
        Self { inner: Arc::new(Inner { kind, message: message.into(), source }) }
    }

    /// What the operating system answered to `operation` on `path`. A full disk or quota becomes
    /// [`ErrorKind::StorageFull`], an absent file [`ErrorKind::Missing`], the rest [`ErrorKind::Io`].
    pub fn io(operation: &str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            io::ErrorKind::NotFound => ErrorKind::Missing,
            _ => ErrorKind::Io,
        };
        Self::with_source(kind, format!("{operation} {}: {source}", path.display()), source)
    }

    /// Bytes that do not hold: `path`, the offset in it, what was expected and what was found.
    pub fn corrupt(path: &Path, offset: u64, expected: &str, found: &str) -> Self {
        Self::new(
            ErrorKind::Corrupt,
            format!("{} at offset {offset}: expected {expected}, found {found}", path.display()),
        )
    }

    /// The same error with `context` in front of its message: which table, which task.
    #[must_use]
    pub fn context(&self, context: impl fmt::Display) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind: self.inner.kind,
                message: format!("{context}: {}", self.inner.message),
                source: self.inner.source.clone(),
            }),
        }
    }

    /// The same error as another kind, for a caller that knows better what it means.
    #[must_use]
    pub fn reclassified(&self, kind: ErrorKind) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                message: self.inner.message.clone(),
                source: self.inner.source.clone(),
            }),
        }
    }

    /// What a caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The message without the kind.
    pub fn message(&self) -> &str {
        &self.inner.message
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_an_absent_file_have_kinds_of_their_own() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let path = Path::new("d/1.keys");
        assert_eq!(Error::io("write", path, full).kind(), ErrorKind::StorageFull);
        assert_eq!(Error::io("open", path, gone).kind(), ErrorKind::Missing);
    }

    #[test]
    fn a_message_names_the_file_and_keeps_the_cause() {
        let error = Error::io("sync", Path::new("d/1.keys"), io::Error::other("device gone"));
        let error = error.context("table blocks");
        assert_eq!(error.to_string(), "i/o failure: table blocks: sync d/1.keys: device gone");
        assert!(std::error::Error::source(&error).is_some());
    }
}
