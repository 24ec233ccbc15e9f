//! The trace: every successful mutating operation, in order. Tests use it to check write ordering.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mutating operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// `Fs::create_new`.
    CreateNew,
    /// `File::write_at`.
    Write,
    /// `File::set_len`.
    SetLen,
    /// `File::allocate`.
    Allocate,
    /// `File::sync_data`.
    SyncData,
    /// `File::sync_all`.
    SyncAll,
    /// `Fs::rename`.
    Rename,
    /// `Fs::remove_file`.
    RemoveFile,
    /// `Fs::remove_dir`.
    RemoveDir,
    /// `Fs::hard_link`.
    HardLink,
    /// `Fs::create_dir`.
    CreateDir,
    /// `Fs::sync_dir`.
    SyncDir,
}

/// A mutating operation that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceOp {
    /// The kind of operation.
    pub kind: OpKind,
    /// The path as the caller wrote it; for an open file, the path it was opened by.
    pub path: PathBuf,
    /// The second path of a rename or a hard link.
    pub to: Option<PathBuf>,
}

/// The operations since the trace was last taken. Paths are shared, so that the writes of a file
/// handle do not copy its name.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    ops: Vec<(OpKind, Arc<Path>, Option<Arc<Path>>)>,
}

impl Trace {
    pub(crate) fn push(&mut self, kind: OpKind, path: &Arc<Path>) {
        self.ops.push((kind, Arc::clone(path), None));
    }

    pub(crate) fn push_path(&mut self, kind: OpKind, path: &Path, to: Option<&Path>) {
        self.ops.push((kind, Arc::from(path), to.map(Arc::from)));
    }

    pub(crate) fn take(&mut self) -> Vec<TraceOp> {
        let ops = std::mem::take(&mut self.ops);
        let owned = |path: Arc<Path>| path.to_path_buf();
        ops.into_iter()
            .map(|(kind, path, to)| TraceOp { kind, path: owned(path), to: to.map(owned) })
            .collect()
    }
}
