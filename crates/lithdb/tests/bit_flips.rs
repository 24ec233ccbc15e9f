//! Flips bits in every file of a database and truncates every file: what is read afterwards is
//! right or an error, and a database that opening refused is intact once the damage is undone. The
//! quick run tries some of the bytes and lengths of each file, the deep run all.
//!
//! `crates/table/tests/corruption.rs` does this for single tables. This file covers the files of
//! the roots, several tables, and a rollback that was decided and not finished.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;

use lithdb::{Error, ErrorKind};
use lithdb_rollback::INTENT_FILE;
use lithdb_sim::{CrashImage, Effort, Tally};
use support::Harness;
use support::rollback_fixture::{self, Contents, fork, put_batch, put_groups};
use support::scenarios::{self, Scenario};
use support::small;

/// What must be found: the tables with their records, and what must not be found in them.
struct Expected {
    present: Contents,
    absent: BTreeMap<String, Vec<Vec<u8>>>,
}

/// Two tables, closed: sealed segments on both roots, values of both kinds, aliases, a batch.
fn two_tables() -> (Harness, Expected) {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("blocks", small().shards(2)).unwrap();
    put_groups(&table, 0..5);
    put_batch(&table, 5..8);
    table.flush().unwrap();
    put_groups(&db.table("receipts", small()).unwrap(), [2, 9]);
    db.close().unwrap();
    drop((table, db));
    let harness = fork(&harness);
    let present = rollback_fixture::contents_of(&harness);
    (harness, Expected { present, absent: BTreeMap::new() })
}

/// A rollback of two tables that a power failure stopped after its decision, before anything was
/// removed.
fn pending() -> (Harness, Expected) {
    let scenario = scenarios::everything();
    let harness = stopped_when_decided(&scenario);
    let absent = scenario.old.iter().map(|(table, records)| {
        let keys = records.iter().map(|(key, _, _)| key.clone());
        let stays = |key: &Vec<u8>| scenario.new[table].iter().any(|(kept, _, _)| kept == key);
        (table.clone(), keys.filter(|key| !stays(key)).collect())
    });
    let absent = absent.collect();
    (harness, Expected { present: scenario.new, absent })
}

fn stopped_when_decided(scenario: &Scenario) -> Harness {
    for k in 0.. {
        let run = scenario.copy();
        run.fs.crash_after(k);
        assert!(scenario.execute(&run).is_err(), "it finished without an intent");
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files(INTENT_FILE).iter().any(|path| path.ends_with(INTENT_FILE)) {
            return fork(&after);
        }
    }
    unreachable!()
}

/// Damage is reported as such, with the file.
fn assert_is_damage(error: &Error, context: &str) {
    use ErrorKind::{Corrupt, Foreign, Missing, Unsupported};
    let kinds = [Corrupt, Foreign, Missing, Unsupported];
    let is_damage = kinds.contains(&error.kind()) || error.to_string().contains("at most");
    assert!(is_damage, "{context}: {error}");
    assert!(error.to_string().contains("/r"), "{context}: names no file: {error}");
}

/// Opens the database and reads everything; returns whether everything was right.
fn open_and_read(harness: &Harness, expected: &Expected, context: &str) -> lithdb::Result<bool> {
    let db = harness.try_open()?;
    let mut all_right = true;
    for (name, records) in &expected.present {
        let table = match db.existing_table(name) {
            Ok(table) => table,
            Err(error) => {
                assert_is_damage(&error, context);
                all_right = false;
                continue;
            }
        };
        for (key, _, value) in records {
            match table.get(key) {
                Ok(Some(got)) => assert!(got == value[..], "{context}: wrong bytes in {name}"),
                Ok(None) => panic!("{context}: a key of {name} turned into None"),
                Err(error) => {
                    assert_is_damage(&error, context);
                    all_right = false;
                }
            }
        }
        for key in expected.absent.get(name).into_iter().flatten() {
            let found = table.get(key);
            assert!(!matches!(found, Ok(Some(_))), "{context}: rolled back data is back");
        }
        let mut entries = table.iter()?;
        for (key, _, value) in records {
            let next = entries.next().unwrap_or_else(|| panic!("{context}: {name} ends early"));
            let Ok(entry) = next else {
                all_right = false;
                break;
            };
            assert_eq!(entry.key(), key, "{context}: iteration");
            let got = entry.value();
            if let Ok(got) = &got {
                assert_eq!(*got, value[..], "{context}");
            }
            all_right &= got.is_ok();
        }
    }
    Ok(all_right)
}

