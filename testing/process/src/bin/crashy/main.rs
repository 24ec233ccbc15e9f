//! The process that the end-to-end tests start, watch and kill. It reports its actions on standard
//! output, one per line; the end of its standard input asks it to close the database.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "test support")]

mod collect;
mod serve;
mod stress;
mod watch;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lithdb::{Components, Db, DbOptions, Table, TableOptions};
use lithdb_process_tests::{Op, Rng, db_options, plain_options, ttl_options};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().expect("a command");
    let number = |text: Option<String>| -> u64 { text.unwrap().parse().expect("a number") };
    match command.as_str() {
        "write" => {
            let (incarnation, ttl) = (number(args.next()), number(args.next()));
            let next = [number(args.next()), number(args.next())];
            write(incarnation, Duration::from_millis(ttl), next, &roots(args));
        }
        "careful" | "careful-death" => {
            let mode = args.next().expect("a mode");
            stress::stress(&mode, command == "careful-death", &roots(args));
        }
        "roll-back" | "roll-back-death" => {
            let seq = number(args.next());
            stress::roll_back(seq, command == "roll-back-death", &roots(args));
        }
        "collect" => {
            let (incarnation, ttl) = (number(args.next()), number(args.next()));
            collect::collect(
                incarnation,
                Duration::from_millis(ttl),
                number(args.next()),
                &roots(args),
            );
        }
        "write-tagged" => {
            let (incarnation, ttl) = (number(args.next()), number(args.next()));
            let next = [number(args.next()), number(args.next())];
            watch::write_tagged(incarnation, Duration::from_millis(ttl), next, &roots(args));
        }
        "watch" => {
            let mode = args.next().expect("a mode");
            watch::watch(&mode, number(args.next()), &roots(args));
        }
        "hold" => hold(&roots(args)),
        "obey" => serve::serve(&roots(args)),
        "one-put" => one_put(number(args.next()), &roots(args)),
        "fill" => fill(&roots(args)),
        "durable" => durable(&roots(args)),
        "leave-torn-end" => leave_torn_end(&roots(args)),
        "recover" => recover(&roots(args)),
        other => panic!("unknown command {other:?}"),
    }
    ExitCode::SUCCESS
}

fn roots(args: impl Iterator<Item = String>) -> Vec<PathBuf> {
    args.map(PathBuf::from).collect()
}

/// Waits until the parent closes the pipe.
pub(crate) fn wait_for_end_of_input() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

pub(crate) fn kill_self() -> ! {
    let kill = format!("kill -9 {}", std::process::id());
    let killed = Command::new("sh").arg("-c").arg(kill).stdin(Stdio::null()).status();
    panic!("survived: {killed:?}");
}

/// Writes the pattern into two tables, from the given numbers on, until it is killed or asked to
/// exit.
fn write(incarnation: u64, ttl: Duration, next: [u64; 2], roots: &[PathBuf]) {
    let db = Db::open(db_options(roots)).expect("open");
    println!("open");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [("plain", plain_options()), ("aged", ttl_options(ttl))]
        .into_iter()
        .zip(next)
        .map(|((name, options), next)| {
            let table = db.table(name, options).expect(name);
            let stop = Arc::clone(&stop);
            let body = move || write_table(&table, name, incarnation, next, &stop);
            lithdb_env::spawn(name, body).expect("a thread")
        })
        .collect();
    wait_for_end_of_input();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    db.close().expect("close");
    println!("closed");
}

fn write_table(table: &Table, name: &str, incarnation: u64, mut next: u64, stop: &AtomicBool) {
    let newest = table.iter().expect("iterate").rev().find_map(|entry| {
        let entry = entry.expect("an entry");
        entry.is_primary().then(|| Op::seq_of(entry.key()).expect("a key of the pattern"))
    });
    assert_eq!(newest.map_or(next, |newest| newest + 1), next, "{name}: the newest operation");
    let mut rng = Rng::of(&[incarnation, 77, next]);
    // Sometimes it writes much between two flushes, so that files grow without a flush.
    let mut flush_one_in = 6;
    println!("start {name} {next}");
    while !stop.load(Ordering::Relaxed) {
        let at = Op::new(name, incarnation, next).put(table).expect("put");
        if rng.one_in(flush_one_in) {
            match rng.below(3) {
                0 => table.wait_durable(at).expect("wait"),
                _ => table.flush().expect("flush"),
            }
            println!("ack {name} {next}");
            flush_one_in = [2, 6, 6, 400].get(rng.below(4) as usize).copied().unwrap_or(6);
        }
        if name == "aged" && rng.one_in(300) {
            table.seal().expect("seal");
        }
        if rng.one_in(100) {
            std::thread::sleep(Duration::from_millis(60)); // long enough for an idle mark
        }
        next += 1;
    }
}

