//! A history, a rollback point and a crash, all chosen by the fuzzer: afterwards either all tables
//! are rolled back or none is, and the database accepts puts.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use lithdb::rollback::max_be_u64;
use lithdb::{Batch, Components, Db, DbOptions, NoMatch, Rollback, SecondaryKey, TableOptions};
use lithdb_sim::{BytesChoice, Choice, SimClock, SimFs, sim_env};

const TABLES: [&str; 3] = ["a", "b", "c"];

/// The contents of a table, in order: key, number, value.
type Content = Vec<(Vec<u8>, u64, Vec<u8>)>;
type State = BTreeMap<&'static str, Content>;

fn components(fs: &SimFs) -> Components {
    Components { env: Some(sim_env(fs, &SimClock::new(1))), without_maintenance: true, ..Components::default() }
}

fn open(fs: &SimFs) -> lithdb::Result<Db> {
    Db::open_with(DbOptions::new(["/a", "/b"]), components(fs))
}

fn options() -> TableOptions {
    TableOptions::new().segment_keys(5).inline_max_bytes(8)
}

fn key(number: u64, salt: u8) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[salt]].concat()
}

/// Puts records with growing numbers into the tables. Returns the next number and the disk after a
/// close or a loss of power.
fn history(fs: &SimFs, choice: &mut dyn Choice) -> lithdb::Result<(u64, SimFs)> {
    let mut db = open(fs)?;
    let mut number = 1;
    for _ in 0..4 + choice.choose(40) {
        let table = db.table(TABLES[choice.choose(3)], options())?;
        number += choice.choose(2) as u64;
        let value = vec![number as u8; choice.choose(30)];
        let salt = choice.choose(3) as u8;
        match choice.choose(12) {
            0 => table.flush()?,
            1 => table.seal()?,
            2 => {
                db.close()?;
                drop((db, table));
                fs.release_locks();
                db = open(fs)?;
            }
            3..5 => {
                let mut batch = Batch::new();
                for n in 0..2 + choice.choose(4) as u64 {
                    batch.put(key(number + n, salt), &value[..]).alias(key(number + n, 100 + salt), ..);
                }
                number += batch.len() as u64;
                table.put_batch(&batch)?;
            }
            5..7 => {
                let alias = key(number, 200);
                table.put_with(&key(number, salt), &value, &[SecondaryKey::whole(&alias)])?;
            }
            _ => drop(table.put(&key(number, salt), &value)?),
        }
    }
    if choice.choose(2) == 1 {
        return Ok((number, fs.crash(choice)));
    }
    db.close()?;
    fs.release_locks();
    Ok((number, fs.fork()))
}

/// The contents of a database; reads each value through its key, too.
fn content(db: &Db) -> State {
    let mut state = State::new();
    for name in TABLES {
        let Ok(table) = db.existing_table(name) else { continue };
        let mut entries = Content::new();
        for entry in table.iter().unwrap() {
            let entry = entry.unwrap();
            let number = u64::from_be_bytes(*entry.key().first_chunk().unwrap());
            entries.push((entry.key().to_vec(), number, entry.value().unwrap().to_vec()));
        }
        let newest: BTreeMap<&[u8], &[u8]> = entries.iter().map(|(k, _, v)| (&k[..], &v[..])).collect();
        for (key, value) in newest {
            assert_eq!(&*table.get(key).unwrap().unwrap(), value);
        }
        state.insert(name, entries);
    }
    state
}

fuzz_target!(|data: &[u8]| {
    let mut choice = BytesChoice::new(data);
    let fs = SimFs::new();
    fs.make_dirs("/a");
    fs.make_dirs("/b");
    let (top, fs) = history(&fs, &mut choice).unwrap();
    let before = content(&open(&fs.fork()).unwrap());
    let max = choice.choose(top as usize + 2) as u64;
    // A table with no record old enough is emptied.
    let after: State = before
        .iter()
        .map(|(name, entries)| (*name, entries.iter().filter(|(_, n, _)| *n <= max).cloned().collect()))
        .collect();

    let run = |fs: &SimFs| {
        let env = sim_env(fs, &SimClock::new(1));
        let rollback = Rollback::new(["/a", "/b"]).env(env).on_no_match(NoMatch::Clear);
        rollback.plan(max_be_u64(0, max)).and_then(lithdb::RollbackPlan::execute)
    };
    let counted = fs.fork();
    let started = counted.ops();
    run(&counted).unwrap();
    let ops = counted.ops() - started;
    counted.release_locks();
    assert_eq!(content(&open(&counted).unwrap()), after);

    let crashed = fs.fork();
    crashed.crash_after(choice.choose(ops as usize + 1) as u64);
    let done = run(&crashed).is_ok();
    let mut found = crashed.crash(&mut choice);
    // And crash again inside the open that finishes the rollback.
    if choice.choose(2) == 1 {
        found.crash_after(choice.choose(60) as u64);
        drop(open(&found));
        found = found.crash(&mut choice);
    }
    let db = open(&found).unwrap();
    let now = content(&db);
    assert!(now == after || (!done && now == before), "neither the old state nor the new one");
    drop(db);
    found.release_locks();
    let db = open(&found).unwrap();
    let table = db.table("a", options()).unwrap();
    table.put(&key(99, 9), b"goes on").unwrap();
    table.flush().unwrap();
    drop((db, table));
    let last = open(&found.crash(&mut choice)).unwrap();
    assert_eq!(&*last.existing_table("a").unwrap().get(&key(99, 9)).unwrap().unwrap(), b"goes on");
});
