//! `lith scan`: records in the order in which they were put. `--json`: a line for each,
//! `{"key":…,"position":…,"bytes":…,"primary":…}`, with `value` as in `get` for `--values`.

use lithdb::Entry;
use serde::Serialize;

use crate::args::parse_table;
use crate::database::{Command, existing_table};
use crate::failure::Failure;
use crate::keys::{self, Key};
use crate::output::size;

/// How much of a value is shown to people.
const SHOWN_VALUE_LEN: usize = 200;

/// The arguments of `lith scan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    #[arg(value_parser = parse_table)]
    table: String,
    /// Newest first
    #[arg(long)]
    rev: bool,
    /// Begin with the newest record of this key and go to the newest of all; with --rev, go to the oldest of all
    #[arg(long, value_name = "KEY", value_parser = keys::parse)]
    from: Option<Key>,
    /// No more than so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show values, too: the beginning of each, or with --json all of it
    #[arg(long)]
    values: bool,
}

#[derive(Serialize)]
struct Line {
    key: String,
    position: String,
    bytes: u32,
    primary: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// Lists records: position, length of the value, key; an alias has a `~`.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open_read_only()?;
    let table = existing_table(&db, &args.table)?;
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let from = args.from.as_ref();
    let Some(key) = from else {
        let all = table.iter()?;
        return match args.rev {
            true => show_all(args, command, &mut all.rev().take(limit)),
            false => show_all(args, command, &mut all.take(limit)),
        };
    };
    let Some(mut behind) = table.iter_from(&key.0)? else {
        return Err(Failure::no_such_key(&key.0, &args.table));
    };
    if !args.rev {
        return show_all(args, command, &mut behind.take(limit));
    }
    let Some(newest) = behind.next().transpose()? else { return Ok(()) };
    let all = table.iter()?;
    let is_newer = |entry: &lithdb::Result<Entry>| match entry {
        Ok(entry) => entry.position() > newest.position(),
        // Nothing to skip: it is shown.
        Err(_) => false,
    };
    show_all(args, command, &mut all.rev().skip_while(is_newer).take(limit))
}

fn show_all(
    args: &Args,
    command: &mut Command,
    entries: &mut dyn Iterator<Item = lithdb::Result<Entry>>,
) -> Result<(), Failure> {
    for entry in entries {
        show(args, command, &entry?)?;
    }
    Ok(())
}

fn show(args: &Args, command: &mut Command, entry: &Entry) -> Result<(), Failure> {
    let (key, position) = (keys::show(entry.key()), entry.position().to_string());
    let value = if args.values { Some(entry.value()?) } else { None };
    if command.out.is_json() {
        return command.out.json(&Line {
            key,
            position,
            bytes: entry.value_len(),
            primary: entry.is_primary(),
            value: value.map(|value| keys::show_value(&value)),
        });
    }
    let alias = if entry.is_primary() { ' ' } else { '~' };
    let len = size(u64::from(entry.value_len()));
    match value {
        None => command.out.text(format_args!("{position:>12} {len:>10} {alias}{key}")),
        Some(value) => {
            let value = keys::show_prefix(&value, SHOWN_VALUE_LEN);
            command.out.text(format_args!("{position:>12} {len:>10} {alias}{key} = {value}"))
        }
    }
}
