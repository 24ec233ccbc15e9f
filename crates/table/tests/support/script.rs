//! Scripts of operations on a table, the model of what they guaranteed, and the check of what
//! exists afterwards.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::Result;
use lithdb_repair::{plan_repair, verify as verify_files};
use lithdb_segment::KeyHeader;
use lithdb_sim::CrashImage;
use lithdb_table::{Batch, Maintenance, Presence, SecondaryKey, Table, TableOptions, presence};

use super::Harness;
use super::oracle::assert_matches_oracle;

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Op {
    /// Puts a value of so many bytes.
    Put(usize),
    /// Puts a value of so many bytes with two secondary keys.
    Aliased(usize),
    /// Puts values of these lengths in one batch; every second one has an alias.
    Batch(&'static [usize]),
    Flush,
    /// Waits until the newest put is durable.
    WaitDurable,
    Seal,
    Shards(u16),
    Advance(Duration),
    Gc,
    /// Closes and opens again.
    Reopen,
    /// Opens again without a close: what was not flushed may be lost.
    Kill,
    /// The maintenance of an idle table.
    Tick,
    BeginDrop,
    Remove,
    /// Creates and opens the table again after a removal.
    Create,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub roots: usize,
    pub options: TableOptions,
    pub ops: Vec<Op>,
}

/// A record as iteration returns it: key, whether it is primary, value.
pub type Record = (Vec<u8>, bool, Vec<u8>);

/// A batch that was put.
#[derive(Debug, Clone)]
pub struct Written {
    pub records: Arc<Vec<Record>>,
    /// The segment it is in, once its put has returned.
    pub segment: Option<u32>,
}

/// What may and must be found.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// `Table::create` has returned.
    pub created: bool,
    /// What was put, in order; the last one may be an attempt.
    pub batches: Vec<Written>,
    /// Number of durable batches.
    pub acked: usize,
    /// Number of batches that never return.
    pub collected: usize,
    /// Number of batches that may be absent.
    pub collectable: usize,
    /// A drop was begun; it was finished.
    pub dropping: bool,
    pub dropped: bool,
    /// Keys of an earlier table of the same name.
    pub gone: Vec<Vec<u8>>,
}

/// A running script.
pub struct Run<'a> {
    pub scenario: &'a Scenario,
    pub harness: Harness,
    pub model: Model,
    pub table: Option<Table>,
    /// Faults end with the operation they were planned for: reads of what an open serves see none.
    pub clear_faults_after_open: bool,
    next_key: usize,
}

/// Bytes that are different for every key and offset.
pub fn value_of(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (n * 131 + i * 7 + (i >> 8) * 13 + 1) as u8).collect()
}

