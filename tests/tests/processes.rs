//! Several processes at one database: who is kept out, and what a reader sees beside a writer.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lithdb::{Components, Db, DbOptions, ErrorKind, ReadMode, TableOptions};
use lithdb_tests::{Op, Rng, db_options};

struct Crashy {
    child: Child,
    stdin: Option<ChildStdin>,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Crashy {
    fn start(args: &[&str], roots: &[PathBuf]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crashy"))
            .args(args)
            .args(roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, output }
    }

    fn line(&mut self) -> String {
        self.output.next().expect("a line").unwrap()
    }

    /// Waits for a line that begins so.
    fn wait_for(&mut self, begin: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    fn end(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn roots(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    vec![dir.path().join("r0"), dir.path().join("r1")]
}

fn reversed(roots: &[PathBuf]) -> Vec<PathBuf> {
    roots.iter().rev().cloned().collect()
}

#[test]
fn a_database_that_is_open_here_is_locked_here_and_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let db = Db::open(DbOptions::new(&roots)).unwrap();
    let me = format!("process {}", std::process::id());
    let here = format!("this process ({})", std::process::id());
    // In whatever order the roots are listed; and with one of the roots alone nothing can be had either.
    for order in [roots.clone(), reversed(&roots)] {
        let error = Db::open(DbOptions::new(&order)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(error.to_string().contains(&here), "{error}");
        let mut other = Crashy::start(&["hold"], &order);
        let refused = other.line();
        assert!(refused.starts_with("refused locked"), "{refused}");
        assert!(refused.contains(&me), "{refused}");
        other.end();
    }
    // The one that was refused has changed nothing: the holder goes on.
    let table = db.table("t", TableOptions::new()).unwrap();
    table.put(b"k", b"v").unwrap();
    db.close().unwrap();
    drop((table, db));
    Db::open(DbOptions::new(reversed(&roots))).unwrap();
}

#[test]
fn a_database_that_is_open_elsewhere_is_locked_until_that_process_dies() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut holder = Crashy::start(&["hold"], &roots);
    assert_eq!(holder.line(), "open");
    for order in [roots.clone(), reversed(&roots)] {
        let error = Db::open(DbOptions::new(&order)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let process = format!("process {}", holder.child.id());
        assert!(error.to_string().contains(&process), "{error}");
    }
    // Reading is not locked out.
    let reader = Db::open_read_only(DbOptions::new(reversed(&roots))).unwrap();
    assert_eq!(reader.tables().unwrap(), []);
    holder.kill();
    Db::open(DbOptions::new(&roots)).unwrap();
}

const TTL: Duration = Duration::from_millis(400);

fn start_writer(life: u64, next: [u64; 2], roots: &[PathBuf]) -> Crashy {
    let args = ["write".to_owned(), life.to_string(), TTL.as_millis().to_string()];
    let next = next.map(|next| next.to_string());
    let args: Vec<&str> = args.iter().chain(&next).map(String::as_str).collect();
    Crashy::start(&args, roots)
}

/// A reader beside a writer that puts, rolls over and collects: no error, and always the right bytes or `None`.
fn read_beside_a_writer(mode: ReadMode, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut writer = start_writer(7, [0, 0], &roots);
    writer.wait_for("ack plain");
    writer.wait_for("ack aged");
    let output = std::mem::replace(
        &mut writer.output,
        // What the writer says goes on to the thread below.
        BufReader::new(
            Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.unwrap(),
        )
        .lines(),
    );
    let acked = std::sync::Arc::new(std::sync::Mutex::new([0_u64; 2]));
    let theirs = std::sync::Arc::clone(&acked);
    let listener = std::thread::spawn(move || {
        for line in output {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            if let ["ack", name, seq] = words[..] {
                let which = usize::from(name == "aged");
                theirs.lock().unwrap()[which] = seq.parse().unwrap();
            }
        }
    });

    let components = Components { without_maintenance: true, ..Components::default() };
    let options = db_options(&roots).read_mode(mode);
    let reader = Db::open_read_only_with(options, components).unwrap();
    let tables = ["plain", "aged"].map(|name| (name, reader.existing_table(name).unwrap()));
    let mut rng = Rng::new(seed);
    let (mut found, mut expired, mut refreshes) = (0_u64, 0_u64, 0);
    let mut held = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let before = *acked.lock().unwrap();
        for ((name, table), acked) in tables.iter().zip(before) {
            table.refresh().unwrap();
            refreshes += 1;
            // Everything that was flushed before is seen.
            let newest = table.iter().unwrap().next_back();
            if let Some(newest) = newest {
                let newest = Op::seq_of(newest.unwrap().key()).unwrap();
                assert!(newest >= acked, "{name}: {acked} was flushed, {newest} is the newest");
            } else {
                assert_eq!(*name, "aged");
            }
            for _ in 0..20 {
                let seq = rng.below(acked + 2);
                for (key, _, value) in Op::new(name, 7, seq).records() {
                    let Some(got) = table.get(key).unwrap() else {
                        assert!(*name == "aged" || seq > acked, "{name}: {seq} of {acked} is gone");
                        expired += u64::from(*name == "aged");
                        continue;
                    };
                    assert!(got == value, "{name}: wrong bytes at {seq}");
                    found += 1;
                    if rng.one_in(200) && held.len() < 200 {
                        held.push((got, value.to_vec()));
                    }
                }
            }
            // A walk meets files that are collected under it: what it gives is right, and it ends.
            if rng.one_in(4) {
                for entry in table.iter().unwrap().take(300) {
                    let entry = match entry {
                        Ok(entry) => entry,
                        Err(error) => {
                            assert!(
                                *name == "aged" && error.kind() == ErrorKind::Missing,
                                "{error}"
                            );
                            break;
                        }
                    };
                    let seq = Op::seq_of(entry.key()).unwrap();
                    let value = match entry.value() {
                        Ok(value) => value,
                        Err(error) => {
                            assert!(
                                *name == "aged" && error.kind() == ErrorKind::Missing,
                                "{error}"
                            );
                            break;
                        }
                    };
                    let op = Op::new(name, 7, seq);
                    let (_, _, expected) =
                        op.records().find(|(key, _, _)| *key == entry.key()).unwrap();
                    assert!(value == expected, "{name}: wrong bytes at {seq} in a walk");
                }
            }
        }
    }
    // Values that are held stay good, whatever became of their segments.
    for (value, expected) in &held {
        assert!(**value == **expected);
    }
    let segments = tables[0].1.stats().segments;
    println!("{refreshes} refreshes, {found} found, {expired} expired, {segments} segments");
    assert!(found > 1000 && expired > 10 && segments > 2 && refreshes > 10);
    let end = acked.lock().unwrap()[0] + 1;

    // The writer dies; the reader goes on, and sees everything that was flushed.
    writer.kill();
    listener.join().unwrap();
    let acked = acked.lock().unwrap()[0];
    tables[0].1.refresh().unwrap();
    for seq in (0..=acked).step_by(7).chain(end - 1..=acked) {
        for (key, _, value) in Op::new("plain", 7, seq).records() {
            assert!(tables[0].1.get(key).unwrap().unwrap() == value);
        }
    }

    // Another writer opens while the reader reads: nothing is cut under it, nothing changes for it.
    let view: Vec<_> = tables[0].1.iter().unwrap().rev().take(50).map(|e| e.unwrap()).collect();
    let next = |table: &lithdb::Table| {
        let newest = table.iter().unwrap().rev().find(|e| e.as_ref().unwrap().is_primary());
        newest.map_or(0, |entry| Op::seq_of(entry.unwrap().key()).unwrap() + 1)
    };
    tables[1].1.refresh().unwrap();
    let nexts = [next(&tables[0].1), next(&tables[1].1)];
    let mut second = start_writer(8, nexts, &roots);
    second.wait_for("ack plain");
    for entry in &view {
        let op = Op::new("plain", 7, Op::seq_of(entry.key()).unwrap());
        let (_, _, expected) = op.records().find(|(key, _, _)| *key == entry.key()).unwrap();
        assert!(entry.value().unwrap() == expected);
    }
    tables[0].1.refresh().unwrap();
    assert!(tables[0].1.get(&Op::key(nexts[0], 0)).unwrap().is_some());
    second.end();
}

#[test]
fn a_mapping_reader_beside_a_writer_sees_the_right_bytes_or_none() {
    read_beside_a_writer(ReadMode::Map, 1);
}

#[test]
fn a_positional_reader_beside_a_writer_sees_the_right_bytes_or_none() {
    read_beside_a_writer(ReadMode::Pread, 2);
}

#[test]
fn a_database_whose_writer_was_killed_can_be_read_without_being_changed() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut writer = start_writer(3, [0, 0], &roots);
    writer.wait_for("ack aged");
    let acked: u64 = writer.wait_for("ack plain").rsplit(' ').next().unwrap().parse().unwrap();
    std::thread::sleep(Duration::from_millis(50)); // so that there is more than what was acknowledged
    writer.kill();
    let listing = || {
        let mut files = Vec::new();
        let mut work = roots.clone();
        while let Some(dir) = work.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    work.push(entry.path());
                } else {
                    files.push((entry.path(), std::fs::read(entry.path()).unwrap()));
                }
            }
        }
        files.sort();
        files
    };
    let before = listing();
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let reader = Db::open_read_only(DbOptions::new(&roots).read_mode(mode)).unwrap();
        let table = reader.existing_table("plain").unwrap();
        for seq in 0..=acked {
            for (key, _, value) in Op::new("plain", 3, seq).records() {
                assert!(table.get(key).unwrap().unwrap() == value, "{seq}");
            }
        }
        assert_eq!(table.put(b"k", b"v").unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    assert!(listing() == before, "reading changed files");
}
