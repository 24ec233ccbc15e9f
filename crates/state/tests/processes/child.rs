//! The process: this test binary, which runs [`scenario`] alone. It marks on standard output what
//! it is about to do and what it has done.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lithdb::rollback::max_be_u64;
use lithdb::{DuplicateKeys, NoMatch, Rollback, TableOptions};
use lithdb_process_tests::Rng;
use lithdb_state::{
    Durability, Error, ErrorKind, Prune, Result, StateComponents, StateDb, StateEvent,
    StateListener, StateOptions, StateRollback, Unreachable,
};

use crate::support::model::{Change, STORES, change_sets};

/// The directory of the store; without it, the test does nothing.
const DIR: &str = "LITHDB_STATE_CHILD";
const MODE: &str = "LITHDB_STATE_CHILD_MODE";
/// Decides all choices, and the contents: no two children have the same.
const SERIAL: &str = "LITHDB_STATE_CHILD_SERIAL";
/// The branches of one child.
pub const BRANCHES: u64 = 10_000;

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Opens the store and works until it is killed.
    Work,
    /// Opens the store and ends.
    Open,
    /// Does everything that renames something, once, in one thread.
    Traced,
    /// Imports the file beside the directory whose name ends in `.export`.
    Import,
    /// Adopts the flat layout in the directory.
    Adopt,
    /// Resets the store.
    Reset,
    /// Reads what it is asked for, beside a writer.
    Read,
}

/// The process that does it.
pub fn command(mode: Mode, dir: &Path, serial: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child::scenario", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(MODE, format!("{mode:?}"))
        .env(SERIAL, serial.to_string())
        .env_remove("LITHDB_TALLY")
        .stdin(Stdio::null());
    command
}

/// The mark in a line of a child's output: the first comes after words of the test harness.
pub fn mark_in(line: &str) -> Option<&str> {
    Some(line.strip_suffix('\n')?.split_once("MARK ")?.1)
}

pub fn mark(text: impl Display) {
    println!("MARK {text}");
}

/// What `version` of `branch` changes. No other version has the same rows.
pub fn changes(branch: u64, version: u64) -> Vec<Change> {
    let mut rng = Rng::of(&[branch, version]);
    let mut changes: Vec<Change> = (0..rng.below(10))
        .map(|_| {
            let store = STORES[rng.below(STORES.len() as u64) as usize];
            let key = format!("k{}", rng.below(12));
            match rng.below(6) {
                0 | 1 => Change::delete(store, key),
                2 => Change::put(store, key, ""),
                3 => Change::put(store, key, "x".repeat(rng.below(3_000) as usize)),
                _ => Change::put(store, key, format!("{version} of branch {branch}")),
            }
        })
        .collect();
    changes.push(Change::put("log", "newest", format!("{version} of branch {branch}")));
    changes
}

/// Four versions to a segment of the log, so that it is collected.
pub fn small_log() -> StateOptions {
    let wal = TableOptions::new().segment_keys(4).duplicate_keys(DuplicateKeys::Reject);
    StateOptions::new().hash_threads(2).wal(wal)
}

fn random_options(rng: &mut Rng) -> StateOptions {
    let is_durable = !rng.one_in(4);
    small_log()
        .durability(if is_durable { Durability::EveryCommit } else { Durability::OnFlush })
        .memtable_bytes([1, 8_000, 64 << 20][rng.below(3) as usize])
        .snapshot_interval([0, 3, 7][rng.below(3) as usize])
        .keep_snapshots(rng.below(3) as usize)
        .flush_on_close(rng.one_in(2))
}

fn note(event: &StateEvent) {
    match event {
        StateEvent::SnapshotTaken { version, .. } => mark(format_args!("taken {version}")),
        StateEvent::SnapshotsPruned { versions, .. } => {
            mark(format_args!("removed {}", versions.len()));
        }
        StateEvent::FloorRaised { floor, .. } => mark(format_args!("floor {floor}")),
        event => mark(format_args!("trouble {event:?}")),
    }
}

/// Whether a rollback was refused: retention has removed the snapshot meanwhile, or a reader has
/// one that would go.
fn is_refusal(error: &Error) -> bool {
    Unreachable::of(error).is_some() || error.kind() == ErrorKind::Locked
}

