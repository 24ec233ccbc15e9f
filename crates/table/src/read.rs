//! get: from a key through the keymap and the key file to the bytes.

use std::sync::Arc;

use lithdb_env::{ErrorKind, Result};
use lithdb_keymap::{Candidates, KeyHash};
use lithdb_segment::{Address, Position, Segment, Value};

use crate::table::{Inner, Mode, Table};

/// A key that was found.
pub(crate) struct Found {
    pub(crate) at: Position,
    pub(crate) segment: Arc<Segment>,
    pub(crate) address: Address,
}

impl Table {
    /// The value of `key`: the newest if it was put more than once, `None` if it was never put or has been collected. The
    /// bytes are checked on the way (see [`Verify`](lithdb_segment::Verify)).
    ///
    /// # Errors
    /// `InvalidArgument` for a key that cannot be, `Corrupt` if the bytes are not those that were put, `Io`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let inner = &*self.inner;
        inner.enter()?;
        inner.check_asked(key)?;
        inner.counters.gets.increment(1);
        let read = || match inner.find(key)? {
            Some(found) => found.segment.read_value(&found.address).map(Some),
            None => Ok(None),
        };
        inner.again_if_collected(read).map_err(|e| inner.in_context(&e))
    }

    /// Whether `key` is there. Reads no value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        let inner = &*self.inner;
        inner.enter()?;
        inner.check_asked(key)?;
        let found = inner.again_if_collected(|| Ok(inner.find(key)?.map(|_| ())));
        Ok(found.map_err(|e| inner.in_context(&e))?.is_some())
    }
}

impl Inner {
    /// The newest record of `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Found>> {
        let hash = KeyHash::of(self.hash_seed, key);
        let mut candidates = Candidates::new();
        self.keymap.candidates(hash, &mut candidates);
        for at in candidates.iter().copied() {
            // Collected since the keymap was asked.
            let Some(segment) = self.segment(at.segment) else { continue };
            // Seen by this reader before the writer's recovery gave it up.
            if u64::from(at.offset) >= segment.key_end() {
                continue;
            }
            if let Some(address) = segment.lookup(at.offset, key)? {
                return Ok(Some(Found { at, segment, address }));
            }
        }
        Ok(None)
    }

    /// A reader in another process may find that a file has been collected under it, or that a rollback has cut it: it looks
    /// at the state again, and then the answer is that the key is gone, or an older value.
    pub(crate) fn again_if_collected<T>(
        &self,
        read: impl Fn() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        match (read(), &self.mode) {
            (Err(error), Mode::Read(side))
                if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Corrupt) =>
            {
                side.catch_up(self)?;
                read()
            }
            (answer, _) => answer,
        }
    }
}
