//! What the commands refuse, and their help.

use lithdb_env::{Fs, OsFs};
use lithdb_state::{ChangeSet, StateDb, StateOptions};

use crate::support::state::{apply_lines, lines};
use crate::support::{Fixture, Run, bare, flip};
use crate::{contents, fixture};

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
        &["verify", "--replay"],
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
    for command in ["root", "verify", "adopt", "diff", "export", "import", "reset"] {
        fits(&bare(&["state", command, "--help"]));
    }
}
