//! The writer's time and state: every change of the state records the time with it.
//!
//! The clock is read under the lock of the state, so recorded times come in order.

use std::time::Duration;

use lithdb_env::Result;

use crate::event::Event;
use crate::gc::clock::ClockReading;
use crate::state::TableState;
use crate::table::Table;
use crate::write::writer::Writer;

impl Table {
    /// Says that the wall clock is right: expiry goes by it at once, forwards and back. What was
    /// sealed at a later time than it shows, or at a time that was in doubt, counts as sealed now.
    /// Durable when it returns.
    ///
    /// # Errors
    /// `InvalidArgument` for a clock before 2020 or after 9999; `ReadOnly`, `Closed`; `Io`, which
    /// latches the table.
    pub fn accept_clock(&self) -> Result<()> {
        let writer = self.enter_write()?;
        let accepted = writer.clock.lock().accept(&*writer.shared.env().clock);
        accepted.map_err(|e| writer.shared.in_context(&e))?;
        writer.record_time().map(drop)
    }
}

impl Writer {
    /// The table's time.
    pub(crate) fn now(&self) -> ClockReading {
        self.clock.lock().read(&*self.shared.env().clock)
    }

    /// Makes durable how the stamps of segments count by the present time, before anything is
    /// judged by it, and the time itself if a crash would lose more than a little of it.
    pub(crate) fn record_time(&self) -> Result<ClockReading> {
        let _gc = self.gc.lock();
        self.record_time_alone()
    }

    /// As [`record_time`](Self::record_time), for the holder of `gc`.
    pub(crate) fn record_time_alone(&self) -> Result<ClockReading> {
        self.shared.check_open()?;
        let reading = self.update_state(|_| ())?;
        let jump = self.clock.lock().take_jump();
        if let Some((before, now, hold)) = jump {
            let table = self.shared.name().clone();
            self.shared.setup.listener.emit(&Event::ClockJump { table, before, now, hold });
        }
        Ok(reading)
    }

    /// Changes the state, and records the time with it, or if it or what stamps count as has changed.
    pub(crate) fn update_state(
        &self,
        change: impl FnOnce(&mut TableState),
    ) -> Result<ClockReading> {
        let (mut reading, mut leap) = (self.now(), Duration::ZERO);
        let updated = self.state.update(|state| {
            let before = state.clone();
            change(state);
            let mut clock = self.clock.lock();
            reading = clock.read(&*self.shared.env().clock);
            leap = clock.record(&self.live.segments(), &before, state, reading);
        });
        if let Err(error) = updated {
            // The next update records it, if the table is not latched.
            self.clock.lock().not_recorded(leap);
            return Err(self.shared.fail(&error));
        }
        Ok(reading)
    }
}
