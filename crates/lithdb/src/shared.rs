//! The state that all handles of a database share: roots and locks, open tables, maintenance,
//! closing. It also removes the leftovers of interrupted drops and creations. Used by the handles
//! and by the background threads; after a close, no call does anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Env, Error, ErrorKind, Result, exists, spawn};
use lithdb_rollback::RollbackReport;
pub(crate) use lithdb_rollback::refuse_pending as refuse_pending_rollback;
use lithdb_roots::Roots;
use lithdb_segment::{HandleCache, TableName};
use lithdb_table::{
    GcFilter, Maintenance, OpenForWriting, Presence, Table, TableOptions, TableSetup, presence,
    refuse_in_callback,
};
use parking_lot::{Mutex, RwLock};

use crate::maintenance::{Threads, run_unless_busy};
use crate::options::{Components, DbOptions};
use crate::tables::{OpenTable, Tables};

/// Held by every handle of the database and of its tables. Closes the database when the last one
/// is dropped. Maintenance threads hold `Shared`, not this.
pub(crate) struct CloseOnDrop(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) options: DbOptions,
    pub(crate) components: Components,
    pub(crate) env: Env,
    pub(crate) handles: Arc<HandleCache>,
    /// The roots and their locks; `None` once closed. Only closing takes the write lock.
    pub(crate) roots: RwLock<Option<Roots>>,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) tables: Tables,
    pub(crate) threads: Arc<Threads>,
    pub(crate) last_gc: Mutex<Option<Duration>>,
    pub(crate) read_only: bool,
    /// The rollback that this open finished.
    pub(crate) finished_rollback: Option<RollbackReport>,
}

impl Shared {
    /// Every public call checks this first.
    pub(crate) fn check_open(&self) -> Result<()> {
        refuse_in_callback()?;
        self.tables.check_open()
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.read_only {
            let message = "the database was opened for reading only";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(())
    }

    pub(crate) fn setup(&self, name: TableName, filter: Option<GcFilter>) -> TableSetup {
        TableSetup {
            read_mode: self.options.read_mode,
            handles: Arc::clone(&self.handles),
            listener: self.components.listener.clone(),
            filter,
            clock_jump_limit: self.options.clock_jump_limit,
            clock_jump_hold: self.options.clock_jump_hold,
            ..TableSetup::for_files(name, &self.env, &self.paths)
        }
    }

    pub(crate) fn open_or_create(
        &self,
        setup: &TableSetup,
        options: &TableOptions,
        create: bool,
    ) -> Result<Table> {
        let fs = &*self.env.fs;
        let mut found = presence(fs, &setup.dirs)?;
        if self.read_only {
            return match found {
                Presence::Present => Table::open_read_only(setup, options),
                Presence::Absent | Presence::Interrupted => Err(no_table(&setup.name)),
            };
        }
        if found == Presence::Interrupted {
            Table::remove(setup)?;
            found = Presence::Absent;
        }
        if found == Presence::Absent {
            if !create {
                return Err(no_table(&setup.name));
            }
            Table::create(setup)?;
        }
        let how = OpenForWriting { coalesce: self.options.flush_coalesce };
        Table::open(setup, options, how)
    }

    /// Runs `act` on every open table, in parallel. Returns the first error after all have run.
    pub(crate) fn each_table(
        &self,
        act: impl Fn(&OpenTable) -> Result<()> + Copy + Send + 'static,
    ) -> Result<()> {
        let task = |open: Arc<OpenTable>| {
            move || match act(&open) {
                // Closed or dropped meanwhile: that call reported whether its data is durable.
                Err(error) if error.kind() == ErrorKind::Closed && open.table.is_closed() => Ok(()),
                result => result,
            }
        };
        self.env.pool.run_all(self.tables.all().into_iter().map(task).collect())
    }

    /// The maintenance that is due now.
    fn maintenance(&self) -> Maintenance {
        let steady = self.env.clock.monotonic();
        let mut last = self.last_gc.lock();
        let since = last.map(|last| steady.saturating_sub(last));
        let collect = since.is_none_or(|since| since >= self.options.gc_interval);
        if collect {
            *last = Some(steady);
        }
        Maintenance {
            flush_bytes: self.options.flush_bytes,
            flush_after: self.options.flush_after,
            idle_after: self.options.idle_after,
            collect,
        }
    }

    pub(crate) fn maintain(&self) -> Result<()> {
        self.check_writable()?;
        let maintenance = self.maintenance();
        let maintained = self.each_table(move |open| open.run_maintenance(maintenance));
        let mut collected = Ok(());
        for open in self.tables.all() {
            if maintenance.collect && open.has_filter && !open.table.is_closed() {
                collected = collected.and(open.table.run_gc().map(drop));
            }
        }
        maintained.and(collected)
    }

    /// One round of maintenance.
    pub(crate) fn run_maintenance(&self) {
        let maintenance = self.maintenance();
        for open in self.tables.all().iter().filter(|open| !open.table.is_closed()) {
            run_unless_busy(&open.in_maintenance, || open.run_maintenance(maintenance));
        }
    }

    /// One round of collection with filters.
    pub(crate) fn run_filters(&self) {
        let tables = self.tables.all();
        for open in tables.iter().filter(|open| open.has_filter && !open.table.is_closed()) {
            run_unless_busy(&open.collection_lock, || open.table.run_gc().map(drop));
        }
    }

    pub(crate) fn close(&self) -> Result<()> {
        refuse_in_callback()?;
        let Some(_closing) = self.tables.begin_close() else { return Ok(()) };
        self.threads.stop();
        // Closing a table ends the filter scan that a thread may be running.
        let result = self.each_table(|open| open.table.close());
        self.threads.join();
        // No data depends on the renewal; it makes a restored older root detectable.
        let renewed = self.roots.write().take().map_or(Ok(()), |roots| roots.renew());
        result.and(renewed)
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.0);
        let close = move || {
            if let Err(error) = shared.close() {
                tracing::error!(%error, "cannot close the database when its last handle was dropped");
            }
        };
        if refuse_in_callback().is_ok() {
            close();
        } else if let Err(error) = spawn("lithdb-close", close) {
            // Closing here would wait for locks that the caller holds. Unflushed data is lost, as
            // in a crash.
            tracing::error!(%error, "cannot start a thread to close the database after a callback dropped the last handle");
        }
    }
}

/// Removes leftovers of interrupted drops and creations. What cannot be removed is retried by the
/// next open and stays invisible.
pub(crate) fn finish_interrupted(roots: &Roots) {
    let names = match roots.table_names() {
        Ok(names) => names,
        Err(error) => return tracing::warn!(%error, "cannot look for interrupted drops"),
    };
    for name in names {
        if let Err(error) = finish_table(&TableSetup::for_files(name, roots.env(), roots.paths())) {
            tracing::warn!(%error, "cannot remove what an interrupted drop or creation left");
        }
    }
}

/// A table whose state is unclear is left alone; opening it reports why. Directories that never
/// held a table are ignored.
fn finish_table(setup: &TableSetup) -> Result<()> {
    let fs = &*setup.env.fs;
    for segments in setup.segment_dirs() {
        if exists(fs, &segments).map_err(|e| Error::io("look for", &segments, e))? {
            return match presence(fs, &setup.dirs)? {
                Presence::Interrupted => Table::remove(setup),
                Presence::Absent | Presence::Present => Ok(()),
            };
        }
    }
    Ok(())
}

pub(crate) fn no_table(name: &TableName) -> Error {
    Error::new(ErrorKind::Missing, format!("table {name}: no such table"))
}