impl<'a> Run<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        Self::on(scenario, Harness::new(scenario.roots))
    }

    pub fn on(scenario: &'a Scenario, harness: Harness) -> Self {
        Self {
            scenario,
            harness,
            model: Model::default(),
            table: None,
            clear_faults_after_open: false,
            next_key: 0,
        }
    }

    /// Creates the table and runs every step, up to the first that fails.
    pub fn until_error(&mut self) -> Result<()> {
        self.step(&Op::Create)?;
        for op in &self.scenario.ops {
            self.step(op)?;
        }
        Ok(())
    }

    pub fn table(&self) -> &Table {
        self.table.as_ref().expect("the table is open")
    }

    fn group(&mut self, len: usize, aliases: usize) -> Vec<Record> {
        let n = self.next_key;
        self.next_key += 1;
        let value = value_of(n, len);
        let mut records = vec![(format!("key-{n:04}").into_bytes(), true, value.clone())];
        if aliases > 0 {
            records.push((format!("whole-{n:04}").into_bytes(), false, value.clone()));
        }
        if aliases > 1 {
            let part = value[len / 3..len - len / 4].to_vec();
            records.push((format!("part-{n:04}").into_bytes(), false, part));
        }
        records
    }

    /// Puts `groups` as one batch, or a single group with a single put.
    fn put(&mut self, groups: Vec<Vec<Record>>) -> Result<()> {
        let records = Arc::new(groups.iter().flatten().cloned().collect());
        self.model.batches.push(Written { records, segment: None });
        let table = self.table();
        let put = if let [group] = &groups[..] {
            let len = group[0].2.len();
            let aliases: Vec<SecondaryKey<'_>> = group[1..]
                .iter()
                .map(|(key, _, _)| match key.starts_with(b"whole") {
                    true => SecondaryKey::whole(key),
                    false => SecondaryKey::range(key, len / 3..len - len / 4),
                })
                .collect();
            table.put_with(&group[0].0, &group[0].2, &aliases)
        } else {
            let mut batch = Batch::new();
            for group in &groups {
                let mut entry = batch.put(group[0].0.clone(), group[0].2.clone());
                for (key, _, _) in &group[1..] {
                    entry = entry.alias(key.clone(), ..);
                }
            }
            table.put_batch(&batch)
        };
        match put {
            Ok(at) => {
                self.model.batches.last_mut().unwrap().segment = Some(at.segment.0);
                Ok(())
            }
            Err(error) => {
                if !error.latches() {
                    self.model.batches.pop(); // nothing was written
                }
                Err(error)
            }
        }
    }

    pub fn step(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Put(len) => {
                let group = self.group(*len, 0);
                self.put(vec![group])?;
            }
            Op::Aliased(len) => {
                let group = self.group(*len, 2);
                self.put(vec![group])?;
            }
            Op::Batch(lens) => {
                let groups = lens.iter().enumerate().map(|(n, len)| self.group(*len, n % 2));
                let groups = groups.collect();
                self.put(groups)?;
            }
            Op::Flush => {
                self.table().flush()?;
                self.model.acked = self.model.batches.len();
            }
            Op::WaitDurable => {
                let end = self.table().stats().log_end;
                self.table().wait_durable(end)?;
                self.model.acked = self.model.batches.len();
            }
            Op::Seal => {
                self.table().seal()?;
                self.model.acked = self.model.batches.len();
            }
            Op::Shards(shards) => self.table().set_shards(*shards)?,
            Op::Advance(by) => self.harness.clock.advance(*by),
            Op::Gc => self.collect()?,
            Op::Reopen => {
                if let Some(table) = self.table.take() {
                    table.close()?;
                    self.model.acked = self.model.batches.len();
                }
                self.open()?;
            }
            Op::Kill => {
                drop(self.table.take());
                self.harness.fs.release_locks();
                self.open()?;
            }
            Op::Tick => {
                self.harness.clock.advance(Duration::from_secs(5));
                self.table().tick(&Maintenance {
                    flush_bytes: None,
                    flush_after: None,
                    idle_after: Duration::ZERO,
                    collect: false,
                })?;
            }
            Op::BeginDrop => {
                self.model.dropping = true;
                self.table().begin_drop()?;
                self.table = None;
            }
            Op::Remove => {
                Table::remove(&self.harness.setup)?;
                self.model.dropped = true;
            }
            Op::Create => {
                let keys = self.model.batches.iter().flat_map(|b| b.records.iter());
                let mut gone: Vec<Vec<u8>> = keys.map(|(key, _, _)| key.clone()).collect();
                gone.append(&mut self.model.gone);
                self.model = Model { gone, ..Model::default() };
                self.harness.create()?;
                self.model.created = true;
                self.open()?;
            }
        }
        Ok(())
    }

    /// Opens the table and continues with what survived.
    pub fn open(&mut self) -> Result<()> {
        let table = self.harness.open(&self.scenario.options)?;
        if self.clear_faults_after_open {
            self.harness.fs.clear_faults();
        }
        let (_, end) = check(&table, &self.model, "going on after opening again");
        assert_matches_oracle(&table, &self.harness, "going on after opening again");
        self.model.batches.truncate(end);
        self.model.acked = end;
        // Recovery may have moved the records after the last mark to another segment.
        let mut segments = HashMap::new();
        for entry in table.iter()? {
            let entry = entry?;
            segments.insert(entry.key().to_vec(), entry.position().segment.0);
        }
        for batch in &mut self.model.batches {
            if let Some(segment) = segments.get(&batch.records[0].0) {
                batch.segment = Some(*segment);
            }
        }
        self.table = Some(table);
        Ok(())
    }

    fn collect(&mut self) -> Result<()> {
        let mutable = self.table().stats().log_end.segment.0;
        self.model.collectable = self.model.below(mutable);
        let report = self.table().run_gc()?;
        let collected = self.model.below(self.table().stats().watermark.0);
        // A segment without records, which a recovery may have left, is collected as well.
        assert_eq!(report.records > 0, collected > self.model.collected, "{report:?}");
        assert!(report.segments > 0 || report.records == 0, "{report:?}");
        self.model.collected = collected;
        self.model.collectable = collected;
        Ok(())
    }
}

