//! A really full disk: a tmpfs of a few megabytes. The simulated disk runs out of space at every
//! single operation (see the crash tests); here the operating system reports it.
//!
//! Needs permission to mount; otherwise the test reports that it is skipped, or fails if
//! `LITHDB_REQUIRE_TMPFS` is 1.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lithdb::rollback::through_key;
use lithdb::{
    Components, Db, DbOptions, Error, ErrorKind, ReadMode, Rollback, Table, TableOptions,
};
use lithdb_process_tests::{Op, check_files, files_below, newest_key_file, skip_or_fail};
use lithdb_sim::{Effort, Tally};

/// Short enough to wait for.
const TTL: Duration = Duration::from_millis(5);

/// A small file system; unmounted when dropped.
struct Disk {
    mount: tempfile::TempDir,
}

impl Disk {
    /// `None` if this machine does not allow mounting.
    fn new(test: &str, bytes: u64) -> Option<Self> {
        let mount = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "lithdb-test"])
            .arg(mount.path())
            .stdin(Stdio::null())
            .output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Self { mount }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip_or_fail(test, &format!("cannot mount a tmpfs: {why}"), "LITHDB_REQUIRE_TMPFS");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    /// Takes all remaining space, to the last block.
    fn fill(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).unwrap();
        let block = [0xBA; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A lazy unmount: a handle that a failed test still holds must not keep it mounted.
        #[expect(clippy::let_underscore_must_use, reason = "the failure of the test matters more")]
        let _ = Command::new("umount").arg("-l").arg(self.mount.path()).status();
    }
}

fn open(root: &Path) -> Db {
    let components = Components { without_maintenance: true, ..Components::default() };
    Db::open_with(DbOptions::new([root]), components).unwrap()
}

fn options() -> TableOptions {
    TableOptions::new().segment_bytes(512 << 10)
}

/// Puts operations from `next` on until one is refused; returns the refused number and the error.
fn put_until_refused(table: &Table, mut next: u64) -> (u64, Error) {
    loop {
        match Op::new("t", 0, next).put(table) {
            Ok(_) => next += 1,
            Err(error) => return (next, error),
        }
        assert!(next < 1_000_000, "the disk never filled");
    }
}

/// The oldest operation; `None` if a segment had just started when the disk became full and the
/// others expired.
fn oldest(table: &Table) -> Option<u64> {
    table.oldest_key().unwrap().map(|key| Op::seq_of(&key).unwrap())
}

fn newest(table: &Table) -> Option<u64> {
    table.newest_key().unwrap().map(|key| Op::seq_of(&key).unwrap())
}

/// Checks that the table holds the operations from `begin` to `end`, and nothing else.
fn check(table: &Table, begin: u64, end: u64) {
    let mut entries = table.iter().unwrap();
    for seq in begin..end {
        for (key, is_primary, value) in Op::new("t", 0, seq).records() {
            let entry = entries.next().unwrap_or_else(|| panic!("{seq} of {end} is lost")).unwrap();
            assert_eq!((entry.key(), entry.is_primary()), (key, is_primary));
            assert!(entry.value().unwrap() == value, "wrong bytes at {seq}");
            assert!(table.get(key).unwrap().unwrap() == value, "get at {seq}");
        }
    }
    assert!(entries.next().is_none(), "the refused operation {end} left a record");
    assert_eq!(table.get(Op::key(end, 0)).unwrap(), None);
}

