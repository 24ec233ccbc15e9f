//! A segment from creation to removal, on a simulated and on a real disk.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they fail"
)]

#[path = "support/harness.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use harness::{NOW, Placed, append, context, create, noise, put, reopen, sim_context, sim_dirs};
use lithdb_env::{Env, ErrorKind, Fs, OsFs};
use lithdb_segment::scan::Verdict;
use lithdb_segment::{
    Context, HandleCache, Leftovers, Metadata, NewSegment, ReadMode, SealJob, Segment, SegmentId,
    SegmentPaths, SegmentWriter, ShardId, Stamp, UnlinkPermission, Verify,
};
use lithdb_sim::{Fault, OpKind, Pages, SimClock, SimFs, sim_env};

const MODES: [ReadMode; 2] = [ReadMode::Map, ReadMode::Pread];

fn kind_of<T>(result: Result<T, lithdb_env::Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Every key is found at its position, with its value, and no other key is.
fn check(segment: &Segment, placed: &[Placed]) {
    for Placed { at, key, value, primary } in placed {
        assert_eq!(at.segment, segment.id());
        let address = segment.lookup(at.offset, key).unwrap().unwrap();
        assert_eq!(segment.read_value(&address).unwrap(), value.as_slice(), "{at}");
        segment.read_chunked(&address, &mut |_| Ok(())).unwrap();
        let (found, again, is_primary) = segment.read_key(at.offset).unwrap();
        assert_eq!((found.as_ref(), again, is_primary), (key.as_slice(), address, *primary));
        for other in [&key[1..], b"another", &[key.as_slice(), b"x"].concat(), &[b'?'; 65_535]] {
            assert_eq!(segment.lookup(at.offset, other).unwrap(), None, "{at}");
        }
    }
}

fn scanned(segment: &Arc<Segment>, end: u64) -> Vec<(u32, Vec<u8>)> {
    let mut scanner = segment.scan(end).unwrap();
    let mut found = Vec::new();
    let verdict = scanner.run(|entry| {
        found.push((entry.offset, entry.record.key.to_vec()));
        Ok(())
    });
    assert_eq!(verdict.unwrap(), Verdict::Clean);
    assert_eq!(scanner.totals().key_end, end);
    found
}

fn check_scan(writer: &SegmentWriter, placed: &[Placed]) {
    let expected: Vec<_> = placed.iter().map(|p| (p.at.offset, p.key.clone())).collect();
    assert_eq!(scanned(writer.segment(), writer.totals().key_end), expected);
}

/// Batches of each kind, and one with all kinds together.
fn fill(writer: &mut SegmentWriter, round: u64) -> Vec<Placed> {
    let name = |what: &str| format!("{what} of round {round}");
    let long_key = noise(round, 65_535);
    let batches = [
        vec![put(name("inline"), "short").alias(name("inline part"), 1..4)],
        vec![put(name("empty"), "").alias(name("nothing of it"), 0..0)],
        vec![put(name("small"), noise(round + 1, 5_000)).alias(name("small all"), 0..5_000)],
        vec![
            put(name("large"), noise(round + 2, 200_000))
                .alias(name("large end"), 199_000..200_000),
        ],
        vec![put(&long_key, noise(round + 3, 64))],
        vec![
            put(name("batch inline"), noise(round + 4, 64)).alias(name("batch part"), 60..64),
            put(name("batch large"), noise(round + 5, 65_536)),
            put(name("batch small"), noise(round + 6, 65)).alias(name("one byte"), 64..65),
            put(name("batch large 2"), noise(round + 7, 70_000)),
        ],
    ];
    batches.iter().flat_map(|batch| append(writer, batch).unwrap()).collect()
}

fn seal_job(writer: &SegmentWriter) -> SealJob {
    SealJob {
        segment: Arc::clone(writer.segment()),
        totals: writer.totals().clone(),
        successor: SegmentId(writer.segment().id().0 + 1),
        sealed_at: Stamp::certain(NOW),
        successor_end: None,
    }
}

fn sealed_with(context: &Arc<Context>, id: u32, shards: u16) -> (SegmentWriter, Vec<Placed>) {
    let mut writer = create(context, id, shards, None).unwrap();
    let placed = fill(&mut writer, u64::from(id) * 100);
    seal_job(&writer).run().unwrap();
    (writer, placed)
}

/// Reads everything at every stage of a segment's life.
fn check_whole_life(context: &Arc<Context>) {
    let mut writer = create(context, 1, 3, None).unwrap();
    let segment = Arc::clone(writer.segment());
    let mut placed = fill(&mut writer, 0);
    check(&segment, &placed);
    check_scan(&writer, &placed);
    segment.write_full_chunks().unwrap();

    segment.make_durable(writer.totals()).unwrap();
    check(&segment, &placed);
    check_scan(&writer, &placed);

    // Durable and not yet durable bytes side by side, across an epoch.
    writer.set_pending_mark(writer.totals().mark(NOW));
    let due = writer.pending_mark().cloned().unwrap();
    let totals = writer.totals().clone();
    let mut writer = SegmentWriter::new(Arc::clone(&segment), 64, totals, Some(0xe90c));
    writer.set_pending_mark(due);
    placed.extend(fill(&mut writer, 50));
    assert_eq!(writer.pending_mark(), None);
    assert_eq!(segment.epochs().iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>(), [0xe90c]);
    check(&segment, &placed);
    check_scan(&writer, &placed);
    assert_eq!(segment.key_end(), writer.totals().key_end);
    assert_eq!(segment.value_ends(), writer.totals().value_ends);

    let values: Vec<_> = placed
        .iter()
        .map(|p| {
            segment.read_value(&segment.lookup(p.at.offset, &p.key).unwrap().unwrap()).unwrap()
        })
        .collect();
    seal_job(&writer).run().unwrap();
    check(&segment, &placed);
    check_scan(&writer, &placed);

    let reopened = reopen(context, 1, 3).unwrap();
    let metadata = reopened.metadata().unwrap();
    assert_eq!(segment.metadata(), Some(metadata));
    assert_eq!(
        (metadata.key_end, metadata.records),
        (writer.totals().key_end, placed.len() as u64)
    );
    assert_eq!(metadata.running, writer.totals().running);
    assert_eq!(metadata.bytes(), writer.bytes());
    check(&reopened, &placed);
    assert_eq!(scanned(&reopened, metadata.key_end), scanned(&segment, metadata.key_end));

    // Values returned at any time are unchanged, even when files and segments are gone.
    let late: Vec<_> = placed
        .iter()
        .map(|p| {
            reopened.read_value(&reopened.lookup(p.at.offset, &p.key).unwrap().unwrap()).unwrap()
        })
        .collect();
    reopened.delete_on_drop(&UnlinkPermission::new());
    drop((reopened, writer, segment));
    let paths = SegmentPaths::for_new(&context.dirs, SegmentId(1), 3);
    for path in paths.all() {
        assert!(!lithdb_env::exists(&*context.env.fs, path).unwrap(), "{}", path.display());
    }
    for ((early, late), placed) in values.iter().zip(&late).zip(&placed) {
        assert_eq!(*early, placed.value.as_slice());
        assert_eq!(*late, placed.value.as_slice());
    }
}

#[test]
fn values_survive_flush_seal_and_reopen() {
    for mode in MODES {
        check_whole_life(&sim_context(&SimFs::new(), mode));
    }
}

#[test]
fn short_and_interrupted_transfers_change_nothing() {
    let fs = SimFs::new();
    fs.short_transfers(true);
    for mode in MODES {
        let context = sim_context(&fs, mode);
        check_whole_life(&context);
    }
}

#[test]
fn values_survive_on_a_real_disk() {
    for mode in MODES {
        let dir = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = ["a", "b"].map(|name| dir.path().join(name)).to_vec();
        for dir in &dirs {
            OsFs.create_dir(dir).unwrap();
        }
        check_whole_life(&context(Env::os(2).unwrap(), dirs, mode, 3));
    }
}

#[test]
fn readers_find_published_keys_during_writes_and_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(Env::os(2).unwrap(), vec![dir.path().to_owned()], ReadMode::Map, 8);
    let mut writer = create(&context, 1, 2, None).unwrap();
    let segment = Arc::clone(writer.segment());
    let (published, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let (capture, reads) = (Mutex::new(writer.totals().clone()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let read = |reader: usize| {
            let (segment, published, done, reads) = (&segment, &published, &done, &reads);
            scope.spawn(move || {
                let mut n = reader;
                while !done.load(Ordering::Acquire) {
                    n = n.wrapping_mul(31).wrapping_add(7);
                    let known: &Mutex<Vec<Placed>> = published;
                    let some: Vec<Placed> = {
                        let known = known.lock().unwrap();
                        // One of the newest keys, and one of all keys.
                        let len = known.len();
                        let picks = [len.saturating_sub(1 + n % 5), n % len.max(1)];
                        picks.iter().filter_map(|n| known.get(*n).cloned()).collect()
                    };
                    check(segment, &some);
                    reads.fetch_add(some.len(), Ordering::Relaxed);
                }
            })
        };
        let readers = [read(0), read(1)];
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let now = capture.lock().unwrap().clone();
                segment.make_durable(&now).unwrap();
            }
        });
        for n in 0_u64.. {
            let failed = readers.iter().any(|reader| reader.is_finished());
            if failed || n >= 4_000 && reads.load(Ordering::Relaxed) > 200 {
                break;
            }
            let len = [10, 3_000, 70_000, 0, 500][n as usize % 5];
            let key = format!("key {n}");
            let placed = append(&mut writer, &[put(key, noise(n, len))]).unwrap();
            segment.write_full_chunks().unwrap();
            published.lock().unwrap().extend(placed);
            *capture.lock().unwrap() = writer.totals().clone();
            if n % 100 == 0 {
                let capture = writer.totals().clone();
                segment.make_durable(&capture).unwrap();
                writer.set_pending_mark(capture.mark(NOW));
            }
        }
        done.store(true, Ordering::Release);
    });
    let placed = published.into_inner().unwrap();
    check_scan(&writer, &placed);
    seal_job(&writer).run().unwrap();
    check(&reopen(&context, 1, 2).unwrap(), &placed);
}

