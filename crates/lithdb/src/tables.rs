//! The open tables of a database: a slot for each name.
//!
//! The lock here is held for moments, never during I/O. Whoever opens or drops a table claims its slot. Others who want
//! the same name wait for that, and nobody else does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::ThreadId;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::TableName;
use lithdb_table::{Maintenance, Table, TableOptions};
use parking_lot::{Condvar, Mutex};

/// A table that is open, and what it was opened with. It may have been closed since.
pub(crate) struct OpenTable {
    pub(crate) table: Table,
    pub(crate) options: TableOptions,
    pub(crate) has_filter: bool,
    /// Held by the thread that keeps it up.
    pub(crate) in_maintenance: Mutex<()>,
    /// Held by the thread that asks its filter.
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
                "table {name} is open already: expected {:?} {}, found {asked:?} {}",
                self.options,
                filter(self.has_filter),
                filter(with_filter)
            ),
        ))
    }

    /// Does what is due. Filters are not asked here: that is done apart, so that nothing waits for it.
    pub(crate) fn run_maintenance(&self, maintenance: Maintenance) -> Result<()> {
        self.table
            .tick(&Maintenance { collect: maintenance.collect && !self.has_filter, ..maintenance })
    }

    /// Waits until a table that was closed has come to its end, and closes one that has failed: nothing of it is written
    /// any more.
    pub(crate) fn close_failed(&self) {
        // What did not become durable was said when the table failed or was closed.
        if let Err(error) = self.table.close() {
            tracing::debug!(%error, "closing a table that has failed");
        }
    }
}

/// The tables, who has claimed their names, and whether the database is open.
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
    /// By this thread.
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

    /// Claims the slot of `name` when nobody else has it.
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

    /// All tables. Some may have been closed.
    pub(crate) fn all(&self) -> Vec<Arc<OpenTable>> {
        self.state.lock().open.values().cloned().collect()
    }

    /// Begins to close: from now on nothing is claimed, and what is claimed is waited for. `None` if it is closed; one
    /// that another thread is closing is waited for.
    pub(crate) fn begin_close(&self) -> Option<Closing<'_>> {
        let this = std::thread::current().id();
        let mut state = self.state.lock();
        loop {
            match state.phase {
                Phase::Open => break,
                // What the tables hold of the caller's is dropped while they are closed, and may call this.
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

/// A slot that nobody else may claim meanwhile.
pub(crate) struct Claim<'a> {
    tables: &'a Tables,
    name: TableName,
}

impl Claim<'_> {
    /// What is in the slot. It may have been closed.
    pub(crate) fn get(&self) -> Option<Arc<OpenTable>> {
        self.tables.state.lock().open.get(&self.name).cloned()
    }

    /// Puts a table into the slot, or empties it.
    pub(crate) fn set(&self, open: Option<OpenTable>) {
        let mut state = self.tables.state.lock();
        let before = match open {
            Some(open) => state.open.insert(self.name.clone(), Arc::new(open)),
            None => state.open.remove(&self.name),
        };
        drop(state);
        // What the application gave it is dropped without the lock.
        drop(before);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.tables.state.lock().claimed.remove(&self.name);
        self.tables.changed.notify_all();
    }
}

/// The database is being closed; dropped, it is closed.
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
