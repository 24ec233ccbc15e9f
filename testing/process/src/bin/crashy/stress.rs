//! A program whose system calls fail: it writes, collects, reads and closes, continues after an
//! error as far as possible, and reports every result. It reports what must not happen as
//! `violation`.

use std::path::PathBuf;
use std::time::Duration;

use lithdb::rollback::through_key;
use lithdb::{Components, Db, DbOptions, Error, ErrorKind, ReadMode, Rollback, Table};
use lithdb_env::Env;
use lithdb_process_tests::{Op, stress_options};

use crate::kill_self;

/// The number of operations put into each table.
const OPERATIONS: u64 = 16;

fn failed(what: &str, error: &Error) {
    println!("error {what} {error}");
    if error.kind() == ErrorKind::Corrupt {
        println!("violation: no file is corrupt: {what} {error}");
    }
}

fn violation(what: &str) {
    println!("violation: {what}");
}

/// A table being written.
struct Written {
    name: &'static str,
    table: Table,
    /// The number of the next operation.
    next: u64,
}

impl Written {
    fn open(db: &Db, name: &'static str) -> Result<Self, ()> {
        let table = db.table(name, stress_options(name)).map_err(|e| failed("table", &e))?;
        let newest = table.newest_key().map_err(|e| failed("newest", &e))?;
        let next = newest.map_or(0, |key| Op::seq_of(&key).expect("a key of the pattern") + 1);
        Ok(Self { name, table, next })
    }

    fn put(&mut self) -> Result<(), ()> {
        for _ in 0..3 {
            let Err(error) = Op::new(self.name, 0, self.next).put(&self.table) else {
                self.next += 1;
                return Ok(());
            };
            failed("put", &error);
            let is_latched = self.table.failure().is_some();
            if error.latches() && !is_latched {
                violation(&format!("latched: {is_latched}, after a put: {error}"));
            }
            if is_latched && Op::new(self.name, 0, self.next).put(&self.table).is_ok() {
                violation("a latched table takes a put");
            }
        }
        Err(())
    }

    fn flush(&self) {
        for _ in 0..3 {
            let Err(error) = self.table.flush() else {
                println!("ack {} {}", self.name, self.next - 1);
                return;
            };
            failed("flush", &error);
            if self.table.failure().is_none() && !error.latches() {
                continue; // the call did nothing
            }
            if self.table.failure().is_none() {
                violation(&format!("not latched after a flush: {error}"));
            }
            if self.table.flush().is_ok() {
                violation("acknowledged after a failed flush");
            }
            if Op::new(self.name, 0, self.next).put(&self.table).is_ok() {
                violation("a put is taken after a failed flush");
            }
            return;
        }
    }

    /// Checks that everything accepted and not collected can be read, or fails with an error.
    fn read(&self, first: u64) {
        for seq in first..self.next {
            for (key, _, value) in Op::new(self.name, 0, seq).records() {
                match self.table.get(key) {
                    Ok(Some(got)) if got == value => {}
                    Ok(Some(_)) => violation(&format!("wrong bytes at {seq}")),
                    Ok(None) => violation(&format!("{seq} was accepted and is absent")),
                    Err(error) => failed("get", &error),
                }
            }
        }
        let entries = match self.table.iter() {
            Ok(entries) => entries,
            Err(error) => return failed("iter", &error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return failed("next", &error),
            };
            if let Err(error) = entry.value() {
                failed("value", &error);
            }
        }
    }

    fn collect(&self) {
        if let Err(error) = self.table.seal() {
            failed("seal", &error);
        }
        std::thread::sleep(Duration::from_millis(3)); // longer than the TTL
        match self.table.run_gc() {
            Ok(report) if report.segments > 0 => match self.table.oldest_key() {
                Ok(oldest) => {
                    let oldest = oldest.map_or(self.next, |key| Op::seq_of(&key).unwrap());
                    println!("collected {} {oldest}", self.name);
                }
                Err(error) => failed("oldest", &error),
            },
            Ok(_) => {}
            Err(error) => failed("gc", &error),
        }
    }
}

/// One thread does everything, so that the n-th write is the same in every run.
fn open_single_threaded(roots: &[PathBuf], mode: ReadMode) -> Result<Db, ()> {
    let mut options = DbOptions::new(roots).read_mode(mode).max_open_files(6);
    options.io_threads = 0;
    let components = Components { without_maintenance: true, ..Components::default() };
    Db::open_with(options, components).map_err(|e| failed("open", &e))
}

fn write(roots: &[PathBuf], mode: ReadMode, dies: bool) -> Result<(), ()> {
    let db = open_single_threaded(roots, mode)?;
    let mut kept = Written::open(&db, "kept")?;
    let first_kept = kept.table.oldest_key().map_err(|e| failed("oldest", &e))?;
    let first_kept = first_kept.map_or(0, |key| Op::seq_of(&key).unwrap());
    if first_kept != 0 {
        violation(&format!("{first_kept} is the oldest"));
    }
    for n in 0..OPERATIONS {
        if kept.put().is_err() {
            break;
        }
        if n % 3 == 2 {
            kept.flush();
        }
    }
    if dies {
        let mut twin = Written::open(&db, "twin")?;
        (0..OPERATIONS).try_for_each(|_| twin.put())?;
        twin.flush();
        kill_self();
    }
    let mut expiring = Written::open(&db, "expiring")?;
    for n in 0..OPERATIONS {
        if expiring.put().is_err() {
            break;
        }
        if n == OPERATIONS / 2 {
            expiring.flush();
            expiring.collect();
        }
    }
    kept.read(0);
    let oldest = expiring.table.oldest_key().map_err(|e| failed("oldest", &e))?;
    expiring.read(oldest.map_or(expiring.next, |key| Op::seq_of(&key).unwrap()));
    let is_latched = kept.table.failure().is_some() || expiring.table.failure().is_some();
    match db.close() {
        Ok(()) if is_latched => violation("a latched table was closed cleanly"),
        Ok(()) => {
            for written in [&kept, &expiring].into_iter().filter(|written| written.next > 0) {
                println!("ack {} {}", written.name, written.next - 1);
            }
        }
        Err(error) => failed("close", &error),
    }
    Ok(())
}

/// Writes, and then reads and prints `done`; or kills itself after writing, if `dies`.
pub(crate) fn stress(mode: &str, dies: bool, roots: &[PathBuf]) {
    let mode = if mode == "pread" { ReadMode::Pread } else { ReadMode::Map };
    #[expect(clippy::let_underscore_must_use, reason = "`failed` has reported it")]
    let _ = write(roots, mode, dies);
    println!("done");
}

/// Rolls all tables back to operation `seq`; kills itself once the rollback is decided, if `dies`.
pub(crate) fn roll_back(seq: u64, dies: bool, roots: &[PathBuf]) {
    let request = Rollback::new(roots).env(Env::os(0).expect("no threads"));
    let plan = match request.plan(through_key(Op::key(seq, 0))) {
        Ok(plan) => plan,
        Err(error) => return failed("plan", &error),
    };
    let done = plan.execute_with(|progress| {
        if dies && progress.phase == lithdb::rollback::Phase::Applying {
            kill_self();
        }
        std::ops::ControlFlow::Continue(())
    });
    match done {
        Ok(_) => println!("rolled back"),
        Err(error) => failed("execute", &error),
    }
}
