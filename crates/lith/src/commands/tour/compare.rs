//! The files that the tour loaded, and the comparison of the database's answers with them.

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
    /// Its path relative to the root of the tree.
    pub(super) key: String,
    /// The digest of the stored content.
    pub(super) digest: Digest,
}

impl Item {
    /// The key for a second copy. No relative path contains two slashes in a row.
    pub(super) fn second_key(&self) -> String {
        format!("again://{}", self.key)
    }
}

/// All loaded files, in load order.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) items: Vec<Item>,
    /// The number of files in the older half, which was sealed before the rest was put.
    pub(super) older: usize,
}

impl Loaded {
    /// The older half and the newer one.
    pub(super) fn halves(&self) -> (&[Item], &[Item]) {
        self.items.split_at(self.older)
    }
}

/// A 128-bit digest of a content, independent of the database's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest(u128);

impl Digest {
    pub(super) fn of(content: &[u8]) -> Self {
        Self(xxh3_128(content))
    }

    /// The secondary key under which the content is stored.
    pub(super) fn key(self) -> String {
        format!("xxh3://{:032x}", self.0)
    }
}

/// The results of all comparisons.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The number of compared answers, and their bytes.
    pub(super) compared: u64,
    pub(super) bytes: u64,
    /// Files that changed on disk since they were loaded.
    pub(super) changed: Vec<String>,
    /// Wrong answers.
    pub(super) wrong: Vec<String>,
}

impl Tally {
    /// Compares the values of these files with the files; returns a description and the number of
    /// bytes.
    pub(super) fn compare_all<'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a Item>,
        table: &Table,
    ) -> Result<(String, u64), Failure> {
        let (compared, bytes, wrong) = (self.compared, self.bytes, self.wrong.len());
        let (mut buffer, mut bar) = (Buffer::default(), Progress::new("comparing"));
        for item in items {
            self.compare(table, &item.key, item, &mut buffer);
            bar.set(self.bytes - bytes, None);
        }
        let verdict = match self.wrong.len() - wrong {
            0 => "all equal".to_owned(),
            wrong => format!("{wrong} WRONG"),
        };
        let bytes = self.bytes - bytes;
        let files = counted(self.compared - compared, "file");
        Ok((format!("{files} ({}) compared byte by byte: {verdict}", size(bytes)), bytes))
    }

    /// Compares the value of `key` with the file of `item`.
    pub(super) fn compare(&mut self, table: &Table, key: &str, item: &Item, buffer: &mut Buffer) {
        let answer = match table.get(key.as_bytes()) {
            Ok(Some(answer)) => answer,
            Ok(None) => return self.wrong.push(format!("{key}: expected a value, found none")),
            Err(error) => return self.wrong.push(format!("{key}: {error}")),
        };
        self.compared += 1;
        self.bytes += answer.len() as u64;
        let is_on_disk = matches!(buffer.read(&item.path), Ok(on_disk) if on_disk == &answer[..]);
        if is_on_disk {
            return;
        }
        // The digest tells a changed or removed file from a wrong answer.
        if Digest::of(&answer) != item.digest {
            let len = answer.len();
            self.wrong.push(format!("{key}: expected the stored value, found {len} other bytes"));
        } else if !self.changed.contains(&item.key) {
            self.changed.push(item.key.clone());
        }
    }
}

/// At most `limit` of the files, evenly spaced.
pub(super) fn sample(items: &[Item], limit: usize) -> impl Iterator<Item = &Item> {
    items.iter().step_by(items.len().div_ceil(limit).max(1))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
