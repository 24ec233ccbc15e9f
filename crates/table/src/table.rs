//! The handle of an open table, and the only place that knows whether it writes or only reads.
//!
//! Public calls are methods of [`Table`], next to what they do. Each begins with [`Table::enter`]
//! or, if it writes, with [`Table::enter_write`], the one place that refuses a reader.

use std::fmt;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_keymap::KeyHash;
use lithdb_segment::{Position, TableName};

use crate::callback::refuse_in_callback;
use crate::gc::filter::GcFilter;
use crate::options::TableOptions;
use crate::read::reader::Reader;
use crate::read::source::{FailedRead, Found, ReadSource};
use crate::segments::Snapshot;
use crate::shared::Shared;
use crate::write::writer::Writer;

/// An open table. Cheap to clone; all clones are the same table.
#[derive(Clone)]
pub struct Table {
    pub(crate) role: Role,
}

/// What the table was opened for.
#[derive(Clone)]
pub(crate) enum Role {
    Writer(Arc<Writer>),
    Reader(Arc<Reader>),
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", self.name()).finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn new(role: Role) -> Self {
        Self { role }
    }

    /// The table's name.
    pub fn name(&self) -> &TableName {
        self.shared().name()
    }

    /// The options that the table was opened with.
    pub fn options(&self) -> &TableOptions {
        &self.shared().options
    }

    /// Whether both are handles of one open table.
    pub fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self.shared(), other.shared())
    }

    /// Whether the application collects this table with a filter: recorded when one was first
    /// given.
    pub fn has_gc_filter(&self) -> bool {
        self.shared().has_gc_filter
    }

    /// Whether the table was opened with this filter, or a clone of it.
    pub fn is_collected_with(&self, filter: &GcFilter) -> bool {
        self.shared().setup.filter.as_ref().is_some_and(|given| given.is_same(filter))
    }

    /// Whether the table was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        matches!(self.role, Role::Reader(_))
    }

    /// The first failed write or sync, if there was one: the table accepts no more writes.
    pub fn failure(&self) -> Option<Error> {
        self.shared().latch.cause().cloned()
    }

    /// Whether the table was closed or dropped: every call is refused. Values and iterators stay
    /// valid.
    pub fn is_closed(&self) -> bool {
        self.shared().is_closed()
    }

    pub(crate) fn shared(&self) -> &Shared {
        match &self.role {
            Role::Writer(writer) => &writer.shared,
            Role::Reader(reader) => &reader.shared,
        }
    }

    /// Every public call begins here.
    pub(crate) fn enter(&self) -> Result<&Shared> {
        refuse_in_callback()?;
        let shared = self.shared();
        shared.check_open()?;
        Ok(shared)
    }

    /// Every public call that writes begins here.
    pub(crate) fn enter_write(&self) -> Result<&Arc<Writer>> {
        let shared = self.enter()?;
        let Role::Writer(writer) = &self.role else {
            let name = shared.name();
            let message = format!("table {name}: the database was opened for reading only");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        };
        shared.check_latch()?;
        Ok(writer)
    }

    /// What a lookup sees now.
    pub(crate) fn read_source(&self) -> ReadSource<'_> {
        match &self.role {
            Role::Writer(writer) => ReadSource::live(&writer.live),
            Role::Reader(reader) => ReadSource::view(reader),
        }
    }

    /// The newest record of `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Found>, FailedRead> {
        self.read_source().find(KeyHash::of(self.shared().hash_seed, key), key)
    }

    /// Runs `read`; a reader repeats it if another process has removed what it read. Adds the
    /// table's name to the error.
    pub(crate) fn read<T>(&self, read: impl Fn() -> Result<T, FailedRead>) -> Result<T> {
        let done = match &self.role {
            Role::Writer(_) => read().map_err(Error::from),
            Role::Reader(reader) => reader.retry_if_gone(read),
        };
        done.map_err(|e| self.shared().in_context(&e))
    }

    /// What an iterator sees that begins at `at`, where a record is: large values before it may
    /// still be in flight.
    pub(crate) fn snapshot(&self, at: Position) -> Snapshot {
        match &self.role {
            Role::Writer(writer) => writer.snapshot(at),
            Role::Reader(reader) => reader.view().snapshot(),
        }
    }
}
