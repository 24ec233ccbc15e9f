//! The database handle: opens and closes a database and its tables. `Shared` owns the state that
//! all handles use; every public call first checks that the database is open.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::Result;
use lithdb_rollback::RollbackReport;
use lithdb_roots::Roots;
use lithdb_segment::TableName;
use lithdb_table::{GcFilter, Presence, TableOptions, TableSetup, TableStats, presence};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use crate::inspect::is_dropped;
use crate::limits;
use crate::maintenance;
use crate::options::{Components, DbOptions};
use crate::shared::{CloseOnDrop, Shared, finish_interrupted, no_table, refuse_pending_rollback};
use crate::table::Table;
use crate::tables::{OpenTable, Tables, closed};

/// An open database. Cheap to clone; all clones and all handles of its tables keep it open.
/// Dropping the last one flushes on a best-effort basis; [`close`](Db::close) reports errors.
///
/// ```
/// use lithdb::{Db, DbOptions, TableOptions};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data");
/// let db = Db::open(DbOptions::new([&path]))?;
/// let blocks = db.table("blocks", TableOptions::new())?;
/// blocks.put(b"h:1", b"genesis")?;
/// blocks.flush()?;
/// assert_eq!(blocks.get(b"h:1")?.unwrap(), b"genesis");
/// db.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
    keeper: Arc<CloseOnDrop>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("roots", &self.shared.options.roots).finish_non_exhaustive()
    }
}

/// Statistics of a database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DbStats {
    /// The root directories, root 0 first.
    pub roots: Vec<PathBuf>,
    /// Number of open segment files.
    pub open_files: usize,
    /// The open tables.
    pub tables: BTreeMap<TableName, TableStats>,
}

impl Db {
    /// Opens a database for writing; one process at a time can. Creates it if it does not exist,
    /// unless the options forbid it. Finishes an interrupted [`Rollback`](crate::Rollback). Opens
    /// no table: [`table`](Self::table) does.
    ///
    /// # Errors
    /// `InvalidArgument` (options), `Locked` (the message names the holder's process), `Missing`,
    /// `Foreign`, `Corrupt`, `Unsupported`, `Io`: each names the directory and the remedy. No data
    /// is destroyed.
    pub fn open(options: DbOptions) -> Result<Self> {
        Self::open_with(options, Components::default())
    }

