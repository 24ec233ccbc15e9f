//! The steps of the tour. Each ends with a report, and adds wrong answers to the tally.

use std::collections::HashSet;
use std::sync::mpsc::channel;
use std::time::Instant;

use lithdb::rollback::through_key;
use lithdb::{Db, GcFilter, Rollback, SecondaryKey, Table, Value};

use super::compare::{Digest, Item, sample};
use super::tree::Tree;
use super::{TABLE, Tour};
use crate::commands::load::FLUSH_BYTES;
use crate::commands::verify;
use crate::failure::Failure;
use crate::files::Buffer;
use crate::output::{count, counted, duration, size};
use crate::progress::Progress;

/// The most that the writer writes beside the reader.
const CONCURRENT_WRITE_BYTES: usize = 64 << 20;
const CONCURRENT_WRITE_FILES: usize = 2_000;

impl Tour<'_> {
    /// Stores every file under its path, with the digest of its content as a secondary key. Seals
    /// the first half, so that it can expire separately.
    pub(super) fn load(&mut self, tree: &Tree) -> Result<Db, Failure> {
        let started = Instant::now();
        let db = Db::open(self.options.clone().create_if_missing(true))?;
        let table = db.table(TABLE, self.table_options.clone())?;
        let (mut buffer, mut bar) = (Buffer::default(), Progress::new("loading"));
        let (mut bytes, mut flushed, mut seen, mut unreadable) = (0, 0, 0, 0);
        for (index, found) in tree.files.iter().enumerate() {
            let is_half = 2 * seen >= tree.bytes || index + 1 == tree.files.len();
            if is_half && self.loaded.older == 0 && !self.loaded.items.is_empty() {
                table.seal()?;
                self.loaded.older = self.loaded.items.len();
            }
            seen += found.len_bytes;
            let Ok(content) = buffer.read(&found.path) else {
                unreadable += 1;
                continue;
            };
            let (path, key) = (found.path.clone(), found.relative.clone());
            let item = Item { path, key, digest: Digest::of(content) };
            let alias = item.digest.key();
            table.put_with(item.key.as_bytes(), content, &[SecondaryKey::whole(&alias)])?;
            self.loaded.items.push(item);
            bytes += content.len() as u64;
            if bytes - flushed >= FLUSH_BYTES {
                table.flush()?;
                flushed = bytes;
            }
            bar.set(bytes, Some(tree.bytes));
        }
        table.flush()?;
        drop(bar);
        let stats = table.stats();
        let mut what = format!(
            "{} stored, {}, each under its path and its content's digest: {} keys in {}, all durable",
            counted(self.loaded.items.len() as u64, "file"),
            size(bytes),
            count(stats.keys),
            counted(stats.segments as u64, "segment")
        );
        if unreadable > 0 {
            what += &format!("; {} could not be read", counted(unreadable, "file"));
        }
        self.report_step("Load", started.elapsed(), Some(bytes), what)?;
        Ok(db)
    }

    /// Compares every file, a sample by digest, and the order of iteration.
    pub(super) fn read_back(&mut self, db: &Db) -> Result<(), Failure> {
        let table = db.existing_table(TABLE)?;
        let started = Instant::now();
        let (compared, bytes) = self.tally.compare_all(&self.loaded.items, &table)?;
        let took = started.elapsed();
        let mut aliases = 0;
        for item in sample(&self.loaded.items, 500) {
            self.tally.compare(&table, &item.digest.key(), item, &mut Buffer::default());
            aliases += 1;
        }
        let (mut expected, mut records) = (self.loaded.items.iter(), 0);
        for entry in table.iter()? {
            let entry = entry?;
            records += 1;
            if !entry.is_primary() {
                continue;
            }
            if expected.next().is_none_or(|item| item.key.as_bytes() != entry.key()) {
                let what = format!("iteration: record {records} is out of write order");
                self.tally.wrong.push(what);
                break;
            }
        }
        if expected.next().is_some() {
            let what = format!("iteration: ended too early, after {records} records");
            self.tally.wrong.push(what);
        }
        let what = format!(
            "{compared}; {} also found by digest; iteration returns {} in write order",
            counted(aliases, "file"),
            counted(records, "record")
        );
        self.report_step("Read back", took, Some(bytes), what)
    }

    /// Closes, reopens, and compares a sample.
    pub(super) fn reopen(&mut self, db: Db) -> Result<(), Failure> {
        let started = Instant::now();
        db.close()?;
        drop(db);
        let closed = started.elapsed();
        let started = Instant::now();
        let db = Db::open(self.options.clone())?;
        let table = db.existing_table(TABLE)?;
        let opened = started.elapsed();
        let keys = counted(table.stats().keys, "key");
        let (compared, _) = self.tally.compare_all(sample(&self.loaded.items, 1_000), &table)?;
        db.close()?;
        let what = format!(
            "closed in {}, opened in {} with the keymap of {keys} rebuilt from the key files; \
             {compared}",
            duration(closed),
            duration(opened),
        );
        self.report_step("Reopen", closed + opened, None, what)
    }

    /// Opens the table with a GC filter that releases the older half, and collects.
    pub(super) fn expire(&mut self) -> Result<Db, Failure> {
        let started = Instant::now();
        let db = Db::open(self.options.clone())?;
        let (older, newer) = self.loaded.halves();
        let expired: HashSet<Vec<u8>> = older.iter().map(|item| item.key.clone().into()).collect();
        // The filter decides on primary keys; an alias expires with its value.
        let filter = GcFilter::new(move |key, is_primary| Ok(!is_primary || expired.contains(key)));
        let table = db.table_with_filter(TABLE, self.table_options.clone(), filter)?;
        let before = table.stats();
        let collecting = Instant::now();
        let report = table.run_gc()?;
        let collected = collecting.elapsed();
        if report.held_for.is_some() {
            let what = "expire: collection was delayed as after a clock jump";
            self.tally.wrong.push(what.to_owned());
        }
        let after = table.stats();
        // A digest of the older half must be absent, unless the newer half has the same content.
        let kept: HashSet<Digest> = newer.iter().map(|item| item.digest).collect();
        let mut collected_files = 0;
        for item in older {
            let has_alias = table.contains(item.digest.key().as_bytes())?;
            if table.contains(item.key.as_bytes())? || has_alias != kept.contains(&item.digest) {
                self.tally
                    .wrong
                    .push(format!("{}: expected to be collected, still found", item.key));
            } else {
                collected_files += 1;
            }
        }
        let (compared, _) = self.tally.compare_all(newer, &table)?;
        let what = format!(
            "a GC filter released the older half: {}, {} collected in {}; {collected_files} of {} \
             no longer found; of the rest, {compared}",
            counted(before.segments.saturating_sub(after.segments) as u64, "segment"),
            size(before.bytes.saturating_sub(after.bytes)),
            duration(collected),
            counted(older.len() as u64, "file"),
        );
        self.report_step("Expire", started.elapsed(), None, what)?;
        Ok(db)
    }

    /// Reads beside a writer. Here both are in one process; `lith get` in another process does the
    /// same.
    pub(super) fn read_while_writing(&mut self, db: &Db) -> Result<(), Failure> {
        let started = Instant::now();
        let writer = db.existing_table(TABLE)?;
        let reading = Db::open_read_only(self.options.clone())?;
        let reader = reading.existing_table(TABLE)?;
        let (_, newer) = self.loaded.halves();
        let values = some_values(newer, &writer)?;
        let written: usize = values.iter().map(|(_, value)| value.len()).sum();
        // `some_values` took the values of the first items.
        let stored = newer.get(..values.len()).unwrap_or_default();
        let (done, finished) = channel();
        let write = move || {
            let mut values = values.into_iter();
            let put = values.try_for_each(|(key, value)| writer.put(&key, &value).map(|_| ()));
            #[expect(clippy::let_underscore_must_use, reason = "the reader may have failed")]
            let _ = done.send(put.and_then(|()| writer.flush()));
        };
        let thread = lithdb_env::spawn("lith-tour-writer", write)
            .map_err(|e| Failure::io("start a thread", &e))?;
        let (compared, _) = self.tally.compare_all(sample(newer, 2_000), &reader)?;
        let panicked = || Failure::failed("the writer's thread panicked");
        finished.recv().map_err(|_| panicked())??;
        thread.join().map_err(|_| panicked())?;
        // The reader's view does not change before a refresh.
        let seen = || stored.iter().filter(|item| finds(&reader, item)).count();
        let too_early = seen();
        reader.refresh()?;
        let (found, expected) = (seen(), stored.len());
        if too_early > 0 || found != expected {
            self.tally.wrong.push(format!(
                "reader: expected 0 new values before a refresh and {expected} after it, found \
                 {too_early} and {found}"
            ));
        }
        reading.close()?;
        let what = format!(
            "while a writer stored {} ({}), a reader beside it: {compared}; after a refresh it found \
             the new values, too",
            counted(expected as u64, "value"),
            size(written as u64),
        );
        self.report_step("Read beside the writer", started.elapsed(), None, what)
    }

    /// Rolls the closed database back to the last loaded file.
    pub(super) fn roll_back(&mut self) -> Result<(), Failure> {
        let (_, newer) = self.loaded.halves();
        let Some(last) = newer.last() else {
            return Ok(()); // the newer half is empty: nothing was put after it
        };
        let started = Instant::now();
        let request = Rollback::new(&self.options.roots);
        let plan = request.plan(through_key(last.key.as_bytes()))?;
        let planned = started.elapsed();
        let executing = Instant::now();
        let report = plan.execute()?;
        let executed = executing.elapsed();
        let db = Db::open(self.options.clone())?;
        let table = db.existing_table(TABLE)?;
        for key in newer.iter().map(Item::second_key) {
            if table.contains(key.as_bytes())? {
                self.tally.wrong.push(format!("{key}: expected to be rolled back, still found"));
            }
        }
        let (compared, _) = self.tally.compare_all(newer, &table)?;
        db.close()?;
        let what = format!(
            "rolled back to {}: {} removed, planned in {}, executed in {}; of the rest, {compared}",
            last.key,
            counted(report.tables.iter().map(|table| table.discarded.records).sum(), "record"),
            duration(planned),
            duration(executed),
        );
        self.report_step("Roll back", started.elapsed(), None, what)
    }

    pub(super) fn verify(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let verified = verify::verify(&self.options, None)?;
        let took = started.elapsed();
        let problems = verified.problems();
        let bytes = verified.files.tables.iter().map(|report| report.bytes).sum();
        let what = match problems.is_empty() {
            true => "every byte, checksum, chain link, count and keymap entry verified: ok",
            false => "every byte read: DAMAGED, see below",
        };
        let problems = problems.into_iter().map(|problem| format!("verify: {problem}"));
        self.tally.wrong.extend(problems);
        self.report_step("Verify", took, Some(bytes), what.to_owned())
    }
}

/// Values of the first items, to store again under other keys.
fn some_values(items: &[Item], table: &Table) -> Result<Vec<(Vec<u8>, Value)>, Failure> {
    let (mut values, mut bytes) = (Vec::new(), 0);
    for item in items.iter().take(CONCURRENT_WRITE_FILES) {
        let Some(value) = table.get(item.key.as_bytes())? else { break };
        bytes += value.len();
        values.push((item.second_key().into(), value));
        if bytes >= CONCURRENT_WRITE_BYTES {
            break;
        }
    }
    Ok(values)
}

fn finds(reader: &Table, item: &Item) -> bool {
    let found = reader.get(item.second_key().as_bytes());
    matches!(found, Ok(Some(value)) if Digest::of(&value) == item.digest)
}
