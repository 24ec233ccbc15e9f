//! `lith state`: every command on a real directory, beside an open writer, and where it refuses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lithdb_env::{FileKind, Fs, OsFs};
use lithdb_state::{ChangeSet, StateDb, StateOptions};
use serde_json::{Value as Json, json};
use support::state::{apply_lines, changes, commit, lines, open, root};
use support::{Fixture, Run, bare, flip, read};

/// Versions up to 50, with snapshots of 25 and 40.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let db = open(&fixture);
    for version in 1..=50 {
        commit(&db, version);
        if version == 25 || version == 40 {
            db.snapshot().unwrap().wait().unwrap();
        }
    }
    db.close().unwrap();
    fixture
}

/// Every file below a directory with its content, but for the lock file, which has the process id.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in OsFs.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        match entry.kind {
            FileKind::Dir => found.extend(contents(&path)),
            _ if entry.name.ends_with(".lock") => {}
            _ => drop(found.insert(path.display().to_string(), read(&path))),
        }
    }
    found
}

#[test]
fn apply_creates_only_on_request_and_appends() {
    let fixture = Fixture::new();
    let input = lines(1..=20);
    let error = apply_lines(&fixture, &[], &input).failed();
    assert!(error.contains("there is no state store"), "{error}");
    assert!(OsFs.metadata(&fixture.state_dir()).is_err(), "nothing is created");
    let output = apply_lines(&fixture, &["--create", "--json"], &input).json();
    assert_eq!((&output["versions"], &output["version"]), (&json!(20), &json!(20)));
    assert_eq!(output["changes"], changes(1..=20));
    assert_eq!(output["root"], root(20));
    let file = fixture.write("versions", lines(21..=30).as_bytes());
    let text = fixture.state(&["apply", file.to_str().unwrap()]).ok();
    assert!(text.starts_with("10 versions, 24 changes in "), "{text}");
    let newest = format!("\n  version 30\n  root {}\n", root(30).as_str().unwrap());
    assert!(text.ends_with(&newest), "{text}");
    // Nothing to apply is no failure.
    let text = apply_lines(&fixture, &[], "\n\n").ok();
    assert!(text.starts_with("0 versions, 0 changes"), "{text}");
}

#[test]
fn new_store_begins_with_the_first_version_of_the_file() {
    let fixture = Fixture::new();
    let input = "{\"version\":700}\n{\"version\":\"701\",\"store\":\"a\",\"put\":{\"k\":\"0x00\"}}";
    apply_lines(&fixture, &["--create"], input).ok();
    let info = fixture.state(&["info", "--json"]).json();
    assert_eq!((&info["initial_version"], &info["version"]), (&json!(700), &json!(701)));
    assert_eq!(fixture.state(&["get", "a", "k"]).text(), "\0");
    let other = Fixture::new();
    let error = apply_lines(&other, &["--create"], "{\"version\":0}").failed();
    assert!(error.contains("line 1: version 0; expected at least 1"), "{error}");
}

#[test]
fn refused_line_ends_apply_and_keeps_the_versions_before_it() {
    let fixture = Fixture::new();
    let input = lines(1..=3) + "{\"version\":4,\"store\":\"bank\",\"put\":{\"k0\":\"x\"}}\n{oops\n";
    let run = apply_lines(&fixture, &["--create"], &input);
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    let errors = run.errors();
    let [note, error] = errors.lines().collect::<Vec<_>>()[..] else { panic!("{errors}") };
    assert_eq!(note, "lith: 3 versions committed before this error; newest: 3");
    assert!(error.starts_with("lith: standard input, line 5: column 2: "), "{error}");
    assert_eq!(fixture.state(&["root"]).ok(), format!("3 {}\n", root(3).as_str().unwrap()));
    let error = apply_lines(&fixture, &[], &lines(6..=6)).failed();
    assert!(error.contains("line 1: version 6: expected 4, the version after 3"), "{error}");
    assert!(error.starts_with("lith: invalid argument: standard input"), "{error}");
    let error = apply_lines(&fixture, &[], "{\"version\":0}\n").failed();
    assert!(error.contains("line 1: version 0; expected at least 1"), "{error}");
    let error = apply_lines(&fixture, &["--json"], &lines(9..=9)).failed_in_json(1);
    assert_eq!(error["kind"], "invalid argument");
}

