//! Returned bytes never change: values and iterators stay valid while other code truncates,
//! repairs, drops or collects what they came from. On real, mapped files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::path::Path;
use std::time::Duration;

use lithdb::rollback::max_be_u64;
use lithdb::{Components, Db, DbOptions, Entry, ReadMode, Rollback, TableOptions, Value};
use lithdb_env::{Fs, OpenMode, OsFs, write_all_at};

const KEYS: u64 = 60;

/// Short values are inline, the others in value files.
fn value_of(n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(3) { 20 } else { 3000 };
    (0..len).map(|at| (n * 31 + at) as u8).collect()
}

fn options(root: &Path) -> DbOptions {
    DbOptions::new([root]).read_mode(ReadMode::Map)
}

fn table_options() -> TableOptions {
    TableOptions::new().shards(2).inline_max_bytes(64).segment_keys(25)
}

fn open(root: &Path) -> Db {
    let alone = Components { without_maintenance: true, ..Components::default() };
    Db::open_with(options(root), alone).unwrap()
}

/// The returned values: of a writer that has been closed, and of a reader that stays open.
struct LentValues {
    values: Vec<(u64, Value)>,
    entries: Vec<Entry>,
    reader: Db,
}

impl LentValues {
    /// A database of three segments, the last one unsealed; all its values are held.
    fn of_database(root: &Path) -> Self {
        let db = open(root);
        let table = db.table("t", table_options()).unwrap();
        for n in 0..KEYS {
            table.put(n.to_be_bytes(), value_of(n)).unwrap();
        }
        table.flush().unwrap();
        let reader = Db::open_read_only(options(root)).unwrap();
        let theirs = reader.existing_table("t").unwrap();
        let all = |table: &lithdb::Table| -> Vec<(u64, Value)> {
            (0..KEYS).map(|n| (n, table.get(n.to_be_bytes()).unwrap().unwrap())).collect()
        };
        let values = [all(&table), all(&theirs)].concat();
        let entries = theirs.iter().unwrap().map(Result::unwrap).collect();
        db.close().unwrap();
        Self { values, entries, reader }
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        let keys = self.entries.iter().map(|entry| entry.key().to_vec());
        self.values.iter().map(|(_, value)| value.to_vec()).chain(keys).collect()
    }

    fn check(&self) {
        assert_eq!(self.values.len() as u64, 2 * KEYS);
        for (n, value) in &self.values {
            assert_eq!(**value, value_of(*n)[..], "value {n}");
        }
        let keys: Vec<&[u8]> = self.entries.iter().map(Entry::key).collect();
        assert_eq!(keys, (0..KEYS).map(u64::to_be_bytes).collect::<Vec<_>>());
    }
}

/// Other values under the same keys, in files that may have the names of the old ones.
fn put_more(db: &Db) {
    let table = db.table("t", table_options()).unwrap();
    for n in 0..KEYS {
        table.put(n.to_be_bytes(), [0xEE; 3000]).unwrap();
    }
    table.flush().unwrap();
}

#[test]
fn lent_values_survive_a_rollback_and_later_puts() {
    let dir = tempfile::tempdir().unwrap();
    let held = LentValues::of_database(dir.path());
    for height in [40, 30, 10] {
        let rollback = Rollback::new([dir.path()]).accept_out_of_order(true);
        rollback.plan(max_be_u64(0, height)).unwrap().execute().unwrap();
        held.check();
        let db = open(dir.path());
        put_more(&db);
        held.check();
        held.reader.refresh().unwrap();
        db.close().unwrap();
    }
    held.check();
}

#[test]
fn lent_values_survive_a_repair_that_rewrites_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let held = LentValues::of_database(dir.path());
    // In place, so that the held files are the ones that are repaired.
    for name in ["1.keys", "1-0.values", "3.keys", "3-1.values"] {
        let file = OsFs.open(&dir.path().join("t/segments").join(name), OpenMode::ReadWrite);
        write_all_at(&*file.unwrap(), &[0xFF; 40], 300).unwrap();
    }
    let damaged = held.bytes();
    let plan = Db::plan_repair(&options(dir.path()), None, &mut |_| {}).unwrap();
    assert!(!plan.is_empty());
    let repaired = plan.apply().unwrap();
    assert!(repaired.refused.is_empty(), "{:?}", repaired.refused);
    assert!(held.bytes() == damaged);
    let db = open(dir.path());
    put_more(&db);
    assert!(held.bytes() == damaged);
    db.close().unwrap();
}

#[test]
fn lent_values_survive_drop_and_recreation_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let held = LentValues::of_database(dir.path());
    let db = open(dir.path());
    db.drop_table("t").unwrap();
    held.check();
    put_more(&db);
    held.check();
    db.close().unwrap();
    held.check();
}

#[test]
fn lent_values_survive_collection() {
    let dir = tempfile::tempdir().unwrap();
    let held = LentValues::of_database(dir.path());
    let db = open(dir.path());
    let table = db.table("t", table_options()).unwrap();
    table.seal().unwrap();
    table.set_ttl(Some(Duration::from_millis(1))).unwrap();
    while table.get(0_u64.to_be_bytes()).unwrap().is_some() {
        table.run_gc().unwrap();
        std::thread::yield_now();
    }
    assert!(OsFs.open(&dir.path().join("t/segments/1.keys"), OpenMode::Read).is_err());
    held.check();
    put_more(&db);
    held.check();
}
