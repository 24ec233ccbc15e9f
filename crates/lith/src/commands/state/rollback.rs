//! `lith state rollback`: rewinds a stopped state store. `--json`: `{"plan":{"target":…,"newest":…,
//! "reach":{…},"versions_removed":…,"snapshots_removed":[…]},"executed":…,"report":{"version":…,
//! "root":…,"opened":{…},"snapshots_removed":[…],"problems":[…]}}`.

use std::path::Path;
use std::time::Instant;

use lithdb_state::{StateRollback, StateRollbackPlan, StateRollbackReport};
use serde_json::json;

use super::{open, options};
use crate::commands::rollback::confirm;
use crate::database::Context;
use crate::failure::Failure;
use crate::output::{counted, duration, to_json};
use crate::progress::Spinner;
use crate::stderr::print_note;

/// The arguments of `lith state rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The version to return to; everything newer is removed
    version: u64,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Plans, shows the plan, asks, and rolls back.
pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    if ctx.out.is_json() && !(args.yes || args.dry_run) {
        return Err(Failure::usage(
            "--json cannot ask for confirmation: expected --yes or --dry-run",
        ));
    }
    let plan = match plan(args, dir) {
        // A decided rollback is finished whatever the user requests next.
        Err(error) if error.is_rollback_pending() && !args.dry_run => {
            print_note("finishing an interrupted rollback first");
            open(dir, options())?.close()?;
            plan(args, dir)?
        }
        planned => planned?,
    };
    execute(args, plan, ctx)
}

fn plan(args: &Args, dir: &Path) -> lithdb_state::Result<StateRollbackPlan> {
    let _spinner = Spinner::new("planning");
    StateRollback::new(dir).options(options()).plan(args.version)
}

fn execute(args: &Args, plan: StateRollbackPlan, ctx: &mut Context) -> Result<(), Failure> {
    // A plan that cannot be serialized is executed all the same.
    let shown = ctx.out.is_json().then(|| to_json(&plan));
    let done = |executed: bool, report: Option<StateRollbackReport>| {
        let (plan, report) = (shown.transpose()?, to_json(&report)?);
        Ok(json!({ "plan": plan, "executed": executed, "report": report }))
    };
    ctx.out.text(&plan)?;
    if plan.versions_removed == 0 || args.dry_run {
        let is_empty = plan.versions_removed == 0;
        let nothing = if is_empty { "nothing to roll back" } else { "nothing was changed" };
        ctx.out.text(nothing)?;
        return ctx.out.document(|| done(false, None));
    }
    ctx.out.flush()?;
    if !args.yes && !confirm("roll back")? {
        return Err(Failure::failed("nothing was changed"));
    }
    let started = Instant::now();
    let spinner = Spinner::new("rolling back");
    let report = plan.execute()?;
    drop(spinner);
    report.problems.iter().for_each(print_note);
    ctx.out.text(format_args!(
        "rolled back in {}: {} replayed from version {}\n  version {}\n  root {}",
        duration(started.elapsed()),
        counted(report.opened.replayed, "version"),
        report.opened.base,
        report.version,
        report.root
    ))?;
    ctx.out.document(|| done(true, Some(report)))
}