#[test]
fn values_go_to_the_emptiest_shard_and_batches_spread() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut writer = create(&context, 1, 3, None).unwrap();
    let shards = |writer: &SegmentWriter, placed: &[Placed]| -> Vec<ShardId> {
        let find = |p: &Placed| writer.segment().lookup(p.at.offset, &p.key).unwrap().unwrap();
        placed.iter().map(|p| find(p).shard).collect()
    };
    let placed = append(
        &mut writer,
        &[
            put("a", noise(1, 500)),
            put("b", noise(2, 300)),
            put("c", noise(3, 100)),
            put("d", noise(4, 100)),
        ],
    );
    assert_eq!(shards(&writer, &placed.unwrap()), [0, 1, 2, 2].map(ShardId));
    let placed = append(&mut writer, &[put("e", noise(5, 1000))]).unwrap();
    assert_eq!(shards(&writer, &placed), [ShardId(2)]);
    assert_eq!(writer.totals().value_ends, [564, 364, 1264]);
    // Both roots have shards.
    let roots: Vec<_> =
        writer.segment().paths().values.iter().map(|p| p.starts_with("/r0")).collect();
    assert_eq!(roots, [false, true, false]);
}

#[test]
fn full_disk_refuses_only_the_batch() {
    for mode in MODES {
        let fs = SimFs::new();
        let context = sim_context(&fs, mode);
        let mut writer = create(&context, 1, 2, None).unwrap();
        let segment = Arc::clone(writer.segment());
        segment.sync_everything().unwrap();
        fs.set_capacity(Some(3 << 20));
        let batches: Vec<Vec<harness::Put>> = (0..100_u64)
            .flat_map(|n| {
                let name = |what: &str| format!("{what} {n}");
                [
                    vec![put(name("large"), noise(n, 90_000))],
                    vec![put(name("small"), noise(n + 1, 9_000)).alias(name("part"), 5..7)],
                    vec![put(name("inline"), noise(n + 2, 60))],
                    vec![put(name("one"), noise(n, 50)), put(name("two"), noise(n + 3, 120_000))],
                ]
            })
            .collect();
        let (mut placed, mut refused) = (Vec::new(), Vec::new());
        for batch in &batches {
            let (before, end) = (writer.totals().clone(), segment.value_ends());
            match append(&mut writer, batch) {
                Ok(some) => placed.extend(some),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    assert_eq!(*writer.totals(), before);
                    assert_eq!((segment.key_end(), segment.value_ends()), (before.key_end, end));
                    refused.push(batch);
                }
            }
        }
        assert!(placed.len() > 30 && refused.len() > 100, "{} {}", placed.len(), refused.len());
        check(&segment, &placed);
        check_scan(&writer, &placed);
        // Accepted batches have their space.
        segment.make_durable(writer.totals()).unwrap();

        fs.set_capacity(None);
        for batch in refused {
            placed.extend(append(&mut writer, batch).unwrap());
        }
        check(&segment, &placed);
        check_scan(&writer, &placed);
        seal_job(&writer).run().unwrap();
        check(&reopen(&context, 1, 2).unwrap(), &placed);
    }
}

