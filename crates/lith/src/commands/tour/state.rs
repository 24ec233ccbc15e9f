//! The chapter of the tour about the state store: the digests of the loaded files as a versioned
//! state. Version V puts one of fifty shares of them; from the middle on, it also deletes one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lithdb_state::{ChangeSet, StateDb, StateOptions, VerifyLevel, View};
use serde_json::{Map, Value as Json, json};

use super::Tour;
use super::compare::{Item, Tally};
use crate::failure::Failure;
use crate::keys;
use crate::output::{counted, duration, size};

const VERSIONS: u64 = 50;
/// The version of the snapshot.
const SNAPSHOT: u64 = 25;
/// The version to roll back to.
const TARGET: u64 = 30;

/// How long to wait before looking again which version the writer has reached.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The rows by store and key.
type Rows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// What the versions contain.
struct Content<'a> {
    items: &'a [Item],
}

impl<'a> Content<'a> {
    /// The share of the files that `version` puts; none for version 0.
    fn share(&self, version: u64) -> impl Iterator<Item = &'a Item> {
        let skipped = version.checked_sub(1).map_or(usize::MAX, |n| n as usize);
        self.items.iter().skip(skipped).step_by(VERSIONS as usize)
    }

    /// The share that `version` deletes.
    fn deleted(&self, version: u64) -> impl Iterator<Item = &'a Item> {
        self.share(version.saturating_sub(SNAPSHOT))
    }

    fn value(item: &Item) -> String {
        item.digest.key()
    }

    /// The changes of a version, for the library.
    fn changes(&self, version: u64) -> Result<[ChangeSet; 2], Failure> {
        let mut files = ChangeSet::new("files")?;
        for item in self.share(version) {
            files = files.put(&item.key, Self::value(item));
        }
        for item in self.deleted(version) {
            files = files.delete(&item.key);
        }
        Ok([files, ChangeSet::new("progress")?.put("version", version.to_string())])
    }

    /// The changes of a version, as a line for `lith state apply`.
    fn lines(&self, version: u64) -> String {
        let key = |item: &Item| keys::show(item.key.as_bytes());
        let put: Map<String, Json> =
            self.share(version).map(|item| (key(item), Json::from(Self::value(item)))).collect();
        let delete: Vec<String> = self.deleted(version).map(key).collect();
        let files = json!({ "version": version, "store": "files", "put": put, "delete": delete });
        let put = json!({ "version": version.to_string() });
        let progress = json!({ "version": version, "store": "progress", "put": put });
        format!("{files}\n{progress}\n")
    }

    /// The rows after a version.
    fn rows(&self, version: u64) -> Rows {
        let mut rows = Rows::new();
        for version in 1..=version {
            for item in self.share(version) {
                let key = ("files".to_owned(), item.key.clone().into_bytes());
                rows.insert(key, Self::value(item).into_bytes());
            }
            for item in self.deleted(version) {
                rows.remove(&("files".to_owned(), item.key.clone().into_bytes()));
            }
        }
        let key = ("progress".to_owned(), b"version".to_vec());
        rows.insert(key, version.to_string().into_bytes());
        rows
    }
}

