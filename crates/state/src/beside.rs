//! Reading a store beside its writer, with components of the caller's; and verifying it.

use std::path::PathBuf;

use lithdb_env::Result;

use crate::db::StateDb;
use crate::inspect;
use crate::options::StateComponents;
use crate::verify::{self, StateVerification, VerifyLevel};
use crate::view::View;

/// Calls that open nothing for writing, with the caller's file system, clock, threads and engine.
impl StateDb {
    /// As [`view_only`](Self::view_only), with components of the caller's. The log must be the
    /// store's own.
    ///
    /// # Errors
    /// As [`view_only`](Self::view_only).
    pub fn view_only_with(
        dir: impl Into<PathBuf>,
        version: Option<u64>,
        components: StateComponents,
    ) -> Result<View> {
        inspect::view_only(dir.into(), version, &components)
    }

    /// Verifies the store in `dir`, beside a writer or not. `progress` receives the number of
    /// records or rows so far.
    ///
    /// # Errors
    /// As [`view_only`](Self::view_only). What is wrong with the store is in the verification.
    pub fn verify(
        dir: impl Into<PathBuf>,
        level: VerifyLevel,
        progress: impl FnMut(u64),
    ) -> Result<StateVerification> {
        Self::verify_with(dir, level, StateComponents::default(), progress)
    }

    /// As [`verify`](Self::verify), with components of the caller's.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_with(
        dir: impl Into<PathBuf>,
        level: VerifyLevel,
        components: StateComponents,
        mut progress: impl FnMut(u64),
    ) -> Result<StateVerification> {
        verify::verify(dir.into(), level, &components, &mut progress)
    }
}
