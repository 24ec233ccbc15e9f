//! Step 4: the older half expires, by the application's word: a GC filter.

use std::collections::HashSet;
use std::time::Instant;

use lithdb::{Db, GcFilter, Table};

use super::compare::compare_all;
use super::files::Digest;
use super::{TABLE, Tour};
use crate::failure::Failure;
use crate::output::{counted, duration, size};

impl Tour<'_> {
    /// Opens the table with a filter that gives up the older half, collects, and leaves the database open.
    pub(super) fn expire(&mut self) -> Result<Db, Failure> {
        let started = Instant::now();
        let db = Db::open(self.options.clone())?;
        let older: HashSet<Vec<u8>> =
            self.loaded.older().iter().map(|item| item.key.clone().into_bytes()).collect();
        // An alias goes with its value.
        let filter = GcFilter::new(move |key, is_primary| Ok(!is_primary || older.contains(key)));
        let table = db.table_with_filter(TABLE, self.table_options.clone(), filter)?;
        let before = table.stats();
        let collecting = Instant::now();
        let report = table.run_gc()?;
        let collected = collecting.elapsed();
        if report.held_for.is_some() {
            self.tally.wrong("expire: collection was held, as if the clock had jumped".to_owned());
        }
        let after = table.stats();
        let gone = self.expect_gone(&table)?;
        let counts = self.tally.counts();
        compare_all(self.loaded.newer(), &table, &mut self.tally)?;
        let kept = self.tally.since(counts);
        let what = format!(
            "a GC filter gave up the older half: {} of {} in {}; {gone} of {} are not found any more; of the rest, {kept}",
            counted(before.segments.saturating_sub(after.segments) as u64, "segment"),
            size(before.bytes.saturating_sub(after.bytes)),
            duration(collected),
            counted(self.loaded.older as u64, "file"),
        );
        self.tell("Expire", started.elapsed(), None, what)?;
        Ok(db)
    }

    /// Every key of the older half is gone, unless the newer half has it, too.
    fn expect_gone(&mut self, table: &Table) -> Result<u64, Failure> {
        let still: HashSet<Digest> = self.loaded.newer().iter().map(|item| item.digest).collect();
        let mut gone = 0;
        for item in self.loaded.older() {
            let is_there = table.contains(item.key.as_bytes())?;
            let alias_is_there = table.contains(item.digest.key().as_bytes())?;
            if is_there || alias_is_there != still.contains(&item.digest) {
                self.tally.wrong(format!("{}: expired, and still found", item.key));
            } else {
                gone += 1;
            }
        }
        Ok(gone)
    }
}
