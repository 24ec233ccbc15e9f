//! `lith state diff`: lists the rows in which two versions differ. `--json`: one line per row,
//! `{"store":…,"key":…,"change":"added"|"removed"|"changed"|"put_again","before":{"modified_at":…,
//! "bytes":…},"after":{…}}`, `before` or `after` null if the row is absent, and with `--values` a
//! `value` in each, as in `lith get`.

use std::path::Path;

use lithdb_state::{Difference, Row, StoreName};
use serde_json::{Value as Json, json};

use super::{parse_store, view};
use crate::database::Context;
use crate::failure::Failure;
use crate::keys;
use crate::output::with_fields;

/// How many bytes of a value the text output shows.
const SHOWN_VALUE_LEN: usize = 100;

/// The arguments of `lith state diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The one version
    before: u64,
    /// The other version
    after: u64,
    /// Only this store
    #[arg(value_parser = parse_store)]
    store: Option<StoreName>,
    /// Print values, too: the first 100 bytes, or with --json all
    #[arg(long)]
    values: bool,
}

/// Prints `+` for a row that was added, `-` for one that was removed, `~` for another value, `=`
/// for the same value that was put again.
pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let (before, after) = (view(dir, Some(args.before))?, view(dir, Some(args.after))?);
    for difference in before.diff(&after, args.store.as_ref().map(StoreName::as_str))? {
        show(args, ctx, &difference?)?;
    }
    Ok(())
}

fn show(args: &Args, ctx: &mut Context, difference: &Difference) -> Result<(), Failure> {
    let Difference { store, key, before, after, .. } = difference;
    let key = keys::show(key);
    let (sign, change) = match (before, after) {
        (None, _) => ('+', "added"),
        (_, None) => ('-', "removed"),
        (Some(before), Some(after)) if before.value == after.value => ('=', "put_again"),
        _ => ('~', "changed"),
    };
    if !ctx.out.is_json() {
        let value = |row: &Option<Row>| {
            let row = row.as_ref().filter(|_| args.values)?;
            Some(keys::show_prefix(&row.value, SHOWN_VALUE_LEN))
        };
        let values = match (value(before), value(after)) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!(" = {one}"),
            (Some(before), Some(after)) => format!(" = {before} -> {after}"),
        };
        return ctx.out.text(format_args!("{sign} {store} {key}{values}"));
    }
    let row = |row: &Option<Row>| {
        let Some(row) = row else { return Json::Null };
        let fields = json!({ "modified_at": row.modified_at, "bytes": row.value.len() });
        let value = args.values.then(|| ("value", Json::from(keys::show_value(&row.value))));
        with_fields(fields, value)
    };
    ctx.out.json(&json!({
        "store": store,
        "key": key,
        "change": change,
        "before": row(before),
        "after": row(after),
    }))
}
