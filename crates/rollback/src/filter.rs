//! Ready-made filters for the usual points to roll back to: a key, a height, a time, a position.
//!
//! Each is a function that [`Rollback::plan`](crate::Rollback::plan) takes as it is; [`PerTable`]
//! combines several.

use std::cmp::Ordering;
use std::collections::HashMap;

use lithdb_env::{Error, ErrorKind, Result, UnixMillis};
use lithdb_segment::Position;
use lithdb_table::show_key;
use lithdb_table::truncate::{KeyAt, RecordRef, Verdict};

/// Keeps everything up to and including the newest record of this key, primary or secondary.
pub fn through_key(key: impl Into<Vec<u8>>) -> impl FnMut(&RecordRef<'_>) -> Result<Verdict> {
    let key = key.into();
    move |record| Ok(keep_if(record.key() == key))
}

/// Keeps records whose number is at most `max`: the eight bytes of the key at `offset`,
/// big-endian, such as a block's height. Checks primary keys only: aliases (hashes, say) have no
/// such number. A primary key too short to hold the number is an error.
///
/// Also checks everything that is kept: if numbers were put again, as when a chain is reorganized,
/// some above `max` may have been put before the newest record kept. They are kept, too,
/// [out of order](crate::OutOfOrder), and so are keys without a number.
pub fn max_be_u64(offset: usize, max: u64) -> impl FnMut(&RecordRef<'_>) -> Result<Verdict> {
    move |record| {
        if !record.is_primary() {
            return Ok(Verdict::Discard);
        }
        let number = record.key().get(offset..).and_then(|bytes| bytes.first_chunk::<8>());
        let Some(number) = number else {
            if record.stays() {
                return Ok(Verdict::Discard);
            }
            let message = format!(
                "table {}: expected keys with an 8-byte number at offset {offset}, found {} of {} bytes",
                record.table(),
                show_key(record.key()),
                record.key().len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        };
        let keep = u64::from_be_bytes(*number) <= max;
        Ok(if keep { Verdict::KeepAndCheck } else { Verdict::Discard })
    }
}

/// Keeps what was certainly put no later than `time`. Files record the times of flushes, not of
/// records: what was put before `time` but flushed after it is removed, too (see
/// [`RecordRef::written_before`]). What is kept is always in order: it was put before a record
/// that existed at that time.
pub fn written_before(time: UnixMillis) -> impl FnMut(&RecordRef<'_>) -> Result<Verdict> {
    move |record| Ok(keep_if(record.written_before() <= time))
}

/// Keeps everything up to and including the record at `position`, with its whole group. A position
/// is valid in one table only: if a table has no record there, the error names the adjacent
/// records.
pub fn through_position(position: Position) -> impl FnMut(&RecordRef<'_>) -> Result<Verdict> {
    // The previous record, which is newer, and its table.
    let mut newer: Option<(String, KeyAt)> = None;
    move |record| match record.position().cmp(&position) {
        Ordering::Equal => Ok(Verdict::Keep),
        Ordering::Less => Err(no_record_at(position, newer.as_ref(), record)),
        Ordering::Greater if record.is_oldest() => Err(no_record_at(position, None, record)),
        Ordering::Greater => {
            let (key, position) = (record.key().to_vec(), record.position());
            newer = Some((record.table().to_owned(), KeyAt { key, position }));
            Ok(Verdict::Discard)
        }
    }
}

fn no_record_at(
    position: Position,
    newer: Option<&(String, KeyAt)>,
    found: &RecordRef<'_>,
) -> Error {
    let (table, at) = (found.table(), found.position());
    let shown = |key: &[u8], at: Position| format!("{} at {at}", show_key(key));
    let found = shown(found.key(), at);
    let beside = match newer {
        Some((of, newer)) if of == table => {
            let newer = shown(&newer.key, newer.position);
            format!("the adjacent records are {found} and {newer}")
        }
        _ if at < position => format!("the newest record is {found}"),
        _ => format!("the oldest record is {found}"),
    };
    let message = format!(
        "table {table}: expected a record at {position}, found none; {beside}. A position is valid \
         in one table only"
    );
    Error::new(ErrorKind::InvalidArgument, message)
}

fn keep_if(keep: bool) -> Verdict {
    if keep { Verdict::Keep } else { Verdict::Discard }
}

type Filter<'a> = Box<dyn FnMut(&RecordRef<'_>) -> Result<Verdict> + 'a>;

/// A filter for each table.
#[derive(Default)]
pub struct PerTable<'a> {
    tables: HashMap<String, Filter<'a>>,
    otherwise: Option<Filter<'a>>,
}

impl std::fmt::Debug for PerTable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.tables.keys()).finish()
    }
}

impl<'a> PerTable<'a> {
    /// No filters yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the filter for one table.
    #[must_use]
    pub fn table(
        mut self,
        table: impl Into<String>,
        filter: impl FnMut(&RecordRef<'_>) -> Result<Verdict> + 'a,
    ) -> Self {
        self.tables.insert(table.into(), Box::new(filter));
        self
    }

    /// Sets the filter for all other tables. Without it, rolling back a table that has no filter
    /// is an error.
    #[must_use]
    pub fn otherwise(mut self, filter: impl FnMut(&RecordRef<'_>) -> Result<Verdict> + 'a) -> Self {
        self.otherwise = Some(Box::new(filter));
        self
    }

    /// Combines them into one filter.
    pub fn into_filter(mut self) -> impl FnMut(&RecordRef<'_>) -> Result<Verdict> + 'a {
        move |record| match self.tables.get_mut(record.table()).or(self.otherwise.as_mut()) {
            Some(filter) => filter(record),
            None => {
                let message = format!(
                    "table {}: no filter for this table; add one or exclude the table",
                    record.table()
                );
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}
