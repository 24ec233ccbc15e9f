//! State stores for the tests of `lith state`: version V puts a key of the store `bank`, and every
//! fifth one a key of the store `log`. The root is computed apart from the rows.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use lithdb_lthash::LtHash;
use lithdb_state::{ChangeSet, StateDb, StateOptions};
use serde_json::{Value as Json, json};

use super::{Fixture, Run, lith, run};

impl Fixture {
    /// The state store's directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// Runs `lith state` with `--dir` and these arguments.
    pub(crate) fn state(&self, args: &[&str]) -> Run {
        self.state_with(args, b"")
    }

    /// As [`state`](Self::state), with `input` on standard input.
    pub(crate) fn state_with(&self, args: &[&str], input: &[u8]) -> Run {
        let mut command = lith();
        command.arg("state").args(args).arg("--dir").arg(self.state_dir());
        run(command, input)
    }
}

/// Opens the state store in this process, without snapshots at intervals.
pub(crate) fn open(fixture: &Fixture) -> StateDb {
    StateDb::open(fixture.state_dir(), StateOptions::new().snapshot_interval(0)).unwrap()
}

/// Commits a version of the example.
pub(crate) fn commit(db: &StateDb, version: u64) {
    let bank = ChangeSet::new("bank").unwrap();
    let bank = bank.put(format!("k{}", version % 7), version.to_string()).put("note", "");
    let mut changes = vec![bank];
    if version.is_multiple_of(5) {
        let log = ChangeSet::new("log").unwrap();
        changes.push(log.put(version.to_be_bytes(), [0xff, 0]).delete("nobody"));
    }
    db.commit_block(version, &changes).unwrap();
}

/// The same versions as lines for `lith state apply`.
pub(crate) fn lines(versions: RangeInclusive<u64>) -> String {
    let mut lines = String::new();
    for version in versions {
        let put = json!({ format!("k{}", version % 7): version.to_string(), "note": "" });
        lines += &format!("{}\n", json!({ "version": version, "store": "bank", "put": put }));
        if version.is_multiple_of(5) {
            let put = json!({ format!("0x{version:016x}"): "0xff00" });
            let line =
                json!({ "version": version, "store": "log", "put": put, "delete": ["nobody"] });
            lines += &format!("{line}\n");
        }
    }
    lines
}

/// The number of changes in [`lines`].
pub(crate) fn changes(versions: RangeInclusive<u64>) -> u64 {
    versions.map(|version| if version.is_multiple_of(5) { 4 } else { 2 }).sum()
}

/// Runs `lith state apply` with these lines on standard input.
pub(crate) fn apply_lines(fixture: &Fixture, args: &[&str], lines: &str) -> Run {
    fixture.state_with(&[&["apply", "-"], args].concat(), lines.as_bytes())
}

/// The root after a version of the example, in JSON.
pub(crate) fn root(version: u64) -> Json {
    let mut rows = BTreeMap::from([(b"bank/note".to_vec(), Vec::new())]);
    for version in 1..=version {
        let key = format!("bank/k{}", version % 7).into_bytes();
        rows.insert(key, version.to_string().into_bytes());
        if version.is_multiple_of(5) {
            rows.insert([b"log/", &version.to_be_bytes()[..]].concat(), vec![0xff, 0]);
        }
    }
    let mut hash = LtHash::default();
    rows.iter().for_each(|(key, value)| hash.add_pair(key, value));
    json!(hash.root())
}
