//! `lith verify`, `dump`, `repair`: damage is found and named; data is given up only with consent.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lithdb::rollback::{Phase, max_be_u64};
use lithdb::{Rollback, TableOptions};
use lithdb_env::{Fs, OsFs};
use serde_json::json;
use support::{Fixture, flip, read};

/// A table with a sealed segment (`a` to `j`) and an unsealed one (`k`), values in key and value
/// files.
fn two_segments() -> Fixture {
    let fixture = Fixture::new();
    fixture.prepare(|db| {
        let table = db.table("t", Default::default()).unwrap();
        for (n, key) in ('a'..='j').enumerate() {
            let len = if n % 2 == 0 { 300 } else { 5_000 };
            table.put(key.to_string().as_bytes(), vec![n as u8; len]).unwrap();
        }
        table.seal().unwrap();
        table.put(b"k", b"in the newest segment").unwrap();
    });
    fixture
}

fn file(fixture: &Fixture, name: &str) -> std::path::PathBuf {
    fixture.db().join("t/segments").join(name)
}

#[test]
fn verify_reports_a_sound_database() {
    let fixture = two_segments();
    fixture.lith_with(&["put", "u", "k"], b"v").ok();
    let output = fixture.lith(&["verify", "--json"]).json();
    assert_eq!(output["sound"], true);
    let tables = output["tables"].as_array().unwrap();
    assert_eq!((&tables[0]["table"], &tables[1]["table"]), (&json!("t"), &json!("u")));
    assert_eq!(tables[0]["records"], 11);
    let text = fixture.lith(&["verify", "t"]).ok();
    assert!(text.contains("table t: ok") && !text.contains("table u"), "{text}");
    assert!(fixture.lith(&["verify", "nothing"]).failed().contains("table nothing"));
}

#[test]
fn verify_names_the_file_with_a_flipped_byte() {
    for (name, offset) in [("1-0.values", 64 + 2_500), ("1.keys", 400), ("2.keys", 150)] {
        let fixture = two_segments();
        flip(&file(&fixture, name), offset);
        let run = fixture.lith(&["verify"]);
        let error = run.failed();
        assert!(error.contains("damaged: t"), "{error}");
        assert!(run.text().contains(name) && run.text().contains("DAMAGED"), "{name}: {run:?}");
        let run = fixture.lith(&["verify", "--json"]);
        run.failed();
        let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
        assert_eq!(output["sound"], false);
        assert!(output["tables"][0]["findings"].to_string().contains(name), "{output}");
    }
}

#[test]
fn get_of_a_damaged_value_fails_and_writes_nothing() {
    let fixture = two_segments();
    flip(&file(&fixture, "1-0.values"), 64 + 2_500);
    let run = fixture.lith(&["get", "t", "b"]);
    assert!(run.failed().contains("corrupt"), "{run:?}");
    assert_eq!(run.text(), "");
    assert_eq!(fixture.lith(&["get", "t", "d"]).output.stdout, vec![3; 5_000]);
}

