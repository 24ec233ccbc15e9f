//! `lith get`: one value, byte for byte. `--json`: `{"table":…,"key":…,"bytes":…,"value":…}`, the value as text, or as
//! `0x` and hex digits if it is not UTF-8 (or text that begins with `0x`); with `--output` its path as `output` instead of the value.

use std::path::PathBuf;

use serde::Serialize;

use crate::args::parse_table;
use crate::database::{Command, existing_table};
use crate::failure::Failure;
use crate::files;
use crate::keys::{self, Key};

/// The arguments of `lith get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    #[arg(value_parser = parse_table)]
    table: String,
    /// The key, as text or 0x and hex digits
    #[arg(value_parser = keys::parse)]
    key: Key,
    /// Write the value to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer<'a> {
    table: &'a str,
    key: String,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// Writes one value out.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open_read_only()?;
    let table = existing_table(&db, &args.table)?;
    let key = keys::show(&args.key.0);
    let Some(value) = table.get(&args.key.0)? else {
        return Err(Failure::failed(format_args!("not found: key {key} in table {}", args.table)));
    };
    let mut answer =
        Answer { table: &args.table, key, bytes: value.len(), value: None, output: None };
    if let Some(path) = &args.output {
        files::write(path, &value).map_err(|e| Failure::io(path.display(), &e))?;
        answer.output = Some(path.display().to_string());
    } else if command.out.is_json() {
        answer.value = Some(keys::show_value(&value));
    } else {
        command.out.raw(&value)?;
    }
    command.out.json(&answer)
}
