//! `lith dump`: every record of a table's key files, as far as they can be read. `--json`: a line for each.

use lithdb::Db;

use crate::args::parse_table;
use crate::database::Command;
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

/// Prints every record.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let options = command.options()?;
    // What stops the dump from within must come out as what it was.
    let mut stopped = None;
    let out = &mut command.out;
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
