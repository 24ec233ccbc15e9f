//! `lith scan`: lists records in write order. `--json`: one line per record,
//! `{"key":…,"position":…,"bytes":…,"primary":…}`, and with `--values` a `value` as in `get`.

use lithdb::Entry;
use serde_json::{Value as Json, json};

use crate::database::{Context, existing_table, parse_table};
use crate::failure::Failure;
use crate::keys::{self, Key};
use crate::output::{size, with_fields};

/// How many bytes of a value the text output shows.
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
    /// Start at the newest record of this key and continue to the newest of all; with --rev, to
    /// the oldest
    #[arg(long, value_name = "KEY", value_parser = keys::parse)]
    from: Option<Key>,
    /// Print at most N records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print values, too: the first 200 bytes, or with --json all
    #[arg(long)]
    values: bool,
}

/// Prints position, length of the value, key; `~` before the key marks an alias.
pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open_read_only()?;
    let table = existing_table(&db, &args.table)?;
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let from = args.from.as_ref();
    let Some(key) = from else {
        let all = table.iter()?;
        return match args.rev {
            true => show_all(args, ctx, &mut all.rev().take(limit)),
            false => show_all(args, ctx, &mut all.take(limit)),
        };
    };
    let Some(mut following) = table.iter_from(&key.0)? else {
        return Err(Failure::no_such_key(&key.0, &args.table));
    };
    if !args.rev {
        return show_all(args, ctx, &mut following.take(limit));
    }
    let Some(newest) = following.next().transpose()? else { return Ok(()) };
    let all = table.iter()?;
    let is_newer = |entry: &lithdb::Result<Entry>| match entry {
        Ok(entry) => entry.position() > newest.position(),
        // An error is not skipped: it is returned.
        Err(_) => false,
    };
    show_all(args, ctx, &mut all.rev().skip_while(is_newer).take(limit))
}

fn show_all(
    args: &Args,
    ctx: &mut Context,
    entries: &mut dyn Iterator<Item = lithdb::Result<Entry>>,
) -> Result<(), Failure> {
    for entry in entries {
        show(args, ctx, &entry?)?;
    }
    Ok(())
}

fn show(args: &Args, ctx: &mut Context, entry: &Entry) -> Result<(), Failure> {
    let (key, position) = (keys::show(entry.key()), entry.position().to_string());
    let value = if args.values { Some(entry.value()?) } else { None };
    if ctx.out.is_json() {
        let line = json!({
            "key": key,
            "position": position,
            "bytes": entry.value_len(),
            "primary": entry.is_primary(),
        });
        let value = value.map(|value| ("value", Json::from(keys::show_value(&value))));
        return ctx.out.json(&with_fields(line, value));
    }
    let alias = if entry.is_primary() { ' ' } else { '~' };
    let len = size(u64::from(entry.value_len()));
    match value {
        None => ctx.out.text(format_args!("{position:>12} {len:>10} {alias}{key}")),
        Some(value) => {
            let value = keys::show_prefix(&value, SHOWN_VALUE_LEN);
            ctx.out.text(format_args!("{position:>12} {len:>10} {alias}{key} = {value}"))
        }
    }
}
