//! verify, dump, repair: what is damaged is found, named, shown, and given up only when asked.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use serde_json::json;
use support::{Bench, flip, read};

/// A table with a sealed segment (`a` to `j`) and another (`k`), values in key and value files.
fn two_segments() -> Bench {
    let bench = Bench::new();
    bench.prepare(|db| {
        let table = db.table("t", Default::default()).unwrap();
        for (n, key) in ('a'..='j').enumerate() {
            let len = if n % 2 == 0 { 300 } else { 5_000 };
            table.put(key.to_string().as_bytes(), &vec![n as u8; len]).unwrap();
        }
        table.seal().unwrap();
        table.put(b"k", b"in the newest segment").unwrap();
    });
    bench
}

fn file(bench: &Bench, name: &str) -> std::path::PathBuf {
    bench.db().join("t/segments").join(name)
}

#[test]
fn verify_of_a_sound_database_says_so() {
    let bench = two_segments();
    bench.lith_with(&["put", "u", "k"], b"v").ok();
    let told = bench.lith(&["verify", "--json"]).json();
    assert_eq!(told["sound"], true);
    let tables = told["tables"].as_array().unwrap();
    assert_eq!((&tables[0]["table"], &tables[1]["table"]), (&json!("t"), &json!("u")));
    assert_eq!(tables[0]["records"], 11);
    let text = bench.lith(&["verify", "t"]).ok();
    assert!(text.contains("table t: sound") && !text.contains("table u"), "{text}");
    assert!(bench.lith(&["verify", "nothing"]).failed().contains("table nothing"));
}

#[test]
fn verify_names_the_file_with_a_flipped_byte() {
    for (name, offset) in [("1-0.values", 64 + 2_500), ("1.keys", 400), ("2.keys", 150)] {
        let bench = two_segments();
        flip(&file(&bench, name), offset);
        let run = bench.lith(&["verify"]);
        let said = run.failed();
        assert!(said.contains("not sound: t"), "{said}");
        assert!(run.text().contains(name) && run.text().contains("DAMAGED"), "{name}: {run:?}");
        let run = bench.lith(&["verify", "--json"]);
        run.failed();
        let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
        assert_eq!(told["sound"], false);
        assert!(told["tables"][0]["findings"].to_string().contains(name), "{told}");
    }
}

#[test]
fn get_of_a_damaged_value_fails_and_writes_nothing() {
    let bench = two_segments();
    flip(&file(&bench, "1-0.values"), 64 + 2_500);
    let run = bench.lith(&["get", "t", "b"]);
    assert!(run.failed().contains("corrupt"), "{run:?}");
    assert_eq!(run.text(), "");
    assert_eq!(bench.lith(&["get", "t", "d"]).output.stdout, vec![3; 5_000]);
}

#[test]
fn dump_shows_every_record_of_all_segments_or_of_one() {
    let bench = two_segments();
    let text = bench.lith(&["dump", "t"]).ok();
    for part in ["\"a\"", "\"j\"", "\"k\"", "1.keys", "2.keys", "1-0.values", "chain"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = bench.lith(&["dump", "t", "--segment", "2"]).ok();
    assert!(text.contains("\"k\"") && !text.contains("\"a\""), "{text}");
    let lines = bench.lith(&["dump", "t", "--json"]).json_lines();
    let keys: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
    assert_eq!(keys.len(), 11, "{keys:?}");
    assert!(bench.lith(&["dump", "t", "--segment", "99"]).failed().contains("segment 99"));
    assert!(bench.lith(&["dump", "nothing"]).failed().contains("nothing"));
}

#[test]
fn dump_goes_on_behind_damage() {
    let bench = two_segments();
    flip(&file(&bench, "1.keys"), 400);
    let text = bench.lith(&["dump", "t", "--segment", "1"]).ok();
    assert!(text.contains("DAMAGE") && text.contains("\"j\""), "{text}");
}

#[test]
fn repair_of_a_sound_database_does_nothing() {
    let bench = two_segments();
    assert_eq!(bench.lith(&["repair"]).ok(), "nothing to repair\n");
    let told = bench.lith(&["repair", "--accept-loss", "--json"]).json();
    assert_eq!(told, json!({ "needed": false, "applied": false }));
}

#[test]
fn repair_shows_the_loss_and_takes_it_only_when_it_is_accepted() {
    let bench = two_segments();
    let keys = file(&bench, "1.keys");
    flip(&keys, 400);
    let before = read(&keys);
    assert!(bench.lith(&["get", "t", "k"]).failed().contains("1.keys"));
    let run = bench.lith(&["repair"]);
    assert!(run.failed().contains("--accept-loss"), "{run:?}");
    assert!(run.text().contains("segment 1"), "{run:?}");
    let run = bench.lith(&["repair", "--json"]);
    run.failed();
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&told["needed"], &told["applied"]), (&json!(true), &json!(false)));
    // Nothing has changed.
    assert!(read(&keys) == before);
    let told = bench.lith(&["repair", "--accept-loss", "--json"]).json();
    assert_eq!((&told["needed"], &told["applied"]), (&json!(true), &json!(true)));
    bench.lith(&["verify"]).ok();
    assert_eq!(bench.lith(&["get", "t", "k"]).ok(), "in the newest segment");
    let left = bench.lith(&["scan", "t"]).ok().lines().count();
    assert!((8..11).contains(&left), "{left}");
    // The database can be written again.
    bench.lith_with(&["put", "t", "l"], b"v").ok();
}
