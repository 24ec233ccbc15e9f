//! Step 1: loading. Every file is stored under its path, with its content's digest as a second key.

use std::time::Instant;

use lithdb::{Db, SecondaryKey};

use super::files::{Digest, Item};
use super::tree::Tree;
use super::{TABLE, Tour};
use crate::commands::load::FLUSH_BYTES;
use crate::failure::Failure;
use crate::files::Buffer;
use crate::output::{count, counted, size};
use crate::progress::Progress;

impl Tour<'_> {
    /// Loads the files and leaves the database open.
    pub(super) fn load(&mut self, tree: &Tree) -> Result<Db, Failure> {
        let started = Instant::now();
        let db = Db::open(self.options.clone().create_if_missing(true))?;
        let table = db.table(TABLE, self.table_options.clone())?;
        let mut bar = Progress::new("loading", tree.bytes);
        let mut buffer = Buffer::default();
        let (mut bytes, mut pending, mut seen, mut unreadable) = (0, 0, 0, 0);
        let most_older = tree.files.len().saturating_sub(1);
        for (index, found) in tree.files.iter().enumerate() {
            // Half of the bytes are in: what is older is sealed, so that it can expire by itself.
            let is_half = 2 * seen >= tree.bytes || index == most_older;
            if is_half && self.loaded.older == 0 && !self.loaded.items.is_empty() {
                table.seal()?;
                self.loaded.older = self.loaded.items.len();
            }
            seen += found.len_bytes;
            let content = match buffer.read(&found.path) {
                Ok(content) => content,
                Err(_) => {
                    unreadable += 1;
                    continue;
                }
            };
            let digest = Digest::of(content);
            let alias = digest.key();
            table.put_with(found.relative.as_bytes(), content, &[SecondaryKey::whole(&alias)])?;
            self.loaded.items.push(Item {
                path: found.path.clone(),
                key: found.relative.clone(),
                digest,
            });
            bytes += content.len() as u64;
            pending += content.len() as u64;
            if pending >= FLUSH_BYTES {
                table.flush()?;
                pending = 0;
            }
            bar.done(bytes);
        }
        table.flush()?;
        drop(bar);
        let took = started.elapsed();
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
        self.tell("Load", took, Some(bytes), what)?;
        Ok(db)
    }
}
