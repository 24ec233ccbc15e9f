//! What a verification finds wrong, and which errors are none of it.

use std::fmt;

use lithdb_env::{Error, ErrorKind, Result};

/// How many findings a verification lists.
pub(super) const MAX_FINDINGS: usize = 1_000;

/// What is wrong with a store, one sentence each: the first [`MAX_FINDINGS`], and that there are
/// more. Of very many the first ones say enough.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<String>);

impl Findings {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<String> {
        self.0
    }

    /// Records what is wrong.
    pub(super) fn find(&mut self, finding: String) {
        match self.0.len() {
            MAX_FINDINGS => self.0.push("there are more findings".to_owned()),
            found if found < MAX_FINDINGS => self.0.push(finding),
            _ => {}
        }
    }

    /// Records an error that says what is wrong with the store. One that says nothing about it ends
    /// the verification.
    pub(super) fn note(&mut self, what: impl fmt::Display, error: Error) -> Result<()> {
        if is_of_the_call(error.kind()) {
            return Err(error);
        }
        self.find(format!("{what}: {error}"));
        Ok(())
    }
}

/// Whether what failed is the call, and not the store that it reads: the operating system, the
/// space for a copy, or somebody who has the store locked, as in a rollback, or has closed it.
pub(super) const fn is_of_the_call(kind: ErrorKind) -> bool {
    kind.is_system_failure()
        || matches!(
            kind,
            ErrorKind::StorageFull | ErrorKind::Locked | ErrorKind::Latched | ErrorKind::Closed
        )
}
