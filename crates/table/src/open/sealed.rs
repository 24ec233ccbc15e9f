//! Reads the files of sealed segments: metadata, key file header, chain record, file lengths.
//!
//! Checks that the files of one segment agree with each other; [`chain`](super::chain) compares a
//! segment with the one before it. Changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::Mutex;
use lithdb_env::{Env, Error, ErrorKind, Fs, Result};
use lithdb_segment::record::Chain;
use lithdb_segment::{Context, KeyHeader, Metadata, Segment, SegmentId, SegmentPaths};

use crate::open::inventory::SegmentFiles;
use lithdb_segment::key_file::{Access, KeyFile};

/// Segments per task of the thread pool.
const SEGMENTS_PER_TASK: usize = 64;

/// A sealed segment whose metadata, headers and file lengths are valid.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    /// Its files.
    pub paths: SegmentPaths,
    /// The header of its key file.
    pub header: KeyHeader,
    /// Its metadata.
    pub metadata: Metadata,
    /// The chain record of its key file, which describes the segment before it.
    pub chain: Option<Chain>,
    /// The whole key file, if it is so small that the first read returned all of it.
    pub(crate) keys: Option<Bytes>,
    /// Bytes past the ends in the metadata, in all files together.
    pub waiting_bytes: u64,
}

/// Segments in ascending order of their ids.
pub(crate) type LiveSegments = Arc<[(SegmentId, SegmentFiles)]>;

/// Reads the files of the segments that have metadata, in parallel. An error of one segment is
/// returned in its place: the walk along the chain reports it, unless it finds an earlier defect.
pub(crate) fn read_sealed(
    env: &Env,
    dirs: &[PathBuf],
    table_id: u64,
    access: Access,
    live: &LiveSegments,
) -> Result<impl Iterator<Item = Option<Result<SealedSegment>>> + use<>> {
    let read = Arc::new(Mutex::new(BTreeMap::<usize, Vec<_>>::new()));
    let (fs, dirs, to, all) =
        (Arc::clone(&env.fs), dirs.to_vec(), Arc::clone(&read), Arc::clone(live));
    env.pool.parallel_for(live.len().div_ceil(SEGMENTS_PER_TASK), move |numbers| {
        for number in numbers {
            let read_one = |(id, found): &(SegmentId, SegmentFiles)| {
                let path = found.metadata.as_ref()?;
                Some(SealedSegment::read(&*fs, &dirs, (table_id, *id), found, path, access))
            };
            let some =
                all.iter().skip(number * SEGMENTS_PER_TASK).take(SEGMENTS_PER_TASK).map(read_one);
            let some: Vec<_> = some.collect();
            to.lock().insert(number, some);
        }
        Ok(())
    })?;
    let read = std::mem::take(&mut *read.lock());
    Ok(read.into_values().flatten())
}

impl SealedSegment {
    pub(crate) fn into_segment(self, context: &Arc<Context>) -> Arc<Segment> {
        let segment = Segment::sealed(context, self.paths, self.header, self.metadata);
        Arc::new(segment.with_waiting_bytes(self.waiting_bytes))
    }

    fn read(
        fs: &dyn Fs,
        dirs: &[PathBuf],
        (table_id, id): (u64, SegmentId),
        found: &SegmentFiles,
        path: &Path,
        access: Access,
    ) -> Result<Self> {
        let metadata = match access {
            Access::Write => Metadata::read_for_writing(fs, path)?,
            Access::Read => Metadata::read(fs, path)?,
        };
        let paths = found.paths(dirs, id, metadata.value_ends.len() as u16)?;
        let keys = KeyFile::open_checked_for(fs, &paths.keys, (table_id, id), access)?;
        let chain = keys.chain()?;
        check_matches_header(path, &metadata, &keys.header)?;
        let mut waiting_bytes = require_len(&paths.keys, metadata.key_end, keys.len)?;
        for (path, end) in paths.values.iter().zip(&metadata.value_ends) {
            let found = fs.metadata(path).map_err(|e| Error::io("stat", path, e))?;
            waiting_bytes += require_len(path, *end, found.len_bytes)?;
        }
        let (header, head) = (keys.header, keys.head);
        let keys = (head.len() as u64 >= metadata.key_end).then_some(head);
        Ok(Self { paths, header, metadata, chain, keys, waiting_bytes })
    }
}

/// `Foreign` if metadata and key file header describe different segments.
pub fn check_matches_header(path: &Path, metadata: &Metadata, header: &KeyHeader) -> Result<()> {
    let identity = header.identity;
    let found = (metadata.table_id, metadata.segment, metadata.salt, metadata.predecessor);
    let expected = (identity.table_id, identity.segment, identity.salt, header.predecessor);
    let (shards, ends) = (usize::from(header.shards), metadata.value_ends.len());
    if found == expected && ends == shards {
        return Ok(());
    }
    let show = |(table, segment, salt, predecessor): (u64, SegmentId, u64, SegmentId), shards| {
        format!(
            "segment {segment} of table {table:016x} (salt {salt:016x}, predecessor {predecessor}, \
             value files {shards})"
        )
    };
    let (expected, found) = (show(expected, shards), show(found, ends));
    let message = format_args!("expected the metadata of {expected}, found that of {found}");
    Err(Error::at(ErrorKind::Foreign, path, message))
}

/// By how many bytes the file is longer than expected; `Corrupt` if it is shorter.
fn require_len(path: &Path, expected: u64, found: u64) -> Result<u64> {
    if found >= expected {
        return Ok(found - expected);
    }
    let expected = format!("at least {expected} bytes (segment metadata)");
    Err(Error::corrupt(path, found, &expected, "the end of the file"))
}
