//! gc, rebuild-keymap, and several processes at one database.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use lithdb::env::{Clock, Env, OsClock, UnixMillis};
use lithdb::{Components, GcFilter, TableOptions};
use serde_json::json;
use support::{Bench, alone, bare};

/// A table whose one sealed segment has expired, and a value that has not.
fn expired(bench: &Bench, name: &str, filter: Option<GcFilter>) {
    let options = TableOptions::new().ttl(Duration::from_secs(3600));
    let open = |db: &lithdb::Db| match filter.clone() {
        Some(filter) => db.table_with_filter(name, options.clone(), filter).unwrap(),
        None => db.table(name, options.clone()).unwrap(),
    };
    bench.prepare_with(behind(Duration::from_secs(2 * 3600)), |db| {
        let table = open(db);
        table.put(b"old", b"1").unwrap();
        table.put(b"older", b"2").unwrap();
        table.seal().unwrap();
    });
    bench.prepare(|db| {
        open(db).put(b"new", b"3").unwrap();
    });
}

#[test]
fn gc_collects_what_has_expired_by_the_recorded_ttl() {
    let bench = Bench::new();
    expired(&bench, "t", None);
    // Reading collects nothing.
    assert_eq!(bench.lith(&["get", "t", "old"]).ok(), "1");
    let told = bench.lith(&["gc", "t", "--json"]).json();
    let collected = &told["tables"][0]["collected"];
    assert_eq!((&collected["segments"], &collected["keys"]), (&json!(1), &json!(2)));
    bench.lith(&["get", "t", "old"]).no_such_key();
    assert_eq!(bench.lith(&["get", "t", "new"]).ok(), "3");
    assert_eq!(bench.lith(&["gc"]).ok(), "t: nothing has expired\n");
}

#[test]
fn gc_seals_a_mutable_segment_that_is_old_enough_so_that_it_expires() {
    let bench = Bench::new();
    let put = |db: &lithdb::Db, key: &[u8], ttl: Duration| {
        let table = db.table("t", TableOptions::new().ttl(ttl)).unwrap();
        table.put(key, b"v").map(|_| ()).unwrap();
    };
    // Never sealed, and long past the TTL.
    let ttl = Duration::from_millis(50);
    bench.prepare_with(behind(Duration::from_secs(2 * 3600)), |db| put(db, b"old", ttl));
    let text = bench.lith(&["gc"]).ok();
    assert!(text.contains("nothing has expired; sealed the mutable segment"), "{text}");
    while bench.lith(&["gc", "--json"]).json()["tables"][0]["collected"]["keys"] != 1 {}
    assert_eq!(bench.lith(&["scan", "t"]).ok(), "");
    // Old enough to be sealed: the age is a quarter of the TTL. It expires a TTL later.
    let (ttl, bench) = (Duration::from_secs(3600), Bench::new());
    bench.prepare_with(behind(Duration::from_secs(1800)), |db| put(db, b"half", ttl));
    let told = bench.lith(&["gc", "--json"]).json();
    let told = &told["tables"][0];
    assert_eq!((&told["sealed"], &told["collected"]["keys"]), (&json!(true), &json!(0)));
    assert_eq!(bench.lith(&["get", "t", "half"]).ok(), "v");
    // Too young.
    let young = Bench::new();
    young.prepare(|db| put(db, b"young", ttl));
    assert_eq!(young.lith(&["gc"]).ok(), "t: nothing has expired\n");
}

#[test]
fn gc_of_a_table_without_ttl_says_that_nothing_expires() {
    let bench = Bench::with(&[("k", b"v")]);
    assert!(bench.lith(&["gc", "t"]).ok().contains("no TTL"));
    assert!(bench.lith(&["gc", "nothing"]).failed().contains("table nothing"));
}

#[test]
fn gc_leaves_a_table_with_a_filter_unless_forced() {
    let bench = Bench::new();
    expired(&bench, "filtered", Some(GcFilter::new(|_, _| Ok(false))));
    // Neither this nor any other command that opens for writing collects in passing.
    let text = bench.lith(&["gc"]).failed_with("filtered: ");
    assert!(text.contains("filtered: not collected") && text.contains("--force"), "{text}");
    bench.lith_with(&["put", "filtered", "k"], b"v").ok();
    bench.lith(&["rebuild-keymap"]).ok();
    assert_eq!(bench.lith(&["get", "filtered", "old"]).ok(), "1");
    assert!(bench.lith(&["gc", "filtered", "--force"]).ok().contains("collected 1 segment"));
    bench.lith(&["get", "filtered", "old"]).no_such_key();
}

