//! `lith rollback`, as an operator uses it, and killed at any moment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lithdb::{Db, DbOptions, TableOptions};
use lithdb_env::{OsFs, exists};
use lithdb_sim::{Effort, Tally};
use support::{Fixture, bare, lith, without_maintenance};

const TABLES: [&str; 3] = ["blocks", "events", "receipts"];

/// A letter, then a big-endian number.
fn key(n: u64) -> Vec<u8> {
    [b"n", &n.to_be_bytes()[..]].concat()
}

fn value(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(1 + n as usize * 37 % 400)
}

fn shown(n: u64) -> String {
    key(n).iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Every table has the numbers 0 to 59, in segments of seven.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.prepare(|db| {
        let options = TableOptions::new().segment_keys(7).inline_max_bytes(256);
        for name in TABLES {
            let table = db.table(name, options.clone()).unwrap();
            for n in 0..60 {
                table.put(key(n), value(n)).unwrap();
            }
        }
    });
    fixture
}

/// The numbers in a table; checks their values.
fn numbers(db: &Db, table: &str) -> Vec<u64> {
    let table = db.existing_table(table).unwrap();
    let numbers = table.iter().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let n = u64::from_be_bytes(entry.key()[1..].try_into().unwrap());
        assert_eq!(entry.value().unwrap(), value(n)[..]);
        assert_eq!(table.get(entry.key()).unwrap().unwrap(), value(n)[..]);
        n
    });
    numbers.collect()
}

fn all_numbers(fixture: &Fixture) -> Vec<Vec<u64>> {
    let db = fixture.open();
    let found = TABLES.iter().map(|table| numbers(&db, table)).collect();
    db.close().unwrap();
    found
}

#[test]
fn rollback_to_a_number_then_to_a_key_then_continue() {
    let fixture = fixture();
    let shows = fixture.lith(&["rollback", "--max-be-u64", "1:40", "--dry-run"]).ok();
    assert!(shows.contains("nothing was changed"), "{shows}");
    assert_eq!(all_numbers(&fixture), vec![(0..60).collect::<Vec<_>>(); 3]);
    let done = fixture.lith(&["rollback", "--max-be-u64", "1:40", "--yes", "--json"]).json();
    assert_eq!(done["executed"], true);
    for (n, table) in TABLES.iter().enumerate() {
        let report = &done["report"]["tables"][n];
        assert_eq!((&report["table"], &report["action"]), (&(*table).into(), &"cut".into()));
        assert_eq!(report["boundary"]["key"], shown(40));
        assert_eq!(report["discarded"]["values"], 19);
    }
    assert_eq!(all_numbers(&fixture), vec![(0..=40).collect::<Vec<_>>(); 3]);
    fixture.lith(&["verify"]).ok();
    let to = shown(33);
    fixture.lith(&["rollback", "--through-key", &to, "--table", "events", "--yes"]).ok();
    let found = all_numbers(&fixture);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [41, 34, 41]);
    let nothing = fixture.lith(&["rollback", "--max-be-u64", "1:40", "--yes"]).ok();
    assert!(nothing.contains("nothing to roll back"), "{nothing}");
    fixture.lith_with(&["put", "events", "again"], b"new").ok();
    assert_eq!(fixture.lith(&["get", "events", "again"]).ok(), "new");
    fixture.lith(&["verify"]).ok();
}

#[test]
fn rollback_to_a_time_between_two_openings() {
    let fixture = fixture();
    // Closing wrote a mark with the time of the flush; the next values are at least one second
    // later.
    std::thread::sleep(Duration::from_millis(1100));
    let before = lithdb_env::Env::os(1).unwrap().clock.now();
    std::thread::sleep(Duration::from_millis(1100));
    fixture.prepare(|db| {
        for name in TABLES {
            let table = db.existing_table(name).unwrap();
            for n in 60..70 {
                table.put(key(n), value(n)).unwrap();
            }
        }
    });
    let time = format!("@{}", before.0 / 1000);
    fixture.lith(&["rollback", "--before", &time, "--yes"]).ok();
    assert_eq!(all_numbers(&fixture), vec![(0..60).collect::<Vec<_>>(); 3]);
}

#[test]
fn rollback_needs_an_explicit_yes() {
    let fixture = fixture();
    let to = ["rollback", "--max-be-u64", "1:3"];
    for answer in ["no\n", "\n", "", "yesterday\n"] {
        let error = fixture.lith_with(&to, answer.as_bytes()).failed();
        assert!(error.contains("nothing was changed"), "{error}");
    }
    assert_eq!(all_numbers(&fixture)[0].len(), 60);
    let run = fixture.lith_with(&to, b"yes\n");
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    assert_eq!(all_numbers(&fixture), vec![(0..=3).collect::<Vec<_>>(); 3]);
}

