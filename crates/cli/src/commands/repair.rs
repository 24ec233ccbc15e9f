//! `lith repair`: for what opening refuses. `--json`: `{"needed":…,"plan":…,"applied":…,"report":…}`; plan and report have
//! `tables`, and in `refused` the tables for which there is none, each with its `error`.

use lithdb::{Db, Refused, Repair, Repaired};
use serde_json::{Value as Json, json};

use crate::args::parse_table;
use crate::database::Command;
use crate::failure::Failure;
use crate::keys;
use crate::output::to_json;
use crate::progress::Progress;

/// The arguments of `lith repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tables; all of them if none is named
    #[arg(value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<String>,
    /// Give up what the plan says cannot be kept. The damaged files are kept aside
    #[arg(long)]
    accept_loss: bool,
}

/// Shows what would be given up; does it only with `--accept-loss`, and then whether anybody reads or not. A repair that is
/// needed and was not done is a failure.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let options = command.options()?;
    let named = (!args.tables.is_empty()).then_some(args.tables.as_slice());
    let mut bar = Progress::new("examining", 0);
    let plan = Db::plan_repair(&options, named, &mut |progress| {
        bar.set(progress.bytes_done, progress.bytes_total);
    })?;
    drop(bar);
    command.out.text(&plan)?;
    let unplanned = refusal(&plan.refused, "no repair can be planned for");
    if plan.is_empty() {
        command.out.document(|| {
            let mut answer = json!({ "needed": false, "applied": false });
            if unplanned.is_some() {
                answer = json!({ "needed": true, "plan": shown(&plan)?, "applied": false });
            }
            Ok(answer)
        })?;
        return unplanned.map_or(Ok(()), |refusal| Err(Failure::Failed(refusal)));
    }
    if !args.accept_loss {
        let answer = || Ok(json!({ "needed": true, "plan": shown(&plan)?, "applied": false }));
        command.out.document(answer)?;
        let told = "nothing was changed; --accept-loss carries the plan out".to_owned();
        let told: Vec<String> = [told].into_iter().chain(unplanned).collect();
        return Err(Failure::failed(told.join("; ")));
    }
    // What can be shown of the plan must not decide whether it is carried out.
    let planned = command.out.is_json().then(|| shown(&plan));
    command.out.flush()?;
    let report = plan.apply();
    command.out.text(&report)?;
    command.out.document(|| {
        let planned = planned.transpose()?;
        Ok(json!({ "needed": true, "plan": planned, "applied": true, "report": done(&report)? }))
    })?;
    let unfinished = refusal(&report.refused, "the repair was not finished of");
    let told: Vec<String> = unfinished.into_iter().chain(unplanned).collect();
    if told.is_empty() { Ok(()) } else { Err(Failure::failed(told.join("; "))) }
}

fn shown(plan: &Repair) -> Result<Json, Failure> {
    to_json(plan).map(keys::joinable)
}

fn done(report: &Repaired) -> Result<Json, Failure> {
    to_json(report).map(keys::joinable)
}

fn refusal(refused: &[Refused], what: &str) -> Option<String> {
    let names: Vec<&str> = refused.iter().map(|refused| refused.table.as_str()).collect();
    (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
}
