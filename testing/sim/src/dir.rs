//! A directory: its live entries, its durable entries (what is left after a crash that loses
//! everything unsynced), and the log of operations between the two.
//!
//! Invariant: applying `log` to `durable` in order gives `live`. A rename between two directories
//! is in the logs of both, with one sequence number, and leaves both logs at the same time.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::inode::Ino;

pub(crate) type Entries = BTreeMap<OsString, Ino>;

/// A name in a directory.
pub(crate) type NameRef = (Ino, OsString);

#[derive(Debug, Default)]
pub(crate) struct DirNode {
    pub(crate) live: Entries,
    pub(crate) durable: Entries,
    /// In order of issue.
    pub(crate) log: Vec<DirOp>,
    /// After a failed sync whose pages stayed readable and clean: later syncs succeed and do
    /// nothing.
    pub(crate) stuck: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct DirOp {
    /// Its place in the order of issue, over the whole file system.
    pub(crate) seq: u64,
    pub(crate) change: DirChange,
}

#[derive(Debug, Clone)]
pub(crate) enum DirChange {
    /// A file or directory was created, or a file got another name.
    Link { at: NameRef, ino: Ino },
    /// A name of a file, or a directory, was removed.
    Unlink { at: NameRef, ino: Ino },
    /// A name was moved, atomically.
    Rename { from: NameRef, to: NameRef, ino: Ino },
}

impl DirChange {
    /// The names that the operation changes.
    pub(crate) fn places(&self) -> impl Iterator<Item = &NameRef> {
        let (first, second) = match self {
            Self::Link { at, .. } | Self::Unlink { at, .. } => (at, None),
            Self::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// Applies the operation to the entries of directory `dir`.
    pub(crate) fn apply(&self, dir: Ino, entries: &mut Entries) {
        match self {
            Self::Link { at, ino } if at.0 == dir => {
                entries.insert(at.1.clone(), *ino);
            }
            Self::Unlink { at, ino } if at.0 == dir => remove(entries, at, *ino),
            Self::Rename { from, to, ino } => {
                if from.0 == dir {
                    remove(entries, from, *ino);
                }
                if to.0 == dir {
                    entries.insert(to.1.clone(), *ino);
                }
            }
            Self::Link { .. } | Self::Unlink { .. } => {}
        }
    }
}

fn remove(entries: &mut Entries, at: &NameRef, ino: Ino) {
    if entries.get(&at.1) == Some(&ino) {
        entries.remove(&at.1);
    }
}
