//! A database on a simulated disk of two roots, with a clock that the test controls and no
//! background thread.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod rollback_fixture;
pub mod scenarios;

use std::sync::Arc;

use lithdb::{Components, Db, DbOptions, Event, EventListener, Result, TableOptions};
use lithdb_sim::{CrashImage, SimClock, SimFs, sim_env};
use parking_lot::Mutex;

#[derive(Clone)]
pub struct Harness {
    pub fs: SimFs,
    pub clock: SimClock,
    pub events: Arc<Mutex<Vec<Event>>>,
}

impl Harness {
    pub fn new() -> Self {
        Self { fs: SimFs::new(), clock: SimClock::new(1), events: Arc::default() }
    }

    /// The same harness with another disk.
    pub fn on(&self, fs: SimFs) -> Self {
        Self { fs, clock: self.clock.clone(), events: Arc::default() }
    }

    /// The harness on the disk after a power loss.
    pub fn after_crash(&self, image: &CrashImage) -> Self {
        self.on(self.fs.crash_with(image))
    }

    pub fn options(&self) -> DbOptions {
        DbOptions::new(["/r0", "/r1"])
    }

    pub fn components(&self) -> Components {
        let events = Arc::clone(&self.events);
        Components {
            listener: EventListener::new(move |event| events.lock().push(event.clone())),
            env: Some(sim_env(&self.fs, &self.clock)),
            without_maintenance: true,
        }
    }

    pub fn try_open(&self) -> Result<Db> {
        Db::open_with(self.options(), self.components())
    }

    pub fn open(&self) -> Db {
        self.try_open().unwrap()
    }

    pub fn try_read(&self) -> Result<Db> {
        Db::open_read_only_with(self.options(), self.components())
    }

    pub fn read(&self) -> Db {
        self.try_read().unwrap()
    }

    /// The events since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
    }

    /// All files whose path contains `part`.
    pub fn files(&self, part: &str) -> Vec<String> {
        let paths =
            self.fs.file_paths().into_iter().map(|path| path.to_string_lossy().into_owned());
        paths.filter(|path| path.contains(part)).collect()
    }
}

/// Four keys to a segment; values above 16 bytes are in value files.
pub fn small() -> TableOptions {
    TableOptions::new().segment_keys(4).inline_max_bytes(16)
}

/// The value of number `n`: some inline, most not.
pub fn value(n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(5) { 10 } else { 100 + n as usize % 50 };
    (0..len).map(|i| (n as usize * 31 + i) as u8).collect()
}

pub fn key(n: u64) -> Vec<u8> {
    format!("key-{n:04}").into_bytes()
}

/// Puts numbers `range`.
pub fn put(table: &lithdb::Table, range: std::ops::Range<u64>) {
    for n in range {
        table.put(key(n), value(n)).unwrap();
    }
}

/// The table holds exactly the numbers in `range`.
pub fn check(table: &lithdb::Table, range: std::ops::Range<u64>) {
    let mut entries = table.iter().unwrap();
    for n in range.clone() {
        assert_eq!(table.get(key(n)).unwrap().unwrap(), &*value(n), "get of {n}");
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.key(), key(n));
        assert_eq!(entry.value().unwrap(), &*value(n));
    }
    assert!(entries.next().is_none());
    for n in [range.end, range.end + 1].into_iter().chain(range.start.checked_sub(1)) {
        assert_eq!(table.get(key(n)).unwrap(), None);
    }
}