#[test]
fn versions_are_durable_while_apply_waits_for_input() {
    use std::io::Write;
    use std::process::Stdio;

    let fixture = Fixture::new();
    let mut command = support::lith();
    command.args(["state", "apply", "--create", "-", "--dir"]).arg(fixture.state_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The line of version 31 ends version 30.
    input.write_all((lines(1..=30) + "{\"version\":31}\n").as_bytes()).unwrap();
    // An error while the store is being created says nothing yet.
    while !matches!(StateDb::latest_version(fixture.state_dir()), Ok(Some(30))) {
        assert!(child.try_wait().unwrap().is_none(), "apply ended before its input");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let db = open(&fixture);
    assert_eq!((db.version(), db.opened().replayed), (30, 30));
    assert_eq!(json!(db.root()), root(30));
}

#[test]
fn get_returns_the_value_of_any_version() {
    let fixture = fixture();
    assert_eq!(fixture.state(&["get", "bank", "k3"]).ok(), "45");
    for (version, value) in [("44", "38"), ("40", "38"), ("25", "24"), ("3", "3")] {
        assert_eq!(fixture.state(&["get", "bank", "k3", "--at", version]).ok(), value);
    }
    assert_eq!(fixture.state(&["get", "bank", "note"]).ok(), "");
    let hex = fixture.state(&["get", "log", "0x0000000000000032", "--json"]).json();
    let expected = json!({ "store": "log", "key": "0x0000000000000032", "version": 50,
        "modified_at": 50, "bytes": 2, "value": "0xff00" });
    assert_eq!(hex, expected);
    let error = fixture.state(&["get", "bank", "nobody"]).no_such_key();
    assert!(error.contains("not found: key nobody in store bank in version 50"), "{error}");
    let error = fixture.state(&["get", "bank", "k3", "--at", "2"]).no_such_key();
    assert!(error.contains("in version 2"), "{error}");
    let error = fixture.state(&["get", "bonk", "k3", "--json"]).failed_in_json(1);
    assert_eq!(error["kind"], "missing");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("no such store: bonk") && message.contains("bank, log"), "{message}");
    let error = fixture.state(&["get", "bank", "k3", "--at", "51"]).failed();
    let why = "version 51 cannot be reached: from version 40 it needs the log's versions 41..=51; \
               the log has 0..=50";
    assert!(error.contains(why), "{error}");
}

#[test]
fn scan_lists_any_range_in_both_directions() {
    let fixture = fixture();
    let keys = |args: &[&str]| -> Vec<String> {
        let lines = fixture.state(&[&["scan", "bank", "--json"], args].concat()).json_lines();
        lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "note"];
    assert_eq!(keys(&[]), all);
    assert_eq!(keys(&["--rev", "--limit", "2"]), ["note", "k6"]);
    assert_eq!(keys(&["--prefix", "k", "--limit", "3"]), all[..3]);
    assert_eq!(keys(&["--prefix", "k", "--from", "k4"]), all[4..7]);
    assert_eq!(keys(&["--prefix", "k", "--from", "k35"]), all[4..7]);
    assert_eq!(keys(&["--prefix", "k", "--from", "k1", "--rev"]), ["k1", "k0"]);
    assert_eq!(keys(&["--prefix", "k", "--from", "a"]), all[..7]);
    assert_eq!(keys(&["--prefix", "k", "--from", "z"]), [""; 0]);
    assert_eq!(keys(&["--prefix", "k", "--from", "a", "--rev"]), [""; 0]);
    assert_eq!(keys(&["--prefix", "k", "--from", "z", "--rev", "--limit", "1"]), ["k6"]);
    assert_eq!(keys(&["--from", "k6"]), ["k6", "note"]);
    assert_eq!(keys(&["--limit", "0"]), [""; 0]);
    assert_eq!(keys(&["--at", "2"]), ["k1", "k2", "note"]);
    let text = fixture.state(&["scan", "bank", "--from", "k6", "--values"]).ok();
    assert_eq!(text, "          48        2 B  k6 = 48\n          50        0 B  note = \n");
    let row = &fixture.state(&["scan", "log", "--rev", "--values", "--json"]).json_lines()[0];
    let expected = json!({ "key": "0x0000000000000032", "modified_at": 50, "bytes": 2,
        "value": "0xff00" });
    assert_eq!(*row, expected);
    fixture.state(&["scan", "nowhere"]).failed_with("no such store: nowhere");
}

/// What `scan --values --json` prints can be applied to another store.
#[test]
fn scanned_rows_can_be_applied_elsewhere() {
    let (fixture, copy) = (fixture(), Fixture::new());
    let mut input = String::new();
    for store in ["bank", "log"] {
        for row in fixture.state(&["scan", store, "--values", "--json"]).json_lines() {
            let put = json!({ row["key"].as_str().unwrap(): row["value"] });
            input += &format!("{}\n", json!({ "version": 1, "store": store, "put": put }));
        }
    }
    let output = apply_lines(&copy, &["--create", "--json"], &input).json();
    assert_eq!(output["root"], root(50), "the same rows have the same root");
}

#[test]
fn info_describes_the_whole_store() {
    let fixture = fixture();
    let info = fixture.state(&["info", "--json"]).json();
    assert_eq!((&info["version"], &info["oldest_version"]), (&json!(50), &json!(0)));
    assert_eq!(info["root"], root(50));
    let reach = json!({ "target": 50, "base": { "snapshot": { "version": 40 } }, "replays": 10 });
    assert_eq!(info["reach"], reach);
    assert!(info["engine"]["name"].is_string() && info["store"].as_str().unwrap().len() == 32);
    assert_eq!(info["dir"], fixture.state_dir().display().to_string());
    let stores = info["stores"].as_array().unwrap();
    let shown: Vec<_> = stores.iter().map(|s| (&s["name"], &s["keys"], &s["bytes"])).collect();
    let expected = [(json!("bank"), json!(8), json!(32)), (json!("log"), json!(10), json!(100))];
    assert_eq!(shown, expected.each_ref().map(|(name, keys, bytes)| (name, keys, bytes)));
    assert_ne!(stores[0]["hash"], stores[1]["hash"]);
    let snapshots = fixture.state(&["snapshots", "--json"]).json();
    assert_eq!(snapshots["snapshots"], info["snapshots"]);
    assert_eq!(snapshots["abandoned"], json!([]));
    for (n, version) in [25, 40].into_iter().enumerate() {
        let snapshot = &info["snapshots"][n];
        assert_eq!((&snapshot["version"], &snapshot["class"]), (&json!(version), &json!("valid")));
        assert_eq!(snapshot["root"], root(version));
        assert!(snapshot["bytes"].as_u64() >= snapshot["shared_bytes"].as_u64(), "{snapshot}");
    }
    let text = fixture.state(&["info"]).ok();
    for part in [
        "  version     50\n",
        "  log         versions 0 to 50\n",
        "  recovery    10 versions replayed from snapshot 40 if the working copy is lost\n",
        "store bank\n  rows        8 keys, 32 B of keys and values\n",
        "2 snapshots\n          25  valid ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(fixture.state(&["snapshots"]).ok().lines().count(), 2);
}

#[test]
fn read_commands_work_beside_a_writer_and_the_others_are_refused() {
    let fixture = fixture();
    let db = open(&fixture);
    commit(&db, 51);
    let commands: [&[&str]; 10] = [
        &["info"],
        &["get", "bank", "k2"],
        &["scan", "bank"],
        &["snapshots"],
        &["root"],
        &["verify"],
        &["verify", "--files"],
        &["verify", "--content"],
        &["prune", "--keep", "0", "--dry-run"],
        &["diff", "49", "51"],
    ];
    for args in commands {
        fixture.state(args).ok();
        fixture.state(&[args, &["--json"]].concat()).ok();
    }
    assert_eq!(fixture.state(&["root"]).ok(), format!("51 {}\n", db.root()));
    commit(&db, 52);
    assert_eq!(fixture.state(&["get", "bank", "k3"]).ok(), "52");
    for args in [
        &["apply", "-"][..],
        &["snapshot"],
        &["prune", "--keep", "0"],
        &["prune", "--abandoned"],
        &["rollback", "30", "--yes"],
        &["rollback", "30", "--dry-run"],
        &["reset", "--yes"],
    ] {
        let error = fixture.state(args).failed();
        assert!(error.contains("locked") && error.contains("close it"), "{args:?}: {error}");
    }
    commit(&db, 53);
    assert_eq!(json!(db.root()), root(53));
    db.close().unwrap();
}

#[test]
fn snapshot_is_taken_and_others_are_pruned() {
    let fixture = fixture();
    let taken = fixture.state(&["snapshot", "--json"]).json();
    assert_eq!((&taken["version"], &taken["root"]), (&json!(50), &root(50)));
    assert!(taken["path"].as_str().unwrap().ends_with("snapshots/00000000000000000050"));
    let text = fixture.state(&["snapshot"]).ok();
    assert!(text.starts_with("snapshot of version 50 in "), "{text}");
    let versions = || -> Vec<u64> {
        let found = fixture.state(&["snapshots", "--json"]).json();
        let found = found["snapshots"].as_array().unwrap().iter();
        found.map(|snapshot| snapshot["version"].as_u64().unwrap()).collect()
    };
    // No retention but what was asked for.
    assert_eq!(versions(), [25, 40, 50]);
    let plan = fixture.state(&["prune", "--keep", "1", "--dry-run", "--json"]).json();
    let expected = json!({ "executed": false, "removed": [25], "kept": [], "floor": 40 });
    assert_eq!(plan, expected);
    let text = fixture.state(&["prune", "--below", "26", "--dry-run"]).ok();
    assert!(text.contains("would remove 1 snapshot\n          25  valid "), "{text}");
    assert!(text.ends_with("versions from 40 on\nnothing was changed\n"), "{text}");
    assert_eq!(versions(), [25, 40, 50]);
    let done = fixture.state(&["prune", "--below", "26", "--json"]).json();
    let expected = json!({ "executed": true, "removed": [25], "kept": [], "floor": 40 });
    assert_eq!(done, expected);
    let text = fixture.state(&["prune", "--keep", "0"]).ok();
    assert_eq!(text, "removed 1 snapshot: 40\nthe log keeps the versions from 50 on\n");
    // The newest is never removed.
    let text = fixture.state(&["prune", "--below", "1000"]).ok();
    assert!(text.starts_with("removed 0 snapshots\n"), "{text}");
    assert_eq!(versions(), [50]);
    fixture.state(&["verify", "--content"]).ok();
}

#[test]
fn rollback_shows_its_plan_asks_and_goes_on() {
    let fixture = fixture();
    let plan = "roll back to   version 30, from 50\n  \
                log          20 versions removed: 31 to 50\n  \
                snapshots    1 removed: 40\n  \
                replays      5 versions, from the snapshot of version 25\n";
    let before = contents(&fixture.state_dir());
    let text = fixture.state(&["rollback", "30", "--dry-run"]).ok();
    assert_eq!(text, format!("{plan}nothing was changed\n"));
    for answer in ["no\n", "\n", "", "maybe\n"] {
        let run = fixture.state_with(&["rollback", "30"], answer.as_bytes());
        assert_eq!(run.failed_with("nothing was changed"), plan);
    }
    assert_eq!(contents(&fixture.state_dir()), before);
    let run = fixture.state_with(&["rollback", "30"], b"yes\n");
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    let text = run.text();
    assert!(text.contains(": 5 versions replayed from version 25\n  version 30\n"), "{text}");
    assert_eq!(fixture.state(&["root"]).ok(), format!("30 {}\n", root(30).as_str().unwrap()));
    let verified = fixture.state(&["verify", "--content", "--json"]).json();
    assert_eq!((&verified["sound"], &verified["snapshots"]), (&json!(true), &json!(1)));
    // Nothing of the old branch is left: its versions can be committed again.
    apply_lines(&fixture, &[], "{\"version\":31,\"store\":\"bank\",\"delete\":[\"k3\"]}").ok();
    fixture.state(&["get", "bank", "k3"]).no_such_key();
    let text = fixture.state(&["rollback", "31"]).ok();
    assert!(text.ends_with("\nnothing to roll back\n"), "{text}");
    let done = fixture.state(&["rollback", "3", "--yes", "--json"]).json();
    assert_eq!((&done["executed"], &done["plan"]["versions_removed"]), (&json!(true), &json!(28)));
    assert_eq!(done["plan"]["reach"]["base"], json!({ "empty": { "version": 0 } }));
    assert_eq!(done["plan"]["snapshots_removed"][0]["version"], 25);
    assert_eq!(done["report"]["snapshots_removed"], json!([25]));
    assert_eq!((&done["report"]["version"], &done["report"]["root"]), (&json!(3), &root(3)));
    apply_lines(&fixture, &[], &lines(4..=20)).ok();
    assert_eq!(fixture.state(&["root", "--json"]).json()["root"], root(20));
}

#[test]
fn unreachable_version_is_refused_and_every_byte_stays() {
    let fixture = Fixture::new();
    // Small segments of the log, so that pruning lets old versions go.
    let wal = lithdb::TableOptions::new().segment_keys(5);
    let options = StateOptions::new().snapshot_interval(0).wal(wal);
    let db = StateDb::open(fixture.state_dir(), options).unwrap();
    for version in 1..=50 {
        commit(&db, version);
        if version == 40 {
            db.snapshot().unwrap().wait().unwrap();
        }
    }
    db.prune_snapshots_below(40).unwrap();
    db.close().unwrap();
    let info = fixture.state(&["info", "--json"]).json();
    let oldest = info["oldest_version"].as_u64().unwrap();
    assert!((30..=40).contains(&oldest), "{info}");
    let before = contents(&fixture.state_dir());
    for (version, base, needs) in [(51, json!(40), [41, 51]), (39, json!(null), [0, 39])] {
        for args in [&["--yes"][..], &["--dry-run"]] {
            let typed = version.to_string();
            let args = [&["rollback", &typed, "--json"], args].concat();
            let error = fixture.state(&args).failed_in_json(1);
            let expected = json!({ "target": version, "base": base, "needs": needs,
                "has": [oldest, 50], "gap": null });
            assert_eq!((&error["kind"], &error["unreachable"]), (&json!("missing"), &expected));
        }
    }
    let error = fixture.state(&["rollback", "39", "--yes"]).failed();
    let why = format!(
        "version 39 cannot be reached: there is no snapshot at or below it, so that it needs the \
         log's versions 0..=39; the log has {oldest}..=50"
    );
    assert!(error.contains(&why), "{error}");
    let error = fixture.state(&["get", "bank", "k1", "--at", "39", "--json"]).failed_in_json(1);
    assert_eq!(error["unreachable"]["target"], 39);
    let error = fixture.state(&["root", "--at", "7"]).failed();
    assert!(error.contains(&format!("version 7 is not in the log, which has {oldest}..=50")));
    assert_eq!(contents(&fixture.state_dir()), before);
    fixture.state(&["rollback", "40", "--yes"]).ok();
}

#[test]
fn damage_is_found_and_named() {
    let fixture = fixture();
    let snapshots = fixture.state_dir().join("snapshots");
    // A table of the newest snapshot that the older one does not share.
    let tables = |version: &str| contents(&snapshots.join(version).join("engine/tables"));
    let older = tables("00000000000000000025");
    let newer = tables("00000000000000000040").into_iter();
    let newer = newer.filter(|(_, bytes)| !older.values().any(|other| other == bytes));
    let (table, bytes) = newer.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let (table, middle) = (Path::new(&table), bytes.len() as u64 / 2);
    flip(table, middle);
    fixture.state(&["verify"]).ok();
    let text = fixture.state(&["verify", "--files"]).failed_with("not sound: 1 problem found");
    assert!(text.contains("\nWRONG: snapshot 40: "), "{text}");
    assert!(text.ends_with("NOT sound: 1 found\n"), "{text}");
    // The rows of the newest version begin at that snapshot.
    let text = fixture.state(&["verify", "--content"]).failed_with("not sound: 2 problems found");
    assert!(text.contains("\nWRONG: the rows of version 50: "), "{text}");
    let run = fixture.state(&["verify", "--files", "--json"]);
    run.failed();
    let found: Json = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&found["sound"], &found["level"]), (&json!(false), &json!("files")));
    assert_eq!(found["findings"].as_array().unwrap().len(), 1);
    flip(table, middle);
    flip(&snapshots.join("00000000000000000040/SNAPSHOT"), 30);
    let text = fixture.state(&["snapshots"]).ok();
    assert!(text.contains("\n          40  damaged\n              "), "{text}");
    fixture.state(&["verify"]).failed_with("not sound");
    let info = fixture.state(&["info", "--json"]).json();
    assert_eq!(info["reach"]["base"]["snapshot"]["version"], 25);
    // Opening reports it, and does not need it.
    let run = fixture.state(&["snapshot"]);
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    assert!(run.errors().starts_with("lith: snapshot 40 cannot be used: "), "{run:?}");
}

