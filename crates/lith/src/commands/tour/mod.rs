//! `lith tour`: the engine at work on real files, every claim checked. `--json`: one document,
//! `{"tree":…,"files":…,"bytes":…,"database":…,"kept":…,"steps":[…],"changed":[…],"wrong":[…],"passed":…}`.
//!
//! The files are whatever is there; what is compared is what was read when they were loaded. A file that somebody
//! changes meanwhile is told from a wrong answer by the digest that was taken of it then.

mod compare;
mod steps;
mod tour_dir;
mod tree;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lithdb::{ErrorKind, TableOptions};
use serde::Serialize;
use serde_json::json;

use self::compare::{Loaded, Tally};
use self::tour_dir::TourDir;
use self::tree::Tree;
use crate::database::Command;
use crate::failure::Failure;
use crate::output::{counted, duration, per_second, size, throughput, to_json};

/// The table that the tour uses.
const TABLE: &str = "files";

/// The arguments of `lith tour`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tree of files; the Cargo project around the current directory, built dependencies included, if none is
    /// named, or else the directory of this program
    path: Option<PathBuf>,
    /// Take no more than so many bytes
    #[arg(long, value_name = "SIZE", value_parser = lithdb::env::human::parse_size, default_value = "2GiB")]
    max_bytes: u64,
    /// Take no more than so many files
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    max_files: u64,
    /// Make the database in this directory, which must be new or empty, and keep it, whatever ends the tour
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// One step of the tour, done.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<f64>,
    what: String,
}

/// The tour under way.
struct Tour<'a> {
    command: &'a mut Command,
    options: lithdb::DbOptions,
    table_options: TableOptions,
    loaded: Loaded,
    tally: Tally,
    steps: Vec<Step>,
}

/// Leads through it.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    if !command.roots.is_empty() {
        return Err(Failure::usage(
            "the tour makes a database of its own: expected no --db; --keep DIR says where",
        ));
    }
    let started = Instant::now();
    let mut tour_dir = TourDir::choose(args.keep.as_deref())?;
    // A tree without files is refused before anything is created.
    let tree = Tree::choose(args, &tour_dir)?;
    tour_dir.make()?;
    let wrong = match run_steps(args, command, &tour_dir, &tree, started) {
        Ok(tally) => tally
            .wrong
            .first()
            .map(|first| Failure::failed(format_args!("the tour found a mismatch: {first}"))),
        Err(failure) => Some(failure),
    };
    // What went wrong is there to be looked at. A full disk is no evidence of anything.
    let is_evidence = match &wrong {
        Some(Failure::Refused(error)) => error.kind() != ErrorKind::StorageFull,
        wrong => wrong.is_some(),
    };
    let path = tour_dir.path().display().to_string();
    match wrong {
        Some(failure) if is_evidence || tour_dir.is_kept() => {
            tour_dir.keep();
            Err(Failure::failed(format_args!("{failure}; the database is in {path}")))
        }
        Some(failure) => Err(failure),
        None if tour_dir.is_kept() => command.out.text(format_args!("The database is in {path}")),
        None => tour_dir.remove(),
    }
}

fn run_steps(
    args: &Args,
    command: &mut Command,
    tour_dir: &TourDir,
    tree: &Tree,
    started: Instant,
) -> Result<Tally, Failure> {
    let end_of_place = if tour_dir.is_kept() { "kept" } else { "removed at the end" };
    command.out.text(format_args!(
        "{} of real files ({}) below {}",
        size(tree.bytes),
        counted(tree.files.len() as u64, "file"),
        tree.root.display()
    ))?;
    for note in tree.notes(args) {
        command.out.text(format_args!("  {note}"))?;
    }
    command.out.text(format_args!(
        "into a new database with two roots in {} ({end_of_place})\n",
        tour_dir.path().display()
    ))?;
    command.out.flush()?;
    let segment_bytes = (tree.bytes / 16).clamp(256 << 10, 64 << 20);
    let mut tour = Tour {
        options: command.options_for(&tour_dir.roots()),
        table_options: TableOptions::new().segment_bytes(segment_bytes),
        loaded: Loaded::default(),
        tally: Tally::default(),
        steps: Vec::new(),
        command,
    };
    let db = tour.load(tree)?;
    tour.read_back(&db)?;
    tour.reopen(db)?;
    let db = tour.expire()?;
    tour.read_while_writing(&db)?;
    db.close()?;
    drop(db);
    tour.roll_back()?;
    tour.verify()?;
    tour.report_summary(tour_dir, tree, started.elapsed())
}

impl Tour<'_> {
    /// Tells of a step that is done.
    fn report_step(
        &mut self,
        name: &'static str,
        took: Duration,
        bytes: Option<u64>,
        what: String,
    ) -> Result<(), Failure> {
        let number = self.steps.len() + 1;
        let rate = bytes.map_or_else(String::new, |bytes| format!(", {}", throughput(bytes, took)));
        let time = duration(took);
        self.command.out.text(format_args!("{number}. {name}  ({time}{rate})\n   {what}"))?;
        self.command.out.flush()?;
        self.steps.push(Step {
            name,
            seconds: took.as_secs_f64(),
            bytes,
            bytes_per_second: bytes.map(|bytes| per_second(bytes, took)),
            what,
        });
        Ok(())
    }

    fn report_summary(
        self,
        tour_dir: &TourDir,
        tree: &Tree,
        took: Duration,
    ) -> Result<Tally, Failure> {
        let Self { command, tally, steps, .. } = self;
        let out = &mut command.out;
        let is_well = tally.wrong.is_empty();
        out.text("")?;
        if !tally.changed.is_empty() {
            let files = counted(tally.changed.len() as u64, "file");
            out.text(format_args!("{files} changed on disk meanwhile (not an error), such as:"))?;
            for path in tally.changed.iter().take(3) {
                out.text(format_args!("  {path}"))?;
            }
        }
        for wrong in tally.wrong.iter().take(10) {
            out.text(format_args!("WRONG: {wrong}"))?;
        }
        let verdict = if is_well { "All as promised" } else { "NOT as promised" };
        let compared = tally.compared;
        out.text(format_args!(
            "{verdict}: {} compared byte by byte, {} in all, in {}.",
            counted(compared, "answer"),
            size(tally.bytes),
            duration(took)
        ))?;
        let keeps = tour_dir.is_kept() || !is_well;
        if !keeps {
            out.text(format_args!(
                "The database was in {} and is gone.",
                tour_dir.path().display()
            ))?;
        }
        out.document(|| {
            Ok(json!({
                "tree": tree.root.display().to_string(),
                "files": tree.files.len(),
                "bytes": tree.bytes,
                "database": tour_dir.path().display().to_string(),
                "kept": keeps,
                "seconds": took.as_secs_f64(),
                "steps": to_json(&steps)?,
                "compared": compared,
                "changed": tally.changed,
                "wrong": tally.wrong,
                "passed": is_well,
            }))
        })?;
        Ok(tally)
    }
}
