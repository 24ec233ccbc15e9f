//! `lith repair` of roots: an id that is lost, and a root that is gone for good.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::path::Path;

use lithdb::DbOptions;
use lithdb::env::{Fs, OsFs};
use serde_json::json;
use support::{Bench, Run, alone, lith, run};

/// A database of two roots, `a` and `b`, with a table that has values on both.
fn two_roots() -> Bench {
    let bench = Bench::new();
    let options = DbOptions::new([bench.path("a"), bench.path("b")]);
    let db = lithdb::Db::open_with(options, alone()).unwrap();
    let table = db.table("t", Default::default()).unwrap();
    for key in 0..4_u8 {
        table.put(&[b'0' + key], &[key; 5_000]).unwrap();
    }
    db.close().unwrap();
    bench
}

fn at(bench: &Bench, args: &[&str], roots: &[&str], lost: &[&str]) -> Run {
    let mut command = lith();
    command.args(args);
    for (option, names) in [("--db", roots), ("--lost-root", lost)] {
        for name in names {
            command.arg(option).arg(bench.path(name));
        }
    }
    run(command, b"value")
}

fn remove(path: &Path) {
    OsFs.remove_file(path).unwrap();
}

#[test]
fn lost_root_id_is_one_account_in_every_command() {
    let bench = two_roots();
    remove(&bench.path("b/root.id"));
    let said = at(&bench, &["info"], &["a", "b"], &[]).failed();
    assert!(said.contains("b holds tables, but its root.id is lost"), "{said}");
    assert!(said.contains("`lith repair`"), "{said}");
    for args in [&["verify"][..], &["ls"], &["get", "t", "0"], &["put", "t", "k"], &["gc"]] {
        assert_eq!(at(&bench, args, &["b", "a"], &[]).failed(), said, "{args:?}");
    }
    let run = at(&bench, &["repair", "t"], &["a", "b"], &[]);
    assert!(run.failed().contains("name none"), "{run:?}");
    let told = at(&bench, &["repair", "--dry-run"], &["a", "b"], &[]).ok();
    assert!(told.contains("its root.id is lost, and written anew"), "{told}");
    assert!(told.contains("nothing was changed"), "{told}");
    let told = at(&bench, &["repair", "--json"], &["a", "b"], &[]).json();
    assert_eq!((&told["applied"], &told["left"]), (&json!(true), &json!([])));
    assert_eq!(told["plan"]["roots"]["is_lossless"], true);
    assert_eq!(told["report"]["roots"][0]["number"], 1);
    at(&bench, &["verify"], &["a", "b"], &[]).ok();
    assert_eq!(at(&bench, &["repair"], &["a", "b"], &[]).ok(), "nothing to repair\n");
}

#[test]
fn root_gone_for_good_is_replaced_when_its_loss_is_accepted() {
    let bench = two_roots();
    for name in ["b/t/segments/1-0.values", "b/root.id", "b/lith.lock"] {
        remove(&bench.path(name));
    }
    for name in ["b/t/segments", "b/t", "b"] {
        OsFs.remove_dir(&bench.path(name)).unwrap();
    }
    let said = at(&bench, &["verify"], &["a", "b"], &[]).failed();
    assert!(said.contains("b does not exist") && said.contains("--lost-root"), "{said}");
    // Nobody has said that it is not only not mounted.
    assert_eq!(at(&bench, &["repair", "--accept-loss"], &["a", "b"], &[]).failed(), said);
    let run = at(&bench, &["repair"], &["a"], &["b"]);
    let left = run.failed();
    assert!(left.contains("not repaired: ") && left.contains("/b, t; --accept-loss"), "{left}");
    assert!(run.words().contains("table t: a repair gives up 2 keys"), "{run:?}");
    assert!(OsFs.metadata(&bench.path("b")).is_err(), "nothing was created");
    let told = at(&bench, &["repair", "--accept-loss", "--json"], &["a"], &["b"]).json();
    assert_eq!(told["plan"]["roots"]["lost"][0]["loss"], "gone");
    assert_eq!(told["report"]["tables"][0]["lost_keys"], 2);
    at(&bench, &["verify"], &["a", "b"], &[]).ok();
    assert_eq!(at(&bench, &["scan", "t", "--json"], &["a", "b"], &[]).json_lines().len(), 2);
    at(&bench, &["put", "t", "k"], &["a", "b"], &[]).ok();
}
