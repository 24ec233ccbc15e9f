//! Crashes of a process, not of the machine: a writer is killed (SIGKILL) at random moments, many
//! times on one database.
//!
//! What this proves: recovery after the death of a process. Everything acknowledged exists
//! byte-exact, what survives is a prefix of what was written, nothing appears that was never put,
//! collected values never return, and thousands of deaths do not leave thousands of segments. What
//! it does not prove: that anything was synced. The page cache outlives a process, so this test
//! would pass without a single sync; see `strace.rs` for syncs, and the crash tests on the
//! simulated disk for a loss of power.
//!
//! `LITHDB_EFFORT` multiplies the rounds; `LITHDB_SEED` changes the choices (the moments of death
//! always vary).

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lithdb::{Components, Db, Table};
use lithdb_process_tests::{Op, Rng, db_options, plain_options, ttl_options};
use lithdb_sim::{Effort, Tally};

const TTL: Duration = Duration::from_millis(1500);
/// The longest time between a put and the arrival of the line that acknowledges it.
const SLACK: Duration = Duration::from_millis(1000);

/// The expected contents of a table.
#[derive(Default)]
struct Expected {
    /// Where each incarnation of the writer began: sequence number, incarnation.
    incarnations: BTreeMap<u64, u64>,
    /// The number after the last acknowledged one.
    acked: u64,
    /// When each was acknowledged.
    acked_at: BTreeMap<u64, Instant>,
    /// Everything below was observed as collected.
    floor: u64,
    /// The number after the last one that survived.
    end: u64,
}

impl Expected {
    fn op(&self, name: &str, seq: u64) -> Op {
        let (_, incarnation) =
            self.incarnations.range(..=seq).next_back().expect("an incarnation wrote it");
        Op::new(name, *incarnation, seq)
    }

    /// Iterates over the whole table and compares every record with the pattern. Returns the
    /// number of the oldest operation and the number after the newest.
    fn check_all(&self, name: &str, table: &Table) -> (u64, u64) {
        let mut entries = table.iter().unwrap().map(|entry| entry.unwrap()).peekable();
        let Some(first) = entries.peek() else {
            // Everything was collected.
            let end = self.end.max(self.acked);
            return (end, end);
        };
        let begin = Op::seq_of(first.key()).expect("a key of the pattern");
        let mut seq = begin;
        while entries.peek().is_some() {
            assert!(!self.incarnations.is_empty(), "{name}: {seq} was never put");
            for (key, is_primary, value) in self.op(name, seq).records() {
                let entry = entries.next().unwrap_or_else(|| panic!("{name}: {seq} is not whole"));
                assert_eq!(entry.key(), key, "{name}: the order of keys at {seq}");
                assert_eq!(entry.is_primary(), is_primary);
                assert!(entry.value().unwrap() == value, "{name}: wrong bytes at {seq}");
            }
            seq += 1;
        }
        (begin, seq)
    }

    /// Looks up keys that must exist and keys that must not.
    fn check_some(&self, name: &str, table: &Table, (begin, end): (u64, u64), rng: &mut Rng) {
        for _ in 0..40 {
            let seq = begin + rng.below((end - begin).max(1));
            if seq >= end {
                break;
            }
            for (key, _, value) in self.op(name, seq).records() {
                assert!(table.get(key).unwrap().unwrap() == value, "{name}: get at {seq}");
            }
        }
        for seq in [end, end + 1].into_iter().chain(begin.checked_sub(1)) {
            assert_eq!(table.get(Op::key(seq, 0)).unwrap(), None, "{name}: {seq} was never put");
        }
    }

    /// Everything acknowledged exists unless it was old enough to expire; collected operations do
    /// not return.
    fn check_bounds(&mut self, name: &str, begin: u64, end: u64) {
        assert!(end >= self.acked, "{name}: {} was acknowledged, {end} is the end", self.acked);
        assert!(begin >= self.floor, "{name}: {begin} came back, {} was collected", self.floor);
        assert!(
            begin == 0 || name != "plain",
            "{name}: nothing expires there, {begin} is the first"
        );
        let collected = self.acked_at.range(self.floor..begin).next_back();
        if let Some((seq, at)) = collected {
            assert!(at.elapsed() + SLACK >= TTL, "{name}: {seq} went after {:?}", at.elapsed());
        }
        self.acked_at = self.acked_at.split_off(&begin);
        (self.floor, self.end) = (begin, end);
    }
}

struct Harness {
    roots: Vec<PathBuf>,
    tables: BTreeMap<&'static str, Expected>,
    rng: Rng,
    /// How often an open left the torn end as it was because a process was reading it.
    openings_with_readers: u64,
    openings: u64,
}

impl Harness {
    fn open(&self, read_only: bool) -> Db {
        let components = Components { without_maintenance: true, ..Components::default() };
        let options = db_options(&self.roots);
        let open = if read_only { Db::open_read_only_with } else { Db::open_with };
        open(options, components).unwrap()
    }

