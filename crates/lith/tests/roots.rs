//! `lith repair` of roots: a lost `root.id`, and a root that is lost for good.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::path::Path;

use lithdb::DbOptions;
use lithdb_env::{Fs, OsFs};
use serde_json::json;
use support::{Fixture, Run, lith, run, without_maintenance};

/// A database with two roots, `a` and `b`, and a table with values on both.
fn two_roots() -> Fixture {
    let fixture = Fixture::new();
    let options = DbOptions::new([fixture.path("a"), fixture.path("b")]);
    let db = lithdb::Db::open_with(options, without_maintenance()).unwrap();
    let table = db.table("t", Default::default()).unwrap();
    for key in 0..4_u8 {
        table.put([b'0' + key], [key; 5_000]).unwrap();
    }
    db.close().unwrap();
    fixture
}

fn at(fixture: &Fixture, args: &[&str], roots: &[&str], lost: &[&str]) -> Run {
    let mut command = lith();
    command.args(args);
    for (option, names) in [("--db", roots), ("--lost-root", lost)] {
        for name in names {
            command.arg(option).arg(fixture.path(name));
        }
    }
    run(command, b"value")
}

fn remove(path: &Path) {
    OsFs.remove_file(path).unwrap();
}

#[test]
fn commands_agree_on_a_lost_root_id() {
    let fixture = two_roots();
    remove(&fixture.path("b/root.id"));
    let error = at(&fixture, &["info"], &["a", "b"], &[]).failed();
    assert!(error.contains("b holds tables, but its root.id is lost"), "{error}");
    assert!(error.contains("`lith repair`"), "{error}");
    for args in [&["verify"][..], &["ls"], &["get", "t", "0"], &["put", "t", "k"], &["gc"]] {
        assert_eq!(at(&fixture, args, &["b", "a"], &[]).failed(), error, "{args:?}");
    }
    let run = at(&fixture, &["repair", "t"], &["a", "b"], &[]);
    assert!(run.failed().contains("without naming any"), "{run:?}");
    let output = at(&fixture, &["repair", "--dry-run"], &["a", "b"], &[]).ok();
    assert!(output.contains("its root.id is lost; a new one is written"), "{output}");
    assert!(output.contains("nothing was changed"), "{output}");
    let output = at(&fixture, &["repair", "--json"], &["a", "b"], &[]).json();
    assert_eq!((&output["applied"], &output["left"]), (&json!(true), &json!([])));
    assert_eq!(output["plan"]["roots"]["is_lossless"], true);
    assert_eq!(output["report"]["roots"][0]["number"], 1);
    at(&fixture, &["verify"], &["a", "b"], &[]).ok();
    assert_eq!(at(&fixture, &["repair"], &["a", "b"], &[]).ok(), "nothing to repair\n");
}

#[test]
fn lost_root_is_replaced_after_accept_loss() {
    let fixture = two_roots();
    for name in ["b/t/segments/1-0.values", "b/root.id", "b/lith.lock"] {
        remove(&fixture.path(name));
    }
    for name in ["b/t/segments", "b/t", "b"] {
        OsFs.remove_dir(&fixture.path(name)).unwrap();
    }
    let error = at(&fixture, &["verify"], &["a", "b"], &[]).failed();
    assert!(error.contains("b does not exist") && error.contains("--lost-root"), "{error}");
    // Without --lost-root the root may just not be mounted.
    assert_eq!(at(&fixture, &["repair", "--accept-loss"], &["a", "b"], &[]).failed(), error);
    let run = at(&fixture, &["repair"], &["a"], &["b"]);
    let left = run.failed();
    assert!(left.contains("without --accept-loss: ") && left.contains("/b, t"), "{left}");
    assert!(run.words().contains("table t: the repair loses 2 keys"), "{run:?}");
    assert!(OsFs.metadata(&fixture.path("b")).is_err(), "nothing was created");
    let output = at(&fixture, &["repair", "--accept-loss", "--json"], &["a"], &["b"]).json();
    assert_eq!(output["plan"]["roots"]["lost"][0]["loss"], "gone");
    assert_eq!(output["report"]["tables"][0]["lost_keys"], 2);
    at(&fixture, &["verify"], &["a", "b"], &[]).ok();
    assert_eq!(at(&fixture, &["scan", "t", "--json"], &["a", "b"], &[]).json_lines().len(), 2);
    at(&fixture, &["put", "t", "k"], &["a", "b"], &[]).ok();
}
