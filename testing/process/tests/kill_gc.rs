//! Crashes of a process that collects: it writes values that expire soon and collects all the
//! time, and is killed (SIGKILL) at random moments, many times on one database.
//!
//! No collected key returns, everything acknowledged and not expired exists, and after opening
//! only the files of live segments are left. As in `kill.rs`, the page cache outlives the process:
//! this proves nothing about syncs.

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
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lithdb::{Components, Db, Table};
use lithdb_process_tests::{Op, Rng, check_files, db_options, files_below, short_lived_options};
use lithdb_sim::{Effort, Tally};

const TTL: Duration = Duration::from_millis(60);

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[derive(Default)]
struct Expected {
    /// Where each incarnation of the writer began: sequence number, incarnation.
    incarnations: BTreeMap<u64, u64>,
    /// When each acknowledged operation was put.
    put_at: BTreeMap<u64, u64>,
    /// Everything below was observed as collected.
    floor: u64,
    /// The number after the last one that survived.
    end: u64,
}

impl Expected {
    fn op(&self, seq: u64) -> Op {
        let (_, incarnation) =
            self.incarnations.range(..=seq).next_back().expect("an incarnation wrote it");
        Op::new("short", *incarnation, seq)
    }

    /// Runs the process until it is killed after `delay`; returns the number of acknowledgements
    /// and of collections, and the time of death.
    fn run_until_killed(
        &mut self,
        incarnation: u64,
        delay: Duration,
        roots: &[PathBuf],
    ) -> (u64, u64, u64) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crashy"))
            .args(["collect", &incarnation.to_string(), &TTL.as_millis().to_string()])
            .arg(self.end.to_string())
            .args(roots)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
            millis()
        });
        let (mut acks, mut collections) = (0, 0);
        for line in output.lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["start", seq] => {
                    assert_eq!(seq, self.end.to_string());
                    self.incarnations.insert(self.end, incarnation);
                }
                ["ack", seq, at] => {
                    // A line truncated by the kill shows a smaller number or an earlier time.
                    self.put_at.insert(seq.parse().unwrap(), at.parse().unwrap());
                    acks += 1;
                }
                ["collected", seq] => {
                    self.floor = self.floor.max(seq.parse().unwrap());
                    collections += 1;
                }
                _ => {}
            }
        }
        (acks, collections, killer.join().unwrap())
    }

    /// Checks that every record follows the pattern, in order, and that its key finds it; returns
    /// the first operation and the end.
    fn walk(&self, table: &Table) -> Option<(u64, u64)> {
        let mut entries = table.iter().unwrap().map(|entry| entry.unwrap()).peekable();
        let begin = Op::seq_of(entries.peek()?.key()).unwrap();
        let mut seq = begin;
        while entries.peek().is_some() {
            for (key, is_primary, value) in self.op(seq).records() {
                let entry = entries.next().unwrap_or_else(|| panic!("{seq} is not whole"));
                assert_eq!((entry.key(), entry.is_primary()), (key, is_primary), "at {seq}");
                assert!(entry.value().unwrap() == value, "wrong bytes at {seq}");
                assert!(table.get(key).unwrap().unwrap() == value, "get at {seq}");
            }
            seq += 1;
        }
        Some((begin, seq))
    }

    /// Opens the database of a process that died at `died_at`.
    fn check(&mut self, roots: &[PathBuf], died_at: u64, tally: &mut Tally) {
        let segments = || files_below(&roots[0].join("short/segments"));
        let before = segments();
        let components = Components { without_maintenance: true, ..Components::default() };
        let db = Db::open_with(db_options(roots), components).unwrap();
        let table = db.table("short", short_lived_options(TTL)).unwrap();
        check_files(roots, "short", table.stats().segments);
        let after = segments();
        let left = before.iter().filter(|path| !after.contains(path)).count();
        tally.add("files that opening removed", left as u64);
        // Operations put after this had not expired when the process died.
        let expired = died_at - TTL.as_millis() as u64;
        let newest = self.put_at.last_key_value().map(|(seq, _)| *seq);
        let kept: Vec<u64> =
            self.put_at.iter().filter(|(_, at)| **at > expired).map(|(seq, _)| *seq).collect();
        match self.walk(&table) {
            Some((begin, end)) => {
                assert!(begin >= self.floor, "{begin} came back, {} was collected", self.floor);
                assert!(newest.is_none_or(|newest| end > newest), "{newest:?} is lost, {end}");
                assert!(kept.iter().all(|seq| *seq >= begin), "{kept:?}, {begin} is the oldest");
                tally.add("operations read", end - begin);
                tally.add("operations acknowledged and not expired", kept.len() as u64);
                for absent in [begin.wrapping_sub(1), self.floor.wrapping_sub(1), end] {
                    let exists = table.get(Op::key(absent, 0)).unwrap().is_some();
                    assert!(!exists, "{absent} is outside of {begin} to {end}");
                }
                (self.floor, self.end) = (begin, end);
            }
            None => {
                assert!(kept.is_empty(), "{kept:?} had not expired");
                self.end = self.end.max(newest.map_or(0, |newest| newest + 1)).max(self.floor);
                self.floor = self.end;
            }
        }
        db.close().unwrap();
        check_files(roots, "short", table.stats().segments);
    }
}

#[test]
fn killed_collector_revives_nothing_and_leaves_no_files() {
    let name = "killed_collector_revives_nothing_and_leaves_no_files";
    let (effort, mut tally) = (Effort::from_env(), Tally::new(format!("process crashes: {name}")));
    let mut rng = Rng::new(effort.seed(name));
    let dir = tempfile::tempdir().unwrap();
    let roots = [dir.path().join("r0"), dir.path().join("r1")];
    let mut expected = Expected::default();
    for incarnation in 0..effort.times(40) {
        let delay = Duration::from_micros(10_000 + rng.below(180_000));
        let (acks, collections, died_at) = expected.run_until_killed(incarnation, delay, &roots);
        tally.add("kills", 1);
        tally.add("acknowledgements", acks);
        tally.add("collections", collections);
        if roots[0].join("short/segments").exists() {
            expected.check(&roots, died_at, &mut tally);
        }
    }
    tally.add("operations that were collected", expected.floor);
    let what = ["acknowledgements", "collections", "operations read"];
    assert!(what.iter().all(|what| tally.get(what) > 0) && expected.floor > 0, "{tally:?}");
    assert!(tally.get("operations acknowledged and not expired") > 0, "{tally:?}");
}
