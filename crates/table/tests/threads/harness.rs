//! A table on a simulated disk that may switch to another thread before each change; and a record
//! of its puts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lithdb_env::sync::atomic::AtomicBool;
use lithdb_env::sync::{Condvar, Mutex};
use lithdb_env::{Env, ErrorKind, Pool, Result};
use lithdb_segment::{HandleCache, Position, ReadMode, TableName};
use lithdb_sim::{CrashImage, OpKind, SimClock, SimFs, sim_env};
use lithdb_table::{EventListener, OpenForWriting, Table, TableOptions, TableSetup};
use shuttle::thread::JoinHandle;

use crate::hook::HookFs;
use crate::search::random_below;

/// A value of this length is written after the writer's lock is released.
pub(crate) const LARGE: usize = 64 << 10;

pub(crate) struct Harness {
    pub(crate) fs: SimFs,
    pub(crate) clock: SimClock,
    pub(crate) setup: TableSetup,
    /// Large values wait here before they are written.
    pub(crate) gate: Arc<Gate>,
}

impl Harness {
    /// With one thread in the pool.
    pub(crate) fn new() -> Self {
        let (fs, clock, gate) = (SimFs::new(), SimClock::new(1), Arc::new(Gate::default()));
        fs.make_dirs("/r");
        let (step, theirs) = (AtomicBool::new(false), Arc::clone(&gate));
        let hooked = HookFs::new(Arc::new(fs.clone()), move |kind, path, len| {
            step.load(Ordering::SeqCst);
            let is_value = path.extension().is_some_and(|e| e == "values");
            if kind == OpKind::Write && len >= LARGE && is_value {
                theirs.pass();
            }
        });
        let env = Env {
            fs: Arc::new(hooked),
            clock: Arc::new(clock.clone()),
            pool: Arc::new(Pool::new(1).unwrap()),
            budgets: Default::default(),
        };
        Self { fs, clock, setup: setup(env), gate }
    }

    pub(crate) fn create_and_open(&self, options: &TableOptions) -> Table {
        Table::create(&self.setup).unwrap();
        open(&self.setup, options).unwrap()
    }
}

pub(crate) fn open(setup: &TableSetup, options: &TableOptions) -> Result<Table> {
    let how = OpenForWriting { coalesce: Duration::ZERO };
    Table::open(setup, options, how)
}

fn setup(env: Env) -> TableSetup {
    TableSetup {
        name: TableName::new("t").unwrap(),
        env,
        dirs: vec![PathBuf::from("/r/t")],
        read_mode: ReadMode::Map,
        handles: Arc::new(HandleCache::new(64)),
        listener: EventListener::default(),
        filter: None,
        clock_jump_limit: Duration::from_secs(86_400),
        clock_jump_hold: Duration::from_secs(3600),
    }
}

/// Values outside the key file, in one value file, and segments of so many keys.
pub(crate) fn options(segment_keys: u64) -> TableOptions {
    TableOptions::new().shards(1).inline_max_bytes(16).segment_keys(segment_keys)
}

/// A gate, open at first, at which threads wait while it is closed.
#[derive(Default)]
pub(crate) struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn shut(&self) {
        *self.is_shut.lock() = true;
    }

    pub(crate) fn open(&self) {
        *self.is_shut.lock() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_shut = self.is_shut.lock();
        while *is_shut {
            self.opened.wait(&mut is_shut);
        }
    }
}

/// Starts a thread of the model.
pub(crate) fn go(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    shuttle::thread::spawn(body)
}

pub(crate) fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The value of a key: every key is put with one value.
pub(crate) fn value_of(key: &str) -> Vec<u8> {
    let len = match key.as_bytes()[0] {
        b'L' => LARGE,
        b'i' => 8,
        _ => 40,
    };
    key.bytes().cycle().take(len).collect()
}

/// When the disk fails in the middle of a model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// At the end.
    AtTheEnd,
    /// After this flush, seal or close has returned: the next one, or the one after that.
    AfterFlush(u64),
    /// After so many more changes of the disk.
    AfterChanges(u64),
}

impl Crash {
    pub(crate) fn any() -> Self {
        match random_below(8) {
            0 => Self::AtTheEnd,
            n @ 1..4 => Self::AfterFlush(n % 2),
            _ => Self::AfterChanges(random_below(40)),
        }
    }
}

/// A table, what was put into it, and what of that it reported as durable. No other thread runs
/// between the return of a call and its entry here: this lock is unknown to the model checker.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) table: Table,
    pub(crate) fs: SimFs,
    known: Arc<parking_lot::Mutex<Known>>,
}

struct Known {
    /// Keys whose put has begun, with their threads and numbers.
    started: BTreeMap<String, ()>,
    returned: BTreeMap<String, Position>,
    acknowledged: BTreeMap<String, Position>,
    flushes_to_crash: Option<u64>,
}

impl Client {
    pub(crate) fn new(harness: &Harness, table: Table, crash: Crash) -> Self {
        if let Crash::AfterChanges(changes) = crash {
            harness.fs.crash_after(changes);
        }
        let flushes_to_crash = if let Crash::AfterFlush(n) = crash { Some(n) } else { None };
        let known = Known {
            started: BTreeMap::new(),
            returned: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            flushes_to_crash,
        };
        Self { table, fs: harness.fs.clone(), known: Arc::new(parking_lot::Mutex::new(known)) }
    }

    /// Puts a key, and reads it back at once. `false` if the put was refused.
    pub(crate) fn put(&self, key: &str) -> bool {
        self.known.lock().started.insert(key.to_owned(), ());
        let put = self.table.put(key.as_bytes(), &value_of(key));
        let Ok(at) = put else { return false };
        self.known.lock().returned.insert(key.to_owned(), at);
        self.assert_present(key);
        true
    }

