//! The write buffer of a growing file: bytes that were accepted and are not in the file yet.
//!
//! One thread at a time appends (the holder of the table's writer lock). Any thread reads. Any
//! thread may drain: full chunks go to the file in one positional write each, while appends and
//! reads continue. No reader waits for I/O: the lock that readers take is held only for copying;
//! draining has its own lock.
//!
//! Invariant: an appended byte is in a chunk until it is in the file. So a reader that finds no
//! chunk for it reads the file.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::atomic::{AtomicUsize, Ordering};
use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Budget, File, Permit, write_all_at};

/// The size of a full chunk of a file with many appends: one positional write.
pub(crate) const CHUNK_LEN: usize = 1 << 20;
/// The size of the first chunk; each full chunk is followed by one four times its size.
const FIRST_CHUNK_LEN: usize = 16 << 10;
/// Number of full chunks that may wait before an append must help draining.
const MAX_FULL_CHUNKS: usize = 8;
/// Number of empty buffers kept for reuse.
const MAX_SPARE: usize = 4;
/// The largest buffer kept when everything is in the file.
const MAX_IDLE_LEN: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct WriteBuffer {
    state: RwLock<State>,
    draining: Mutex<()>,
    /// Number of full chunks waiting to be written.
    waiting: AtomicUsize,
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct State {
    frozen: VecDeque<Arc<Chunk>>,
    active: Buffer,
    active_start: u64,
    spare: Vec<Buffer>,
    next_len: usize,
}

/// Memory with its share of the budget.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    _permit: Permit,
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    buffer: Buffer,
}

impl Buffer {
    fn new(permit: Permit, len: usize) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let reserved = bytes.try_reserve_exact(len);
        reserved.map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
        Ok(Self { bytes, _permit: permit })
    }

    fn has_room(&self, len: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= len
    }
}

impl State {
    fn end(&self) -> u64 {
        self.active_start + self.active.bytes.len() as u64
    }
}

impl WriteBuffer {
    /// An empty write buffer after the first `end` bytes of a file. Its memory counts against
    /// `budget`.
    pub(crate) fn new(end: u64, budget: &Arc<Budget>) -> Self {
        let state = State {
            frozen: VecDeque::new(),
            active: Buffer::default(),
            active_start: end,
            spare: Vec::new(),
            next_len: FIRST_CHUNK_LEN,
        };
        let (waiting, budget) = (AtomicUsize::new(0), Arc::clone(budget));
        Self { state: RwLock::new(state), draining: Mutex::new(()), waiting, budget }
    }

