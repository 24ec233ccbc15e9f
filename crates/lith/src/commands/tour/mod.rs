//! `lith tour`: demonstrates the engine on real files and checks every claim. `--json`: one
//! document,
//! `{"tree":…,"files":…,"bytes":…,"database":…,"kept":…,"seconds":…,"steps":[…],"compared":…,
//! "changed":[…],"wrong":[…],"passed":…}`.
//!
//! Answers are compared with what was read at loading. The digest taken then distinguishes a wrong
//! answer from a file that changed meanwhile.

mod compare;
mod state;
mod steps;
mod tour_dir;
mod tree;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lithdb::{ErrorKind, TableOptions};
use serde_json::{Value as Json, json};

use self::compare::{Loaded, Tally};
use self::tour_dir::TourDir;
use self::tree::Tree;
use crate::database::Context;
use crate::failure::Failure;
use crate::output::{counted, duration, per_second, size, throughput, with_fields};

/// The table that the tour uses.
const TABLE: &str = "files";

/// The arguments of `lith tour`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory to load [default: the Cargo project around the current directory, with its
    /// build output; without one, the directory of this program]
    path: Option<PathBuf>,
    /// Load at most SIZE bytes
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = lithdb_env::human::parse_size)]
    max_bytes: u64,
    /// Load at most N files
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    max_files: u64,
    /// Create the database in this directory, which must be empty or not exist, and keep it in any
    /// case
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// A running tour.
struct Tour<'a> {
    ctx: &'a mut Context,
    options: lithdb::DbOptions,
    table_options: TableOptions,
    loaded: Loaded,
    tally: Tally,
    /// The finished steps, in JSON.
    steps: Vec<Json>,
}

pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    if !ctx.roots.is_empty() {
        return Err(Failure::usage(
            "the tour creates its own database: expected no --db; use --keep DIR",
        ));
    }
    let started = Instant::now();
    let mut tour_dir = TourDir::choose(args.keep.as_deref())?;
    // Refuses an empty tree before anything is created.
    let tree = Tree::choose(args, &tour_dir)?;
    tour_dir.make()?;
    let wrong = match run_steps(args, ctx, &tour_dir, &tree, started) {
        Ok(tally) => {
            tally.wrong.first().map(|first| Failure::failed(format_args!("tour failed: {first}")))
        }
        Err(failure) => Some(failure),
    };
    // A database that failed is kept as evidence, except when the disk was full.
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
        None if tour_dir.is_kept() => ctx.out.text(format_args!("The database is in {path}")),
        None => tour_dir.remove(),
    }
}

fn run_steps(
    args: &Args,
    ctx: &mut Context,
    tour_dir: &TourDir,
    tree: &Tree,
    started: Instant,
) -> Result<Tally, Failure> {
    let dir_outcome = if tour_dir.is_kept() { "kept" } else { "removed at the end" };
    ctx.out.text(format_args!(
        "loading {} ({}) below {}",
        size(tree.bytes),
        counted(tree.files.len() as u64, "file"),
        tree.root.display()
    ))?;
    for note in tree.notes(args) {
        ctx.out.text(format_args!("  {note}"))?;
    }
    ctx.out.text(format_args!(
        "into a new database with two roots in {} ({dir_outcome})\n",
        tour_dir.path().display()
    ))?;
    ctx.out.flush()?;
    let segment_bytes = (tree.bytes / 16).clamp(256 << 10, 64 << 20);
    let mut tour = Tour {
        options: ctx.options_for(&tour_dir.roots()),
        table_options: TableOptions::new().segment_bytes(segment_bytes),
        loaded: Loaded::default(),
        tally: Tally::default(),
        steps: Vec::new(),
        ctx,
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
    tour.state(&tour_dir.state())?;
    tour.report_summary(tour_dir, tree, started.elapsed())
}

impl Tour<'_> {
    /// Prints and records a finished step.
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
        self.ctx.out.text(format_args!("{number}. {name}  ({time}{rate})\n   {what}"))?;
        self.ctx.out.flush()?;
        let step = json!({ "name": name, "seconds": took.as_secs_f64(), "what": what });
        let fields = bytes.map(|bytes| {
            let rate = per_second(bytes, took);
            [("bytes", Json::from(bytes)), ("bytes_per_second", Json::from(rate))]
        });
        self.steps.push(with_fields(step, fields.into_iter().flatten()));
        Ok(())
    }

    fn report_summary(
        self,
        tour_dir: &TourDir,
        tree: &Tree,
        took: Duration,
    ) -> Result<Tally, Failure> {
        let Self { ctx, tally, steps, .. } = self;
        let out = &mut ctx.out;
        let passed = tally.wrong.is_empty();
        out.text("")?;
        if !tally.changed.is_empty() {
            let files = counted(tally.changed.len() as u64, "file");
            out.text(format_args!("{files} changed on disk meanwhile (no error), such as:"))?;
            for path in tally.changed.iter().take(3) {
                out.text(format_args!("  {path}"))?;
            }
        }
        for wrong in tally.wrong.iter().take(10) {
            out.text(format_args!("WRONG: {wrong}"))?;
        }
        let verdict = if passed { "PASSED" } else { "FAILED" };
        let compared = tally.compared;
        out.text(format_args!(
            "{verdict}: {} compared, {} in total, in {}.",
            counted(compared, "answer"),
            size(tally.bytes),
            duration(took)
        ))?;
        let is_kept = tour_dir.is_kept() || !passed;
        if !is_kept {
            out.text(format_args!("The database in {} is removed.", tour_dir.path().display()))?;
        }
        out.document(|| {
            Ok(json!({
                "tree": tree.root.display().to_string(),
                "files": tree.files.len(),
                "bytes": tree.bytes,
                "database": tour_dir.path().display().to_string(),
                "kept": is_kept,
                "seconds": took.as_secs_f64(),
                "steps": steps,
                "compared": compared,
                "changed": tally.changed,
                "wrong": tally.wrong,
                "passed": passed,
            }))
        })?;
        Ok(tally)
    }
}