#[test]
fn full_disk_refuses_puts_and_recovers_when_space_returns() {
    let name = "full_disk_refuses_puts_and_recovers_when_space_returns";
    let Some(disk) = Disk::new(name, 8 << 20) else { return };
    let root = disk.path("db");
    let db = open(&root);
    let table = db.table("t", options()).unwrap();
    let ballast = disk.path("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();

    let (mut end, error) = put_until_refused(&table, 0);
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(error.to_string().contains("table t"), "{error}");
    assert!(end > 100, "only {end} puts fit");
    check(&table, 0, end);
    // Refused again in the same way: the table is not latched.
    let (still, error) = put_until_refused(&table, end);
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(table.failure().is_none());
    end = still;

    // Accepted data has its space reserved; only a pending seal may find none.
    let rest = disk.fill("rest");
    for _ in 0..2 {
        if let Err(error) = table.flush() {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }
    assert!(table.failure().is_none());
    check(&table, 0, end);

    // When space is available again, everything continues without intervention.
    std::fs::remove_file(rest).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    table.flush().unwrap();
    let (more, error) = put_until_refused(&table, end);
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(more > end + 50, "{more} after {end}");
    check(&table, 0, more);
    let mut end = more;

    // Expiry works without a free block, and frees space.
    let rest = disk.fill("rest");
    if let Err(error) = table.flush() {
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }
    table.set_ttl(Some(TTL)).unwrap();
    std::thread::sleep(2 * TTL);
    let report = table.run_gc().unwrap();
    assert!(report.segments > 5, "{report:?}");
    let begin = oldest(&table).unwrap_or(end);
    assert!(begin > 0);
    check(&table, begin, end);
    let (more, error) = put_until_refused(&table, end);
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(more > end, "collection made room");
    end = more;
    table.set_ttl(None).unwrap();
    check(&table, begin, end);

    // Closing on a full disk: either everything is durable, or the close returns an error.
    let closed = db.close();
    drop((table, db));
    let again = disk.fill("again");
    let db = open(&root);
    let table = db.table("t", options()).unwrap();
    match closed {
        Ok(()) => check(&table, begin, end),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            check(&table, begin, newest(&table).map_or(begin, |newest| newest + 1));
        }
    }
    drop((table, db));
    std::fs::remove_file(rest).unwrap();
    std::fs::remove_file(again).unwrap();
    let db = open(&root);
    let table = db.table("t", options()).unwrap();
    let end = newest(&table).map_or(begin, |newest| newest + 1);
    table.set_ttl(Some(TTL)).unwrap();
    std::thread::sleep(2 * TTL);
    assert!(table.run_gc().unwrap().segments > 5);
    let begin = oldest(&table).unwrap_or(end);
    let (more, _) = put_until_refused(&table, end);
    assert!(more > end);
    check(&table, begin, more);
    table.flush().unwrap();
    db.close().unwrap();
}

/// Everything acknowledged exists after the disk was full and the process died.
#[test]
fn reopening_on_a_full_disk_reads_acknowledged_data() {
    let name = "reopening_on_a_full_disk_reads_acknowledged_data";
    let Some(disk) = Disk::new(name, 8 << 20) else { return };
    let root = disk.path("db");
    let ballast = disk.path("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    // The child ends with a kill, without closing.
    let output = Command::new(env!("CARGO_BIN_EXE_crashy"))
        .arg("fill")
        .arg(&root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let acked = stdout.lines().rfind(|line| line.starts_with("ack ")).expect("an acknowledgement");
    let acked: u64 = acked.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(stdout.ends_with("full\n"), "{stdout}");
    let _rest = disk.fill("rest");

    let reader = Db::open_read_only(DbOptions::new([&root])).unwrap();
    let seen = reader.existing_table("t").unwrap();
    let end = newest(&seen).unwrap() + 1;
    assert!(end > acked, "{acked} was acknowledged, {end} is the end");
    check(&seen, 0, end);
    drop((seen, reader));

    for round in 0..3 {
        let db = open(&root);
        // Recovery copies data that no mark vouches for, and there are no blocks for the copy: it
        // must lose nothing.
        if let Err(error) = db.table("t", options()) {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            std::fs::remove_file(&ballast).unwrap();
        }
        let table = db.table("t", options()).unwrap();
        check(&table, 0, end);
        if round == 2 {
            let _rest = ballast.exists().then(|| std::fs::remove_file(&ballast).unwrap());
            let (more, error) = put_until_refused(&table, end);
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            assert!(more > end);
            check(&table, 0, more);
        }
    }
}

/// The number of operations in each table, which must be `0..end`.
fn op_counts(root: &Path) -> Vec<u64> {
    let db = open(root);
    let ends = ["t", "u"].map(|name| {
        let table = db.existing_table(name).unwrap();
        let end = newest(&table).map_or(0, |newest| newest + 1);
        check_named(&table, name, end);
        check_files(&[root.to_owned()], name, table.stats().segments);
        end
    });
    drop(db);
    ends.to_vec()
}

fn check_named(table: &Table, name: &str, end: u64) {
    let mut entries = table.iter().unwrap();
    for seq in 0..end {
        for (key, _, value) in Op::new(name, 0, seq).records() {
            let entry = entries.next().unwrap_or_else(|| panic!("{seq} of {end} is lost")).unwrap();
            assert!(entry.key() == key && entry.value().unwrap() == value, "{name}: {seq}");
            assert!(table.get(key).unwrap().unwrap() == value, "{name}: get at {seq}");
        }
    }
    assert!(entries.next().is_none(), "{name}: a record past {end}");
}

/// Two tables of `end` operations each, all durable, their newest segments unsealed.
fn two_tables(root: &Path, end: u64) {
    let db = open(root);
    for name in ["t", "u"] {
        let table = db.table(name, options().segment_keys(40)).unwrap();
        for seq in 0..end {
            Op::new(name, 0, seq).put(&table).unwrap();
        }
        table.flush().unwrap();
    }
    db.close().unwrap();
}

fn roll_back(root: &Path, seq: u64) -> lithdb::Result<()> {
    let plan = Rollback::new([root]).plan(through_key(Op::key(seq, 0)))?;
    plan.execute().map(drop)
}

/// Frees some blocks of a ballast file.
fn free_ballast(ballast: &Path, blocks: u64) {
    let file = std::fs::File::options().write(true).open(ballast).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(blocks * 4096)).unwrap();
}

#[test]
fn rollback_on_a_full_disk_is_all_or_nothing() {
    let name = "rollback_on_a_full_disk_is_all_or_nothing";
    let Some(disk) = Disk::new(name, 8 << 20) else { return };
    let mut tally = Tally::new(format!("full disk: {name}"));
    // Into a sealed segment of both tables, then into an unsealed one of one table and a sealed
    // one of the other.
    for to in [20, 99] {
        let root = disk.path(&format!("db{to}"));
        two_tables(&root, 100);
        let old = op_counts(&root);
        let before = files_below(&root);
        let ballast = disk.fill("ballast");
        let mut refused = 0;
        let limit = std::fs::metadata(&ballast).unwrap().len() / 4096;
        loop {
            let error = match roll_back(&root, to - 1) {
                Ok(()) => break,
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            refused += 1;
            // Files written by the attempt are removed again. (A recovered and sealed unsealed
            // segment stays sealed.)
            if to == 20 {
                assert_eq!(files_below(&root), before, "after {refused}: {error}");
            }
            assert_eq!(op_counts(&root), old, "after {refused}: {error}");
            assert!(refused < limit, "the rollback never fits");
            free_ballast(&ballast, 1);
        }
        assert_eq!(op_counts(&root), [to, to]);
        tally.add("rollbacks refused", refused);
        // The unsealed segment frees its reserved space, which may be all that is needed.
        assert!(refused > 0 || to == 99, "the first attempt succeeded");
        std::fs::remove_file(ballast).unwrap();
        let db = open(&root);
        let table = db.existing_table("t").unwrap();
        Op::new("t", 0, to).put(&table).unwrap();
        table.flush().unwrap();
        check_named(&table, "t", to + 1);
        db.close().unwrap();
        drop((table, db));
        std::fs::remove_dir_all(root).unwrap();
    }
}

/// A decided rollback needs no space: after a process died in the middle of it, it finishes
/// without a free block.
#[test]
fn decided_rollback_finishes_on_a_full_disk() {
    let name = "decided_rollback_finishes_on_a_full_disk";
    let Some(disk) = Disk::new(name, 8 << 20) else { return };
    let mut tally = Tally::new(format!("full disk: {name}"));
    for round in 0..Effort::from_env().times(4) {
        let root = disk.path("db");
        two_tables(&root, 100);
        let to = 10 + 22 * (round % 4);
        let status = Command::new(env!("CARGO_BIN_EXE_crashy"))
            .args(["roll-back-death", &to.to_string()])
            .arg(&root)
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert!(root.join("rollback.intent").exists());
        let ballast = disk.fill("ballast");
        let error = Db::open_read_only(DbOptions::new([&root])).unwrap_err();
        assert!(error.is_rollback_pending(), "{error}");
        if round % 2 == 0 {
            Rollback::new([&root]).finish().unwrap().expect("one was pending");
        }
        assert_eq!(op_counts(&root), [to + 1, to + 1]);
        tally.add("rollbacks finished", 1);
        std::fs::remove_file(ballast).unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }
}

/// Recovery leaves a torn end in place and needs some blocks for the next segment. The space
/// reserved for the old segment may suffice; if not, opening is refused and nothing is lost.
#[test]
fn torn_end_is_recovered_on_a_full_disk() {
    let name = "torn_end_is_recovered_on_a_full_disk";
    let Some(disk) = Disk::new(name, 8 << 20) else { return };
    let mut tally = Tally::new(format!("full disk: {name}"));
    let root = disk.path("db");
    two_tables(&root, 100);
    for is_read in [true, false] {
        for table in ["t", "u"] {
            let keys = newest_key_file(std::slice::from_ref(&root), table);
            let mut file = std::fs::File::options().append(true).open(keys).unwrap();
            std::io::Write::write_all(&mut file, &[0xA5; 9000]).unwrap();
        }
        let ballast = disk.fill("ballast");
        let options = DbOptions::new([&root]).read_mode(ReadMode::Map);
        let reader = is_read.then(|| Db::open_read_only(options).unwrap());
        let seen = reader.as_ref().map(|reader| reader.existing_table("t").unwrap());
        for _ in 0..3 {
            let db = open(&root);
            match db.existing_table("t") {
                Ok(table) => {
                    check_named(&table, "t", 100);
                    tally.add("torn ends recovered", 1);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    tally.add("recoveries refused", 1);
                }
            }
            if let Some(seen) = &seen {
                check_named(seen, "t", 100);
            }
        }
        std::fs::remove_file(&ballast).unwrap();
        assert_eq!(op_counts(&root), [100, 100]);
        if let Some(seen) = &seen {
            check_named(seen, "t", 100);
        }
        drop(seen);
        drop(reader);
        let db = open(&root);
        let table = db.existing_table("t").unwrap();
        check_named(&table, "t", 100);
        db.close().unwrap();
    }
}
