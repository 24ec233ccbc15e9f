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

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use crate::budget::Permit;
use crate::fs::Map;

/// A read-only shared mapping of a file's beginning.
#[derive(Debug)]
pub(crate) struct MappedFile {
    whole: Bytes,
}

/// Lets `Bytes` own the mapping.
struct Mapping {
    mmap: Mmap,
    _permit: Permit,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.mmap
    }
}

impl MappedFile {
    /// Maps `len_bytes` from the start of `file`; `permit` is given back with the mapping.
    pub(crate) fn new(file: impl AsFd, len_bytes: u64, _permit: Permit) -> io::Result<Self> {
        let Ok(len) = usize::try_from(len_bytes) else {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        };
        if len == 0 {
            // The system refuses to map zero bytes.
            return Ok(Self { whole: Bytes::new() });
        }
        let fd = file.as_fd();
        // SAFETY: the mapping is read-only and stays alive in `Mapping` while any `Bytes` points into
        // it. That the bytes lent from it do not change, and lie within the file, is what the three
        // rules in the module's comment say and who keeps them.
        let mmap = unsafe { MmapOptions::new().len(len).map(&fd)? };
        Ok(Self { whole: Bytes::from_owner(Mapping { mmap, _permit }) })
    }
}

impl Map for MappedFile {
    fn bytes(&self, offset: u64, len: usize) -> Option<Bytes> {
        let start = offset as usize;
        let end = start.checked_add(len).filter(|end| *end <= self.whole.len())?;
        Some(self.whole.slice(start..end))
    }
}
