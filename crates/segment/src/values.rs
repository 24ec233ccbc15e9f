//! The values of a segment that nobody vouches for, compared with the records that name them.

use crate::SegmentPaths;
use crate::record::KeyRecord;
use lithdb_env::{Fs, Result};

use crate::key_file::KeyFile;
use crate::window::Window;

/// Where values stand; value files are opened when they are needed.
#[derive(Debug)]
pub struct ValueVerifier<'a> {
    fs: &'a dyn Fs,
    paths: &'a SegmentPaths,
    ends: &'a [u64],
    files: Vec<Option<Window>>,
    keys: Window,
}

impl<'a> ValueVerifier<'a> {
    /// `ends`: where the last values end, in each value file.
    pub fn new(fs: &'a dyn Fs, paths: &'a SegmentPaths, keys: &KeyFile, ends: &'a [u64]) -> Self {
        let files = paths.values.iter().map(|_| None).collect();
        Self { fs, paths, ends, files, keys: Window::of(keys) }
    }

    /// The value file of a shard; the key file holds the values of all shards that have none.
    pub fn file(&mut self, shard: usize) -> Result<&mut Window> {
        let path = self.paths.values.get(shard).zip(self.ends.get(shard));
        match (self.files.get_mut(shard), path) {
            (Some(Some(file)), _) => Ok(file),
            (Some(file), Some((path, end))) => {
                Ok(file.insert(Window::open(self.fs, path)?.with_read_ahead_end(*end)))
            }
            // The scanner has compared the number of the shard.
            _ => Ok(&mut self.keys),
        }
    }

    /// Whether the value of a primary record is there, and has its checksum.
    pub fn holds(&mut self, record: &KeyRecord<'_>) -> Result<bool> {
        let file = self.file(usize::from(record.shard.0))?;
        Ok(file.checksum(record.offset, record.stored_len)? == Some(record.value_checksum))
    }

    /// Bytes of the value files that were opened, behind these ends.
    pub fn surplus(&self, ends: &[u64]) -> u64 {
        let behind = |(file, end): (&Option<Window>, &u64)| {
            file.as_ref().map_or(0, |file| file.len_bytes().saturating_sub(*end))
        };
        self.files.iter().zip(ends).map(behind).sum()
    }
}