#[test]
fn mark_always_has_reserved_space_on_a_full_disk() {
    // Some of these lengths end close to the end of a reserved block.
    for len in (1..=4096).step_by(40) {
        let fs = SimFs::new();
        let context = sim_context(&fs, ReadMode::Pread);
        let endless = fs.free_space(Path::new("/")).unwrap();
        let mut writer = create(&context, 1, 1, None).unwrap();
        let taken = endless - fs.free_space(Path::new("/")).unwrap();
        // Room for the records, but not for reserving ahead.
        fs.set_capacity(Some(taken + 4096 * 10));
        append(&mut writer, &[put(vec![b'k'; len], "")]).unwrap();
        writer.segment().make_durable(writer.totals()).unwrap();
        writer.set_pending_mark(writer.totals().mark(NOW));
        append(&mut writer, &[put("behind a mark", "")]).unwrap();

        fs.set_capacity(Some(0));
        writer.segment().make_durable(writer.totals()).unwrap();
        writer.set_pending_mark(writer.totals().mark(NOW));
        assert!(writer.append_mark(NOW).unwrap(), "a key of {len} bytes");
        assert!(!writer.append_mark(NOW).unwrap(), "one mark per flush");
        writer.segment().make_durable(writer.totals()).unwrap();
    }
}

#[test]
fn create_on_a_full_disk_leaves_no_files() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let new = NewSegment { id: SegmentId(1), chain: None, shards: 3, now: NOW };
    let mut failures = 0;
    for blocks in 0..100 {
        fs.set_capacity(Some(blocks * 4096));
        match Segment::create(&context, &new) {
            Ok((segment, totals)) => {
                assert_eq!((segment.key_end(), totals.value_ends), (64, vec![64; 3]));
                break;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                assert_eq!(fs.file_paths(), Vec::<PathBuf>::new());
                failures += 1;
            }
        }
    }
    // Four files, each with a block for itself and one for its header, and the directories.
    assert!(failures >= 8, "{failures}");
    assert_eq!(fs.file_paths().len(), 4);
}

#[test]
fn create_never_touches_an_existing_file() {
    let paths = SegmentPaths::for_new(&sim_dirs(&SimFs::new()), SegmentId(1), 2);
    for taken in [&paths.keys, &paths.values[0], &paths.values[1]] {
        let fs = SimFs::new();
        let context = sim_context(&fs, ReadMode::Map);
        fs.write_raw(taken, b"of somebody".to_vec());
        fs.write_raw(&paths.metadata, b"of somebody, too".to_vec());
        let new = NewSegment { id: SegmentId(1), chain: None, shards: 2, now: NOW };
        assert_eq!(kind_of(Segment::create(&context, &new)), Some(ErrorKind::Io));
        assert_eq!(fs.read_raw(taken), b"of somebody");
        assert_eq!(fs.read_raw(&paths.metadata), b"of somebody, too");
        assert_eq!(fs.file_paths().len(), 2, "what was created is removed again");
    }
}

