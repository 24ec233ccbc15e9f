//! The log: a LithDB table from versions to records.
//!
//! Keys are versions as 8 bytes, big-endian, in ascending order and without a gap. This module
//! knows how they are found; [`record`](crate::record) knows what they hold.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithdb::{GcFilter, Iter, Position, Table};
use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::RootHash;

use crate::files::StoreId;
use crate::record::{Record, RecordHead, version_of};

/// The lowest version of a log that must stay. Its [`filter`](Self::filter) lets LithDB collect
/// whole segments of older ones.
///
/// An application that keeps the log in a database of its own makes one, opens the table with its
/// filter, and gives both to the store:
///
/// ```
/// use lithdb::{Db, DbOptions, TableOptions};
/// use lithdb_state::{StateComponents, StateDb, StateOptions, Wal, WalFloor};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let db = Db::open(DbOptions::new([path.join("blocks")]))?;
/// let floor = WalFloor::new();
/// let table = db.table_with_filter("state", TableOptions::new(), floor.filter())?;
/// let mut components = StateComponents::default();
/// components.wal = Wal::Table { table, floor };
/// let state = StateDb::open_with(path.join("state"), StateOptions::new(), components)?;
/// # state.close()?;
/// # db.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Only an open store raises it, for the log that this store has: closing the store, or dropping
/// its last handle, lowers it to 0, below which nothing is collected. So what is committed again
/// after a rollback is safe, also if the floor is used again. One store has it at a time.
#[derive(Debug, Clone)]
pub struct WalFloor(Arc<Floor>);

#[derive(Debug)]
struct Floor {
    lowest: Arc<AtomicU64>,
    is_held: AtomicBool,
    filter: GcFilter,
}

impl Default for WalFloor {
    fn default() -> Self {
        let lowest = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&lowest);
        let filter = GcFilter::new(move |key, _is_primary| {
            Ok(version_of(key)? < read.load(Ordering::Acquire))
        });
        Self(Arc::new(Floor { lowest, is_held: AtomicBool::new(false), filter }))
    }
}

impl WalFloor {
    /// A floor below which nothing is collected: a store raises it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The filter of the log's table. Call it whenever the table is opened: it lowers the floor,
    /// which a store may have raised for the table as it was before a rollback.
    #[must_use]
    pub fn filter(&self) -> GcFilter {
        self.0.lowest.store(0, Ordering::Release);
        self.0.filter.clone()
    }

    /// Whether the table was opened with this floor's filter.
    pub(crate) fn is_of(&self, table: &Table) -> bool {
        table.is_collected_with(&self.0.filter)
    }

    /// Gives the floor to a store that is being opened.
    ///
    /// # Errors
    /// `InvalidArgument` if another one has it: its versions are not those of this log.
    pub(crate) fn hold(&self) -> Result<FloorHold> {
        if self.0.is_held.swap(true, Ordering::AcqRel) {
            let message = "the WalFloor is in use by another open state store: close that one, or \
                           make a WalFloor for each";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(FloorHold(self.clone()))
    }

    /// Lets versions below `floor` be collected. An open store never lowers it: collected is
    /// collected.
    pub(crate) fn raise(&self, floor: u64) {
        self.0.lowest.fetch_max(floor, Ordering::AcqRel);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.lowest.load(Ordering::Acquire)
    }
}

/// The right of one open store to raise a floor. Dropping it lowers the floor to 0. What LithDB has
/// approved before that may still be collected: it is below the floor of the log as it is.
#[derive(Debug)]
pub(crate) struct FloorHold(WalFloor);

impl Drop for FloorHold {
    fn drop(&mut self) {
        let Self(WalFloor(floor)) = self;
        floor.lowest.store(0, Ordering::Release);
        floor.is_held.store(false, Ordering::Release);
    }
}

/// The log's table.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) table: Table,
    pub(crate) floor: WalFloor,
}

impl Log {
    /// The versions of the log; `None` if it is empty.
    pub(crate) fn range(&self) -> Result<Option<RangeInclusive<u64>>> {
        let (oldest, newest) = (self.table.oldest_key()?, self.table.newest_key()?);
        let (Some(oldest), Some(newest)) = (oldest, newest) else { return Ok(None) };
        Ok(Some(version_of(&oldest)?..=version_of(&newest)?))
    }

    /// The versions of the log, if it has any and is that of the store `id` in `dir`.
    ///
    /// # Errors
    /// `Foreign` for the log of another store.
    pub(crate) fn versions_of(
        &self,
        id: StoreId,
        dir: &Path,
    ) -> Result<Option<RangeInclusive<u64>>> {
        let Some(versions) = self.range()? else { return Ok(None) };
        for version in [*versions.start(), *versions.end()] {
            let head = match self.head(version) {
                // Of a damaged one nobody knows; the newest says whose log it is.
                Err(error) if error.kind() == ErrorKind::Corrupt && version < *versions.end() => {
                    continue;
                }
                head => head?,
            };
            // The oldest may be collected meanwhile, by a writer.
            let Some(head) = head else { continue };
            if head.store != id {
                let message = format!(
                    "the log {} is of another state store ({}); expected {id}: give the log of \
                     this store",
                    self.table.name(),
                    head.store
                );
                return Err(Error::at(ErrorKind::Foreign, dir, message));
            }
        }
        Ok(Some(versions))
    }

    /// The record of `version`; `None` if the log has none.
    pub(crate) fn record(&self, version: u64) -> Result<Option<Record>> {
        let key = version.to_be_bytes();
        let Some(value) = self.table.get(key)? else { return Ok(None) };
        self.decode(&key, &value.into_bytes()).map(Some)
    }

    /// What the record of `version` says before its stores; `None` if the log has none. The table
    /// verifies the checksum of the whole record.
    pub(crate) fn head(&self, version: u64) -> Result<Option<RecordHead>> {
        let key = version.to_be_bytes();
        let Some(value) = self.table.get(key)? else { return Ok(None) };
        RecordHead::decode(&key, &value.into_bytes()).map(Some).map_err(|e| self.in_context(&e))
    }

    /// A decoded record, with the table's name in the error of one that is not.
    pub(crate) fn decode(&self, key: &[u8], value: &bytes::Bytes) -> Result<Record> {
        Record::decode(key, value).map_err(|e| self.in_context(&e))
    }

    fn in_context(&self, error: &Error) -> Error {
        error.context(format_args!("log {}", self.table.name()))
    }

    /// The root after `version`, from its record or, if that is absent or damaged, from that of the
    /// next version; `None` if the log has neither.
    ///
    /// # Errors
    /// `Corrupt` if neither can be read.
    pub(crate) fn root(&self, version: u64) -> Result<Option<RootHash>> {
        let absent = match self.head(version) {
            Ok(Some(head)) => return Ok(Some(head.root)),
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Ok(None) => Ok(None),
            Err(damaged) => Err(damaged),
        };
        let next = version.checked_add(1).map(|next| self.head(next)).transpose()?.flatten();
        next.map_or(absent, |next| Ok(Some(next.previous_root)))
    }

    /// The first version in `range` that the log does not have.
    pub(crate) fn first_absent(&self, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        for version in range {
            if !self.table.contains(version.to_be_bytes())? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// The entries from `version` to the newest; `None` if the log does not have that version.
    pub(crate) fn iter_from(&self, version: u64) -> Result<Option<Iter>> {
        self.table.iter_from(version.to_be_bytes())
    }

    /// Appends a record.
    pub(crate) fn put(&self, record: &Record) -> Result<Position> {
        self.table.put(record.version.to_be_bytes(), record.encode()?)
    }
}
