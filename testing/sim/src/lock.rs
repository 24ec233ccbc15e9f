//! Advisory locks: who holds which inode.
//!
//! Every lock has its own number, so that dropping a lock that a crash has already released does
//! not release a lock that another holder has taken since.

use std::collections::BTreeMap;

use lithdb_env::{File, FileLock, LockKind};

use crate::file::SimFile;
use crate::fs::SimFs;
use crate::inode::Ino;

#[derive(Debug, Default)]
pub(crate) struct Locks {
    holders: BTreeMap<Ino, Vec<(u64, LockKind)>>,
    next: u64,
}

impl Locks {
    /// Returns the number of the lock, or `None` if a conflicting lock is held.
    pub(crate) fn take(&mut self, ino: Ino, kind: LockKind) -> Option<u64> {
        let holders = self.holders.entry(ino).or_default();
        let free = match kind {
            LockKind::Exclusive => holders.is_empty(),
            LockKind::Shared => holders.iter().all(|(_, held)| *held == LockKind::Shared),
        };
        if !free {
            return None;
        }
        self.next += 1;
        holders.push((self.next, kind));
        Some(self.next)
    }

    pub(crate) fn release(&mut self, ino: Ino, number: u64) {
        if let Some(holders) = self.holders.get_mut(&ino) {
            holders.retain(|(held, _)| *held != number);
        }
    }

    pub(crate) fn release_all(&mut self) {
        self.holders.clear();
    }
}

#[derive(Debug)]
pub(crate) struct SimLock {
    pub(crate) fs: SimFs,
    pub(crate) ino: Ino,
    pub(crate) number: u64,
    pub(crate) file: SimFile,
}

impl FileLock for SimLock {
    fn file(&self) -> &dyn File {
        &self.file
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.fs.state().locks.release(self.ino, self.number);
    }
}