#[test]
fn leftover_of_a_failed_creation_is_removed_unless_it_was_replaced() {
    let keys = SegmentPaths::for_new(&sim_dirs(&SimFs::new()), SegmentId(1), 2).keys;
    let head_len = 64;
    for replaced in [None, Some(0), Some(10), Some(head_len), Some(head_len + 1)] {
        let fs = SimFs::new();
        let context = sim_context(&fs, ReadMode::Map);
        let new = NewSegment { id: SegmentId(1), chain: None, shards: 2, now: NOW };
        // The key file is there; neither is a value file created, nor the key file removed.
        fs.fail_op(3, Fault::Eio, true);
        assert_eq!(kind_of(Segment::create(&context, &new)), Some(ErrorKind::Io));
        assert_eq!(kind_of(Segment::create(&context, &new)), Some(ErrorKind::Io));
        fs.clear_faults();
        assert_eq!(fs.file_paths(), std::slice::from_ref(&keys));
        if let Some(len) = replaced {
            fs.write_raw(&keys, vec![b'x'; len]);
        }
        let created = Segment::create(&context, &new);
        if replaced.is_none_or(|len| len == 0) {
            assert!(created.is_ok(), "{replaced:?}: {:?}", created.err());
            assert_eq!(fs.file_paths().len(), 3);
        } else {
            assert_eq!(kind_of(created), Some(ErrorKind::Io), "{replaced:?}");
            assert_eq!(fs.read_raw(&keys), vec![b'x'; replaced.unwrap()]);
            assert_eq!(fs.file_paths(), std::slice::from_ref(&keys));
        }
    }
}

fn synced(fs: &SimFs) -> Vec<PathBuf> {
    let is_sync = |kind| matches!(kind, OpKind::SyncData | OpKind::SyncAll | OpKind::SyncDir);
    let mut paths: Vec<_> =
        fs.take_trace().into_iter().filter(|op| is_sync(op.kind)).map(|op| op.path).collect();
    paths.sort();
    paths
}

#[test]
fn only_dirty_files_are_synced_and_only_once() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut writer = create(&context, 1, 2, None).unwrap();
    let segment = Arc::clone(writer.segment());
    let paths = segment.paths().clone();
    assert_eq!(synced(&fs), Vec::<PathBuf>::new(), "creating syncs nothing");
    segment.sync_everything().unwrap();
    let mut all: Vec<PathBuf> = paths.values.iter().chain([&paths.keys]).cloned().collect();
    all.extend(paths.dirs());
    all.sort();
    assert_eq!(synced(&fs), all);

    let flush = |writer: &SegmentWriter| {
        segment.make_durable(writer.totals()).unwrap();
        synced(&fs)
    };
    assert_eq!(flush(&writer), Vec::<PathBuf>::new());
    append(&mut writer, &[put("inline", "x")]).unwrap();
    assert_eq!(flush(&writer), std::slice::from_ref(&paths.keys));
    assert_eq!(flush(&writer), Vec::<PathBuf>::new());
    append(&mut writer, &[put("small", noise(1, 1000))]).unwrap();
    assert_eq!(flush(&writer), [paths.keys.clone(), paths.values[0].clone()]);
    append(&mut writer, &[put("large", noise(1, 100_000))]).unwrap();
    let mut both = [paths.keys.clone(), paths.values[1].clone()];
    both.sort();
    assert_eq!(flush(&writer), both);
    writer.set_pending_mark(writer.totals().mark(NOW));
    assert!(writer.append_mark(NOW).unwrap());
    assert_eq!(flush(&writer), [paths.keys]);
    assert_eq!(flush(&writer), Vec::<PathBuf>::new());
}

#[test]
fn earlier_capture_is_durable_without_later_appends() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut writer = create(&context, 1, 1, None).unwrap();
    let segment = Arc::clone(writer.segment());
    let first = append(&mut writer, &[put("a", noise(1, 1000))]).unwrap();
    let capture = writer.totals().clone();
    let second = append(&mut writer, &[put("b", noise(2, 1000))]).unwrap();
    segment.make_durable(&capture).unwrap();
    fs.take_trace();
    segment.make_durable(&capture).unwrap();
    assert_eq!(synced(&fs), Vec::<PathBuf>::new());
    segment.make_durable(writer.totals()).unwrap();
    assert_eq!(synced(&fs).len(), 2, "the later records are not durable by the earlier flush");
    check(&segment, &first);
    check(&segment, &second);
}

#[test]
fn failed_sync_makes_nothing_durable() {
    for fault in [Fault::Eio, Fault::FailedSync { pages: Pages::Lost }] {
        let fs = SimFs::new();
        let context = sim_context(&fs, ReadMode::Map);
        let mut writer = create(&context, 1, 1, None).unwrap();
        let segment = Arc::clone(writer.segment());
        append(&mut writer, &[put("a", noise(1, 1000))]).unwrap();
        fs.take_trace();
        // The first file's write, then its sync.
        fs.fail_op(2, fault, false);
        let error = segment.make_durable(writer.totals()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("sync /r"), "{error}");
        assert_eq!(fs.faults_hit(), 1);
        fs.take_trace();
        // The system reports the failure once; here every later sync of that file returns it: a
        // sync that finds nothing to write must not make durable what the failed one did not
        // write.
        let again = segment.make_durable(writer.totals()).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert!(segment.durable_bytes() < writer.bytes());
    }
}