#[test]
fn snapshots_of_another_branch_are_moved_aside_and_pruned() {
    let fixture = fixture();
    // As if the log had lost its end: only LithDB's rollback, not that of the state store.
    let wal = fixture.state_dir().join("wal");
    bare(&["rollback", "--max-be-u64", "0:30", "--yes", "--db", wal.to_str().unwrap()]).ok();
    let found = fixture.state(&["snapshots", "--json"]).json();
    assert_eq!(found["snapshots"][1]["class"], "abandoned");
    let run = apply_lines(&fixture, &[], &lines(31..=31));
    assert_eq!(run.output.status.code(), Some(0), "{run:?}");
    let errors = run.errors();
    assert!(
        errors.contains("made the working copy again from version 25: its version"),
        "{errors}"
    );
    assert!(errors.contains("moved snapshot 40 of another branch to abandoned/\n"), "{errors}");
    let found = fixture.state(&["snapshots", "--json"]).json();
    assert_eq!(found["abandoned"][0]["version"], 40);
    let text = fixture.state(&["snapshots"]).ok();
    assert!(
        text.contains("          40  moved aside to abandoned/00000000000000000040-"),
        "{text}"
    );
    let text = fixture.state(&["prune", "--abandoned", "--dry-run"]).ok();
    assert_eq!(text, "would remove 1 abandoned snapshot: 40\n");
    let done = fixture.state(&["prune", "--abandoned", "--json"]).json();
    assert_eq!(done, json!({ "executed": true, "removed": [40] }));
    let text = fixture.state(&["prune", "--abandoned"]).ok();
    assert_eq!(text, "removed 0 abandoned snapshots\n");
}

