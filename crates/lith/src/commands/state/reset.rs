//! `lith state reset`: removes a state store from its directory. `--json`: `{"store":…,
//! "removed":[…],"is_log_elsewhere":…}`.

use std::path::Path;

use lithdb_state::{ResetReport, StateDb};

use crate::commands::rollback::confirm;
use crate::database::Context;
use crate::failure::Failure;
use crate::stderr::print_note;

/// The arguments of `lith state reset`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    if ctx.out.is_json() && !args.yes {
        return Err(Failure::usage("--json cannot ask for confirmation: expected --yes"));
    }
    if !args.yes {
        match StateDb::inspect(dir) {
            Ok(found) => print_note(format_args!(
                "{}: version {}, root {}",
                dir.display(),
                found.version,
                found.root
            )),
            Err(error) => print_note(error),
        }
        if !confirm("remove the state store")? {
            return Err(Failure::failed("nothing was changed"));
        }
    }
    let report = StateDb::reset(dir)?;
    let ResetReport { store, removed, is_log_elsewhere, .. } = &report;
    ctx.out.text(format_args!("removed state store {store}: {}", removed.join(", ")))?;
    ctx.out.json(&report)?;
    if *is_log_elsewhere {
        print_note("it had no log of its own: drop its table in the application's database");
    }
    Ok(())
}
