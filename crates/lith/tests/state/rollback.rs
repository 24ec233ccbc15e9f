//! `lith state rollback`.

use lithdb_state::{StateDb, StateOptions};
use serde_json::json;

use crate::support::Fixture;
use crate::support::state::{apply_lines, commit, lines, root};
use crate::{contents, fixture};

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
    assert!((30..=40).contains(&oldest) && info["floor"] == 40, "{info}");
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
