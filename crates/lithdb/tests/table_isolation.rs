//! Tables do not wait for each other: the disk or the filter of one blocks, and the others stay
//! usable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lithdb::{
    Batch, Components, Db, DbOptions, Error, ErrorKind, Event, EventListener, GcFilter, Position,
    Table, TableOptions,
};
use lithdb_env::{Env, Pool, spawn};
use lithdb_sim::{CrashImage, Fault, OpKind};
use parking_lot::{Condvar, Mutex};
use support::rollback_fixture::hook::{Gate, HookFs};
use support::{Harness, check, put, small};

/// Whatever takes longer counts as blocked forever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `act` on a thread of its own.
fn spawn_with_result<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    // The receiver may have timed out.
    spawn("test", move || drop(sender.send(act()))).unwrap();
    receiver
}

/// Runs something that must not block.
fn with_timeout<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_with_result(act).recv_timeout(TIMEOUT).expect(what)
}

impl Harness {
    /// With a hook before every change of the disk, and `threads` threads in the pool.
    fn hooked(
        &self,
        threads: usize,
        hook: impl Fn(OpKind, &Path, usize) + Send + Sync + 'static,
    ) -> Components {
        let env = Env {
            fs: Arc::new(HookFs::new(Arc::new(self.fs.clone()), hook)),
            clock: Arc::new(self.clock.clone()),
            pool: Arc::new(Pool::new(threads).unwrap()),
            budgets: Default::default(),
        };
        Components { env: Some(env), ..self.components() }
    }

