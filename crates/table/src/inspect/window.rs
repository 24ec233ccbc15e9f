//! A file read in large pieces, from anywhere in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Error, File, Fs, OpenMode, Result};
use lithdb_segment::KeyHeader;

use crate::keyfile::{KeyFile, read};

/// So many bytes are read at a time.
pub(super) const PIECE: usize = 1 << 20;

/// The part of a file that is in memory.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn File>,
    path: PathBuf,
    len: u64,
    bytes: Bytes,
    start: u64,
}

impl Window {
    pub(super) fn new(file: Arc<dyn File>, path: &Path, len: u64) -> Self {
        Self { file, path: path.to_owned(), len, bytes: Bytes::new(), start: 0 }
    }

    pub(super) fn open(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let file = fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))?;
        let len = file.len().map_err(|e| Error::io("measure", path, e))?;
        Ok(Self::new(file, path, len))
    }

    pub(super) fn of(key_file: &KeyFile) -> Self {
        Self::new(Arc::clone(&key_file.file), &key_file.path, key_file.len)
    }

    /// The open file, its path and its length, as one with this header.
    pub(super) fn into_key_file(self, header: KeyHeader) -> KeyFile {
        KeyFile { path: self.path, file: self.file, len: self.len, header, head: Bytes::new() }
    }

    /// The length that the file had when it was opened, or has turned out to have.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Up to `len` bytes at `offset`; fewer only at the end of the file.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.len);
        if offset >= end {
            return Ok(&[]);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let want = (end - offset).max((self.len - offset).min(PIECE as u64)) as usize;
            self.bytes = read(&*self.file, &self.path, offset, want)?;
            self.start = offset;
            if self.bytes.len() < want {
                self.len = offset + self.bytes.len() as u64; // it was cut meanwhile
            }
        }
        let from = (offset - self.start) as usize;
        let to = ((end - self.start) as usize).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }
}
