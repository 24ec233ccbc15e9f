//! Readers: processes of their own, which read versions beside a writer, and threads that ask them.
//!
//! A reader computes a digest of what it has read, in both directions. It does not know what the
//! answer must be: its parent compares it with the model, when it knows what the writer has done
//! meanwhile.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lithdb_process_tests::{Rng, scratch};
use lithdb_sim::Tally;
use lithdb_state::{StateDb, StateOptions, View};

use crate::child::{self, Mode, mark};
use crate::history::{Beat, History, digest};
use crate::support::model::rows_of;

/// What views count as.
pub const NEWEST: &str = "newest versions read by other processes";
pub const PAST: &str = "past versions read by other processes";
pub const EXPORTED: &str = "versions exported and imported by other processes";

/// By far more than it takes to start a reader, ask it, and start another one if it was killed.
const PATIENCE: Duration = Duration::from_secs(120);

/// The process: answers the questions on standard input, one line each. `view VERSION LIMIT` and
/// `export VERSION LIMIT`, where `-` is the newest version.
pub fn answer(dir: &Path, _serial: u64) {
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let [what, version, limit] = words[..] else { panic!("a question: {line:?}") };
        let version = (version != "-").then(|| version.parse().unwrap());
        let options = StateOptions::new().view_memory_bytes(limit.parse().unwrap()).hash_threads(1);
        match StateDb::view_only_with(dir, version, options, Default::default()) {
            Ok(view) => {
                let digest =
                    if what == "export" { exported(&view) } else { digest(&rows_of(&view)) };
                mark(format_args!("seen {} {} {digest}", view.version(), view.root()));
            }
            Err(error) => mark(format_args!("refused {:?} {error}", error.kind())),
        }
    }
}

/// Exports a view and imports it elsewhere: the digest of what is there then.
fn exported(view: &View) -> String {
    let mut export = Vec::new();
    view.export(&mut export).unwrap();
    let dir = scratch();
    let path = dir.path().join("imported");
    let options = StateOptions::new().hash_threads(1);
    StateDb::import(&path, &export[..], options.clone(), Some(view.root())).unwrap();
    let imported = StateDb::open(&path, options).unwrap();
    let mut again = Vec::new();
    imported.latest().export(&mut again).unwrap();
    assert!(again == export, "the export of what was imported differs");
    digest(&rows_of(&imported.latest()))
}

/// A question, and the answer.
#[derive(Debug)]
struct Asked {
    is_export: bool,
    /// `None`: the newest.
    version: Option<u64>,
    /// When it was asked, and the newest version that was durable then.
    at: u64,
    durable: u64,
    answer: String,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    /// One reader is to be killed.
    kills: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    killed: Mutex<u64>,
}