#[test]
fn foreign_or_absent_directory_is_refused_and_not_changed() {
    let fixture = Fixture::new();
    let commands: [&[&str]; 10] = [
        &["info"],
        &["get", "bank", "k"],
        &["scan", "bank"],
        &["apply", "-"],
        &["snapshots"],
        &["snapshot"],
        &["prune", "--keep", "1"],
        &["rollback", "1", "--yes"],
        &["root"],
        &["verify"],
    ];
    for args in commands {
        let error = fixture.state(args).failed();
        assert!(error.contains("there is no state store"), "{args:?}: {error}");
    }
    assert_eq!(OsFs.list(fixture.dir.path()).unwrap(), []);
    fixture.write("state/notes.txt", b"mine");
    for args in commands {
        let error = fixture.state(args).failed();
        assert!(error.contains("there is no state store"), "{args:?}: {error}");
    }
    let error = apply_lines(&fixture, &["--create"], &lines(1..=1)).failed();
    assert!(error.contains("foreign") && error.contains("notes.txt"), "{error}");
    assert_eq!(OsFs.list(&fixture.state_dir()).unwrap().len(), 1);
    // A database is no state store either, and a state store no database.
    let fixture = Fixture::with(&[("k", b"v")]);
    let error = bare(&["state", "info", "--dir", fixture.db().to_str().unwrap()]).failed();
    assert!(error.contains("there is no state store"), "{error}");
    apply_lines(&fixture, &["--create"], &lines(1..=1)).ok();
    bare(&["ls", "--db", fixture.state_dir().to_str().unwrap()]).failed();
}

