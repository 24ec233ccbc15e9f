//! Locks, disk space, and changes below the file system.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::io::ErrorKind;
use std::path::Path;

use lithdb_env::{Clock, Fs, LockKind, OpenMode, replace_file};
use lithdb_sim::{CrashImage, Fault, Pages, SimClock, SimFs, sim_env};

const BLOCK: u64 = 4096;

fn p(path: &str) -> &Path {
    Path::new(path)
}

#[test]
fn exclusive_lock_excludes_and_shared_locks_coexist() {
    let fs = SimFs::new();
    fs.write_raw("/l", vec![]);
    let take = |kind| fs.try_lock(p("/l"), kind).unwrap();
    let shared = (take(LockKind::Shared).unwrap(), take(LockKind::Shared).unwrap());
    assert!(take(LockKind::Exclusive).is_none());
    drop(shared);
    let exclusive = take(LockKind::Exclusive).unwrap();
    assert!(take(LockKind::Exclusive).is_none() && take(LockKind::Shared).is_none());
    exclusive.file().write_at(b"holder", 0).unwrap();
    assert_eq!(fs.read_raw("/l"), b"holder");
    drop(exclusive);
    assert!(take(LockKind::Shared).is_some());
}

#[test]
fn lock_dropped_after_a_crash_releases_no_other() {
    let fs = SimFs::new();
    fs.write_raw("/l", vec![]);
    let first = fs.try_lock(p("/l"), LockKind::Exclusive).unwrap().unwrap();
    fs.release_locks();
    let second = fs.try_lock(p("/l"), LockKind::Exclusive).unwrap().unwrap();
    drop(first);
    assert!(fs.try_lock(p("/l"), LockKind::Shared).unwrap().is_none());
    let after = fs.crash_with(&CrashImage::Nothing);
    assert!(after.try_lock(p("/l"), LockKind::Exclusive).unwrap().is_some());
    assert!(second.file().len().is_err());
}

#[test]
fn full_disk_refuses_creation_and_shortens_writes() {
    let fs = SimFs::new();
    fs.set_capacity(Some(3 * BLOCK));
    let file = fs.create_new(p("/f")).unwrap();
    assert_eq!(fs.free_space(p("/")).unwrap(), 2 * BLOCK);
    assert_eq!(file.write_at(&[1; 10_000], 0).unwrap(), 8192);
    assert_eq!(file.write_at(&[1; 1], 8192).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.write_at(&[2; 100], 8000).unwrap(), 100, "the blocks are already allocated");
    assert_eq!(fs.create_new(p("/g")).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(fs.create_dir(p("/g")).unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
fn reservation_is_exclusive_and_freed_by_truncation() {
    let fs = SimFs::new();
    fs.set_capacity(Some(10 * BLOCK));
    let file = fs.create_new(p("/f")).unwrap();
    file.allocate(0, 6 * BLOCK).unwrap();
    assert_eq!((file.len().unwrap(), fs.free_space(p("/")).unwrap()), (0, 3 * BLOCK));
    assert_eq!(file.allocate(0, 10 * BLOCK).unwrap_err().kind(), ErrorKind::StorageFull);
    let other = fs.create_new(p("/g")).unwrap();
    assert_eq!(other.write_at(&[1; 20_000], 0).unwrap(), 8192);
    assert_eq!(file.write_at(&[1; 24_576], 0).unwrap(), 24_576, "cannot fail: it is reserved");
    file.set_len(BLOCK + 1).unwrap();
    assert_eq!(fs.free_space(p("/")).unwrap(), 4 * BLOCK);
}

#[test]
fn removed_file_frees_space_with_its_last_handle() {
    let fs = SimFs::new();
    fs.set_capacity(Some(10 * BLOCK));
    let file = fs.create_new(p("/f")).unwrap();
    file.write_at(&[1; 4097], 0).unwrap();
    fs.remove_file(p("/f")).unwrap();
    assert_eq!(fs.free_space(p("/")).unwrap(), 7 * BLOCK);
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, 4096).unwrap(), 1);
    drop(file);
    assert_eq!(fs.free_space(p("/")).unwrap(), 10 * BLOCK);
}

#[test]
fn crash_keeps_disk_capacity_and_usage() {
    let fs = SimFs::new();
    fs.set_capacity(Some(10 * BLOCK));
    let file = fs.create_new(p("/f")).unwrap();
    file.write_at(&[1; 4097], 0).unwrap();
    file.allocate(0, 8 * BLOCK).unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Everything).free_space(p("/")).unwrap(), 7 * BLOCK);
    assert_eq!(fs.crash_with(&CrashImage::Nothing).free_space(p("/")).unwrap(), 10 * BLOCK);
}