#[test]
fn invalid_arguments_are_refused_before_reading() {
    let fixture = fixture();
    for (args, why) in [
        (&["rollback"][..], "required"),
        (&["rollback", "--finish", "--before", "@1"], "--before"),
        (&["rollback", "--before", "noon"], "noon"),
        (&["rollback", "--max-be-u64", "100"], "1:100"),
        (&["rollback", "--through-key", "k", "--no-match", "maybe"], "maybe"),
        (&["rollback", "--through-key", "k", "--json"], "--yes"),
        (&["rollback", "--through-key", "k", "--table", "no table"], "no table"),
    ] {
        let error = fixture.lith(args).usage();
        assert!(error.contains(why), "{error}");
    }
    let error = bare(&["rollback", "--finish"]).usage();
    assert!(error.contains("--db"), "{error}");
}

#[test]
fn impossible_rollback_says_why_and_changes_nothing() {
    let fixture = fixture();
    let error = fixture.lith(&["rollback", "--through-key", "nobody", "--yes"]).failed();
    assert!(error.contains("blocks, events, receipts"), "{error}");
    // A mistyped key neither empties all tables nor counts as "nothing to roll back".
    for no_match in ["keep", "clear"] {
        let args = ["rollback", "--through-key", "nobody", "--no-match", no_match, "--yes"];
        let error = fixture.lith(&args).failed();
        assert!(error.contains("key nobody: expected"), "{error}");
    }
    let error = fixture.lith(&["rollback", "--max-be-u64", "7:1", "--yes"]).failed();
    assert!(error.contains("8-byte number at offset 7"), "{error}");
    let missing = ["rollback", "--through-key", "k", "--table", "nowhere", "--yes"];
    let error = fixture.lith(&missing).failed();
    assert!(error.contains("nowhere"), "{error}");
    let db = fixture.open();
    let error = fixture.lith(&["rollback", "--max-be-u64", "1:3", "--yes"]).failed();
    assert!(error.contains("open for writing"), "{error}");
    db.close().unwrap();
    assert_eq!(all_numbers(&fixture)[0].len(), 60);
    let none = fixture.lith(&["rollback", "--finish"]).ok();
    assert!(none.contains("no rollback to finish"), "{none}");
}

#[test]
fn position_must_be_a_record_of_one_table() {
    let fixture = fixture();
    fixture.prepare(|db| drop(db.table("empty", Default::default()).unwrap()));
    let scanned = fixture.lith(&["scan", "events", "--json"]).json_lines();
    let position = |n: usize| scanned[n]["position"].as_str().unwrap().to_owned();
    let to = |position: &str, more: &[&str]| {
        let args = ["rollback", "--through-position", position, "--yes"];
        fixture.lith(&[&args[..], more].concat())
    };
    let error = to("99:64", &["--table", "events"]).failed();
    assert!(
        error.contains(&format!("newest record is {} at {}", shown(59), position(59))),
        "{error}"
    );
    let (segment, offset) =
        position(20).split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let inside = format!("{segment}:{}", offset.parse::<u32>().unwrap() + 1);
    let error = to(&inside, &["--table", "events", "--no-match", "clear"]).failed();
    for n in [20, 21] {
        assert!(error.contains(&format!("{} at {}", shown(n as u64), position(n))), "{error}");
    }
    let error = to(&position(20), &["--table", "empty"]).failed();
    assert!(error.contains("empty"), "{error}");
    // The other table has an unrelated record at the same position.
    let error = to(&position(20), &["--table", "events", "--table", "blocks"]).usage();
    assert!(error.contains("--table"), "{error}");
    assert_eq!(all_numbers(&fixture), vec![(0..60).collect::<Vec<_>>(); 3]);
    to(&position(20), &["--table", "events"]).ok();
    assert_eq!(all_numbers(&fixture).iter().map(Vec::len).collect::<Vec<_>>(), [60, 21, 60]);
}

/// Block 5 of an abandoned branch was put before block 4 of the kept branch.
#[test]
fn kept_blocks_above_the_height_need_acceptance() {
    let fixture = Fixture::new();
    for (n, height) in [1, 2, 3, 4, 5, 4, 5, 6_u64].into_iter().enumerate() {
        let key = format!("0x{height:016x}");
        fixture.lith_with(&["put", "--create", "b", &key], format!("{n}").as_bytes()).ok();
    }
    let five = "0x0000000000000005";
    for more in [&["--yes"][..], &["--dry-run"], &[]] {
        let run = fixture.lith(&[&["rollback", "--max-be-u64", "0:4"], more].concat());
        let error = run.failed();
        assert!(error.contains("table b: 1 of them, 0x0000000000000005 at "), "{error}");
        assert!(error.contains("--accept-out-of-order"), "{error}");
        assert!(run.text().contains("out of order   values kept above the limit: 1\n"));
    }
    let run = fixture.lith(&["rollback", "--max-be-u64", "0:4", "--yes", "--json"]);
    run.failed();
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    let found = &output["plan"]["tables"][0]["out_of_order"];
    assert_eq!((&output["executed"], &found["newest"][0]["key"]), (&false.into(), &five.into()));
    assert_eq!(fixture.lith(&["get", "b", five]).ok(), "6");
    // Allowed if no such value stays, or if it is accepted.
    fixture.lith(&["rollback", "--max-be-u64", "0:5", "--dry-run"]).ok();
    fixture.lith(&["rollback", "--max-be-u64", "0:4", "--accept-out-of-order", "--yes"]).ok();
    assert_eq!(fixture.lith(&["get", "b", five]).ok(), "4");
    // Nothing to remove, but the value is still above the height.
    let error = fixture.lith(&["rollback", "--max-be-u64", "0:4", "--yes"]).failed();
    assert!(error.contains("0x0000000000000005 at"), "{error}");
}

