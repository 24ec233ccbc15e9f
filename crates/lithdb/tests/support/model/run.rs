//! A running history: its operations, and the model's knowledge.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lithdb::{
    Components, Db, DbOptions, DuplicateKeys, Error, ErrorKind, ReadMode, Table, TableOptions,
};
use lithdb_env::{Clock, UnixMillis};
use lithdb_sim::{Fault, Pages, SimClock, SimFs, sim_env};

use super::check::{Identities, Link};
use super::expect::Expected;
use super::op::{Crash, Environment, Op, TABLES};
use super::process::ProcessFs;

pub const NAMES: [&str; TABLES] = ["a", "b", "c"];

thread_local! {
    static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one more of `what`.
pub fn count(what: &'static str) {
    add(what, 1);
}

fn add(what: &'static str, more: u64) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(what).or_default() += more);
}

/// The counts of this thread since the last call.
pub fn take_counts() -> BTreeMap<&'static str, u64> {
    COUNTS.take()
}

/// A process that has the database open for writing.
pub struct Process {
    pub fs: ProcessFs,
    pub db: Db,
    pub tables: [Option<Table>; TABLES],
}

/// A process that has it open for reading.
pub struct Reader {
    pub fs: ProcessFs,
    pub db: Db,
}

/// A running history.
pub struct Run {
    pub environment: Environment,
    pub disk: SimFs,
    pub clock: SimClock,
    pub process: Option<Process>,
    pub reader: Option<Reader>,
    pub expected: [Expected; TABLES],
    /// If a rollback may have happened: the contents after it.
    pub rolled_back: Option<[Expected; TABLES]>,
    /// The planned crash.
    pub soon: Option<Crash>,
    /// A crash planned for the start of the next open, and a read of that open that is to fail.
    pub in_opening: Option<(u64, Crash)>,
    pub failing_read: Option<u64>,
    /// Hard links, whose bytes never change.
    pub links: Vec<Link>,
    pub power_losses: u64,
    pub identities: Identities,
    /// The number of faults that had triggered when the process started.
    pub hits: u64,
    pub serial: u64,
    /// How many milliseconds the wall clock is ahead, and whether it was ever wrong.
    pub wall_ahead: i64,
    pub was_wrong: bool,
    /// The current operation, for messages.
    pub context: String,
}

/// The options of each table: few keys to a segment, and different in every relevant option.
pub fn options(table: usize) -> TableOptions {
    let options = TableOptions::new();
    match table {
        0 => options.segment_keys(6).inline_max_bytes(16),
        1 => options.segment_keys(14).inline_max_bytes(64),
        _ => options
            .segment_keys(9)
            .inline_max_bytes(0)
            .shards(2)
            .duplicate_keys(DuplicateKeys::Reject),
    }
}

impl Run {
    pub fn new(environment: Environment) -> Self {
        let disk = SimFs::new();
        disk.short_transfers(environment.short_transfers);
        let mut run = Self {
            environment,
            disk,
            clock: SimClock::new(1),
            process: None,
            reader: None,
            expected: Default::default(),
            rolled_back: None,
            soon: None,
            in_opening: None,
            failing_read: None,
            links: Vec::new(),
            power_losses: 0,
            identities: Identities::default(),
            hits: 0,
            serial: 0,
            wall_ahead: 0,
            was_wrong: false,
            context: "the beginning".into(),
        };
        count("histories");
        run.open();
        run
    }

    pub fn now(&self) -> u64 {
        self.clock.now().0
    }

    /// The time that has really passed, whatever the wall clock shows.
    pub fn true_now(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64
    }

    pub fn roots(&self) -> Vec<PathBuf> {
        (0..self.environment.roots).map(|n| PathBuf::from(format!("/r{n}"))).collect()
    }

    pub fn options(&self) -> DbOptions {
        let mode = if self.environment.pread { ReadMode::Pread } else { ReadMode::Map };
        DbOptions::new(self.roots()).read_mode(mode)
    }

    pub fn components(&self, fs: &ProcessFs) -> Components {
        let mut env = sim_env(&self.disk, &self.clock);
        env.fs = Arc::new(fs.clone());
        Components { env: Some(env), without_maintenance: true, ..Components::default() }
    }

    /// Whether the machine or the writing process has crashed.
    pub fn has_crashed(&self) -> bool {
        self.disk.is_dead() || self.process.as_ref().is_some_and(|process| process.fs.is_killed())
    }

    /// Whether something has failed that explains errors.
    pub fn is_excused(&self) -> bool {
        self.has_crashed() || self.disk.faults_hit() > self.hits
    }

    /// The table, if it is open and certain to exist.
    pub fn table(&self, n: usize) -> Option<Table> {
        let table = self.process.as_ref()?.tables[n].clone();
        table.filter(|_| !self.expected[n].in_doubt)
    }

    /// Asserts that a failure explains the error, and that the error reports no more than that.
    pub fn assert_excused(&self, error: &Error) {
        assert!(self.is_excused(), "{}: nothing has failed: {error}", self.context);
        self.assert_is_disk_error(error);
    }

    /// Asserts an error of a failing disk: it is never reported as corruption or absence.
    pub fn assert_is_disk_error(&self, error: &Error) {
        let kinds =
            [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Latched, ErrorKind::Exhausted];
        assert!(kinds.contains(&error.kind()), "{}: {:?}: {error}", self.context, error.kind());
    }

