//! Crash tests of the roots: creation, renewal and repair, interrupted after every operation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lithdb_env::{Env, ErrorKind, Fs};
use lithdb_sim::{CrashImage, Fault, Pages, SimClock, SimFs, sim_env};

use super::root_id::RootId;
use super::*;

fn paths(count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| PathBuf::from(format!("/disks/{n}/db"))).collect()
}

fn harness(fs: &SimFs, seed: u64) -> Env {
    sim_env(fs, &SimClock::new(seed))
}

fn images(fs: &SimFs, all: bool) -> Vec<CrashImage> {
    let unsynced = if all { fs.unsynced_ops() } else { 0 };
    let mut images = vec![
        CrashImage::Nothing,
        CrashImage::Everything,
        CrashImage::LengthWithoutData,
        CrashImage::LengthWithOldBlocks,
    ];
    images.extend((0..unsynced).map(CrashImage::Prefix));
    images.extend((0..unsynced).map(CrashImage::OnlyOne));
    images.extend((0..if all { 10 } else { 2 }).map(CrashImage::Seeded));
    images
}

/// Asserts that `roots` are one database, complete on every root, in this order.
fn assert_whole(fs: &SimFs, roots: &[PathBuf], database_id: u64) {
    let read = |root: &PathBuf| RootId::read(fs, root, Access::Write).unwrap().unwrap();
    let ids: Vec<RootId> = roots.iter().map(read).collect();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!((id.sequence, id.token), (ids[0].sequence, ids[0].token));
        assert!(id.is_complete() && !id.is_renewing());
        assert_eq!((usize::from(id.number), id.database_id), (number, database_id));
        assert_eq!((&id.root_ids, id.root_ids.len()), (&ids[0].root_ids, roots.len()));
    }
    for path in fs.file_paths() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(["lith.lock", "root.id"].contains(&name.as_str()), "{path:?}");
    }
}

/// Asserts that the crash outcome of a creation opens as the whole database or is created again.
fn assert_recovers(fs: &SimFs, roots: &[PathBuf], acknowledged: Option<u64>, what: &str) {
    let reading = Roots::open_for_reading(&harness(&fs.fork(), 2), roots);
    let without = Roots::open_for_writing(&harness(&fs.fork(), 3), roots, false);
    let with = Roots::open_for_writing(&harness(fs, 4), roots, true).expect(what);
    assert_whole(fs, roots, with.database_id());
    assert_eq!(with.paths(), roots);
    if let Some(id) = acknowledged {
        assert_eq!((with.database_id(), with.created()), (id, false), "{what}");
    }
    for opened in [reading, without] {
        match opened {
            Ok(opened) => assert_eq!(opened.database_id(), with.database_id(), "{what}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Missing, "{what}: {error}");
                assert!(with.created(), "{what}: only a missing database is created");
            }
        }
    }
}

/// Crashes the opening of copies of `fs` after every operation, with every simple crash image;
/// then, `depth` times, crashes the opening of the outcome, with a few images.
fn crash_everywhere(
    fs: &SimFs,
    roots: &[PathBuf],
    acknowledged: Option<u64>,
    (depth, all): (u32, bool),
    what: &str,
) -> u64 {
    let mut cases = 0;
    for n in 0.. {
        let run = fs.fork();
        run.crash_after(n);
        let opened = Roots::open_for_writing(&harness(&run, 5), roots, true);
        let acknowledged = opened.as_ref().map_or(acknowledged, |o| Some(o.database_id()));
        for image in images(&run, all) {
            let what = format!("{what}, crash after {n} of {}, {image:?}", roots.len());
            let after = run.crash_with(&image);
            if depth > 0 {
                cases += crash_everywhere(&after, roots, acknowledged, (depth - 1, false), &what);
            }
            assert_recovers(&after, roots, acknowledged, &what);
            cases += 1;
        }
        if opened.is_ok() {
            return cases;
        }
    }
    unreachable!("it ends when nothing crashed")
}

#[test]
fn crashed_creation_is_complete_or_restarts() {
    assert!(crash_everywhere(&SimFs::new(), &paths(1), None, (1, true), "new") > 1_000);
    assert!(crash_everywhere(&SimFs::new(), &paths(3), None, (0, true), "new") > 1_000);
}

#[test]
fn restarted_creation_with_reordered_roots_survives_crashes() {
    let (mut roots, mut seen) = (paths(3), BTreeSet::new());
    for n in 0..60 {
        let fs = SimFs::new();
        fs.crash_after(n);
        let opened = Roots::open_for_writing(&harness(&fs, 1), &roots, true);
        let after = fs.crash_with(&CrashImage::Everything);
        if opened.is_ok() || Roots::open_for_reading(&harness(&after.fork(), 2), &roots).is_ok() {
            continue; // the numbers are given: the other order would show them, not change them
        }
        let files = after.file_paths().into_iter().map(|path| (after.read_raw(&path), path));
        if !seen.insert(files.collect::<Vec<_>>()) {
            continue; // this state was crashed already
        }
        roots.rotate_left(1);
        assert!(crash_everywhere(&after, &roots, None, (0, false), "restarted") > 50);
    }
}

