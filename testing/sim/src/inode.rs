//! An inode: a file's two images and the log of operations between them, or a directory (see
//! `dir.rs`).
//!
//! Invariant, while no sync has failed: applying `log` to `durable` in order gives `live`. A
//! failed sync breaks it on purpose.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::crash_outcome::CrashOutcome;
use crate::dir::DirNode;
use crate::errno::{EISDIR, ENOTDIR, errno};
use crate::fault::Pages;
use crate::sector_history::{Before, SECTOR_BYTES, SectorHistory};
use crate::space::Extents;

/// The number of an inode; never reused, not even after crashes of the same file system.
pub(crate) type Ino = u64;

#[derive(Debug)]
pub(crate) struct Node {
    /// The number of live names.
    pub(crate) links: u64,
    /// The number of handles, mappings and locks that keep it alive.
    pub(crate) open: usize,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    File(FileNode),
    Dir(DirNode),
}

impl Node {
    pub(crate) fn file(&self) -> io::Result<&FileNode> {
        match &self.body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(errno(EISDIR)),
        }
    }

    pub(crate) fn file_mut(&mut self) -> io::Result<&mut FileNode> {
        match &mut self.body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(errno(EISDIR)),
        }
    }

    pub(crate) fn dir(&self) -> io::Result<&DirNode> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(errno(ENOTDIR)),
        }
    }

    pub(crate) fn dir_mut(&mut self) -> io::Result<&mut DirNode> {
        match &mut self.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(errno(ENOTDIR)),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }
}

#[derive(Debug, Default)]
pub(crate) struct FileNode {
    pub(crate) live: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    /// In order of issue.
    pub(crate) log: Vec<FileOp>,
    /// Space written or reserved.
    pub(crate) extents: Extents,
    /// The earlier contents of the durable image.
    pub(crate) older: Arc<SectorHistory>,
    /// Blocks whose write-back failed before they were durable: writes to them never become
    /// durable.
    pub(crate) unwritable: Vec<Range<usize>>,
}

/// An operation that no sync has covered.
#[derive(Debug)]
pub(crate) struct FileOp {
    /// Its place in the order of issue, over the whole file system.
    pub(crate) seq: u64,
    pub(crate) change: FileChange,
}

#[derive(Debug)]
pub(crate) enum FileChange {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

/// Replaces the unwritable blocks of an image with zeros.
pub(crate) fn zero_unwritable(image: &mut [u8], unwritable: &[Range<usize>]) {
    let len = image.len();
    for blocks in unwritable {
        if let Some(bytes) = image.get_mut(blocks.start.min(len)..blocks.end.min(len)) {
            bytes.fill(0);
        }
    }
}

/// Writes into an image; fills a gap with zeros.
pub(crate) fn write_into(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(place) = image.get_mut(offset..end) {
        place.copy_from_slice(data);
    }
}

impl FileChange {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => write_into(image, *offset, data),
            Self::SetLen(len) => image.resize(*len, 0),
        }
    }
}

impl FileNode {
    /// A file whose two images are `bytes`.
    pub(crate) fn fully_synced(
        bytes: Vec<u8>,
        extents: Extents,
        older: Arc<SectorHistory>,
    ) -> Self {
        let unwritable = Vec::new();
        Self { durable: bytes.clone(), live: bytes, log: Vec::new(), extents, older, unwritable }
    }

    pub(crate) fn change(&mut self, seq: u64, change: FileChange) {
        change.apply(&mut self.live);
        self.log.push(FileOp { seq, change });
    }

    pub(crate) fn sync(&mut self, seq: u64) {
        let before = self.before();
        for op in self.log.drain(..) {
            op.change.apply(&mut self.durable);
            if let FileChange::SetLen(len) = op.change {
                // Truncation freed these blocks.
                self.unwritable.retain(|blocks| blocks.start < len);
            }
        }
        zero_unwritable(&mut self.durable, &self.unwritable);
        Arc::make_mut(&mut self.older).note(seq, before, &self.durable);
    }

    /// The sector history after a crash at `seq` that leaves `bytes`.
    pub(crate) fn older_after_crash(&self, seq: u64, bytes: &[u8]) -> Arc<SectorHistory> {
        let mut older = Arc::clone(&self.older);
        if !self.log.is_empty() {
            Arc::make_mut(&mut older).note(seq, self.before(), bytes);
        }
        older
    }

    /// The durable bytes that the unsynced operations are going to replace.
    fn before(&self) -> Before {
        Before::of(&self.durable, self.log.iter().map(|op| &op.change))
    }

    /// Forgets the clean pages: reads then see the disk, and what was written since the last sync.
    pub(crate) fn evict(&mut self) {
        let len = self.live.len();
        self.live.clone_from(&self.durable);
        for op in &self.log {
            op.change.apply(&mut self.live);
        }
        self.live.resize(len, 0);
    }

    /// Applies the effects of a failed sync.
    pub(crate) fn fail_sync(&mut self, seq: u64, pages: Pages) {
        let before = self.before();
        let log = std::mem::take(&mut self.log);
        match pages {
            Pages::ReadableAndClean => {}
            Pages::Unwritable => {
                let new = self.durable.len().next_multiple_of(SECTOR_BYTES);
                let len = self.live.len();
                for op in &log {
                    if let FileChange::Write { offset, data } = &op.change {
                        let start = offset / SECTOR_BYTES * SECTOR_BYTES;
                        let end = (offset + data.len()).next_multiple_of(SECTOR_BYTES);
                        self.unwritable.push(start.max(new)..end.max(new));
                    }
                }
                // The length is metadata.
                self.log.push(FileOp { seq, change: FileChange::SetLen(len) });
            }
            Pages::Lost | Pages::PartlyLost => {
                if pages == Pages::PartlyLost {
                    for FileOp { seq, change } in &log {
                        CrashOutcome::partially_synced(change, *seq)
                            .apply(change, &mut self.durable);
                    }
                    Arc::make_mut(&mut self.older).note(seq, before, &self.durable);
                }
                // The length is metadata and stays; a later sync that succeeds makes it durable.
                let len = self.live.len();
                self.live.clone_from(&self.durable);
                if self.live.len() != len {
                    self.change(seq, FileChange::SetLen(len));
                }
            }
        }
    }
}