#[test]
fn dump_shows_every_record_of_all_segments_or_of_one() {
    let fixture = two_segments();
    let text = fixture.lith(&["dump", "t"]).ok();
    for part in ["\"a\"", "\"j\"", "\"k\"", "1.keys", "2.keys", "1-0.values", "chain"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = fixture.lith(&["dump", "t", "--segment", "2"]).ok();
    assert!(text.contains("\"k\"") && !text.contains("\"a\""), "{text}");
    let lines = fixture.lith(&["dump", "t", "--json"]).json_lines();
    let keys: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
    assert_eq!(keys.len(), 11, "{keys:?}");
    assert!(fixture.lith(&["dump", "t", "--segment", "99"]).failed().contains("segment 99"));
    assert!(fixture.lith(&["dump", "nothing"]).failed().contains("nothing"));
}

#[test]
fn dump_continues_after_damage() {
    let fixture = two_segments();
    flip(&file(&fixture, "1.keys"), 400);
    let text = fixture.lith(&["dump", "t", "--segment", "1"]).ok();
    assert!(text.contains("DAMAGE") && text.contains("\"j\""), "{text}");
}

#[test]
fn repair_of_a_sound_database_does_nothing() {
    let fixture = two_segments();
    assert_eq!(fixture.lith(&["repair"]).ok(), "nothing to repair\n");
    let output = fixture.lith(&["repair", "--accept-loss", "--json"]).json();
    assert_eq!(output, json!({ "needed": false, "applied": false }));
}

#[test]
fn repair_shows_loss_and_needs_accept_loss() {
    let fixture = two_segments();
    let keys = file(&fixture, "1.keys");
    flip(&keys, 400);
    let before = read(&keys);
    assert!(fixture.lith(&["get", "t", "k"]).failed().contains("1.keys"));
    let run = fixture.lith(&["repair"]);
    assert!(run.failed().contains("--accept-loss"), "{run:?}");
    assert!(run.text().contains("segment 1"), "{run:?}");
    let run = fixture.lith(&["repair", "--json"]);
    run.failed();
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&output["needed"], &output["applied"]), (&json!(true), &json!(false)));
    // Nothing was changed.
    assert!(read(&keys) == before);
    let output = fixture.lith(&["repair", "--accept-loss", "--json"]).json();
    assert_eq!((&output["needed"], &output["applied"]), (&json!(true), &json!(true)));
    fixture.lith(&["verify"]).ok();
    assert_eq!(fixture.lith(&["get", "t", "k"]).ok(), "in the newest segment");
    let left = fixture.lith(&["scan", "t"]).ok().lines().count();
    assert!((8..11).contains(&left), "{left}");
    // The database is writable again.
    fixture.lith_with(&["put", "t", "l"], b"v").ok();
}

#[test]
fn lossless_repair_is_applied_without_consent() {
    let fixture = two_segments();
    let metadata = file(&fixture, "1.metadata");
    OsFs.remove_file(&metadata).unwrap();
    assert!(fixture.lith(&["info"]).failed().contains("1.metadata"));
    assert!(fixture.lith(&["verify"]).failed_with("see lith repair").contains("1.metadata"));
    let shown = fixture.lith(&["repair", "--dry-run"]).ok();
    assert!(shown.contains("the repair is lossless") && shown.contains("nothing was changed"));
    assert!(OsFs.metadata(&metadata).is_err());
    let output = fixture.lith(&["repair", "--json"]).json();
    assert_eq!((&output["applied"], &output["left"]), (&json!(true), &json!([])));
    assert_eq!(output["report"]["tables"][0]["lost_keys"], 0);
    fixture.lith(&["verify"]).ok();
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 11);
    assert_eq!(fixture.lith(&["repair"]).ok(), "nothing to repair\n");
}

#[test]
fn repair_without_consent_applies_only_lossless_tables() {
    let fixture = two_segments();
    put_into(&fixture, &["z"]);
    flip(&file(&fixture, "1.keys"), 400);
    OsFs.remove_file(&fixture.db().join("z/segments/1.metadata")).unwrap();
    let run = fixture.lith(&["repair", "--json"]);
    assert!(run.failed().contains("not repaired without --accept-loss: t"), "{run:?}");
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&output["applied"], &output["left"]), (&json!(true), &json!(["t"])));
    assert_eq!(output["report"]["tables"][0]["table"], "z");
    fixture.lith(&["verify", "z"]).ok();
    fixture.lith(&["verify", "t"]).failed();
    fixture.lith(&["repair", "--accept-loss"]).ok();
    fixture.lith(&["verify"]).ok();
}

#[test]
fn repair_of_a_lost_state_reports_its_actions() {
    let fixture = two_segments();
    OsFs.remove_file(&fixture.db().join("t/table.state")).unwrap();
    for args in [&["info"][..], &["verify"], &["get", "t", "a"]] {
        assert!(fixture.lith(args).failed().contains("lith repair"), "{args:?}");
    }
    let run = fixture.lith(&["repair"]);
    assert!(run.failed().contains("not repaired without --accept-loss: t"), "{run:?}");
    assert!(run.words().contains("the TTL is lost"), "{run:?}");
    assert!(run.words().contains("are not counted"), "{run:?}");
    let words = fixture.lith(&["repair", "--accept-loss"]).words();
    assert!(words.contains("table t: table.state and 0 segments repaired"), "{words}");
    assert!(!words.contains("nothing to repair"), "{words}");
    fixture.lith(&["verify"]).ok();
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 11);
}

