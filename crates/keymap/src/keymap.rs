//! The interface of all keymaps.
//!
//! Called by the table only, from any thread. A keymap decides nothing about keys itself: it asks
//! the caller to compare them.

use std::fmt::Debug;

use lithdb_env::Result;
use lithdb_segment::{Position, SegmentId};

use crate::{Candidates, KeyHash};

/// Maps key hashes to positions.
///
/// Methods may be called from any number of threads. No lock is held while a caller's `same_key`
/// runs, nor after a method has returned.
pub trait Keymap: Send + Sync + Debug {
    /// Makes `at` a candidate for `hash`. When this returns, every thread finds it.
    ///
    /// If another position's hash is indistinguishable, `same_key` says whether the record there
    /// has this very key; it may read a file. Of two positions of one key only the higher stays,
    /// whichever is inserted later: the order of calls is not the order of positions. A position
    /// that is already present, or is below the watermark, changes nothing.
    ///
    /// # Errors
    /// The error of `same_key`, unless the watermark has meanwhile passed the position it was
    /// called for. `at` is not inserted then.
    fn insert(
        &self,
        hash: KeyHash,
        at: Position,
        same_key: &mut dyn FnMut(Position) -> Result<bool>,
    ) -> Result<()>;

    /// [`insert`](Self::insert) for many keys, in any order, taking each lock once per several
    /// keys; used to rebuild a keymap. `same_key(new, old)` says whether the records at the two
    /// positions have the same key.
    ///
    /// # Errors
    /// The first error of `same_key`; any of the items may have been inserted by then.
    fn insert_batch(
        &self,
        items: &[(KeyHash, Position)],
        same_key: &mut dyn FnMut(Position, Position) -> Result<bool>,
    ) -> Result<()>;

    /// Replaces the content of `out` by all positions that may hold a key with this hash, newest
    /// first, without those below the watermark.
    fn candidates(&self, hash: KeyHash, out: &mut Candidates);

    /// Makes entries of segments below `lowest` dead: no lookup returns them, and the next rewrite
    /// of their part of the keymap drops them. Costs nothing by itself. The watermark never moves
    /// back.
    fn raise_watermark(&self, lowest: SegmentId);

    /// Approximate number of entries, including dead ones that have not been dropped.
    fn entries(&self) -> usize;

    /// Allocated memory in bytes.
    fn memory_bytes(&self) -> usize;

    /// Makes room for about this many more keys, so that inserting them needs no rewrites.
    fn reserve(&self, additional_keys: usize);
}
