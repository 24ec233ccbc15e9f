//! `lith dump`: prints every readable record of a table's key files. `--json`: one line per
//! record.

use lithdb::Db;

use crate::database::{Context, parse_table};
use crate::failure::Failure;
use crate::keys;
use crate::output::to_json;

/// The arguments of `lith dump`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    #[arg(value_parser = parse_table)]
    table: String,
    /// Only this segment
    #[arg(long, value_name = "N")]
    segment: Option<u32>,
}

pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let options = ctx.options()?;
    // A failed write stops the dump through an error of lithdb; the original failure is returned.
    let mut stopped = None;
    let out = &mut ctx.out;
    let dumped = Db::dump(&options, &args.table, args.segment, &mut |line| {
        out.text(line)
            .and_then(|()| out.document(|| to_json(line).map(keys::normalize_keys)))
            .map_err(|failure| {
                stopped = Some(failure);
                lithdb::Error::new(lithdb::ErrorKind::Closed, "standard output")
            })
    });
    match stopped {
        Some(failure) => Err(failure),
        None => Ok(dumped?),
    }
}
