//! A reading process beside one that collects, is killed, recovers with a torn end, and rolls
//! back.
//!
//! The reader iterates, gets and refreshes continuously and keeps returned values. It must not die
//! (SIGBUS), must never get wrong bytes and must never report corruption. Two errors are allowed:
//! `Missing` (a file was collected or rolled back under it) and `Locked` (a rollback is in
//! progress). Whenever the writer pauses, the reader's view after a refresh equals what a writer
//! finds.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use lithdb::rollback::PerTable;
use lithdb::{Components, Db, DbOptions, NoMatch, RecordRef, Result, Rollback, Verdict};
use lithdb_process_tests::{Crashy, Rng, newest_key_file, summarize_view, tagged_seq};
use lithdb_sim::{Effort, Tally};

const TTL: Duration = Duration::from_millis(200);

fn start(args: &[String], roots: &[PathBuf]) -> Crashy {
    Crashy::start(env!("CARGO_BIN_EXE_crashy"), args, roots)
}

/// One database and what has been done to it.
struct Harness {
    roots: Vec<PathBuf>,
    rng: Rng,
    incarnations: u64,
    tally: Tally,
}

impl Harness {
    fn open(&self) -> Db {
        let components = Components { without_maintenance: true, ..Components::default() };
        Db::open_with(DbOptions::new(&self.roots), components).unwrap()
    }

    /// A summary of both tables after a read-write open, and the number of their next operation.
    fn views(&self) -> ([String; 2], [u64; 2]) {
        let db = self.open();
        let tables = ["plain", "aged"].map(|name| db.existing_table(name).unwrap());
        let views = tables.each_ref().map(|table| summarize_view(table).unwrap());
        let next = tables.each_ref().map(|table| {
            let newest = table.newest_key().unwrap();
            newest.map_or(0, |key| tagged_seq(&key).unwrap() + 1)
        });
        db.close().unwrap();
        (views, next)
    }

    /// Runs a process that writes and collects for a while and then exits or is killed.
    fn write(&mut self, next: [u64; 2], is_killed: bool) {
        self.incarnations += 1;
        let args =
            ["write-tagged".to_owned(), self.incarnations.to_string(), TTL.as_millis().to_string()];
        let args: Vec<String> =
            args.into_iter().chain(next.iter().map(ToString::to_string)).collect();
        let mut writer = start(&args, &self.roots);
        assert_eq!(writer.line(), "start");
        std::thread::sleep(Duration::from_millis(20 + self.rng.below(120)));
        if is_killed {
            writer.kill();
        } else {
            writer.end();
        }
    }

    /// Appends torn bytes, as a crash leaves them; the next open tries to truncate them.
    fn append_torn_bytes(&mut self) -> Vec<(PathBuf, u64)> {
        let torn = ["plain", "aged"].map(|name| {
            let path = newest_key_file(&self.roots, name);
            let mut file = std::fs::File::options().append(true).open(&path).unwrap();
            file.write_all(&self.rng.bytes(5000)).unwrap();
            (path, file.metadata().unwrap().len())
        });
        torn.into()
    }

    /// Rolls both tables back by some operations.
    fn roll_back(&mut self, next: [u64; 2]) {
        let by = [1, 30, 300][self.rng.below(3) as usize];
        let ends = next.map(|next| next.saturating_sub(1 + self.rng.below(by)));
        let until = |end: u64| {
            move |record: &RecordRef<'_>| -> Result<Verdict> {
                let is_kept = tagged_seq(record.key()).unwrap() < end;
                Ok(if is_kept { Verdict::Keep } else { Verdict::Discard })
            }
        };
        let filter = PerTable::new().table("plain", until(ends[0])).table("aged", until(ends[1]));
        let plan = Rollback::new(&self.roots).on_no_match(NoMatch::Keep).plan(filter.into_filter());
        plan.unwrap().execute().unwrap();
    }
}

