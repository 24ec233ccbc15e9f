//! File systems and permissions: read-only mounts, files of another owner, files that cannot be
//! removed. A missing permission is an error that names the file, never damage, and commands that
//! only read work.
//!
//! Needs root. Without it the tests print so and are skipped, or fail if `LITHDB_REQUIRE_ROOT` is
//! 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lithdb::TableOptions;
use lithdb_env::{Fs, OsFs};
use lithdb_process_tests::skip_or_fail;
use support::{Fixture, Run, lith, run};

const REQUIRED: &str = "LITHDB_REQUIRE_ROOT";
/// The user `nobody`.
const OTHER: u32 = 65_534;

/// Runs a system program. If it fails, prints why and returns `None`, or fails the test.
fn privileged(test: &str, program: &str, args: &[&str], path: &Path) -> Option<()> {
    let why = match Command::new(program).args(args).arg(path).output() {
        Ok(output) if output.status.success() => return Some(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skip_or_fail(test, &format!("{program}: {why}"), REQUIRED);
    None
}

#[expect(clippy::disallowed_methods, reason = "test setup")]
fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Copies `lith` to where another user can run it.
#[expect(clippy::disallowed_methods, reason = "test setup")]
fn program(fixture: &Fixture) -> PathBuf {
    let program = fixture.path("lith");
    std::fs::copy(env!("CARGO_BIN_EXE_lith"), &program).unwrap();
    set_mode(&program, 0o755);
    set_mode(fixture.dir.path(), 0o755);
    program
}

fn as_other(fixture: &Fixture, program: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(program);
    command.uid(OTHER).gid(OTHER).env_remove("RUST_LOG");
    command.args(args).arg("--db").arg(fixture.db());
    run(command, b"")
}

/// Two tables, each with two sealed segments of three values.
fn sealed() -> Fixture {
    let fixture = Fixture::new();
    fixture.prepare(|db| {
        for name in ["t", "u"] {
            let table = db.table(name, TableOptions::new()).unwrap();
            for half in 0..2u8 {
                for key in 0..3u8 {
                    table.put([b'a' + half, b'0' + key], [key; 3_000]).unwrap();
                }
                table.seal().unwrap();
            }
        }
    });
    fixture
}

const READING: [&[&str]; 6] = [
    &["ls"],
    &["info"],
    &["get", "t", "a0"],
    &["scan", "t", "--values"],
    &["verify"],
    &["dump", "t"],
];
const WRITING: [&[&str]; 6] = [
    &["put", "t", "k"],
    &["gc"],
    &["repair"],
    &["rebuild-keymap"],
    &["rollback", "--through-key", "a1", "--yes"],
    &["load", "t", "/etc/hostname"],
];

#[test]
fn read_only_mount_is_read_and_refuses_writers() {
    let test = "read_only_mount_is_read_and_refuses_writers";
    let fixture = sealed();
    let db = fixture.db();
    if privileged(test, "mount", &["--bind", db.to_str().unwrap()], &db).is_none() {
        return;
    }
    let mounted = privileged(test, "mount", &["-o", "remount,bind,ro"], &db);
    let answers = mounted.map(|()| {
        let output = |args: &&[&str]| fixture.lith(args);
        (
            READING.iter().map(output).collect::<Vec<_>>(),
            WRITING.iter().map(output).collect::<Vec<_>>(),
        )
    });
    assert!(Command::new("umount").arg("-l").arg(&db).status().unwrap().success());
    let Some((read, refused)) = answers else { return };
    read.iter().for_each(|run| drop(run.ok()));
    for run in refused {
        let error = run.failed();
        assert!(error.contains("lith.lock") && error.contains("Read-only file system"), "{error}");
    }
    fixture.lith(&["verify"]).ok();
}

#[test]
fn files_of_another_owner_are_not_damage() {
    let test = "files_of_another_owner_are_not_damage";
    let fixture = sealed();
    let program = program(&fixture);
    if privileged(test, "chown", &["-R", "root"], &fixture.db()).is_none() {
        return;
    }
    for args in READING {
        as_other(&fixture, &program, args).ok();
    }
    for args in WRITING {
        let error = as_other(&fixture, &program, args).failed();
        assert!(error.contains("lith.lock") && error.contains("Permission denied"), "{error}");
    }
    // One unreadable file or directory of each kind.
    for name in ["1.keys", "1.metadata", "1-0.values", "../table.state", "../segments", ".."] {
        let path = fixture.db().join("t/segments").join(name);
        #[expect(clippy::disallowed_methods, reason = "test setup")]
        let mode = std::fs::metadata(&path).unwrap().mode();
        set_mode(&path, 0o700);
        for args in [&["get", "t", "a0"][..], &["verify", "t"]] {
            let run = as_other(&fixture, &program, args);
            let error = run.failed() + &run.words();
            assert!(error.contains("Permission denied"), "{name}: {args:?}: {run:?}");
            assert!(!error.contains("DAMAGED") && !error.contains("repair"), "{name}: {run:?}");
        }
        // The other table is reported anyway.
        let run = as_other(&fixture, &program, &["verify"]);
        run.failed();
        assert!(run.words().contains("table u: ok"), "{name}: {run:?}");
        let run = as_other(&fixture, &program, &["info"]);
        assert!(run.text().contains("table u\n  keys "), "{name}: {run:?}");
        set_mode(&path, mode & 0o7777);
    }
    fixture.lith(&["verify"]).ok();
    // The other user owns the database except for one file.
    privileged(test, "chown", &["-R", &OTHER.to_string()], &fixture.db()).unwrap();
    let newest = fixture.db().join("t/segments/3.keys");
    privileged(test, "chown", &["root"], &newest).unwrap();
    let error = as_other(&fixture, &program, &["put", "t", "k"]).failed();
    assert!(error.contains("3.keys") && error.contains("Permission denied"), "{error}");
    assert_eq!(as_other(&fixture, &program, &["repair"]).ok(), "nothing to repair\n");
    privileged(test, "chown", &[&OTHER.to_string()], &newest).unwrap();
    as_other(&fixture, &program, &["put", "t", "k"]).ok();
}

#[test]
fn unremovable_file_is_named_and_removed_later() {
    let test = "unremovable_file_is_named_and_removed_later";
    let fixture = Fixture::new();
    let options = TableOptions::new().ttl(Duration::from_millis(1));
    fixture.prepare(|db| {
        let table = db.table("t", options.clone()).unwrap();
        table.put(b"old", [1; 3_000]).unwrap();
        table.seal().unwrap();
    });
    let stuck = fixture.db().join("t/segments/1-0.values");
    if privileged(test, "chattr", &["+i"], &stuck).is_none() {
        return;
    }
    let gc = fixture.lith(&["gc"]);
    let reopened = fixture.lith_with(&["put", "t", "new"], b"value");
    let (old, verified) = (fixture.lith(&["get", "t", "old"]), fixture.lith(&["verify"]));
    privileged(test, "chattr", &["-i"], &stuck).unwrap();
    let error = gc.text() + &gc.errors();
    assert!(error.contains("collected 1 segment") || error.contains("1-0.values"), "{gc:?}");
    // A collected value is not found, even if its file could not be removed.
    old.no_such_key();
    verified.ok();
    let error = reopened.text() + &reopened.errors();
    assert!(error.contains("new") || error.contains("1-0.values"), "{reopened:?}");
    fixture.lith_with(&["put", "t", "newer"], b"value").ok();
    assert!(OsFs.metadata(&stuck).is_err());
    let mut command = lith();
    command.args(["get", "t", "newer", "--db"]).arg(fixture.db());
    assert_eq!(run(command, b"").ok(), "value");
}
