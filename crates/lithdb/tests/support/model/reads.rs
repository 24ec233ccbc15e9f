//! Reads: by the writing process, by another process, and under faults.

use std::collections::BTreeMap;

use lithdb::{Db, ErrorKind, Table};
use lithdb_sim::Fault;

use super::check;
use super::expect::{Found, Record, name};
use super::op::TABLES;
use super::process::ProcessFs;
use super::run::{NAMES, Reader, Run, count};
use super::tables::primary_key;

impl Run {
    pub fn get(&self, n: usize, back: usize) {
        let Some(table) = self.table(n).filter(|table| table.failure().is_none()) else { return };
        let expected = &self.expected[n];
        let number = expected.next.saturating_sub(back as u64);
        let answers = expected.expected_values(0..expected.batches.len());
        for key in [primary_key(number), [&b"part"[..], &number.to_be_bytes()].concat()] {
            check::get(&table, &key, answers.get(&key[..]).copied().flatten(), &self.context);
        }
    }

    pub fn walk(&self, n: usize, from: Option<u8>, turns: u64) {
        let Some(table) = self.table(n).filter(|table| table.failure().is_none()) else { return };
        let records: Vec<&Record> = self.expected[n].records().collect();
        check::walk(&table, &records, from.map(usize::from), turns, &self.context);
    }

    pub fn read(&mut self) {
        self.reader = None;
        let fs = ProcessFs::new(&self.disk);
        match Db::open_read_only_with(self.options(), self.components(&fs)) {
            Ok(db) => {
                self.reader = Some(Reader { fs, db });
                self.refresh();
            }
            Err(error) => self.assert_reader_excused(&error),
        }
    }

    /// Faults affect changes only: a reading process never meets one.
    fn assert_reader_excused(&self, error: &lithdb::Error) {
        assert!(self.has_crashed(), "{}: reader: {error}", self.context);
        self.assert_is_disk_error(error);
    }

    /// A reading process sees at least what is durable, and never a part of a batch.
    pub fn refresh(&mut self) {
        let Some(reader) = &self.reader else { return };
        let look = || -> lithdb::Result<()> {
            reader.db.refresh()?;
            let names = reader.db.tables()?;
            for (table_name, expected) in NAMES.iter().zip(&self.expected) {
                let is_there = names.iter().any(|name| name.as_str() == *table_name);
                if expected.in_doubt || !is_there {
                    continue;
                }
                let context = format!("{}: reader of {table_name}", self.context);
                let table = reader.db.existing_table(table_name)?;
                let found = Found::read(&table, &context);
                let range = expected.find(&found);
                let range = range.unwrap_or_else(|why| panic!("{context}: {why}"));
                check::check_values(&table, expected, range, &context);
                count("reader's views");
            }
            Ok(())
        };
        if let Err(error) = look() {
            self.assert_reader_excused(&error);
            self.reader = None;
        }
    }

    /// A failed read is an error, never another answer.
    pub fn read_fault(&mut self, after: u64) {
        let before = self.disk.faults_hit();
        for n in 0..TABLES {
            let Some(table) = self.table(n).filter(|table| table.failure().is_none()) else {
                continue;
            };
            self.disk.fail_read(after, Fault::Eio);
            let expected = &self.expected[n];
            for (key, value) in expected.expected_values(0..expected.batches.len()) {
                match table.get(key) {
                    Ok(got) => assert_eq!(got.as_deref(), value, "{}", self.context),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{}", self.context),
                }
            }
            self.disk.clear_faults();
        }
        // These faults explain no later error; a fault that latched a table before still does.
        self.hits += self.disk.faults_hit() - before;
    }

    /// A latched table reads what is durable; a read of what was only put returns it or an error,
    /// never anything else.
    pub fn assert_reads_work(&self, n: usize, table: &Table) {
        let expected = &self.expected[n];
        let mut newest: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (at, batch) in expected.batches.iter().enumerate() {
            newest.extend(batch.records.iter().map(|record| (&record.key[..], at)));
        }
        let answers = expected.expected_values(0..expected.batches.len());
        for (key, at) in newest {
            let may_be_absent = expected.is_attempt && at + 1 == expected.batches.len();
            let name = name(key);
            match table.get(key) {
                Ok(got) if got.as_deref() == answers[key] => {}
                Ok(_) if may_be_absent || at < expected.collectable => {}
                Ok(_) => panic!("{}: latched, {name} is wrong", self.context),
                Err(e) => assert!(at >= expected.acked, "{}: {name}: {e}", self.context),
            }
        }
    }
}
