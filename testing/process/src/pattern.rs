//! The written pattern: operation number `seq` of a table in incarnation `incarnation` of the
//! writing process is always the same, and differs from that of every other number, incarnation
//! and table. So a reader knows exactly which bytes to expect.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use lithdb::{Batch, DbOptions, Position, Result, SecondaryKey, Table, TableOptions};

use crate::Rng;

/// Options that exercise several roots, marks and collections with a few megabytes.
pub fn db_options(roots: &[PathBuf]) -> DbOptions {
    let mut options = DbOptions::new(roots).gc_interval(Duration::from_millis(50));
    options.idle_after = Duration::from_millis(40);
    options.max_open_files = 16;
    options
}

/// A table that keeps everything, with small segments.
pub fn plain_options() -> TableOptions {
    TableOptions::new().segment_bytes(2 << 20).inline_max_bytes(512)
}

/// A table whose values expire, with a higher inline limit, so that the key file holds more of
/// them.
pub fn ttl_options(ttl: Duration) -> TableOptions {
    TableOptions::new()
        .segment_bytes(4 << 20)
        .segment_age(Duration::from_millis(250))
        .inline_max_bytes(16 << 10)
        .shards(3)
        .ttl(ttl)
}

/// The tables of the process whose system calls fail, with segments of a few keys; `expiring`
/// expires at once.
pub fn stress_options(table: &str) -> TableOptions {
    let options = TableOptions::new().segment_keys(16).inline_max_bytes(512).shards(2);
    if table == "expiring" { options.ttl(Duration::from_millis(1)) } else { options }
}

/// A table that creates and collects segments all the time.
pub fn short_lived_options(ttl: Duration) -> TableOptions {
    TableOptions::new()
        .segment_keys(25)
        .segment_age(Duration::from_millis(20))
        .inline_max_bytes(256)
        .shards(2)
        .ttl(ttl)
}

/// How an operation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `put`.
    Single,
    /// `put_with`, with aliases.
    Aliased,
    /// `put_batch`.
    Batch,
}

/// One value with its keys.
#[derive(Debug, Clone)]
pub struct OpEntry {
    /// The primary key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Aliases and the byte ranges they name.
    pub aliases: Vec<(Vec<u8>, Range<usize>)>,
}

/// What one call writes: present completely or not at all.
#[derive(Debug, Clone)]
pub struct Op {
    /// The call.
    pub kind: Kind,
    /// The values, in order.
    pub entries: Vec<OpEntry>,
}

impl Op {
    /// Operation `seq` of `table` in `incarnation`.
    pub fn new(table: &str, incarnation: u64, seq: u64) -> Self {
        let name = table.bytes().fold(0, |sum: u64, byte| sum * 31 + u64::from(byte));
        let mut rng = Rng::of(&[name, incarnation, seq]);
        let kind = match rng.below(8) {
            0 => Kind::Batch,
            1 | 2 => Kind::Aliased,
            _ => Kind::Single,
        };
        let count = if kind == Kind::Batch { 1 + rng.below(5) } else { 1 };
        let entries = (0..count)
            .map(|n| {
                let len = match rng.below(16) {
                    0 => 0,
                    1..5 => 1 + rng.below(100),
                    5..9 => 600 + rng.below(1000),
                    9..15 => 4 << 10,
                    _ => 100 << 10,
                } as usize;
                let value = rng.bytes(len);
                let aliases = match kind {
                    Kind::Single => Vec::new(),
                    _ => {
                        let start = rng.below(len as u64 + 1) as usize;
                        let end = start + rng.below((len - start) as u64 + 1) as usize;
                        vec![
                            (format!("whole-{seq:08}-{n}").into_bytes(), 0..len),
                            (format!("part-{seq:08}-{n}").into_bytes(), start..end),
                        ]
                    }
                };
                OpEntry { key: Self::key(seq, n), value, aliases }
            })
            .collect();
        Self { kind, entries }
    }

    /// The primary key of value `n` of operation `seq`.
    pub fn key(seq: u64, n: u64) -> Vec<u8> {
        format!("seq-{seq:08}-{n}").into_bytes()
    }

    /// The operation that a primary key belongs to.
    pub fn seq_of(key: &[u8]) -> Option<u64> {
        std::str::from_utf8(key).ok()?.split('-').nth(1)?.parse().ok()
    }

    /// Puts it.
    ///
    /// # Errors
    /// Those of the table.
    pub fn put(&self, table: &Table) -> Result<Position> {
        match (self.kind, &*self.entries) {
            (Kind::Batch, entries) => {
                let mut batch = Batch::new();
                for entry in entries {
                    let mut put = batch.put(&*entry.key, &*entry.value);
                    for (key, range) in &entry.aliases {
                        put = put.alias(&**key, range.clone());
                    }
                }
                table.put_batch(&batch)
            }
            (_, [entry, ..]) => {
                let aliases: Vec<_> = entry
                    .aliases
                    .iter()
                    .map(|(key, range)| SecondaryKey::range(key, range.clone()))
                    .collect();
                table.put_with(&entry.key, &entry.value, &aliases)
            }
            (_, []) => panic!("an operation without values"),
        }
    }

    /// Every key with the bytes it names, in iteration order.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], bool, &[u8])> {
        self.entries.iter().flat_map(|entry| {
            let primary = (&*entry.key, true, &*entry.value);
            let aliases = entry.aliases.iter().map(|(key, range)| {
                (&**key, false, entry.value.get(range.clone()).expect("a range inside the value"))
            });
            std::iter::once(primary).chain(aliases)
        })
    }
}