    /// A database whose table `slow` blocks at the gate before each change of its files.
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

/// Every operation on a table other than the slow one, and on the database as a whole.
fn use_others(db: &Db) {
    let db = db.clone();
    with_timeout("using other tables", move || {
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
fn tables_work_while_another_opens() {
    let harness = Harness::new();
    put(&harness.open().table("slow", small()).unwrap(), 0..9);
    let (db, gate) = harness.with_slow_table(2);
    gate.shut();
    let theirs = db.clone();
    let opening = spawn_with_result(move || theirs.table("slow", small()).map(drop));
    gate.wait_for(1);
    use_others(&db);
    let theirs = db.clone();
    with_timeout("flush and maintenance", move || theirs.flush().and_then(|()| theirs.maintain()))
        .unwrap();
    opening.try_recv().unwrap_err();
    gate.open();
    opening.recv_timeout(TIMEOUT).unwrap().unwrap();
    check(&db.existing_table("slow").unwrap(), 0..9);
}

#[test]
fn tables_work_while_another_is_dropped() {
    let harness = Harness::new();
    let (db, gate) = harness.with_slow_table(2);
    let slow = db.table("slow", small()).unwrap();
    put(&slow, 0..9);
    // Seals its full segments, too: only the drop is at the gate.
    slow.flush().unwrap();
    gate.shut();
    let theirs = db.clone();
    let dropping = spawn_with_result(move || theirs.drop_table("slow"));
    gate.wait_for(1);
    use_others(&db);
    // An open of the dropped name gets the new table.
    let theirs = db.clone();
    let again = spawn_with_result(move || theirs.table("slow", small()));
    gate.open();
    dropping.recv_timeout(TIMEOUT).unwrap().unwrap();
    let again = again.recv_timeout(TIMEOUT).unwrap().unwrap();
    assert_eq!(again.stats().keys, 0);
}

#[test]
fn tables_work_while_another_flushes() {
    let harness = Harness::new();
    let (db, gate) = harness.with_slow_table(2);
    let slow = db.table("slow", small()).unwrap();
    put(&slow, 0..9);
    gate.shut();
    let theirs = slow.clone();
    let flushing = spawn_with_result(move || theirs.flush());
    gate.wait_for(1);
    use_others(&db);
    flushing.try_recv().unwrap_err();
    gate.open();
    flushing.recv_timeout(TIMEOUT).unwrap().unwrap();
}

/// Its first segment is created under the lock that orders puts.
#[test]
fn tables_work_while_a_put_elsewhere_creates_a_segment() {
    let harness = Harness::new();
    let (db, gate) = harness.with_slow_table(2);
    let slow = db.table("slow", small()).unwrap();
    gate.shut();
    let theirs = slow.clone();
    let putting = spawn_with_result(move || put(&theirs, 0..1));
    gate.wait_for(1);
    use_others(&db);
    assert_eq!(slow.stats().keys, 0);
    putting.try_recv().unwrap_err();
    gate.open();
    putting.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(slow.stats().keys, 1);
}

/// Each sync of one table waits until the other table's flush reaches its own sync.
#[test]
fn flushing_all_tables_syncs_several_in_parallel() {
    let harness = Harness::new();
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
                assert!(
                    !changed.wait_for(&mut here, TIMEOUT).timed_out(),
                    "the flushes run one after the other"
                );
            }
        }
    };
    let db = Db::open_with(harness.options(), harness.hooked(1, hook)).unwrap();
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
fn second_close_waits_until_the_database_is_closed() {
    let harness = Harness::new();
    let (db, gate) = harness.with_slow_table(2);
    put(&db.table("slow", small()).unwrap(), 0..1);
    gate.shut();
    let theirs = db.clone();
    let first = spawn_with_result(move || theirs.close());
    gate.wait_for(1);
    let (theirs, again) = (db.clone(), harness.clone());
    let second = spawn_with_result(move || theirs.close().map(|()| again.open()));
    // If it had returned already, the locks would still be held.
    let early = second.recv_timeout(Duration::from_millis(50)).map(|second| second.map(drop));
    gate.open();
    early.unwrap_err();
    first.recv_timeout(TIMEOUT).unwrap().unwrap();
    let found = second.recv_timeout(TIMEOUT).unwrap().unwrap();
    check(&found.existing_table("slow").unwrap(), 0..1);
}

#[test]
fn closed_table_can_be_reopened_or_dropped() {
    let harness = Harness::new();
    let db = harness.open();
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
    assert_eq!(harness.files("/t/"), [""; 0]);
    db.close().unwrap();
}

/// The failed sync lost the puts since the last flush.
#[test]
fn failed_table_can_be_closed_and_reopened_alone() {
    let harness = Harness::new();
    let db = harness.open();
    let (table, other) = (db.table("t", small()).unwrap(), db.table("other", small()).unwrap());
    put(&table, 0..3);
    table.flush().unwrap();
    put(&table, 3..4);
    put(&other, 0..3);
    harness.fs.fail_op(1, Fault::Eio, false);
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
fn failed_table_can_be_dropped_alone() {
    let harness = Harness::new();
    let db = harness.open();
    let (table, other) = (db.table("t", small()).unwrap(), db.table("other", small()).unwrap());
    put(&table, 0..9);
    put(&other, 0..3);
    harness.fs.fail_op(1, Fault::Eio, false);
    table.flush().unwrap_err();
    db.drop_table("t").unwrap();
    assert_eq!(table.get(b"k").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(harness.files("/t/"), [""; 0]);
    put(&db.table("t", small()).unwrap(), 0..2);
    db.close().unwrap();
    drop((db, table, other));
    let db = harness.open();
    check(&db.existing_table("t").unwrap(), 0..2);
    check(&db.existing_table("other").unwrap(), 0..3);
}

/// On a real disk, with the database's own threads.
struct Running {
    _dir: tempfile::TempDir,
    options: DbOptions,
    gate: Arc<Gate>,
    events: Receiver<Event>,
    components: Components,
}

impl Running {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = DbOptions::new([dir.path().join("db")])
            .gc_interval(Duration::from_millis(2))
            .auto_flush(None, Some(Duration::from_millis(2)));
        options.idle_after = Duration::from_millis(5);
        let gate = Arc::new(Gate::default());
        let theirs = Arc::clone(&gate);
        let mut env = Env::os(2).unwrap();
        env.fs = Arc::new(HookFs::new(env.fs, move |_, path: &Path, _| {
            if path.components().any(|p| p.as_os_str().as_encoded_bytes().starts_with(b"slow")) {
                theirs.pass();
            }
        }));
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let listener = EventListener::new(move |event| drop(sender.lock().send(event.clone())));
        let components = Components { listener, env: Some(env), without_maintenance: false };
        Self { _dir: dir, options, gate, events, components }
    }

    fn open(&self) -> Db {
        Db::open_with(self.options.clone(), self.components.clone()).unwrap()
    }

    fn wait(&self, mut is_it: impl FnMut(&Event) -> bool) {
        while !is_it(&self.events.recv_timeout(TIMEOUT).expect("an event")) {}
    }
}

fn wait_durable_by_itself(table: &Table, at: Position) {
    let began = Instant::now();
    while table.durable_position() <= at {
        assert!(began.elapsed() < TIMEOUT, "never flushed");
        std::thread::yield_now();
    }
}

/// More tables than the initial number of threads of any kind.
const BLOCKED_TABLES: usize = 5;

/// Checks that a table is written, flushed, sealed by age and collected in the background.
fn check_background_work(running: &Running, db: &Db, name: &str) {
    let ms = Duration::from_millis(10);
    let table = db.table(name, TableOptions::new().ttl(ms).segment_age(ms)).unwrap();
    for round in 0..3 {
        let at = table.put(format!("{round}").as_bytes(), b"v").unwrap();
        wait_durable_by_itself(&table, at);
        running.wait(|e| matches!(e, Event::Collected { table, .. } if table.as_str() == name));
    }
}

#[test]
fn maintenance_and_collection_continue_while_filters_hang() {
    let running = Running::new();
    let db = running.open();
    let gate = Arc::new(Gate::default());
    let shut = gate.shut_until_dropped();
    let theirs = Arc::clone(&gate);
    let hangs = GcFilter::new(move |_, _| {
        theirs.pass();
        Ok(true)
    });
    let filtered: Vec<_> = (0..BLOCKED_TABLES)
        .map(|n| {
            let name = format!("filtered{n}");
            let table = db.table_with_filter(&name, TableOptions::new(), hangs.clone()).unwrap();
            table.put(b"k", b"v").unwrap();
            table.seal().unwrap();
            table
        })
        .collect();
    with_timeout("all filters called", {
        let gate = Arc::clone(&gate);
        move || gate.wait_for(BLOCKED_TABLES)
    });
    check_background_work(&running, &db, "other");
    let agrees = GcFilter::new(|_, _| Ok(true));
    let also = db.table_with_filter("also", TableOptions::new(), agrees).unwrap();
    also.put(b"k", b"v").unwrap();
    also.seal().unwrap();
    running.wait(|e| matches!(e, Event::Collected { table, .. } if table.as_str() == "also"));
    // The tables stay usable, too, except for their collection.
    with_timeout("using a filtered table", {
        let table = filtered[0].clone();
        move || {
            table.set_ttl(Some(Duration::from_secs(1))).and_then(|()| table.set_ttl(None)).unwrap();
            table.accept_clock().unwrap();
            let at = table.put(b"l", b"v").unwrap();
            wait_durable_by_itself(&table, at);
        }
    });
    drop(shut);
    let mut left = BLOCKED_TABLES;
    running.wait(|e| {
        left -= usize::from(
            matches!(e, Event::Collected { table, .. } if table.as_str().starts_with("filtered")),
        );
        left == 0
    });
    db.close().unwrap();
}

#[test]
fn maintenance_continues_while_table_disks_hang() {
    let mut running = Running::new();
    // Reserved space is kept, so that a put does not wait for a disk.
    running.options.idle_after = Duration::from_secs(3600);
    let db = running.open();
    let open = |n| db.table(&format!("slow{n}"), TableOptions::new()).unwrap();
    let slow: Vec<_> = (0..BLOCKED_TABLES).map(open).collect();
    for slow in &slow {
        slow.put(b"k", b"v").unwrap();
    }
    let shut = running.gate.shut_until_dropped();
    let put = |slow: &Table| slow.put(b"l", b"v").unwrap();
    let ends: Vec<_> = slow.iter().map(put).collect();
    with_timeout("maintenance of all tables", {
        let gate = Arc::clone(&running.gate);
        move || gate.wait_for(BLOCKED_TABLES)
    });
    check_background_work(&running, &db, "other");
    for (slow, at) in slow.iter().zip(&ends) {
        assert!(slow.durable_position() <= *at);
    }
    drop(shut);
    for (slow, at) in slow.iter().zip(&ends) {
        wait_durable_by_itself(slow, *at);
    }
    db.close().unwrap();
}

/// A put that waits for its source holds the table's lock, which blocks every thread that
/// maintains that table.
#[test]
fn maintenance_continues_while_value_sources_hang() {
    let running = Running::new();
    let db = running.open();
    let gate = Arc::new(Gate::default());
    let shut = gate.shut_until_dropped();
    let putting: Vec<_> = (0..BLOCKED_TABLES)
        .map(|n| {
            let table = db.table(&format!("t{n}"), TableOptions::new()).unwrap();
            let theirs = BlockedSource { gate: Arc::clone(&gate), left: 2 << 20 };
            spawn_with_result(move || table.put_from(b"k", 0, &mut { theirs }))
        })
        .collect();
    with_timeout("all sources", {
        let gate = Arc::clone(&gate);
        move || gate.wait_for(BLOCKED_TABLES)
    });
    for n in 0..3 {
        check_background_work(&running, &db, &format!("other{n}"));
    }
    drop(shut);
    for put in putting {
        put.recv_timeout(TIMEOUT).unwrap().unwrap();
    }
    db.close().unwrap();
}

/// A source that blocks at the gate half-way.
struct BlockedSource {
    gate: Arc<Gate>,
    left: usize,
}

impl std::io::Read for BlockedSource {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        if self.left <= 1 << 20 {
            self.gate.pass();
        }
        let len = self.left.min(room.len());
        self.left -= len;
        room[..len].fill(7);
        Ok(len)
    }
}

/// A panic leaves unknown work undone: the table latches and reports it. The others continue.
#[test]
fn panic_in_maintenance_latches_only_its_table() {
    let harness = Harness::new();
    let is_armed = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&is_armed);
    let hook = move |kind, path: &Path, _| {
        if kind == OpKind::Write && path == Path::new("/r0/t/table.state") {
            assert!(!armed.load(Ordering::Relaxed), "injected panic");
        }
    };
    let mut components = harness.hooked(0, hook);
    components.without_maintenance = true;
    let options = harness.options().auto_flush(Some(1), None);
    let db = Db::open_with(options, components).unwrap();
    let (table, other) = (db.table("t", small()).unwrap(), db.table("u", small()).unwrap());
    put(&table, 0..2);
    put(&other, 0..2);
    // The time is recorded on the thread that runs maintenance, not in the pool, which has its own
    // error for a panic.
    harness.clock.advance(Duration::from_secs(3600));
    is_armed.store(true, Ordering::Relaxed);
    db.maintain().unwrap_err();
    assert!(table.failure().is_some());
    assert_eq!(table.put(b"k", b"v").unwrap_err().kind(), ErrorKind::Latched);
    assert_eq!(other.durable_position(), other.stats().log_end);
    let latched = harness.take_events();
    let latched = latched.iter().filter(|e| matches!(e, Event::Latched { .. }));
    assert_eq!(latched.map(|e| e.table().as_str().to_owned()).collect::<Vec<_>>(), ["t"]);
    is_armed.store(false, Ordering::Relaxed);
    db.maintain().unwrap_err();
    put(&other, 2..4);
    other.flush().unwrap();
    assert!(db.close().is_err());
}

type Handles = Arc<Mutex<(Option<Db>, Option<Table>)>>;

/// Makes every call, and returns those that were not refused as calls from a callback.
fn calls(db: &Db, table: Option<&Table>) -> Vec<&'static str> {
    let mut done = vec![
        ("table", db.table("new", small()).err()),
        ("existing_table", db.existing_table("t").err()),
        ("table_with_filter", db.table_with_filter("t", small(), no_filter()).err()),
        ("tables", db.tables().err()),
        ("drop_table", db.drop_table("t").err()),
        ("Db::flush", db.flush().err()),
        ("Db::refresh", db.refresh().err()),
        ("maintain", db.maintain().err()),
        ("Db::close", db.close().err()),
    ];
    let _ = (db.stats(), db.roots(), db.is_read_only(), format!("{db:?}"));
    if let Some(table) = table {
        let mut batch = Batch::new();
        batch.put(b"k", b"v");
        done.extend([
            ("get", table.get(b"k").err()),
            ("contains", table.contains(b"k").err()),
            ("put", table.put(b"k", b"v").err()),
            ("put_with", table.put_with(b"k", b"v", &[]).err()),
            ("put_batch", table.put_batch(&batch).err()),
            ("flush", table.flush().err()),
            ("wait_durable", table.wait_durable(Position::default()).err()),
            ("seal", table.seal().err()),
            ("set_shards", table.set_shards(1).err()),
            ("set_ttl", table.set_ttl(None).err()),
            ("accept_clock", table.accept_clock().err()),
            ("run_gc", table.run_gc().err()),
            ("run_gc_without_filter", table.run_gc_without_filter().err()),
            ("iter", table.iter().err()),
            ("iter_from", table.iter_from(b"k").err()),
            ("oldest_key", table.oldest_key().err()),
            ("newest_key", table.newest_key().err()),
            ("refresh", table.refresh().err()),
            ("verify_keymap", table.verify_keymap(&mut |_| {}).err()),
            ("close", table.close().err()),
        ]);
        let _ = (table.stats(), table.durable_position(), table.failure(), table.has_gc_filter());
        let _ = (table.name(), table.options(), table.is_read_only(), format!("{table:?}"));
    }
    let is_refused = |error: &Option<Error>| {
        let error = error.as_ref().filter(|error| error.kind() == ErrorKind::InvalidArgument);
        error.is_some_and(|error| error.to_string().contains("called the database"))
    };
    done.into_iter().filter(|(_, error)| !is_refused(error)).map(|(call, _)| call).collect()
}

