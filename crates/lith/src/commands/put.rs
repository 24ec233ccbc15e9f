//! `lith put`: stores one value. `--json`: `{"table":…,"key":…,"bytes":…,"position":…}`.

use std::path::{Path, PathBuf};

use lithdb::TableOptions;
use serde_json::json;

use crate::database::{Context, parse_table};
use crate::failure::Failure;
use crate::files::{Buffer, Input, StoreError};
use crate::keys::{self, Key};
use crate::output::size;

/// The arguments of `lith put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; created if it does not exist
    #[arg(value_parser = parse_table)]
    table: String,
    /// The key: text, or 0x and hex digits. An existing key gets a newer value
    #[arg(value_parser = keys::parse)]
    key: Key,
    /// The file with the value [default: -, standard input]
    file: Option<PathBuf>,
    /// Create the database if it does not exist
    #[arg(long)]
    create: bool,
}

pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let options = ctx.options()?;
    // Reads the beginning before opening: a slow standard input does not hold the lock.
    let named = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let name = named.map_or("standard input".to_owned(), |path| path.display().to_string());
    let mut buffer = Buffer::default();
    let input = named.map_or_else(|| Ok(Input::stdin()), Input::open);
    let content =
        input.and_then(|input| buffer.begin(input)).map_err(|e| Failure::io(&name, &e))?;
    let db = ctx.open_with(options.create_if_missing(args.create))?;
    let table = db.table(&args.table, TableOptions::new())?;
    let (position, bytes) = content.store(&table, &args.key.0).map_err(|why| match why {
        StoreError::Input(error) => Failure::io(&name, &error),
        StoreError::Refused(error) => error.into(),
    })?;
    table.flush()?;
    db.close()?;
    ctx.out.text(format_args!("{position}  {}  {}", size(bytes), keys::show(&args.key.0)))?;
    ctx.out.json(&json!({
        "table": args.table,
        "key": keys::show(&args.key.0),
        "bytes": bytes,
        "position": position.to_string(),
    }))
}