    /// The key was put: it exists, unless the disk has died or failed or the table was closed.
    pub(crate) fn assert_present(&self, key: &str) {
        let is_acknowledged = self.known.lock().acknowledged.contains_key(key);
        match self.table.get(key.as_bytes()) {
            Ok(found) => assert_eq!(found.expect(key), &value_of(key)[..], "{key}"),
            Err(error) => {
                // A failed sync may have discarded the file's content, except what was durable by
                // then.
                let has_failed = self.fs.faults_hit() > 0 && error.kind() == ErrorKind::Corrupt;
                let is_lost = has_failed && !is_acknowledged;
                let may_fail = self.fs.is_dead() || is_lost || error.kind() == ErrorKind::Closed;
                assert!(may_fail, "{key}: {error}");
            }
        }
    }

    /// Everything that was acknowledged exists, unless the disk has died.
    pub(crate) fn assert_acknowledged_present(&self) {
        let keys: Vec<String> = self.known.lock().acknowledged.keys().cloned().collect();
        keys.iter().for_each(|key| self.assert_present(key));
    }

    /// Puts several keys, and stops at the first refusal.
    pub(crate) fn put_all<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        for key in keys {
            if !self.put(key) {
                self.assert_crashed("a put");
                return;
            }
        }
    }

    fn assert_crashed(&self, what: &str) {
        assert!(self.fs.is_dead(), "{what} failed on a disk that works");
    }

    pub(crate) fn returned(&self) -> BTreeMap<String, Position> {
        self.known.lock().returned.clone()
    }

    /// `make_durable` guarantees that everything put before the call is durable.
    pub(crate) fn acknowledge(
        &self,
        make_durable: impl FnOnce(&Table) -> Result<()>,
    ) -> Result<()> {
        let before = self.returned();
        make_durable(&self.table)?;
        let mut known = self.known.lock();
        if self.fs.is_dead() {
            // The call may have completed from memory after the disk died.
            return Ok(());
        }
        known.acknowledged.extend(before);
        if let Some(flushes) = known.flushes_to_crash {
            if flushes == 0 {
                self.fs.crash_after(0);
            }
            known.flushes_to_crash = flushes.checked_sub(1);
        }
        Ok(())
    }

    pub(crate) fn flush(&self) {
        if self.acknowledge(Table::flush).is_err() {
            self.assert_crashed("a flush");
        }
    }

    pub(crate) fn seal(&self) {
        // A seal makes the segment durable: whatever was put before is in it or in an older one.
        if self.acknowledge(Table::seal).is_err() {
            self.assert_crashed("a seal");
        }
    }

    /// Iterates over the table: everything that had been put appears once, in the order of each
    /// thread, and nothing else.
    pub(crate) fn walk(&self) {
        let before = self.returned();
        let walked = self.table.iter().and_then(|iter| {
            let entries = iter.map(|entry| {
                let entry = entry?;
                let key = String::from_utf8(entry.key().to_vec()).unwrap();
                assert_eq!(entry.value()?, &value_of(&key)[..], "{key}");
                Ok(key)
            });
            entries.collect::<Result<Vec<String>>>()
        });
        match walked {
            Ok(keys) => self.check_walk(&before, &keys),
            Err(error) => assert!(self.fs.is_dead(), "walking failed: {error}"),
        }
    }

    fn check_walk(&self, before: &BTreeMap<String, Position>, keys: &[String]) {
        let started = self.known.lock().started.clone();
        let mut last_of_thread = BTreeMap::new();
        for key in keys {
            assert!(started.contains_key(key), "{key} was never put");
            // Keys of one thread have a common prefix and a counter.
            if let Some(last) = last_of_thread.insert(&key[..2], key) {
                assert!(last < key, "{last} before {key} in {keys:?}");
            }
        }
        // A large value in flight hides the records after it, so earlier puts may be hidden, too.
        if !started.keys().any(|key| key.starts_with('L')) {
            for key in before.keys() {
                assert!(keys.contains(key), "{key} is not in {keys:?}");
            }
        }
    }

    /// What is found after a crash: everything acknowledged, a prefix of what was put, and nothing
    /// else.
    pub(crate) fn check_crashes(self, options: &TableOptions) {
        let Self { table, fs, known } = self;
        drop(table);
        assert_eq!(fs.bus_errors(), 0, "read behind the end of a file");
        let known = known.lock();
        let seeded = std::iter::repeat_with(|| CrashImage::Seeded(random_below(u64::MAX))).take(3);
        for image in std::iter::once(CrashImage::Nothing).chain(seeded) {
            let crashed = fs.crash_with(&image);
            check_image(&crashed, &known, options, &image);
        }
    }
}

fn check_image(fs: &SimFs, known: &Known, options: &TableOptions, image: &CrashImage) {
    let setup = setup(sim_env(fs, &SimClock::new(2)));
    let table = match open(&setup, options) {
        Ok(table) => table,
        Err(error) => panic!("{image:?}: {error}"),
    };
    let found: Vec<String> = table
        .iter()
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().key().to_vec()).unwrap())
        .collect();
    for key in &found {
        assert!(known.started.contains_key(key), "{image:?}: {key} was never put");
        assert_eq!(table.get(key.as_bytes()).unwrap().expect(key), &value_of(key)[..], "{image:?}");
    }
    for key in known.acknowledged.keys() {
        assert!(found.contains(key), "{image:?}: {key} was acknowledged; found {found:?}");
    }
    let end = found.iter().filter_map(|key| known.returned.get(key)).max();
    for (key, at) in &known.returned {
        let is_below = end.is_some_and(|end| at <= end);
        assert!(!is_below || found.contains(key), "{image:?}: {key} is a hole in {found:?}");
    }
}
