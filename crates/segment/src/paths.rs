//! The paths of a segment's files, and how a new segment's files are spread over the roots.
//!
//! An existing segment's paths come from the directory listing: files may be on any root.

use std::path::{Path, PathBuf};

use crate::ids::{SegmentId, ShardId};
use crate::names::SegmentFile;

/// The files of one segment, as found or to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPaths {
    /// The key file.
    pub keys: PathBuf,
    /// The value files, by shard.
    pub values: Vec<PathBuf>,
    /// The metadata file, existing or to be created.
    pub metadata: PathBuf,
}

impl SegmentPaths {
    /// The paths for a new segment: keys and metadata on the first root, shards spread over all
    /// roots.
    pub fn for_new(dirs: &[PathBuf], id: SegmentId, shards: u16) -> Self {
        let [first, ..] = dirs else { unreachable!("a table has at least one root") };
        let values = (0..shards)
            .map(|n| {
                // Successive segments start at successive roots, so segments with fewer shards
                // than roots use all of them.
                let root = (id.0 as usize + usize::from(n)) % dirs.len();
                let dir = dirs.get(root).unwrap_or(first); // a remainder is always in range
                dir.join(SegmentFile::Values(id, ShardId(n)).to_string())
            })
            .collect();
        Self {
            keys: first.join(SegmentFile::Keys(id).to_string()),
            values,
            metadata: first.join(SegmentFile::Metadata(id).to_string()),
        }
    }

    /// All paths, the key file last: while it exists, the others are known to belong to a segment.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let values = self.values.iter().map(PathBuf::as_path);
        values.chain([self.metadata.as_path(), self.keys.as_path()])
    }

    /// The directories of the files, each once.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<_> = self.all().filter_map(Path::parent).map(Path::to_owned).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }
}
