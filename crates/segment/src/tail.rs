//! The tail of a growing file: bytes that were accepted and are not in the file yet.
//!
//! One thread at a time appends (the holder of the table's writer lock). Any thread reads. Whoever has
//! time drains: full chunks go to the file in one positional write each, while appends and reads go on.
//! No reader waits for I/O: the lock that readers take is held for copying only; draining has a lock of its
//! own.
//!
//! Invariant: a byte that was appended is in a chunk until it is in the file. So a reader that finds no
//! chunk for it reads the file.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{File, write_all_at};

/// The size of a chunk: one positional write.
pub(crate) const CHUNK_LEN: usize = 1 << 20;
/// So many full chunks may wait before an append has to help draining.
const MAX_WAITING: usize = 8;
/// Empty buffers that are kept for reuse.
const MAX_SPARE: usize = 4;

#[derive(Debug)]
pub(crate) struct Tail {
    state: RwLock<State>,
    draining: Mutex<()>,
}

#[derive(Debug)]
struct State {
    frozen: VecDeque<Arc<Chunk>>,
    active: Vec<u8>,
    active_start: u64,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    bytes: Vec<u8>,
}

impl State {
    fn end(&self) -> u64 {
        self.active_start + self.active.len() as u64
    }

    fn freeze(&mut self, min_capacity: usize) {
        let start = self.end();
        if !self.active.is_empty() {
            let next = self.spare.pop().unwrap_or_default();
            let bytes = std::mem::replace(&mut self.active, next);
            self.frozen.push_back(Arc::new(Chunk { start: self.active_start, bytes }));
        }
        self.active.reserve(min_capacity.max(CHUNK_LEN));
        self.active_start = start;
    }
}

impl Tail {
    /// An empty tail behind the first `end` bytes of a file.
    pub(crate) fn new(end: u64) -> Self {
        let state = State {
            frozen: VecDeque::new(),
            active: Vec::new(),
            active_start: end,
            spare: Vec::new(),
        };
        Self { state: RwLock::new(state), draining: Mutex::new(()) }
    }

    /// Appends `bytes` at `offset`, which is the end or, behind bytes that go to the file by another way, later.
    /// They stay together in one chunk.
    pub(crate) fn append(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.write();
        let contiguous = state.end() == offset;
        if !contiguous || state.active.len() + bytes.len() > state.active.capacity() {
            state.freeze(bytes.len());
            state.active_start = offset;
        }
        state.active.extend_from_slice(bytes);
    }

    /// Up to `max_len` bytes at `offset`, copied; `None` if they are in the file.
    pub(crate) fn read(&self, offset: u64, max_len: usize) -> Option<Bytes> {
        let state = self.state.read();
        let piece = |start: u64, bytes: &[u8]| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            let rest = bytes.get(from..).filter(|rest| !rest.is_empty())?;
            Some(Bytes::copy_from_slice(rest.get(..max_len.min(rest.len()))?))
        };
        if offset >= state.active_start {
            return piece(state.active_start, &state.active);
        }
        state.frozen.iter().rev().find_map(|chunk| piece(chunk.start, &chunk.bytes))
    }

    /// Whether full chunks wait to be written.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting() > 0
    }

    fn waiting(&self) -> usize {
        self.state.read().frozen.len()
    }

    /// Writes full chunks out if nobody else does; waits for a turn only if too many have piled up. Returns the
    /// range that was written.
    pub(crate) fn relieve(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        let waiting = self.waiting();
        if waiting == 0 {
            return Ok(None);
        }
        let turn = match self.draining.try_lock() {
            Some(turn) => turn,
            None if waiting <= MAX_WAITING => return Ok(None),
            None => self.draining.lock(),
        };
        let written = self.write_frozen(file);
        drop(turn);
        written
    }

    /// Writes everything out that was appended before the call.
    pub(crate) fn drain(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        let _turn = self.draining.lock();
        self.state.write().freeze(0);
        self.write_frozen(file)
    }

    /// Gives the memory back that is kept for appends to come.
    pub(crate) fn release(&self) {
        let mut state = self.state.write();
        state.spare = Vec::new();
        if state.active.is_empty() {
            state.active = Vec::new();
        }
    }

    fn write_frozen(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        let mut written: Option<(u64, u64)> = None;
        loop {
            let Some(chunk) = self.state.read().frozen.front().cloned() else { return Ok(written) };
            write_all_at(file, &chunk.bytes, chunk.start)?;
            let end = chunk.start + chunk.bytes.len() as u64;
            written = Some((written.map_or(chunk.start, |(start, _)| start), end));
            let mut state = self.state.write();
            state.frozen.pop_front();
            if let Ok(chunk) = Arc::try_unwrap(chunk)
                && state.spare.len() < MAX_SPARE
                && chunk.bytes.capacity() <= 2 * CHUNK_LEN
            {
                let mut bytes = chunk.bytes;
                bytes.clear();
                state.spare.push(bytes);
            }
        }
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