impl Tour<'_> {
    /// Commits versions and takes a snapshot; kills a writer; rolls back.
    pub(super) fn state(&mut self, dir: &Path) -> Result<(), Failure> {
        self.commit_state(dir)?;
        let db = self.kill_and_reopen(dir)?;
        self.roll_back_state(db, dir)
    }

    fn commit_state(&mut self, dir: &Path) -> Result<(), Failure> {
        let started = Instant::now();
        let content = Content { items: &self.loaded.items };
        let db = StateDb::open(dir, options())?;
        let mut changes = 0;
        for version in 1..=SNAPSHOT {
            let sets = content.changes(version)?;
            changes += sets.iter().map(|set| set.len() as u64).sum::<u64>();
            db.commit_block(version, &sets)?;
        }
        let committed = started.elapsed();
        let snapshot = db.snapshot()?.wait()?;
        let (view, expected) = (db.latest(), content.rows(SNAPSHOT));
        let compared = self.tally.compare_rows(&view, &expected)?;
        db.close()?;
        let what = format!(
            "{} with {} committed in {}, each durable; a snapshot of version {}, {}, taken in {}; \
             {compared}",
            counted(SNAPSHOT, "version"),
            counted(changes, "change"),
            duration(committed),
            snapshot.version,
            size(snapshot.bytes),
            duration(Duration::from_millis(snapshot.took_ms)),
        );
        self.report_step("Commit state", started.elapsed(), None, what)
    }

    /// Another process commits the rest, and is killed as soon as that is durable.
    fn kill_and_reopen(&mut self, dir: &Path) -> Result<StateDb, Failure> {
        let started = Instant::now();
        let content = Content { items: &self.loaded.items };
        let mut writer = Writer::start(dir)?;
        for version in SNAPSHOT + 1..=VERSIONS {
            writer.feed(&content.lines(version))?;
        }
        // The first line of a version ends the one before it, and this one is never committed.
        writer.feed(&format!("{}\n", json!({ "version": VERSIONS + 1 })))?;
        while StateDb::latest_version(dir)? != Some(VERSIONS) {
            writer.check_running()?;
            std::thread::sleep(POLL_INTERVAL);
        }
        drop(writer);
        let reopening = Instant::now();
        let db = StateDb::open(dir, options())?;
        let reopened = reopening.elapsed();
        if db.version() != VERSIONS {
            let found = db.version();
            let what = format!("state: expected version {VERSIONS} after the kill, found {found}");
            self.tally.wrong.push(what);
        }
        let compared = self.tally.compare_rows(&db.latest(), &content.rows(VERSIONS))?;
        let what = format!(
            "another process committed version {VERSIONS} and was killed; reopened in {}, {} \
             replayed from the log; {compared}",
            duration(reopened),
            counted(db.opened().replayed, "version"),
        );
        self.report_step("Kill and reopen", started.elapsed(), None, what)?;
        Ok(db)
    }

    /// Rolls back, commits the next version again with other content, and verifies.
    fn roll_back_state(&mut self, db: StateDb, dir: &Path) -> Result<(), Failure> {
        let started = Instant::now();
        let content = Content { items: &self.loaded.items };
        let db = db.rollback_to(TARGET)?;
        let rolled_back = started.elapsed();
        let compared = self.tally.compare_rows(&db.latest(), &content.rows(TARGET))?;
        let again = ChangeSet::new("progress")?.put("version", "another branch");
        db.commit_block(TARGET + 1, &[again])?;
        let mut expected = content.rows(TARGET);
        let key = ("progress".to_owned(), b"version".to_vec());
        expected.insert(key, b"another branch".to_vec());
        self.tally.compare_rows(&db.latest(), &expected)?;
        let (base, replayed) = (db.opened().base, db.opened().replayed);
        db.close()?;
        let verified = StateDb::verify(dir, VerifyLevel::Content, |_| {})?;
        let verdict = if verified.is_ok() { "sound" } else { "NOT sound, see below" };
        let findings = verified.findings.into_iter();
        self.tally.wrong.extend(findings.map(|finding| format!("state: {finding}")));
        let what = format!(
            "rolled back to version {TARGET} in {}: {} replayed from the snapshot of version \
             {base}; {compared}; version {} committed again; {} hashed: {verdict}",
            duration(rolled_back),
            counted(replayed, "version"),
            TARGET + 1,
            counted(verified.rows, "row"),
        );
        self.report_step("Roll back the state", started.elapsed(), None, what)
    }
}

fn options() -> StateOptions {
    StateOptions::new().snapshot_interval(0)
}

impl Tally {
    /// Compares all rows of a version with those expected; returns a description.
    fn compare_rows(&mut self, view: &View, expected: &Rows) -> Result<String, Failure> {
        let (mut found, version) = (Rows::new(), view.version());
        for (store, _keys, _bytes) in view.stores() {
            for row in view.iter(store.as_str())? {
                let row = row?;
                self.compared += 1;
                self.bytes += row.value.len() as u64;
                found.insert((store.to_string(), row.key.to_vec()), row.value.to_vec());
            }
        }
        let rows = counted(found.len() as u64, "row");
        if found == *expected {
            return Ok(format!("{rows} compared: all equal"));
        }
        let differs = |key: &&(String, Vec<u8>)| found.get(*key) != expected.get(*key);
        if let Some((store, key)) = found.keys().chain(expected.keys()).find(differs) {
            let key = keys::show(key);
            self.wrong.push(format!("state, version {version}: {store}, key {key} is not as put"));
        }
        Ok(format!("{rows} compared: WRONG"))
    }
}

/// A process that applies versions. It is killed on drop.
struct Writer(Child);

impl Writer {
    fn start(dir: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|e| Failure::io("find this program", &e))?;
        let mut command = Command::new(program);
        command.args(["state", "apply", "-", "--dir"]).arg(dir);
        // What it says is read only when it has ended.
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| Failure::io("start another lith", &e))?;
        Ok(Self(child))
    }

    fn feed(&mut self, lines: &str) -> Result<(), Failure> {
        let Some(input) = &mut self.0.stdin else { unreachable!("its input is a pipe") };
        if input.write_all(lines.as_bytes()).is_ok() {
            return Ok(());
        }
        // It has ended: its own error says why.
        self.0.wait().map_err(|e| Failure::io("wait for another lith", &e))?;
        self.check_running()
    }

    fn check_running(&mut self) -> Result<(), Failure> {
        let ended = self.0.try_wait().map_err(|e| Failure::io("wait for another lith", &e))?;
        let Some(status) = ended else { return Ok(()) };
        let mut errors = String::new();
        if let Some(from) = &mut self.0.stderr {
            from.read_to_string(&mut errors).map_err(|e| Failure::io("another lith", &e))?;
        }
        Err(Failure::failed(format_args!("another lith ended ({status}): {}", errors.trim())))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        #[expect(clippy::let_underscore_must_use, reason = "it may have ended")]
        let _ = self.0.kill();
        #[expect(clippy::let_underscore_must_use, reason = "then there is nothing to wait for")]
        let _ = self.0.wait();
    }
}
