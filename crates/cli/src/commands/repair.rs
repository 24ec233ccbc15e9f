//! `lith repair`: for what opening refuses. `--json`: `{"needed":…,"plan":…,"applied":…,"report":…}`.

use lithdb::Db;
use serde_json::json;

use crate::database::Command;
use crate::failure::Failure;
use crate::progress::Progress;

/// The arguments of `lith repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Give up what the plan says cannot be kept. The damaged files are kept aside
    #[arg(long)]
    accept_loss: bool,
}

/// Shows what would be given up; does it only with `--accept-loss`. A repair that is needed and was not done is a
/// failure.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let options = command.options()?;
    let mut bar = Progress::new("examining", 0);
    let plan = Db::plan_repair(&options, &mut |progress| {
        bar.set(progress.bytes_done, progress.bytes_total);
    })?;
    drop(bar);
    if plan.is_empty() {
        command.out.text("nothing to repair")?;
        return command.out.json(&json!({ "needed": false, "applied": false }));
    }
    command.out.text(&plan)?;
    let shown = json!(plan);
    if !args.accept_loss {
        command.out.json(&json!({ "needed": true, "plan": shown, "applied": false }))?;
        command.out.flush()?;
        return Err(Failure::failed("nothing was changed; --accept-loss carries the plan out"));
    }
    command.out.flush()?;
    let report = plan.apply()?;
    command.out.text(&report)?;
    command.out.json(&json!({ "needed": true, "plan": shown, "applied": true, "report": report }))
}
