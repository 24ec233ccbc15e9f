//! Progress of a walk through a table's files: counters and a callback. Verification, dump and
//! repair use it; nothing depends on what it reports.

use serde::Serialize;

/// The progress of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to read, as far as is known.
    pub bytes_total: u64,
}

/// Counts bytes and calls a callback.
pub struct Meter<'a> {
    now: Progress,
    reported: u64,
    callback: &'a mut dyn FnMut(Progress),
}

impl<'a> Meter<'a> {
    /// Bytes between two calls of the callback.
    const STEP: u64 = 1 << 20;

    /// A meter of `bytes_total` that reports to `callback`.
    pub fn new(callback: &'a mut dyn FnMut(Progress), bytes_total: u64) -> Self {
        let now = Progress { bytes_done: 0, bytes_total };
        callback(now);
        Self { now, reported: 0, callback }
    }

    /// Adds bytes that were read.
    pub fn add(&mut self, bytes: u64) {
        self.now.bytes_done = (self.now.bytes_done + bytes).min(self.now.bytes_total);
        if self.now.bytes_done - self.reported >= Self::STEP {
            self.reported = self.now.bytes_done;
            (self.callback)(self.now);
        }
    }

    /// Reports that everything has been read.
    pub fn finish(&mut self) {
        self.now.bytes_done = self.now.bytes_total;
        (self.callback)(self.now);
    }
}
