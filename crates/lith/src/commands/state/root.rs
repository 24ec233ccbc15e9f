//! `lith state root`: prints a version and its root, as the log has them. `--json`:
//! `{"version":…,"root":…}`.

use std::path::Path;

use lithdb_state::StateDb;
use serde_json::json;

use crate::database::Context;
use crate::failure::Failure;

/// The arguments of `lith state root`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The version [default: the newest]
    #[arg(long, value_name = "VERSION")]
    at: Option<u64>,
}

pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let (version, root) = StateDb::root_at(dir, args.at)?;
    ctx.out.text(format_args!("{version} {root}"))?;
    ctx.out.json(&json!({ "version": version, "root": root }))
}