impl Model {
    /// Number of batches in segments below this one.
    fn below(&self, segment: u32) -> usize {
        self.batches.iter().take_while(|b| b.segment.is_some_and(|s| s < segment)).count()
    }

    /// What must exist after an open served `start..end`, with one more batch that was flushed.
    pub fn after_reopen(&self, (start, end): (usize, usize), more: &[Record]) -> Self {
        let mut next = self.clone();
        next.batches.truncate(end);
        if !more.is_empty() {
            next.batches.push(Written { records: Arc::new(more.to_vec()), segment: None });
        }
        (next.acked, next.collected, next.collectable) = (next.batches.len(), start, start);
        next
    }
}

/// All records, forwards; backwards must be the same.
pub fn read_all(table: &Table, context: &str) -> Vec<Record> {
    let record = |entry: Result<lithdb_table::Entry>| {
        let entry = entry.unwrap_or_else(|e| panic!("{context}: iterating: {e}"));
        let value = entry.value().unwrap_or_else(|e| panic!("{context}: {entry:?}: {e}"));
        (entry.key().to_vec(), entry.is_primary(), value.to_vec())
    };
    let forwards: Vec<_> = table.iter().unwrap().map(record).collect();
    let mut backwards: Vec<_> =
        table.iter().unwrap().rev().map(|e| e.unwrap().key().to_vec()).collect();
    backwards.reverse();
    let keys: Vec<_> = forwards.iter().map(|(key, _, _)| key.clone()).collect();
    assert_eq!(keys, backwards, "{context}: backwards differs");
    forwards
}

/// Compares the table's content with what may and must exist; returns which batches exist.
pub fn check(table: &Table, model: &Model, context: &str) -> (usize, usize) {
    let found = read_all(table, context);
    let (start, end) = batch_range(&found, model, context);
    assert!(end >= model.acked, "{context}: {} were acknowledged, {end} survived", model.acked);
    assert!(
        (model.collected..=model.collectable).contains(&start),
        "{context}: begins at {start}; collected {}, at most {}",
        model.collected,
        model.collectable
    );
    for (n, batch) in model.batches.iter().enumerate() {
        for (key, _, value) in batch.records.iter() {
            let got = table.get(key).unwrap_or_else(|e| panic!("{context}: get: {e}"));
            let expected = (start..end).contains(&n).then_some(&value[..]);
            let name = String::from_utf8_lossy(key);
            assert!(got.as_deref() == expected, "{context}: get({name}) is wrong, batch {n}");
            assert_eq!(table.contains(key).unwrap(), expected.is_some(), "{context}: {name}");
        }
    }
    for key in &model.gone {
        assert_eq!(table.get(key).unwrap(), None, "{context}: a key of a table that is gone");
    }
    assert_eq!(table.stats().keys, found.len() as u64, "{context}: counted keys");
    (start, end)
}

/// Which batches were found: whole ones, in order, without a gap.
fn batch_range(found: &[Record], model: &Model, context: &str) -> (usize, usize) {
    let Some((first, _, _)) = found.first() else {
        let nothing = model.acked.max(model.collected);
        return (nothing, nothing);
    };
    let firsts = model.batches.iter().enumerate().map(|(n, b)| (b.records[0].0.clone(), n));
    let firsts: HashMap<Vec<u8>, usize> = firsts.collect();
    let name = String::from_utf8_lossy(first);
    let start = *firsts.get(first).unwrap_or_else(|| panic!("{context}: begins with {name}"));
    let (mut end, mut rest) = (start, found);
    while !rest.is_empty() {
        let batch = model.batches.get(end).unwrap_or_else(|| panic!("{context}: too much"));
        assert!(
            rest.starts_with(&batch.records),
            "{context}: batch {end} is not there whole, or not in its place"
        );
        rest = &rest[batch.records.len()..];
        end += 1;
    }
    (start, end)
}