#[test]
fn store_with_a_log_elsewhere_is_refused() {
    use lithdb_state::{StateComponents, Wal, WalFloor};

    let fixture = Fixture::new();
    let db = fixture.open();
    let floor = WalFloor::new();
    let table = db.table_with_filter("log", Default::default(), floor.filter()).unwrap();
    let mut components = StateComponents::default();
    components.wal = Wal::Table { table, floor };
    let options = StateOptions::new();
    let state_db = StateDb::open_with(fixture.state_dir(), options, components).unwrap();
    state_db.commit_block(1, &[ChangeSet::new("a").unwrap().put("k", "v")]).unwrap();
    state_db.close().unwrap();
    db.close().unwrap();
    let before = contents(&fixture.state_dir());
    for args in [&["info"][..], &["root"], &["rollback", "0", "--yes"]] {
        let error = fixture.state(args).failed();
        assert!(error.contains("no log of its own"), "{args:?}: {error}");
    }
    for args in [&["snapshot"][..], &["prune", "--keep", "1"]] {
        let error = fixture.state(args).failed();
        assert!(error.contains("the directory wal is missing"), "{args:?}: {error}");
    }
    assert_eq!(contents(&fixture.state_dir()), before);
}

#[test]
fn invalid_arguments_are_usage_errors() {
    let dir = ["--dir", "/nowhere"];
    for (args, why) in [
        (&["state"][..], "expected a command"),
        (&["state", "info"], "expected --dir DIR"),
        (&["state", "--json", "info"], "expected --dir DIR"),
        (&["--db", "x", "state", "info", "--dir", "y"], "expected --dir DIR, found --db"),
        (&["state", "info", "--dir", "y", "--db", "x"], "--db"),
        (&["state", "--pread", "info", "--dir", "y"], "--pread"),
    ] {
        let error = bare(args).usage();
        assert!(error.contains(why), "{args:?}: {error}");
    }
    let long = "k".repeat(65_001);
    for (args, why) in [
        (&["get", "a/b", "k"][..], "found '/'"),
        (&["get", "a", ""], "found 0"),
        (&["get", "a", "0xz"], "hex"),
        (&["get", "a", &long], "1 to 65000 bytes, found 65001"),
        (&["get", "a", "k", "--at", "-1"], "-1"),
        (&["scan"], "required"),
        (&["prune"], "required"),
        (&["prune", "--keep", "1", "--below", "2"], "--below"),
        (&["rollback"], "required"),
        (&["rollback", "1", "--json"], "--yes"),
        (&["verify", "--deep"], "--deep"),
        (&["apply"], "required"),
    ] {
        let error = bare(&[&["state"], args, &dir].concat()).usage();
        assert!(error.contains(why), "{args:?}: {error}");
    }
    // The directory may be named before the command, too.
    let error = bare(&["state", "--dir", "/nowhere", "info"]).failed();
    assert!(error.contains("/nowhere"), "{error}");
}

