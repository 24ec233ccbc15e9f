//! `lith state apply`: commits versions. `--json`: `{"versions":…,"changes":…,"seconds":…,
//! "version":…,"root":…}`: what was committed, and the newest version and its root.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lithdb_state::{Durability, StateDb};
use serde_json::json;

use super::input::{Change, Changes};
use super::{open, options};
use crate::database::Context;
use crate::failure::Failure;
use crate::files;
use crate::output::{counted, duration};
use crate::progress::Progress;
use crate::stderr::print_note;

/// The format of the input, below the help.
pub(super) const FORMAT: &str = "\
Each line is {\"version\":1,\"store\":\"bank\",\"put\":{\"alice\":\"7\"},\"delete\":[\"bob\"]}
Keys and values are text, or 0x and hex digits. Successive lines with the same \
version are committed together. What was committed is durable whenever the input \
has to be waited for, and at the end.";

/// The arguments of `lith state apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file with the versions; - is standard input
    file: PathBuf,
    /// Create the state store if it does not exist; its first version is the first in the file
    #[arg(long)]
    create: bool,
}

/// Committed so far.
#[derive(Debug, Default)]
struct Committed {
    versions: u64,
    changes: u64,
    /// Whether some of it may not be durable.
    is_undurable: bool,
}

/// Reads the first line before opening: an input that has not begun does not hold the lock, and a
/// wrong file creates nothing.
pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let (mut input, total) = args.input()?;
    let first = input.next(&mut || Ok(()))?;
    let mut options = options().create_if_missing(args.create).durability(Durability::OnFlush);
    if let Some(first) = &first {
        if first.version == 0 {
            let at = input.at(first.line);
            return Err(Failure::failed(format_args!("{at}: version 0; expected at least 1")));
        }
        options = options.initial_version(first.version);
    }
    let db = open(dir, options)?;
    let started = Instant::now();
    let mut committed = Committed::default();
    let applied = apply(&db, first, &mut input, total, &mut committed);
    // Flushes what was committed, also before a refused line.
    let closed = db.close();
    if let Err(failure) = applied {
        if committed.versions > 0 {
            let kept = if closed.is_ok() { "committed" } else { "committed, not all durable," };
            let count = counted(committed.versions, "version");
            print_note(format_args!("{count} {kept} before this error; newest: {}", db.version()));
        }
        return Err(failure);
    }
    closed?;
    report(&committed, &db, started.elapsed(), ctx)
}

impl Args {
    /// The input, and its length if it is known.
    fn input(&self) -> Result<(Changes, Option<u64>), Failure> {
        if self.file == Path::new("-") {
            let input: Box<dyn Read> = Box::new(std::io::stdin().lock());
            return Ok((Changes::new("standard input".to_owned(), input), None));
        }
        let name = self.file.display().to_string();
        let (input, len) = files::stream(&self.file).map_err(|e| Failure::io(&name, &e))?;
        Ok((Changes::new(name, input), len))
    }
}

/// Applies line by line: what is in memory is what the state store takes as one commit.
fn apply(
    db: &StateDb,
    first: Option<Change>,
    input: &mut Changes,
    total: Option<u64>,
    committed: &mut Committed,
) -> Result<(), Failure> {
    let mut bar = Progress::new("applying");
    let mut next = first;
    while let Some(Change { version, set, line: first_line }) = next {
        let (mut set, mut line, mut changes) = (set, first_line, 0);
        next = loop {
            if let Some(set) = set.take() {
                changes += set.len() as u64;
                db.apply(version, &[set]).map_err(|error| error.context(input.at(line)))?;
            }
            let read = input.next(&mut || {
                if std::mem::take(&mut committed.is_undurable) {
                    db.flush()?;
                }
                Ok(())
            })?;
            match read {
                Some(same) if same.version == version => (set, line) = (same.set, same.line),
                other => break other,
            }
        };
        db.commit(version).map_err(|error| error.context(input.at(first_line)))?;
        committed.versions += 1;
        committed.changes += changes;
        committed.is_undurable = true;
        bar.set(input.bytes_read, total);
    }
    Ok(())
}

fn report(
    committed: &Committed,
    db: &StateDb,
    took: Duration,
    ctx: &mut Context,
) -> Result<(), Failure> {
    let Committed { versions, changes, .. } = committed;
    let (version, root) = (db.version(), db.root());
    ctx.out.text(format_args!(
        "{}, {} in {}\n  version {version}\n  root {root}",
        counted(*versions, "version"),
        counted(*changes, "change"),
        duration(took)
    ))?;
    ctx.out.json(&json!({
        "versions": versions,
        "changes": changes,
        "seconds": took.as_secs_f64(),
        "version": version,
        "root": root,
    }))
}
