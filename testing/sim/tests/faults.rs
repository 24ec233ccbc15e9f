//! Every fault triggers as often as planned, on the operations it applies to.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use lithdb_env::{File, Fs, OpenMode, read_exact_at, write_all_at};
use lithdb_sim::{CrashImage, Fault, OpKind, Pages, SimFs};

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn opened(bytes: &[u8]) -> (SimFs, Arc<dyn File>) {
    let fs = SimFs::new();
    fs.write_raw("/f", bytes.to_vec());
    let file = fs.open(p("/f"), OpenMode::ReadWrite).unwrap();
    (fs, file)
}

#[test]
fn the_nth_operation_fails_once() {
    let (fs, file) = opened(b"abc");
    fs.fail_op(2, Fault::Eio, false);
    file.write_at(b"1", 0).unwrap();
    assert_eq!(file.write_at(b"2", 1).unwrap_err().raw_os_error(), Some(5));
    file.write_at(b"3", 2).unwrap();
    assert_eq!(fs.read_raw("/f"), b"1b3");
    assert_eq!((fs.ops(), fs.faults_hit()), (3, 1));
}

#[test]
fn a_sticky_fault_stays_until_it_is_cleared() {
    let (fs, file) = opened(b"abc");
    fs.fail_op(1, Fault::Eio, true);
    for _ in 0..3 {
        assert!(file.write_at(b"1", 0).is_err());
        assert!(file.sync_data().is_err());
        assert!(fs.sync_dir(p("/")).is_err());
        assert!(fs.create_new(p("/g")).is_err());
    }
    fs.clear_faults();
    file.write_at(b"1", 0).unwrap();
}

#[test]
fn full_disk_fault_spares_removals() {
    let (fs, file) = opened(b"abc");
    fs.fail_op(1, Fault::NoSpace, true);
    let full = |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::StorageFull;
    assert!(full(file.write_at(b"1", 0).map(|_| ())));
    assert!(full(file.allocate(0, 1)));
    assert!(full(fs.create_new(p("/g")).map(|_| ())));
    assert!(full(fs.hard_link(p("/f"), p("/g"))));
    fs.remove_file(p("/f")).unwrap();
}

#[test]
fn io_loops_retry_even_persistent_interruptions() {
    let (fs, file) = opened(b"");
    fs.fail_op(1, Fault::Interrupted, true);
    assert_eq!(file.write_at(b"1", 0).unwrap_err().kind(), ErrorKind::Interrupted);
    write_all_at(&*file, b"1", 0).unwrap();
    write_all_at(&*file, b"2", 1).unwrap();
    assert_eq!(fs.read_raw("/f"), b"12");
    file.sync_data().unwrap();
}

#[test]
fn a_short_write_transfers_half() {
    let (fs, file) = opened(b"");
    fs.fail_op(1, Fault::ShortWrite, false);
    file.write_at(b"x", 0).unwrap(); // too short to be split: the fault waits
    assert_eq!(file.write_at(b"123456", 0).unwrap(), 3);
    assert_eq!(fs.read_raw("/f"), b"123");
}

#[test]
fn too_many_files_hits_every_call_that_needs_a_handle() {
    let (fs, _file) = opened(b"");
    fs.fail_op(1, Fault::TooManyFiles, false);
    fs.fail_read(1, Fault::TooManyFiles);
    assert_eq!(fs.create_new(p("/g")).unwrap_err().raw_os_error(), Some(24));
    assert_eq!(fs.open(p("/f"), OpenMode::Read).unwrap_err().raw_os_error(), Some(24));
    fs.open(p("/f"), OpenMode::Read).unwrap();
}

#[test]
fn refused_sync_changes_nothing_and_may_be_retried() {
    let (fs, file) = opened(b"old");
    file.write_at(b"new", 0).unwrap();
    fs.fail_op(1, Fault::Eio, false);
    assert!(file.sync_data().is_err());
    assert_eq!(fs.unsynced_ops(), 1);
    file.sync_data().unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Nothing).read_raw("/f"), b"new");
}

#[test]
fn failed_sync_may_lose_pages() {
    let (fs, file) = opened(b"old");
    file.write_at(b"newer", 0).unwrap();
    fs.fail_op(1, Fault::FailedSync { pages: Pages::Lost }, false);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    assert_eq!(fs.read_raw("/f"), b"old\0\0", "the length stays");
    assert_eq!(fs.crash_with(&CrashImage::Nothing).read_raw("/f"), b"old");
}

#[test]
fn failed_sync_may_write_a_part() {
    let (fs, file) = opened(&[b'o'; 2048]);
    file.write_at(&[b'n'; 4096], 0).unwrap();
    fs.fail_op(1, Fault::FailedSync { pages: Pages::PartlyLost }, false);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    let seen: Vec<u8> = fs.read_raw("/f").chunks(512).map(|sector| sector[0]).collect();
    assert!(seen == *b"nonon\0n\0" || seen == *b"onon\0n\0n", "{seen:?}");
    let after = fs.crash_with(&CrashImage::Nothing);
    assert_eq!(after.read_raw("/f"), fs.read_raw("/f"), "everything readable is durable");
}

#[test]
fn length_after_a_failed_sync_is_durable_with_the_next() {
    let (fs, file) = opened(b"old");
    file.write_at(b"newer", 0).unwrap();
    fs.fail_op(1, Fault::FailedSync { pages: Pages::Lost }, false);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Nothing).read_raw("/f"), b"old\0\0");
}

