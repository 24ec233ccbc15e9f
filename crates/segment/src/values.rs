//! Verifies the values of a segment that no metadata or mark covers, against the records that
//! reference them.
//!
//! Used by recovery, verification, salvage and truncation. Reads only.

use crate::SegmentPaths;
use crate::record::KeyRecord;
use lithdb_env::{Fs, Result};

use crate::key_file::KeyFile;
use crate::window::Window;

/// Reads values for verification; value files are opened when needed.
#[derive(Debug)]
pub struct ValueVerifier<'a> {
    fs: &'a dyn Fs,
    paths: &'a SegmentPaths,
    ends: &'a [u64],
    files: Vec<Option<Window>>,
    keys: Window,
}

impl<'a> ValueVerifier<'a> {
    /// `ends` is where the last value ends in each value file.
    pub fn new(fs: &'a dyn Fs, paths: &'a SegmentPaths, keys: &KeyFile, ends: &'a [u64]) -> Self {
        let files = paths.values.iter().map(|_| None).collect();
        Self { fs, paths, ends, files, keys: Window::of(keys) }
    }

    /// The value file of a shard, or the key file for inline values.
    pub fn file(&mut self, shard: usize) -> Result<&mut Window> {
        let path = self.paths.values.get(shard).zip(self.ends.get(shard));
        match (self.files.get_mut(shard), path) {
            (Some(Some(file)), _) => Ok(file),
            (Some(file), Some((path, end))) => {
                Ok(file.insert(Window::open(self.fs, path)?.with_read_ahead_end(*end)))
            }
            // The scanner has already checked the shard number.
            _ => Ok(&mut self.keys),
        }
    }

    /// Whether the value of a primary record is present and matches its checksum.
    pub fn holds(&mut self, record: &KeyRecord<'_>) -> Result<bool> {
        let file = self.file(usize::from(record.shard.0))?;
        Ok(file.checksum(record.offset, record.stored_len)? == Some(record.value_checksum))
    }

    /// Total bytes after `ends` in the value files that were opened.
    pub fn surplus(&self, ends: &[u64]) -> u64 {
        let surplus = |(file, end): (&Option<Window>, &u64)| {
            file.as_ref().map_or(0, |file| file.len_bytes().saturating_sub(*end))
        };
        self.files.iter().zip(ends).map(surplus).sum()
    }
}