#[test]
fn corruption_is_visible_at_once_and_survives_a_crash() {
    let fs = SimFs::new();
    fs.write_raw("/d/f", vec![0; 4]);
    fs.write_raw("/d/g", vec![1]);
    fs.flip_bit("/d/f", 2, 7);
    fs.truncate_raw("/d/f", 3);
    fs.remove_raw("/d/g");
    let after = fs.crash_with(&CrashImage::Nothing);
    assert_eq!(after.file_paths(), [p("/d/f")]);
    assert_eq!(after.read_raw("/d/f"), [0, 0, 128]);
    assert_eq!(fs.ops(), 0);
}

#[test]
fn block_history_has_the_content_of_each_changing_sync() {
    let fs = SimFs::new();
    let file = fs.create_new(p("/f")).unwrap();
    fs.sync_dir(p("/")).unwrap();
    let write = |byte, offset| file.write_at(&[byte; 300], offset).unwrap();
    write(1, 0);
    file.sync_data().unwrap();
    write(2, 300);
    file.sync_data().unwrap();
    write(3, 600);
    write(3, 0);
    assert_eq!(fs.older_blocks("/f", 0, 512).len(), 1, "not durable yet");
    file.sync_data().unwrap();
    let (first, second) =
        ([[1; 300].as_slice(), &[0; 600]].concat(), [[1; 300], [2; 300]].concat());
    let second = [second.as_slice(), &[0; 300]].concat();
    assert_eq!(
        fs.older_blocks("/f", 0, 900),
        [second.clone(), first.clone()],
        "zeros past the end"
    );
    assert_eq!(fs.older_blocks("/f", 0, 512), [&second[..512], &first[..512]]);
    assert_eq!(fs.older_blocks("/f", 512, 512), [[[2; 88].as_slice(), &[0; 300]].concat()]);
    assert!(fs.older_blocks("/f", 1024, 512).is_empty());
    let after = fs.crash_with(&CrashImage::Nothing);
    assert!(after.stale_block("/f", 0, 512) && !after.stale_block("/f", 1024, 512));
    assert_eq!(after.read_raw("/f")[..512], second[..512]);
    assert_eq!(after.read_raw("/f").len(), 900);
    assert_eq!(fs.fork().older_blocks("/f", 0, 900).len(), 2);
}

#[test]
fn misdirected_write_overwrites_one_block_and_stales_another() {
    let fs = SimFs::new();
    fs.write_raw("/a", vec![1; 1100]);
    fs.write_raw("/b", vec![2; 700]);
    let file = fs.open(p("/a"), OpenMode::ReadWrite).unwrap();
    file.write_at(&[3; 50], 1024).unwrap();
    file.sync_data().unwrap();
    fs.misdirect_block((p("/a"), 1024), (p("/b"), 512), 512);
    assert_eq!(fs.read_raw("/a"), [1; 1100]);
    let overwritten = [&[2; 512][..], &[3; 50], &[1; 26], &[0; 112]].concat();
    assert_eq!(fs.read_raw("/b"), overwritten, "only up to the end of the file");
    fs.misdirect_block((p("/b"), 0), (p("/a"), 0), 512);
    assert_eq!(fs.read_raw("/a")[..513], [&[2; 512][..], &[1]].concat());
    assert_eq!(fs.read_raw("/b")[..512], [0; 512], "never written through the file system");
}