#[test]
fn existing_database_survives_crashes_of_every_opening() {
    for count in [1, 3] {
        let (fs, roots) = (SimFs::new(), paths(count));
        let id = Roots::open_for_writing(&harness(&fs, 1), &roots, true).unwrap().database_id();
        fs.write_raw(roots[count - 1].join("root.id.new"), b"left over".to_vec());
        crash_everywhere(&fs, &roots, Some(id), (u32::from(count == 1), true), "old");
        let completing = fs.fork();
        for root in roots.iter().filter(|_| count > 1) {
            let id = RootId::read(&fs, root, Access::Write).unwrap().unwrap();
            super::tests::as_interrupted(id).create(&completing, root).unwrap();
        }
        crash_everywhere(&completing, &roots, Some(id), (0, true), "to be completed");
    }
    // An interrupted renewal, interrupted again.
    let (fs, roots) = (SimFs::new(), paths(2));
    let id = Roots::open_for_writing(&harness(&fs, 1), &roots, true).unwrap().database_id();
    crash_everywhere(&fs, &roots, Some(id), (1, false), "renewed twice");
}

#[test]
fn page_cache_left_by_failed_creation_is_not_trusted() {
    let faults = [
        Fault::Eio,
        Fault::NoSpace,
        Fault::FailedSync { pages: Pages::Lost },
        Fault::FailedSync { pages: Pages::PartlyLost },
        Fault::ShortWrite,
        Fault::TooManyFiles,
    ];
    let roots = paths(3);
    for (fault, n) in faults.iter().flat_map(|fault| (1..70).map(move |n| (*fault, n))) {
        for sticky in [false, true] {
            let fs = SimFs::new();
            fs.fail_op(n, fault, sticky);
            let first = Roots::open_for_writing(&harness(&fs, 1), &roots, true);
            let first = first.map(|roots| roots.database_id());
            fs.clear_faults();
            let what = format!("{fault:?} at {n}, sticky {sticky}: {first:?}");
            let second = Roots::open_for_writing(&harness(&fs, 2), &roots, true).expect(&what);
            let id = second.database_id();
            if let Ok(first) = first {
                assert_eq!(first, id, "{what}");
            }
            let after = fs.crash_with(&CrashImage::Nothing);
            assert_recovers(&after, &roots, Some(id), &what);
        }
    }
}

#[test]
fn failed_read_refuses_opening_and_can_be_retried() {
    let (fs, roots) = (SimFs::new(), paths(3));
    let id = Roots::open_for_writing(&harness(&fs, 1), &roots, true).unwrap().database_id();
    for n in 1.. {
        let run = fs.fork();
        run.fail_read(n, Fault::Eio);
        let opened = Roots::open_for_writing(&harness(&run, 2), &roots, true);
        match opened {
            Ok(opened) => {
                assert_eq!(opened.database_id(), id);
                if run.faults_hit() == 0 {
                    return;
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                run.clear_faults();
                let again = Roots::open_for_writing(&harness(&run, 3), &roots, true).unwrap();
                assert_eq!((again.database_id(), again.created()), (id, false));
            }
        }
    }
}

#[test]
fn full_disk_does_not_block_opening() {
    let (fs, roots) = (SimFs::new(), paths(2));
    let id = Roots::open_for_writing(&harness(&fs, 1), &roots, true).unwrap().database_id();
    fs.write_raw(roots[0].join("lith.lock"), vec![]);
    fs.set_capacity(Some(0));
    assert!(fs.create_dir(Path::new("/more")).is_err(), "the disk is full");
    let opened = Roots::open_for_writing(&harness(&fs, 2), &roots, false).unwrap();
    assert_eq!(opened.database_id(), id);
}

/// All bits of the envelope, and some of the zeros after it.
fn flips() -> Vec<(u64, u8)> {
    let at = (0..120).chain((120..4096).step_by(497));
    at.flat_map(|at| (0..8).map(move |bit| (at, bit))).collect()
}

#[test]
fn damaged_root_id_never_becomes_a_new_database() {
    for count in [1, 3] {
        let (fs, roots) = (SimFs::new(), paths(count));
        drop(Roots::open_for_writing(&harness(&fs, 1), &roots, true).unwrap());
        for root in &roots {
            let path = root.join("root.id");
            let good = fs.read_raw(&path);
            let refuses = |what: String| {
                let before = fs.read_raw(&path);
                let error = Roots::open_for_writing(&harness(&fs, 2), &roots, true).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                let error = Roots::open_for_reading(&harness(&fs, 2), &roots).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                assert_eq!(fs.read_raw(&path), before);
                fs.write_raw(&path, good.clone());
            };
            for (at, bit) in flips() {
                // One valid slot suffices.
                fs.flip_bit(&path, at, bit);
                drop(Roots::open_for_reading(&harness(&fs, 2), &roots).unwrap());
                fs.flip_bit(&path, at + 4096, bit);
                refuses(format!("bit {bit} of byte {at} in both slots"));
            }
            let lens = (0..good.len()).step_by(511).chain([1, 4095, 4097, 8191, 8193, 8195]);
            for len in lens {
                fs.truncate_raw(&path, len as u64);
                refuses(format!("length {len}"));
            }
            fs.truncate_raw(&path, 2 << 20);
            refuses("two MiB".to_owned());
        }
        assert!(Roots::open_for_writing(&harness(&fs, 2), &roots, false).is_ok());
    }
}

#[test]
fn opening_for_reading_writes_nothing() {
    let (fs, roots) = (SimFs::new(), paths(3));
    let writer = Roots::open_for_writing(&harness(&fs, 1), &roots, true).unwrap();
    let (id, before) = (writer.database_id(), fs.ops());
    let reader = Roots::open_for_reading(&harness(&fs, 2), &roots).unwrap();
    assert_eq!((reader.database_id(), reader.paths()), (id, writer.paths()));
    assert_eq!(fs.ops(), before);
}
