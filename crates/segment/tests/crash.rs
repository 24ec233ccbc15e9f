//! Crash tests of a segment that is being written: acknowledged records survive, and the scanner
//! never reports a crash as damage.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they fail"
)]

#[path = "support/harness.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod harness;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use harness::{NOW, Placed, Put, append, create, noise, put, reopen, sim_context};
use lithdb_env::{Fs, OpenMode, Result, read_up_to_at};
use lithdb_segment::scan::{Scanner, Totals, Verdict};
use lithdb_segment::{
    Context, KeyHeader, Metadata, ReadMode, SealJob, Segment, SegmentId, SegmentPaths,
    SegmentWriter, ShardId, Stamp,
};
use lithdb_sim::{CrashImage, SimFs};

/// What the program knew when it crashed.
#[derive(Default)]
struct Known {
    /// All records put, in order.
    put: Vec<Placed>,
    /// The end of each batch, mark and padding, and the number of records before it.
    batch_ends: Vec<(u64, u64)>,
    /// The acknowledged number of records, and of bytes of the key file.
    acknowledged: (usize, u64),
    /// The files were created durably.
    created: bool,
    /// The seal was acknowledged.
    sealed: bool,
}

impl Known {
    fn batch(&mut self, writer: &mut SegmentWriter, puts: &[Put]) -> Result<()> {
        // A mark and its padding may precede the batch; the batch begins at its first record.
        let before = writer.totals().records;
        let placed = append(writer, puts)?;
        self.batch_ends.push((placed[0].at.offset.into(), before));
        self.put.extend(placed);
        self.batch_ends.push((writer.totals().key_end, writer.totals().records));
        Ok(())
    }

    fn flush(&mut self, writer: &SegmentWriter) -> Result<()> {
        let capture = writer.totals().clone();
        writer.segment().make_durable(&capture)?;
        self.acknowledged = (capture.records as usize, capture.key_end);
        Ok(())
    }
}

/// Creates a segment, writes and flushes, writes again after a mark, flushes, and seals it.
fn scenario(context: &Arc<Context>, known: &mut Known) -> Result<()> {
    let mut writer = create(context, 1, 2, None)?;
    writer.segment().sync_everything()?;
    known.created = true;
    known.batch_ends.push((writer.totals().key_end, 0));

    known.batch(&mut writer, &[put("inline", "in the key file").alias("part", 0..2)])?;
    known.batch(
        &mut writer,
        &[put("small", noise(1, 700)).alias("end", 690..700), put("other", noise(2, 900))],
    )?;
    known.flush(&writer)?;

    // More is written before a flush, including large values that go to the file at once.
    writer.set_pending_mark(writer.totals().mark(NOW));
    known.batch(&mut writer, &[put("large", noise(3, 66_000))])?;
    known.batch(&mut writer, &[put(noise(4, 3_000), "long key")])?;
    known.flush(&writer)?;
    known.batch(&mut writer, &[put("behind no mark", noise(5, 1_500))])?;
    known.flush(&writer)?;

    writer.set_pending_mark(writer.totals().mark(NOW));
    known.batch(&mut writer, &[put("last", noise(6, 80))])?;
    writer.segment().make_durable(writer.totals())?;
    writer.set_pending_mark(writer.totals().mark(NOW));
    writer.append_mark(NOW)?;
    known.batch_ends.push((writer.totals().key_end, writer.totals().records));
    known.flush(&writer)?;

    let (segment, totals) = (Arc::clone(writer.segment()), writer.totals().clone());
    let sealed_at = Stamp::certain(NOW);
    SealJob { segment, totals, successor: SegmentId(2), sealed_at, successor_end: None }.run()?;
    known.sealed = true;
    Ok(())
}

fn value_of(fs: &SimFs, paths: &SegmentPaths, shard: ShardId, offset: u64, len: u32) -> Vec<u8> {
    let path = match shard {
        ShardId::INLINE => &paths.keys,
        ShardId(n) => &paths.values[usize::from(n)],
    };
    let bytes = fs.read_raw(path);
    bytes[offset as usize..][..len as usize].to_vec()
}

