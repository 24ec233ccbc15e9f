//! Several processes on one database: which ones are locked out, and what a reader sees beside a
//! writer.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lithdb::{Components, Db, DbOptions, ErrorKind, ReadMode, TableOptions};
use lithdb_process_tests::{Crashy, Op, Rng, db_options};
use lithdb_sim::{Effort, Tally};

fn start(args: &[String], roots: &[PathBuf]) -> Crashy {
    Crashy::start(env!("CARGO_BIN_EXE_crashy"), args, roots)
}

/// A process that opens the database for writing, reports the result, and keeps it open.
fn hold(roots: &[PathBuf]) -> Crashy {
    start(&["hold".to_owned()], roots)
}

fn roots(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    vec![dir.path().join("r0"), dir.path().join("r1")]
}

fn reversed(roots: &[PathBuf]) -> Vec<PathBuf> {
    roots.iter().rev().cloned().collect()
}

#[test]
fn open_database_is_locked_for_this_and_other_processes() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let db = Db::open(DbOptions::new(&roots)).unwrap();
    let me = format!("process {}", std::process::id());
    let here = format!("this process ({})", std::process::id());
    // The lock holds whatever the order of the roots, and for one of the roots alone, too.
    for order in [roots.clone(), reversed(&roots)] {
        let error = Db::open(DbOptions::new(&order)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(error.to_string().contains(&here), "{error}");
        let mut other = hold(&order);
        let refused = other.line();
        assert!(refused.starts_with("refused locked"), "{refused}");
        assert!(refused.contains(&me), "{refused}");
        other.end();
    }
    // The refused open has changed nothing: the holder continues.
    let table = db.table("t", TableOptions::new()).unwrap();
    table.put(b"k", b"v").unwrap();
    db.close().unwrap();
    drop((table, db));
    Db::open(DbOptions::new(reversed(&roots))).unwrap();
}

#[test]
fn database_stays_locked_until_its_process_dies() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut holder = hold(&roots);
    assert_eq!(holder.line(), "open");
    for order in [roots.clone(), reversed(&roots)] {
        let error = Db::open(DbOptions::new(&order)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let process = format!("process {}", holder.id());
        assert!(error.to_string().contains(&process), "{error}");
    }
    // Readers are not locked out.
    let reader = Db::open_read_only(DbOptions::new(reversed(&roots))).unwrap();
    assert_eq!(reader.tables().unwrap(), []);
    holder.kill();
    Db::open(DbOptions::new(&roots)).unwrap();
}

/// The same roots by other names, in every order, without duplicates.
fn other_names(dir: &std::path::Path, roots: &[PathBuf]) -> Vec<Vec<PathBuf>> {
    let links: Vec<PathBuf> = roots
        .iter()
        .enumerate()
        .map(|(n, root)| {
            let link = dir.join(format!("link{n}"));
            std::os::unix::fs::symlink(root, &link).unwrap();
            link
        })
        .collect();
    let dotted = roots.iter().map(|root| root.join("..").join(root.file_name().unwrap()));
    let dotted: Vec<PathBuf> = dotted.collect();
    let mixed = vec![links[1].clone(), roots[0].clone()];
    vec![roots.to_vec(), reversed(roots), links.clone(), reversed(&links), reversed(&dotted), mixed]
}

#[test]
fn lock_holds_under_every_name_of_the_roots() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    drop(Db::open(DbOptions::new(&roots)).unwrap());
    let names = other_names(dir.path(), &roots);
    let mut tally = Tally::new("several processes: one database by many names");
    for held in &names {
        let mut holder = hold(held);
        assert_eq!(holder.line(), "open");
        for roots in &names {
            let error = Db::open(DbOptions::new(roots)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked, "{held:?}, {roots:?}: {error}");
            let process = format!("process {}", holder.id());
            assert!(error.to_string().contains(&process), "{error}");
            tally.add("openings refused", 1);
        }
        holder.end();
    }
    assert_eq!(tally.get("openings refused"), 36);
}

/// Two lists of roots that share a root are never two databases.
#[test]
fn root_belongs_to_one_database_under_contention() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("several processes: one root in two lists");
    for round in 0..effort.times(12) {
        let dir = tempfile::tempdir().unwrap();
        let [a, common, b] = ["a", "common", "b"].map(|name| dir.path().join(name));
        let lists = [vec![a.clone(), common.clone()], vec![common.clone(), b.clone()]];
        // Created first by one process, or by both concurrently.
        let mut holders = Vec::new();
        if round % 2 == 0 {
            let mut holder = hold(&lists[0]);
            let line = holder.line();
            holders.push((holder, line));
        } else {
            let mut both: Vec<Crashy> = lists.iter().map(|list| hold(list)).collect();
            let lines: Vec<String> = both.iter_mut().map(Crashy::line).collect();
            holders.extend(both.into_iter().zip(lines));
        }
        let open = holders.iter().filter(|(_, line)| line == "open").count();
        assert!(open <= 1, "both are open");
        for (_, line) in holders.iter().filter(|(_, line)| line != "open") {
            assert!(line.starts_with("refused "), "{line}");
            assert!(line.contains(&*dir.path().to_string_lossy()), "names no directory: {line}");
            tally.add("refused at the same time", 1);
        }
        tally.add("open", open as u64);
        // While one is open, and when none is: the other list is refused, and its own root stays
        // unchanged.
        for while_open in [true, false] {
            if !while_open {
                holders.drain(..).for_each(|(holder, _)| holder.kill());
            }
            let mine = lists.each_ref().map(|list| {
                let result = Db::open(DbOptions::new(list).create_if_missing(false));
                result.map(drop).map_err(|error| error.kind())
            });
            let is_mine = |result: &&Result<(), ErrorKind>| result.is_ok();
            let count = mine.iter().filter(is_mine).count();
            assert_eq!(count, usize::from(!while_open && open == 1), "{mine:?}");
            tally.add("openings refused", 2 - count as u64);
        }
    }
    assert!(tally.get("open") > 0 && tally.get("openings refused") > 0, "{tally:?}");
}

