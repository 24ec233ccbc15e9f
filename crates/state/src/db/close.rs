//! How an open store ends: closed, or rolled back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lithdb_env::{Error, ErrorKind, FileLock, Result};

use super::StateDb;
use crate::event::refuse_in_listener;
use crate::metrics::timed;
use crate::open::Opening;
use crate::options::Wal;
use crate::rollback::{self, Held};

impl StateDb {
    /// Closes the store: flushes the log and, unless
    /// [`flush_on_close`](StateOptions::flush_on_close) is off, the working copy. The pending
    /// changes are forgotten. Closing a closed store does nothing.
    ///
    /// # Errors
    /// `Latched`, `StorageFull`, `Io`: the store is closed nevertheless, and what was acknowledged
    /// as durable is.
    pub fn close(&self) -> Result<()> {
        let locks = self.shut_down(Shutdown::Close)?;
        drop(locks);
        Ok(())
    }

    /// Closes everything and returns the lock, with those of the snapshots that a rollback removes;
    /// `None` if the store was closed before. A rollback that cannot be carried out closes nothing.
    fn shut_down(&self, why: Shutdown) -> Result<Option<(Box<dyn FileLock>, Held)>> {
        let shared = &self.shared;
        let _events = shared.events.begin()?;
        let mut closing = shared.closing.lock();
        if let Some(result) = &*closing {
            return result.clone().map(|()| None);
        }
        let (mut flushed, mut held) = (Ok(()), Held::new());
        match why {
            Shutdown::Close => {
                let mut writer = shared.writer.lock();
                shared.discard(&mut writer);
                // The flush lets others in while it waits: they would commit what it has to flush,
                // for ever.
                shared.is_closed.store(true, Ordering::Release);
                if shared.options.flush_on_close && shared.latch.cause().is_none() {
                    flushed = shared.flush_working(&mut writer);
                }
            }
            Shutdown::RollBackTo(target) => {
                let mut writer = shared.writer.lock();
                // From here to the end of the background work no snapshot comes or goes.
                let _housekeeping = shared.housekeeping.lock();
                held = rollback::check(shared, target)?;
                shared.discard(&mut writer);
                shared.is_closed.store(true, Ordering::Release);
                shared.background.stop();
            }
        }
        // Somebody may be pruning: nothing is removed once the lock is released.
        drop(shared.housekeeping.lock());
        self.keeper.stop();
        let had_failed = shared.failure().is_some();
        let closed = match shared.own_db.lock().take() {
            Some(db) => db.close(),
            None => shared.log.table.flush(),
        };
        let closed = match (why, closed) {
            // A log that has failed cannot be flushed. Truncating it refuses if what is durable
            // does not have the target.
            (Shutdown::RollBackTo(_), Err(error)) if had_failed => {
                tracing::warn!(%error, "the log was closed as it is, to be rolled back");
                Ok(())
            }
            (_, closed) => closed,
        };
        // Whoever opens the store now sets the gauges.
        shared.metrics.end();
        let lock = shared.lock.lock().take();
        let result = flushed.and(closed);
        *closing = Some(result.clone());
        result.map(|()| lock.map(|lock| (lock, held)))
    }

    /// Rolls the store back to `target` and returns it opened again. Everything committed later is
    /// gone: those versions can be committed again with other contents. The pending changes are
    /// forgotten. Other clones of this handle are closed.
    ///
    /// The decision is LithDB's rollback of the log: it is made durable as one intent, which the
    /// next open finishes whatever happens. A snapshot of the old branch that cannot be removed
    /// afterwards is an event, and stays in `abandoned`. The newest version may be given, too:
    /// after a failure this removes what a refused commit left in the log.
    ///
    /// # Errors
    /// `Missing` with [`Unreachable`](crate::Unreachable): nothing was changed, not even this
    /// handle was closed. `Unsupported` if the log is a table of the application's database: roll
    /// that database back, and open the store. `Locked` if a snapshot that would go is being read.
    /// `Corrupt` and `Io` of the log, which is planned when it is closed: nothing was rolled back,
    /// but this handle is closed; open the store.
    pub fn rollback_to(self, target: u64) -> Result<Self> {
        let clock = Arc::clone(&self.shared.env.clock);
        let rolled_back = self.shared.metrics.label.histogram("lithdb_state_rollback_seconds");
        timed(&*clock, &rolled_back, || self.roll_back(target))
    }

    fn roll_back(self, target: u64) -> Result<Self> {
        refuse_in_listener()?;
        if !matches!(self.keeper.components.wal, Wal::Own) {
            let message = "the log is a table of the application's database: roll back that \
                           database, then open the state store";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.shared.check_open()?;
        let mut writer = self.shared.writer.lock();
        if target == self.version() && self.is_newest_of_the_log(target)? {
            self.shared.discard(&mut writer);
            drop(writer);
            return Ok(self);
        }
        drop(writer);
        let (options, env) = (self.shared.options.clone(), self.shared.env.clone());
        let (dir, components) = (self.shared.dirs.clone(), self.keeper.components.clone());
        let Some((lock, held)) = self.shut_down(Shutdown::RollBackTo(target))? else {
            let message = "the state store was closed";
            return Err(Error::new(ErrorKind::Closed, message));
        };
        drop(self);
        let truncation = rollback::plan_truncation(&env, &dir, target)?;
        let is_truncated = !truncation.is_empty();
        if is_truncated {
            truncation.execute()?;
        }
        let mut opening = Opening::new(dir.root().to_path_buf(), options, components)?;
        opening.held = held;
        let db = Self::open_locked(opening, lock)?;
        if is_truncated {
            // Their branch was rolled back on purpose. What stays is an event.
            rollback::remove_moved_aside(&db, target);
        }
        Ok(db)
    }

    /// Whether the log ends with `version`. After a failure it may have the version of a commit
    /// that was refused.
    fn is_newest_of_the_log(&self, version: u64) -> Result<bool> {
        let newest = self.shared.log.range()?.map(|versions| *versions.end());
        Ok(self.shared.failure().is_none() && newest == Some(version))
    }
}

/// Why a store is closed.
#[derive(Clone, Copy)]
enum Shutdown {
    Close,
    RollBackTo(u64),
}