#[test]
fn seal_retries_after_a_full_disk() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut writer = create(&context, 1, 2, None).unwrap();
    let segment = Arc::clone(writer.segment());
    let placed = fill(&mut writer, 0);
    let job = seal_job(&writer);
    fs.set_capacity(Some(0));
    for _ in 0..2 {
        assert_eq!(kind_of(job.run()), Some(ErrorKind::StorageFull));
        assert_eq!(segment.metadata(), None);
        assert_eq!(fs.file_paths().len(), 3, "neither metadata nor a leftover of it");
        check(&segment, &placed);
    }
    fs.set_capacity(None);
    job.run().unwrap();
    check(&segment, &placed);
    check(&reopen(&context, 1, 2).unwrap(), &placed);

    // The same at every single operation.
    for n in 1.. {
        let fs = SimFs::new();
        let context = sim_context(&fs, ReadMode::Map);
        let mut writer = create(&context, 1, 2, None).unwrap();
        let placed = fill(&mut writer, n);
        writer.segment().make_durable(writer.totals()).unwrap();
        fs.fail_op(n, Fault::NoSpace, false);
        let job = seal_job(&writer);
        if job.run().is_ok() {
            assert!(n > 5, "{n} operations");
            break;
        }
        job.run().unwrap();
        check(&reopen(&context, 1, 2).unwrap(), &placed);
    }
}

#[test]
fn seal_trims_reserved_space() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let free = fs.free_space(Path::new("/")).unwrap();
    let mut writer = create(&context, 1, 1, None).unwrap();
    append(&mut writer, &[put("k", noise(1, 1000))]).unwrap();
    let taken = free - fs.free_space(Path::new("/")).unwrap();
    assert!(taken > 2 * (256 << 10), "space is reserved ahead");
    seal_job(&writer).run().unwrap();
    assert_eq!(fs.read_raw(&writer.segment().paths().keys).len() as u64, writer.totals().key_end);
    let taken = free - fs.free_space(Path::new("/")).unwrap();
    assert_eq!(
        taken,
        3 * 2 * 4096,
        "key file, value file and metadata: a block each, and for themselves"
    );
}

#[test]
fn digest_covers_every_byte_of_the_key_file() {
    // The same clock and random numbers, so that only the put differs.
    let digest = |key: &str, value: &[u8]| {
        let fs = SimFs::new();
        let context = sim_context(&fs, ReadMode::Pread);
        let mut writer = create(&context, 1, 1, None).unwrap();
        append(&mut writer, &[put(key, value)]).unwrap();
        seal_job(&writer).run().unwrap();
        let bytes = fs.read_raw(&writer.segment().paths().keys);
        let digest = writer.segment().metadata().unwrap().digest.unwrap();
        assert_eq!(digest, xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes());
        digest
    };
    let large = noise(1, 100_000);
    let mut other = large.clone();
    other[99_999] ^= 1;
    assert_eq!(digest("key", &large), digest("key", &large));
    assert_ne!(digest("key", &large), digest("kez", &large));
    assert_ne!(digest("key", &large), digest("key", &other), "values count by their checksums");
}

#[test]
fn digest_in_pieces_equals_digest_of_the_whole() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut writer = create(&context, 1, 1, None).unwrap();
    for n in 0..40 {
        append(&mut writer, &[put(noise(n, 65_535), "")]).unwrap();
    }
    seal_job(&writer).run().unwrap();
    let bytes = fs.read_raw(&writer.segment().paths().keys);
    assert!(bytes.len() > 2 << 20);
    let digest = writer.segment().metadata().unwrap().digest.unwrap();
    assert_eq!(digest, xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes());
}

#[test]
fn delete_on_drop_removes_files_with_the_last_holder() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let (writer, placed) = sealed_with(&context, 1, 2);
    let segment = Arc::clone(writer.segment());
    drop(writer);
    let holder = Arc::clone(&segment);
    segment.delete_on_drop(&UnlinkPermission::new());
    drop(segment);
    assert_eq!(fs.file_paths().len(), 4);
    check(&holder, &placed);
    let address = holder.lookup(placed[0].at.offset, &placed[0].key).unwrap().unwrap();
    let value = holder.read_value(&address).unwrap();
    // The key file is removed last: while it exists, the others are known to belong to a segment.
    fs.take_trace();
    let keys = holder.paths().keys.clone();
    drop(holder);
    let removed: Vec<_> = fs.take_trace().into_iter().map(|op| (op.kind, op.path)).collect();
    assert_eq!(removed.len(), 4);
    assert_eq!(removed[3], (OpKind::RemoveFile, keys));
    assert_eq!(fs.file_paths(), Vec::<PathBuf>::new());
    assert_eq!(value, placed[0].value.as_slice());
}

#[test]
fn delete_on_drop_keeps_files_after_table_close() {
    let fs = SimFs::new();
    let (writer, _) = sealed_with(&sim_context(&fs, ReadMode::Map), 1, 2);
    let right = UnlinkPermission::new();
    writer.segment().delete_on_drop(&right);
    right.revoke();
    drop(writer);
    assert_eq!(fs.file_paths().len(), 4);
}

