//! What every keymap can do.

use std::fmt::Debug;

use lithdb_env::Result;
use lithdb_segment::{Position, SegmentId};

use crate::{Candidates, KeyHash};

/// Finds the positions of keys by their hashes.
///
/// Methods may be called from any number of threads. No lock is held while a caller's `same_key`
/// runs, nor after a method has returned.
pub trait Keymap: Send + Sync + Debug {
    /// Makes `at` a candidate for `hash`. From its return every thread finds it.
    ///
    /// If another position looks alike, `same_key` is asked whether the record there has this very
    /// key; it may read a file. Of two positions of one key only the higher stays, whichever is
    /// inserted later: the order of calls is not the order of positions. A position that is there
    /// already, or is below the watermark, changes nothing.
    ///
    /// # Errors
    /// What `same_key` returned, unless the watermark has meanwhile passed the position it was
    /// asked about. `at` is not inserted then.
    fn insert(
        &self,
        hash: KeyHash,
        at: Position,
        same_key: &mut dyn FnMut(Position) -> Result<bool>,
    ) -> Result<()>;

    /// [`insert`](Self::insert) for many keys at a time, in any order, taking each lock once per
    /// several keys: this is how a keymap is rebuilt. `same_key(new, old)` says whether the records
    /// at the two positions have one key.
    ///
    /// # Errors
    /// The first that `same_key` returned; any of the items may have been inserted by then.
    fn insert_batch(
        &self,
        items: &[(KeyHash, Position)],
        same_key: &mut dyn FnMut(Position, Position) -> Result<bool>,
    ) -> Result<()>;

    /// Puts into `out` all positions that may hold a key of this hash, newest first, and nothing
    /// below the watermark.
    fn candidates(&self, hash: KeyHash, out: &mut Candidates);

    /// From now on entries of segments below `lowest` are dead: no lookup returns them, and the next
    /// rewrite of their part of the keymap drops them. Costs nothing by itself. Never moves back.
    fn raise_watermark(&self, lowest: SegmentId);

    /// Approximate number of entries, with the dead ones that have not been dropped.
    fn entries(&self) -> usize;

    /// Memory that is allocated, in bytes.
    fn memory_bytes(&self) -> usize;

    /// Makes room for about this many more keys at once, so that they are inserted without rewrites.
    fn reserve(&self, additional_keys: usize);
}
