//! `lith get`: writes one value, unmodified. `--json`: `{"table":…,"key":…,"bytes":…,"value":…}`,
//! the value as text, or as `0x` and hex digits if it is not UTF-8 or begins with `0x`; with
//! `--output` the path of the file as `output` instead of `value`.

use std::io;
use std::path::PathBuf;

use lithdb::Table;
use serde_json::json;

use crate::database::{Context, existing_table, parse_table};
use crate::failure::Failure;
use crate::files;
use crate::keys::{self, Key};
use crate::output::size;

/// The longest value in JSON: it is in memory several times.
const MAX_JSON_VALUE_BYTES: usize = 64 << 20;

/// The arguments of `lith get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    #[arg(value_parser = parse_table)]
    table: String,
    /// The key: text, or 0x and hex digits
    #[arg(value_parser = keys::parse)]
    key: Key,
    /// Write the value to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Streams the value; the engine verifies all of it first.
pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open_read_only()?;
    let table = existing_table(&db, &args.table)?;
    let (bytes, field, shown) = if let Some(path) = &args.output {
        let cannot = |error: io::Error| Failure::io(path.display(), &error);
        let mut bytes = 0;
        files::write(path, &mut |out| {
            bytes = stream_value(args, &table, &mut |piece| out.write_all(piece).map_err(cannot))?;
            Ok(())
        })?;
        (bytes, "output", path.display().to_string())
    } else if ctx.out.is_json() {
        let mut value = Vec::new();
        let bytes = stream_value(args, &table, &mut |piece| {
            if value.len() + piece.len() > MAX_JSON_VALUE_BYTES {
                return Err(Failure::failed(format_args!(
                    "expected a value of at most {} with --json, found a longer one; \
                     use --output FILE",
                    size(MAX_JSON_VALUE_BYTES as u64)
                )));
            }
            value.extend_from_slice(piece);
            Ok(())
        })?;
        (bytes, "value", keys::show_value(&value))
    } else {
        return stream_value(args, &table, &mut |piece| ctx.out.raw(piece)).map(|_| ());
    };
    ctx.out.json(&json!({
        "table": args.table,
        "key": keys::show(&args.key.0),
        "bytes": bytes,
        (field): shown,
    }))
}

/// Passes the value to `each`, piece by piece; returns its length.
fn stream_value(
    args: &Args,
    table: &Table,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<u32, Failure> {
    // A failure of `each` stops the read through an error of lithdb; the original failure is
    // returned.
    let mut stopped = None;
    let given = table.get_chunked(&args.key.0, &mut |piece| {
        each(piece).map_err(|failure| {
            stopped = Some(failure);
            lithdb::Error::new(lithdb::ErrorKind::Closed, "standard output")
        })
    });
    match (given, stopped) {
        (_, Some(failure)) => Err(failure),
        (Ok(None), None) => Err(Failure::no_such_key(&args.key.0, &args.table)),
        (Ok(Some(len)), None) => Ok(len),
        (Err(error), None) => Err(error.into()),
    }
}