struct Reader {
    crashy: Crashy,
}

impl Reader {
    fn start(harness: &mut Harness, mode: &str) -> Self {
        let args = ["watch".to_owned(), mode.to_owned(), harness.rng.next_u64().to_string()];
        let mut crashy = start(&args, &harness.roots);
        assert_eq!(crashy.line(), "reading");
        harness.tally.add("readers", 1);
        Self { crashy }
    }

    /// The reader's summaries of both tables after a refresh.
    fn read_views(&mut self) -> [String; 2] {
        self.crashy.send("look");
        ["plain", "aged"].map(|name| {
            let line = self.crashy.line();
            let view = line.strip_prefix(&format!("view {name} "));
            view.unwrap_or_else(|| panic!("the reader: {line}")).to_owned()
        })
    }

    fn end(mut self, tally: &mut Tally) {
        self.crashy.ask_to_end();
        loop {
            let line = self.crashy.line();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["observed", what, count] => {
                    const MET: [&str; 9] = [
                        "rounds",
                        "refreshes",
                        "records",
                        "values",
                        "absent",
                        "rechecked",
                        "held",
                        "missing",
                        "pending",
                    ];
                    let what = MET.into_iter().find(|name| *name == what).unwrap();
                    tally.add(what, count.parse().unwrap());
                }
                ["wrong", "0"] => break,
                _ => panic!("the reader: {line}"),
            }
        }
        self.crashy.end();
    }
}

fn check_reader_beside_writer(mode: &str, test: &str) {
    let effort = Effort::from_env();
    let dir = tempfile::tempdir().unwrap();
    let mut harness = Harness {
        roots: vec![dir.path().join("r0"), dir.path().join("r1")],
        rng: Rng::new(effort.seed(test)),
        incarnations: 0,
        tally: Tally::new(format!("beside a reader: {test}")),
    };
    harness.write([0, 0], false);
    let mut reader = Reader::start(&mut harness, mode);
    for round in 0..effort.times(18) {
        let (_, next) = harness.views();
        match round % 3 {
            0 => {
                harness.write(next, false);
                harness.tally.add("writers that ended", 1);
            }
            1 => {
                harness.write(next, true);
                let torn = harness.append_torn_bytes();
                // Recovery does not truncate files that the reader may have mapped.
                let (views, _) = harness.views();
                for (path, len) in torn {
                    // A missing file was empty and has been discarded.
                    let now = std::fs::metadata(&path).map_or(len, |found| found.len());
                    assert!(now >= len, "{} was truncated under a reader", path.display());
                }
                assert_eq!(reader.read_views(), views, "after a recovery");
                harness.tally.add("writers that were killed", 1);
                harness.tally.add("torn ends", 2);
            }
            _ => {
                harness.roll_back(next);
                harness.tally.add("rollbacks", 1);
            }
        }
        let (views, _) = harness.views();
        assert_eq!(reader.read_views(), views, "round {round}");
        if harness.rng.one_in(5) {
            reader.end(&mut harness.tally);
            // Without a reader, the next open truncates the rest.
            harness.views();
            reader = Reader::start(&mut harness, mode);
        }
    }
    reader.end(&mut harness.tally);
    let found = Db::verify(&DbOptions::new(&harness.roots), None, &mut |_| {}).unwrap();
    assert!(found.is_sound(), "{found:?}");
    let tally = &harness.tally;
    assert!(tally.get("rounds") > 20, "{tally:?}");
    for what in ["rollbacks", "torn ends", "rounds", "refreshes", "records", "values", "held"] {
        assert!(tally.get(what) > 0, "{what}: {tally:?}");
    }
}

#[test]
fn mmap_reader_sees_only_true_answers() {
    check_reader_beside_writer("map", "mmap_reader_sees_only_true_answers");
}

#[test]
fn pread_reader_sees_only_true_answers() {
    check_reader_beside_writer("pread", "pread_reader_sees_only_true_answers");
}
