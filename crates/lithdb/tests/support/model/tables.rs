//! Operations on single tables, and the results they must return.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lithdb::{Batch, DuplicateKeys, ErrorKind, SecondaryKey, Table};
use lithdb_env::{Fs, sync_parent};

use super::check::{self, Link};
use super::expect::{Record, Written};
use super::op::{Item, TABLES};
use super::run::{NAMES, Run, count, options};

const JUMP_MILLIS: i64 = 3 * 86_400_000;

impl Run {
    pub fn create(&mut self, n: usize) -> Option<Table> {
        if let Some(table) = self.table(n) {
            return Some(table);
        }
        let expected = &mut self.expected[n];
        if expected.exists {
            return None; // its drop has failed
        }
        let process = self.process.as_mut()?;
        match process.db.table(NAMES[n], options(n)) {
            Ok(table) => {
                *expected = expected.created(self.wall_ahead);
                process.tables[n] = Some(table.clone());
                Some(table)
            }
            Err(error) => {
                expected.in_doubt = true;
                self.assert_excused(&error);
                None
            }
        }
    }

    pub fn group(&mut self, n: usize, item: Item) -> Vec<Record> {
        let expected = &mut self.expected[n];
        let number = match item.again {
            Some(back) if expected.next > 0 => expected.next - 1 - u64::from(back) % expected.next,
            _ => {
                expected.next += 1;
                expected.next - 1
            }
        };
        self.serial += 1;
        let value: Vec<u8> = (0..item.len)
            .map(|i| (self.serial as usize * 131 + i * 7 + (i >> 8) * 13 + 1) as u8)
            .collect();
        let mut records = vec![primary_key(number)];
        if item.aliases & 1 != 0 {
            records.push([&b"whole"[..], &number.to_be_bytes()].concat());
        }
        if item.aliases & 2 != 0 {
            records.push([&b"part"[..], &number.to_be_bytes()].concat());
        }
        let record = |key: Vec<u8>| {
            let is_primary = key.len() == 9;
            let part = if key.starts_with(b"part") { part_of(item.len) } else { 0..item.len };
            Record { key, is_primary, value: value[part].to_vec() }
        };
        records.into_iter().map(record).collect()
    }

    pub fn put(&mut self, n: usize, items: &[Item], as_batch: bool) {
        let Some(table) = self.create(n) else { return };
        let groups: Vec<Vec<Record>> = items.iter().map(|item| self.group(n, *item)).collect();
        let records: Vec<Record> = groups.iter().flatten().cloned().collect();
        let is_double = options(n).duplicate_keys == DuplicateKeys::Reject && {
            let mut keys: BTreeSet<&[u8]> =
                self.expected[n].records().map(|record| &record.key[..]).collect();
            !records.iter().all(|record| keys.insert(&record.key))
        };
        self.expected[n].known.extend(records.iter().map(|record| record.key.clone()));
        let was_latched = table.failure().is_some();
        let put = if as_batch {
            let mut batch = Batch::new();
            for group in &groups {
                let len = group[0].value.len();
                let mut entry = batch.put(group[0].key.clone(), group[0].value.clone());
                for alias in &group[1..] {
                    entry = match alias.key.starts_with(b"part") {
                        true => entry.alias(alias.key.clone(), part_of(len)),
                        false => entry.alias(alias.key.clone(), ..),
                    };
                }
            }
            table.put_batch(&batch)
        } else {
            let (group, len) = (&groups[0], groups[0][0].value.len());
            let aliases: Vec<SecondaryKey<'_>> =
                group[1..].iter().map(|record| alias_of(record, len)).collect();
            table.put_with(&group[0].key, &group[0].value, &aliases)
        };
        if let Err(error) = &put
            && error.kind() == ErrorKind::DuplicateKey
        {
            assert!(is_double && !was_latched, "{}: {error}", self.context);
            count("duplicates refused");
            return;
        }
        assert!(put.is_err() || !is_double, "{}: a key was put twice", self.context);
        self.check_result(&table, was_latched, &put);
        let (now, put_at) = (self.true_now(), self.now());
        let written = |at| Written {
            records: Arc::new(records),
            at,
            earliest: now,
            sealed_by: None,
            put_at,
            may_go: false,
        };
        let is_attempt = match &put {
            Ok(_) => false,
            // Only a failed write latches: otherwise nothing was written.
            Err(e) if !e.latches() => return,
            // It may be in the log, and is then the last.
            Err(_) if was_latched => return,
            Err(_) => true,
        };
        #[expect(clippy::disallowed_methods, reason = "the failure was checked above")]
        let at = put.ok();
        self.expected[n].batches.push(written(at));
        self.expected[n].is_attempt = is_attempt;
    }

