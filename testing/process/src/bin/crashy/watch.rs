//! A reader that runs continuously beside a writer, and that writer.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use lithdb::{Components, Db, DbOptions, Error, ErrorKind, ReadMode, Table, Value};
use lithdb_process_tests::{
    Rng, db_options, plain_options, put_tagged, summarize_view, tagged_key, tagged_seq,
    ttl_options, writer_of,
};

use crate::wait_for_end_of_input;

/// Puts into both tables, from the given numbers on, until it is killed or asked to exit.
pub(crate) fn write_tagged(incarnation: u64, ttl: Duration, next: [u64; 2], roots: &[PathBuf]) {
    let db = Db::open(db_options(roots).gc_interval(Duration::from_millis(10))).expect("open");
    let plain = db.table("plain", plain_options().segment_keys(150)).expect("plain");
    let aged = db.table("aged", ttl_options(ttl).segment_keys(60)).expect("aged");
    println!("start");
    let input = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = std::sync::Arc::clone(&input);
    lithdb_env::spawn("input", move || {
        wait_for_end_of_input();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    })
    .expect("a thread");
    let mut rng = Rng::of(&[incarnation, 79]);
    let mut puts = 0;
    while !input.load(std::sync::atomic::Ordering::Relaxed) {
        put_tagged(&plain, incarnation, next[0] + puts).expect("put");
        put_tagged(&aged, incarnation, next[1] + puts).expect("put");
        puts += 1;
        if rng.one_in(15) {
            plain.flush().expect("flush");
            aged.flush().expect("flush");
        }
        std::thread::sleep(Duration::from_micros(rng.below(600)));
    }
    db.close().expect("close");
}

/// What the reader has observed.
#[derive(Default)]
struct Observations {
    counts: BTreeMap<&'static str, u64>,
    held: Vec<(Vec<u8>, Value)>,
    wrong: Vec<String>,
}

impl Observations {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn wrong(&mut self, what: String) {
        if self.wrong.len() < 5 {
            self.wrong.push(what);
        }
    }

    fn check(&mut self, key: &[u8], value: &[u8]) {
        match writer_of(key, value) {
            Some(_) => self.count("values"),
            None => self.wrong(format!("wrong bytes at {}", String::from_utf8_lossy(key))),
        }
    }

    /// Counts the errors that the documents allow while files are removed under a reader; all
    /// others are wrong.
    fn refused(&mut self, doing: &str, error: &Error) {
        match error.kind() {
            _ if error.is_rollback_pending() => self.count("pending"),
            ErrorKind::Missing => self.count("missing"),
            _ => self.wrong(format!("{doing}: {error}")),
        }
    }

    fn walk(&mut self, table: &Table, rng: &mut Rng) -> lithdb::Result<()> {
        let mut entries = table.iter()?;
        let is_backward = rng.one_in(2);
        let mut before: Option<u64> = None;
        for _ in 0..rng.below(500) {
            let next = if is_backward { entries.next_back() } else { entries.next() };
            let Some(entry) = next else { break };
            let entry = entry?;
            let Some(seq) = tagged_seq(entry.key()) else {
                self.wrong(format!("a key that was never put: {entry:?}"));
                break;
            };
            let follows = before.is_none_or(|before| {
                let (low, high) = if is_backward { (seq, before) } else { (before, seq) };
                high == low || high == low + 1
            });
            // The walk may skip segments that were collected meanwhile.
            if !follows && table.name().as_str() == "plain" {
                self.wrong(format!("{seq} follows {before:?} in a walk"));
            }
            before = Some(seq);
            self.count("records");
            if rng.one_in(3) {
                let value = entry.value()?;
                self.check(entry.key(), &value);
            }
        }
        Ok(())
    }

