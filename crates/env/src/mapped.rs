//! Mapped memory: the only module of the project with `unsafe`.
//!
//! # Why it is sound to lend mapped bytes
//!
//! A shared file mapping is undefined behaviour waiting to happen if the bytes behind a `&[u8]`
//! change, or if the file is cut so that a touched page is gone (SIGBUS). Three rules exclude both;
//! their keepers are named:
//!
//! 1. *Only immutable bytes are lent.* A segment asks a map for bytes below the durable length
//!    only; the writer appends above it and never writes below it (`segment::growing`).
//! 2. *No file is shortened below a byte that was published.* What recovery, rollback and repair
//!    keep of an unsealed segment goes to new files, and what they give up stays where it is until
//!    its segment expires (`table::recovery`, `table::cut`). A file that is unlinked or replaced
//!    keeps its pages until the last mapping is gone.
//! 3. *Within the file.* Lengths in metadata are compared with the file's length when a segment is
//!    opened; a map may be longer than the file, but bytes past the durable length are not lent.
//!
//! What is left is outside of any program's reach: somebody who writes into the database's files
//! behind its locks, and a device that cannot read a page, which raises SIGBUS. `ReadMode::Pread`
//! turns the latter into an error.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

use crate::budget::Permit;
use crate::fs::Map;

/// A read-only shared mapping of a file's beginning.
#[derive(Debug)]
pub(crate) struct MappedFile {
    // `None` for an empty mapping: mapping zero bytes is refused by the system.
    whole: Option<(Bytes, Arc<Mmap>)>,
}

/// Lets `Bytes` own a share of the mapping.
struct Share {
    mmap: Arc<Mmap>,
    _permit: Permit,
}

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.mmap
    }
}

impl MappedFile {
    /// Maps `len_bytes` from the start of `file`; `permit` is given back with the mapping.
    pub(crate) fn new(file: impl AsFd, len_bytes: u64, permit: Permit) -> io::Result<Self> {
        let Ok(len) = usize::try_from(len_bytes) else {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        };
        if len == 0 {
            return Ok(Self { whole: None });
        }
        let fd = file.as_fd();
        // SAFETY: the mapping is read-only and stays alive in the `Arc` while any `Bytes` points into
        // it. That the bytes lent from it do not change, and lie within the file, is what the three
        // rules in the module's comment say and who keeps them.
        let mmap = unsafe { MmapOptions::new().len(len).map(&fd)? };
        let mmap = Arc::new(mmap);
        Ok(Self {
            whole: Some((
                Bytes::from_owner(Share { mmap: Arc::clone(&mmap), _permit: permit }),
                mmap,
            )),
        })
    }
}

impl Map for MappedFile {
    fn bytes(&self, offset: u64, len: usize) -> Option<Bytes> {
        let start = offset as usize;
        let end = start.checked_add(len)?;
        match &self.whole {
            Some((whole, _)) if end <= whole.len() => Some(whole.slice(start..end)),
            None if end == 0 => Some(Bytes::new()),
            _ => None,
        }
    }

    fn len(&self) -> u64 {
        self.whole.as_ref().map_or(0, |(whole, _)| whole.len() as u64)
    }

    fn will_read(&self, offset: u64, len_bytes: u64) {
        let Some((whole, mmap)) = &self.whole else { return };
        let start = offset as usize;
        let end = start.saturating_add(len_bytes as usize);
        let end = end.min(whole.len());
        if start < end {
            #[expect(clippy::let_underscore_must_use, reason = "a hint: reading works without")]
            let _ = mmap.advise_range(Advice::WillNeed, start, end - start);
        }
    }
}