#[test]
fn files_stay_without_delete_on_drop() {
    let fs = SimFs::new();
    let (writer, _) = sealed_with(&sim_context(&fs, ReadMode::Map), 1, 2);
    drop(writer);
    assert_eq!(fs.file_paths().len(), 4);
}

#[test]
fn open_files_stay_below_the_limit_and_remain_readable() {
    for mode in MODES {
        let fs = SimFs::new();
        let dirs = sim_dirs(&fs);
        let context = context(sim_env(&fs, &SimClock::new(7)), dirs, mode, 4);
        let mut all = Vec::new();
        for id in 1..=50 {
            let mut writer = create(&context, id, 1, None).unwrap();
            let placed = append(
                &mut writer,
                &[
                    put(format!("small {id}"), noise(id.into(), 3_000)),
                    put("inline", format!("{id}")),
                ],
            );
            assert!(context.handles.open_files() <= 4);
            seal_job(&writer).run().unwrap();
            assert!(context.handles.open_files() <= 4);
            all.push((Arc::clone(writer.segment()), placed.unwrap()));
        }
        for step in [1, 7, 49] {
            for n in 0..50 {
                let (segment, placed) = &all[n * step % 50];
                check(segment, placed);
                assert!(context.handles.open_files() <= 4);
            }
        }
        assert!(context.handles.open_files() > 0);
        // The newest is not closed at once: reading it twice opens nothing.
        let (segment, placed) = &all[49 * 49 % 50];
        check(segment, placed);
        fs.fail_reads_from(1, Fault::TooManyFiles);
        check(segment, placed);
        fs.clear_faults();
        drop(all);
        assert_eq!(context.handles.open_files(), 0);
    }
}

#[test]
fn limit_of_zero_is_a_limit_of_one() {
    let fs = SimFs::new();
    let dirs = sim_dirs(&fs);
    let context = context(sim_env(&fs, &SimClock::new(7)), dirs, ReadMode::Map, 0);
    let mut writer = create(&context, 1, 3, None).unwrap();
    writer.segment().sync_everything().unwrap(); // unsynced files stay open
    let placed = append(&mut writer, &[put("small", noise(1, 3_000))]).unwrap();
    seal_job(&writer).run().unwrap();
    check(writer.segment(), &placed);
    assert_eq!(context.handles.open_files(), 1);
}

/// A reopened sealed segment with no file open yet.
fn sealed_harness(mode: ReadMode) -> (SimFs, Arc<Context>, SegmentPaths, Vec<Placed>) {
    let fs = SimFs::new();
    let context = sim_context(&fs, mode);
    let (writer, placed) = sealed_with(&context, 1, 2);
    let paths = writer.segment().paths().clone();
    (fs, context, paths, placed)
}

fn find<'a>(placed: &'a [Placed], key: &str) -> &'a Placed {
    placed.iter().find(|p| p.key == key.as_bytes()).unwrap()
}

#[test]
fn value_file_of_other_shard_table_or_salt_is_foreign() {
    for mode in MODES {
        let (fs, context, paths, placed) = sealed_harness(mode);
        let reopened = reopen(&context, 1, 2).unwrap();
        let small = find(&placed, "small of round 100");
        let address = reopened.lookup(small.at.offset, &small.key).unwrap().unwrap();
        assert_eq!(address.shard, ShardId(0));

        let (right, wrong) = (fs.read_raw(&paths.values[0]), fs.read_raw(&paths.values[1]));
        let mut swapped = wrong;
        swapped.resize(right.len().max(swapped.len()), 0);
        fs.write_raw(&paths.values[0], swapped);
        let error = reopened.read_value(&address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign);
        let path = paths.values[0].display().to_string();
        assert!(error.to_string().contains(&path), "{error}");

        // The same shard of the same segment with another salt.
        let other_fs = SimFs::new();
        let other =
            harness::context(sim_env(&other_fs, &SimClock::new(8)), sim_dirs(&other_fs), mode, 9);
        let (_other, _) = sealed_with(&other, 1, 2);
        fs.write_raw(&paths.values[0], other_fs.read_raw(&paths.values[0]));
        assert_eq!(kind_of(reopened.read_value(&address)), Some(ErrorKind::Foreign));
        fs.write_raw(&paths.keys, other_fs.read_raw(&paths.keys));
        let again = Segment::sealed(
            &context,
            paths.clone(),
            *reopened.header(),
            reopened.metadata().unwrap().clone(),
        );
        assert_eq!(kind_of(again.read_key(small.at.offset)), Some(ErrorKind::Foreign));

        // Nothing of the wrong file was cached.
        fs.write_raw(&paths.values[0], right);
        assert_eq!(reopened.read_value(&address).unwrap(), small.value.as_slice());
    }
}

