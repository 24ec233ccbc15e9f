//! `lith load`: stores every file below a directory. `--json`: `{"table":…,"files":…,"bytes":…,
//! "seconds":…,"bytes_per_second":…,"skipped":{…},"refused":[{"path":…,"cause":…}]}`.

use std::path::PathBuf;
use std::time::Instant;

use lithdb::{Table, TableOptions};
use lithdb_env::OsFs;
use serde_json::json;

use crate::database::{Context, parse_table};
use crate::failure::Failure;
use crate::files::{Buffer, Input, StoreError};
use crate::output::{counted, duration, per_second, size, throughput, to_json};
use crate::progress::Progress;
use crate::stderr::print_note;
use crate::walk::{Flow, Found, Start, Walk};

/// Flush after this many bytes.
pub(crate) const FLUSH_BYTES: u64 = 64 << 20;

/// The arguments of `lith load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; created if it does not exist
    #[arg(value_parser = parse_table)]
    table: String,
    /// The directory; symbolic links and special files below it are skipped. A single file is
    /// stored under its name
    path: PathBuf,
    /// Create the database if it does not exist
    #[arg(long)]
    create: bool,
}

/// Stored so far.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    files: u64,
    bytes: u64,
    /// Bytes that are not flushed yet.
    pending: u64,
}

/// Stores every file. A file that cannot be stored is named and counted; the command continues,
/// and fails at the end.
pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let options = ctx.options()?;
    let start = Start::find(&OsFs, &args.path)?;
    if let Some(root) = ctx.real_roots()?.iter().find(|root| start.root.starts_with(root)) {
        return Err(Failure::failed(format_args!(
            "{}: expected a path outside the database, found one below its root {}",
            args.path.display(),
            root.display()
        )));
    }
    let db = ctx.open_with(options.create_if_missing(args.create))?;
    let table = db.table(&args.table, TableOptions::new())?;
    let own = ctx.real_roots()?;
    let mut walk = Walk::new(&OsFs, &own);
    let mut loader = Loader {
        table: &table,
        buffer: Buffer::default(),
        stored: Stored::default(),
        bar: Progress::new("loading"),
    };
    let started = Instant::now();
    let loaded = walk.run(&args.path, &mut |found, walk| {
        loader.store(found, walk)?;
        Ok(Flow::Continue)
    });
    let (stored, bar) = (loader.stored, loader.bar);
    if let Err(failure) = loaded {
        drop(bar);
        // The first failure is reported; a failed flush only changes what the note claims.
        let kept = if table.flush().is_ok() { "stored" } else { "written, possibly not durable," };
        if stored.files > 0 {
            let files = counted(stored.files, "file");
            print_note(format_args!("{files} ({}) {kept} before this error", size(stored.bytes)));
        }
        return Err(failure);
    }
    table.flush()?;
    db.close()?;
    drop(bar);
    let took = started.elapsed();
    ctx.out.text(format_args!(
        "{}, {} in {}: {}",
        counted(stored.files, "file"),
        size(stored.bytes),
        duration(took),
        throughput(stored.bytes, took)
    ))?;
    if let Some(skipped) = walk.skipped.describe() {
        ctx.out.text(format_args!("skipped {skipped}"))?;
    }
    ctx.out.document(|| {
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
        self.bar.set(self.stored.bytes, None);
        Ok(())
    }
}
