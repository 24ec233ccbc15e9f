//! `lith state verify`.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::support::flip;
use crate::support::state::{commit, open};
use crate::{contents, fixture};

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
fn replay_compares_every_snapshot_and_the_working_copy() {
    let fixture = fixture();
    let found = fixture.state(&["verify", "--replay", "--json"]).json();
    assert_eq!((&found["sound"], &found["level"]), (&json!(true), &json!("replay")));
    let replay = &found["replay"];
    assert_eq!((&replay["base"], &replay["versions"]), (&json!(0), &json!(50)));
    assert_eq!((&replay["snapshots"], &replay["working"]), (&json!([25, 40]), &json!(50)));
    let text = fixture.state(&["verify", "--replay"]).ok();
    let rows = replay["rows"].as_u64().unwrap();
    for part in [
        "  18 rows hashed\n",
        "  50 versions replayed from version 0\n",
        "  2 snapshots and the working copy of version 50 compared\n",
        &format!("  {rows} rows compared\n"),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let found = fixture.state(&["verify", "--content", "--json"]).json();
    assert_eq!(found["replay"], json!(null));
    // Beside a writer.
    let db = open(&fixture);
    for version in 51..=60 {
        commit(&db, version);
    }
    let found = fixture.state(&["verify", "--replay", "--json"]).json();
    assert_eq!(
        found["replay"]["working"], 50,
        "what is in the memory of the writer is not on disk"
    );
    db.close().unwrap();
}
