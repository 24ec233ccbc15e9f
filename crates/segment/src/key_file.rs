//! Key files as found on disk: read directly, without a [`Segment`](crate::Segment).
//!
//! Used by recovery, repair and rollback. Reads copy; nothing is mapped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::{Chain, Decoded, Mark, Record, decode};
use crate::scan::Scanner;
use crate::{HEADER_LEN, KeyHeader, SegmentId, check_writable, digest_of};
use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, File, Fs, OpenMode, Result, read_up_to_at};

/// The maximum chain record: 32 bytes and 8 for each of 256 value files.
const CHAIN_LEN: usize = 32 + 8 * 256;
/// Bytes read when a file is opened.
const HEAD_LEN: usize = HEADER_LEN + CHAIN_LEN;

/// The kind of access: a reader accepts feature flags that only a writer must refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By the holder of the exclusive locks.
    Write,
    /// By a process that only reads.
    Read,
}

/// The first bytes of key files of sealed segments, at least up to their sealed ends.
pub type KeyFiles = HashMap<SegmentId, Bytes>;

/// An open key file with a valid header.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Its path.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn File>,
    /// The file's length when it was opened: a reader beside a writer reads no further.
    pub len: u64,
    /// The decoded header.
    pub header: KeyHeader,
    /// The first bytes of the file; empty if the header is known from elsewhere.
    pub head: Bytes,
}

impl KeyFile {
    /// Opens the file. `Corrupt` or `Foreign` if its header is invalid.
    pub fn open(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let (file, len) = open(fs, path)?;
        let head = read(&*file, path, 0, len.min(HEAD_LEN as u64) as usize)?;
        let header = KeyHeader::decode(path, &head)?;
        Ok(Self { path: path.to_owned(), file, len, header, head })
    }

    /// Opens the key file of a table's segment. Fails if it belongs to another one, or has
    /// features that forbid the access.
    pub fn open_checked_for(
        fs: &dyn Fs,
        path: &Path,
        (table_id, id): (u64, SegmentId),
        access: Access,
    ) -> Result<Self> {
        let file = Self::open(fs, path)?;
        file.header.belongs_to(path, table_id, id)?;
        if access == Access::Write {
            check_writable(path, &file.head)?;
        }
        Ok(file)
    }

    /// Opens a file that may never have been synced: `None` if it does not begin with a valid key
    /// file header. Another version is an error, and so is a failed read: neither says what is in
    /// the file.
    pub fn open_if_valid(fs: &dyn Fs, path: &Path) -> Result<Option<Self>> {
        match Self::open(fs, path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Foreign) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The chain record, if the file begins with a valid one.
    pub fn chain(&self) -> Result<Option<Chain>> {
        let bytes = self.bytes(HEADER_LEN as u64, CHAIN_LEN)?;
        let salt = self.header.identity.salt;
        Ok(match decode(&self.header.identity, salt, HEADER_LEN as u32, &bytes) {
            Ok(Decoded { record: Record::Chain(chain), .. }) => Some(chain),
            // The read succeeded: the bytes are another record or an invalid one.
            Ok(_) | Err(_) => None,
        })
    }

    /// Up to `len` bytes at `offset`, within the length that the file had when it was opened.
    fn bytes(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = self.len.min(offset.saturating_add(len as u64));
        if offset < end && end <= self.head.len() as u64 {
            return Ok(self.head.slice(offset as usize..end as usize));
        }
        read(&*self.file, &self.path, offset, end.saturating_sub(offset) as usize)
    }

    /// The content digest of the file up to `end`.
    pub fn digest(&self, end: u64) -> Result<[u8; 16]> {
        digest_of(&self.path, end, |offset, len| self.bytes(offset, len))
    }

    /// A scanner of the file up to `end`.
    pub fn scan(&self, end: u64, external_end: Option<Mark>) -> Scanner<'static> {
        let file = self.clone();
        let source = move |offset: u64, len: usize| file.bytes(offset, len);
        Scanner::new(source, &self.path, self.header, end).with_external_end(external_end)
    }

    /// Whether the file contains a valid mark, so that something in it was acknowledged. A failed
    /// read is an error: the file may contain one.
    pub fn has_mark(&self) -> Result<bool> {
        let mut scanner = self.scan(self.len, None);
        scanner.run(|_| Ok(()))?;
        Ok(scanner.mark().is_some())
    }
}

/// Up to `len` bytes at `offset`; fewer only at the end of the file.
pub fn read(file: &dyn File, path: &Path, offset: u64, len: usize) -> Result<Bytes> {
    let mut buf = vec![0; len];
    let got = read_up_to_at(file, &mut buf, offset).map_err(|e| Error::io("read", path, e))?;
    buf.truncate(got);
    Ok(Bytes::from(buf))
}

/// Opens a file for reading and returns it with its length.
pub fn open(fs: &dyn Fs, path: &Path) -> Result<(Arc<dyn File>, u64)> {
    let file = fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))?;
    let len = file.len().map_err(|e| Error::io("get the length of", path, e))?;
    Ok((file, len))
}
