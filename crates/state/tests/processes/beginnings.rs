//! Processes that make a state store of an export or of a flat layout, or remove one, are killed
//! (SIGKILL) while they do it. Each time there is what was there before, the whole of what was to
//! be, or a refusal that says what to do; doing it again completes it; and nothing beside the store
//! changes.
//!
//! As in `kills.rs`: process crashes only. `LITHDB_EFFORT` multiplies the kills.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lithdb_process_tests::{Rng, scratch};
use lithdb_sim::{Effort, Tally};
use lithdb_state::{Error, ErrorKind, Result, StateDb, StateOptions, VerifyLevel};

use crate::child::{self, Mode};
use crate::disk::{copy, names, tree, tree_without_lock};
use crate::support::model::{change_sets, changes_of};
use crate::support::{check, difference};
use crate::templates::Templates;

/// How the next process finds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// As it was before the operation.
    Before,
    /// Neither: everybody refuses it.
    Between,
    /// As it is to be after the operation.
    After,
}

struct Harness {
    templates: Templates,
    rng: Rng,
    tally: Tally,
    /// How long each operation takes.
    durations: BTreeMap<&'static str, Duration>,
    context: String,
}

/// One operation, on a directory of its own.
struct Operation<'a> {
    harness: &'a mut Harness,
    mode: Mode,
    name: &'static str,
    above: tempfile::TempDir,
    dir: PathBuf,
}

fn options() -> StateOptions {
    child::small_log().create_if_missing(false)
}

