//! Snapshots: taking, pruning, and those of another branch.

use serde_json::json;

use crate::fixture;
use crate::support::bare;
use crate::support::state::{apply_lines, lines, root};

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