#[test]
fn commands_agree_on_a_lost_table_directory() {
    let fixture = Fixture::new();
    let roots = [fixture.path("r0"), fixture.path("r1")];
    let on = |args: &[&str]| {
        let mut command = support::lith();
        command.args(args).arg("--db").arg(&roots[0]).arg("--db").arg(&roots[1]);
        support::run(command, b"")
    };
    for (n, lost) in [(0, "t"), (1, "t"), (0, "t/segments"), (1, "t/segments")] {
        for root in &roots {
            std::process::Command::new("rm").arg("-rf").arg(root).status().unwrap();
        }
        let db =
            lithdb::Db::open_with(lithdb::DbOptions::new(&roots), support::without_maintenance())
                .unwrap();
        for name in ["t", "u"] {
            let table = db.table(name, Default::default()).unwrap();
            for key in 0..20u8 {
                table.put([key], [key; 3_000]).unwrap();
            }
            table.seal().unwrap();
            table.put(b"last", [9; 3_000]).unwrap();
        }
        db.close().unwrap();
        let gone = roots[n].join(lost);
        std::process::Command::new("rm").arg("-rf").arg(&gone).status().unwrap();
        let error = on(&["info"]).failed();
        assert!(error.contains("table t"), "{error}");
        let run = on(&["verify"]);
        run.failed();
        let words = run.words();
        assert!(words.contains("this directory is missing"), "{words}");
        assert!(words.contains("table u: ok"), "{words}");
        let run = on(&["repair"]);
        assert!(run.failed().contains("not repaired without --accept-loss: t"), "{run:?}");
        assert!(run.words().contains("is missing and is created again"), "{run:?}");
        on(&["repair", "--accept-loss"]).ok();
        on(&["verify"]).ok();
        assert_eq!(on(&["repair"]).ok(), "nothing to repair\n");
        assert_eq!(on(&["get", "u", "last"]).output.stdout, [9; 3_000]);
    }
}

/// Makes a table uncheckable: its segments cannot be listed.
fn hide_segments(fixture: &Fixture, table: &str) {
    let segments = fixture.db().join(table).join("segments");
    OsFs.rename(&segments, &fixture.path("segments-kept")).unwrap();
    OsFs.create_new(&segments).unwrap();
}

fn put_into(fixture: &Fixture, tables: &[&str]) {
    fixture.prepare(|db| {
        for name in tables {
            let table = db.table(name, Default::default()).unwrap();
            table.put(b"key", [7; 3_000]).unwrap();
            table.seal().unwrap();
        }
    });
}

