//! What the tour knows of each file, and the comparison of what the database answers with it.

use std::path::PathBuf;

use lithdb::Table;
use xxhash_rust::xxh3::xxh3_128;

use crate::failure::Failure;
use crate::files::Buffer;
use crate::output::{counted, size};
use crate::progress::Progress;

/// A file that was loaded.
pub(super) struct Item {
    pub(super) path: PathBuf,
    /// Its path from the root of the tree.
    pub(super) key: String,
    /// Of what was stored.
    pub(super) digest: Digest,
}

impl Item {
    /// The key under which it is stored a second time: no path from the root of a tree has two
    /// slashes in a row.
    pub(super) fn second_key(&self) -> String {
        format!("again://{}", self.key)
    }
}

/// All files that were loaded, in that order.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) items: Vec<Item>,
    /// How many are in the older half, which was sealed before the rest was put.
    pub(super) older: usize,
}

impl Loaded {
    /// The older half and the newer one.
    pub(super) fn halves(&self) -> (&[Item], &[Item]) {
        self.items.split_at(self.older)
    }
}

/// 128 bits of a content that have nothing to do with the checksums of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest(u128);

impl Digest {
    pub(super) fn of(content: &[u8]) -> Self {
        Self(xxh3_128(content))
    }

    /// The secondary key of a content, whatever its file is called.
    pub(super) fn key(self) -> String {
        format!("xxh3://{:032x}", self.0)
    }
}

/// What all comparisons found.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Answers that were compared, and their bytes.
    pub(super) compared: u64,
    pub(super) bytes: u64,
    /// Files that are not on disk any more as they were loaded.
    pub(super) changed: Vec<String>,
    /// Answers that are not what was loaded.
    pub(super) wrong: Vec<String>,
}

impl Tally {
    /// Compares what is stored under the keys of these files, and says so in words, with the
    /// number of bytes.
    pub(super) fn compare_all<'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a Item>,
        table: &Table,
    ) -> Result<(String, u64), Failure> {
        let (compared, bytes, wrong) = (self.compared, self.bytes, self.wrong.len());
        let (mut buffer, mut bar) = (Buffer::default(), Progress::counting("comparing"));
        for item in items {
            self.compare(table, &item.key, item, &mut buffer);
            bar.done(self.bytes - bytes);
        }
        let verdict = match self.wrong.len() - wrong {
            0 => "all equal".to_owned(),
            wrong => format!("{wrong} WRONG"),
        };
        let bytes = self.bytes - bytes;
        let files = counted(self.compared - compared, "file");
        Ok((format!("{files} ({}) compared byte by byte: {verdict}", size(bytes)), bytes))
    }

    /// Compares what `key` answers with the file of `item`.
    pub(super) fn compare(&mut self, table: &Table, key: &str, item: &Item, buffer: &mut Buffer) {
        let answer = match table.get(key.as_bytes()) {
            Ok(Some(answer)) => answer,
            Ok(None) => return self.wrong.push(format!("{key}: stored, and not found")),
            Err(error) => return self.wrong.push(format!("{key}: {error}")),
        };
        self.compared += 1;
        self.bytes += answer.len() as u64;
        let is_on_disk = matches!(buffer.read(&item.path), Ok(on_disk) if on_disk == &answer[..]);
        if is_on_disk {
            return;
        }
        // The file was changed or removed since, or the answer is wrong: the digest tells which.
        if Digest::of(&answer) != item.digest {
            let len = answer.len();
            self.wrong.push(format!("{key}: the answer is not what was stored ({len} bytes)"));
        } else if !self.changed.contains(&item.key) {
            self.changed.push(item.key.clone());
        }
    }
}

/// About `most` of the files, evenly spread.
pub(super) fn sample(items: &[Item], most: usize) -> impl Iterator<Item = &Item> {
    items.iter().step_by(items.len().div_ceil(most).max(1))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
