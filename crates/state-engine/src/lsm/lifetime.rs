//! Tables that outlive their engine, for the whole process.
//!
//! `lsm-tree` removes the file of a table that was compacted away when the last view of it is
//! dropped: by its path, perhaps long after its engine was closed. Nothing else may have that path
//! by then. So
//!
//! - a table id is given once in the life of a process, whatever directory it is used in
//!   ([`next_id`], [`note_id`]): an engine that is opened again continues above the ids of its
//!   predecessor, although its manifest does not know them;
//! - no engine is made by creation or cloning at the path of an engine that is still read
//!   ([`require_unread`]): a clone has the ids of its original.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lithdb_env::{Error, ErrorKind, Result};
use parking_lot::Mutex;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);
static READ: Mutex<Vec<Weak<Lifetime>>> = Mutex::new(Vec::new());

/// Exists as long as tables of an engine may be open.
#[derive(Debug)]
pub(super) struct Lifetime {
    dir: PathBuf,
}

/// The lowest table id that no engine of this process has given.
pub(super) fn next_id() -> u64 {
    NEXT_ID.load(Ordering::SeqCst)
}

/// Says that all ids below `next` may have been given.
pub(super) fn note_id(next: u64) {
    NEXT_ID.fetch_max(next, Ordering::SeqCst);
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(|e| Error::io("resolve", dir, e))
}

/// Begins the lifetime of an engine that may remove tables.
pub(super) fn begin(dir: &Path) -> Result<Arc<Lifetime>> {
    let lifetime = Arc::new(Lifetime { dir: absolute(dir)? });
    let mut read = READ.lock();
    read.retain(|lifetime| lifetime.strong_count() > 0);
    read.push(Arc::downgrade(&lifetime));
    Ok(lifetime)
}

/// `Locked` if an engine at that path is open or still read.
pub(super) fn require_unread(dir: &Path) -> Result<()> {
    let dir = absolute(dir)?;
    let read = READ.lock();
    if !read.iter().filter_map(Weak::upgrade).any(|lifetime| lifetime.dir == dir) {
        return Ok(());
    }
    let message = "an engine that was open here is still read; drop its views, or use another name";
    Err(Error::at(ErrorKind::Locked, &dir, message))
}
