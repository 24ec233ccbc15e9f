//! Test harness: what a table provides to one segment after another.

use std::path::PathBuf;
use std::sync::Arc;

use lithdb_env::{Env, Result, UnixMillis};
use lithdb_segment::record::Chain;
use lithdb_segment::{
    Alias, Context, Group, HandleCache, KeyHeader, Leftovers, Metadata, NewSegment, Position,
    ReadMode, Segment, SegmentId, SegmentPaths, SegmentWriter, Verify,
};
use lithdb_sim::{SimClock, SimFs, sim_env};

/// The table's id.
pub(crate) const TABLE: u64 = 0x7ab1e;
/// The fixed time of all operations.
pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
/// Values up to this length are inline.
pub(crate) const INLINE_MAX: u32 = 64;

/// One value and the keys it was put under.
#[derive(Debug, Clone, Default)]
pub(crate) struct Put {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) aliases: Vec<(Vec<u8>, std::ops::Range<u32>)>,
}

/// A key, its record's position and the bytes it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) at: Position,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) primary: bool,
}

pub(crate) fn put(key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Put {
    Put { key: key.as_ref().to_vec(), value: value.into(), aliases: Vec::new() }
}

impl Put {
    pub(crate) fn alias(mut self, key: impl AsRef<[u8]>, range: std::ops::Range<u32>) -> Self {
        self.aliases.push((key.as_ref().to_vec(), range));
        self
    }

    fn part(&self, range: &std::ops::Range<u32>) -> &[u8] {
        &self.value[range.start as usize..range.end as usize]
    }
}

/// Pseudo-random bytes, determined by `n`.
pub(crate) fn noise(n: u64, len: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    (0..len).map(|_| step(&mut state)).collect()
}

/// The segment directories on a simulated disk: two roots.
pub(crate) fn sim_dirs(fs: &SimFs) -> Vec<PathBuf> {
    let dirs = ["/r0/t/segments", "/r1/t/segments"];
    for dir in dirs {
        fs.make_dirs(dir);
    }
    dirs.map(PathBuf::from).to_vec()
}

pub(crate) fn context(env: Env, dirs: Vec<PathBuf>, mode: ReadMode, limit: usize) -> Arc<Context> {
    Arc::new(Context {
        env,
        table_id: TABLE,
        dirs,
        read_mode: mode,
        verify: Verify::Always,
        handles: Arc::new(HandleCache::new(limit)),
        leftovers: Leftovers::default(),
    })
}

pub(crate) fn sim_context(fs: &SimFs, mode: ReadMode) -> Arc<Context> {
    context(sim_env(fs, &SimClock::new(7)), sim_dirs(fs), mode, 100)
}

pub(crate) fn create(
    context: &Arc<Context>,
    id: u32,
    shards: u16,
    chain: Option<Chain>,
) -> Result<SegmentWriter> {
    let new = NewSegment { id: SegmentId(id), chain, shards, now: NOW };
    let (segment, totals) = Segment::create(context, &new)?;
    Ok(SegmentWriter::new(segment, INLINE_MAX, totals, None))
}

/// Appends one batch, writes its large values, and returns the position of every key.
pub(crate) fn append(writer: &mut SegmentWriter, puts: &[Put]) -> Result<Vec<Placed>> {
    let aliases: Vec<Vec<Alias<'_>>> = puts
        .iter()
        .map(|put| {
            let alias = |(key, range): &'_ (Vec<u8>, std::ops::Range<u32>)| {
                (key.clone(), range.clone(), crc32c::crc32c(put.part(range)))
            };
            let all = put.aliases.iter().map(alias);
            all.zip(&put.aliases)
                .map(|((_, range, checksum), (key, _))| Alias { key, range, checksum })
                .collect()
        })
        .collect();
    let groups: Vec<Group<'_>> = puts
        .iter()
        .zip(&aliases)
        .map(|(put, aliases)| Group {
            key: &put.key,
            value: &put.value,
            checksum: crc32c::crc32c(&put.value),
            aliases,
        })
        .collect();
    let appended = writer.append(&groups, NOW)?;
    let keys = puts.iter().flat_map(|put| {
        let primary = (&put.key, &*put.value, true);
        let aliases = put.aliases.iter().map(|(key, range)| (key, put.part(range), false));
        std::iter::once(primary).chain(aliases)
    });
    let placed = keys.zip(appended.positions).map(|((key, value, primary), at)| Placed {
        at,
        key: key.clone(),
        value: value.to_vec(),
        primary,
    });
    for place in &appended.direct {
        writer.segment().write_direct(place, &puts[place.group].value)?;
    }
    Ok(placed.collect())
}

/// Opens a sealed segment from its files.
pub(crate) fn reopen(context: &Arc<Context>, id: u32, shards: u16) -> Result<Arc<Segment>> {
    let paths = SegmentPaths::for_new(&context.dirs, SegmentId(id), shards);
    let fs = &*context.env.fs;
    let metadata = Metadata::read(fs, &paths.metadata)?;
    let mut head = [0; 64];
    let file = fs.open(&paths.keys, lithdb_env::OpenMode::Read).unwrap();
    lithdb_env::read_exact_at(&*file, &mut head, 0).unwrap();
    let header = KeyHeader::decode(&paths.keys, &head)?;
    Ok(Arc::new(Segment::sealed(context, paths, header, metadata)))
}