/// Scans the key file after the crash. Acknowledged records must be whole; others may be absent.
fn check_key_file(fs: &SimFs, known: &Known, paths: &SegmentPaths) -> Option<(Verdict, Totals)> {
    let Ok(file) = fs.open(&paths.keys, OpenMode::Read) else {
        assert!(!known.created, "the key file is lost");
        return None;
    };
    let len = file.len().unwrap();
    let mut head = [0; 64];
    let got = read_up_to_at(&*file, &mut head, 0).unwrap();
    let Ok(header) = KeyHeader::decode(&paths.keys, &head[..got]) else {
        assert!(!known.created, "the header is lost");
        return None;
    };
    let source = |offset: u64, len: usize| {
        let mut bytes = vec![0; len];
        let got = read_up_to_at(&*file, &mut bytes, offset).unwrap();
        bytes.truncate(got);
        Ok(Bytes::from(bytes))
    };
    let mut scanner = Scanner::new(source, &paths.keys, header, len);
    let mut found = Vec::new();
    let verdict = scanner.run(|entry| {
        let record = &entry.record;
        found.push((entry.offset, record.key.to_vec(), record.address(SegmentId(1))));
        Ok(())
    });
    let verdict = verdict.unwrap();
    assert!(!matches!(verdict, Verdict::Corrupt { .. }), "{verdict:?}");

    let totals = scanner.totals();
    let end = (totals.key_end, totals.records);
    let padded = known.batch_ends.windows(2).any(|pair| {
        // Between two batches there is at most a mark with its padding.
        pair[0].1 == end.1 && pair[1].1 == end.1 && (pair[0].0..=pair[1].0).contains(&end.0)
    });
    assert!(padded || known.batch_ends.contains(&end) || end == (64, 0), "{end:?} ends no batch");
    let (records, bytes) = known.acknowledged;
    assert!(totals.records >= records as u64 && totals.key_end >= bytes, "{end:?}: lost");

    for ((offset, key, address), placed) in found.iter().zip(&known.put) {
        assert_eq!((*offset, key), (placed.at.offset, &placed.key));
        assert_eq!(address.checksum, crc32c::crc32c(&placed.value));
    }
    for ((_, _, address), placed) in found.iter().zip(&known.put).take(records) {
        let value = value_of(fs, paths, address.shard, address.offset, address.len_bytes);
        assert!(value == placed.value, "the value at {} is lost", placed.at);
    }
    // The value files reach the ends in the mark, too.
    if let Some(mark) = scanner.mark() {
        for (path, end) in paths.values.iter().zip(&mark.value_ends) {
            assert!(fs.read_raw(path).len() as u64 >= *end);
        }
    }
    Some((verdict, totals.clone()))
}

/// Readable metadata matches everything it describes; an acknowledged one must exist.
fn check_seal(fs: &SimFs, known: &Known, paths: &SegmentPaths, totals: Option<&Totals>) {
    let context = sim_context(fs, ReadMode::Map);
    if !fs.file_paths().contains(&paths.metadata) {
        assert!(!known.sealed, "the metadata is lost");
        return;
    }
    let metadata = Metadata::read(&*context.env.fs, &paths.metadata).unwrap();
    let totals = totals.unwrap();
    assert_eq!((metadata.key_end, metadata.running), (totals.key_end, totals.running));
    assert_eq!(metadata.records as usize, known.put.len());
    let segment = reopen(&context, 1, 2).unwrap();
    for placed in &known.put {
        let address = segment.lookup(placed.at.offset, &placed.key).unwrap().unwrap();
        assert_eq!(segment.read_value(&address).unwrap(), placed.value.as_slice());
    }
}

fn images(unsynced: usize) -> Vec<CrashImage> {
    let mut images = vec![
        CrashImage::Nothing,
        CrashImage::Everything,
        CrashImage::LengthWithoutData,
        CrashImage::LengthWithOldBlocks,
    ];
    images.extend((0..=unsynced).map(CrashImage::Prefix));
    images.extend((0..unsynced).map(CrashImage::OnlyOne));
    images.extend((0..8).map(CrashImage::Seeded));
    images
}

/// Crashes after every operation of the scenario, with every crash image; returns how often each
/// verdict occurred.
fn crash_everywhere(short_transfers: bool) -> [usize; 3] {
    let mut seen = [0; 3];
    for n in 0.. {
        let fs = SimFs::new();
        fs.short_transfers(short_transfers);
        let context = sim_context(&fs, ReadMode::Map);
        let paths = SegmentPaths::for_new(&context.dirs, SegmentId(1), 2);
        fs.crash_after(n);
        let mut known = Known::default();
        let result = scenario(&context, &mut known);
        let unsynced = fs.unsynced_ops();
        for image in images(if short_transfers { unsynced.min(3) } else { unsynced }) {
            let after = fs.crash_with(&image);
            let label = format!("after operation {n}, {image:?}");
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let found = check_key_file(&after, &known, &paths);
                check_seal(&after, &known, &paths, found.as_ref().map(|(_, totals)| totals));
                found
            }));
            match found.unwrap_or_else(|_| panic!("{label}")) {
                None => seen[0] += 1,
                Some((Verdict::Clean, _)) => seen[1] += 1,
                Some(_) => seen[2] += 1,
            }
        }
        if result.is_ok() {
            assert!(known.sealed);
            return seen;
        }
    }
    unreachable!()
}

