//! `lith load`: every file below a directory. `--json`: `{"table":…,"files":…,"bytes":…,"seconds":…,
//! "bytes_per_second":…,"skipped":{…},"refused":[{"path":…,"cause":…}]}`.

use std::path::PathBuf;
use std::time::Instant;

use lithdb::env::OsFs;
use lithdb::{Table, TableOptions};
use serde_json::json;

use crate::args::parse_table;
use crate::database::Command;
use crate::failure::Failure;
use crate::files::{Buffer, Input, StoreError};
use crate::output::{counted, duration, per_second, print_note, size, throughput, to_json};
use crate::progress::Progress;
use crate::walk::{Flow, Found, Start, Walk};

/// Everything that was put is made durable when there is so much of it.
pub(crate) const FLUSH_BYTES: u64 = 64 << 20;

/// The arguments of `lith load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; created if it is not there
    #[arg(value_parser = parse_table)]
    table: String,
    /// The directory. Links and special files below it are passed by. A file is stored under its name
    path: PathBuf,
    /// Create the database if it is not there
    #[arg(long)]
    create: bool,
}

/// What was stored so far.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    files: u64,
    bytes: u64,
    /// Not flushed yet.
    pending: u64,
}

/// Stores every file. What cannot be stored is named and counted, and makes the command fail in the end.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let options = command.options()?;
    let start = Start::find(&OsFs, &args.path)?;
    if let Some(root) = command.real_roots()?.iter().find(|root| start.root.starts_with(root)) {
        return Err(Failure::failed(format_args!(
            "{}: expected files of somebody else, found the database itself ({})",
            args.path.display(),
            root.display()
        )));
    }
    let db = command.open_with(options.create_if_missing(args.create))?;
    let table = db.table(&args.table, TableOptions::new())?;
    let own = command.real_roots()?;
    let mut walk = Walk::new(&OsFs, &own);
    let mut loader = Loader {
        table: &table,
        buffer: Buffer::default(),
        stored: Stored::default(),
        bar: Progress::counting("loading"),
    };
    let started = Instant::now();
    let loaded = walk.run(&args.path, &mut |found, walk| {
        loader.store(found, walk)?;
        Ok(Flow::Continue)
    });
    let (stored, bar) = (loader.stored, loader.bar);
    if let Err(failure) = loaded {
        drop(bar);
        // The first failure is what is reported; this one only decides what may be said of the files before it.
        let kept = if table.flush().is_ok() { "stored" } else { "put, not all of it durable," };
        if stored.files > 0 {
            let files = counted(stored.files, "file");
            print_note(format_args!("{files} ({}) {kept} before this", size(stored.bytes)));
        }
        return Err(failure);
    }
    table.flush()?;
    db.close()?;
    drop(bar);
    let took = started.elapsed();
    command.out.text(format_args!(
        "{}, {} in {}: {}",
        counted(stored.files, "file"),
        size(stored.bytes),
        duration(took),
        throughput(stored.bytes, took)
    ))?;
    if let Some(skipped) = walk.skipped.describe() {
        command.out.text(format_args!("passed by: {skipped}"))?;
    }
    command.out.document(|| {
        Ok(json!({
            "table": args.table,
            "files": stored.files,
            "bytes": stored.bytes,
            "seconds": took.as_secs_f64(),
            "bytes_per_second": per_second(stored.bytes, took),
            "skipped": to_json(&walk.skipped)?,
            "refused": to_json(&walk.unreadable)?,
        }))
    })?;
    match walk.unreadable.len() as u64 {
        0 => Ok(()),
        refused => Err(Failure::failed(format_args!(
            "{} could not be stored, {} stored",
            counted(refused, "file"),
            counted(stored.files, "file")
        ))),
    }
}

struct Loader<'a> {
    table: &'a Table,
    buffer: Buffer,
    stored: Stored,
    bar: Progress,
}

impl Loader<'_> {
    fn store(&mut self, found: &Found, walk: &mut Walk<'_>) -> Result<(), Failure> {
        let content = match Input::open(&found.path).and_then(|input| self.buffer.begin(input)) {
            Ok(content) => content,
            Err(error) => {
                walk.note_unreadable(&found.path, &error);
                return Ok(());
            }
        };
        let bytes = match content.store(self.table, found.relative.as_bytes()) {
            Ok((_, bytes)) => bytes,
            Err(StoreError::Input(error)) => {
                walk.note_unreadable(&found.path, &error);
                return Ok(());
            }
            Err(StoreError::Refused(error)) => return Err(error.into()),
        };
        self.stored.files += 1;
        self.stored.bytes += bytes;
        self.stored.pending += bytes;
        if self.stored.pending >= FLUSH_BYTES {
            self.table.flush()?;
            self.stored.pending = 0;
        }
        self.bar.done(self.stored.bytes);
        Ok(())
    }
}