#[test]
fn gc_collects_the_tables_beside_a_filtered_and_a_damaged_one() {
    let bench = Bench::new();
    expired(&bench, "filtered", Some(GcFilter::new(|_, _| Ok(false))));
    for name in ["damaged", "plain"] {
        expired(&bench, name, None);
    }
    support::flip(&bench.db().join("damaged/segments/1.keys"), 10);
    let run = bench.lith(&["gc", "--json"]);
    let told = run.failed_in_json(1);
    let said = told["message"].as_str().unwrap();
    assert!(said.contains("damaged: could not be collected; filtered: "), "{said}");
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert!(told["tables"][0]["error"].as_str().unwrap().contains("1.keys"), "{told}");
    assert_eq!(told["tables"][1], json!({ "table": "filtered", "filtered": true }));
    assert_eq!(told["tables"][2]["collected"]["segments"], 1);
    bench.lith(&["get", "plain", "old"]).no_such_key();
    assert_eq!(bench.lith(&["get", "filtered", "old"]).ok(), "1");
    // Nor does a damaged table keep the keymaps of others from being rebuilt, or the others from being described.
    let told = bench.lith(&["rebuild-keymap"]).failed_with("1.keys");
    assert!(told.contains("table plain: keymap sound"), "{told}");
    let told = bench.lith(&["info"]).failed_with("1.keys");
    assert!(told.contains("table plain\n  keys ") && told.contains("does not open"), "{told}");
}

/// A clock that is behind by so much.
#[derive(Debug)]
struct Behind(OsClock, Duration);

/// A world with such a clock.
fn behind(by: Duration) -> Components {
    let clock = Arc::new(Behind(OsClock, by));
    Components { env: Some(Env { clock, ..Env::os(1).unwrap() }), ..alone() }
}

impl Clock for Behind {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.now().0 - self.1.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn random_u64(&self) -> std::io::Result<u64> {
        self.0.random_u64()
    }
}

#[test]
fn gc_is_held_when_the_clock_has_jumped_until_somebody_accepts_it() {
    let bench = Bench::new();
    bench.prepare_with(behind(Duration::from_secs(3 * 86_400)), |db| {
        let table = db.table("t", TableOptions::new().ttl(Duration::from_secs(3600))).unwrap();
        table.put(b"old", b"1").unwrap();
        table.seal().unwrap();
    });
    let held = bench.lith(&["gc", "t"]);
    assert!(held.text().contains("held for 1 h"), "{held:?}");
    assert!(held.failed().contains("--accept-clock"), "{held:?}");
    assert_eq!(bench.lith(&["get", "t", "old"]).ok(), "1");
    assert!(bench.lith(&["gc", "t", "--accept-clock"]).ok().contains("collected 1 segment"));
}

#[test]
fn a_database_that_somebody_writes_can_be_read_and_not_written() {
    let bench = Bench::with(&[("k", b"v")]);
    let db = bench.open();
    let table = db.existing_table("t").unwrap();
    table.put(b"flushed", b"1").unwrap();
    table.flush().unwrap();
    let file = bench.write("file", b"content");
    let file = file.to_str().unwrap();
    for args in [
        &["put", "t", "k", file][..],
        &["load", "t", file],
        &["gc"],
        &["rebuild-keymap"],
        &["repair"],
    ] {
        let said = bench.lith(args).failed();
        assert!(said.starts_with("lith: locked: "), "{args:?}: {said}");
        assert!(said.contains(&std::process::id().to_string()), "{args:?}: {said}");
    }
    assert_eq!(bench.lith(&["ls"]).ok(), "t\n");
    assert_eq!(bench.lith(&["get", "t", "flushed"]).ok(), "1");
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 2);
    bench.lith(&["info"]).ok();
    bench.lith(&["verify"]).ok();
    // The writer was not disturbed.
    table.put(b"k", b"w").unwrap();
    db.close().unwrap();
    assert_eq!(bench.lith(&["get", "t", "k"]).ok(), "w");
}

#[test]
fn a_directory_without_a_database_is_named_by_every_command() {
    let bench = Bench::new();
    let empty = bench.path("empty");
    lithdb::env::Fs::create_dir(&lithdb::env::OsFs, &empty).unwrap();
    let file = bench.write("file", b"content");
    for command in [
        &["ls"][..],
        &["info"],
        &["put", "t", "k", file.to_str().unwrap()],
        &["get", "t", "k"],
        &["scan", "t"],
        &["load", "t", file.to_str().unwrap()],
        &["verify"],
        &["gc"],
        &["dump", "t"],
        &["rebuild-keymap"],
    ] {
        let said = bare(&[command, &["--db", empty.to_str().unwrap()]].concat()).failed();
        assert!(said.contains("empty"), "{command:?}: {said}");
    }
    assert_eq!(lithdb::env::Fs::list(&lithdb::env::OsFs, &empty).unwrap(), []);
}

#[test]
fn rebuild_keymap_finds_every_key_again() {
    let bench = Bench::with(&[("a", b"1"), ("b", b"2"), ("a", b"3")]);
    let told = bench.lith(&["rebuild-keymap", "--json"]).json();
    assert_eq!(
        (&told["tables"][0]["table"], &told["tables"][0]["sound"]),
        (&json!("t"), &json!(true))
    );
    assert_eq!(told["tables"][0]["records"], 3);
    let text = bench.lith(&["rebuild-keymap", "t"]).ok();
    assert!(text.contains("t: "), "{text}");
    assert_eq!(bench.lith(&["get", "t", "a"]).ok(), "3");
}
