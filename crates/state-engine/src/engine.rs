//! The contract of an engine: an ordered map that is changed in memory, made durable as a whole at
//! sealed moments, and copied by hard links.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::Result;
use serde::{Deserialize, Serialize};

use crate::pin::Pin;

/// The longest key, in bytes. A key is not empty.
pub const MAX_KEY_LEN: usize = u16::MAX as usize;
/// The longest value, in bytes.
pub const MAX_VALUE_LEN: usize = u32::MAX as usize;

/// A row: key and value.
pub type Row = (Bytes, Bytes);

/// Rows in ascending order of their keys, from both ends. Holds its pin and its engine; an error
/// ends it.
pub type RowIter = Box<dyn DoubleEndedIterator<Item = Result<Row>> + Send>;

/// An ordered map from keys to values.
///
/// # Moments
/// Every [`apply`](Self::apply) and every [`seal`](Self::seal) with rows makes a new moment.
/// [`pin`](Self::pin) returns the current one; what is read at a pin is the map as of that moment,
/// whatever happens afterwards, until the pin and its clones are dropped. An engine lives as long
/// as an `Arc` of it or a [`RowIter`] does; nothing has to be closed.
///
/// # Durability
/// The memtable takes what is applied. [`seal`](Self::seal) closes it and starts the next; a
/// memtable is closed nowhere else. [`flush`](Self::flush) makes a sealed memtable and all earlier
/// ones durable. After a crash the map is exactly that of *one* sealed moment, not older than the
/// last one whose flush returned: never a mixture, never a part of a memtable.
///
/// # Callers
/// One caller at a time changes the map (`apply`, `seal`); one at a time maintains it (`flush`,
/// `checkpoint`, `compact_once`). Readers, the changing caller and the maintaining caller do not
/// exclude each other. The state store seals at most one memtable ahead: it calls `seal` only when
/// every earlier one has been flushed, and copied if a checkpoint of it was wanted.
///
/// # Errors
/// The first failed write or sync, and the first panic of the underlying engine, latches: from then
/// on `apply`, `seal`, `flush`, `checkpoint` and `compact_once` return it as `Latched`; reads go
/// on. What did nothing latches nothing, and the call may be repeated: a full disk
/// (`StorageFull`), no descriptors (`Exhausted`), no permission. Where it is not certain that
/// nothing was done, the failure is `Io` and latches, whatever its cause. A call that the contract
/// does not allow is `InvalidArgument`.
pub trait Engine: Send + Sync + fmt::Debug {
    /// The current moment, pinned.
    fn pin(&self) -> Pin;

    /// The value of `key` as of `at`. Waits for nobody: for no I/O but its own reads.
    fn get(&self, at: &Pin, key: &[u8]) -> Result<Option<Bytes>>;

    /// The rows in a range of keys as of `at`.
    fn range(self: Arc<Self>, at: &Pin, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RowIter;

    /// Applies rows (`None` deletes) as one moment: a pin sees all of them or none. In memory only;
    /// seals nothing. A key occurs once. Nothing is applied if a key or a value is too long
    /// (`InvalidArgument`).
    fn apply(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) -> Result<()>;

    /// The size of the memtable that takes changes, in bytes.
    fn memtable_bytes(&self) -> u64;

    /// Adds `last` to the memtable as one moment and closes it. No I/O.
    fn seal(&self, last: &[(&[u8], &[u8])]) -> Result<Sealed>;

    /// Makes `sealed` and everything before it durable, names of files included. Does nothing for
    /// a memtable that has been flushed. Later memtables stay as they are.
    fn flush(&self, sealed: &Sealed) -> Result<()>;

    /// Links or copies into the empty directory `into` exactly the files that an engine at
    /// `sealed` needs. Files that the engine never writes again are linked, others copied. The
    /// copies, the links and `into` are synced; the name of `into` is the caller's. `sealed` must
    /// be flushed, and nothing sealed after it. A directory on another file system is an error
    /// (`Io`, `EXDEV`): nothing is copied instead of linked. After an error `into` may hold a
    /// part.
    fn checkpoint(&self, sealed: &Sealed, into: &Path) -> Result<Vec<EngineFile>>;

    /// One step of compaction in the calling thread; drops what no pin can see.
    fn compact_once(&self) -> Result<Compacted>;

    /// Sizes, for statistics and for stalling writers.
    fn stats(&self) -> EngineStats;

    /// Why the engine takes no changes any more.
    fn failure(&self) -> Option<lithdb_env::Error>;
}

/// Creates, opens, copies and checks the directories of engines.
///
/// What [`create`](Self::create) and [`clone_into`](Self::clone_into) made before they failed
/// stays: the caller removes the directory before it tries again, as after a crash. They may refuse
/// a path at which an engine was open that a pin or a [`RowIter`] still reads (`Locked`): such an
/// engine may remove files by their paths when it is dropped. Reopening is not concerned.
///
/// `Arc` has another method `clone_into`: call this one on `&dyn Engines`.
pub trait Engines: Send + Sync + fmt::Debug {
    /// Which engine writes these directories, and in which version.
    fn kind(&self) -> EngineKind;

