//! Whole state stores: adoption, export, import, reset.

use std::collections::BTreeMap;
use std::path::Path;

use lithdb_env::{Fs, OsFs};
use serde_json::json;

use crate::support::state::{apply_lines, lines, root};
use crate::support::{Fixture, flip, read};
use crate::{contents, fixture};

#[test]
fn flat_layout_is_adopted_and_named_until_then() {
    let (whole, flat) = (fixture(), Fixture::new());
    let working = whole.state_dir().join("working");
    let names = OsFs.list(&working).unwrap().into_iter().map(|entry| entry.name);
    let engine = names.into_iter().find(|name| name.starts_with("engine-")).unwrap();
    OsFs.create_dir(&flat.state_dir()).unwrap();
    OsFs.rename(&working.join(engine), &flat.state_dir().join("engine")).unwrap();
    let before = contents(&flat.state_dir());
    let error = apply_lines(&flat, &[], &lines(51..=51)).failed();
    assert!(error.contains("lith state adopt"), "{error}");
    assert_eq!(contents(&flat.state_dir()), before);
    let adopted = flat.state(&["adopt", "--json"]).json();
    assert_eq!((&adopted["version"], &adopted["root"]), (&json!(50), &root(50)));
    flat.state(&["verify", "--content"]).ok();
    flat.state(&["adopt"]).failed_with("nothing to adopt");
    flat.state(&["get", "bank", "k2", "--at", "49"]).failed_with("cannot be reached");
    apply_lines(&flat, &[], &lines(51..=53)).ok();
    flat.state(&["rollback", "52", "--yes"]).ok();
    assert_eq!(flat.state(&["root", "--json"]).json()["root"], root(52));
}

#[test]
fn export_is_imported_elsewhere_and_is_the_same_again() {
    let fixture = fixture();
    let file = fixture.path("export");
    let file = file.to_str().unwrap();
    let text = fixture.state(&["export", file]).ok();
    assert!(text.starts_with("exported 18 rows, "), "{text}");
    let newest = format!("\n  version 50\n  root {}\n", root(50).as_str().unwrap());
    assert!(text.ends_with(&newest), "{text}");
    // An existing file is not replaced.
    let before = read(Path::new(file));
    fixture.state(&["export", file, "--at", "30"]).failed_with("the file exists");
    assert_eq!(read(Path::new(file)), before);
    let run = fixture.state(&["export", "-"]);
    assert_eq!((run.output.status.code(), &run.output.stdout), (Some(0), &before));
    fixture.state(&["export", "-", "--json"]).usage();
    fixture.state(&["export", "/nowhere/export"]).failed_with("/nowhere/export");
    let absent = fixture.path("absent");
    fixture.state(&["export", absent.to_str().unwrap(), "--at", "51"]).failed();
    assert!(OsFs.metadata(&absent).is_err(), "nothing is created");

    let other = Fixture::new();
    let wrong = root(49);
    let args = ["import", file, "--expect-root", wrong.as_str().unwrap()];
    other.state(&args).failed_with("expected root");
    assert!(OsFs.metadata(&other.state_dir()).is_err(), "nothing is created");
    let right = root(50);
    let args = ["import", file, "--expect-root", right.as_str().unwrap()];
    let text = other.state(&args).ok();
    assert!(text.starts_with("imported 18 rows, ") && text.ends_with(&newest), "{text}");
    other.state(&["import", file]).failed_with("there is a state store");
    assert!(other.state(&["verify", "--content", "--json"]).json()["sound"].as_bool().unwrap());
    let again = other.path("again");
    let report = other.state(&["export", again.to_str().unwrap(), "--json"]).json();
    assert_eq!((&report["version"], &report["root"]), (&json!(50), &root(50)));
    assert_eq!(report["export_bytes"], before.len());
    assert_eq!(read(&again), before);
    apply_lines(&other, &[], &lines(51..=55)).ok();
    assert_eq!(other.state(&["root", "--json"]).json()["root"], root(55));
    // An older version, through a pipe.
    let third = Fixture::new();
    let older = fixture.state(&["export", "-", "--at", "30"]).output.stdout;
    let report = third.state_with(&["import", "-", "--json"], &older).json();
    assert_eq!((&report["version"], &report["root"]), (&json!(30), &root(30)));
}

#[test]
fn damaged_export_makes_no_state_store_and_reset_makes_room() {
    let fixture = fixture();
    let file = fixture.path("export");
    let typed = file.to_str().unwrap();
    fixture.state(&["export", typed]).ok();
    let sound = read(&file);
    flip(&file, sound.len() as u64 / 2);
    let other = Fixture::new();
    let error = other.state(&["import", typed]).failed();
    assert!(error.contains("corrupt: the export at offset 56: expected frame 0"), "{error}");
    for args in [&["info"][..], &["root"], &["apply", "-"], &["rollback", "3", "--yes"]] {
        other.state(args).failed_with("import again, or reset the state store");
    }
    flip(&file, sound.len() as u64 / 2);
    let run = other.state(&["reset", "--yes"]);
    assert!(run.ok().starts_with("removed state store "), "{run:?}");
    other.state(&["reset", "--yes"]).failed_with("there is no state store");
    other.state(&["import", typed]).ok();
    // It asks.
    let before = contents(&other.state_dir());
    other.state(&["reset", "--json"]).usage();
    for answer in ["no\n", "", "maybe\n"] {
        let run = other.state_with(&["reset"], answer.as_bytes());
        assert_eq!(run.output.status.code(), Some(1), "{run:?}");
        let errors = run.errors();
        let root = root(50);
        assert!(errors.contains(&format!("version 50, root {}", root.as_str().unwrap())));
        assert!(errors.contains("remove the state store? [y/N]"), "{errors}");
    }
    assert_eq!(contents(&other.state_dir()), before);
    let run = other.state_with(&["reset"], b"y\n");
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    assert_eq!(contents(&other.state_dir()), BTreeMap::new());
    apply_lines(&other, &["--create"], &lines(1..=3)).ok();
    let report = other.state(&["reset", "--yes", "--json"]).json();
    assert_eq!(report["removed"], json!(["wal", "working"]));
    assert_eq!(report["is_log_elsewhere"], false);
}
