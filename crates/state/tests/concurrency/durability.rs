//! When a version is durable.

use std::sync::Arc;
use std::time::Duration;

use lithdb::{Db, DbOptions, DuplicateKeys, TableOptions};
use lithdb_state::{Durability, StateComponents, StateDb, StateOptions, Wal, WalFloor};
use parking_lot::Mutex;

use crate::changes;
use crate::engines::{Call, HookEngines};
use crate::support::{DIR, Harness, small};
use crate::watchdog::must_end;

/// The log has a version, and has made it durable, before the store has it.
#[test]
fn a_version_is_not_said_to_be_durable_before_it_is_committed() {
    let harness = Harness::new(small());
    let db: Arc<Mutex<Option<StateDb>>> = Arc::default();
    let seen: Arc<Mutex<Vec<[u64; 4]>>> = Arc::default();
    let (opened, sees, disk) = (Arc::clone(&db), Arc::clone(&seen), harness.clone());
    let mut components = harness.components();
    let inner = components.engines.take().unwrap();
    components.engines = Some(Arc::new(HookEngines::new(inner, move |call| {
        // The rows of a version come to the working copy between the two.
        if call == Call::Apply
            && let Some(db) = &*opened.lock()
        {
            let (stats, durable) = (db.stats(), db.durable_version());
            let in_the_log = disk.fork().open().version();
            sees.lock().push([stats.version, stats.durable_version, durable, in_the_log]);
        }
        Ok(())
    })));
    *db.lock() = Some(StateDb::open_with(DIR, harness.options.clone(), components).unwrap());
    let commits = db.lock().clone().unwrap();
    for version in 1..=3 {
        commits.commit_block(version, &changes(version)).unwrap();
        assert_eq!(commits.durable_version(), version);
    }
    assert_eq!(*seen.lock(), [[0, 0, 0, 1], [1, 1, 1, 2], [2, 2, 2, 3]]);
    db.lock().take().unwrap().close().unwrap();
}

#[test]
fn versions_become_durable_by_themselves_in_a_database_that_is_flushed_by_time() {
    must_end(versions_that_nobody_flushes);
}

fn versions_that_nobody_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let options = DbOptions::new([dir.path().join("app")]);
    let app = Db::open(options.auto_flush(None, Some(Duration::from_millis(1)))).unwrap();
    let floor = WalFloor::new();
    let table = TableOptions::new().duplicate_keys(DuplicateKeys::Reject);
    let table = app.table_with_filter("state", table, floor.filter()).unwrap();
    let mut components = StateComponents::default();
    components.wal = Wal::Table { table, floor };
    let options = StateOptions::new().durability(Durability::OnFlush).snapshot_interval(0);
    let db = StateDb::open_with(dir.path().join("state"), options, components).unwrap();
    for version in 1..=3 {
        db.commit_block(version, &changes(version)).unwrap();
        while db.durable_version() < version {
            std::thread::yield_now();
        }
    }
    db.close().unwrap();
    app.close().unwrap();
}