    fn get(&mut self, table: &Table, rng: &mut Rng) -> lithdb::Result<()> {
        let [low, high] = [table.oldest_key()?, table.newest_key()?];
        let [low, high] = [low, high].map(|key| key.and_then(|key| tagged_seq(&key)).unwrap_or(0));
        let newest_writer = writer_at(table, high)?;
        for _ in 0..30 {
            let seq = low + rng.below(high.saturating_sub(low) + 3);
            let key = tagged_key(seq);
            match table.get(&key)? {
                Some(value) => {
                    self.check(&key, &value);
                    if rng.one_in(50) && self.held.len() < 300 {
                        self.held.push((key, value));
                    }
                }
                None => {
                    self.count("absent");
                    if table.name().as_str() == "plain" && seq <= high {
                        self.recheck_absent(table, seq, newest_writer)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A key below the newest one is absent in the table that never expires: this hardly ever
    /// happens, and only if a rollback removed it. But if a rescan finds the key, and an
    /// incarnation no later than that of the newest one seen wrote it before that one, then it was
    /// there all the time.
    fn recheck_absent(
        &mut self,
        table: &Table,
        seq: u64,
        newest_writer: Option<u64>,
    ) -> lithdb::Result<()> {
        self.count("rechecked");
        table.refresh()?;
        let now = writer_at(table, seq)?;
        if now.is_some() && now <= newest_writer {
            self.wrong(format!("{seq} was absent, but incarnation {now:?} has put it"));
        }
        Ok(())
    }

    fn round(&mut self, table: &Table, rng: &mut Rng) {
        // Refresh only half of the time: otherwise the view is of files that may be removed, or
        // shorter, by now.
        if rng.one_in(2) {
            match table.refresh() {
                Ok(()) => self.count("refreshes"),
                Err(error) => self.refused("refresh", &error),
            }
        }
        if let Err(error) = self.walk(table, rng) {
            self.refused("walk", &error);
        }
        if let Err(error) = self.get(table, rng) {
            self.refused("get", &error);
        }
        self.count("rounds");
    }

    fn recheck_held(&mut self) {
        for (key, value) in std::mem::take(&mut self.held) {
            self.check(&key, &value);
            self.count("held");
        }
    }
}

/// The incarnation that put this number, if it exists.
fn writer_at(table: &Table, seq: u64) -> lithdb::Result<Option<u64>> {
    let key = tagged_key(seq);
    Ok(table.get(&key)?.and_then(|value| writer_of(&key, &value)))
}

/// Lines of standard input; its end closes the channel.
fn requests() -> Receiver<String> {
    let (send, receive) = channel();
    let body = move || {
        for line in std::io::stdin().lock().lines() {
            if send.send(line.expect("a line")).is_err() {
                break;
            }
        }
    };
    lithdb_env::spawn("requests", body).expect("a thread");
    receive
}

/// Reads until standard input ends. On the order `look` it refreshes and reports the contents of
/// both tables.
pub(crate) fn watch(mode: &str, seed: u64, roots: &[PathBuf]) {
    let mode = if mode == "pread" { ReadMode::Pread } else { ReadMode::Map };
    let components = Components { without_maintenance: true, ..Components::default() };
    let options = DbOptions::new(roots).read_mode(mode).max_open_files(5);
    let db = Db::open_read_only_with(options, components).expect("open");
    let tables = ["plain", "aged"].map(|name| db.existing_table(name).expect(name));
    let (requests, mut observed, mut rng) = (requests(), Observations::default(), Rng::new(seed));
    println!("reading");
    loop {
        match requests.try_recv() {
            Ok(_) => {
                for table in &tables {
                    let view = match table.refresh() {
                        Ok(()) => summarize_view(table),
                        Err(error) => Err(error.to_string()),
                    };
                    println!("view {} {}", table.name(), view.unwrap_or_else(|e| e));
                }
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        tables.iter().for_each(|table| observed.round(table, &mut rng));
        if rng.one_in(20) {
            observed.recheck_held();
        }
        if let Some(wrong) = observed.wrong.first() {
            println!("wrong {wrong}");
            std::process::exit(3);
        }
    }
    observed.recheck_held();
    for (what, count) in &observed.counts {
        println!("observed {what} {count}");
    }
    println!("wrong {}", observed.wrong.len());
}
