//! `lith put`: one value. `--json`: `{"table":…,"key":…,"bytes":…,"position":…}`.

use std::io::Read;
use std::path::{Path, PathBuf};

use lithdb::TableOptions;
use serde_json::json;

use crate::args::parse_table;
use crate::database::Command;
use crate::failure::Failure;
use crate::files::{Buffer, MAX_VALUE_LEN};
use crate::keys::{self, Key};
use crate::output::size;

/// The arguments of `lith put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; created if it is not there
    #[arg(value_parser = parse_table)]
    table: String,
    /// The key, as text or 0x and hex digits. One that is there already gets a newer value
    #[arg(value_parser = keys::parse)]
    key: Key,
    /// The file with the value; standard input if none is named, or for -
    file: Option<PathBuf>,
    /// Create the database if it is not there
    #[arg(long)]
    create: bool,
}

/// Stores one value.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let options = command.options()?;
    // Read before anything is opened: nobody is kept waiting while somebody types.
    let mut buffer = Buffer::default();
    let read;
    let value = match args.file.as_deref().filter(|file| *file != Path::new("-")) {
        Some(path) => buffer.read(path).map_err(|e| Failure::io(path.display(), &e))?,
        None => {
            read = read_standard_input()?;
            &read
        }
    };
    let db = command.open_with(options.create_if_missing(args.create))?;
    let table = db.table(&args.table, TableOptions::new())?;
    let position = table.put(&args.key.0, value)?;
    table.flush()?;
    db.close()?;
    let bytes = value.len() as u64;
    command.out.text(format_args!("{position}  {}  {}", size(bytes), keys::show(&args.key.0)))?;
    command.out.json(&json!({
        "table": args.table,
        "key": keys::show(&args.key.0),
        "bytes": bytes,
        "position": position.to_string(),
    }))
}

fn read_standard_input() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(MAX_VALUE_LEN + 1).read_to_end(&mut value);
    read.map_err(|e| Failure::io("read standard input", &e))?;
    if value.len() as u64 > MAX_VALUE_LEN {
        let message = format!("standard input: longer than a value can be ({MAX_VALUE_LEN} bytes)");
        return Err(Failure::Failed(message));
    }
    Ok(value)
}
