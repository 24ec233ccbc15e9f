//! verify, dump, repair: what is damaged is found, named, shown, and given up only when asked.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lithdb::env::{Fs, OsFs};
use lithdb::rollback::{Phase, max_be_u64};
use lithdb::{Rollback, TableOptions};
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

#[test]
fn repair_that_loses_nothing_needs_no_consent() {
    let bench = two_segments();
    let metadata = file(&bench, "1.metadata");
    OsFs.remove_file(&metadata).unwrap();
    assert!(bench.lith(&["info"]).failed().contains("1.metadata"));
    assert!(bench.lith(&["verify"]).failed_with("see lith repair").contains("1.metadata"));
    let shown = bench.lith(&["repair", "--dry-run"]).ok();
    assert!(shown.contains("a repair loses nothing") && shown.contains("nothing was changed"));
    assert!(OsFs.metadata(&metadata).is_err());
    let told = bench.lith(&["repair", "--json"]).json();
    assert_eq!((&told["applied"], &told["left"]), (&json!(true), &json!([])));
    assert_eq!(told["report"]["tables"][0]["lost_keys"], 0);
    bench.lith(&["verify"]).ok();
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 11);
    assert_eq!(bench.lith(&["repair"]).ok(), "nothing to repair\n");
}

#[test]
fn repair_of_tables_with_and_without_loss_does_the_latter() {
    let bench = two_segments();
    put_into(&bench, &["z"]);
    flip(&file(&bench, "1.keys"), 400);
    OsFs.remove_file(&bench.db().join("z/segments/1.metadata")).unwrap();
    let run = bench.lith(&["repair", "--json"]);
    assert!(run.failed().contains("not repaired: t; --accept-loss"), "{run:?}");
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&told["applied"], &told["left"]), (&json!(true), &json!(["t"])));
    assert_eq!(told["report"]["tables"][0]["table"], "z");
    bench.lith(&["verify", "z"]).ok();
    bench.lith(&["verify", "t"]).failed();
    bench.lith(&["repair", "--accept-loss"]).ok();
    bench.lith(&["verify"]).ok();
}

#[test]
fn repair_of_a_lost_state_says_what_it_did() {
    let bench = two_segments();
    OsFs.remove_file(&bench.db().join("t/table.state")).unwrap();
    for args in [&["info"][..], &["verify"], &["get", "t", "a"]] {
        assert!(bench.lith(args).failed().contains("lith repair"), "{args:?}");
    }
    let run = bench.lith(&["repair"]);
    assert!(run.failed().contains("not repaired: t; --accept-loss"), "{run:?}");
    assert!(run.words().contains("its TTL is not known any more"), "{run:?}");
    assert!(run.words().contains("is in no count"), "{run:?}");
    let words = bench.lith(&["repair", "--accept-loss"]).words();
    assert!(words.contains("table t: table.state and 0 segments repaired"), "{words}");
    assert!(!words.contains("nothing to repair"), "{words}");
    bench.lith(&["verify"]).ok();
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 11);
}

