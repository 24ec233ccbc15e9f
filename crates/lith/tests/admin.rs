//! `lith gc`, `lith rebuild-keymap`, and several processes with one database.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use lithdb::{Components, GcFilter, TableOptions};
use lithdb_env::{Clock, Env, OsClock, UnixMillis};
use serde_json::json;
use support::{Fixture, bare, without_maintenance};

/// A table with one sealed segment that has expired, and a value that has not.
fn expired(fixture: &Fixture, name: &str, filter: Option<GcFilter>) {
    let options = TableOptions::new().ttl(Duration::from_secs(3600));
    let open = |db: &lithdb::Db| match filter.clone() {
        Some(filter) => db.table_with_filter(name, options.clone(), filter).unwrap(),
        None => db.table(name, options.clone()).unwrap(),
    };
    fixture.prepare_with(with_slow_clock(Duration::from_secs(2 * 3600)), |db| {
        let table = open(db);
        table.put(b"old", b"1").unwrap();
        table.put(b"older", b"2").unwrap();
        table.seal().unwrap();
    });
    fixture.prepare(|db| {
        open(db).put(b"new", b"3").unwrap();
    });
}

#[test]
fn gc_collects_by_the_recorded_ttl() {
    let fixture = Fixture::new();
    expired(&fixture, "t", None);
    // Commands that read collect nothing.
    assert_eq!(fixture.lith(&["get", "t", "old"]).ok(), "1");
    let output = fixture.lith(&["gc", "t", "--json"]).json();
    let collected = &output["tables"][0]["collected"];
    assert_eq!((&collected["segments"], &collected["keys"]), (&json!(1), &json!(2)));
    fixture.lith(&["get", "t", "old"]).no_such_key();
    assert_eq!(fixture.lith(&["get", "t", "new"]).ok(), "3");
    assert_eq!(fixture.lith(&["gc"]).ok(), "t: nothing has expired\n");
}

#[test]
fn gc_seals_an_old_mutable_segment() {
    let fixture = Fixture::new();
    let put = |db: &lithdb::Db, key: &[u8], ttl: Duration| {
        let table = db.table("t", TableOptions::new().ttl(ttl)).unwrap();
        table.put(key, b"v").map(|_| ()).unwrap();
    };
    // Never sealed, and long past the TTL.
    let ttl = Duration::from_millis(50);
    fixture.prepare_with(with_slow_clock(Duration::from_secs(2 * 3600)), |db| put(db, b"old", ttl));
    let text = fixture.lith(&["gc"]).ok();
    assert!(text.contains("nothing has expired; sealed the mutable segment"), "{text}");
    while fixture.lith(&["gc", "--json"]).json()["tables"][0]["collected"]["keys"] != 1 {}
    assert_eq!(fixture.lith(&["scan", "t"]).ok(), "");
    // Old enough to be sealed: the seal age is a quarter of the TTL. It expires one TTL later.
    let (ttl, fixture) = (Duration::from_secs(3600), Fixture::new());
    fixture.prepare_with(with_slow_clock(Duration::from_secs(1800)), |db| put(db, b"half", ttl));
    let output = fixture.lith(&["gc", "--json"]).json();
    let output = &output["tables"][0];
    assert_eq!((&output["sealed"], &output["collected"]["keys"]), (&json!(true), &json!(0)));
    assert_eq!(fixture.lith(&["get", "t", "half"]).ok(), "v");
    // Too young.
    let young = Fixture::new();
    young.prepare(|db| put(db, b"young", ttl));
    assert_eq!(young.lith(&["gc"]).ok(), "t: nothing has expired\n");
}

#[test]
fn gc_without_ttl_reports_that_nothing_expires() {
    let fixture = Fixture::with(&[("k", b"v")]);
    assert!(fixture.lith(&["gc", "t"]).ok().contains("no TTL"));
    assert!(fixture.lith(&["gc", "nothing"]).failed().contains("table nothing"));
}

#[test]
fn gc_skips_a_filtered_table_unless_forced() {
    let fixture = Fixture::new();
    expired(&fixture, "filtered", Some(GcFilter::new(|_, _| Ok(false))));
    // No command that opens for writing collects in the background either.
    let text = fixture.lith(&["gc"]).failed_with("--force: filtered");
    assert!(text.contains("filtered: skipped"), "{text}");
    fixture.lith_with(&["put", "filtered", "k"], b"v").ok();
    fixture.lith(&["rebuild-keymap"]).ok();
    assert_eq!(fixture.lith(&["get", "filtered", "old"]).ok(), "1");
    assert!(fixture.lith(&["gc", "filtered", "--force"]).ok().contains("collected 1 segment"));
    fixture.lith(&["get", "filtered", "old"]).no_such_key();
}

