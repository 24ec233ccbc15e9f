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
    reported: u64,
    callback: &'a mut dyn FnMut(Progress),
}

impl<'a> Meter<'a> {
    /// How many bytes go by before somebody is told again.
    const STEP: u64 = 1 << 20;

    /// A meter of `bytes_total`, of which `tell` hears.
    pub fn new(callback: &'a mut dyn FnMut(Progress), bytes_total: u64) -> Self {
        let now = Progress { bytes_done: 0, bytes_total };
        callback(now);
        Self { now, reported: 0, callback }
    }

    /// So many more bytes have been read.
    pub fn add(&mut self, bytes: u64) {
        self.now.bytes_done = (self.now.bytes_done + bytes).min(self.now.bytes_total);
        if self.now.bytes_done - self.reported >= Self::STEP {
            self.reported = self.now.bytes_done;
            (self.callback)(self.now);
        }
    }

    /// Everything has been read.
    pub fn finish(&mut self) {
        self.now.bytes_done = self.now.bytes_total;
        (self.callback)(self.now);
    }
}
