//! Mapped memory: the only module of the project with `unsafe`.
//!
//! # Why returning mapped bytes without copying is sound
//!
//! A shared file mapping is undefined behaviour if the bytes of a `&[u8]` change, and raises
//! SIGBUS if the file is truncated below a page that is accessed. Three rules exclude both:
//!
//! 1. *Only immutable bytes are returned.* A segment requests only bytes below the durable length
//!    from a map; the writer appends above it and never writes below it (`segment::data_file`).
//! 2. *No file is shortened below a byte that was published.* What recovery, rollback and repair
//!    keep of an unsealed segment goes to new files, and what they discard stays in place until
//!    its segment expires (`table::open::recover`, `table::truncate`). A file that is unlinked or
//!    replaced keeps its pages until the last mapping is gone.
//! 3. *Within the file.* A segment compares the lengths in its metadata with the file's length
//!    when it opens the file. A map may be longer than the file, but bytes past the durable length
//!    are not returned.
//!
//! No program can exclude the rest: a process that ignores the locks and writes to the database's
//! files, and a device that cannot read a page, which raises SIGBUS. `ReadMode::Pread` turns the
//! latter into an error.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use crate::budget::Permit;
use crate::fs::Map;

/// A read-only shared mapping of the start of a file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    whole: Bytes,
}

/// Owner of the mapping that backs `Bytes`.
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
    /// Maps `len_bytes` from the start of `file`; `permit` is released with the mapping.
    pub(crate) fn new(file: impl AsFd, len_bytes: u64, _permit: Permit) -> io::Result<Self> {
        let Ok(len) = usize::try_from(len_bytes) else {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        };
        if len == 0 {
            // `mmap` refuses a length of 0.
            return Ok(Self { whole: Bytes::new() });
        }
        let fd = file.as_fd();
        // SAFETY: the mapping is read-only and stays alive in `Mapping` while any `Bytes` points
        // into it. The three rules in the module documentation ensure that the bytes returned from
        // it do not change and lie within the file.
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