    /// As [`open`](Self::open), with custom components.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(options: DbOptions, components: Components) -> Result<Self> {
        Self::open_as(options, components, false)
    }

    /// Opens a database for reading, beside a process that writes or without one. A table handle
    /// sees a view taken when it was opened, which includes at least everything flushed by then,
    /// except what has been collected since: removed files are gone for readers, too. So a key
    /// that was put again after the view was taken is absent once the segment of its older value
    /// is collected, until [`refresh`](Self::refresh) takes a newer view.
    ///
    /// # Errors
    /// As [`open`](Self::open); `Locked` if a rollback was interrupted: a read-write open finishes
    /// it.
    pub fn open_read_only(options: DbOptions) -> Result<Self> {
        Self::open_read_only_with(options, Components::default())
    }

    /// As [`open_read_only`](Self::open_read_only), with custom components.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_read_only_with(options: DbOptions, components: Components) -> Result<Self> {
        Self::open_as(options, components, true)
    }

    fn open_as(options: DbOptions, components: Components, read_only: bool) -> Result<Self> {
        options.validate()?;
        let (env, handles) = limits::budgeted_env(&options, &components)?;
        let roots = if read_only {
            Roots::open_for_reading(&env, &options.roots)?
        } else {
            Roots::open_for_writing(&env, &options.roots, options.create_if_missing)?
        };
        let finished_rollback = if read_only {
            refuse_pending_rollback(&roots)?;
            None
        } else {
            let finished = lithdb_rollback::finish_pending(&roots)?;
            if let Some(report) = &finished {
                tracing::warn!(?report, "finished a rollback that had been interrupted");
            }
            finish_interrupted(&roots);
            finished
        };
        let shared = Arc::new(Shared {
            handles,
            paths: roots.paths().to_vec(),
            roots: RwLock::new(Some(roots)),
            tables: Tables::default(),
            threads: Arc::default(),
            last_gc: Mutex::default(),
            read_only,
            finished_rollback,
            env,
            options,
            components,
        });
        let keeper = Arc::new(CloseOnDrop(Arc::clone(&shared)));
        if !read_only && !shared.components.without_maintenance {
            maintenance::start(&shared)?;
        }
        Ok(Self { shared, keeper })
    }

    /// The interrupted rollback that this open finished, if there was one.
    pub fn finished_rollback(&self) -> Option<&RollbackReport> {
        self.shared.finished_rollback.as_ref()
    }

    /// Opens a table; creates it if it does not exist. If the table is already open, returns
    /// another handle to it.
    ///
    /// # Errors
    /// `InvalidArgument` (name, options, or the table is open with other options), `Missing` in a
    /// database that is open for reading only; `Closed`, `Exhausted`, `StorageFull`; `Corrupt` and
    /// the other errors of recovery, which name the file and the remedy.
    pub fn table(&self, name: &str, options: TableOptions) -> Result<Table> {
        self.open_table(name, Some(options), None)
    }

    /// As [`table`](Self::table), for a table whose values are collected when `filter` approves
    /// every key of a segment (and the TTL has passed, if there is one). Pass the filter at every
    /// open.
    ///
    /// # Errors
    /// As [`table`](Self::table).
    pub fn table_with_filter(
        &self,
        name: &str,
        options: TableOptions,
        filter: GcFilter,
    ) -> Result<Table> {
        self.open_table(name, Some(options), Some(filter))
    }

    /// Opens an existing table with its recorded settings; if already open, returns another
    /// handle.
    ///
    /// # Errors
    /// `Missing` if the table does not exist; else as [`table`](Self::table).
    pub fn existing_table(&self, name: &str) -> Result<Table> {
        self.open_table(name, None, None)
    }

    fn open_table(
        &self,
        name: &str,
        options: Option<TableOptions>,
        filter: Option<GcFilter>,
    ) -> Result<Table> {
        let shared = &self.shared;
        shared.check_open()?;
        let name = TableName::new(name)?;
        // Without options, the recorded settings apply; defaults do not override them.
        let asked = options.clone().unwrap_or_default();
        let has_filter = filter.is_some();
        let setup = shared.setup(name.clone(), filter);
        let slot = shared.tables.claim(&name)?;
        if let Some(open) = slot.get() {
            if !open.table.is_closed() {
                if let Some(options) = &options {
                    open.check_same_options(&name, options, has_filter)?;
                }
                return Ok(self.handle(&open.table));
            }
            open.close_failed();
        }
        let mut effective = asked.clone();
        effective.keymap.get_or_insert(shared.options.keymap);
        effective.validate()?;
        let table = shared.open_or_create(&setup, &effective, options.is_some())?;
        let handle = self.handle(&table);
        slot.set(Some(OpenTable {
            table,
            options: asked,
            has_filter,
            in_maintenance: Mutex::default(),
            collection_lock: Mutex::default(),
        }));
        Ok(handle)
    }

    fn handle(&self, table: &lithdb_table::Table) -> Table {
        Table::new(table.clone(), Arc::clone(&self.keeper))
    }

    /// The names of all tables, open or not, in name order, including tables that fail to open.
    ///
    /// # Errors
    /// `Io` for a root that cannot be listed, `Closed`.
    pub fn tables(&self) -> Result<Vec<TableName>> {
        let shared = &self.shared;
        shared.check_open()?;
        let roots = shared.roots.read();
        let Some(roots) = &*roots else { return Err(closed()) };
        let mut names = roots.table_names()?;
        names.retain(|name| {
            !is_dropped(&TableSetup::for_files(name.clone(), roots.env(), roots.paths()))
        });
        Ok(names)
    }

    /// Removes a table and all its data, durably. Its handles are closed; values already returned
    /// stay valid. The next read-write open finishes an interrupted drop.
    ///
    /// # Errors
    /// `Missing` if there is no such table, `InvalidArgument` if the database is open for reading
    /// only, `Io`.
    pub fn drop_table(&self, name: &str) -> Result<()> {
        let shared = &self.shared;
        shared.check_writable()?;
        let name = TableName::new(name)?;
        let setup = shared.setup(name.clone(), None);
        let slot = shared.tables.claim(&name)?;
        let open = slot.get();
        // A failed table is closed first, and its state is reread.
        let whole = open.as_ref().map(|open| &open.table);
        match whole.filter(|table| !table.is_closed() && table.failure().is_none()) {
            Some(table) => table.begin_drop()?,
            None => {
                if let Some(open) = &open {
                    open.close_failed();
                }
                match presence(&*shared.env.fs, &setup.dirs)? {
                    Presence::Absent => return Err(no_table(&name)),
                    // Continue an interrupted drop.
                    Presence::Interrupted => {}
                    // Refuses a table that opening refuses before it reads the records: it may
                    // hold data that repair can save, and must be removed by hand.
                    Presence::Present => lithdb_table::Table::begin_drop_of(&setup)?,
                }
            }
        }
        slot.set(None);
        lithdb_table::Table::remove(&setup)
    }

    /// Flushes all open tables, several in parallel.
    ///
    /// # Errors
    /// The first error; the other tables are still flushed.
    pub fn flush(&self) -> Result<()> {
        self.shared.check_writable()?;
        self.shared.each_table(|open| open.table.flush())
    }

    /// Takes a new view of all open tables, in a database that is open for reading only.
    ///
    /// # Errors
    /// The first error; the other tables are still refreshed. `Locked` while another process rolls
    /// the database back, or if a rollback was interrupted; the old views remain.
    pub fn refresh(&self) -> Result<()> {
        self.shared.check_open()?;
        if let (true, Some(roots)) = (self.shared.read_only, &*self.shared.roots.read()) {
            refuse_pending_rollback(roots)?;
        }
        self.shared.each_table(|open| open.table.refresh())
    }

    /// Statistics of the database.
    pub fn stats(&self) -> DbStats {
        let tables = self.shared.tables.all();
        let tables = tables.iter().filter(|open| !open.table.is_closed());
        let stats = tables.map(|open| (open.table.name().clone(), open.table.stats()));
        DbStats {
            roots: self.shared.paths.clone(),
            open_files: self.shared.handles.open_files(),
            tables: stats.collect(),
        }
    }

    /// Runs one round of maintenance on all open tables. Filters are called on the current thread.
    ///
    /// # Errors
    /// The first error of a table.
    pub fn maintain(&self) -> Result<()> {
        self.shared.maintain()
    }

    /// The root directories, root 0 first.
    pub fn roots(&self) -> &[PathBuf] {
        &self.shared.paths
    }

    /// Whether the database was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only
    }

    /// Makes everything durable, closes all tables and releases the locks. Every later call on any
    /// handle returns `Closed`; values already returned stay valid. Waits for a running filter to
    /// finish its current key. A second call waits for the first and does nothing.
    ///
    /// # Errors
    /// The first error of a table: some of its puts are not durable. The database is closed
    /// anyway.
    pub fn close(&self) -> Result<()> {
        self.shared.close()
    }
}
