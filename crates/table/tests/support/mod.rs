//! A table on a simulated disk.

// Clippy's exceptions for tests do not cover shared test code.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod closed_table;
pub mod hook;
pub mod oracle;
pub mod script;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::Env;
use lithdb_segment::{HandleCache, ReadMode, TableName};
use lithdb_sim::{SimClock, SimFs, sim_env};
use lithdb_table::{EventListener, OpenForWriting, Table, TableOptions, TableSetup};

pub const DAY: Duration = Duration::from_secs(86_400);

/// A disk with so many roots, a clock, and a table called `t`.
pub struct Harness {
    pub fs: SimFs,
    pub clock: SimClock,
    pub roots: usize,
    pub setup: TableSetup,
}

impl Harness {
    pub fn new(roots: usize) -> Self {
        let fs = SimFs::new();
        for n in 0..roots {
            fs.make_dirs(format!("/r{n}"));
        }
        Self::on(fs, SimClock::new(1), roots)
    }

    /// The same harness on another disk: after a crash, for example.
    pub fn on(fs: SimFs, clock: SimClock, roots: usize) -> Self {
        let setup = setup(sim_env(&fs, &clock), roots);
        Self { fs, clock, roots, setup }
    }

    pub fn after_crash(&self, fs: SimFs) -> Self {
        Self::on(fs, self.clock.clone(), self.roots)
    }

    pub fn create(&self) -> lithdb_env::Result<()> {
        Table::create(&self.setup)
    }

    pub fn open(&self, options: &TableOptions) -> lithdb_env::Result<Table> {
        let how = OpenForWriting { coalesce: Duration::ZERO };
        Table::open(&self.setup, options, how)
    }

    pub fn create_and_open(&self, options: &TableOptions) -> Table {
        self.create().unwrap();
        self.open(options).unwrap()
    }
}

pub fn setup(env: Env, roots: usize) -> TableSetup {
    TableSetup {
        name: TableName::new("t").unwrap(),
        env,
        dirs: (0..roots).map(|n| PathBuf::from(format!("/r{n}/t"))).collect(),
        read_mode: ReadMode::Map,
        handles: Arc::new(HandleCache::new(64)),
        listener: EventListener::default(),
        filter: None,
        clock_jump_limit: DAY,
        clock_jump_hold: Duration::from_secs(3600),
    }
}

/// Small segments, so that a few puts fill several.
pub fn small() -> TableOptions {
    TableOptions::new().segment_keys(4).inline_max_bytes(16)
}

/// A thread with a result.
pub struct Running<T>(std::thread::JoinHandle<()>, std::sync::mpsc::Receiver<T>);

pub fn run<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Running<T> {
    let (tell, hear) = std::sync::mpsc::channel();
    let handle = lithdb_env::spawn("test", move || drop(tell.send(body())));
    Running(handle.unwrap(), hear)
}

impl<T> Running<T> {
    pub fn join(self) -> T {
        self.0.join().unwrap();
        self.1.recv().unwrap()
    }
}
