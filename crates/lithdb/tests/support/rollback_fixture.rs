//! Rollbacks: the contents of a database, the model of what must be kept, and the check that the
//! database works afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lithdb::rollback::{RollbackReport, through_key};
use lithdb::{
    Batch, Db, NoMatch, RecordRef, Result, Rollback, RollbackPlan, SecondaryKey, Table, Verdict,
};
use lithdb_env::{Clock, Env};
use lithdb_rollback::INTENT_FILE;
use lithdb_segment::{KeyHeader, Metadata, TableName};
use lithdb_sim::{CrashImage, SimClock, SimFs, sim_env};
use lithdb_table::TableSetup;

use super::{Harness, small};

#[path = "../../../table/tests/support/hook.rs"]
pub mod hook;

/// A record as iteration gives it: key, whether it is primary, value.
pub type Record = (Vec<u8>, bool, Vec<u8>);

/// The records of every table, in order.
pub type Contents = BTreeMap<String, Vec<Record>>;

/// Whether a record is old enough to be kept: table, key, is primary.
pub type KeepFn<'a> = &'a dyn Fn(&str, &[u8], bool) -> bool;

pub fn env(harness: &Harness) -> Env {
    sim_env(&harness.fs, &harness.clock)
}

/// A rollback of the harness's database.
pub fn rollback(harness: &Harness) -> Rollback {
    Rollback::new(["/r0", "/r1"]).env(env(harness))
}

pub fn filter(keep: KeepFn<'_>) -> impl FnMut(&RecordRef<'_>) -> Result<Verdict> {
    move |record| {
        let stays = keep(record.table(), record.key(), record.is_primary());
        Ok(if stays { Verdict::Keep } else { Verdict::Discard })
    }
}

/// The number after the colon of every key here.
pub fn height(key: &[u8]) -> u64 {
    let text = std::str::from_utf8(key).unwrap();
    text.rsplit(':').next().unwrap().parse().unwrap()
}

/// A separate harness on a durable copy of the disk: changes to it do not affect this one.
pub fn fork(harness: &Harness) -> Harness {
    let clock = SimClock::new(4711);
    clock.set(harness.clock.now());
    Harness { fs: harness.fs.fork(), clock, events: Default::default() }
}

pub fn bytes_of(n: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (n as usize * 131 + i * 7 + (i >> 8) * 13 + 1) as u8).collect()
}

/// The value of group `n`: some inline, most not.
pub fn value_of(n: u64) -> Vec<u8> {
    bytes_of(n, if n.is_multiple_of(4) { 9 } else { 60 + n as usize % 70 })
}

/// Puts group `n`: `h:n`, and for every other number two aliases.
pub fn put_group(table: &Table, n: u64) {
    let (key, value) = (format!("h:{n}"), value_of(n));
    let (whole, part) = (format!("whole:{n}"), format!("part:{n}"));
    let aliases = [SecondaryKey::whole(&whole), SecondaryKey::range(&part, 2..7)];
    let aliases = if n.is_multiple_of(2) { &aliases[..] } else { &[] };
    table.put_with(key.as_bytes(), &value, aliases).unwrap();
}

pub fn put_groups(table: &Table, numbers: impl IntoIterator<Item = u64>) {
    numbers.into_iter().for_each(|n| put_group(table, n));
}

/// Puts groups as one batch; every other one has an alias.
pub fn put_batch(table: &Table, numbers: impl IntoIterator<Item = u64>) {
    let mut batch = Batch::new();
    for n in numbers {
        let entry = batch.put(format!("h:{n}"), value_of(n));
        if n.is_multiple_of(2) {
            entry.alias(format!("whole:{n}"), ..);
        }
    }
    table.put_batch(&batch).unwrap();
}

/// All records of a table, compared in both directions and with the value that each key returns.
pub fn records(table: &Table, context: &str) -> Vec<Record> {
    let forwards: Vec<Record> = table
        .iter()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap_or_else(|e| panic!("{context}: iterating: {e}"));
            let value = entry.value().unwrap_or_else(|e| panic!("{context}: {entry:?}: {e}"));
            (entry.key().to_vec(), entry.is_primary(), value.to_vec())
        })
        .collect();
    let backwards =
        table.iter().unwrap().rev().map(|entry| {
            entry.unwrap_or_else(|e| panic!("{context}: backwards: {e}")).key().to_vec()
        });
    let mut backwards: Vec<Vec<u8>> = backwards.collect();
    backwards.reverse();
    let keys: Vec<Vec<u8>> = forwards.iter().map(|(key, _, _)| key.clone()).collect();
    assert_eq!(keys, backwards, "{context}: backwards differs");
    let newest: BTreeMap<_, _> = forwards.iter().map(|(key, _, value)| (key, value)).collect();
    for (key, value) in newest {
        let name = String::from_utf8_lossy(key);
        let got = table.get(key).unwrap_or_else(|e| panic!("{context}: get({name}): {e}"));
        assert_eq!(got.as_deref(), Some(&value[..]), "{context}: get({name})");
        assert!(table.contains(key).unwrap(), "{context}: {name}");
    }
    forwards
}