fn no_filter() -> GcFilter {
    GcFilter::new(|_, _| Ok(false))
}

/// Every event, on whatever thread and under whatever locks it occurs.
#[test]
fn calls_from_listeners_and_filters_are_refused() {
    for threads in [0, 2] {
        with_timeout("calls from callbacks", move || call_from_everywhere(threads));
    }
}

fn call_from_everywhere(threads: usize) {
    let harness = Harness::new();
    let handles: Handles = Arc::default();
    let recorded: Arc<Mutex<BTreeMap<&'static str, Vec<&'static str>>>> = Arc::default();
    let call = {
        let (handles, recorded) = (Arc::clone(&handles), Arc::clone(&recorded));
        move |from: &'static str| {
            let (db, table) = handles.lock().clone();
            if let Some(db) = db {
                let done = calls(&db, table.as_ref());
                recorded.lock().entry(from).or_default().extend(done);
            }
        }
    };
    let listen = call.clone();
    let listener = EventListener::new(move |event| {
        listen(match event {
            Event::Sealed { .. } => "Sealed",
            Event::Collected { .. } => "Collected",
            Event::Latched { .. } => "Latched",
            Event::Recovered { .. } => "Recovered",
            Event::ClockJump { .. } => "ClockJump",
            Event::GcPaused { .. } => "GcPaused",
            _ => "another event",
        });
    });
    let mood = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&mood);
    let filter = GcFilter::new(move |_, _| {
        call("filter");
        match theirs.load(Ordering::Relaxed) {
            0 => Err(Error::new(ErrorKind::Io, "no idea")),
            _ => Ok(true),
        }
    });
    let open = || {
        let components =
            Components { listener: listener.clone(), ..harness.hooked(threads, |_, _, _| {}) };
        Db::open_with(harness.options(), components).unwrap()
    };
    let db = open();
    let table = db.table_with_filter("t", small(), filter.clone()).unwrap();
    *handles.lock() = (Some(db.clone()), Some(table.clone()));
    put(&table, 0..9); // sealed under the writer's lock, or in the pool
    table.flush().unwrap();
    table.run_gc().unwrap_err();
    mood.store(1, Ordering::Relaxed);
    table.run_gc().unwrap();
    harness.clock.jump(400 * 86_400_000);
    table.run_gc().unwrap();
    // A file that cannot be created, under the writer's lock, and a failing write.
    harness.fs.fail_op(1, Fault::Eio, true);
    while table.put(b"more", [1; 100]).is_ok() {}
    table.set_ttl(Some(Duration::from_secs(1))).unwrap_err();
    assert!(table.failure().is_some());
    harness.fs.clear_faults();
    *handles.lock() = (None, None);
    db.close().unwrap_err();
    drop((db, table));
    let found = harness.fs.crash_with(&CrashImage::Everything);
    let harness = harness.on(found);
    let components = Components { listener, ..harness.hooked(threads, |_, _, _| {}) };
    let db = Db::open_with(harness.options(), components).unwrap();
    handles.lock().0 = Some(db.clone());
    let table = db.table_with_filter("t", small(), filter).unwrap();
    put(&table, 10..19);
    // A failing sync in a flush.
    harness.fs.fail_op(1, Fault::Eio, true);
    table.flush().unwrap_err();
    *handles.lock() = (None, None);
    let recorded = recorded.lock();
    for from in ["Sealed", "Collected", "Latched", "Recovered", "ClockJump", "GcPaused", "filter"] {
        assert_eq!(
            recorded.get(from),
            Some(&Vec::new()),
            "{from}, {threads} threads: {recorded:?}"
        );
    }
}