#[test]
fn crash_keeps_acknowledged_batches_and_is_never_corrupt() {
    let [without_header, clean, torn] = crash_everywhere(false);
    // Each outcome must occur often, or the scenario shows nothing.
    assert!(without_header > 50 && clean > 200 && torn > 20, "{without_header} {clean} {torn}");
}

#[test]
fn crash_with_short_writes_keeps_acknowledged_batches() {
    let [without_header, clean, torn] = crash_everywhere(true);
    assert!(without_header > 50 && clean > 200 && torn > 100, "{without_header} {clean} {torn}");
}

/// The scenario above flushes everything that it writes. Here full chunks of the write buffer are
/// written while nothing is acknowledged, so that sectors of many batches are in flight.
#[test]
fn chunks_written_before_a_flush_are_torn_at_a_batch() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Pread);
    let paths = SegmentPaths::for_new(&context.dirs, SegmentId(1), 2);
    let mut known = Known::default();
    let mut writer = create(&context, 1, 2, None).unwrap();
    writer.segment().sync_everything().unwrap();
    known.created = true;
    known.batch_ends.push((64, 0));
    known.batch(&mut writer, &[put("acknowledged", noise(1, 900))]).unwrap();
    known.flush(&writer).unwrap();
    writer.set_pending_mark(writer.totals().mark(NOW));
    for n in 0..5_000 {
        known.batch(&mut writer, &[put(noise(n, 500), "x").alias("alias", 0..1)]).unwrap();
        writer.segment().write_full_chunks().unwrap();
    }
    assert!(fs.unsynced_ops() >= 2, "chunks are in the file");
    let ends: Vec<u64> = (0..100)
        .map(|seed| {
            let after = fs.crash_with(&CrashImage::Seeded(seed));
            check_key_file(&after, &known, &paths).unwrap().1.key_end
        })
        .collect();
    let mut different = ends.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 5, "{different:?}");
    assert!(ends.iter().all(|end| *end >= known.acknowledged.1));
}

/// Reopening the file as a mutable segment, as recovery does, finds everything that was kept.
#[test]
fn segment_can_be_appended_to_after_a_crash() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut known = Known::default();
    let mut writer = create(&context, 1, 2, None).unwrap();
    writer.segment().sync_everything().unwrap();
    known.created = true;
    known.batch(&mut writer, &[put("kept", noise(1, 900))]).unwrap();
    known.flush(&writer).unwrap();
    known.batch(&mut writer, &[put("torn", noise(2, 900))]).unwrap();
    let lost = writer.totals().clone();
    let header = *writer.segment().header();
    let paths = writer.segment().paths().clone();
    // The torn record is in the file without its last bytes.
    writer.segment().make_durable(writer.totals()).unwrap();
    let fs = fs.crash_with(&CrashImage::Nothing);
    fs.truncate_raw(&paths.keys, lost.key_end - 1);

    let (verdict, totals) = check_key_file(&fs, &known, &paths).unwrap();
    assert_eq!(
        verdict,
        Verdict::Torn {
            offset: totals.key_end,
            reason: format!("record at {}: the file ends inside the record", totals.key_end),
        }
    );
    let context = sim_context(&fs, ReadMode::Map);
    let open = |path: &Path| context.env.fs.open(path, OpenMode::ReadWrite).unwrap();
    let keys = open(&paths.keys);
    keys.set_len(totals.key_end).unwrap();
    let values = paths.values.iter().map(|path| open(path)).collect();
    let segment = Segment::mutable(&context, paths.clone(), header, keys, values, &totals, &[]);
    let mut writer = SegmentWriter::new(Arc::new(segment), 64, totals, Some(4711));
    let mut placed = vec![known.put[0].clone()];
    placed.extend(append(&mut writer, &[put("again", noise(3, 900))]).unwrap());
    let (segment, totals) = (Arc::clone(writer.segment()), writer.totals().clone());
    let sealed_at = Stamp::certain(NOW);
    SealJob { segment, totals, successor: SegmentId(2), sealed_at, successor_end: None }
        .run()
        .unwrap();
    let reopened = reopen(&context, 1, 2).unwrap();
    assert_eq!(reopened.metadata().unwrap().epochs.len(), 1);
    for placed in placed {
        let address = reopened.lookup(placed.at.offset, &placed.key).unwrap().unwrap();
        assert_eq!(reopened.read_value(&address).unwrap(), placed.value.as_slice());
    }
}