    /// Whether there is memory for an append of `len` bytes; allocates it if the budget has it
    /// free.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let next_len = {
            let state = self.state.read();
            if state.active.has_room(len) || state.spare.iter().any(|spare| spare.has_room(len)) {
                return true;
            }
            state.next_len
        };
        let buffer = self.free(next_len.max(len)).or_else(|| self.free(len));
        let is_found = buffer.is_some();
        self.state.write().spare.extend(buffer);
        is_found
    }

    /// A buffer, if the budget has memory free for it; reclaims none from others.
    fn free(&self, len: usize) -> Option<Buffer> {
        let permit = self.budget.try_acquire(len as u64)?;
        // A failed allocation is like an exhausted budget.
        let Ok(buffer) = Buffer::new(permit, len) else { return None };
        Some(buffer)
    }

    /// Reserves memory for an append of `len` bytes, reclaiming from others if necessary.
    pub(crate) fn make_room(&self, len: usize) -> io::Result<()> {
        if self.has_room(len) {
            return Ok(());
        }
        let buffer = Buffer::new(self.budget.take(len as u64)?, len)?;
        self.state.write().spare.push(buffer);
        Ok(())
    }

    /// Like [`make_room`](Self::make_room), for what must stay in order and cannot be written
    /// directly: may exceed the budget, since the holders of memory may be busy, or latched.
    pub(crate) fn make_room_over_budget(&self, len: usize) -> io::Result<()> {
        if self.make_room(len).is_ok() {
            return Ok(());
        }
        let buffer = Buffer::new(self.budget.acquire_over_limit(len as u64), len)?;
        self.state.write().spare.push(buffer);
        Ok(())
    }

    /// Appends `bytes` at `offset`: the end, or a higher offset if the bytes between are written
    /// directly. They stay together in one chunk.
    pub(crate) fn append(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.write();
        let is_contiguous = state.end() == offset;
        if !is_contiguous || !state.active.has_room(bytes.len()) {
            if is_contiguous && !state.active.bytes.is_empty() {
                state.next_len = (4 * state.next_len).min(CHUNK_LEN);
            }
            self.freeze(&mut state);
            let fits = state.spare.iter().position(|spare| spare.has_room(bytes.len()));
            let next_len = state.next_len.max(bytes.len());
            let buffer = fits.map(|fits| state.spare.swap_remove(fits));
            // A drain or a gap may have taken the reserved room. The bytes are accepted, so this
            // cannot fail.
            state.active = buffer.or_else(|| self.free(next_len)).unwrap_or_else(|| Buffer {
                bytes: Vec::with_capacity(bytes.len()),
                _permit: self.budget.acquire_over_limit(bytes.len() as u64),
            });
            state.active_start = offset;
        }
        state.active.bytes.extend_from_slice(bytes);
    }

    fn freeze(&self, state: &mut State) {
        let start = state.end();
        if !state.active.bytes.is_empty() {
            let buffer = std::mem::take(&mut state.active);
            state.frozen.push_back(Arc::new(Chunk { start: state.active_start, buffer }));
            self.waiting.store(state.frozen.len(), Ordering::Relaxed);
        }
        state.active_start = start;
    }

    /// A copy of up to `max_len` bytes at `offset`; `None` if they are in the file.
    pub(crate) fn read(&self, offset: u64, max_len: usize) -> Option<Bytes> {
        let state = self.state.read();
        let piece = |start: u64, bytes: &[u8]| {
            let from = offset.checked_sub(start)? as usize;
            let rest = bytes.get(from..).filter(|rest| !rest.is_empty())?;
            Some(Bytes::copy_from_slice(rest.get(..max_len.min(rest.len()))?))
        };
        if offset >= state.active_start {
            return piece(state.active_start, &state.active.bytes);
        }
        state.frozen.iter().rev().find_map(|chunk| piece(chunk.start, &chunk.buffer.bytes))
    }

    /// Whether full chunks are waiting to be written.
    pub(crate) fn has_full_chunks(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Writes full chunks to the file unless another thread is doing so and few are waiting.
    /// Returns the range written.
    pub(crate) fn write_full_chunks(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting == 0 {
            return Ok(None);
        }
        let turn = match self.draining.try_lock() {
            Some(turn) => turn,
            None if waiting <= MAX_FULL_CHUNKS => return Ok(None),
            None => self.draining.lock(),
        };
        let written = self.write_frozen(file);
        drop(turn);
        written
    }

    /// Writes everything appended before the call to the file, and frees the memory except one
    /// small buffer.
    pub(crate) fn drain(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        let _turn = self.draining.lock();
        self.drain_locked(file)
    }

    /// Like [`drain`](Self::drain), unless another thread is draining.
    pub(crate) fn try_drain(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        match self.draining.try_lock() {
            Some(_turn) => self.drain_locked(file),
            None => Ok(None),
        }
    }

    fn drain_locked(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        self.freeze(&mut self.state.write());
        let written = self.write_frozen(file)?;
        let mut state = self.state.write();
        state.spare.retain(|spare| spare.bytes.capacity() <= MAX_IDLE_LEN);
        state.spare.truncate(1);
        Ok(written)
    }

    /// Frees the memory kept for future appends; returns whether there was any.
    pub(crate) fn release(&self) -> bool {
        let mut state = self.state.write();
        let mut is_any = !state.spare.is_empty();
        (state.spare, state.next_len) = (Vec::new(), FIRST_CHUNK_LEN);
        if state.active.bytes.is_empty() {
            is_any |= state.active.bytes.capacity() > 0;
            state.active = Buffer::default();
        }
        is_any
    }

    /// Whether everything is in the file.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.read();
        state.frozen.is_empty() && state.active.bytes.is_empty()
    }

    fn write_frozen(&self, file: &dyn File) -> io::Result<Option<(u64, u64)>> {
        let mut written: Option<(u64, u64)> = None;
        loop {
            let Some(chunk) = self.state.read().frozen.front().cloned() else { return Ok(written) };
            write_all_at(file, &chunk.buffer.bytes, chunk.start)?;
            let end = chunk.start + chunk.buffer.bytes.len() as u64;
            written = Some((written.map_or(chunk.start, |(start, _)| start), end));
            let mut state = self.state.write();
            state.frozen.pop_front();
            self.waiting.store(state.frozen.len(), Ordering::Relaxed);
            if let Ok(Chunk { mut buffer, .. }) = Arc::try_unwrap(chunk)
                && state.spare.len() < MAX_SPARE
                && (state.next_len..=2 * CHUNK_LEN).contains(&buffer.bytes.capacity())
            {
                buffer.bytes.clear();
                state.spare.push(buffer);
            }
        }
    }
}

#[cfg(test)]
#[path = "write_buffer_tests.rs"]
mod tests;