    pub fn all_durable(&mut self, n: usize) {
        let count = self.expected[n].batches.len();
        self.expected[n].acknowledge(count);
    }

    pub fn flush(&mut self, n: usize) {
        let Some(table) = self.table(n) else { return };
        let was_latched = table.failure().is_some();
        let flushed = table.flush();
        self.check_result(&table, was_latched, &flushed);
        if flushed.is_ok() {
            self.all_durable(n);
        }
    }

    pub fn wait_durable(&mut self, n: usize, back: usize) {
        let Some(table) = self.table(n) else { return };
        let count = self.expected[n].batches.len().saturating_sub(back);
        let Some(at) = count.checked_sub(1).and_then(|last| self.expected[n].batches[last].at)
        else {
            return;
        };
        let was_latched = table.failure().is_some();
        let done = table.wait_durable(at);
        self.check_result(&table, was_latched, &done);
        if done.is_ok() {
            self.expected[n].acknowledge(count);
        }
    }

    /// Collects; returns the report if that succeeded. Nothing is collected too early, and nothing
    /// stays that must be collected.
    pub fn gc(&mut self, n: usize) -> Option<lithdb::GcReport> {
        let table = self.table(n)?;
        let was_latched = table.failure().is_some();
        let newest = table.stats().log_end.segment.0;
        let report = table.run_gc();
        self.check_result(&table, was_latched, &report);
        self.note_collection(n, &table, newest, report.is_ok());
        let Ok(report) = report else { return None };
        let now = self.true_now();
        let expected = &mut self.expected[n];
        expected.was_held |= report.held_for.is_some();
        if report.held_for.is_some() || table.stats().ttl.is_none() {
            return Some(report);
        }
        if std::mem::take(&mut expected.was_held) {
            // Data sealed while the clock was not trusted counts as sealed now.
            let sealed = expected.batches.iter_mut().filter_map(|batch| batch.sealed_by.as_mut());
            sealed.for_each(|by| *by = now);
        }
        if let ([Some(ttl)], false) = (&self.expected[n].ttls[..], self.is_excused()) {
            let first = self.expected[n].batches.first();
            let is_late = first.and_then(|batch| batch.sealed_by).is_some_and(|by| by + ttl <= now);
            assert!(!is_late, "{}: expired data was not collected", self.context);
        }
        Some(report)
    }

    /// Removes what is below the watermark from the model.
    pub fn note_collection(&mut self, n: usize, table: &Table, newest: u32, is_certain: bool) {
        self.note_hold_elapsed();
        let (now, expected) = (self.true_now(), &mut self.expected[n]);
        let collected = expected.below(table.stats().watermark.0);
        for batch in expected.batches.iter().take(collected) {
            let is_old = |ttl| batch.may_go || batch.earliest + ttl <= now;
            let is_expired = |ttl: &Option<u64>| ttl.is_some_and(is_old);
            assert!(expected.ttls.iter().any(is_expired), "{}: collected too early", self.context);
            count("batches collected");
        }
        expected.forget(collected);
        expected.collectable = if is_certain { 0 } else { expected.below(newest) };
    }

    pub fn maintenance(&mut self) {
        let before: Vec<_> = (0..TABLES)
            .filter_map(|n| Some((n, self.table(n)?)))
            .map(|(n, table)| (n, table.stats().log_end.segment.0, table))
            .collect();
        let done = self.process.as_ref().map(|process| process.db.maintain());
        if let Some(Err(error)) = &done {
            self.assert_excused(error);
        }
        let is_certain = matches!(done, Some(Ok(())));
        for (n, newest, table) in before {
            self.note_collection(n, &table, newest, is_certain);
        }
    }

    pub fn jump(&mut self, n: usize, accept: bool) {
        let Some(before) = self.gc(n) else { return };
        let Some(table) = self.table(n) else { return };
        let wall = self.wall_ahead;
        self.set_wall(wall + JUMP_MILLIS);
        let Some(held) = self.gc(n) else { return };
        let is_held = held.held_for.is_some() || before.held_for.is_some();
        let is_held = is_held || table.stats().ttl.is_none();
        assert!(is_held, "{}: collected after a clock jump", self.context);
        if accept {
            self.accept(n);
        } else {
            self.set_wall(wall);
        }
        self.gc(n);
    }

