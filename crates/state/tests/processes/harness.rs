//! Rounds of a process that commits, takes snapshots, prunes, rolls back and opens in a loop, and
//! is killed (SIGKILL) at a random moment; and what is checked of the store that it leaves.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use lithdb::{Db, DbOptions};
use lithdb_process_tests::Rng;
use lithdb_sim::{Effort, Tally};
use lithdb_state::{ErrorKind, OpenReport, Retention, StateDb, StateOptions, VerifyLevel};

use crate::child::{self, BRANCHES, Mode, changes};
use crate::known::Known;
use crate::support::check;
use crate::support::model::change_sets;

/// How many deaths one store sees.
const ROUNDS_OF_A_STORE: u64 = 20;
/// A child that does not come to what it is to be killed at is killed anyway.
const PATIENCE: Duration = Duration::from_secs(5);

/// The marks of the thread in a child's background.
const BACKGROUND: [&str; 3] = ["taken", "removed", "floor"];

/// The marks of a child after which it is killed.
const MOMENTS: [&str; 10] = [
    "open",
    "opened",
    "commit",
    "snapshot",
    "snapshotted",
    "prune",
    "close",
    "rollback",
    "rolled",
    "stop",
];

/// How long what begins with a mark takes, as far as it has been seen to end.
struct Durations {
    averages: BTreeMap<&'static str, Duration>,
    begun: Option<(&'static str, Instant)>,
}

impl Durations {
    fn note(&mut self, word: &str) {
        let begins = MOMENTS.iter().find(|moment| **moment == word);
        if let Some((begun, at)) = self.begun.take() {
            let average = self.averages.entry(begun).or_insert(at.elapsed());
            *average = (*average * 3 + at.elapsed()) / 4;
        }
        self.begun = begins.map(|word| (*word, Instant::now()));
    }

    fn of(&self, word: &str) -> Duration {
        self.averages.get(word).copied().unwrap_or(Duration::from_millis(30))
    }
}

pub struct Harness {
    dir: tempfile::TempDir,
    pub known: Known,
    rng: Rng,
    pub tally: Tally,
    serial: u64,
    durations: Durations,
    /// The round, for messages.
    context: String,
    /// What happened in this round, shown if it fails.
    marks: Vec<String>,
    /// How many times as long the children work before they are killed.
    pub pace: u64,
    /// Acknowledged in the stores before this one.
    commits: u64,
    /// The lowest version that can be reached, as the last check found it.
    pub floor: u64,
}

impl Drop for Harness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}: the children marked\n{}", self.context, self.marks.join("\n"));
        }
    }
}

impl Harness {
    /// No store yet. `name` is that of the run, on which its choices depend.
    pub fn new(name: &str, tally: Tally) -> Self {
        let seed = Effort::from_env().seed(name);
        Self {
            dir: tempfile::tempdir().unwrap(),
            known: Known::new(),
            rng: Rng::new(seed),
            tally,
            serial: seed % BRANCHES,
            durations: Durations { averages: BTreeMap::new(), begun: None },
            context: String::new(),
            marks: Vec::new(),
            pace: 1,
            commits: 0,
            floor: 0,
        }
    }

    /// Commits that were acknowledged, in all stores.
    pub fn commits(&self) -> u64 {
        self.commits + self.known.commits
    }

    /// Whether a round is the first one of a store.
    pub fn is_first(round: u64) -> bool {
        round.is_multiple_of(ROUNDS_OF_A_STORE)
    }

    /// Goes on with a store that does not exist yet.
    pub fn begin_store(&mut self) {
        self.commits = self.commits();
        self.known = Known::new();
        self.dir = tempfile::tempdir().unwrap();
        self.floor = 0;
        self.tally.add("stores", 1);
    }

