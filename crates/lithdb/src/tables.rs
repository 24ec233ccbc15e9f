//! The open tables of a database: one entry per name.
//!
//! The lock is held briefly, never during I/O. Opening or dropping a table claims its entry; only
//! callers of the same name wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::ThreadId;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::TableName;
use lithdb_table::{Maintenance, Table, TableOptions};
use parking_lot::{Condvar, Mutex};

/// An open table and its options. It may have been closed since.
pub(crate) struct OpenTable {
    pub(crate) table: Table,
    pub(crate) options: TableOptions,
    pub(crate) has_filter: bool,
    /// Held by the maintenance thread that processes the table.
    pub(crate) in_maintenance: Mutex<()>,
    /// Held by the thread that runs its filter.
    pub(crate) collection_lock: Mutex<()>,
}

impl OpenTable {
    pub(crate) fn check_same_options(
        &self,
        name: &TableName,
        asked: &TableOptions,
        with_filter: bool,
    ) -> Result<()> {
        if self.options == *asked && self.has_filter == with_filter {
            return Ok(());
        }
        let filter = |has| if has { "with a GC filter" } else { "without a GC filter" };
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "table {name} is already open: expected {:?} {}, found {asked:?} {}",
                self.options,
                filter(self.has_filter),
                filter(with_filter)
            ),
        ))
    }

    /// Runs due maintenance, except collection with a filter, which has threads of its own.
    pub(crate) fn run_maintenance(&self, maintenance: Maintenance) -> Result<()> {
        self.table
            .tick(&Maintenance { collect: maintenance.collect && !self.has_filter, ..maintenance })
    }

    /// Waits for a close in progress, or closes a failed table. Nothing is written afterwards.
    pub(crate) fn close_failed(&self) {
        // Non-durable data was reported when the table failed or was closed.
        if let Err(error) = self.table.close() {
            tracing::debug!(%error, "cannot close a failed table");
        }
    }
}

/// The open tables, the claimed names, and whether the database is open.
#[derive(Default)]
pub(crate) struct Tables {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    open: BTreeMap<TableName, Arc<OpenTable>>,
    claimed: BTreeSet<TableName>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Being closed by this thread.
    Closing(ThreadId),
    Closed,
}

impl State {
    fn check_open(&self) -> Result<()> {
        if self.phase == Phase::Open { Ok(()) } else { Err(closed()) }
    }
}

impl Tables {
    pub(crate) fn check_open(&self) -> Result<()> {
        self.state.lock().check_open()
    }

    /// Claims the entry of `name`; waits for its present holder.
    pub(crate) fn claim(&self, name: &TableName) -> Result<Claim<'_>> {
        let mut state = self.state.lock();
        loop {
            state.check_open()?;
            if state.claimed.insert(name.clone()) {
                return Ok(Claim { tables: self, name: name.clone() });
            }
            self.changed.wait(&mut state);
        }
    }

    /// All entries. Some tables may have been closed.
    pub(crate) fn all(&self) -> Vec<Arc<OpenTable>> {
        self.state.lock().open.values().cloned().collect()
    }

    /// Starts closing: refuses new claims and waits for present ones. `None` if already closed;
    /// waits for a close in another thread.
    pub(crate) fn begin_close(&self) -> Option<Closing<'_>> {
        let this = std::thread::current().id();
        let mut state = self.state.lock();
        loop {
            match state.phase {
                Phase::Open => break,
                // Dropping the caller's callbacks during the close may reenter here.
                Phase::Closing(by) if by == this => return None,
                Phase::Closing(_) => self.changed.wait(&mut state),
                Phase::Closed => return None,
            }
        }
        state.phase = Phase::Closing(this);
        while !state.claimed.is_empty() {
            self.changed.wait(&mut state);
        }
        Some(Closing { tables: self })
    }
}

/// A claimed entry. Dropping it releases the claim.
pub(crate) struct Claim<'a> {
    tables: &'a Tables,
    name: TableName,
}

impl Claim<'_> {
    /// The table in the entry. It may have been closed.
    pub(crate) fn get(&self) -> Option<Arc<OpenTable>> {
        self.tables.state.lock().open.get(&self.name).cloned()
    }

    /// Puts a table into the entry, or empties it.
    pub(crate) fn set(&self, open: Option<OpenTable>) {
        let mut state = self.tables.state.lock();
        let before = match open {
            Some(open) => state.open.insert(self.name.clone(), Arc::new(open)),
            None => state.open.remove(&self.name),
        };
        drop(state);
        // The caller's callbacks are dropped without the lock.
        drop(before);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.tables.state.lock().claimed.remove(&self.name);
        self.tables.changed.notify_all();
    }
}

/// A close in progress; dropping it marks the database closed.
pub(crate) struct Closing<'a> {
    tables: &'a Tables,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let open = std::mem::take(&mut self.tables.state.lock().open);
        drop(open);
        self.tables.state.lock().phase = Phase::Closed;
        self.tables.changed.notify_all();
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the database was closed")
}
