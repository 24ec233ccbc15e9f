//! Step 6: back to where the tour was before the writer wrote beside the reader.

use std::time::Instant;

use lithdb::rollback::through_key;
use lithdb::{Db, Rollback};

use super::compare::compare_all;
use super::reader::again;
use super::{TABLE, Tour};
use crate::failure::Failure;
use crate::output::{counted, duration};

impl Tour<'_> {
    /// Rolls the closed database back to the last file that was loaded: what was put behind it is gone, the rest as before.
    pub(super) fn roll_back(&mut self) -> Result<(), Failure> {
        let Some(last) = self.loaded.newer().last().map(|item| item.key.clone()) else {
            return Ok(()); // nothing is left of what was loaded, and nothing was put behind it
        };
        let started = Instant::now();
        let request = Rollback::new(&self.options.roots);
        let plan = request.plan(through_key(last.as_bytes()))?;
        let planned = started.elapsed();
        let executing = Instant::now();
        let report = plan.execute()?;
        let executed = executing.elapsed();
        let records: u64 = report.tables.iter().map(|table| table.discarded.records).sum();
        let db = Db::open(self.options.clone())?;
        let table = db.existing_table(TABLE)?;
        for item in self.loaded.newer() {
            if table.contains(again(item).as_bytes())? {
                self.tally.wrong(format!("{}: rolled back, and still found", again(item)));
            }
        }
        let before = self.tally.counts();
        compare_all(self.loaded.newer(), &table, &mut self.tally)?;
        let kept = self.tally.since(before);
        drop(table);
        db.close()?;
        let what = format!(
            "back to {last}: {} gone that came later, planned in {}, done in {}; of the rest, {kept}",
            counted(records, "record"),
            duration(planned),
            duration(executed),
        );
        self.tell("Roll back", started.elapsed(), None, what)
    }
}