impl Operation<'_> {
    /// Runs the operation in a process and kills it while it is under way, unless it is over
    /// before. Returns whether it was killed.
    fn run(&mut self, is_killed: bool) -> bool {
        let mut process = child::command(self.mode, &self.dir, 0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.harness.context));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut marks = std::iter::from_fn(|| {
            lines.find_map(|line| Some(child::mark_in(&(line.unwrap() + "\n"))?.to_owned()))
        });
        assert_eq!(marks.next().as_deref(), Some("begin"), "{}", self.harness.context);
        let began = Instant::now();
        if is_killed {
            let usual = self.harness.durations[self.name];
            std::thread::sleep(usual * self.harness.rng.below(110) as u32 / 100);
            process.kill().unwrap();
        }
        let is_done = marks.next().as_deref() == Some("done");
        let took = began.elapsed();
        let usual = self.harness.durations.entry(self.name).or_insert(took);
        // Of one that was killed it is known only that it would have taken longer.
        *usual = if is_done { (*usual * 3 + took) / 4 } else { *usual * 51 / 50 };
        let status = process.wait().unwrap();
        let is_hit = status.signal() == Some(9) && !is_done;
        assert!(is_hit || is_done, "{}: the child failed: {status}", self.harness.context);
        is_hit
    }

    /// The store as a reader, as one who would open it, and as the tool that looks at it find it:
    /// all say the same; whoever is refused changes nothing.
    fn find(&self) -> std::result::Result<(), Error> {
        let context = &self.harness.context;
        let before = tree_without_lock(&self.dir);
        let viewed = StateDb::view_only(&self.dir, None).map(drop);
        let inspected = StateDb::inspect(&self.dir).map(drop);
        assert_eq!(viewed.is_ok(), inspected.is_ok(), "{context}: {viewed:?}, {inspected:?}");
        let after = tree_without_lock(&self.dir);
        assert_eq!(difference(&before, &after), None, "{context}: readers changed something");
        viewed.and(inspected)
    }

    /// What is beside the store, and what it is made of, is as it was.
    fn check_beside(&self) {
        let context = &self.harness.context;
        let mut beside = names(self.above.path());
        beside.retain(|name| name != "state");
        assert_eq!(beside, ["neighbour", "state.export"], "{context}");
        let neighbour = std::fs::read(self.above.path().join("neighbour")).unwrap();
        assert_eq!(neighbour, b"of somebody else", "{context}");
        let export = std::fs::read(self.above.path().join("state.export")).unwrap();
        assert!(export == self.harness.templates.export(), "{context}: the export has changed");
    }

    /// Opens the store for writing: it is whole, with the versions from `oldest` on, works, and
    /// has nothing left over.
    fn check_whole(&self, oldest: u64) {
        let context = &self.harness.context;
        let mut model = self.harness.templates.model.clone();
        model.forget_below(oldest);
        let db = StateDb::open(&self.dir, options());
        let db = db.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(db.version(), model.head(), "{context}");
        check::view(&db.latest(), &model, context);
        check::snapshots(&db, &model, context);
        check::reach(&db, oldest, context);
        let report = db.opened();
        assert!(report.damaged.is_empty(), "{context}: {report:?}");
        for version in [oldest, self.harness.templates.model.head()] {
            let view = db.view(version).unwrap_or_else(|e| panic!("{context}: {e}"));
            check::view(&view, &model, context);
        }
        let mut export = Vec::new();
        db.latest().export(&mut export).unwrap();
        assert!(export == self.harness.templates.export(), "{context}: the export differs");
        let found = StateDb::verify(&self.dir, VerifyLevel::Content, |_| {}).unwrap();
        assert!(found.is_ok(), "{context}: {:?}", found.findings);
        db.close().unwrap();
        for gone in ["engine", "working.new"] {
            assert!(!self.dir.join(gone).exists(), "{context}: {gone} is left");
        }
        assert_eq!(names(&self.dir.join("trash")), [""; 0], "{context}");
    }

    /// The store goes on, and goes back.
    fn go_on(&self) {
        let context = &self.harness.context;
        let mut model = self.harness.templates.model.clone();
        model.forget_below(model.head());
        let db = StateDb::open(&self.dir, options()).unwrap();
        let changes = changes_of(7, model.head() + 1);
        let version = model.commit(&changes);
        db.commit_block(version, &change_sets(&changes)).unwrap();
        check::view(&db.latest(), &model, context);
        let db = db.rollback_to(version - 1).unwrap_or_else(|e| panic!("{context}: {e}"));
        check::view(&db.latest(), &model, context);
        db.close().unwrap();
    }

    fn open_refused(&self, kind: ErrorKind, part: &str) {
        let context = &self.harness.context;
        let before = tree_without_lock(&self.dir);
        let error = StateDb::open(&self.dir, options()).map(drop).expect_err(context);
        assert_eq!(error.kind(), kind, "{context}: {error}");
        assert!(error.to_string().contains(part), "{context}: {error}");
        assert!(before == tree_without_lock(&self.dir), "{context}: a refusal changed something");
    }

    /// Finds out how far the operation has come, and that all that can be seen agrees with it.
    fn found(&self) -> Found {
        self.check_beside();
        match self.mode {
            Mode::Import => self.found_import(),
            Mode::Adopt => self.found_adoption(),
            _ => self.found_reset(),
        }
    }

    fn found_import(&self) -> Found {
        let context = &self.harness.context;
        let Err(error) = self.find() else { return Found::After };
        assert_eq!(error.kind(), ErrorKind::Missing, "{context}: {error}");
        if self.dir.join("state.id").exists() {
            let refusal = "an import was not finished: import again, or reset the state store";
            assert!(error.to_string().contains(refusal), "{context}: {error}");
            self.open_refused(ErrorKind::Missing, refusal);
            return Found::Between;
        }
        self.open_refused(ErrorKind::Missing, "there is no state store");
        Found::Before
    }

    fn found_adoption(&self) -> Found {
        if self.dir.join("state.id").exists() {
            self.find().unwrap_or_else(|e| panic!("{}: {e}", self.harness.context));
            return Found::After;
        }
        self.find().expect_err(&self.harness.context);
        let context = &self.harness.context;
        let (before, after) =
            (tree(&self.harness.templates.path("flat/engine")), tree(&self.dir.join("engine")));
        assert_eq!(difference(&before, &after), None, "{context}: the flat layout");
        self.open_refused(ErrorKind::Foreign, "adopt it with `lith state adopt`");
        let is_begun =
            names(&self.dir).iter().any(|name| !["engine", "state.lock"].contains(&&**name));
        if is_begun { Found::Between } else { Found::Before }
    }

    fn found_reset(&self) -> Found {
        let context = &self.harness.context;
        assert_eq!(std::fs::read(self.dir.join("notes")).unwrap(), b"not the store's", "{context}");
        let Err(error) = self.find() else { return Found::Before };
        assert_eq!(error.kind(), ErrorKind::Missing, "{context}: {error}");
        if self.dir.join("state.id").exists() {
            let refusal = "a reset was not finished: reset the state store again";
            assert!(error.to_string().contains(refusal), "{context}: {error}");
            return Found::Between;
        }
        self.check_is_gone();
        Found::After
    }

    /// Only what is not the store's is in its directory.
    fn check_is_gone(&self) {
        let mut left = names(&self.dir);
        left.retain(|name| !["state.lock", "trash", "notes"].contains(&&**name));
        assert_eq!(left, [""; 0], "{}", self.harness.context);
        self.open_refused(ErrorKind::Missing, "there is no state store");
    }

    /// Completes the operation, whatever was found, and checks the result.
    fn complete(&mut self, found: Found) {
        match self.mode {
            Mode::Import => self.complete_import(found),
            Mode::Adopt => self.complete_adoption(found),
            _ => self.complete_reset(found),
        }
        self.check_beside();
    }

    fn import(&self) -> Result<()> {
        let export = self.harness.templates.export();
        let root = self.harness.templates.model.at(self.newest()).root;
        let options = child::small_log().memtable_bytes(30_000);
        StateDb::import(&self.dir, &export[..], options, Some(root)).map(drop)
    }

    fn newest(&self) -> u64 {
        self.harness.templates.model.head()
    }

    fn complete_import(&mut self, found: Found) {
        if found == Found::After {
            let before = tree_without_lock(&self.dir);
            let error = self.import().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(before == tree_without_lock(&self.dir), "{}", self.harness.context);
        } else {
            if found == Found::Between && self.harness.rng.one_in(3) {
                StateDb::reset(&self.dir).unwrap();
                self.check_is_gone();
                self.harness.tally.add("imports that a reset removed", 1);
            }
            self.import().unwrap_or_else(|e| panic!("{}: again: {e}", self.harness.context));
        }
        self.check_whole(self.newest());
        self.go_on();
    }

    fn complete_adoption(&mut self, found: Found) {
        if found != Found::After {
            let adopted = StateDb::adopt(&self.dir, StateOptions::new());
            adopted.unwrap_or_else(|e| panic!("{}: again: {e}", self.harness.context));
        } else if let Err(error) = StateDb::adopt(&self.dir, StateOptions::new()) {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        self.check_whole(self.newest());
        self.go_on();
    }

    fn complete_reset(&mut self, found: Found) {
        match found {
            Found::Before => {
                self.check_whole(0);
                StateDb::reset(&self.dir).unwrap();
            }
            Found::Between if self.harness.rng.one_in(2) => {
                drop(StateDb::reset(&self.dir).unwrap())
            }
            Found::Between => {
                // Whoever may create no store finishes the reset all the same.
                let error = StateDb::open(&self.dir, options()).map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
                self.harness.tally.add("resets that an opening finished", 1);
            }
            Found::After => {
                let error = StateDb::reset(&self.dir).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
            }
        }
        self.check_is_gone();
        std::fs::remove_file(self.dir.join("notes")).unwrap();
        self.import().unwrap_or_else(|e| panic!("{}: after: {e}", self.harness.context));
        self.check_whole(self.newest());
    }
}