    /// Runs one incarnation of the writer until its death.
    fn run_until_killed(&mut self, incarnation: u64) -> (u64, bool) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crashy"))
            .args(["write", &incarnation.to_string(), &TTL.as_millis().to_string()])
            .args(["plain", "aged"].map(|name| self.tables[name].end.to_string()))
            .args(&self.roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let is_closed_cleanly = self.rng.one_in(8);
        // The delay starts with the process: some die while they open.
        let delay = Duration::from_micros(self.rng.below(180_000));
        let stdin = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            if is_closed_cleanly {
                drop(stdin);
                let status = child.wait().unwrap();
                assert!(status.success(), "the writer failed: {status}");
            } else {
                end(&mut child);
            }
        });
        let mut acks = 0;
        for line in output.split(b'\n') {
            let line = String::from_utf8(line.unwrap()).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["start", name, seq] => {
                    let expected = self.tables.get_mut(name).unwrap();
                    assert_eq!(seq, expected.end.to_string(), "{name}");
                    expected.incarnations.insert(expected.end, incarnation);
                }
                ["ack", name, seq] => {
                    let expected = self.tables.get_mut(name).unwrap();
                    let seq: u64 = seq.parse().unwrap();
                    expected.acked = seq + 1;
                    expected.acked_at.insert(seq, Instant::now());
                    acks += 1;
                }
                _ => {} // "open", "closed", or a line truncated by the kill
            }
        }
        killer.join().unwrap();
        (acks, is_closed_cleanly)
    }

    fn check(&mut self) {
        let read_first = self.rng.one_in(3);
        let reader = read_first.then(|| self.open(true));
        let mut seen = BTreeMap::new();
        if let Some(reader) = &reader {
            for (name, expected) in &self.tables {
                let Ok(table) = reader.existing_table(name) else { continue };
                seen.insert(*name, expected.check_all(name, &table));
            }
        }
        // A reader that stays keeps recovery from truncating anything under it.
        let reader = reader.filter(|_| self.rng.one_in(2));
        self.openings_with_readers += u64::from(reader.is_some());
        self.openings += 1;
        let db = self.open(false);
        for (name, options) in [("plain", plain_options()), ("aged", ttl_options(TTL))] {
            let table = db.table(name, options).unwrap();
            let expected = self.tables.get_mut(name).unwrap();
            let (begin, end) = expected.check_all(name, &table);
            if let Some(seen) = seen.get(name) {
                assert_eq!(*seen, (begin, end), "{name}: the reader saw what recovery kept");
            }
            expected.check_some(name, &table, (begin, end), &mut self.rng);
            expected.check_bounds(name, begin, end);
        }
        self.check_segments(&db.existing_table("plain").unwrap());
        if let Some(reader) = reader {
            for (name, expected) in &self.tables {
                let Ok(table) = reader.existing_table(name) else { continue };
                let still = expected.check_all(name, &table);
                assert_eq!(still, (expected.floor, expected.end), "{name}: the reader's view");
            }
        }
        db.close().unwrap();
    }

    /// A death ends at most one segment; the data explains the others (a segment has 2 MiB).
    fn check_segments(&self, table: &Table) {
        let stats = table.stats();
        let most = stats.bytes / (1 << 20) + self.openings + 4;
        assert!(
            stats.segments as u64 <= most,
            "{} segments for {} bytes; at most {most}",
            stats.segments,
            stats.bytes
        );
    }
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_writer_loses_nothing_acknowledged() {
    let name = "killed_writer_loses_nothing_acknowledged";
    let (effort, mut tally) = (Effort::from_env(), Tally::new(format!("process crashes: {name}")));
    let rounds = effort.times(50);
    let dir = tempfile::tempdir().unwrap();
    let mut harness = Harness {
        roots: vec![dir.path().join("r0"), dir.path().join("r1")],
        tables: BTreeMap::from([("plain", Expected::default()), ("aged", Expected::default())]),
        rng: Rng::new(effort.seed(name)),
        openings_with_readers: 0,
        openings: 0,
    };
    let (mut acks, mut clean) = (0, 0);
    drop(harness.open(false));
    for round in 0..rounds {
        let (acked, was_clean) = harness.run_until_killed(round);
        acks += acked;
        clean += u64::from(was_clean);
        harness.check();
    }
    let plain = &harness.tables["plain"];
    let aged = &harness.tables["aged"];
    tally.add("rounds", rounds);
    tally.add("kills", rounds - clean);
    tally.add("clean ends", clean);
    tally.add("acknowledgements", acks);
    tally.add("operations that survived", plain.end + aged.end);
    tally.add("operations that expired", aged.floor);
    tally.add("openings beside a reader", harness.openings_with_readers);
    assert!(harness.openings_with_readers > 0);
    // A run in which nothing was written proves nothing.
    assert!(acks >= rounds && plain.end > 10 * rounds);
    assert!(aged.floor > 0 && clean > 0, "nothing expired in {rounds} rounds");
}

#[test]
fn each_killed_process_leaves_one_segment() {
    let dir = tempfile::tempdir().unwrap();
    let rounds = Effort::from_env().times(50);
    let mut tally = Tally::new("process crashes: one put in each life");
    tally.add("kills", rounds);
    for seq in 0..rounds {
        let output = Command::new(env!("CARGO_BIN_EXE_crashy"))
            .args(["one-put", &seq.to_string()])
            .arg(dir.path().join("db"))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("ack t {seq}\n"));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9));
    }
    let db = Db::open(db_options(&[dir.path().join("db")])).unwrap();
    let table = db.existing_table("t").unwrap();
    for seq in 0..rounds {
        for (key, _, value) in Op::new("t", 0, seq).records() {
            assert!(table.get(key).unwrap().unwrap() == value, "get at {seq}");
        }
    }
    let segments = table.stats().segments as u64;
    assert!(segments <= rounds + 1, "{segments} segments after {rounds} kills");
}
