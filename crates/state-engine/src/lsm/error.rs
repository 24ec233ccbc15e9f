//! Errors and panics of `lsm-tree` as errors of ours.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lithdb_env::{Error, ErrorKind};

/// Why a call of `lsm-tree` failed.
#[derive(Debug)]
pub(super) enum Failure {
    Returned(lsm_tree::Error),
    /// The message of a panic.
    Panicked(String),
}

/// Calls `lsm-tree`, catching its panics. Its locks may be poisoned after one, so that later calls
/// panic too; the engine that was called must not be changed any more. What it is reading stays
/// valid: tables and memtables are immutable or append-only.
pub(super) fn caught<T>(call: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Returned(error)),
        Err(panic) => Err(Failure::Panicked(message_of(&*panic))),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

impl Failure {
    /// The failure of a call that wrote nothing.
    pub(super) fn of_read(self, operation: &str, dir: &Path) -> Error {
        match self {
            Self::Returned(lsm_tree::Error::Io(error)) => of_io(operation, dir, error),
            Self::Returned(error) => of_damage(operation, dir, error),
            Self::Panicked(message) => panicked(operation, dir, &message),
        }
    }

    /// The failure of a call that wrote. With `is_undone`, nothing refers to what it wrote, so
    /// that it may be repeated if it failed for want of space or of descriptors.
    ///
    /// `lsm-tree` does not say which system call failed, so the failure of a read counts as that
    /// of a write.
    pub(super) fn of_write(self, operation: &str, dir: &Path, is_undone: bool) -> Error {
        let error = match self {
            Self::Returned(lsm_tree::Error::Io(error)) => {
                let error = Error::io(operation, dir, error);
                let did_nothing =
                    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::Exhausted);
                if is_undone && (did_nothing || error.is_permission_denied()) {
                    return error;
                }
                error.with_kind(ErrorKind::Io)
            }
            Self::Returned(error) => of_damage(operation, dir, error),
            Self::Panicked(message) => panicked(operation, dir, &message),
        };
        error.latching()
    }
}

fn of_io(operation: &str, dir: &Path, error: io::Error) -> Error {
    // A file that ends early has a wrong length: that is damage, not a failed call.
    let is_damage =
        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData);
    let error = Error::io(operation, dir, error);
    if is_damage { error.with_kind(ErrorKind::Corrupt) } else { error }
}

fn of_damage(operation: &str, dir: &Path, error: lsm_tree::Error) -> Error {
    let kind = match error {
        lsm_tree::Error::InvalidVersion(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Corrupt,
    };
    let message =
        format!("{operation} {}: a file of the engine is damaged: {error:?}", dir.display());
    Error::with_source(kind, message, error)
}

fn panicked(operation: &str, dir: &Path, message: &str) -> Error {
    let message = format!(
        "{operation} {}: the engine lsm-tree panicked, which is a defect of it or damage that it does not detect; close and check the store: {message}",
        dir.display()
    );
    Error::new(ErrorKind::Io, message).latching()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(errno: i32) -> Failure {
        Failure::Returned(lsm_tree::Error::Io(io::Error::from_raw_os_error(errno)))
    }

    #[test]
    fn only_a_write_that_did_nothing_can_be_repeated() {
        let [enospc, emfile, eacces, eio] = [28, 24, 13, 5];
        let dir = Path::new("engine");
        for errno in [enospc, emfile, eacces] {
            assert!(!os(errno).of_write("flush", dir, true).latches());
            let error = os(errno).of_write("flush", dir, false);
            assert!(error.latches() && error.kind() == ErrorKind::Io);
        }
        assert_eq!(os(enospc).of_write("flush", dir, true).kind(), ErrorKind::StorageFull);
        assert!(os(eio).of_write("flush", dir, true).latches());
        assert!(!os(eio).of_read("read", dir).latches());
    }

    #[test]
    fn panic_is_an_error_that_latches_and_names_the_engine() {
        let failure = caught::<()>(|| panic!("no {}", "luck")).unwrap_err();
        let error = failure.of_read("read", Path::new("engine"));
        assert!(error.latches() && error.kind() == ErrorKind::Io);
        assert!(error.to_string().contains("lsm-tree panicked"), "{error}");
        assert!(error.to_string().contains("no luck"), "{error}");
    }

    #[test]
    fn short_file_is_corrupt_and_not_a_failed_read() {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        let error = Failure::Returned(lsm_tree::Error::Io(error)).of_read("read", Path::new("e"));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