/// Opens for writing and waits.
fn hold(roots: &[PathBuf]) {
    match Db::open(DbOptions::new(roots)) {
        Ok(_db) => {
            println!("open");
            wait_for_end_of_input();
        }
        Err(error) => println!("refused {error}"),
    }
}

/// Opens, puts one value, flushes, and kills itself.
fn one_put(seq: u64, roots: &[PathBuf]) {
    let db = Db::open(DbOptions::new(roots)).expect("open");
    let table = db.table("t", TableOptions::new()).expect("table");
    Op::new("t", 0, seq).put(&table).expect("put");
    table.flush().expect("flush");
    println!("ack t {seq}");
    kill_self();
}

/// Puts until the disk is full, with a flush now and then, and kills itself.
fn fill(roots: &[PathBuf]) {
    let db = Db::open(DbOptions::new(roots)).expect("open");
    let table = db.table("t", TableOptions::new().segment_bytes(512 << 10)).expect("table");
    let mut next = 0;
    while Op::new("t", 0, next).put(&table).is_ok() {
        if next % 50 == 0 && table.flush().is_ok() {
            println!("ack t {next}");
        }
        next += 1;
    }
    println!("full");
    kill_self();
}

fn mark(what: &str) {
    println!("MARK {what}");
}

/// Opens without the maintenance thread, so that the trace shows only what the calls did.
fn open_without_maintenance(roots: &[PathBuf]) -> Db {
    let components = Components { without_maintenance: true, ..Components::default() };
    Db::open_with(DbOptions::new(roots), components).expect("open")
}

fn small_segments() -> TableOptions {
    TableOptions::new().segment_bytes(256 << 10)
}

fn flush(table: &Table, name: &str) {
    mark(&format!("{name} flush"));
    table.flush().expect("flush");
    mark(&format!("{name} flushed"));
}

/// A new database: a first durable put, an idle flush, a rollover, a second table.
fn durable(roots: &[PathBuf]) {
    mark("begin");
    let db = open_without_maintenance(roots);
    let table = db.table("blocks", small_segments()).expect("table");
    mark("put");
    // One value for each shard, and an inline one.
    for n in 0..2_u8 {
        table.put([b'a', n], [n; 4096]).expect("put");
    }
    table.put(b"tiny", b"tiny").expect("put");
    flush(&table, "first");
    flush(&table, "idle");
    let before = table.stats().segments;
    let mut puts = 0_u32;
    while table.stats().segments == before {
        table.put(format!("b{puts}").as_bytes(), [9; 4096]).expect("put");
        puts += 1;
    }
    flush(&table, "rolled");
    flush(&table, "idle-again");
    db.table("receipts", small_segments()).expect("table").put(b"r", b"receipt").expect("put");
    flush(&db.existing_table("receipts").expect("table"), "second-table");
    mark("close");
    db.close().expect("close");
    mark("closed");
}

/// Something durable, then more than the write buffer holds, then a kill.
fn leave_torn_end(roots: &[PathBuf]) {
    let db = open_without_maintenance(roots);
    let table = db.table("blocks", TableOptions::new()).expect("table");
    table.put(b"durable", [1; 4096]).expect("put");
    table.flush().expect("flush");
    for n in 0..6000_u32 {
        table.put(format!("inline{n}").as_bytes(), [2; 1000]).expect("put");
        if n % 100 == 0 {
            table.put(format!("large{n}").as_bytes(), [3; 100 << 10]).expect("put");
        }
    }
    kill_self();
}

/// Opens what the killed process left, does nothing, then puts.
fn recover(roots: &[PathBuf]) {
    mark("open");
    let db = open_without_maintenance(roots);
    let table = db.table("blocks", TableOptions::new()).expect("table");
    mark("opened");
    flush(&table, "nothing");
    table.put(b"after", [4; 4096]).expect("put");
    flush(&table, "after");
    println!("keys {}", table.stats().keys);
    mark("end");
    kill_self();
}
