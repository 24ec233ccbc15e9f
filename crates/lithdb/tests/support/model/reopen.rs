//! The end of a process and the open that follows: checks that the contents are allowed.

use std::ops::Range;

use lithdb::{Db, Result};
use lithdb_sim::Fault;

use super::check;
use super::expect::{Expected, Found};
use super::op::{Crash, TABLES};
use super::process::ProcessFs;
use super::run::{NAMES, Process, Run, count, options};

type Ranges = [Option<Range<usize>>; TABLES];

impl Run {
    /// Ends the process without closing anything.
    pub fn crash(&mut self, crash: Crash) {
        if let Some(process) = self.process.take() {
            process.fs.kill();
        }
        match crash {
            Crash::Kill if !self.disk.is_dead() => {
                self.disk.clear_faults();
                count("kills");
            }
            Crash::Kill => self.lose_power(lithdb_sim::CrashImage::Everything),
            Crash::Power(image) => self.lose_power(image),
        }
    }

    fn lose_power(&mut self, image: lithdb_sim::CrashImage) {
        if let Some(reader) = self.reader.take() {
            reader.fs.kill();
        }
        assert_eq!(self.disk.bus_errors(), 0, "{}: read past the end of a file", self.context);
        self.disk = self.disk.crash_with(&image);
        self.soon = None;
        self.power_losses += 1;
        count("power losses");
    }

    /// Closes the database; returns whether everything in it is now durable.
    pub fn close(&mut self) -> bool {
        let Some(process) = self.process.take() else { return false };
        let closed = process.db.close();
        match &closed {
            Ok(()) => {
                let latched = process.tables.iter().flatten().find(|t| t.failure().is_some());
                assert!(latched.is_none(), "{}: closed as if nothing had failed", self.context);
            }
            Err(error) => {
                let is_excused = self.is_excused() || process.fs.is_killed();
                assert!(is_excused, "{}: close: {error}", self.context);
                self.assert_is_disk_error(error);
            }
        }
        for (n, table) in process.tables.iter().enumerate() {
            if closed.is_ok() && table.is_some() {
                self.all_durable(n);
            }
        }
        let was_killed = process.fs.is_killed();
        drop(process);
        if self.reader.is_none() {
            let held = self.disk.open_handles();
            assert_eq!(held, 0, "{}: files are held after closing", self.context);
        }
        if self.disk.is_dead() || was_killed {
            let crash = self.soon.take().unwrap_or(Crash::Kill);
            self.crash(crash);
            return false;
        }
        self.disk.clear_faults();
        closed.is_ok()
    }

    /// Opens the database, repeating failed attempts: planned faults and crashes happen once or
    /// twice.
    pub fn open(&mut self) {
        for _ in 0..8 {
            let before = self.disk.faults_hit();
            let fs = ProcessFs::new(&self.disk);
            let opened = self.try_open(&fs);
            let has_crashed = self.disk.is_dead() || fs.is_killed();
            let has_failed = self.disk.faults_hit() > before;
            match opened {
                Ok(()) => {
                    self.hits = self.disk.faults_hit();
                    return;
                }
                Err(error) if has_crashed => {
                    self.assert_is_disk_error(&error);
                    count("crashes in openings");
                    let crash = self.soon.take().unwrap_or(Crash::Kill);
                    self.crash(crash);
                }
                Err(error) => {
                    assert!(has_failed, "{}: opening: {error}", self.context);
                    self.assert_is_disk_error(&error);
                    count("openings that failed");
                    self.crash(Crash::Kill);
                }
            }
        }
        panic!("{}: the database does not open", self.context);
    }

    fn try_open(&mut self, fs: &ProcessFs) -> Result<()> {
        self.disk.take_trace();
        self.identities.note_salts(&self.disk, self.power_losses, &self.context);
        match self.in_opening.take() {
            Some((after, Crash::Kill)) => {
                fs.kill_after(after);
                self.soon = Some(Crash::Kill);
            }
            Some((after, crash)) => {
                self.disk.crash_after(after);
                self.soon = Some(crash);
            }
            None => {}
        }
        if let Some(after) = self.failing_read.take() {
            self.disk.fail_read(after, Fault::Eio);
        }
        let db = Db::open_with(self.options(), self.components(fs));
        let opened = db.and_then(|db| {
            let names = db.tables()?;
            let mut tables = [const { None }; TABLES];
            for (n, table) in tables.iter_mut().enumerate() {
                if names.iter().any(|name| name.as_str() == NAMES[n]) {
                    *table = Some(db.table(NAMES[n], options(n))?);
                }
            }
            Ok((db, tables))
        });
        let (db, tables) = opened?;
        self.process = Some(Process { fs: fs.clone(), db, tables });
        if self.has_crashed() {
            let message = "it crashed right after the opening";
            return Err(lithdb::Error::new(lithdb::ErrorKind::Io, message));
        }
        self.disk.clear_faults();
        fs.cancel_faults();
        count("openings");
        self.compare_with_model();
        self.note_wall_clock_seen(true);
        Ok(())
    }

    /// Compares everything with what is allowed, and continues with what exists.
    fn compare_with_model(&mut self) {
        let context = self.context.clone();
        let Some(process) = &self.process else { return };
        let found: [Option<Found>; TABLES] = std::array::from_fn(|n| {
            let context = format!("{context}: table {}", NAMES[n]);
            process.tables[n].as_ref().map(|table| Found::read(table, &context))
        });
        let (mut expected, ranges) = match (matches(&self.expected, &found), &self.rolled_back) {
            (Ok(ranges), _) => (self.expected.clone(), ranges),
            (Err(why), None) => panic!("{context}: {why}"),
            (Err(old), Some(new)) => match matches(new, &found) {
                Ok(ranges) => (new.clone(), ranges),
                Err(why) => {
                    panic!("{context}: neither before the rollback ({old}) nor after it ({why})")
                }
            },
        };
        for (n, range) in ranges.into_iter().enumerate() {
            let expected = &mut expected[n];
            match (&found[n], range) {
                (Some(found), Some(range)) => {
                    let is_new = !expected.exists;
                    expected.settle(range, found);
                    if is_new {
                        *expected = expected.created(self.wall_ahead);
                    }
                    expected.in_doubt = false;
                }
                _ => *expected = expected.dropped(),
            }
        }
        self.expected = expected;
        self.rolled_back = None;
        check::check_invariants(self, &found);
    }
}

/// Whether all tables are as expected.
fn matches(
    expected: &[Expected; TABLES],
    found: &[Option<Found>; TABLES],
) -> std::result::Result<Ranges, String> {
    let mut ranges: Ranges = Default::default();
    for (n, (expected, found)) in expected.iter().zip(found).enumerate() {
        let name = NAMES[n];
        match found {
            None if !expected.exists || expected.in_doubt => {}
            None => return Err(format!("table {name} is missing")),
            Some(_) if !expected.exists && !expected.in_doubt => {
                return Err(format!("table {name} was dropped and exists"));
            }
            Some(found) => {
                let range = expected.find(found).map_err(|why| format!("table {name}: {why}"))?;
                ranges[n] = Some(range);
            }
        }
    }
    Ok(ranges)
}