pub struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts `count` readers of the store in `dir`.
    pub fn start(dir: PathBuf, beat: &Arc<Beat>, count: u64, seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..count).map(|number| {
            let (dir, beat, shared) = (dir.clone(), Arc::clone(beat), Arc::clone(&shared));
            std::thread::spawn(move || {
                let rng = Rng::of(&[seed, number]);
                Asker { dir, beat, shared, rng }.run();
            })
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// Kills one of them soon; another one takes its place.
    pub fn kill_one(&self) {
        self.shared.kills.store(true, Ordering::SeqCst);
    }

    /// Compares what was answered since the last call.
    pub fn check(&self, history: &History, floor: u64, context: &str, tally: &mut Tally) {
        for asked in std::mem::take(&mut *self.shared.asked.lock().unwrap()) {
            let counter = asked.check(history, floor);
            let counter = counter.unwrap_or_else(|what| panic!("{context}: {what}: {asked:?}"));
            tally.add(counter, 1);
        }
        tally.add("readers killed", std::mem::take(&mut *self.shared.killed.lock().unwrap()));
    }

    /// Waits until one of them has seen a version since the last check. The store stands still.
    pub fn wait_for_a_view(&self, context: &str) {
        let is_view = |asked: &Asked| asked.answer.starts_with("seen ");
        let began = Instant::now();
        while !self.shared.asked.lock().unwrap().iter().any(is_view) {
            assert!(began.elapsed() < PATIENCE, "{context}: no reader sees any version");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets them end.
    pub fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Asked {
    /// What the answer counts as, or what is wrong with it.
    fn check(&self, history: &History, floor: u64) -> Result<&'static str, &'static str> {
        // Versions above may have been missing for a while since it was asked.
        let lowest = history.lowest_newest(self.at, self.durable);
        let words: Vec<&str> = self.answer.split(' ').collect();
        match words[..] {
            ["seen", version, root, digest] => {
                let version: u64 = version.parse().unwrap();
                let life = history.life(root).ok_or("a root that no version had")?;
                let is_gone = life.ended.is_some_and(|ended| ended <= self.at);
                match self.version {
                    _ if life.version != version => Err("the root of another version"),
                    _ if life.digest != digest => Err("rows that are not those of the version"),
                    _ if is_gone => Err("a version that had been rolled back"),
                    Some(wanted) if wanted != version => Err("another version"),
                    None if version < lowest => Err("a version that was not the newest"),
                    _ if self.is_export => Ok(EXPORTED),
                    Some(_) => Ok(PAST),
                    None => Ok(NEWEST),
                }
            }
            ["refused", "Locked", ..] if history.lost_versions_after(self.at) => {
                Ok("reads refused while a rollback was to be finished")
            }
            ["refused", "Missing", ..] if self.durable == 0 => Ok("reads of no store yet"),
            ["refused", "Missing", ..] => match self.version {
                Some(wanted) if wanted < floor => Ok("reads of versions that were collected"),
                Some(wanted) if wanted > lowest => Ok("reads of versions that were rolled back"),
                _ => Err("a refusal of a version that was there"),
            },
            _ => Err("an unexpected answer"),
        }
    }
}

struct Asker {
    dir: PathBuf,
    beat: Arc<Beat>,
    shared: Arc<Shared>,
    rng: Rng,
}

impl Asker {
    fn spawn(&self) -> Child {
        let mut command = child::command(Mode::Read, &self.dir, 0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn run(mut self) {
        while !self.shared.is_over.load(Ordering::SeqCst) {
            let mut process = self.spawn();
            self.ask(&mut process);
            let status = process.wait().unwrap();
            assert!(status.success() || status.code().is_none(), "a reader failed: {status}");
        }
    }

    /// Asks until it is over or the reader was killed.
    fn ask(&mut self, process: &mut Child) {
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut answers = std::iter::from_fn(|| {
            lines.find_map(|line| Some(child::mark_in(&(line.unwrap() + "\n"))?.to_owned()))
        });
        while !self.shared.is_over.load(Ordering::SeqCst) {
            // In this order: what is durable later was durable or was not there.
            let (at, durable, newest) = (self.beat.now(), self.beat.durable(), self.beat.newest());
            let is_export = self.rng.one_in(6);
            let past = newest.saturating_sub(1 + self.rng.below(12));
            let version = (!self.rng.one_in(4) && newest > 1).then_some(past);
            let what = if is_export { "export" } else { "view" };
            let limit = [0, 20_000, 256 << 20][self.rng.below(3) as usize];
            let wanted = version.map_or("-".to_owned(), |version| version.to_string());
            let input = process.stdin.as_mut().unwrap();
            writeln!(input, "{what} {wanted} {limit}").unwrap();
            if self.shared.kills.swap(false, Ordering::SeqCst) {
                std::thread::sleep(Duration::from_micros(self.rng.below(30_000)));
                process.kill().unwrap();
                *self.shared.killed.lock().unwrap() += 1;
                return;
            }
            let answer = answers.next().expect("an answer of the reader");
            let asked = Asked { is_export, version, at, durable, answer };
            self.shared.asked.lock().unwrap().push(asked);
        }
        // It ends with its input.
        drop(process.stdin.take());
        answers.for_each(drop);
    }
}