    /// Children that are killed, and the check of what they left.
    pub fn round(&mut self, round: u64) {
        self.context = format!("round {round}");
        self.marks.clear();
        self.run_children(Self::is_first(round));
        self.check();
        self.tally.add("rounds", 1);
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Options with which nothing happens by itself.
    fn quiet() -> StateOptions {
        child::small_log().snapshot_interval(0).retention(Retention::Manual)
    }

    /// Runs a child and kills it after its `nth` mark that begins with `word`, before or soon after
    /// the next one.
    fn run(&mut self, mode: Mode, word: &str, mut nth: u64) {
        self.serial += 1;
        let command = &mut child::command(mode, &self.store(), self.serial);
        self.marks.push(format!("-- {mode:?}, child {}", self.serial));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let delay = self.durations.of(word) * self.rng.below(140) as u32 / 100;
        let (comes, has_come) = channel();
        let killer = std::thread::spawn(move || {
            let _or_it_ended = has_come.recv_timeout(PATIENCE);
            std::thread::sleep(delay);
            process.kill().unwrap();
            process.wait().unwrap()
        });
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            if let Some(mark) = child::mark_in(&line) {
                let begin = mark.split(' ').next().unwrap();
                if !BACKGROUND.contains(&begin) {
                    self.durations.note(begin);
                }
                if begin == word {
                    nth = nth.wrapping_sub(1);
                    if nth == 0 {
                        comes.send(()).unwrap();
                    }
                }
                self.marks.push(mark.to_owned());
                self.known.note(mark);
            }
            line.clear();
        }
        drop(comes);
        self.durations.begun = None;
        let status = killer.join().unwrap();
        if status.signal() == Some(9) {
            self.tally.add("kills", 1);
            self.tally.add(self.known.doing.unwrap_or("killed between two calls"), 1);
        } else {
            let is_done = mode == Mode::Open && status.success();
            assert!(is_done, "{}: the child failed: {status}", self.context);
        }
        self.known.doing = None;
    }

    /// A child that works, and perhaps others that are killed while they open what it left.
    fn run_children(&mut self, is_new: bool) {
        let word = match is_new {
            true => "open",
            false => MOMENTS[self.rng.below(MOMENTS.len() as u64) as usize],
        };
        let nth = match word {
            _ if is_new => 1,
            "commit" => 1 + self.rng.below(30 * self.pace),
            _ => 1 + self.rng.below(2 * self.pace),
        };
        self.run(Mode::Work, word, nth);
        let again = [0, 0, 1, 2][self.rng.below(4) as usize];
        for _ in 0..again {
            self.run(Mode::Open, "open", 1);
        }
        self.tally.add("rounds with an opening killed twice", u64::from(again == 2));
    }