/// Opens a store whose snapshots are perhaps being read while they are to be moved aside.
pub fn open_beside_readers(open: impl Fn() -> Result<StateDb>) -> Result<StateDb> {
    for _ in 0..1_000 {
        match open() {
            Err(error) if error.kind() == ErrorKind::Locked => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
    open()
}

struct Child {
    dir: PathBuf,
    rng: Rng,
    options: StateOptions,
    is_in_one_thread: bool,
    branch: u64,
    db: Option<StateDb>,
}

impl Child {
    fn new(dir: PathBuf, serial: u64) -> Self {
        let mut rng = Rng::of(&[serial]);
        let options = random_options(&mut rng);
        let branch = serial * BRANCHES;
        Self { dir, rng, options, is_in_one_thread: false, branch, db: None }
    }

    fn db(&self) -> &StateDb {
        self.db.as_ref().unwrap()
    }

    fn components(&self) -> StateComponents {
        let mut components = StateComponents::default();
        components.listener = StateListener::new(note);
        components.without_background = self.is_in_one_thread;
        components
    }

    fn open(&mut self) -> Result<()> {
        mark("open");
        let open = || StateDb::open_with(&self.dir, self.options.clone(), self.components());
        let db = open_beside_readers(open)?;
        mark(format_args!("opened {} {}", db.version(), db.root()));
        // What was not durable may be gone: its versions are committed again.
        self.branch += 1;
        self.db = Some(db);
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let version = self.db().version() + 1;
        let changes = change_sets(&changes(self.branch, version));
        let applied = self.rng.below(changes.len() as u64 + 1) as usize;
        mark(format_args!("commit {version} {}", self.branch));
        self.db().apply(version, &changes[..applied])?;
        let done = self.db().commit_block(version, &changes[applied..])?;
        let durability = self.options.durability;
        mark(format_args!("committed {} {} {durability:?}", done.version, done.root));
        Ok(())
    }

    fn snapshot(&self) -> Result<()> {
        mark("snapshot");
        let snapshot = self.db().snapshot()?.wait()?;
        mark(format_args!("snapshotted {} {}", snapshot.version, snapshot.root));
        Ok(())
    }

    fn prune(&mut self) -> Result<()> {
        mark("prune");
        let kept = self.rng.below(2) as usize;
        self.db().prune_snapshots(Prune::Beyond(kept))?;
        self.db().prune_abandoned()?;
        mark("pruned");
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        mark("flush");
        mark(format_args!("flushed {}", self.db().flush()?));
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        mark("close");
        self.db.take().unwrap().close()?;
        mark("closed");
        Ok(())
    }

    /// A version that can be reached, not far from the newest.
    fn target(&mut self) -> Option<u64> {
        let target = self.db().version().saturating_sub(self.rng.below(8));
        self.db().reach(target).is_ok().then_some(target)
    }

    fn roll_back(&mut self) -> Result<()> {
        let target = self.target();
        target.map_or(Ok(()), |target| self.roll_back_to(target))
    }

    fn roll_back_to(&mut self, target: u64) -> Result<()> {
        mark(format_args!("rollback {target}"));
        let db = self.db.take().unwrap();
        let other = db.clone();
        self.db = match db.rollback_to(target) {
            Ok(db) => {
                mark(format_args!("rolled {} {}", db.version(), db.root()));
                Some(db)
            }
            Err(error) if is_refusal(&error) => {
                mark("refused");
                Some(other)
            }
            Err(error) => return Err(error),
        };
        self.branch += 1;
        Ok(())
    }

    fn roll_back_stopped(&mut self) -> Result<()> {
        let Some(target) = self.target() else { return Ok(()) };
        if self.rng.one_in(2) {
            self.close()?;
        } else {
            self.flush()?;
            self.db = None;
        }
        mark(format_args!("stop {target}"));
        let rollback = StateRollback::new(&self.dir).options(self.options.clone());
        match rollback.plan(target).and_then(|plan| plan.execute()) {
            Ok(report) => mark(format_args!("stopped {} {}", report.version, report.root)),
            Err(error) if is_refusal(&error) => mark("refused"),
            Err(error) => return Err(error),
        }
        self.open()
    }

    fn work(&mut self) -> Result<()> {
        self.open()?;
        loop {
            match self.rng.below(24) {
                0 | 1 => self.snapshot()?,
                2 => drop(self.db().snapshot()?),
                3 => self.prune()?,
                4 => self.flush()?,
                5 => {
                    self.close()?;
                    self.open()?;
                }
                6 => {
                    self.db = None;
                    self.open()?;
                }
                7 | 8 => self.roll_back()?,
                9 | 10 => self.roll_back_stopped()?,
                _ => self.commit()?,
            }
        }
    }
}

/// Truncates the log of a stopped store, as a rollback has done when it is decided.
pub fn truncate_log(dir: &Path, target: u64) -> Result<()> {
    let rollback = Rollback::new([dir.join("wal")]).on_no_match(NoMatch::Refuse);
    rollback.plan(max_be_u64(0, target))?.execute().map(drop)
}

impl Child {
    fn commits_and_snapshot(&mut self) -> Result<()> {
        self.commit()?;
        self.commit()?;
        self.snapshot()
    }

    fn traced(&mut self) -> Result<()> {
        self.is_in_one_thread = true;
        self.options = small_log().hash_threads(1).snapshot_interval(0).keep_snapshots(10);
        self.open()?;
        self.commits_and_snapshot()?;
        self.commits_and_snapshot()?;
        self.db().prune_snapshots(Prune::Below(4))?;
        mark("pruned");
        self.commits_and_snapshot()?;
        self.roll_back_to(5)?;
        self.commits_and_snapshot()?;
        self.close()?;
        truncate_log(&self.dir, 6)?;
        self.open()?;
        self.commits_and_snapshot()?;
        self.close()
    }
}

/// Makes or removes a store.
fn once(dir: &Path, operation: impl FnOnce(&Path) -> Result<()>) {
    mark("begin");
    operation(dir).unwrap();
    mark("done");
}

fn import(dir: &Path) -> Result<()> {
    let export = std::fs::File::open(dir.with_extension("export")).unwrap();
    StateDb::import(dir, export, small_log().memtable_bytes(30_000), None).map(drop)
}

/// Does what a parent has asked for in the environment; `false` if there is none.
pub fn run_if_asked() -> bool {
    let Some(dir) = std::env::var_os(DIR) else { return false };
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    let dir = PathBuf::from(dir);
    let mut child = Child::new(dir.clone(), number(SERIAL));
    match &*std::env::var(MODE).unwrap() {
        "Work" => child.work().unwrap(),
        "Open" => child.open().unwrap(),
        "Traced" => child.traced().unwrap(),
        "Import" => once(&dir, import),
        "Adopt" => once(&dir, |dir| StateDb::adopt(dir, small_log()).map(drop)),
        "Reset" => once(&dir, |dir| StateDb::reset(dir).map(drop)),
        "Read" => crate::reading::answer(&dir, number(SERIAL)),
        mode => panic!("unknown mode {mode}"),
    }
    true
}

#[test]
fn scenario() {
    run_if_asked();
}
