//! The newest committed version, as readers see it: replaced as a whole by each commit.

use lithdb::Position;
use lithdb_lthash::RootHash;
use lithdb_state_engine::Pin;

use crate::totals::Totals;

/// A committed version.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) version: u64,
    pub(crate) root: RootHash,
    pub(crate) totals: Totals,
    /// The moment of the working copy at which it holds exactly this version.
    pub(crate) pin: Pin,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The version.
    pub version: u64,
    /// The hash of all rows after it.
    pub root: RootHash,
    /// The position of its record in the log's table.
    pub position: Position,
}