    /// A snapshot has its name only when everything else is there.
    fn check_directories(&self) {
        let Ok(entries) = std::fs::read_dir(self.store().join("snapshots")) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            let is_whole = path.extension().is_some() || path.join("SNAPSHOT").is_file();
            assert!(is_whole, "{}: {} has no manifest", self.context, path.display());
        }
    }

    /// A reader of what was left sees one of the versions that it may be at.
    fn check_beside(&mut self) {
        match StateDb::view_only(self.store(), None) {
            Ok(view) => {
                let (version, root) = (view.version(), view.root());
                let context = format!("{}: beside, at {version}", self.context);
                assert!(self.known.may_be_at(version, &root), "{context}: {:?}", self.known);
                check::view(&view, &self.known.model, &context);
                self.tally.add("views before the opening", 1);
            }
            // A rollback of the log is to be finished.
            Err(error) if error.kind() == ErrorKind::Locked => {
                assert!(self.known.undecided.is_some(), "{}: {error}", self.context);
                self.tally.add("views refused before a rollback was finished", 1);
            }
            Err(error) => {
                let is_new = self.known.durable == 0;
                let is_missing = error.kind() == ErrorKind::Missing;
                assert!(is_new && is_missing, "{}: {error}", self.context);
            }
        }
    }

    fn open(&mut self) -> StateDb {
        let db = child::open_beside_readers(|| StateDb::open(self.store(), Self::quiet()));
        let db = db.unwrap_or_else(|e| panic!("{}: {e}", self.context));
        let root = db.root().to_string();
        self.known.found_at(db.version(), &root, &self.context);
        db
    }

    fn count_report(&mut self, report: &OpenReport) {
        let has = |what: &str| report.leftovers.iter().any(|left| left.contains(what));
        let counts = [
            ("snapshots found half taken", has("snapshots/")),
            ("working copies found half cloned", has("working.new")),
            ("directories found half removed", has("trash/")),
            ("rollbacks finished by the opening", report.rollback.is_some()),
            ("working copies cloned again", report.recloned.is_some()),
            ("openings that moved snapshots aside", !report.abandoned.is_empty()),
        ];
        counts.iter().for_each(|(what, is_so)| self.tally.add(what, u64::from(*is_so)));
        self.tally.add("versions replayed", report.replayed);
        let context = &self.context;
        assert!(report.damaged.is_empty() && report.foreign.is_empty(), "{context}: {report:?}");
        assert!(!report.leftovers.iter().any(|left| left.contains("not removed")), "{context}");
    }

    fn check(&mut self) {
        self.check_directories();
        if self.rng.one_in(3) {
            self.check_beside();
        }
        let mut db = self.open();
        self.count_report(&db.opened().clone());
        if self.rng.one_in(3) {
            // Opening twice is opening once.
            drop(db);
            db = self.open();
            let report = db.opened();
            // Of a reader that was killed meanwhile.
            let leftovers = report.leftovers.iter().filter(|left| !left.starts_with("views/"));
            let found = (&report.recloned, leftovers.count(), &report.abandoned[..]);
            assert_eq!(found, (&None, 0, &[][..]), "{}: {report:?}", self.context);
        }
        let model = &self.known.model;
        let context = &self.context;
        check::view(&db.latest(), model, context);
        assert_eq!(db.durable_version(), db.version(), "{context}: what was found is durable");
        check::snapshots(&db, model, context);
        let first = self.check_log(&db);
        self.known.model.forget_below(first.saturating_sub(1));
        let lowest = db.snapshots().unwrap().first().map(|snapshot| snapshot.version);
        let reachable = if first == 0 { Some(0) } else { lowest };
        let reachable = reachable.expect("a base");
        check::reach(&db, reachable, &self.context);
        self.floor = reachable;
        self.check_views(reachable, db.version());
        for level in [VerifyLevel::Files, VerifyLevel::Replay] {
            let found = StateDb::verify(self.store(), level, |_| {}).unwrap();
            assert!(found.is_ok(), "{}: {:?}", self.context, found.findings);
            assert_eq!((found.version, found.root), (db.version(), db.root()));
        }
        self.go_on(db);
    }

    /// The log has no gap; returns its first version.
    fn check_log(&self, db: &StateDb) -> u64 {
        let log = Db::open_read_only(DbOptions::new([self.store().join("wal")])).unwrap();
        let records = check::log_records(&log.existing_table("wal").unwrap());
        check::log(&records, &self.known.model, db.version(), &self.context);
        records[0].version
    }

    /// Versions of before: the oldest one, the newest one, some between.
    fn check_views(&mut self, oldest: u64, newest: u64) {
        let some = [0; 3].map(|_| oldest + self.rng.below(newest - oldest + 1));
        for version in [oldest, newest].into_iter().chain(some) {
            let context = format!("{}: view of {version}", self.context);
            let view = StateDb::view_only(self.store(), Some(version));
            let view = view.unwrap_or_else(|e| panic!("{context}: {e}"));
            check::view(&view, &self.known.model, &context);
            self.tally.add("versions compared", 1);
        }
        self.tally.add("versions compared", 1);
    }

    /// The store works, with contents that no branch had.
    fn go_on(&mut self, db: StateDb) {
        self.serial += 1;
        let branch = self.serial * BRANCHES;
        for n in 0..3 {
            let changes = changes(branch, self.known.model.head() + 1);
            let version = self.known.commit(&changes);
            let done = db.commit_block(version, &change_sets(&changes)).unwrap();
            assert_eq!(done.root, self.known.model.at(version).root, "{}", self.context);
            self.known.durable = version;
            if n == 1 && self.rng.one_in(2) {
                assert_eq!(db.snapshot().unwrap().wait().unwrap().version, version);
            }
        }
        check::view(&db.latest(), &self.known.model, &format!("{}: gone on", self.context));
        if self.rng.one_in(2) {
            db.close().unwrap();
        }
    }
}
