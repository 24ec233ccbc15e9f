//! How far a walk through a table's files has come.

use serde::Serialize;

/// How far an inspection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Bytes that have been read.
    pub bytes_done: u64,
    /// Bytes that there are to read, as far as is known.
    pub bytes_total: u64,
}

/// Counts bytes and tells whoever waits.
pub struct Meter<'a> {
    now: Progress,
    told: u64,
    tell: &'a mut dyn FnMut(Progress),
}

impl<'a> Meter<'a> {
    /// How many bytes go by before somebody is told again.
    const STEP: u64 = 1 << 20;

    /// A meter of `bytes_total`, of which `tell` hears.
    pub fn new(tell: &'a mut dyn FnMut(Progress), bytes_total: u64) -> Self {
        let now = Progress { bytes_done: 0, bytes_total };
        tell(now);
        Self { now, told: 0, tell }
    }

    /// So many more bytes have been read.
    pub fn add(&mut self, bytes: u64) {
        self.now.bytes_done = (self.now.bytes_done + bytes).min(self.now.bytes_total);
        if self.now.bytes_done - self.told >= Self::STEP {
            self.told = self.now.bytes_done;
            (self.tell)(self.now);
        }
    }

    /// Everything has been read.
    pub fn finish(&mut self) {
        self.now.bytes_done = self.now.bytes_total;
        (self.tell)(self.now);
    }
}
