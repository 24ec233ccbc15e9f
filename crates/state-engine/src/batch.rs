//! The checks of arguments that both engines make: rows, ranges, sealed memtables, modes.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_env::{Error, ErrorKind, Result};

use crate::engine::{MAX_KEY_LEN, MAX_VALUE_LEN, OpenMode, Sealed};

/// A row to be put, or the key of one to be deleted.
pub(crate) type Change<'k, 'v> = (&'k [u8], Option<&'v [u8]>);

/// Takes all rows, so that an invalid one is found before the first is applied.
pub(crate) fn collect<'k, 'v>(
    rows: &mut dyn Iterator<Item = Change<'k, 'v>>,
) -> Result<Vec<Change<'k, 'v>>> {
    let rows: Vec<_> = rows.collect();
    for (key, value) in &rows {
        let value_len = value.map_or(0, <[u8]>::len);
        if key.is_empty() || key.len() > MAX_KEY_LEN || value_len > MAX_VALUE_LEN {
            let message = format!(
                "expected a key of 1 to {MAX_KEY_LEN} bytes and a value of at most {MAX_VALUE_LEN} bytes, found {} and {value_len}",
                key.len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    Ok(rows)
}

/// Whether no key is in a range.
pub(crate) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}

/// `InvalidArgument` for an engine that was opened for reading.
pub(crate) fn check_writable(dir: &Path, mode: OpenMode) -> Result<()> {
    match mode {
        OpenMode::Write => Ok(()),
        OpenMode::ReadInPlace => {
            let message = "the engine was opened for reading in place; open it for writing";
            Err(Error::at(ErrorKind::InvalidArgument, dir, message))
        }
    }
}

/// A number for an engine that no other one of this process has.
pub(crate) fn next_engine() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// `InvalidArgument` for a memtable that another engine has sealed, perhaps in the same directory.
pub(crate) fn check_sealed(sealed: &Sealed, engine: u64) -> Result<()> {
    if sealed.engine == engine {
        return Ok(());
    }
    let message = format!("memtable {} was sealed by another engine", sealed.number);
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// `InvalidArgument` unless `sealed` is the last memtable that was sealed, and has been flushed.
pub(crate) fn check_newest(sealed: &Sealed, flushed: u64, last: u64) -> Result<()> {
    if sealed.number == last && sealed.number == flushed {
        return Ok(());
    }
    let message = format!(
        "cannot copy the engine at memtable {}: flushed are those up to {flushed}, sealed those up to {last}; flush it before the next seal",
        sealed.number
    );
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