#[test]
fn lost_table_directory_is_one_account_in_every_command() {
    let bench = Bench::new();
    let roots = [bench.path("r0"), bench.path("r1")];
    let on = |args: &[&str]| {
        let mut command = support::lith();
        command.args(args).arg("--db").arg(&roots[0]).arg("--db").arg(&roots[1]);
        support::run(command, b"")
    };
    for (n, lost) in [(0, "t"), (1, "t"), (0, "t/segments"), (1, "t/segments")] {
        for root in &roots {
            std::process::Command::new("rm").arg("-rf").arg(root).status().unwrap();
        }
        let db = lithdb::Db::open_with(lithdb::DbOptions::new(&roots), support::alone()).unwrap();
        for name in ["t", "u"] {
            let table = db.table(name, Default::default()).unwrap();
            for key in 0..20u8 {
                table.put(&[key], &[key; 3_000]).unwrap();
            }
            table.seal().unwrap();
            table.put(b"last", &[9; 3_000]).unwrap();
        }
        db.close().unwrap();
        let gone = roots[n].join(lost);
        std::process::Command::new("rm").arg("-rf").arg(&gone).status().unwrap();
        let said = on(&["info"]).failed();
        assert!(said.contains("table t"), "{said}");
        let run = on(&["verify"]);
        run.failed();
        let words = run.words();
        assert!(words.contains("this directory is gone"), "{words}");
        assert!(words.contains("table u: sound"), "{words}");
        let run = on(&["repair"]);
        assert!(run.failed().contains("not repaired: t; --accept-loss"), "{run:?}");
        assert!(run.words().contains("is gone, and created anew"), "{run:?}");
        on(&["repair", "--accept-loss"]).ok();
        on(&["verify"]).ok();
        assert_eq!(on(&["repair"]).ok(), "nothing to repair\n");
        assert_eq!(on(&["get", "u", "last"]).output.stdout, [9; 3_000]);
    }
}

/// Makes a table into something of which nothing can be said: its segments are not to be listed.
fn hide_segments(bench: &Bench, table: &str) {
    let segments = bench.db().join(table).join("segments");
    OsFs.rename(&segments, &bench.path("segments-kept")).unwrap();
    OsFs.create_new(&segments).unwrap();
}

fn put_into(bench: &Bench, tables: &[&str]) {
    bench.prepare(|db| {
        for name in tables {
            let table = db.table(name, Default::default()).unwrap();
            table.put(b"key", &[7; 3_000]).unwrap();
            table.seal().unwrap();
        }
    });
}

