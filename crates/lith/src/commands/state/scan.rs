//! `lith state scan`: lists the rows of a store. `--json`: one line per row,
//! `{"key":…,"modified_at":…,"bytes":…}`, and with `--values` a `value` as in `lith get`.

use std::ops::Bound;
use std::path::Path;

use lithdb_state::{Row, StoreName};
use serde_json::{Value as Json, json};

use super::{parse_key, parse_store, require_store, view};
use crate::database::Context;
use crate::failure::Failure;
use crate::keys::{self, Key};
use crate::output::{size, with_fields};

/// How many bytes of a value the text output shows.
const SHOWN_VALUE_LEN: usize = 200;

/// The arguments of `lith state scan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The store
    #[arg(value_parser = parse_store)]
    store: StoreName,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", value_parser = parse_key)]
    prefix: Option<Key>,
    /// Start at this key, or at the next in the order if there is no such key
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    from: Option<Key>,
    /// In descending order
    #[arg(long)]
    rev: bool,
    /// Print at most N rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// The version [default: the newest]
    #[arg(long, value_name = "VERSION")]
    at: Option<u64>,
    /// Print values, too: the first 200 bytes, or with --json all
    #[arg(long)]
    values: bool,
}

/// Prints the version that put the row, the length of the value, the key.
pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let view = view(dir, args.at)?;
    require_store(&view, &args.store)?;
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let rows = view.range(args.store.as_str(), args.range())?;
    match args.rev {
        true => show_all(args, ctx, &mut rows.rev().take(limit)),
        false => show_all(args, ctx, &mut rows.take(limit)),
    }
}

impl Args {
    /// The keys that begin with the prefix, from the first to print on.
    fn range(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let (mut lower, mut upper) = (Bound::Unbounded, Bound::Unbounded);
        if let Some(prefix) = &self.prefix {
            lower = Bound::Included(prefix.0.clone());
            upper = prefix_end(&prefix.0).map_or(Bound::Unbounded, Bound::Excluded);
        }
        let Some(Key(from)) = self.from.clone() else { return (lower, upper) };
        // A key outside of the prefix is before all of its keys, or behind them.
        let prefix = self.prefix.as_ref().map_or(&[][..], |prefix| &prefix.0[..]);
        let is_inside = from.starts_with(prefix);
        match self.rev {
            false if is_inside || from.as_slice() > prefix => (Bound::Included(from), upper),
            true if is_inside || from.as_slice() < prefix => (lower, Bound::Included(from)),
            _ => (lower, upper),
        }
    }
}

/// The first key behind all that begin with `prefix`; `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

fn show_all(
    args: &Args,
    ctx: &mut Context,
    rows: &mut dyn Iterator<Item = lithdb_state::Result<Row>>,
) -> Result<(), Failure> {
    for row in rows {
        show(args, ctx, &row?)?;
    }
    Ok(())
}

fn show(args: &Args, ctx: &mut Context, row: &Row) -> Result<(), Failure> {
    let (key, len) = (keys::show(&row.key), row.value.len());
    if ctx.out.is_json() {
        let line = json!({ "key": key, "modified_at": row.modified_at, "bytes": len });
        let value = args.values.then(|| ("value", Json::from(keys::show_value(&row.value))));
        return ctx.out.json(&with_fields(line, value));
    }
    let (modified_at, len) = (row.modified_at, size(len as u64));
    if !args.values {
        return ctx.out.text(format_args!("{modified_at:>12} {len:>10}  {key}"));
    }
    let value = keys::show_prefix(&row.value, SHOWN_VALUE_LEN);
    ctx.out.text(format_args!("{modified_at:>12} {len:>10}  {key} = {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
    }
}