/// The process of the command, and views in this one, read the same rows of every version.
#[test]
fn past_versions_are_the_same_in_another_process_beside_snapshots_and_pruning() {
    let fixture = Fixture::new();
    let wal = lithdb::TableOptions::new().segment_keys(4);
    let options = StateOptions::new().snapshot_interval(5).keep_snapshots(1).wal(wal);
    let db = StateDb::open(fixture.state_dir(), options.view_memory_bytes(0)).unwrap();
    let is_over = AtomicBool::new(false);
    let mut found = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1.. {
                commit(&db, version);
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::yield_now();
            }
        });
        for round in 0..24 {
            let version = db.version().saturating_sub(round % 4);
            let at = version.to_string();
            let run = fixture.state(&["scan", "bank", "--values", "--json", "--at", &at]);
            // A version may be collected, and then it is for both.
            let Ok(view) = db.view(version) else { continue };
            if run.output.status.code() != Some(0) {
                continue;
            }
            let rows = run.json_lines();
            let expected: Vec<Json> = view
                .iter("bank")
                .unwrap()
                .map(|row| {
                    let row = row.unwrap();
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    json!({ "key": text(&row.key), "modified_at": row.modified_at,
                        "bytes": row.value.len(), "value": text(&row.value) })
                })
                .collect();
            assert_eq!(rows, expected, "version {version}");
            assert_eq!(json!(view.root()), root(version));
            found += 1;
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert!(found > 0, "no version was read by both");
    db.close().unwrap();
    let names = OsFs.list(&fixture.state_dir().join("views")).unwrap();
    assert!(names.is_empty(), "{names:?}");
}

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
fn reports_and_help_of_state_fit_80_columns() {
    let fixture = fixture();
    let fits = |run: &Run| {
        let text = run.text();
        for line in text.lines() {
            // A long word, such as a path, is not wrapped.
            let words = line.split_whitespace().count();
            assert!(line.chars().count() <= 80 || words == 1, "{line}");
        }
        assert!(!text.is_empty());
    };
    flip(&fixture.state_dir().join("snapshots/00000000000000000025/SNAPSHOT"), 30);
    for args in [
        &["info"][..],
        &["snapshots"],
        &["verify"],
        &["prune", "--keep", "0", "--dry-run"],
        &["rollback", "45", "--dry-run"],
        &["rollback", "45", "--yes"],
        &["snapshot"],
        &["prune", "--keep", "0"],
        &["root"],
    ] {
        fits(&fixture.state(args));
    }
    fits(&apply_lines(&fixture, &[], &lines(46..=46)));
    fits(&bare(&["state", "--help"]));
    for command in ["info", "get", "scan", "apply", "snapshots", "snapshot", "prune", "rollback"] {
        fits(&bare(&["state", command, "--help"]));
    }
    for command in ["root", "verify", "adopt"] {
        fits(&bare(&["state", command, "--help"]));
    }
}

