//! Commands beside an open writer.

use std::sync::atomic::{AtomicBool, Ordering};

use lithdb_env::{Fs, OsFs};
use lithdb_state::{StateDb, StateOptions};
use serde_json::{Value as Json, json};

use crate::fixture;
use crate::support::Fixture;
use crate::support::state::{commit, open, root};

#[test]
fn read_commands_work_beside_a_writer_and_the_others_are_refused() {
    let fixture = fixture();
    let db = open(&fixture);
    commit(&db, 51);
    let commands: [&[&str]; 12] = [
        &["info"],
        &["get", "bank", "k2"],
        &["scan", "bank"],
        &["snapshots"],
        &["root"],
        &["verify"],
        &["verify", "--files"],
        &["verify", "--content"],
        &["verify", "--replay"],
        &["root", "--at", "50"],
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
