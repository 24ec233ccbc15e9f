//! What the tour knows of each file from the moment it was loaded.

use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_128;

/// A file that was loaded.
pub(super) struct Item {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its key: the path from the root of the tree.
    pub(super) key: String,
    /// Of what was stored.
    pub(super) digest: Digest,
}

/// All files that were loaded, in the order in which they were.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) items: Vec<Item>,
    /// How many of them are in the older half, which was sealed before the rest was put.
    pub(super) older: usize,
}

impl Loaded {
    /// The files of the older half.
    pub(super) fn older(&self) -> &[Item] {
        self.items.get(..self.older).unwrap_or_default()
    }

    /// The files of the newer half.
    pub(super) fn newer(&self) -> &[Item] {
        self.items.get(self.older..).unwrap_or_default()
    }
}

/// What identifies a content: 128 bits that have nothing to do with the checksums of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest(u128);

impl Digest {
    /// The digest of a content.
    pub(super) fn of(content: &[u8]) -> Self {
        Self(xxh3_128(content))
    }

    /// The secondary key under which a content can be found whatever its file is called: no path from the root of a
    /// tree has two slashes in a row.
    pub(super) fn key(self) -> String {
        format!("xxh3://{:032x}", self.0)
    }
}