/// A separate thread closes the database, and its locks are released.
#[test]
fn last_handle_may_be_dropped_in_a_listener() {
    let harness = Harness::new();
    let gate = Arc::new(Gate::default());
    let handles: Handles = Arc::default();
    let (theirs, inside) = (Arc::clone(&gate), Arc::clone(&handles));
    let hook = move |kind, _: &Path, _| {
        if kind == OpKind::SyncData || kind == OpKind::SyncAll {
            theirs.pass();
        }
    };
    let listener = EventListener::new(move |_| drop(std::mem::take(&mut *inside.lock())));
    let components = Components { listener, ..harness.hooked(1, hook) };
    let db = Db::open_with(harness.options(), components).unwrap();
    let table = db.table("t", small()).unwrap();
    put(&table, 0..1);
    gate.shut();
    put(&table, 1..6); // sealed in the pool, as soon as the gate is open
    gate.wait_for(1);
    *handles.lock() = (Some(db), Some(table));
    gate.open();
    wait_until_open(|| harness.try_open());
    check(&harness.open().existing_table("t").unwrap(), 0..6);
}

#[test]
fn last_handle_may_be_dropped_in_a_filter() {
    let running = Running::new();
    let db = running.open();
    let handles: Handles = Arc::default();
    let inside = Arc::clone(&handles);
    let filter = GcFilter::new(move |_, _| {
        drop(std::mem::take(&mut *inside.lock()));
        Ok(false)
    });
    let table = db.table_with_filter("t", TableOptions::new(), filter).unwrap();
    table.put(b"k", b"v").unwrap();
    table.seal().unwrap();
    *handles.lock() = (Some(db), Some(table));
    wait_until_open(|| Db::open_with(running.options.clone(), running.components.clone()));
}

fn wait_until_open(open: impl Fn() -> lithdb::Result<Db>) {
    let began = Instant::now();
    while let Err(error) = open() {
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(began.elapsed() < TIMEOUT, "never closed");
        std::thread::yield_now();
    }
}