#[test]
fn short_or_missing_file_is_named_in_the_error() {
    for mode in MODES {
        let (fs, context, paths, placed) = sealed_harness(mode);
        let small = find(&placed, "small of round 100");
        let reopened = reopen(&context, 1, 2).unwrap();
        let address = reopened.lookup(small.at.offset, &small.key).unwrap().unwrap();
        let len = fs.read_raw(&paths.values[0]).len() as u64;
        for short in [len - 1, 64, 63, 0] {
            fs.truncate_raw(&paths.values[0], short);
            let error = reopened.read_value(&address).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let says =
                format!("{} at offset {short}: expected at least {len}", paths.values[0].display());
            assert!(error.to_string().contains(&says), "{error}");
        }
        fs.remove_raw(&paths.values[0]);
        assert_eq!(kind_of(reopened.read_value(&address)), Some(ErrorKind::Missing));

        let again = reopen(&context, 1, 2).unwrap();
        let len = fs.read_raw(&paths.keys).len() as u64;
        fs.truncate_raw(&paths.keys, len - 1);
        assert_eq!(kind_of(again.lookup(small.at.offset, &small.key)), Some(ErrorKind::Corrupt));
        fs.remove_raw(&paths.keys);
        assert_eq!(kind_of(again.lookup(small.at.offset, &small.key)), Some(ErrorKind::Missing));
    }
}

#[test]
fn file_truncated_while_open_is_named_in_the_error() {
    for mode in MODES {
        let (fs, context, paths, placed) = sealed_harness(mode);
        let small = find(&placed, "small of round 100");
        let reopened = reopen(&context, 1, 2).unwrap();
        let address = reopened.lookup(small.at.offset, &small.key).unwrap().unwrap();
        // Another value's read opens and maps the file.
        let first = lithdb_segment::Address { offset: 64, len_bytes: 1, ..address };
        assert_eq!(kind_of(reopened.read_value(&first)), Some(ErrorKind::Corrupt));
        let path = &paths.values[usize::from(address.shard.0)];
        fs.truncate_raw(path, address.offset);
        let error = reopened.read_value(&address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{mode:?}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{mode:?}: {error}");
        let expected = format!("expected {} bytes", address.len_bytes);
        assert!(error.to_string().contains(&expected), "{mode:?}: {error}");
    }
}

#[test]
fn bytes_after_the_sealed_end_are_ignored() {
    for mode in MODES {
        let (fs, context, paths, placed) = sealed_harness(mode);
        for path in paths.values.iter().chain([&paths.keys]) {
            let mut bytes = fs.read_raw(path);
            bytes.extend(noise(5, 5_000));
            fs.write_raw(path, bytes);
        }
        let reopened = reopen(&context, 1, 2).unwrap();
        check(&reopened, &placed);
        let end = reopened.key_end();
        assert_eq!(scanned(&reopened, end).len(), placed.len());
        // None of these bytes is returned.
        let address = reopened.lookup(placed[0].at.offset, &placed[0].key).unwrap().unwrap();
        let beyond = lithdb_segment::Address { offset: end - 1, len_bytes: 2, ..address };
        assert_eq!(kind_of(reopened.read_value(&beyond)), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(reopened.lookup(end as u32, b"k")), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(reopened.read_key(u32::MAX)), Some(ErrorKind::Corrupt));
    }
}

#[test]
fn flipped_value_bit_is_corrupt_with_file_and_offset() {
    for mode in MODES {
        let (fs, context, paths, placed) = sealed_harness(mode);
        let reopened = reopen(&context, 1, 2).unwrap();
        for key in ["small of round 100", "inline of round 100", "large of round 100"] {
            let placed = find(&placed, key);
            let address = reopened.lookup(placed.at.offset, &placed.key).unwrap().unwrap();
            let path = match address.shard {
                ShardId::INLINE => &paths.keys,
                ShardId(n) => &paths.values[usize::from(n)],
            };
            let last = u64::from(address.len_bytes) - 1;
            for at in [0, 1, last / 2, last] {
                fs.flip_bit(path, address.offset + at, 5);
                let error = reopened.read_value(&address).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                let says = format!("{} at offset {}", path.display(), address.offset);
                assert!(error.to_string().contains(&says), "{error}");
                assert_eq!(
                    kind_of(reopened.read_chunked(&address, &mut |_| Ok(()))),
                    Some(ErrorKind::Corrupt)
                );
                fs.flip_bit(path, address.offset + at, 5);
            }
            assert_eq!(reopened.read_value(&address).unwrap(), placed.value.as_slice());
        }
    }
}

#[test]
fn verify_never_skips_value_checksums_but_not_key_checksums() {
    let (fs, checked, paths, placed) = sealed_harness(ReadMode::Map);
    let context = Arc::new(Context {
        env: checked.env.clone(),
        table_id: checked.table_id,
        dirs: checked.dirs.clone(),
        read_mode: ReadMode::Map,
        verify: Verify::Never,
        handles: Arc::new(HandleCache::new(9)),
        leftovers: Leftovers::default(),
    });
    let reopened = reopen(&context, 1, 2).unwrap();
    let placed = find(&placed, "small of round 100");
    let address = reopened.lookup(placed.at.offset, &placed.key).unwrap().unwrap();
    fs.flip_bit(&paths.values[0], address.offset, 0);
    let mut flipped = placed.value.clone();
    flipped[0] ^= 1;
    assert_eq!(reopened.read_value(&address).unwrap(), flipped.as_slice());
    assert_eq!(kind_of(reopened.read_chunked(&address, &mut |_| Ok(()))), Some(ErrorKind::Corrupt));
    fs.flip_bit(&paths.keys, u64::from(placed.at.offset) + 33, 0);
    assert_eq!(kind_of(reopened.lookup(placed.at.offset, &placed.key)), Some(ErrorKind::Corrupt));
}

#[test]
fn flipped_key_record_bit_never_makes_its_key_absent() {
    for mode in MODES {
        let (fs, context, paths, placed) = sealed_harness(mode);
        let reopened = reopen(&context, 1, 2).unwrap();
        for key in ["inline of round 100", "inline part of round 100", "one byte of round 100"] {
            let placed = find(&placed, key);
            let record = u64::from(placed.at.offset);
            for at in 0..32 + key.len() as u64 {
                for bit in 0..8 {
                    fs.flip_bit(&paths.keys, record + at, bit);
                    for asked in [key.as_bytes(), b"another", b"k"] {
                        let error = reopened.lookup(placed.at.offset, asked).unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at} bit {bit}");
                        let says = format!("{} at offset {record}", paths.keys.display());
                        assert!(error.to_string().contains(&says), "{error}");
                    }
                    let read = reopened.read_key(placed.at.offset);
                    assert_eq!(kind_of(read), Some(ErrorKind::Corrupt), "byte {at} bit {bit}");
                    fs.flip_bit(&paths.keys, record + at, bit);
                }
            }
        }
        check(&reopened, &placed);
    }
}

