//! Opening the log, and creating its base record.

use std::ops::RangeInclusive;

use lithdb::{Components, Db, DbOptions, Table};
use lithdb_env::{Error, ErrorKind, Result};

use crate::files::{Phase, StateId};
use crate::open::Opening;
use crate::options::Wal;
use crate::record::{Body, Record};
use crate::totals::Totals;
use crate::wal::{Log, WalFloor};

/// The table of a log in a database of the store's own.
pub(crate) const WAL_TABLE: &str = "wal";

impl Opening {
    /// Opens the log's table; finishes a rollback that was interrupted.
    pub(crate) fn open_log(&mut self) -> Result<(Option<Db>, Log)> {
        let (own, log) = match &self.components.wal {
            Wal::Table { table, floor } => {
                Self::check_table(table)?;
                // An earlier handle may have put versions that are not durable.
                table.flush()?;
                (None, Log { table: table.clone(), floor: floor.clone() })
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
                let wal = self.options.wal.clone();
                let table = db.table_with_filter(WAL_TABLE, wal, floor.filter())?;
                (Some(db), Log { table, floor })
            }
        };
        Ok((own, log))
    }

    /// Refuses a table that would lose records, or keep them for ever.
    pub(crate) fn check_table(table: &Table) -> Result<()> {
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
        if !table.has_gc_filter() {
            return refuse("expected the filter of its WalFloor: open it with table_with_filter");
        }
        Ok(())
    }

    /// The versions of the log. The log of a store that is being created gets its base record.
    pub(super) fn log_versions(&self, log: &Log, id: &mut StateId) -> Result<RangeInclusive<u64>> {
        let versions = match log.versions_of(id.store, self.dirs.root())? {
            Some(versions) => versions,
            None if id.phase == Phase::Creating => {
                self.put_base_record(log, id, Totals::default())?
            }
            None => {
                let name = log.table.name();
                let message = format!("the log {name} is empty: restore it");
                return Err(Error::at(ErrorKind::Missing, self.dirs.root(), message));
            }
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
