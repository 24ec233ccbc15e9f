//! Tables do not wait for each other: one is held up, by its disk or its filter, and the others are used meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../table/tests/support/hook.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)] // the table's own tests use more of it
mod hook;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use hook::{Gate, HookFs};
use lithdb::env::{Env, Pool, spawn};
use lithdb::{Components, Db, ErrorKind};
use lithdb_sim::{Fault, OpKind};
use parking_lot::{Condvar, Mutex};
use support::{World, check, put, small};

/// What does not come within this time never comes.
const NEVER: Duration = Duration::from_secs(60);

/// Begins something on a thread of its own.
fn begin<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (tell, told) = channel();
    // Whoever began it may have given up.
    spawn("test", move || drop(tell.send(act()))).unwrap();
    told
}

/// Does something that must not wait for ever.
fn in_time<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    begin(act).recv_timeout(NEVER).expect(what)
}

impl World {
    /// With a hook before every change of the disk, and so many threads in the pool.
    fn hooked(
        &self,
        threads: usize,
        hook: impl Fn(OpKind, &Path, usize) + Send + Sync + 'static,
    ) -> Components {
        let env = Env {
            fs: Arc::new(HookFs::new(Arc::new(self.fs.clone()), hook)),
            clock: Arc::new(self.clock.clone()),
            pool: Arc::new(Pool::new(threads).unwrap()),
        };
        Components { env: Some(env), ..self.components() }
    }

    /// A database whose table `slow` stops at the gate before each change of its files.
    fn with_slow_table(&self, threads: usize) -> (Db, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        let theirs = Arc::clone(&gate);
        let hook = move |_, path: &Path, _| {
            if path.starts_with("/r0/slow") || path.starts_with("/r1/slow") {
                theirs.pass();
            }
        };
        (Db::open_with(self.options(), self.hooked(threads, hook)).unwrap(), gate)
    }
}

/// Everything that can be done with a table other than the slow one, and with the database as a whole.
fn use_others(db: &Db) {
    let db = db.clone();
    in_time("using other tables", move || {
        let other = db.table("other", small()).unwrap();
        let end = other.stats().keys;
        put(&other, end..end + 9);
        other.flush().unwrap();
        other.seal().unwrap();
        other.run_gc().unwrap();
        check(&other, 0..end + 9);
        assert!(db.stats().tables.keys().any(|name| name.as_str() == "other"));
        assert!(db.tables().unwrap().iter().any(|name| name.as_str() == "other"));
        put(&db.table("new", small()).unwrap(), 0..9);
        db.drop_table("new").unwrap();
        other.close().unwrap();
        check(&db.existing_table("other").unwrap(), 0..end + 9);
    });
}

#[test]
fn other_tables_are_used_while_one_opens() {
    let world = World::new();
    put(&world.open().table("slow", small()).unwrap(), 0..9);
    let (db, gate) = world.with_slow_table(2);
    gate.shut();
    let theirs = db.clone();
    let opening = begin(move || theirs.table("slow", small()).map(drop));
    gate.wait_for(1);
    use_others(&db);
    let theirs = db.clone();
    in_time("flush and upkeep", move || theirs.flush().and_then(|()| theirs.maintain())).unwrap();
    opening.try_recv().unwrap_err();
    gate.open();
    opening.recv_timeout(NEVER).unwrap().unwrap();
    check(&db.existing_table("slow").unwrap(), 0..9);
}

#[test]
fn other_tables_are_used_while_one_is_dropped() {
    let world = World::new();
    let (db, gate) = world.with_slow_table(2);
    put(&db.table("slow", small()).unwrap(), 0..9);
    gate.shut();
    let theirs = db.clone();
    let dropping = begin(move || theirs.drop_table("slow"));
    gate.wait_for(1);
    use_others(&db);
    // Who wants this name gets the new table.
    let theirs = db.clone();
    let again = begin(move || theirs.table("slow", small()));
    gate.open();
    dropping.recv_timeout(NEVER).unwrap().unwrap();
    let again = again.recv_timeout(NEVER).unwrap();
    assert!(again.is_ok_and(|again| again.stats().keys == 0 || again.is_closed()));
}

#[test]
fn other_tables_are_used_while_one_flushes() {
    let world = World::new();
    let (db, gate) = world.with_slow_table(2);
    let slow = db.table("slow", small()).unwrap();
    put(&slow, 0..9);
    gate.shut();
    let theirs = slow.clone();
    let flushing = begin(move || theirs.flush());
    gate.wait_for(1);
    use_others(&db);
    flushing.try_recv().unwrap_err();
    gate.open();
    flushing.recv_timeout(NEVER).unwrap().unwrap();
}

/// Its first segment is created under the lock that orders puts.
#[test]
fn other_tables_are_used_while_a_put_creates_a_segment() {
    let world = World::new();
    let (db, gate) = world.with_slow_table(2);
    let slow = db.table("slow", small()).unwrap();
    gate.shut();
    let theirs = slow.clone();
    let putting = begin(move || put(&theirs, 0..1));
    gate.wait_for(1);
    use_others(&db);
    assert_eq!(slow.stats().keys, 0);
    putting.try_recv().unwrap_err();
    gate.open();
    putting.recv_timeout(NEVER).unwrap();
    assert_eq!(slow.stats().keys, 1);
}