#[test]
fn failed_sync_may_leave_pages_readable_and_clean() {
    let (fs, file) = opened(b"old");
    file.write_at(b"new", 0).unwrap();
    fs.fail_op(1, Fault::FailedSync { pages: Pages::ReadableAndClean }, false);
    assert!(file.sync_all().is_err());
    file.sync_all().unwrap();
    assert_eq!(fs.read_raw("/f"), b"new", "still readable");
    file.write_at(b"W", 2).unwrap();
    file.sync_all().unwrap();
    let after = fs.crash_with(&CrashImage::Everything);
    assert_eq!(after.read_raw("/f"), b"olW", "only what was written again is durable");
}

#[test]
fn blocks_with_failed_writeback_accept_no_writes() {
    for is_told in [true, false] {
        let (fs, file) = opened(b"old");
        file.write_at(&[1; 2000], 3).unwrap();
        if is_told {
            fs.fail_op(1, Fault::FailedSync { pages: Pages::Unwritable }, false);
            assert!(file.sync_all().is_err());
        } else {
            fs.fail_writeback();
        }
        file.write_at(&[2; 3000], 3).unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs.read_raw("/f"), [&b"old"[..], &[2; 3000]].concat(), "still readable");
        // The first block was durable before; blocks after the last failed one are unaffected.
        let found = fs.crash_with(&CrashImage::Everything).read_raw("/f");
        let expected = [&b"old"[..], &[2; 509], &[0; 1536], &[2; 955]].concat();
        assert_eq!(found, expected);
    }
}

#[test]
fn directory_syncs_may_lie_after_a_failed_one() {
    let (fs, _file) = opened(b"");
    fs.create_new(p("/g")).unwrap();
    fs.fail_op(1, Fault::FailedSync { pages: Pages::ReadableAndClean }, false);
    assert!(fs.sync_dir(p("/")).is_err());
    fs.sync_dir(p("/")).unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Nothing).file_paths(), [p("/f")]);

    let (fs, _file) = opened(b"");
    fs.create_new(p("/g")).unwrap();
    fs.fail_op(1, Fault::FailedSync { pages: Pages::Lost }, false);
    assert!(fs.sync_dir(p("/")).is_err());
    assert_eq!(fs.crash_with(&CrashImage::Nothing).file_paths(), [p("/f")]);
}

#[test]
fn failed_sync_fault_waits_for_a_sync() {
    let (fs, file) = opened(b"");
    fs.fail_op(1, Fault::FailedSync { pages: Pages::Lost }, false);
    file.write_at(b"1", 0).unwrap();
    assert_eq!(fs.faults_hit(), 0);
    assert!(file.sync_data().is_err());
    assert_eq!(fs.faults_hit(), 1);
}

#[test]
fn nth_read_fails_once_or_persistently() {
    let (fs, file) = opened(b"abc");
    fs.fail_read(2, Fault::Eio);
    let mut buf = [0; 3];
    file.read_at(&mut buf, 0).unwrap();
    assert!(fs.metadata(p("/f")).is_err());
    fs.fail_read(1, Fault::ShortWrite);
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 1);
    fs.fail_reads_from(1, Fault::Eio);
    for _ in 0..2 {
        assert!(file.read_at(&mut buf, 0).is_err() && fs.list(p("/")).is_err());
    }
}

#[test]
fn stale_read_fault_waits_for_changed_bytes() {
    let (fs, file) = opened(&[1; 1500]);
    let read = |offset| {
        let mut buf = [0; 512];
        file.read_at(&mut buf, offset).unwrap();
        buf
    };
    fs.fail_read(1, Fault::StaleRead);
    file.write_at(&[2; 512], 512).unwrap();
    assert_eq!(read(512), [2; 512], "nothing older is durable");
    file.sync_data().unwrap();
    assert_eq!((read(0), fs.faults_hit()), ([1; 512], 0));
    assert_eq!((read(512), fs.faults_hit()), ([1; 512], 1));
    assert_eq!(read(512), [2; 512]);
}

#[test]
fn io_loops_complete_despite_short_transfers() {
    let (fs, file) = opened(b"");
    fs.short_transfers(true);
    let bytes: Vec<u8> = (0..5_000_u32).map(|n| n as u8).collect();
    write_all_at(&*file, &bytes, 0).unwrap();
    assert!(fs.ops() > 20);
    let mut back = vec![0; bytes.len()];
    read_exact_at(&*file, &mut back, 0).unwrap();
    assert_eq!(back, bytes);
    let interrupted = (0..5).filter(|_| file.read_at(&mut back, 0).is_err()).count();
    assert_eq!(interrupted, 1);
}

#[test]
fn the_trace_shows_what_succeeded_in_order() {
    let fs = SimFs::new();
    let file = fs.create_new(p("/f.new")).unwrap();
    file.write_at(b"1", 0).unwrap();
    fs.fail_op(1, Fault::Eio, false);
    assert!(file.sync_all().is_err());
    file.sync_all().unwrap();
    fs.rename(p("/f.new"), p("/f")).unwrap();
    fs.sync_dir(p("/")).unwrap();
    let trace = fs.take_trace();
    let kinds: Vec<_> = trace.iter().map(|op| op.kind).collect();
    use OpKind::{CreateNew, Rename, SyncAll, SyncDir, Write};
    assert_eq!(kinds, [CreateNew, Write, SyncAll, Rename, SyncDir]);
    assert_eq!(trace[2].path, p("/f.new"));
    assert_eq!(trace[3].to.as_deref(), Some(p("/f")));
    assert!(fs.take_trace().is_empty());
}