#[test]
fn tables_may_have_different_heights() {
    let fixture = fixture();
    let to = |heights: &[&str], more: &[&str]| {
        let heights = heights.iter().flat_map(|height| ["--max-be-u64", height]);
        let args: Vec<&str> =
            ["rollback"].into_iter().chain(heights).chain(more.iter().copied()).collect();
        fixture.lith(&args)
    };
    let error = to(&["blocks=1:5", "blocks=1:6", "1:7"], &["--yes"]).usage();
    assert!(error.contains("expected one --max-be-u64"), "{error}");
    let error = to(&["blocks=1:5", "1:7"], &["--table", "events", "--yes"]).usage();
    assert!(error.contains("--table blocks"), "{error}");
    // A mistyped name does not put its table under the limit of the others.
    let error = to(&["block=1:5", "1:7"], &["--yes"]).failed();
    assert!(error.contains("no such table: block"), "{error}");
    let error = to(&["blocks=1:5", "events=1:7"], &["--yes"]).failed();
    assert!(error.contains("table receipts: no filter for this table"), "{error}");
    assert_eq!(all_numbers(&fixture), vec![(0..60).collect::<Vec<_>>(); 3]);
    to(&["blocks=1:5", "1:7"], &["--yes"]).ok();
    assert_eq!(all_numbers(&fixture).iter().map(Vec::len).collect::<Vec<_>>(), [6, 8, 8]);
    to(&["events=1:3"], &["--table", "events", "--yes"]).ok();
    assert_eq!(all_numbers(&fixture).iter().map(Vec::len).collect::<Vec<_>>(), [6, 4, 8]);
}

/// Copies a directory recursively.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Killed with SIGKILL at any moment (a crash of the process, not of the machine): afterwards all
/// tables are in the old state, or all in the new one. `LITHDB_EFFORT` multiplies the rounds.
#[test]
fn rollback_killed_at_any_moment_is_all_tables_or_none() {
    let mut tally = Tally::new("process crashes: lith rollback");
    let rounds = Effort::from_env().times(100) as u32;
    let whole = fixture();
    let mut ends = [0_u32; 2];
    let (mut pending, mut longest) = (0, Duration::from_millis(100));
    for round in 0..rounds {
        let scratch = Fixture::new();
        copy(&whole.db(), &scratch.db());
        let mut command = lith();
        command.args(["rollback", "--max-be-u64", "1:24", "--yes", "--db"]).arg(scratch.db());
        let started = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Spreads the kills over the running time, which surviving rounds measure.
        std::thread::sleep(longest.mul_f64(f64::from(round * 37 % 101) / 90.0));
        let survived = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if survived {
            longest = started.elapsed().min(longest.mul_f64(1.1)).max(Duration::from_millis(5));
        } else {
            longest = longest.mul_f64(1.02);
        }
        pending += u32::from(exists(&OsFs, &scratch.db().join("rollback.intent")).unwrap());
        // Every third rollback is finished by the tool, the others by opening the database.
        if round % 3 == 0 {
            let _ = scratch.lith(&["rollback", "--finish"]).ok();
        }
        let found = all_numbers(&scratch);
        let is_new = found[0].len() == 25;
        let end = if is_new { 25 } else { 60 };
        assert_eq!(found, vec![(0..end).collect::<Vec<_>>(); 3], "round {round}");
        assert!(is_new || !survived, "round {round}: it ended and changed nothing");
        ends[usize::from(is_new)] += 1;
        if round % 10 == 0 {
            scratch.prepare_with(without_maintenance(), |db| {
                let table = db.existing_table("events").unwrap();
                table.put(key(1000), value(1000)).unwrap();
            });
            scratch.lith(&["verify"]).ok();
            let db = Db::open_read_only(DbOptions::new([scratch.db()])).unwrap();
            assert_eq!(numbers(&db, "events").len(), end as usize + 1);
        }
    }
    tally.add("kills", rounds.into());
    tally.add("old", ends[0].into());
    tally.add("new", ends[1].into());
    tally.add("finished by the next open", pending.into());
    assert!(ends.iter().all(|count| *count > 0), "{ends:?}");
    assert_eq!(all_numbers(&whole), vec![(0..60).collect::<Vec<_>>(); 3], "the template changed");
}