#[test]
fn verify_says_what_it_found_of_each_table_whatever_is_with_the_others() {
    let bench = two_segments();
    put_into(&bench, &["a", "z"]);
    hide_segments(&bench, "a");
    flip(&file(&bench, "1.keys"), 400);
    let run = bench.lith(&["verify"]);
    let said = run.failed();
    assert!(said.contains("not sound: t; see lith repair; could not be looked at: a"), "{said}");
    let text = run.text();
    for part in ["table t: DAMAGED", "table z: sound", "table z: keymap sound", "not looked at: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let run = bench.lith(&["verify", "--json"]);
    run.failed();
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    let sound = |part: &str| {
        let found = told[part].as_array().unwrap().iter();
        found.map(|t| format!("{} {}", t["table"], t["sound"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(sound("tables"), ["t false", "z true", "a false"]);
    assert_eq!(sound("keymaps"), ["z true"]);
    assert!(told["tables"][2]["error"].as_str().unwrap().contains("a/segments"), "{told}");
}

#[test]
fn repair_does_what_it_can_and_says_of_which_tables_it_cannot() {
    let bench = two_segments();
    put_into(&bench, &["a", "z"]);
    hide_segments(&bench, "a");
    flip(&file(&bench, "1.keys"), 400);
    let run = bench.lith(&["repair"]);
    let said = run.failed();
    assert!(said.contains("--accept-loss") && said.contains("planned for a"), "{said}");
    assert!(run.text().contains("segment 1") && run.text().contains("a/segments"), "{run:?}");
    let run = bench.lith(&["repair", "--accept-loss", "--json"]);
    assert!(run.failed().contains("planned for a"), "{run:?}");
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(
        (&told["applied"], &told["plan"]["refused"][0]["table"]),
        (&json!(true), &json!("a"))
    );
    bench.lith(&["verify", "t"]).ok();
    let run = bench.lith(&["repair", "--json"]);
    assert!(run.failed().contains("planned for a"), "{run:?}");
    assert!(bench.lith(&["repair", "nothing"]).failed().contains("table nothing"));
    assert_eq!(bench.lith(&["repair", "t", "z"]).ok(), "nothing to repair\n");
}

/// A rollback of two tables that was killed behind its first step.
fn pending_rollback() -> Bench {
    let bench = Bench::new();
    bench.prepare(|db| {
        for name in ["t", "u"] {
            let table = db.table(name, TableOptions::new().segment_keys(3)).unwrap();
            for n in 0..10_u64 {
                table.put(&n.to_be_bytes(), &[7; 900]).unwrap();
            }
        }
    });
    let plan = Rollback::new([bench.db()]).plan(max_be_u64(0, 3)).unwrap();
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        plan.execute_with(|progress| {
            assert!(progress.phase == Phase::Preparing, "stopped");
            ControlFlow::Continue(())
        })
    }));
    stopped.unwrap_err();
    bench
}

#[test]
fn every_command_beside_a_pending_rollback_says_what_finishes_it() {
    let bench = pending_rollback();
    let run = bench.lith(&["verify"]);
    let said = run.failed();
    assert!(said.contains("not finished; see lith rollback --finish"), "{said}");
    let text = run.text();
    for part in ["rollback.intent", "table t: cut", "table u: cut", "`lith rollback --finish`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["sound", "DAMAGED", "damage:", "note:", "next opening"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
    let run = bench.lith(&["verify", "--json"]);
    run.failed();
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&told["sound"], &told["tables"]), (&json!(false), &json!([])));
    let pending = &told["pending_rollback"];
    assert!(pending["path"].as_str().unwrap().contains("rollback.intent"), "{told}");
    assert_eq!((&pending["tables"][1]["table"], &pending["obstacle"]), (&json!("u"), &json!(null)));
    for args in [
        &["repair"][..],
        &["repair", "--accept-loss"],
        &["dump", "t"],
        &["info"],
        &["ls"],
        &["scan", "t"],
        &["get", "t", "k"],
        &["rollback", "--through-key", "k", "--dry-run"],
    ] {
        let run = bench.lith(args);
        let said = run.failed();
        for part in ["rollback.intent", "of t, u", "`lith rollback --finish`"] {
            assert!(said.contains(part), "{args:?}: {said}");
        }
        assert_eq!(run.text(), "", "{args:?}");
    }
    bench.lith(&["rollback", "--finish"]).ok();
    assert!(bench.lith(&["verify"]).ok().contains("table u: sound"));
}

#[test]
fn a_command_that_finishes_a_rollback_on_its_way_says_so() {
    let bench = pending_rollback();
    let run = bench.lith_with(&["put", "t", "k"], b"value");
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    for part in
        ["a rollback had been interrupted, and was finished", "table t: cut", "table u: cut"]
    {
        assert!(run.errors().contains(part), "{part}: {run:?}");
    }
    bench.lith_with(&["put", "t", "k2"], b"value").ok();
    assert_eq!(bench.lith(&["scan", "u", "--json"]).json_lines().len(), 4);
}

#[test]
fn keys_of_dump_and_findings_are_those_of_scan() {
    let bench = Bench::new();
    let keys: [&[u8]; 5] =
        [b"plain", b"0xfeed", b"a \"key\"", b"\x00\xff", "gr\u{f6}\u{df}e".as_bytes()];
    bench.prepare(|db| {
        let table = db.table("t", Default::default()).unwrap();
        for key in keys {
            table.put(key, &[7; 3_000]).unwrap();
        }
        table.seal().unwrap();
    });
    let of = |args: &[&str]| -> Vec<String> {
        let lines = bench.lith(args).json_lines();
        lines.iter().filter_map(|l| l["key"].as_str().map(ToOwned::to_owned)).collect()
    };
    let scanned = of(&["scan", "t", "--json"]);
    assert_eq!(scanned[1], "0x307866656564");
    assert_eq!(of(&["dump", "t", "--json"]), scanned);
    // The second value is damaged, and its key named.
    flip(&file(&bench, "1-0.values"), 64 + 4_500);
    let run = bench.lith(&["verify", "--json"]);
    run.failed();
    let told: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(told["tables"][0]["findings"][0]["sample_keys"], json!([scanned[1]]), "{told}");
}