    /// Creates an empty engine in `dir`, which must not exist; makes it durable, its name in the
    /// parent included.
    fn create(&self, dir: &Path) -> Result<Arc<dyn Engine>>;

    /// Opens the engine in `dir`, after [`check`](Self::check) at [`CheckLevel::Names`].
    fn open(&self, dir: &Path, mode: OpenMode) -> Result<Arc<dyn Engine>>;

    /// Makes `into`, which must not exist, a copy of the engine directory `from` that consists of
    /// `files`: links what was linked, copies the rest, syncs everything but the name of `into`.
    /// Nothing may be writing to `from`.
    fn clone_into(&self, from: &Path, files: &[EngineFile], into: &Path) -> Result<()>;

    /// Makes `into`, which must not exist, a copy of the engine in `from` as it is on the disk, at
    /// a sealed moment: links what is never written again and copies the rest. Somebody else may
    /// be writing to `from`, and does not notice. Nothing of the copy has to be durable.
    ///
    /// An error of kind `Missing` or `Corrupt` may be due to files that were replaced meanwhile:
    /// remove `into` and try again.
    fn copy_beside_writer(&self, from: &Path, into: &Path) -> Result<()>;

    /// Checks that `dir` can be opened safely. With `files`, the list of a checkpoint, also that
    /// `dir` holds them: their lengths, and at [`CheckLevel::Bytes`] their digests.
    fn check(&self, dir: &Path, files: Option<&[EngineFile]>, level: CheckLevel) -> Result<()>;
}

/// A memtable that was closed by [`Engine::seal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The engine that sealed it, as a number that is unique in this process.
    pub(crate) engine: u64,
    /// The moment of the memtable's last row.
    pub(crate) moment: u64,
    /// The memtable's number in its engine, from 1.
    pub(crate) number: u64,
}

/// How an engine is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading and writing. Nobody else may have the directory open for writing.
    Write,
    /// For reading a directory that somebody else owns: changes stay in memory. Nothing in the
    /// directory is written, created or removed, and every file is opened at once, so that its
    /// removal does not matter. `seal`, `flush`, `checkpoint` and `compact_once` are errors. A
    /// directory from which opening would have to remove something is refused (`Foreign`).
    ReadInPlace,
}

/// How much [`Engines::check`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckLevel {
    /// What opening relies on without checking it itself; names and lengths of files.
    Names,
    /// Every byte of every file.
    Bytes,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFile {
    /// The path below the engine's directory, with `/` between its parts.
    pub name: String,
    /// The length in bytes.
    pub len: u64,
    /// The xxh3-128 of its bytes.
    pub digest: u128,
    /// Whether it is a hard link of a file that is never written again, not a copy.
    pub is_linked: bool,
}

/// The name and the version of an engine's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineKind {
    /// For example `lsm-tree`.
    pub name: String,
    /// For example `3.1.10`.
    pub version: String,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// What a step of compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// There was nothing to do.
    Nothing,
    /// Files were rewritten or moved: there may be more to do.
    Some,
}

/// The sizes of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EngineStats {
    /// Sorted runs in level 0. A read looks into each; writers stall when there are too many.
    pub level_0_runs: usize,
    /// Files on disk.
    pub files: usize,
    /// Bytes on disk, perhaps without indexes and filters.
    pub disk_bytes: u64,
    /// Bytes in the memtables, sealed ones included.
    pub memory_bytes: u64,
}