/// A line is applied before the next one is read: a version of any number of lines takes no more
/// memory than the state store takes for its changes.
#[test]
fn lines_of_one_version_are_applied_one_by_one_and_committed_together() {
    let fixture = Fixture::new();
    let line = |version: u64, key: u64| {
        format!("{{\"version\":{version},\"store\":\"bank\",\"put\":{{\"{key}\":\"x\"}}}}\n")
    };
    let input = line(1, 1) + &line(3, 2) + "oops";
    let error = apply_lines(&fixture, &["--create"], &input).errors();
    assert!(error.contains("line 2: version 3: expected 2"), "{error}");
    let input: String = (0..20).map(|key| line(2, key)).collect();
    let error = apply_lines(&fixture, &[], &(input.clone() + "oops")).failed();
    assert!(error.contains("line 21: "), "{error}");
    assert!(fixture.state(&["root"]).ok().starts_with("1 "), "nothing of version 2 is committed");
    let output = apply_lines(&fixture, &["--json"], &input).json();
    assert_eq!((&output["versions"], &output["changes"]), (&json!(1), &json!(20)));
    assert_eq!(fixture.state(&["scan", "bank", "--json"]).json_lines().len(), 20);
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

#[test]
fn diff_lists_the_rows_that_differ() {
    let fixture = fixture();
    let text = fixture.state(&["diff", "49", "50"]).ok();
    assert_eq!(text, "~ bank k1\n= bank note\n+ log 0x0000000000000032\n");
    let text = fixture.state(&["diff", "50", "49", "--values"]).ok();
    assert_eq!(
        text,
        "~ bank k1 = 50 -> 43\n= bank note =  -> \n- log 0x0000000000000032 = 0xff00\n"
    );
    assert_eq!(fixture.state(&["diff", "50", "50"]).ok(), "");
    let lines = fixture.state(&["diff", "49", "50", "log", "--values", "--json"]).json_lines();
    let after = json!({ "modified_at": 50, "bytes": 2, "value": "0xff00" });
    let key = "0x0000000000000032";
    let expected = json!({ "store": "log", "key": key, "change": "added", "before": null,
        "after": after });
    assert_eq!(lines, [expected]);
    let lines = fixture.state(&["diff", "49", "50", "bank", "--json"]).json_lines();
    assert_eq!(lines[0]["before"], json!({ "modified_at": 43, "bytes": 2 }));
    assert_eq!(
        (&lines[0]["change"], &lines[1]["change"]),
        (&json!("changed"), &json!("put_again"))
    );
    fixture.state(&["diff", "49", "51"]).failed_with("version 51 cannot be reached");
    fixture.state(&["diff", "49", "50", "no/store"]).usage();
}