/// Each sync of one table waits until the other table's flush is at its own.
#[test]
fn a_flush_of_all_tables_syncs_several_at_a_time() {
    let world = World::new();
    let met = Arc::new((Mutex::new((false, false)), Condvar::new(), AtomicBool::new(false)));
    let theirs = Arc::clone(&met);
    let hook = move |kind, path: &Path, _| {
        let (here, changed, is_armed) = &*theirs;
        if kind == OpKind::SyncData && is_armed.load(Ordering::Relaxed) {
            let mut here = here.lock();
            here.0 |= path.starts_with("/r0/a") || path.starts_with("/r1/a");
            here.1 |= path.starts_with("/r0/b") || path.starts_with("/r1/b");
            changed.notify_all();
            while *here != (true, true) {
                assert!(!changed.wait_for(&mut here, NEVER).timed_out(), "one after the other");
            }
        }
    };
    let db = Db::open_with(world.options(), world.hooked(1, hook)).unwrap();
    for close in [false, true] {
        for name in ["a", "b"] {
            let table = db.table(name, small()).unwrap();
            let end = table.stats().keys;
            put(&table, end..end + 2);
        }
        *met.0.lock() = (false, false);
        met.2.store(true, Ordering::Relaxed);
        if close {
            db.close().unwrap()
        } else {
            db.flush().unwrap()
        }
        met.2.store(false, Ordering::Relaxed);
    }
}

#[test]
fn a_second_close_returns_when_the_database_is_closed() {
    let world = World::new();
    let (db, gate) = world.with_slow_table(2);
    put(&db.table("slow", small()).unwrap(), 0..1);
    gate.shut();
    let theirs = db.clone();
    let first = begin(move || theirs.close());
    gate.wait_for(1);
    let (theirs, again) = (db.clone(), world.clone());
    let second = begin(move || theirs.close().map(|()| again.open()));
    // If it returned now, the locks would still be held.
    let early = second.recv_timeout(Duration::from_millis(50)).map(|second| second.map(drop));
    gate.open();
    early.unwrap_err();
    first.recv_timeout(NEVER).unwrap().unwrap();
    let found = second.recv_timeout(NEVER).unwrap().unwrap();
    check(&found.existing_table("slow").unwrap(), 0..1);
}

#[test]
fn a_table_that_was_closed_is_opened_again_or_dropped() {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small()).unwrap();
    put(&table, 0..9);
    table.close().unwrap();
    db.flush().unwrap();
    db.maintain().unwrap();
    let again = db.table("t", small().segment_keys(5)).unwrap();
    assert!(table.is_closed() && !again.is_closed() && !table.is_same(&again));
    check(&again, 0..9);
    assert_eq!(table.get(b"k").unwrap_err().kind(), ErrorKind::Closed);
    again.close().unwrap();
    db.drop_table("t").unwrap();
    assert_eq!(db.existing_table("t").unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(world.files("/t/"), [""; 0]);
    db.close().unwrap();
}

/// What was lost with the sync that failed: the puts since the last flush.
#[test]
fn a_table_that_failed_is_closed_and_opened_again_alone() {
    let world = World::new();
    let db = world.open();
    let (table, other) = (db.table("t", small()).unwrap(), db.table("other", small()).unwrap());
    put(&table, 0..3);
    table.flush().unwrap();
    put(&table, 3..4);
    put(&other, 0..3);
    world.fs.fail_op(1, Fault::Eio, false);
    table.flush().unwrap_err();
    assert!(db.table("t", small()).unwrap().is_same(&table), "it is open until it is closed");
    assert_eq!(table.close().unwrap_err().kind(), ErrorKind::Latched);
    let again = db.table("t", small()).unwrap();
    assert!(again.failure().is_none());
    let found = again.stats().keys;
    put(&again, found..9);
    db.flush().unwrap();
    check(&again, 0..9);
    check(&other, 0..3);
    db.close().unwrap();
}

#[test]
fn a_table_that_failed_is_dropped_alone() {
    let world = World::new();
    let db = world.open();
    let (table, other) = (db.table("t", small()).unwrap(), db.table("other", small()).unwrap());
    put(&table, 0..9);
    put(&other, 0..3);
    world.fs.fail_op(1, Fault::Eio, false);
    table.flush().unwrap_err();
    db.drop_table("t").unwrap();
    assert_eq!(table.get(b"k").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(world.files("/t/"), [""; 0]);
    put(&db.table("t", small()).unwrap(), 0..2);
    db.close().unwrap();
    drop((db, table, other));
    let db = world.open();
    check(&db.existing_table("t").unwrap(), 0..2);
    check(&db.existing_table("other").unwrap(), 0..3);
}