/// Checks everything that must hold for a database found in this state: what exists, that another
/// opening changes nothing visible, that the format oracle reads the same from the files, and that
/// the table continues to work. Returns the number of operations of the first open.
pub fn verify(scenario: &Scenario, harness: &Harness, model: &Model, context: &str) -> u64 {
    let fs = &harness.fs;
    let before = fs.ops();
    let found = presence(fs, &harness.setup.dirs).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut model = model.clone();
    let salts = if found == Presence::Present { salts(harness) } else { HashMap::new() };
    if model.dropped {
        assert_eq!(found, Presence::Absent, "{context}: it was removed");
    }
    if found != Presence::Present {
        assert!(!model.created || model.dropping, "{context}: found {found:?}");
        if found == Presence::Interrupted {
            Table::remove(&harness.setup).unwrap_or_else(|e| panic!("{context}: remove: {e}"));
        }
        assert_eq!(presence(fs, &harness.setup.dirs).unwrap(), Presence::Absent, "{context}");
        harness.create().unwrap_or_else(|e| panic!("{context}: create: {e}"));
        model = Model::default();
    }
    let open = |harness: &Harness| {
        harness.open(&scenario.options).unwrap_or_else(|e| panic!("{context}: open: {e}"))
    };
    if is_every_fifth() {
        assert_needs_no_repair(harness, context);
    }
    let table = open(harness);
    let ops = fs.ops() - before;
    let served = check(&table, &model, context);
    assert_matches_oracle(&table, harness, context);
    drop(table);
    let model = model.after_reopen(served, &[]);
    let table = open(harness);
    assert_eq!(check(&table, &model, &format!("{context}, opened again")), served);
    table.close().unwrap_or_else(|e| panic!("{context}: close: {e}"));
    drop(table);
    let table = open(harness);
    assert_eq!(check(&table, &model, &format!("{context}, closed and opened")), served);
    let thorough = is_every_fifth();
    if thorough {
        assert_matches_oracle(&table, harness, &format!("{context}, closed and opened"));
    }
    let more = vec![(b"one more".to_vec(), true, value_of(9999, 90))];
    table.put(&more[0].0, &more[0].2).unwrap_or_else(|e| panic!("{context}: put: {e}"));
    table.flush().unwrap_or_else(|e| panic!("{context}: flush: {e}"));
    drop(table);
    let model = model.after_reopen(served, &more);
    assert_eq!(fs.bus_errors(), 0, "{context}: read behind the end of a file");
    let harness = harness.after_crash(fs.crash_with(&CrashImage::Nothing));
    let table = open(&harness);
    check(&table, &model, &format!("{context}, with one more, after a crash"));
    if thorough {
        assert_matches_oracle(
            &table,
            &harness,
            &format!("{context}, with one more, after a crash"),
        );
    }
    // A new segment, too: no id is used for a second content.
    table.seal().unwrap_or_else(|e| panic!("{context}: seal: {e}"));
    if thorough {
        assert_matches_oracle(&table, &harness, &format!("{context}, sealed"));
    }
    for (id, salt) in self::salts(&harness) {
        let before = salts.get(&id).copied().unwrap_or(salt);
        assert_eq!(before, salt, "{context}: segment {id:?} was used twice");
    }
    ops
}

/// What a crash left is never reported as damage, and opening it needs no repair.
fn assert_needs_no_repair(harness: &Harness, context: &str) {
    let looked = harness.after_crash(harness.fs.fork());
    let report = verify_files(&looked.setup, &mut |_| {})
        .unwrap_or_else(|e| panic!("{context}: verify: {e}"));
    assert!(report.is_sound(), "{context}: {report}");
    let plan =
        plan_repair(&looked.setup, &mut |_| {}).unwrap_or_else(|e| panic!("{context}: plan: {e}"));
    assert!(plan.is_empty(), "{context}: {plan}");
    assert_eq!(looked.fs.ops(), 0, "{context}: looking wrote something");
}

/// Whether this is the first, sixth, eleventh … image that the test verifies: checks that would be
/// too slow for every image run then.
fn is_every_fifth() -> bool {
    thread_local!(static IMAGES: Cell<u64> = const { Cell::new(0) });
    IMAGES.replace(IMAGES.get() + 1).is_multiple_of(5)
}

/// The salts of all segments whose key files have a valid header, by table and segment: an
/// unsynced file may show a header of an earlier table.
fn salts(harness: &Harness) -> HashMap<(u64, u32), u64> {
    let paths = harness.fs.file_paths();
    let keys = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "keys"));
    #[expect(clippy::disallowed_methods, reason = "only headers that hold have a salt")]
    let headers = keys.filter_map(|path| KeyHeader::decode(path, &harness.fs.read_raw(path)).ok());
    headers
        .map(|header| header.identity)
        .map(|identity| ((identity.table_id, identity.segment.0), identity.salt))
        .collect()
}
