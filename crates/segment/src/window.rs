//! Reads a file in large pieces, at any offset.
//!
//! A [`Window`] keeps the last piece in memory. It copies, never maps, and tolerates concurrent
//! truncation by another process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::KeyHeader;
use bytes::Bytes;
use lithdb_env::{File, Fs, Result};

use crate::key_file::{self, KeyFile, read};

/// Bytes read at a time.
pub const PIECE: usize = 1 << 20;
/// Bytes read the first time: perhaps only the header is needed.
const FIRST: usize = 4096;

/// A file and the part of it that is in memory.
#[derive(Debug)]
pub struct Window {
    file: Arc<dyn File>,
    path: PathBuf,
    len: u64,
    /// Nothing after this is read ahead.
    read_ahead_end: u64,
    bytes: Bytes,
    start: u64,
}

impl Window {
    /// A window on an open file of `len` bytes.
    pub fn new(file: Arc<dyn File>, path: &Path, len: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            len,
            read_ahead_end: len,
            bytes: Bytes::new(),
            start: 0,
        }
    }

    /// Opens the file at `path`.
    pub fn open(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let (file, len) = key_file::open(fs, path)?;
        Ok(Self::new(file, path, len))
    }

    /// A window on an open key file.
    pub fn of(key_file: &KeyFile) -> Self {
        Self::new(Arc::clone(&key_file.file), &key_file.path, key_file.len)
    }

    /// Converts into a key file with the given header.
    pub fn into_key_file(self, header: KeyHeader) -> KeyFile {
        KeyFile { path: self.path, file: self.file, len: self.len, header, head: Bytes::new() }
    }

    /// The length of the file when it was opened, or as found since.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// The same window, reading nothing ahead after `end`: those bytes may not be readable.
    pub fn with_read_ahead_end(self, end: u64) -> Self {
        Self { read_ahead_end: self.read_ahead_end.min(end), ..self }
    }

    /// Up to `len` bytes at `offset`; fewer only at the end of the file.
    pub fn get(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.len);
        if offset >= end {
            return Ok(&[]);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let piece = if self.bytes.is_empty() { FIRST } else { PIECE };
            let read_ahead_end = self.read_ahead_end.min(offset + piece as u64);
            let want = (end.max(read_ahead_end) - offset) as usize;
            self.bytes = read(&*self.file, &self.path, offset, want)?;
            self.start = offset;
            if self.bytes.len() < want {
                self.len = offset + self.bytes.len() as u64; // truncated meanwhile
            }
        }
        let from = (offset - self.start) as usize;
        let to = ((end - self.start) as usize).min(self.bytes.len());
        Ok(self.bytes.split_at(to).0.split_at(from).1)
    }

    /// The checksum of `len` bytes at `offset`; `None` if the file ends earlier.
    pub fn checksum(&mut self, offset: u64, len: u32) -> Result<Option<u32>> {
        let (mut at, end) = (offset, offset.saturating_add(u64::from(len)));
        let mut checksum = 0;
        while at < end {
            let piece = self.get(at, ((end - at) as usize).min(PIECE))?;
            if piece.is_empty() {
                return Ok(None);
            }
            checksum = crc32c::crc32c_append(checksum, piece);
            at += piece.len() as u64;
        }
        Ok(Some(checksum))
    }
}
