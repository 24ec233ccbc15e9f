//! Creates the files of a new segment.
//!
//! The caller makes them durable before anything in them is acknowledged. A failed creation leaves
//! no files.

use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Error, File, Result, UnixMillis, remove_best_effort, write_all_at};

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

impl Segment {
    /// Creates the files with their headers and the chain record. Nothing is synced. If this
    /// fails, the files created so far are removed. `StorageFull` with nothing done.
    pub fn create(context: &Arc<Context>, new: &NewSegment) -> Result<(Arc<Self>, Totals)> {
        let paths = SegmentPaths::for_new(&context.dirs, new.id, new.shards);
        let mut created = Vec::new();
        let segment = Self::create_files(context, new, &paths, &mut created);
        if segment.is_err() {
            for path in created.into_iter().rev() {
                remove_best_effort(&*context.env.fs, path);
            }
        }
        segment
    }

    fn create_files<'a>(
        context: &Arc<Context>,
        new: &NewSegment,
        paths: &'a SegmentPaths,
        created: &mut Vec<&'a Path>,
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
        let keys = create_file(context, &paths.keys, &head, created)?;
        let mut values = Vec::with_capacity(paths.values.len());
        for (n, path) in paths.values.iter().enumerate() {
            let header = ValueHeader { identity, shard: ShardId(n as u16), created: new.now };
            values.push(create_file(context, path, &header.encode(), created)?);
        }
        let value_ends = vec![HEADER_LEN as u64; values.len()];
        let totals = Totals { key_end, running, value_ends, ..Totals::default() };
        let segment = Self::mutable(context, paths.clone(), header, keys, values, &totals, &[]);
        for file in segment.files() {
            segment.open(file)?.mark_unsynced();
        }
        Ok((Arc::new(segment), totals))
    }

    /// Removes the files of a segment that nothing refers to. Best effort: the next open removes
    /// what remains.
    pub fn remove_files(&self) {
        for path in self.paths().all() {
            remove_best_effort(&*self.context().env.fs, path);
        }
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

fn create_file<'a>(
    context: &Context,
    path: &'a Path,
    head: &[u8],
    created: &mut Vec<&'a Path>,
) -> Result<Arc<dyn File>> {
    let file = context.env.fs.create_new(path).map_err(|e| Error::io("create", path, e))?;
    created.push(path);
    write_all_at(&*file, head, 0).map_err(|e| Error::failed_new_write("write", path, e))?;
    Ok(file)
}
