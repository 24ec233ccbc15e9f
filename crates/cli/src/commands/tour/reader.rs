//! Step 5: a reader beside the writer. Here both are in one process; `lith get` in another terminal is the same.

use std::sync::mpsc::channel;
use std::time::Instant;

use lithdb::{Db, Table};

use super::compare::compare_sample;
use super::files::{Digest, Item};
use super::{TABLE, Tour};
use crate::failure::Failure;
use crate::output::{counted, size};

/// How much the writer writes meanwhile.
const MEANWHILE_BYTES: u64 = 64 << 20;
const MEANWHILE_FILES: usize = 2_000;

/// The key of a file that was stored a second time: no path from the root of a tree has two slashes in a row.
pub(super) fn again(item: &Item) -> String {
    format!("again://{}", item.key)
}

impl Tour<'_> {
    /// Reads while somebody writes.
    pub(super) fn read_beside(&mut self, db: &Db) -> Result<(), Failure> {
        let started = Instant::now();
        let writer = db.existing_table(TABLE)?;
        let reading = Db::open_read_only(self.options.clone())?;
        let reader = reading.existing_table(TABLE)?;
        let values = self.take_some(&writer)?;
        let written: u64 = values.iter().map(|(_, value)| value.len() as u64).sum();
        let count = values.len();
        let (done, finished) = channel();
        let body = move || {
            let put = values
                .into_iter()
                .try_for_each(|(key, value)| writer.put(key.as_bytes(), &value).map(|_| ()));
            #[expect(clippy::let_underscore_must_use, reason = "the reader may have failed by now")]
            let _ = done.send(put.and_then(|()| writer.flush()));
        };
        let thread = lithdb::env::spawn("lith-tour-writer", body)
            .map_err(|e| Failure::io("start a thread", &e))?;
        let before = self.tally.counts();
        compare_sample(self.loaded.newer(), &reader, 2_000, &mut self.tally)?;
        let read = self.tally.since(before);
        let panicked = || Failure::failed("the writer's thread panicked");
        finished.recv().map_err(|_| panicked())??;
        thread.join().map_err(|_| panicked())?;
        // What the reader saw at first it sees; what came later it sees when it looks again.
        let items: Vec<&Item> = self.loaded.newer().iter().take(count).collect();
        let too_early = items.iter().filter(|item| finds(&reader, item)).count();
        reader.refresh()?;
        let seen = items.iter().filter(|item| finds(&reader, item)).count();
        if too_early > 0 || seen != count {
            self.tally.wrong(format!(
                "reader: saw {too_early} of {count} new values before it looked again, {seen} after"
            ));
        }
        reading.close()?;
        let what = format!(
            "while the writer stored {} ({}), a reader opened beside it: {read}; when it looked again it found the new ones, too",
            counted(count as u64, "value"),
            size(written),
        );
        self.tell("Read beside the writer", started.elapsed(), None, what)
    }

    /// Some values of the newer half, to be stored again under other keys.
    fn take_some(&self, table: &Table) -> Result<Vec<(String, lithdb::Value)>, Failure> {
        let mut values = Vec::new();
        let mut bytes = 0;
        for item in self.loaded.newer().iter().take(MEANWHILE_FILES) {
            let Some(value) = table.get(item.key.as_bytes())? else { break };
            bytes += value.len() as u64;
            values.push((again(item), value));
            if bytes >= MEANWHILE_BYTES {
                break;
            }
        }
        Ok(values)
    }
}

fn finds(reader: &Table, item: &Item) -> bool {
    let found = reader.get(again(item).as_bytes());
    matches!(found, Ok(Some(value)) if Digest::of(&value) == item.digest)
}
