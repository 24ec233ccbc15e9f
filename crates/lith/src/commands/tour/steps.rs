//! The steps of the tour.

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

/// How much the writer writes beside the reader.
const CONCURRENT_WRITE_BYTES: usize = 64 << 20;
const CONCURRENT_WRITE_FILES: usize = 2_000;

impl Tour<'_> {
    /// Stores every file under its path, with its content's digest as a second key. The first half
    /// is sealed, so that it can expire by itself.
    pub(super) fn load(&mut self, tree: &Tree) -> Result<Db, Failure> {
        let started = Instant::now();
        let db = Db::open(self.options.clone().create_if_missing(true))?;
        let table = db.table(TABLE, self.table_options.clone())?;
        let (mut buffer, mut bar) = (Buffer::default(), Progress::new("loading", tree.bytes));
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
            bar.done(bytes);
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

    /// Compares every file, a part of them by digest, and the order of iteration.
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
                let what = format!("iteration: record {records} is not the next that was put");
                self.tally.wrong.push(what);
                break;
            }
        }
        if expected.next().is_some() {
            let what = format!("iteration: ended after {records} records, too soon");
            self.tally.wrong.push(what);
        }
        let what = format!(
            "{compared}; {} also found by digest; iteration gives {} in the order of loading",
            counted(aliases, "file"),
            counted(records, "record")
        );
        self.report_step("Read back", took, Some(bytes), what)
    }

    /// Closes, opens again, and compares a sample.
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

    /// Opens the table with a GC filter that gives up the older half, and collects.
    pub(super) fn expire(&mut self) -> Result<Db, Failure> {
        let started = Instant::now();
        let db = Db::open(self.options.clone())?;
        let (older, newer) = self.loaded.halves();
        let expired: HashSet<Vec<u8>> = older.iter().map(|item| item.key.clone().into()).collect();
        // An alias goes with its value.
        let filter = GcFilter::new(move |key, is_primary| Ok(!is_primary || expired.contains(key)));
        let table = db.table_with_filter(TABLE, self.table_options.clone(), filter)?;
        let before = table.stats();
        let collecting = Instant::now();
        let report = table.run_gc()?;
        let collected = collecting.elapsed();
        if report.held_for.is_some() {
            let what = "expire: collection was held, as if the clock had jumped";
            self.tally.wrong.push(what.to_owned());
        }
        let after = table.stats();
        // What the older half has lost is gone, unless the newer half has it, too.
        let still: HashSet<Digest> = newer.iter().map(|item| item.digest).collect();
        let mut gone = 0;
        for item in older {
            let alias_is_there = table.contains(item.digest.key().as_bytes())?;
            if table.contains(item.key.as_bytes())?
                || alias_is_there != still.contains(&item.digest)
            {
                self.tally.wrong.push(format!("{}: expired, and still found", item.key));
            } else {
                gone += 1;
            }
        }
        let (compared, _) = self.tally.compare_all(newer, &table)?;
        let what = format!(
            "a GC filter gave up the older half: {} of {} in {}; {gone} of {} are not found any \
             more; of the rest, {compared}",
            counted(before.segments.saturating_sub(after.segments) as u64, "segment"),
            size(before.bytes.saturating_sub(after.bytes)),
            duration(collected),
            counted(older.len() as u64, "file"),
        );
        self.report_step("Expire", started.elapsed(), None, what)?;
        Ok(db)
    }

    /// Reads beside a writer. Here both are in one process; `lith get` in another terminal is the
    /// same.
    pub(super) fn read_while_writing(&mut self, db: &Db) -> Result<(), Failure> {
        let started = Instant::now();
        let writer = db.existing_table(TABLE)?;
        let reading = Db::open_read_only(self.options.clone())?;
        let reader = reading.existing_table(TABLE)?;
        let (_, newer) = self.loaded.halves();
        let values = some_values(newer, &writer)?;
        let written: usize = values.iter().map(|(_, value)| value.len()).sum();
        // The values are those of the first of them: there are as many.
        let stored = newer.get(..values.len()).unwrap_or_default();
        let (done, finished) = channel();
        let write = move || {
            let mut values = values.into_iter();
            let put = values.try_for_each(|(key, value)| writer.put(&key, &value).map(|_| ()));
            #[expect(clippy::let_underscore_must_use, reason = "the reader may have failed by now")]
            let _ = done.send(put.and_then(|()| writer.flush()));
        };
        let thread = lithdb::env::spawn("lith-tour-writer", write)
            .map_err(|e| Failure::io("start a thread", &e))?;
        let (compared, _) = self.tally.compare_all(sample(newer, 2_000), &reader)?;
        let panicked = || Failure::failed("the writer's thread panicked");
        finished.recv().map_err(|_| panicked())??;
        thread.join().map_err(|_| panicked())?;
        // The reader's view does not change until it is refreshed.
        let seen = || stored.iter().filter(|item| finds(&reader, item)).count();
        let too_early = seen();
        reader.refresh()?;
        let (found, expected) = (seen(), stored.len());
        if too_early > 0 || found != expected {
            self.tally.wrong.push(format!(
                "reader: saw {too_early} of {expected} new values before its refresh, {found} after"
            ));
        }
        reading.close()?;
        let what = format!(
            "while the writer stored {} ({}), a reader opened beside it: {compared}; after a \
             refresh it found the new ones, too",
            counted(expected as u64, "value"),
            size(written as u64),
        );
        self.report_step("Read beside the writer", started.elapsed(), None, what)
    }

    /// Rolls the closed database back to the last file that was loaded.
    pub(super) fn roll_back(&mut self) -> Result<(), Failure> {
        let (_, newer) = self.loaded.halves();
        let Some(last) = newer.last() else {
            return Ok(()); // nothing is left, and nothing was put behind it
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
                self.tally.wrong.push(format!("{key}: rolled back, and still found"));
            }
        }
        let (compared, _) = self.tally.compare_all(newer, &table)?;
        db.close()?;
        let what = format!(
            "back to {}: {} gone that came later, planned in {}, done in {}; of the rest, {compared}",
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
            true => "every byte read, every checksum, chain, count and keymap entry checked: sound",
            false => "every byte read: NOT sound, see below",
        };
        let problems = problems.into_iter().map(|problem| format!("verify: {problem}"));
        self.tally.wrong.extend(problems);
        self.report_step("Verify", took, Some(bytes), what.to_owned())
    }
}

/// Some values, to be stored again under other keys.
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