pub fn contents(db: &Db, context: &str) -> Contents {
    let names = db.tables().unwrap();
    let table = |name: &TableName| {
        let table = db.existing_table(name.as_str());
        let table = table.unwrap_or_else(|e| panic!("{context}: opening {name}: {e}"));
        let keymap = table.verify_keymap(&mut |_| {}).unwrap();
        assert!(keymap.is_sound(), "{context}: {keymap}");
        (name.to_string(), records(&table, context))
    };
    names.iter().map(table).collect()
}

/// The contents of a harness's database, read from a copy.
pub fn contents_of(harness: &Harness) -> Contents {
    let copy = fork(harness);
    contents(&copy.open(), "reading the contents")
}

/// What must be kept: everything up to the last kept record, and the rest of its group.
pub fn expected_after(old: &Contents, keep: KeepFn<'_>, no_match: NoMatch) -> Contents {
    let one = |name: &String, records: &Vec<Record>| {
        let last = records.iter().rposition(|(key, primary, _)| keep(name, key, *primary));
        let end = match (last, no_match) {
            (Some(last), _) => {
                let behind = records.iter().skip(last + 1).position(|(_, primary, _)| *primary);
                behind.map_or(records.len(), |behind| last + 1 + behind)
            }
            (None, NoMatch::Clear) => 0,
            (None, _) => records.len(),
        };
        (name.clone(), records[..end].to_vec())
    };
    old.iter().map(|(name, records)| one(name, records)).collect()
}

/// No key of `past` exists that is not in `present`.
pub fn check_absent(db: &Db, past: &Contents, present: &Contents, context: &str) {
    for (name, records) in past {
        let table = db.existing_table(name).unwrap();
        let there: BTreeSet<&Vec<u8>> = present[name].iter().map(|(key, _, _)| key).collect();
        for (key, _, _) in records.iter().filter(|(key, _, _)| !there.contains(key)) {
            let name = String::from_utf8_lossy(key);
            let got = table.get(key).unwrap_or_else(|e| panic!("{context}: get({name}): {e}"));
            assert!(got.is_none(), "{context}: {name} is back");
            assert!(!table.contains(key).unwrap(), "{context}: {name} is back");
        }
    }
}

/// Every file's bytes, including the lock files, except for root.id, which every read-write open
/// renews.
pub fn image(fs: &SimFs) -> Vec<(String, Vec<u8>)> {
    let paths = fs.file_paths().into_iter().filter(|path| !path.ends_with("root.id"));
    paths.map(|path| (path.to_string_lossy().into_owned(), fs.read_raw(&path))).collect()
}

/// No file of a rollback is left, and every byte of the other files is as expected. The database
/// is closed.
pub fn check_files(harness: &Harness, context: &str) {
    let left = |path: &&String| path.ends_with(".new") || path.ends_with(INTENT_FILE);
    let files = harness.files("");
    assert_eq!(files.iter().find(left), None, "{context}: left behind");
    let roots = ["/r0".into(), "/r1".into()];
    let copy = fork(harness);
    let names = copy.open().tables().unwrap();
    for name in names {
        let setup = TableSetup::for_files(name, &env(harness), &roots);
        let report = lithdb_repair::verify(&setup, &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{context}: {report}");
        assert!(report.findings.is_empty(), "{context}: {report}");
    }
}

/// The salt of every segment, and the digest of every revision of one, by table: none may ever
/// belong to other contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    salts: BTreeMap<(String, u32), u64>,
    digests: BTreeMap<(String, u32, u32), Option<[u8; 16]>>,
}

impl Identities {
    pub fn of(harness: &Harness) -> Self {
        let mut found = Self::default();
        for path in harness.fs.file_paths() {
            let table = path.iter().nth(2).unwrap().to_string_lossy().into_owned();
            let extension = path.extension().unwrap_or_default();
            if extension == "keys"
                && let Ok(header) = KeyHeader::decode(&path, &harness.fs.read_raw(&path))
            {
                let identity = header.identity;
                found.salts.insert((table, identity.segment.0), identity.salt);
            } else if extension == "metadata"
                && let Ok(found_here) = Metadata::read(&harness.fs, &path)
            {
                let id = (table, found_here.segment.0, found_here.revision);
                found.digests.insert(id, found_here.digest);
            }
        }
        found
    }