    /// Checks the result of a write operation on a table: a latched table refuses, and a failed
    /// write or sync latches.
    pub fn check_result<T>(&self, table: &Table, was_latched: bool, done: &lithdb::Result<T>) {
        let context = &self.context;
        match done {
            Ok(_) => assert!(!was_latched, "{context}: a latched table did something"),
            Err(error) if self.has_crashed() => self.assert_is_disk_error(error),
            Err(error) if was_latched => {
                assert_eq!(error.kind(), ErrorKind::Latched, "{context}: {error}");
            }
            Err(error) => {
                self.assert_excused(error);
                assert!(
                    !error.latches() || table.failure().is_some(),
                    "{context}: failed and is not latched: {error}"
                );
            }
        }
    }

    /// Executes one step.
    pub fn step(&mut self, op: &Op) {
        self.context = format!("{op:?}");
        count("operations");
        count(op.kind());
        let (disk, hits) = (self.disk.clone(), self.disk.faults_hit());
        self.act(op);
        add("faults injected", disk.faults_hit() - hits);
        assert_eq!(self.disk.bus_errors(), 0, "{}: read past the end of a file", self.context);
        if self.has_crashed() {
            let crash = self.soon.take().unwrap_or(Crash::Kill);
            self.crash(crash);
            self.open();
        }
        for n in 0..TABLES {
            let Some(table) = self.table(n) else { continue };
            self.expected[n].note_mutable_segment(table.stats().log_end.segment.0, self.true_now());
            if table.failure().is_some() {
                self.assert_reads_work(n, &table);
            }
        }
    }

    /// The last step: closes everything, and opens it once more.
    pub fn end(mut self) {
        self.context = "the end".into();
        self.close();
        self.open();
        self.check_everything_expires();
        self.reader = None;
        self.close();
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Put { table, item } => self.put(*table, std::slice::from_ref(item), false),
            Op::Batch { table, items } => self.put(*table, items, true),
            Op::Flush { table } => self.flush(*table),
            Op::FlushAll => {
                let flushed = self.process.as_ref().map(|process| process.db.flush());
                match flushed {
                    Some(Ok(())) => (0..TABLES).for_each(|n| self.all_durable(n)),
                    Some(Err(error)) => self.assert_excused(&error),
                    None => {}
                }
            }
            Op::WaitDurable { table, back } => self.wait_durable(*table, usize::from(*back)),
            Op::Get { table, back } => self.get(*table, usize::from(*back)),
            Op::Walk { table, from, turns } => self.walk(*table, *from, *turns),
            Op::Seal { table: n } => {
                let Some(table) = self.table(*n) else { return };
                let was_latched = table.failure().is_some();
                let sealed = table.seal();
                self.check_result(&table, was_latched, &sealed);
                if sealed.is_ok() {
                    self.all_durable(*n);
                }
            }
            Op::Gc { table } => {
                self.gc(*table);
            }
            Op::Maintenance => self.maintenance(),
            Op::Advance { secs } => self.clock.advance(Duration::from_secs(*secs)),
            Op::Jump { table, accept } => self.jump(*table, *accept),
            Op::WallClock(wall) => {
                self.set_wall(wall.ahead());
                self.maintenance();
                if !self.is_excused() {
                    self.note_wall_clock_seen(false);
                }
            }
            Op::Stop { crash, secs, wall } => {
                match crash {
                    Some(crash) => self.crash(*crash),
                    None => drop(self.close()),
                }
                self.clock.advance(Duration::from_secs(*secs));
                if let Some(wall) = wall {
                    self.set_wall(wall.ahead());
                }
                self.open();
            }
            Op::Run { secs } => self.run_for(*secs),
            Op::Accept { table } => self.accept(*table),
            Op::Ttl { table, secs } => self.set_ttl(*table, *secs),
            Op::Shards { table, shards } => {
                if let Some(table) = self.table(*table).filter(|table| table.failure().is_none()) {
                    table.set_shards(*shards).unwrap();
                }
            }
            Op::Create { table } => drop(self.create(*table)),
            Op::Drop { table } => self.drop_table(*table),
            Op::Snapshot { stopped } => self.snapshot(*stopped),
            Op::Read => self.read(),
            Op::Refresh => self.refresh(),
            Op::EndRead => self.reader = None,
            Op::Reopen => {
                self.close();
                self.open();
            }
            Op::Crash(crash) => {
                self.crash(*crash);
                self.open();
            }
            Op::CrashSoon { after, crash } => {
                self.soon = Some(*crash);
                match (crash, &self.process) {
                    (Crash::Power(_), _) => self.disk.crash_after(*after),
                    (Crash::Kill, Some(process)) => process.fs.kill_after(*after),
                    (Crash::Kill, None) => {}
                }
            }
            Op::CrashInOpening { first, after, second } => {
                self.crash(*first);
                self.in_opening = Some((*after, *second));
                self.open();
            }
            Op::FaultSoon { after, fault, sticky } => {
                if let Some(process) = &self.process {
                    plan_fault(&self.disk, &process.fs, *after, *fault, *sticky);
                }
            }
            Op::ReadFault { after, in_opening: true } => {
                self.crash(Crash::Kill);
                self.failing_read = Some(*after);
                self.open();
            }
            Op::ReadFault { after, in_opening: false } => self.read_fault(*after),
            Op::RollBack { to, on_no_match, close, interruption } => {
                self.roll_back(*to, *on_no_match, *close, *interruption);
            }
        }
    }
}

/// Plans a fault of a change. A failed sync that leaves pages readable and clean is injected into
/// files only: no program could ever make the names of such a directory durable.
pub fn plan_fault(disk: &SimFs, process: &ProcessFs, after: u64, fault: Fault, sticky: bool) {
    if fault == (Fault::FailedSync { pages: Pages::ReadableAndClean }) {
        process.fail_sync_after(after, fault);
    } else {
        disk.fail_op(after, fault, sticky);
    }
}

/// A separate clock that shows the same time.
pub fn another_clock(now: u64) -> SimClock {
    let clock = SimClock::new(4711);
    clock.set(UnixMillis(now));
    clock
}