const HARMLESS: &str = "harmless";
const NOTICED: &str = "noticed by a table";
const REFUSED: &str = "refused by the opening";

/// Applies `damage` to a copy for every case. Each of these outcomes must occur: truncating a
/// closed database is hardly ever harmless, and opening never refuses a flipped bit.
fn each(
    name: &str,
    what: &'static str,
    outcomes: &[&str],
    (harness, expected): (Harness, Expected),
    cases: impl Fn(&[u8]) -> Vec<u64>,
    damage: impl Fn(&Harness, &str, u64),
) {
    let mut tally = Tally::new(format!("damage to a database: {name}"));
    for path in harness.files("") {
        let bytes = harness.fs.read_raw(&path);
        for case in cases(&bytes) {
            let context = format!("{name}, {path}, {what} {case}");
            let run = fork(&harness);
            damage(&run, &path, case);
            tally.add(what, 1);
            let found = open_and_read(&run, &expected, &context);
            match found {
                Ok(true) => tally.add(HARMLESS, 1),
                Ok(false) => tally.add(NOTICED, 1),
                Err(error) => {
                    assert_is_damage(&error, &context);
                    tally.add(REFUSED, 1);
                    // The refusal has destroyed nothing.
                    run.fs.release_locks();
                    run.fs.write_raw(&path, bytes.clone());
                    let found = open_and_read(&run, &expected, &format!("{context}, undone"));
                    assert!(found.unwrap_or_else(|e| panic!("{context}, undone: {e}")));
                }
            }
        }
    }
    for outcome in outcomes {
        assert!(tally.get(outcome) > 0, "{outcome}: {tally:?}");
    }
}

/// Every `step`-th offset, starting at one that the seed determines; every offset in a deep run.
fn places(bytes: &[u8], step: u64) -> impl Iterator<Item = u64> {
    let (effort, len) = (Effort::from_env(), bytes.len() as u64);
    let step = if effort.is_deep() { 1 } else { step };
    (effort.seed("places in a database") % step..len).step_by(step as usize)
}

/// One bit of each of these bytes (all bits in a deep run), as `8 * at + bit`.
fn bits(bytes: &[u8], step: u64) -> Vec<u64> {
    let (effort, first) = (Effort::from_env(), Effort::from_env().seed("bits of a database"));
    let bits = effort.times(1).min(8);
    let of = |at| (0..bits).map(move |n| 8 * at + first.wrapping_add(at + n) % 8);
    places(bytes, step).flat_map(of).collect()
}

fn flip(harness: &Harness, path: &str, case: u64) {
    harness.fs.flip_bit(path, case / 8, (case % 8) as u8);
}

fn truncate(harness: &Harness, path: &str, len: u64) {
    harness.fs.truncate_raw(path, len);
}

#[test]
fn any_flipped_bit_is_an_error_or_harmless() {
    each(
        "two tables, flipped",
        "byte flips",
        &[HARMLESS, NOTICED],
        two_tables(),
        |bytes| bits(bytes, 17),
        flip,
    );
}

#[test]
fn any_flipped_bit_with_a_pending_rollback_is_an_error_or_harmless() {
    each(
        "pending rollback, flipped",
        "byte flips",
        &[HARMLESS, NOTICED, REFUSED],
        pending(),
        |bytes| bits(bytes, 37),
        flip,
    );
}

#[test]
fn any_truncated_file_is_an_error_or_harmless() {
    let lengths = |bytes: &[u8]| places(bytes, 11).collect();
    each("two tables, truncated", "lengths", &[NOTICED, REFUSED], two_tables(), lengths, truncate);
}

#[test]
fn any_truncated_file_with_a_pending_rollback_is_error_or_harmless() {
    let lengths = |bytes: &[u8]| places(bytes, 37).collect();
    each(
        "pending rollback, truncated",
        "lengths",
        &[HARMLESS, NOTICED, REFUSED],
        pending(),
        lengths,
        truncate,
    );
}