#[test]
fn position_without_a_record_is_corrupt() {
    let (_fs, context, _paths, placed) = sealed_harness(ReadMode::Map);
    let reopened = reopen(&context, 1, 2).unwrap();
    let starts: Vec<u32> = placed.iter().map(|p| p.at.offset).collect();
    for offset in (0..400).filter(|offset| !starts.contains(offset)) {
        assert_eq!(kind_of(reopened.lookup(offset, b"k")), Some(ErrorKind::Corrupt), "{offset}");
        assert_eq!(kind_of(reopened.read_key(offset)), Some(ErrorKind::Corrupt), "{offset}");
    }
    let address = reopened.lookup(starts[0], &placed[0].key).unwrap().unwrap();
    let nowhere = lithdb_segment::Address { shard: ShardId(2), ..address };
    assert_eq!(kind_of(reopened.read_value(&nowhere)), Some(ErrorKind::Corrupt));
    let absurd = lithdb_segment::Address { offset: u64::MAX, ..address };
    assert_eq!(kind_of(reopened.read_value(&absurd)), Some(ErrorKind::Corrupt));
}

#[test]
fn a_damaged_header_is_found_when_the_file_is_opened() {
    for bit in [0, 8 * 24, 8 * 40, 8 * 48, 8 * 60] {
        let (fs, context, paths, placed) = sealed_harness(ReadMode::Map);
        let reopened = reopen(&context, 1, 2).unwrap();
        let small = find(&placed, "small of round 100");
        let address = reopened.lookup(small.at.offset, &small.key).unwrap().unwrap();
        fs.flip_bit(&paths.values[0], bit / 8, (bit % 8) as u8);
        assert_eq!(kind_of(reopened.read_value(&address)), Some(ErrorKind::Corrupt));
        let again = reopen(&context, 1, 2).unwrap();
        fs.flip_bit(&paths.keys, bit / 8, (bit % 8) as u8);
        assert_eq!(kind_of(again.read_key(small.at.offset)), Some(ErrorKind::Corrupt));
    }
}

#[test]
fn a_flipped_bit_of_the_metadata_is_corrupt() {
    let (fs, context, paths, _) = sealed_harness(ReadMode::Map);
    let len = fs.read_raw(&paths.metadata).len() as u64;
    for at in 0..len {
        fs.flip_bit(&paths.metadata, at, 2);
        let read = Metadata::read(&*context.env.fs, &paths.metadata);
        assert_eq!(kind_of(read), Some(ErrorKind::Corrupt), "byte {at}");
        fs.flip_bit(&paths.metadata, at, 2);
    }
}

#[test]
fn device_read_error_is_returned_and_a_retry_may_succeed() {
    let (fs, context, _, placed) = sealed_harness(ReadMode::Pread);
    let reopened = reopen(&context, 1, 2).unwrap();
    let (at, key) = (placed[0].at.offset, &placed[0].key);
    for n in 1..=3 {
        fs.fail_read(n, Fault::Eio);
        let mut failures = 0;
        for _ in 0..4 {
            match reopened.lookup(at, key) {
                Ok(found) => assert!(found.is_some()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io);
                    failures += 1;
                }
            }
        }
        assert_eq!(failures, 1);
    }
}

#[test]
fn unsealed_segment_is_read_up_to_the_captured_ends() {
    for mode in MODES {
        let fs = SimFs::new();
        let context = sim_context(&fs, mode);
        let mut writer = create(&context, 1, 2, None).unwrap();
        let segment = Arc::clone(writer.segment());
        let mut placed = fill(&mut writer, 0);
        segment.make_durable(writer.totals()).unwrap();
        let durable = writer.totals().clone();
        writer.set_pending_mark(writer.totals().mark(NOW));
        placed.extend(fill(&mut writer, 50));
        segment.make_durable(writer.totals()).unwrap();
        let ends = writer.totals().clone();
        let seen = Segment::unsealed_for_reader(
            &context,
            segment.paths().clone(),
            *segment.header(),
            (ends.key_end, &ends.value_ends),
            (durable.key_end, &durable.value_ends),
            &segment.epochs(),
        );
        let later = append(&mut writer, &[put("later", noise(1, 1000))]).unwrap();
        segment.make_durable(writer.totals()).unwrap();
        check(&seen, &placed);
        assert_eq!(kind_of(seen.lookup(later[0].at.offset, b"later")), Some(ErrorKind::Corrupt));
        assert!(seen.metadata().is_none());
    }
}
