//! Handles: open files and mappings. A handle keeps its inode alive, whatever happens to its
//! names.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{File, Map, Permit};

use crate::errno::{EBADF, EINVAL, EIO, errno};
use crate::fault::{FaultAction, ReadKind};
use crate::fs::{SimFs, State};
use crate::inode::Ino;
use crate::trace::OpKind;

/// Keeps an inode alive; created by the caller of `Tree::hold`.
#[derive(Debug)]
struct InodeHandle {
    fs: SimFs,
    ino: Ino,
}

impl Drop for InodeHandle {
    fn drop(&mut self) {
        self.fs.state().tree.release(self.ino);
    }
}

#[derive(Debug)]
pub(crate) struct SimFile {
    held: InodeHandle,
    path: Arc<Path>,
    writable: bool,
}

impl SimFile {
    pub(crate) fn new(fs: SimFs, ino: Ino, path: Arc<Path>, writable: bool) -> Self {
        Self { held: InodeHandle { fs, ino }, path, writable }
    }

    /// Runs one mutating operation: applies the faults, does the work, records the trace.
    fn mutate<T>(
        &self,
        kind: OpKind,
        len: usize,
        work: impl FnOnce(&mut State, FaultAction) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.held.fs.state();
        let action = state.faults.op(kind, len)?;
        let done = work(&mut state, action)?;
        state.trace.push(kind, &self.path);
        Ok(done)
    }

    fn sync(&self, kind: OpKind) -> io::Result<()> {
        self.mutate(kind, 0, |state, action| {
            let seq = state.tree.next_seq();
            let file = state.tree.node_mut(self.held.ino)?.file_mut()?;
            if let FaultAction::FailSync(pages) = action {
                file.fail_sync(seq, pages);
                return Err(errno(EIO));
            }
            file.sync(seq);
            Ok(())
        })
    }

    fn need_writable(&self, code: i32) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(errno(code)) }
    }
}

fn limit(action: FaultAction, len: usize) -> usize {
    match action {
        FaultAction::AtMost(at_most) => len.min(at_most),
        FaultAction::Go | FaultAction::Stale | FaultAction::FailSync(_) => len,
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.held.fs.state();
        let start = offset as usize;
        let range = start..start.saturating_add(buf.len());
        let State { tree, faults, .. } = &mut *state;
        let file = tree.node(self.held.ino)?.file()?;
        let kind = ReadKind::ReadAt { has_older: file.older.has(&range) };
        let action = faults.read(kind, buf.len())?;
        let rest = file.live.get(start..).unwrap_or_default();
        let len = limit(action, buf.len()).min(rest.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
            if action == FaultAction::Stale {
                let older = file.older.contents(&file.live, start..start + len);
                older.first().into_iter().for_each(|older| to.copy_from_slice(older));
            }
        }
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.mutate(OpKind::Write, buf.len(), |state, action| {
            self.need_writable(EBADF)?;
            let part = buf.get(..limit(action, buf.len())).unwrap_or(buf);
            state.tree.write(self.held.ino, offset, part)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(OpKind::SyncData)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(OpKind::SyncAll)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.mutate(OpKind::SetLen, 0, |state, _| {
            self.need_writable(EINVAL)?;
            state.tree.set_len(self.held.ino, len_bytes)
        })
    }

    fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.mutate(OpKind::Allocate, 0, |state, _| {
            if len_bytes == 0 {
                return Ok(());
            }
            self.need_writable(EBADF)?;
            state.tree.reserve(self.held.ino, offset, len_bytes)
        })
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.held.fs.state();
        state.faults.alive()?;
        Ok(state.tree.node(self.held.ino)?.file()?.live.len() as u64)
    }

    fn links(&self) -> io::Result<u64> {
        let state = self.held.fs.state();
        state.faults.alive()?;
        Ok(state.tree.node(self.held.ino)?.links)
    }

    fn map(&self, len_bytes: u64, permit: Permit) -> io::Result<Arc<dyn Map>> {
        let fs = self.held.fs.clone();
        let mut state = fs.state();
        state.faults.read(ReadKind::Map, 0)?;
        state.tree.hold(self.held.ino);
        drop(state);
        Ok(Arc::new(SimMap {
            held: InodeHandle { fs, ino: self.held.ino },
            len_bytes,
            _permit: permit,
        }))
    }

    fn start_writeback(&self, _offset: u64, _len_bytes: u64) -> io::Result<()> {
        self.held.fs.state().faults.alive()
    }
}

/// A mapping: returns copies of the live bytes at the time of the call.
#[derive(Debug)]
struct SimMap {
    held: InodeHandle,
    len_bytes: u64,
    _permit: Permit,
}

impl Map for SimMap {
    /// Also `None` where a real mapping would raise SIGBUS (counted by [`SimFs::bus_errors`]), and
    /// after a crash.
    #[expect(clippy::disallowed_methods, reason = "after a crash nothing is mapped")]
    fn bytes(&self, offset: u64, len: usize) -> Option<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len_bytes)?;
        let mut state = self.held.fs.state();
        state.faults.alive().ok()?;
        let file = state.tree.node(self.held.ino).ok()?.file().ok()?;
        let range = offset as usize..end as usize;
        let bytes = file.live.get(range).map(Bytes::copy_from_slice);
        state.bus_errors += u64::from(bytes.is_none());
        bytes
    }
}
