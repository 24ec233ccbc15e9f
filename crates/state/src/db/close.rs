//! How an open store ends: closed, or rolled back.

use std::sync::atomic::Ordering;

use lithdb_env::{FileLock, Result};

use super::StateDb;
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
    pub(super) fn shut_down(&self, why: Shutdown) -> Result<Option<(Box<dyn FileLock>, Held)>> {
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
        let lock = shared.lock.lock().take();
        let result = flushed.and(closed);
        *closing = Some(result.clone());
        result.map(|()| lock.map(|lock| (lock, held)))
    }
}

/// Why a store is closed.
#[derive(Clone, Copy)]
pub(super) enum Shutdown {
    Close,
    RollBackTo(u64),
}
