//! Creates the files of a new segment.
//!
//! The caller makes them durable before anything in them is acknowledged. A failed creation leaves
//! no files; one that could not be removed is removed before the next creation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::sync::Mutex;
use lithdb_env::{Error, File, Fs, Result, UnixMillis, read_file, remove_if_exists, write_all_at};

use crate::data_file::DataFile;
use crate::handle::Handle;
use crate::header::{HEADER_LEN, Identity, KeyHeader, ValueHeader};
use crate::ids::{SegmentId, ShardId};
use crate::paths::SegmentPaths;
use crate::record::{Chain, Encoder};
use crate::scan::Totals;
use crate::segment::{Context, Segment};
use crate::write_buffer::WriteBuffer;

/// The parameters of a new segment.
#[derive(Debug, Clone)]
pub struct NewSegment {
    /// The id; never used before in the table.
    pub id: SegmentId,
    /// The final state of the preceding segment; `None` for the first of a table.
    pub chain: Option<Chain>,
    /// Number of value files, 1 to 256.
    pub shards: u16,
    /// The time of creation.
    pub now: UnixMillis,
}

/// Files that failed creations could not remove: each with what was written to it, which tells it
/// from a file that somebody else puts in its place. They would be in the way of the next segment,
/// because its id is the same.
#[derive(Debug, Default)]
pub struct Leftovers(Mutex<Vec<(PathBuf, Vec<u8>)>>);

impl Leftovers {
    /// Removes files that were created with these bytes and that nothing refers to.
    fn discard(&self, fs: &dyn Fs, created: Vec<(PathBuf, Vec<u8>)>) {
        for (path, head) in created.into_iter().rev() {
            if let Err(error) = remove_if_exists(fs, &path) {
                tracing::warn!(%error, "a file of a failed creation stays until the next one");
                self.0.lock().push((path, head));
            }
        }
    }

    /// Removes what is left of failed creations.
    fn remove(&self, fs: &dyn Fs) -> Result<()> {
        let mut left = self.0.lock();
        while let Some((path, head)) = left.last() {
            match read_file(fs, path, head.len() as u64) {
                Ok(found) if head.starts_with(&found) => remove_if_exists(fs, path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() != io::ErrorKind::FileTooLarge => {
                    return Err(Error::io("read", path, error));
                }
                // Another file: it stays, and the creation is refused.
                _ => {}
            }
            left.pop();
        }
        Ok(())
    }
}

impl Segment {
    /// Creates the files with their headers and the chain record. Nothing is synced. If this
    /// fails, the files created so far are removed. `StorageFull` with nothing done.
    pub fn create(context: &Arc<Context>, new: &NewSegment) -> Result<(Arc<Self>, Totals)> {
        let (fs, leftovers) = (&*context.env.fs, &context.leftovers);
        leftovers.remove(fs)?;
        let paths = SegmentPaths::for_new(&context.dirs, new.id, new.shards);
        let mut created = Vec::new();
        let segment = Self::create_files(context, new, paths, &mut created);
        if segment.is_err() {
            leftovers.discard(fs, created);
        }
        segment
    }

    fn create_files(
        context: &Arc<Context>,
        new: &NewSegment,
        paths: SegmentPaths,
        created: &mut Vec<(PathBuf, Vec<u8>)>,
    ) -> Result<(Arc<Self>, Totals)> {
        let salt = context.env.random_u64()?;
        let identity = Identity { table_id: context.table_id, segment: new.id, salt };
        let header = KeyHeader {
            identity,
            predecessor: new.chain.as_ref().map_or(SegmentId::NONE, |chain| chain.predecessor),
            created: new.now,
            shards: new.shards,
        };
        let mut head = header.encode();
        let mut encoder = Encoder {
            buffer: &mut head,
            identity,
            epoch: salt,
            running: 0,
            offset: HEADER_LEN as u64,
        };
        if let Some(chain) = &new.chain {
            encoder.chain(chain);
        }
        let (running, key_end) = (encoder.running, encoder.offset);
        let keys = create_file(context, &paths.keys, head, created)?;
        let mut values = Vec::with_capacity(paths.values.len());
        for (n, path) in paths.values.iter().enumerate() {
            let header = ValueHeader { identity, shard: ShardId(n as u16), created: new.now };
            values.push(create_file(context, path, header.encode(), created)?);
        }
        let value_ends = vec![HEADER_LEN as u64; values.len()];
        let totals = Totals { key_end, running, value_ends, ..Totals::default() };
        let segment = Self::mutable(context, paths, header, keys, values, &totals, &[]);
        for file in segment.files() {
            segment.open(file)?.mark_unsynced();
        }
        Ok((Arc::new(segment), totals))
    }

    /// Removes the files of a table's first segment, which has no records, and to which nothing
    /// refers. The next creation, or the next open, removes what remains.
    pub fn remove_files(&self) {
        let KeyHeader { identity, predecessor, created, .. } = *self.header();
        assert_eq!(predecessor, SegmentId::NONE, "a chain record follows the header of others");
        let head = |file: &DataFile| match file.shard {
            ShardId::INLINE => self.header().encode(),
            shard => ValueHeader { identity, shard, created }.encode(),
        };
        let files = self.files().map(|file| (file.handle.path().to_owned(), head(file)));
        self.context().leftovers.discard(&*self.context().env.fs, files.collect());
    }

    /// A mutable segment over open files that hold `totals`, all of it durable.
    pub fn mutable(
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
        keys: Arc<dyn File>,
        values: Vec<Arc<dyn File>>,
        totals: &Totals,
        epochs: &[(u32, u64)],
    ) -> Self {
        let mut files = std::iter::once(keys).chain(values);
        let ends = (totals.key_end, &*totals.value_ends);
        Self::assemble(context, paths, header, ends, epochs, |path, shard, end| {
            #[expect(clippy::expect_used, reason = "the caller has opened every file")]
            let handle = Handle::writing(path.to_owned(), files.next().expect("an open file"));
            context.handles.admit(&handle);
            let write_buffer = WriteBuffer::new(end, &context.env.budgets.buffers);
            DataFile::new(handle, shard, Some(write_buffer), end, end)
        })
    }
}

fn create_file(
    context: &Context,
    path: &Path,
    head: Vec<u8>,
    created: &mut Vec<(PathBuf, Vec<u8>)>,
) -> Result<Arc<dyn File>> {
    let file = context.env.fs.create_new(path).map_err(|e| Error::io("create", path, e))?;
    let written = write_all_at(&*file, &head, 0);
    created.push((path.to_owned(), head));
    written.map_err(|e| Error::failed_new_write("write", path, e))?;
    Ok(file)
}
