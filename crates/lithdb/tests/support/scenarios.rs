//! Stopped databases that are rolled back while the disk crashes or fails.

use std::path::Path;

use lithdb::{NoMatch, Result, RollbackPlan};
use lithdb_env::{Fs, sync_parent};
use lithdb_sim::CrashImage;

use super::rollback_fixture::{self, Contents, KeepFn, height, put_batch, put_group, put_groups};
use super::{Harness, small};

/// A database and its rollback.
pub struct Scenario {
    pub name: &'static str,
    /// Stopped, everything durable. Each run uses a copy.
    pub harness: Harness,
    pub keep: KeepFn<'static>,
    pub no_match: NoMatch,
    pub old: Contents,
    pub new: Contents,
    /// Hard links to its files, and the bytes they must keep.
    pub linked: Vec<(String, Vec<u8>)>,
}

impl Scenario {
    fn new(name: &'static str, harness: Harness, keep: KeepFn<'static>, no_match: NoMatch) -> Self {
        let harness = rollback_fixture::fork(&harness);
        let old = rollback_fixture::contents_of(&harness);
        let new = rollback_fixture::expected_after(&old, keep, no_match);
        assert_ne!(old, new, "{name}: nothing to do");
        let links = harness.files("/snapshot/").into_iter();
        let linked = links.map(|path| (path.clone(), harness.fs.read_raw(&path))).collect();
        Self { name, harness, keep, no_match, old, new, linked }
    }

    pub fn copy(&self) -> Harness {
        rollback_fixture::fork(&self.harness)
    }

    pub fn plan(&self, harness: &Harness) -> Result<RollbackPlan> {
        rollback_fixture::plan(harness, self.keep, self.no_match)
    }

    /// Plans and executes.
    pub fn execute(&self, harness: &Harness) -> Result<()> {
        self.plan(harness)?.execute().map(|_| ())
    }

    pub fn check_links(&self, harness: &Harness, context: &str) {
        for (path, bytes) in &self.linked {
            assert!(harness.fs.read_raw(path) == *bytes, "{context}: {path} has changed");
        }
    }

    /// All tables are at the old state or all at the new one. Opens the database; returns that
    /// state.
    pub fn check(&self, harness: &Harness, must_be_new: bool, context: &str) -> &Contents {
        let db = harness.try_open().unwrap_or_else(|e| panic!("{context}: open: {e}"));
        let found = rollback_fixture::contents(&db, context);
        let is_new = found == self.new;
        assert!(is_new || found == self.old, "{context}: neither the old state nor the new one");
        assert!(is_new || !must_be_new, "{context}: it was done and is undone");
        let expected = if is_new { &self.new } else { &self.old };
        rollback_fixture::check_absent(&db, &self.old, expected, context);
        db.close().unwrap_or_else(|e| panic!("{context}: close: {e}"));
        self.check_links(harness, context);
        expected
    }

    /// Like `check`, and the database works.
    pub fn check_all(&self, harness: &Harness, must_be_new: bool, context: &str) -> &Contents {
        let mut identities = rollback_fixture::Identities::of(harness);
        let expected = self.check(harness, must_be_new, context);
        identities.assert_consistent_with(rollback_fixture::Identities::of(harness), context);
        let db = harness.open();
        assert!(rollback_fixture::contents(&db, context) == *expected, "{context}: opened again");
        db.close().unwrap();
        drop(db);
        rollback_fixture::check_files(harness, context);
        rollback_fixture::assert_usable(harness, &self.old, expected, context);
        self.check_links(harness, context);
        expected
    }
}

/// Groups up to this one are kept.
const LAST: u64 = 6;

fn keeps_through_last(_: &str, key: &[u8], is_primary: bool) -> bool {
    is_primary && height(key) <= LAST
}

fn database(make: impl FnOnce(&lithdb::Db)) -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    make(&db);
    db.close().unwrap();
    drop(db);
    harness
}

/// A truncation in the middle of a sealed segment, and of a batch.
pub fn sealed() -> Scenario {
    let harness = database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, 0..4);
        put_batch(&table, 4..8);
        table.flush().unwrap();
        put_groups(&table, 8..13);
    });
    Scenario::new("sealed", harness, &keeps_through_last, NoMatch::Refuse)
}

/// A truncation in the unsealed segment of a database that crashed; unflushed records are
/// truncated, too, or kept.
pub fn unsealed() -> Scenario {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 0..5);
    table.flush().unwrap();
    put_batch(&table, 5..9);
    put_group(&table, 9);
    // Everything is written, and the key file is not synced.
    harness.fs.crash_after(5);
    table.flush().unwrap_err();
    let crashed = harness.after_crash(&CrashImage::Everything);
    drop((table, db));
    let keys = "/r0/t/segments/1.keys";
    let len = crashed.fs.read_raw(keys).len() as u64;
    crashed.fs.truncate_raw(keys, len - 3);
    Scenario::new("unsealed segment", crashed, &keeps_through_last, NoMatch::Refuse)
}

/// A truncation at the end of a sealed segment.
pub fn end_of_segment() -> Scenario {
    let harness = database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, [0, 1, 3]);
        table.seal().unwrap();
        put_groups(&table, [5, 6]);
        table.seal().unwrap();
        put_groups(&table, 7..12);
    });
    Scenario::new("end of a segment", harness, &keeps_through_last, NoMatch::Refuse)
}

/// A table in which nothing is kept.
pub fn clear() -> Scenario {
    let harness = database(|db| {
        put_groups(&db.table("t", small()).unwrap(), 20..29);
    });
    Scenario::new("clear", harness, &keeps_through_last, NoMatch::Clear)
}

/// Four tables: truncated in a sealed segment, truncated in the unsealed one, cleared, left alone.
pub fn everything() -> Scenario {
    let harness = database(|db| {
        let sealed = db.table("a-sealed", small()).unwrap();
        put_groups(&sealed, 3..12);
        let unsealed = db.table("b-open", small().segment_keys(50)).unwrap();
        put_groups(&unsealed, [1, 2]);
        put_batch(&unsealed, 5..9);
        put_groups(&db.table("c-clear", small()).unwrap(), [9, 11, 13]);
        put_groups(&db.table("d-stays", small()).unwrap(), [0, 2]);
        db.table("e-empty", small()).unwrap();
    });
    Scenario::new("everything", harness, &keeps_through_last, NoMatch::Clear)
}

/// Every file of a table has a second link: a snapshot.
pub fn linked() -> Scenario {
    let harness = database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, 0..4);
        put_batch(&table, 4..8);
        put_groups(&table, 8..11);
    });
    link_all(&harness, "/t/");
    Scenario::new("linked", harness, &keeps_through_last, NoMatch::Refuse)
}

/// The unsealed segment, truncated, with a second link to every file.
pub fn linked_unsealed() -> Scenario {
    let harness = database(|db| {
        let table = db.table("t", small().segment_keys(100)).unwrap();
        put_groups(&table, 0..4);
        put_batch(&table, 4..8);
    });
    link_all(&harness, "/t/");
    Scenario::new("linked unsealed segment", harness, &keeps_through_last, NoMatch::Refuse)
}

/// Links every segment file whose path contains `part` into `/snapshot`.
pub fn link_all(harness: &Harness, part: &str) {
    harness.fs.make_dirs("/snapshot");
    for path in harness.files(part) {
        if path.contains("/segments/") {
            let link = format!("/snapshot/{}", path.replace('/', "_"));
            harness.fs.hard_link(Path::new(&path), Path::new(&link)).unwrap();
            sync_parent(&harness.fs, Path::new(&link)).unwrap();
        }
    }
}