#[test]
fn verify_reports_each_table_independently() {
    let fixture = two_segments();
    put_into(&fixture, &["a", "z"]);
    hide_segments(&fixture, "a");
    flip(&file(&fixture, "1.keys"), 400);
    let run = fixture.lith(&["verify"]);
    let error = run.failed();
    assert!(error.contains("damaged: t; see lith repair; cannot be checked: a"), "{error}");
    let text = run.text();
    for part in ["table t: DAMAGED", "table z: ok", "table z: keymap ok", "not checked: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let run = fixture.lith(&["verify", "--json"]);
    run.failed();
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    let sound = |part: &str| {
        let found = output[part].as_array().unwrap().iter();
        found.map(|t| format!("{} {}", t["table"], t["sound"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(sound("tables"), ["t false", "z true", "a false"]);
    assert_eq!(sound("keymaps"), ["z true"]);
    assert!(output["tables"][2]["error"].as_str().unwrap().contains("a/segments"), "{output}");
}

#[test]
fn repair_fixes_what_it_can_and_names_the_rest() {
    let fixture = two_segments();
    put_into(&fixture, &["a", "z"]);
    hide_segments(&fixture, "a");
    flip(&file(&fixture, "1.keys"), 400);
    let run = fixture.lith(&["repair"]);
    let error = run.failed();
    assert!(error.contains("--accept-loss: t") && error.contains("plan a repair: a"), "{error}");
    assert!(run.text().contains("segment 1") && run.text().contains("a/segments"), "{run:?}");
    let run = fixture.lith(&["repair", "--accept-loss", "--json"]);
    assert!(run.failed().contains("plan a repair: a"), "{run:?}");
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(
        (&output["applied"], &output["plan"]["refused"][0]["table"]),
        (&json!(true), &json!("a"))
    );
    fixture.lith(&["verify", "t"]).ok();
    let run = fixture.lith(&["repair", "--json"]);
    assert!(run.failed().contains("plan a repair: a"), "{run:?}");
    assert!(fixture.lith(&["repair", "nothing"]).failed().contains("table nothing"));
    assert_eq!(fixture.lith(&["repair", "t", "z"]).ok(), "nothing to repair\n");
}

/// A rollback of two tables that was killed after it was decided.
fn pending_rollback() -> Fixture {
    let fixture = Fixture::new();
    fixture.prepare(|db| {
        for name in ["t", "u"] {
            let table = db.table(name, TableOptions::new().segment_keys(3)).unwrap();
            for n in 0..10_u64 {
                table.put(n.to_be_bytes(), [7; 900]).unwrap();
            }
        }
    });
    let plan = Rollback::new([fixture.db()]).plan(max_be_u64(0, 3)).unwrap();
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        plan.execute_with(|progress| {
            assert!(progress.phase == Phase::Preparing, "stopped");
            ControlFlow::Continue(())
        })
    }));
    stopped.unwrap_err();
    fixture
}

#[test]
fn every_command_names_the_remedy_for_a_pending_rollback() {
    let fixture = pending_rollback();
    let run = fixture.lith(&["verify"]);
    let error = run.failed();
    assert!(error.contains("a rollback is pending; see lith rollback --finish"), "{error}");
    let text = run.text();
    for part in
        ["rollback.intent", "table t: truncate", "table u: truncate", "`lith rollback --finish`"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in [": ok", "DAMAGED", "damage:", "note:", "next open"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
    let run = fixture.lith(&["verify", "--json"]);
    run.failed();
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&output["sound"], &output["tables"]), (&json!(false), &json!([])));
    let pending = &output["pending_rollback"];
    assert!(pending["path"].as_str().unwrap().contains("rollback.intent"), "{output}");
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
        let run = fixture.lith(args);
        let error = run.failed();
        for part in ["rollback.intent", "of t, u", "`lith rollback --finish`"] {
            assert!(error.contains(part), "{args:?}: {error}");
        }
        assert_eq!(run.text(), "", "{args:?}");
    }
    fixture.lith(&["rollback", "--finish"]).ok();
    assert!(fixture.lith(&["verify"]).ok().contains("table u: ok"));
}

#[test]
fn command_reports_a_rollback_it_finished() {
    let fixture = pending_rollback();
    let run = fixture.lith_with(&["put", "t", "k"], b"value");
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    for part in ["finished an interrupted rollback", "table t: truncate", "table u: truncate"] {
        assert!(run.errors().contains(part), "{part}: {run:?}");
    }
    fixture.lith_with(&["put", "t", "k2"], b"value").ok();
    assert_eq!(fixture.lith(&["scan", "u", "--json"]).json_lines().len(), 4);
}

#[test]
fn dump_and_findings_print_keys_like_scan() {
    let fixture = Fixture::new();
    let keys: [&[u8]; 5] =
        [b"plain", b"0xfeed", b"a \"key\"", b"\x00\xff", "gr\u{f6}\u{df}e".as_bytes()];
    fixture.prepare(|db| {
        let table = db.table("t", Default::default()).unwrap();
        for key in keys {
            table.put(key, [7; 3_000]).unwrap();
        }
        table.seal().unwrap();
    });
    let of = |args: &[&str]| -> Vec<String> {
        let lines = fixture.lith(args).json_lines();
        lines.iter().filter_map(|l| l["key"].as_str().map(ToOwned::to_owned)).collect()
    };
    let scanned = of(&["scan", "t", "--json"]);
    assert_eq!(scanned[1], "0x307866656564");
    assert_eq!(of(&["dump", "t", "--json"]), scanned);
    // Damages the second value: verify names its key.
    flip(&file(&fixture, "1-0.values"), 64 + 4_500);
    let run = fixture.lith(&["verify", "--json"]);
    run.failed();
    let output: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!(output["tables"][0]["findings"][0]["sample_keys"], json!([scanned[1]]), "{output}");
}
