//! `lith state get`: writes one value, unmodified. `--json`: `{"store":…,"key":…,"version":…,
//! "modified_at":…,"bytes":…,"value":…}`, the value as in `lith get`.

use std::path::Path;

use lithdb_state::StoreName;
use serde_json::json;

use super::{parse_key, parse_store, require_store, view};
use crate::database::Context;
use crate::failure::Failure;
use crate::keys::{self, Key};

/// The arguments of `lith state get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The store
    #[arg(value_parser = parse_store)]
    store: StoreName,
    /// The key: text, or 0x and hex digits
    #[arg(value_parser = parse_key)]
    key: Key,
    /// The version [default: the newest]
    #[arg(long, value_name = "VERSION")]
    at: Option<u64>,
}

pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let view = view(dir, args.at)?;
    require_store(&view, &args.store)?;
    let (store, key) = (&args.store, &args.key.0);
    let row = view.range::<Vec<u8>>(store.as_str(), key..=key)?.next().transpose()?;
    let Some(row) = row else {
        let place = format_args!("store {store} in version {}", view.version());
        return Err(Failure::no_such_key_in(key, place));
    };
    if !ctx.out.is_json() {
        return ctx.out.raw(&row.value);
    }
    ctx.out.json(&json!({
        "store": store,
        "key": keys::show(key),
        "version": view.version(),
        "modified_at": row.modified_at,
        "bytes": row.value.len(),
        "value": keys::show_value(&row.value),
    }))
}