/// An open while the holder is being killed is refused or succeeds; once it succeeds, the holder
/// writes no more.
#[test]
fn database_of_a_dying_process_is_never_open_twice() {
    let effort = Effort::from_env();
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut tally = Tally::new("several processes: opening while the holder is killed");
    drop(Db::open(DbOptions::new(&roots)).unwrap());
    let names = other_names(dir.path(), &roots);
    let mut next = [0, 0];
    let mut rng = Rng::new(effort.seed("a_database_whose_holder_is_being_killed"));
    for round in 0..effort.times(15) {
        // Two processes open concurrently, and one of them succeeds.
        let mut first = start_writer(round, next, &roots);
        if first.wait_for("open") != "open" {
            panic!("the database was not locked");
        }
        let is_dead = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&is_dead);
        let delay = Duration::from_micros(rng.below(60_000));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            theirs.store(true, Ordering::SeqCst);
            first.kill();
        });
        let db = loop {
            let list = &names[rng.below(names.len() as u64) as usize];
            match Db::open(DbOptions::new(list)) {
                Ok(db) => break db,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
                    tally.add("openings refused", 1);
                }
            }
        };
        assert!(is_dead.load(Ordering::SeqCst), "open twice");
        tally.add("openings after a death", 1);
        killer.join().unwrap();
        for (name, next) in ["plain", "aged"].into_iter().zip(&mut next) {
            let Ok(table) = db.existing_table(name) else { continue };
            let newest = table.newest_key().unwrap();
            *next = newest.map_or(*next, |key| Op::seq_of(&key).unwrap() + 1);
        }
        db.close().unwrap();
    }
    assert!(tally.get("openings refused") > 0, "{tally:?}");
}

const TTL: Duration = Duration::from_millis(400);

fn start_writer(incarnation: u64, next: [u64; 2], roots: &[PathBuf]) -> Crashy {
    let args = ["write".to_owned(), incarnation.to_string(), TTL.as_millis().to_string()];
    let args: Vec<String> = args.into_iter().chain(next.map(|next| next.to_string())).collect();
    start(&args, roots)
}

/// A reader beside a writer that puts, rolls over and collects: no error, and always the right
/// bytes or `None`.
fn read_beside_a_writer(mode: ReadMode, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut writer = start_writer(7, [0, 0], &roots);
    writer.wait_for("ack plain");
    writer.wait_for("ack aged");
    let output = writer.take_output();
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
    let secs = |secs| Duration::from_secs(secs);
    // For three seconds, or longer if that covered too little.
    while began.elapsed() < secs(3)
        || (found <= 1000 || expired <= 10 || refreshes <= 10) && began.elapsed() < secs(60)
    {
        let before = *acked.lock().unwrap();
        for ((name, table), acked) in tables.iter().zip(before) {
            table.refresh().unwrap();
            refreshes += 1;
            // The reader sees everything that was flushed before.
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
                        assert!(*name == "aged" || seq > acked, "{name}: {seq} of {acked} is lost");
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
            // An iteration meets files that are collected under it: its results are right, and it
            // ends.
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
    // Held values stay valid, whatever happens to their segments.
    for (value, expected) in &held {
        assert!(**value == **expected);
    }
    let segments = tables[0].1.stats().segments;
    println!("{refreshes} refreshes, {found} found, {expired} expired, {segments} segments");
    assert!(found > 1000 && expired > 10 && segments > 2 && refreshes > 10);
    let end = acked.lock().unwrap()[0] + 1;

    // The writer dies; the reader continues and sees everything that was flushed.
    writer.kill();
    listener.join().unwrap();
    let acked = acked.lock().unwrap()[0];
    tables[0].1.refresh().unwrap();
    for seq in (0..=acked).step_by(7).chain(end - 1..=acked) {
        for (key, _, value) in Op::new("plain", 7, seq).records() {
            assert!(tables[0].1.get(key).unwrap().unwrap() == value);
        }
    }

    // Another writer opens beside the reader: it truncates nothing under the reader, whose view
    // does not change.
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
    assert!(tables[0].1.get(Op::key(nexts[0], 0)).unwrap().is_some());
    second.end();
}

#[test]
fn mmap_reader_beside_a_writer_reads_right_bytes_or_none() {
    read_beside_a_writer(ReadMode::Map, 1);
}

#[test]
fn pread_reader_beside_a_writer_reads_right_bytes_or_none() {
    read_beside_a_writer(ReadMode::Pread, 2);
}

#[test]
fn database_of_a_killed_writer_is_readable_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(&dir);
    let mut writer = start_writer(3, [0, 0], &roots);
    writer.wait_for("ack aged");
    let acked: u64 = writer.wait_for("ack plain").rsplit(' ').next().unwrap().parse().unwrap();
    std::thread::sleep(Duration::from_millis(50)); // so that unacknowledged data exists, too
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
        assert_eq!(table.put(b"k", b"v").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(listing() == before, "reading changed files");
}