impl Harness {
    fn operation(&mut self, mode: Mode, name: &'static str) -> Operation<'_> {
        let above = scratch();
        let dir = above.path().join("state");
        std::fs::write(above.path().join("neighbour"), "of somebody else").unwrap();
        std::fs::copy(self.templates.path("export"), above.path().join("state.export")).unwrap();
        match mode {
            Mode::Adopt => copy(&self.templates.path("flat"), &dir),
            Mode::Reset => {
                copy(&self.templates.path("store"), &dir);
                std::fs::write(dir.join("notes"), "not the store's").unwrap();
            }
            _ => {}
        }
        Operation { harness: self, mode, name, above, dir }
    }

    /// Kills one operation, and sometimes the one that repeats it.
    fn round(&mut self, mode: Mode, name: &'static str) {
        let again = [0, 0, 1, 2][self.rng.below(4) as usize];
        let mut operation = self.operation(mode, name);
        let mut found = Found::Before;
        for attempt in 0..=again {
            if found == Found::After {
                break;
            }
            let is_hit = operation.run(true);
            found = operation.found();
            let tally = &mut operation.harness.tally;
            tally.add("kills", u64::from(is_hit));
            tally.add("kills of a repeated operation", u64::from(is_hit && attempt > 0));
            tally.add("operations that ended before", u64::from(!is_hit));
            if is_hit {
                tally.add(counter(mode, found), 1);
            } else {
                assert_eq!(found, Found::After, "{}", operation.harness.context);
            }
        }
        operation.complete(found);
        self.tally.add("rounds", 1);
    }
}

fn counter(mode: Mode, found: Found) -> &'static str {
    match (mode, found) {
        (Mode::Import, Found::Before) => "imports: nothing there",
        (Mode::Import, Found::Between) => "imports: refused",
        (Mode::Import, Found::After) => "imports: whole",
        (Mode::Adopt, Found::Before) => "adoptions: nothing there",
        (Mode::Adopt, Found::Between) => "adoptions: the flat layout, refused",
        (Mode::Adopt, Found::After) => "adoptions: whole",
        (_, Found::Before) => "resets: the whole store",
        (_, Found::Between) => "resets: refused",
        (_, Found::After) => "resets: gone",
    }
}

#[test]
fn killed_imports_adoptions_and_resets_end_in_refusal_completion_or_the_old_state() {
    let effort = Effort::from_env();
    let kills = effort.times(8);
    let mut harness = Harness {
        templates: Templates::new(),
        rng: Rng::new(effort.seed("kills of imports, adoptions and resets")),
        tally: Tally::new("process crashes of imports, adoptions and resets"),
        durations: BTreeMap::new(),
        context: String::new(),
    };
    let operations = [(Mode::Import, "import"), (Mode::Adopt, "adoption"), (Mode::Reset, "reset")];
    for (mode, name) in operations {
        harness.context = format!("{name}, not killed");
        let mut whole = harness.operation(mode, name);
        assert!(!whole.run(false));
        assert_eq!(whole.found(), Found::After);
        whole.complete(Found::After);
    }
    for round in 0.. {
        if harness.tally.get("kills") >= kills {
            break;
        }
        assert!(round < 10 * kills + 10, "{:?}", harness.tally);
        let (mode, name) = operations[round as usize % operations.len()];
        harness.context = format!("round {round}: {name}");
        harness.round(mode, name);
    }
    let met = ["imports: refused", "adoptions: the flat layout, refused", "resets: refused"];
    for what in met.iter().filter(|_| kills >= 100) {
        assert!(harness.tally.get(what) > 0, "no {what}: {:?}", harness.tally);
    }
}