    /// The wall clock is accepted, whatever it shows.
    pub fn accept(&mut self, n: usize) {
        let Some(table) = self.table(n) else { return };
        let (was_latched, is_wrong) = (table.failure().is_some(), self.now() < 1_577_836_800_000);
        let accepted = table.accept_clock();
        if is_wrong && !was_latched && !self.is_excused() {
            assert_eq!(accepted.unwrap_err().kind(), ErrorKind::InvalidArgument);
            return;
        }
        let is_refused = accepted.as_ref().is_err_and(|e| e.kind() == ErrorKind::InvalidArgument);
        if !is_refused {
            self.check_result(&table, was_latched, &accepted);
        }
        // A failed acceptance may have happened.
        let (wall_ahead, expected) = (self.wall_ahead, &mut self.expected[n]);
        if accepted.is_ok() || wall_ahead > expected.clock_error {
            expected.adopt_wall_clock(wall_ahead, true);
        }
        expected.was_held = true;
    }

    pub fn set_ttl(&mut self, n: usize, secs: Option<u64>) {
        let Some(table) = self.table(n) else { return };
        let was_latched = table.failure().is_some();
        let done = table.set_ttl(secs.map(Duration::from_secs));
        self.check_result(&table, was_latched, &done);
        let ttl = secs.map(|secs| secs * 1000);
        match done {
            Ok(()) => self.expected[n].ttls = vec![ttl],
            Err(_) => self.expected[n].ttls.push(ttl),
        }
    }

    pub fn drop_table(&mut self, n: usize) {
        if self.table(n).is_none() {
            return;
        }
        self.reader = None; // it would keep looking for the table
        let Some(process) = &mut self.process else { return };
        // A latched table can be dropped like any other.
        let dropped = process.db.drop_table(NAMES[n]);
        match &dropped {
            Ok(()) => {
                process.tables[n] = None;
                self.expected[n] = self.expected[n].dropped();
                let left = self.disk.file_paths();
                let dir = |path: &PathBuf| path.iter().nth(2) == Some(NAMES[n].as_ref());
                let left = left.into_iter().find(|path| path.starts_with("/r") && dir(path));
                assert_eq!(left, None, "{}: a dropped table was left behind", self.context);
            }
            Err(error) => {
                process.tables[n] = None;
                self.expected[n].in_doubt = true;
                self.assert_excused(error);
            }
        }
    }

    /// Hard-links files that never change any more.
    pub fn snapshot(&mut self, stopped: bool) {
        let mut newest = [u32::MAX; TABLES];
        if stopped {
            if !self.close() || self.has_crashed() {
                return self.open();
            }
        } else {
            for (n, newest) in newest.iter_mut().enumerate() {
                *newest = self.table(n).map_or(0, |table| table.stats().log_end.segment.0);
            }
        }
        self.disk.make_dirs("/snapshot");
        for (n, newest) in newest.into_iter().enumerate() {
            if self.expected[n].in_doubt {
                continue;
            }
            for file in check::segment_files(&self.disk, NAMES[n]) {
                let link = PathBuf::from(format!("/snapshot/{}-{}", self.links.len(), self.serial));
                self.serial += 1;
                if file.segment >= newest || self.is_excused() {
                    continue;
                }
                let linked = self.disk.hard_link(&file.path, Path::new(&link));
                if linked.is_ok() && sync_parent(&self.disk, &link).is_ok() {
                    self.links.push(Link::of(&self.disk, &file.path, link, self.power_losses));
                    count("files linked");
                }
            }
        }
        if stopped {
            self.open();
        }
    }
}

pub fn primary_key(number: u64) -> Vec<u8> {
    [&number.to_be_bytes()[..], b"."].concat()
}

/// The part of a value that a partial alias names.
fn part_of(len: usize) -> std::ops::Range<usize> {
    len / 3..len - len / 4
}

fn alias_of(record: &Record, len: usize) -> SecondaryKey<'_> {
    if record.key.starts_with(b"part") {
        SecondaryKey::range(&record.key, part_of(len))
    } else {
        SecondaryKey::whole(&record.key)
    }
}
