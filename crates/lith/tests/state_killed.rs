//! `lith state` killed with SIGKILL at any moment (a crash of the process, not of the machine).
//! `LITHDB_EFFORT` multiplies the rounds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lithdb_env::{OsFs, exists};
use lithdb_sim::{Effort, Tally};
use serde_json::json;
use support::state::{apply_lines, commit, lines, open, root};
use support::{Fixture, lith};

/// Versions up to 60, with snapshots of 20 and 45.
fn template() -> Fixture {
    let fixture = Fixture::new();
    let db = open(&fixture);
    for version in 1..=60 {
        commit(&db, version);
        if version == 20 || version == 45 {
            db.snapshot().unwrap().wait().unwrap();
        }
    }
    db.close().unwrap();
    fixture
}

/// Copies the state store of `from`, hard links included.
fn copy_of(from: &Fixture) -> Fixture {
    let copy = Fixture::new();
    let copied = Command::new("cp").arg("-a").arg(from.state_dir()).arg(copy.state_dir()).status();
    assert!(copied.unwrap().success());
    copy
}

fn start(fixture: &Fixture, args: &[&str]) -> Child {
    let mut command = lith();
    command.arg("state").args(args).arg("--dir").arg(fixture.state_dir());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills spread over the running time of a command, which surviving rounds measure.
struct Kills {
    longest: Duration,
}

impl Kills {
    fn new() -> Self {
        Self { longest: Duration::from_millis(100) }
    }

    /// Kills `child` in `round`; returns whether it ended before.
    fn kill(&mut self, round: u32, mut child: Child) -> bool {
        let started = Instant::now();
        std::thread::sleep(self.longest.mul_f64(f64::from(round * 37 % 101) / 90.0));
        let survived = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if survived {
            let took = started.elapsed().min(self.longest.mul_f64(1.1));
            self.longest = took.max(Duration::from_millis(5));
        } else {
            self.longest = self.longest.mul_f64(1.02);
        }
        survived
    }
}

fn has_intent(dir: &Path) -> bool {
    exists(&OsFs, &dir.join("wal/rollback.intent")).unwrap()
}

#[test]
fn killed_rollback_of_the_state_is_whole_or_undone() {
    let mut tally = Tally::new("process crashes: lith state rollback");
    let (whole, rounds) = (template(), Effort::from_env().times(40) as u32);
    let (mut ends, mut pending, mut kills) = ([0_u32; 2], 0, Kills::new());
    for round in 0..rounds {
        let scratch = copy_of(&whole);
        let survived = kills.kill(round, start(&scratch, &["rollback", "24", "--yes"]));
        let is_pending = has_intent(&scratch.state_dir());
        pending += u32::from(is_pending);
        if is_pending {
            // Reading is refused until the rollback is finished.
            let error = scratch.state(&["root"]).failed();
            assert!(error.contains("rollback"), "{error}");
        }
        if round % 2 == 0 {
            // Whatever was decided, the same command ends at the version.
            let run = scratch.state(&["rollback", "24", "--yes", "--json"]);
            assert_eq!(run.output.status.code(), Some(0), "round {round}: {run:?}");
        }
        let db = open(&scratch);
        let version = db.version();
        assert!(version == 24 || (version == 60 && !survived && !is_pending && round % 2 == 1));
        assert_eq!(json!(db.root()), root(version), "round {round}");
        ends[usize::from(version == 24)] += 1;
        commit(&db, version + 1);
        db.close().unwrap();
        scratch.state(&["verify", "--content"]).ok();
    }
    tally.add("kills", rounds.into());
    tally.add("old", ends[0].into());
    tally.add("new", ends[1].into());
    tally.add("finished by the next opening", pending.into());
    assert!(ends.iter().all(|count| *count > 0), "{ends:?}");
    assert_eq!(whole.state(&["root", "--json"]).json()["root"], root(60), "the template changed");
}

#[test]
fn killed_apply_snapshot_or_prune_leaves_a_whole_version() {
    let mut tally = Tally::new("process crashes: lith state apply, snapshot, prune");
    let (whole, rounds) = (template(), Effort::from_env().times(30) as u32);
    let mut kills = [(); 3].map(|()| Kills::new());
    for round in 0..rounds {
        let scratch = copy_of(&whole);
        let file = scratch.write("more", lines(61..=90).as_bytes());
        let commands: [&[&str]; 3] =
            [&["apply", file.to_str().unwrap()], &["snapshot"], &["prune", "--keep", "0"]];
        let n = round as usize % commands.len();
        kills[n].kill(round, start(&scratch, commands[n]));
        let db = open(&scratch);
        let version = db.version();
        assert!((60..=90).contains(&version), "round {round}: version {version}");
        assert_eq!(json!(db.root()), root(version), "round {round}");
        db.close().unwrap();
        scratch.state(&["verify", "--content"]).ok();
        apply_lines(&scratch, &[], &lines(version + 1..=95)).ok();
        assert_eq!(scratch.state(&["root", "--json"]).json()["root"], root(95), "round {round}");
    }
    tally.add("kills", rounds.into());
}
