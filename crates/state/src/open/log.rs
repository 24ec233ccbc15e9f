//! Opening the log, and creating its base record.

use std::ops::RangeInclusive;

use lithdb::{Components, Db, DbOptions};
use lithdb_env::{Error, ErrorKind, Result};
use lithdb_lthash::LtHash;

use crate::files::StateId;
use crate::open::Opening;
use crate::open::inventory::Inventory;
use crate::options::Wal;
use crate::record::{Body, Record};
use crate::totals::Totals;
use crate::wal::{Log, WalFloor};

/// The table of a log in a database of the store's own.
pub(crate) const WAL_TABLE: &str = "wal";

impl Opening {
    /// Opens the log's table; finishes a rollback that was interrupted.
    pub(super) fn open_log(&mut self, id: &StateId) -> Result<(Option<Db>, Log)> {
        let (own, log) = match &self.components.wal {
            Wal::Table { table, floor } => {
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
        if let Some(versions) = log.range()? {
            for version in [*versions.start(), *versions.end()] {
                self.check_owner(&log, id, version)?;
            }
        }
        Ok((own, log))
    }

    /// Refuses the log of another store.
    fn check_owner(&self, log: &Log, id: &StateId, version: u64) -> Result<()> {
        let Some(record) = log.record(version)? else {
            let message = format!("log {}: version {version} is missing", log.table.name());
            return Err(Error::new(ErrorKind::Missing, message));
        };
        if record.store == id.store {
            return Ok(());
        }
        let message = format!(
            "the log {} is of another state store ({}); expected {}: give the log of this store",
            log.table.name(),
            record.store,
            id.store
        );
        Err(Error::at(ErrorKind::Foreign, self.dirs.root(), message))
    }

    /// The versions of the log. A log without any gets its base record, if the store is new.
    pub(super) fn log_versions(
        &self,
        log: &Log,
        id: &StateId,
        inventory: &Inventory,
    ) -> Result<RangeInclusive<u64>> {
        if let Some(versions) = log.range()? {
            return Ok(versions);
        }
        if inventory.has("working") || inventory.has("snapshots") {
            let name = log.table.name();
            let message = format!(
                "the log {name} is empty, but the store has been written to: restore the log"
            );
            return Err(Error::at(ErrorKind::Missing, self.dirs.root(), message));
        }
        let version = id.initial_version - 1;
        let root = LtHash::default().root();
        let record = Record {
            store: id.store,
            version,
            previous_root: root,
            root,
            time: self.env.clock.now(),
            body: Body::Base(Totals::default()),
        };
        log.put(&record)?;
        log.table.flush()?;
        Ok(version..=version)
    }
}