#[test]
fn directories_can_be_swapped_or_removed_whole() {
    let fs = SimFs::new();
    fs.write_raw("/r/one/a/f", vec![1]);
    fs.write_raw("/two", vec![2]);
    fs.write_raw("/r/three/g", vec![3]);
    fs.swap_raw("/r/one", "/r/three");
    fs.swap_raw("/two", "/r/one");
    let after = fs.crash_with(&CrashImage::Nothing);
    assert_eq!(after.file_paths(), ["/r/one", "/r/three/a/f", "/two/g"].map(p));
    assert_eq!(after.read_raw("/two/g"), [3]);
    after.open(p("/two/g"), OpenMode::Read).unwrap();
    after.remove_dir_raw("/r");
    let after = after.crash_with(&CrashImage::Nothing);
    assert_eq!(after.file_paths(), [p("/two/g")]);
    assert!(after.list(p("/r")).is_err());
}

#[test]
fn eviction_drops_only_pages_of_failed_syncs() {
    let fs = SimFs::new();
    fs.write_raw("/f", b"old".to_vec());
    let file = fs.open(p("/f"), OpenMode::ReadWrite).unwrap();
    file.write_at(b"newer", 0).unwrap();
    fs.evict();
    assert_eq!(fs.read_raw("/f"), b"newer", "dirty");
    fs.fail_op(1, Fault::FailedSync { pages: Pages::ReadableAndClean }, false);
    assert!(file.sync_data().is_err());
    file.write_at(b"W", 2).unwrap();
    assert_eq!(fs.read_raw("/f"), b"neWer");
    fs.evict();
    assert_eq!(fs.read_raw("/f"), b"olW\0\0", "the length stays");
    file.sync_data().unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Nothing).read_raw("/f"), b"olW");
}

#[test]
fn a_fork_is_durable_and_independent() {
    let fs = SimFs::new();
    let file = fs.create_new(p("/f")).unwrap();
    file.write_at(b"live", 0).unwrap();
    fs.hard_link(p("/f"), p("/g")).unwrap();
    let fork = fs.fork();
    file.write_at(b"L", 0).unwrap();
    fork.flip_bit("/g", 3, 0);
    let after = fork.crash_with(&CrashImage::Nothing);
    assert_eq!(after.read_raw("/f"), b"livd");
    assert_eq!(fs.read_raw("/f"), b"Live");
}

#[test]
fn replaced_file_is_old_or_new_at_every_crash_point() {
    let replaced = |fs: &SimFs| replace_file(fs, p("/f"), &[2; 3000]);
    let harness = || {
        let fs = SimFs::new();
        fs.write_raw("/f", vec![1; 2000]);
        fs
    };
    let counted = harness();
    replaced(&counted).unwrap();
    assert!(counted.ops() >= 5);
    for k in 0..=counted.ops() {
        let fs = harness();
        fs.crash_after(k);
        assert_eq!(replaced(&fs).is_ok(), k == counted.ops());
        for seed in 0..30 {
            let found = fs.crash_with(&CrashImage::Seeded(seed)).read_raw("/f");
            let (old, new) = (found == [1; 2000], found == [2; 3000]);
            assert!(old || new, "crash after {k}, seed {seed}");
            assert!(new || k < counted.ops(), "acknowledged and lost, seed {seed}");
        }
    }
}

#[test]
fn runs_are_deterministic() {
    let run = || {
        let (fs, clock) = (SimFs::new(), SimClock::new(3));
        let env = sim_env(&fs, &clock);
        env.fs.create_new(p("/f")).unwrap();
        let fs = &fs;
        env.pool.submit({
            let fs = fs.clone();
            move || fs.sync_dir(p("/")).unwrap()
        });
        (fs.take_trace(), env.random_u64().unwrap(), env.clock.now(), clock.now())
    };
    assert_eq!(run(), run());
}

#[test]
fn read_only_handle_refuses_writes() {
    let fs = SimFs::new();
    fs.write_raw("/f", vec![1]);
    let file = fs.open(p("/f"), OpenMode::Read).unwrap();
    assert!(file.write_at(b"2", 0).is_err() && file.set_len(0).is_err());
    assert_eq!(fs.read_raw("/f"), [1]);
}
