//! Verification, dump and repair of a table's files, without opening the table.
//!
//! Everything here begins with an *outline*: what rules the table, which segments belong to it, how they are
//! linked. Each segment is then *examined*: which groups of records are whole, with the bytes they name, and what
//! is wrong with the rest. Verification reports that; a repair plans from it what would be given up, and only
//! [`RepairPlan::apply`] changes anything. Nothing is ever deleted: what is replaced is kept in
//! `damaged-<milliseconds>` beside the `segments` directory it came from.

pub(crate) mod aside;
mod dump;
mod epoch;
mod examine;
mod finding;
mod found;
mod groups;
mod keymap;
mod losses;
mod mend;
mod outline;
mod plan;
mod repair;
mod rewrite;
mod state_slots;
mod unfinished;
mod values;
mod verify;
mod walk;

use lithdb_env::lossy;
use serde::Serialize;

pub use dump::{DumpLine, dump};
pub use finding::{Finding, Severity, VerifyReport};
pub use keymap::{KeymapReport, verify_keymap};
pub use plan::{Action, PositionRange, RepairPlan, SegmentRepair, plan_repair};
pub use repair::RepairReport;
pub use verify::verify;

/// How far an inspection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Bytes that have been read.
    pub bytes_done: u64,
    /// Bytes that there are to read, as far as is known.
    pub bytes_total: u64,
}

/// Counts bytes and tells whoever waits.
pub(super) struct Meter<'a> {
    now: Progress,
    told: u64,
    tell: &'a mut dyn FnMut(Progress),
}

impl<'a> Meter<'a> {
    /// How many bytes go by before somebody is told again.
    const STEP: u64 = 1 << 20;

    fn new(tell: &'a mut dyn FnMut(Progress), bytes_total: u64) -> Self {
        let now = Progress { bytes_done: 0, bytes_total };
        tell(now);
        Self { now, told: 0, tell }
    }

    fn add(&mut self, bytes: u64) {
        self.now.bytes_done = (self.now.bytes_done + bytes).min(self.now.bytes_total);
        if self.now.bytes_done - self.told >= Self::STEP {
            self.told = self.now.bytes_done;
            (self.tell)(self.now);
        }
    }

    fn finish(&mut self) {
        self.now.bytes_done = self.now.bytes_total;
        (self.tell)(self.now);
    }
}

/// `1 key`, `2 keys`, `an unknown number of keys`.
fn counted(number: impl Into<Option<u64>>, noun: &str) -> String {
    match number.into() {
        Some(1) => format!("1 {noun}"),
        Some(number) => format!("{number} {noun}s"),
        None => format!("an unknown number of {noun}s"),
    }
}
