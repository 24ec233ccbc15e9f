//! Opening the log, and creating its base record.

use std::ops::RangeInclusive;

use lithdb::{Components, Db, DbOptions, Table};
use lithdb_env::{Error, ErrorKind, Result};

use crate::files::{Phase, StateId};
use crate::open::inventory::Inventory;
use crate::open::{Opening, working};
use crate::options::Wal;
use crate::reach::reach;
use crate::record::{Body, Record};
use crate::snapshot::list::valid_versions;
use crate::totals::Totals;
use crate::wal::{FloorHold, Log, WalFloor};

/// The table of a log in a database of the store's own.
pub(crate) const WAL_TABLE: &str = "wal";

impl Opening {
    /// Opens the log's table; finishes a rollback that was interrupted.
    pub(crate) fn open_log(&mut self) -> Result<(Option<Db>, Log, FloorHold)> {
        match &self.components.wal {
            Wal::Table { table, floor } => {
                let hold = floor.hold()?;
                Ok((None, Log { table: table.clone(), floor: floor.clone() }, hold))
            }
            Wal::Own => {
                let options = DbOptions::new([self.dirs.wal()]);
                let components = Components {
                    env: Some(self.env.clone()),
                    without_maintenance: self.components.without_background,
                    ..Components::default()
                };
                let db = Db::open_with(options, components)?;
                self.report.rollback = db.finished_rollback().cloned();
                let floor = WalFloor::new();
                let hold = floor.hold()?;
                let wal = self.options.wal.clone();
                let table = db.table_with_filter(WAL_TABLE, wal, floor.filter())?;
                Ok((Some(db), Log { table, floor }, hold))
            }
        }
    }

    /// Refuses, while nothing has been changed, a log of the store's own that is lost or of another
    /// store, or from which the store cannot be opened without a working copy. Opening it for
    /// writing, as LithDB does, changes its files.
    pub(super) fn check_stopped_log(&self, inventory: &Inventory, id: &StateId) -> Result<()> {
        if !matches!(self.components.wal, Wal::Own) || id.phase == Phase::Creating {
            return Ok(());
        }
        if !inventory.has("wal") {
            let message = "the directory wal is missing, but the store has been written to: \
                           restore it; or if the log is a table of the application's database, \
                           open the store with it";
            return Err(Error::at(ErrorKind::Missing, self.dirs.root(), message));
        }
        let options = DbOptions::new([self.dirs.wal()]);
        let components = Components { env: Some(self.env.clone()), ..Components::default() };
        let db = match Db::open_read_only_with(options, components) {
            // A rollback was interrupted. Only opening for writing finishes it.
            Err(error) if error.kind() == ErrorKind::Locked => return Ok(()),
            opened => opened?,
        };
        let log = Log { table: db.existing_table(WAL_TABLE)?, floor: WalFloor::new() };
        let Some(versions) = log.versions_of(id.store, self.dirs.root())? else {
            return Err(self.empty_log(&log));
        };
        if working::engine_dir(&*self.env.fs, &self.dirs)?.is_none() {
            let snapshots = self.classify_snapshots(&log, id, &versions)?;
            reach(&log, &valid_versions(&snapshots), *versions.end())?;
        }
        Ok(())
    }

    fn empty_log(&self, log: &Log) -> Error {
        let message = format!("the log {} is empty: restore it", log.table.name());
        Error::at(ErrorKind::Missing, self.dirs.root(), message)
    }

    /// Refuses a table that would lose records, or keep them for ever.
    pub(crate) fn check_table(table: &Table, floor: &WalFloor) -> Result<()> {
        let refuse = |what: &str| {
            let message = format!("the log {}: {what}", table.name());
            Err(Error::new(ErrorKind::InvalidArgument, message))
        };
        if table.is_read_only() {
            return refuse("expected a table that is open for writing");
        }
        if table.stats().ttl.is_some() {
            return refuse("expected no TTL, because the store says what may be collected");
        }
        if !floor.is_of(table) {
            return refuse(
                "expected the filter of the WalFloor that was given with it, found another filter \
                 or none: open the table with table_with_filter and that one",
            );
        }
        Ok(())
    }

    /// The versions of the log. The log of a store that is being created gets its base record.
    pub(super) fn log_versions(&self, log: &Log, id: &mut StateId) -> Result<RangeInclusive<u64>> {
        let versions = match log.versions_of(id.store, self.dirs.root())? {
            Some(versions) => {
                // An earlier handle of the table may have put versions that are not durable.
                log.table.flush()?;
                versions
            }
            None if id.phase == Phase::Creating => {
                self.put_base_record(log, id, Totals::default())?
            }
            None => return Err(self.empty_log(log)),
        };
        if id.phase == Phase::Creating {
            id.phase = Phase::Ready;
            id.write(&*self.env.fs, &self.dirs.id())?;
        }
        Ok(versions)
    }

    /// Begins the history of the store: `totals` are those of the version before its first.
    pub(crate) fn put_base_record(
        &self,
        log: &Log,
        id: &StateId,
        totals: Totals,
    ) -> Result<RangeInclusive<u64>> {
        let (version, root) = (id.initial_version - 1, totals.root());
        let record = Record {
            store: id.store,
            version,
            previous_root: root,
            root,
            time: self.env.clock.now(),
            body: Body::Base(totals),
        };
        log.put(&record)?;
        log.table.flush()?;
        Ok(version..=version)
    }
}