    /// Checks that what exists now agrees with what was seen before; remembers both.
    pub fn assert_consistent_with(&mut self, now: Self, context: &str) {
        for (id, salt) in now.salts {
            let before = *self.salts.entry(id.clone()).or_insert(salt);
            assert_eq!(before, salt, "{context}: segment {id:?} was used twice");
        }
        for (id, digest) in now.digests {
            let before = *self.digests.entry(id.clone()).or_insert(digest);
            assert_eq!(before, digest, "{context}: revision {id:?} has two contents");
        }
    }

    /// The highest segment id of a table.
    pub fn highest(&self, table: &str) -> u32 {
        let ids = self.salts.keys().filter(|(name, _)| name == table).map(|(_, id)| *id);
        ids.max().unwrap_or_default()
    }
}

fn new_record(n: usize) -> Record {
    (format!("new:{n}").into_bytes(), true, bytes_of(1000 + n as u64, 30))
}

/// The database works: puts, flushes, a crash, another rollback, expiry, and no old data returns.
/// `past` is everything that ever existed, `present` what exists now.
pub fn assert_usable(harness: &Harness, past: &Contents, present: &Contents, context: &str) {
    let mut identities = Identities::of(harness);
    let mut expected = present.clone();
    let db = harness.open();
    for (name, records) in &mut expected {
        let table = db.table(name, small()).unwrap();
        for n in 0..6 {
            let record = new_record(n);
            table.put(&record.0, &record.2).unwrap_or_else(|e| panic!("{context}: put: {e}"));
            records.push(record);
        }
        table.flush().unwrap_or_else(|e| panic!("{context}: flush: {e}"));
    }
    assert_eq!(contents(&db, context), expected, "{context}: with new records");
    check_absent(&db, past, &expected, context);
    identities.assert_consistent_with(Identities::of(harness), context);
    drop(db);
    // What was flushed survives, and nothing else returns.
    let harness = harness.after_crash(&CrashImage::Nothing);
    let context = format!("{context}, written to and crashed");
    let db = harness.open();
    assert_eq!(contents(&db, &context), expected, "{context}");
    check_absent(&db, past, &expected, &context);
    db.close().unwrap();
    drop(db);
    identities.assert_consistent_with(Identities::of(&harness), &context);
    // Another rollback.
    let context = format!("{context}, rolled back again");
    let plan = rollback(&harness).plan(through_key(b"new:2"));
    let plan = plan.unwrap_or_else(|e| panic!("{context}: plan: {e}"));
    plan.execute().unwrap_or_else(|e| panic!("{context}: execute: {e}"));
    let before = expected.clone();
    expected.values_mut().for_each(|records| records.truncate(records.len() - 3));
    let db = harness.open();
    assert_eq!(contents(&db, &context), expected, "{context}");
    check_absent(&db, &before, &expected, &context);
    check_absent(&db, past, &expected, &context);
    db.close().unwrap();
    drop(db);
    identities.assert_consistent_with(Identities::of(&harness), &context);
    check_files(&harness, &context);
    // And everything expires.
    let db = harness.open();
    for name in expected.keys() {
        let table = db.existing_table(name).unwrap();
        table.seal().unwrap();
        table.set_ttl(Some(Duration::from_secs(60))).unwrap();
        harness.clock.advance(Duration::from_secs(61));
        table.run_gc().unwrap();
    }
    let nothing: Contents = expected.keys().map(|name| (name.clone(), Vec::new())).collect();
    assert_eq!(contents(&db, &context), nothing, "{context}: expired");
    db.close().unwrap();
    drop(db);
    check_absent(&harness.open(), &expected, &nothing, &context);
    identities.assert_consistent_with(Identities::of(&harness), &context);
}

/// Plans and executes.
pub fn roll_back(harness: &Harness, keep: KeepFn<'_>, no_match: NoMatch) -> RollbackReport {
    plan(harness, keep, no_match).unwrap().execute().unwrap()
}

/// Plans; nothing is written.
pub fn plan(harness: &Harness, keep: KeepFn<'_>, no_match: NoMatch) -> Result<RollbackPlan> {
    let (before, ops) = (image(&harness.fs), harness.fs.ops());
    let plan = rollback(harness).on_no_match(no_match).plan(filter(keep));
    assert_eq!(harness.fs.ops(), ops, "planning did something");
    assert!(image(&harness.fs) == before, "planning wrote something");
    plan
}
