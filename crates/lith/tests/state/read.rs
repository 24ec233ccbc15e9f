//! The commands that read: values, rows, descriptions, differences.

use lithdb_lthash::LtHash;
use serde_json::json;

use crate::fixture;
use crate::support::Fixture;
use crate::support::state::{apply_lines, root};

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
fn root_is_that_of_any_version() {
    let fixture = fixture();
    assert_eq!(fixture.state(&["root"]).ok(), format!("50 {}\n", root(50).as_str().unwrap()));
    for version in [0, 3, 25, 44] {
        let at = version.to_string();
        let shown = fixture.state(&["root", "--at", &at, "--json"]).json();
        let expected = if version == 0 { json!(LtHash::default().root()) } else { root(version) };
        assert_eq!((&shown["version"], &shown["root"]), (&json!(version), &expected));
    }
    fixture.state(&["root", "--at", "51"]).failed_with("version 51 is not in the log");
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
    assert_eq!((&info["root"], &info["floor"]), (&root(50), &json!(0)));
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
        "  floor       version 0 is the lowest to view or roll back to\n",
        "  recovery    10 versions replayed from snapshot 40 if the working copy is lost\n",
        "store bank\n  rows        8 keys, 32 B of keys and values\n",
        "2 snapshots\n          25  valid ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(fixture.state(&["snapshots"]).ok().lines().count(), 2);
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
