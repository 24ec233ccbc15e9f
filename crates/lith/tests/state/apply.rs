//! `lith state apply`.

use lithdb_env::{Fs, OsFs};
use lithdb_state::StateDb;
use serde_json::json;

use crate::support::Fixture;
use crate::support::state::{apply_lines, changes, lines, open, root};

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
    let mut command = crate::support::lith();
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
