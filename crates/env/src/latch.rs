//! The failure latch: the first failed write or sync, or a panic, closes a table for writing.
//!
//! After a failed sync it is unknown which pages reached the disk (the kernel may mark them clean
//! regardless), so nothing later may be acknowledged. The latch keeps the first cause and returns
//! it to every later caller. Only reopening clears it.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::OnceLock;

/// Holds the first failure; later ones are ignored.
#[derive(Debug, Default)]
pub struct Latch {
    cause: OnceLock<Error>,
}

impl Latch {
    /// Closes the latch with `cause` unless it is already closed; returns whether this call closed
    /// it.
    pub fn close(&self, cause: &Error) -> bool {
        self.cause.set(cause.clone()).is_ok()
    }

    /// The first failure, if any.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.get()
    }

    /// `Ok` while open. When closed, [`ErrorKind::Latched`] with the first failure in its message
    /// and as its source.
    pub fn check(&self) -> Result<()> {
        let Some(cause) = self.cause.get() else { return Ok(()) };
        let message =
            format!("closed for writing until it is reopened; the first failure: {cause}");
        Err(Error::with_source(ErrorKind::Latched, message, cause.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failure_stays_and_is_in_every_error() {
        let latch = Latch::default();
        assert!(latch.check().is_ok());
        assert!(latch.close(&Error::new(ErrorKind::Io, "sync 1.keys: gone")));
        assert!(!latch.close(&Error::new(ErrorKind::Io, "something later")));
        let error = latch.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Latched);
        assert!(error.to_string().contains("sync 1.keys: gone"), "{error}");
    }
}
