//! The files in the `segments` directories of a table. Paths come from the directory listing,
//! never from ids. Listing reads no file and changes nothing; opening, readers, truncation and
//! repair use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, FileKind, Fs, Result, wrong_kind};
use lithdb_segment::{HEADER_LEN, SegmentFile, SegmentId, SegmentPaths, ShardId};

use lithdb_segment::key_file::KeyFile;

/// The files of one segment id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentFiles {
    /// The key file.
    pub keys: Option<PathBuf>,
    /// The metadata file.
    pub metadata: Option<PathBuf>,
    /// The value files.
    pub values: BTreeMap<ShardId, PathBuf>,
    /// Unfinished replacements (`NAME.new`).
    pub leftovers: Vec<PathBuf>,
}

impl SegmentFiles {
    /// All files, the key file last.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.leftovers.iter().chain(self.finished())
    }

    /// The files without unfinished replacements, the key file last.
    pub fn finished(&self) -> impl Iterator<Item = &PathBuf> {
        self.values.values().chain(&self.metadata).chain(&self.keys)
    }

    /// Whether there are only unfinished replacements. They prove nothing.
    pub fn is_leftover(&self) -> bool {
        self.finished().next().is_none()
    }

    /// The total length of all files in bytes.
    pub fn bytes(&self, fs: &dyn Fs) -> Result<u64> {
        self.all().try_fold(0_u64, |sum, path| {
            let found = fs.metadata(path).map_err(|e| Error::io("stat", path, e))?;
            Ok(sum.saturating_add(found.len_bytes))
        })
    }

    /// The paths of a segment with `shards` value files. If the metadata file does not exist, its
    /// path is the one at which a new one would be created.
    /// `Missing` if the key file or a value file does not exist.
    pub fn paths(&self, dirs: &[PathBuf], id: SegmentId, shards: u16) -> Result<SegmentPaths> {
        let new = || SegmentPaths::for_new(dirs, id, shards);
        let Some(keys) = self.keys.clone() else { return Err(missing(&new().keys)) };
        let found = (0..shards).map_while(|n| self.values.get(&ShardId(n)).cloned());
        let values: Vec<_> = found.collect();
        if values.len() < usize::from(shards) {
            return Err(missing(&new().values.swap_remove(values.len())));
        }
        let metadata = self.metadata.clone().unwrap_or_else(|| new().metadata);
        Ok(SegmentPaths { keys, values, metadata })
    }
}

impl SegmentFiles {
    /// Refuses files of another table: only this table's state says that they may be removed.
    pub fn require_table(&self, fs: &dyn Fs, table_id: u64) -> Result<()> {
        let Some(path) = &self.keys else { return Ok(()) };
        // An invalid header proves nothing. Nor does a header without a record after it: if the
        // segment was never synced, it may be the previous content of the block, of a dropped
        // table for example.
        let Some(file) = KeyFile::open_if_valid(fs, path)? else { return Ok(()) };
        if file.len <= HEADER_LEN as u64 && self.metadata.is_none() {
            return Ok(());
        }
        let found = file.header.identity.table_id;
        if found == table_id {
            return Ok(());
        }
        let message = format_args!(
            "expected a segment of table {table_id:016x}, the id in table.state, found one of {found:016x}; restore the right file or the right table.state"
        );
        Err(Error::at(ErrorKind::Foreign, path, message))
    }
}

/// The error for a file that must exist and does not.
pub fn missing(path: &Path) -> Error {
    let message = "expected this file on one of the roots, found it on none; restore it, or see `lith repair`";
    Error::at(ErrorKind::Missing, path, message)
}

/// All files in the `segments` directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The files of each segment id.
    pub segments: BTreeMap<SegmentId, SegmentFiles>,
    /// Foreign files, which LithDB never touches.
    pub foreign: Vec<PathBuf>,
}

impl Inventory {
    /// Lists `dirs`. Symbolic links are never followed, not even by readers. `Foreign` for a link
    /// or directory with the name of a segment's file, and for a name on two roots.
    pub fn list(fs: &dyn Fs, dirs: &[PathBuf]) -> Result<Self> {
        let mut inventory = Self::default();
        for dir in dirs {
            let entries = fs.list(dir).map_err(|e| Error::io("list", dir, e))?;
            for entry in entries {
                let path = dir.join(&entry.name);
                let Some(file) = SegmentFile::parse(&entry.name) else {
                    inventory.foreign.push(path);
                    continue;
                };
                if entry.kind != FileKind::File {
                    return Err(wrong_kind(&path, FileKind::File, entry.kind));
                }
                inventory.add(file, dir, path)?;
            }
        }
        Ok(inventory)
    }

    fn add(&mut self, file: SegmentFile, dir: &Path, path: PathBuf) -> Result<()> {
        let found = self.segments.entry(file.segment()).or_default();
        let other = match file {
            SegmentFile::Keys(_) => found.keys.replace(path),
            SegmentFile::Metadata(_) => found.metadata.replace(path),
            SegmentFile::Values(_, shard) => found.values.insert(shard, path),
            SegmentFile::MetadataLeftover(_) | SegmentFile::KeysLeftover(_) => {
                let is_same = |other: &PathBuf| other.file_name() == path.file_name();
                let other = found.leftovers.iter().position(is_same);
                found.leftovers.push(path);
                other.map(|other| found.leftovers.swap_remove(other))
            }
        };
        let Some(other) = other else { return Ok(()) };
        let path = dir.join(file.to_string());
        let (a, b) = (other.display(), path.display());
        let message = format!("{a} and {b}: expected one of these files, found both");
        Err(Error::new(ErrorKind::Foreign, message))
    }
}