#[test]
fn gc_collects_others_despite_a_filtered_and_a_damaged_table() {
    let fixture = Fixture::new();
    expired(&fixture, "filtered", Some(GcFilter::new(|_, _| Ok(false))));
    for name in ["damaged", "plain"] {
        expired(&fixture, name, None);
    }
    support::flip(&fixture.db().join("damaged/segments/1.keys"), 10);
    let run = fixture.lith(&["gc", "--json"]);
    let output = run.failed_in_json(1);
    let error = output["message"].as_str().unwrap();
    assert!(error.contains("cannot be collected: damaged; skipped"), "{error}");
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert!(output["tables"][0]["error"].as_str().unwrap().contains("1.keys"), "{output}");
    assert_eq!(output["tables"][1], json!({ "table": "filtered", "filtered": true }));
    assert_eq!(output["tables"][2]["collected"]["segments"], 1);
    fixture.lith(&["get", "plain", "old"]).no_such_key();
    assert_eq!(fixture.lith(&["get", "filtered", "old"]).ok(), "1");
    // `rebuild-keymap` and `info` continue after a damaged table, too.
    let output = fixture.lith(&["rebuild-keymap"]).failed_with("1.keys");
    assert!(output.contains("table plain: keymap ok"), "{output}");
    let output = fixture.lith(&["info"]).failed_with("1.keys");
    assert!(
        output.contains("table plain\n  keys ") && output.contains("cannot be opened"),
        "{output}"
    );
}

/// A clock that is behind by a fixed duration.
#[derive(Debug)]
struct SlowClock(OsClock, Duration);

/// Components with such a clock.
fn with_slow_clock(by: Duration) -> Components {
    let clock = Arc::new(SlowClock(OsClock, by));
    Components { env: Some(Env { clock, ..Env::os(1).unwrap() }), ..without_maintenance() }
}

impl Clock for SlowClock {
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
fn gc_is_held_after_a_clock_jump_until_accepted() {
    let fixture = Fixture::new();
    fixture.prepare_with(with_slow_clock(Duration::from_secs(3 * 86_400)), |db| {
        let table = db.table("t", TableOptions::new().ttl(Duration::from_secs(3600))).unwrap();
        table.put(b"old", b"1").unwrap();
        table.seal().unwrap();
    });
    let held = fixture.lith(&["gc", "t"]);
    assert!(held.text().contains("held for 1 h"), "{held:?}");
    assert!(held.failed().contains("--accept-clock"), "{held:?}");
    assert_eq!(fixture.lith(&["get", "t", "old"]).ok(), "1");
    assert!(fixture.lith(&["gc", "t", "--accept-clock"]).ok().contains("collected 1 segment"));
}

#[test]
fn locked_database_can_be_read_but_not_written() {
    let fixture = Fixture::with(&[("k", b"v")]);
    let db = fixture.open();
    let table = db.existing_table("t").unwrap();
    table.put(b"flushed", b"1").unwrap();
    table.flush().unwrap();
    let file = fixture.write("file", b"content");
    let file = file.to_str().unwrap();
    for args in [
        &["put", "t", "k", file][..],
        &["load", "t", file],
        &["gc"],
        &["rebuild-keymap"],
        &["repair"],
    ] {
        let error = fixture.lith(args).failed();
        assert!(error.starts_with("lith: locked: "), "{args:?}: {error}");
        assert!(error.contains(&std::process::id().to_string()), "{args:?}: {error}");
    }
    assert_eq!(fixture.lith(&["ls"]).ok(), "t\n");
    assert_eq!(fixture.lith(&["get", "t", "flushed"]).ok(), "1");
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 2);
    fixture.lith(&["info"]).ok();
    fixture.lith(&["verify"]).ok();
    // The writer was not disturbed.
    table.put(b"k", b"w").unwrap();
    db.close().unwrap();
    assert_eq!(fixture.lith(&["get", "t", "k"]).ok(), "w");
}

#[test]
fn every_command_names_a_directory_without_a_database() {
    let fixture = Fixture::new();
    let empty = fixture.path("empty");
    lithdb_env::Fs::create_dir(&lithdb_env::OsFs, &empty).unwrap();
    let file = fixture.write("file", b"content");
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
        let error = bare(&[command, &["--db", empty.to_str().unwrap()]].concat()).failed();
        assert!(error.contains("empty"), "{command:?}: {error}");
    }
    assert_eq!(lithdb_env::Fs::list(&lithdb_env::OsFs, &empty).unwrap(), []);
}

#[test]
fn rebuild_keymap_finds_every_key_again() {
    let fixture = Fixture::with(&[("a", b"1"), ("b", b"2"), ("a", b"3")]);
    let output = fixture.lith(&["rebuild-keymap", "--json"]).json();
    assert_eq!(
        (&output["tables"][0]["table"], &output["tables"][0]["sound"]),
        (&json!("t"), &json!(true))
    );
    assert_eq!(output["tables"][0]["records"], 3);
    let text = fixture.lith(&["rebuild-keymap", "t"]).ok();
    assert!(text.contains("t: "), "{text}");
    assert_eq!(fixture.lith(&["get", "t", "a"]).ok(), "3");
}
