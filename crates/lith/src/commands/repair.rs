//! `lith repair`: for what opening refuses. `--json`: `{"needed":…,"plan":…,"applied":…,"left":[…],"report":…}`; plan and
//! report have `roots`, `tables`, and in `refused` the tables for which there is none, each with its `error`. `left` names the
//! roots and tables whose repair gives something up and was not accepted.

use std::path::PathBuf;

use lithdb::{Components, Db, RefusedTable, Repair};
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
    /// A root is gone for good: this directory, empty or not there yet, takes its place. The other roots are named by --db
    #[arg(long, value_name = "DIR", conflicts_with = "tables")]
    lost_root: Vec<PathBuf>,
    /// Give up what the plan says cannot be kept. The damaged files are kept aside
    #[arg(long, conflicts_with = "dry_run")]
    accept_loss: bool,
    /// Show the plan, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Shows the plan, and repairs the roots and tables that lose nothing by it; the others only with `--accept-loss`, and no table
/// if roots are among them. Whether anybody reads
/// does not matter. A repair that is needed and was neither done nor only to be shown is a failure.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let options = command.options()?;
    let named = (!args.tables.is_empty()).then_some(args.tables.as_slice());
    let mut bar = Progress::new("examining", 0);
    let mut tell = |progress: lithdb::Progress| bar.set(progress.bytes_done, progress.bytes_total);
    let plan = match args.lost_root.as_slice() {
        [] => Db::plan_repair(&options, named, &mut tell)?,
        gone => Db::plan_repair_with_lost_roots(&options, &Components::default(), gone, &mut tell)?,
    };
    drop(bar);
    command.out.text(&plan)?;
    let unplanned = refusal(&plan.refused, "no repair can be planned for");
    if plan.is_empty() && unplanned.is_none() {
        return command.out.json(&json!({ "needed": false, "applied": false }));
    }
    // What can be shown of the plan must not decide whether it is carried out.
    let planned = command.out.is_json().then(|| shown(&plan));
    let roots = plan.roots.iter().filter(|roots| !roots.is_lossless).flat_map(|roots| &roots.lost);
    let mut left: Vec<String> = roots.map(|root| root.path.display().to_string()).collect();
    let keeps_roots = left.is_empty();
    let lossy = plan.tables.iter().filter(|plan| !plan.is_lossless());
    left.extend(lossy.map(|plan| plan.table.to_string()));
    if args.accept_loss {
        left.clear();
    }
    let has_lossless = keeps_roots && (plan.roots.is_some() || left.len() < plan.tables.len());
    if args.dry_run || plan.is_empty() || !(args.accept_loss || has_lossless) {
        if !plan.is_empty() {
            command.out.text("nothing was changed")?;
        }
        command.out.document(|| {
            let planned = planned.transpose()?;
            Ok(json!({ "needed": true, "plan": planned, "applied": false, "left": left }))
        })?;
        let left = if args.dry_run { None } else { not_accepted(&left) };
        return verdict([left, unplanned]);
    }
    command.out.flush()?;
    let report = if args.accept_loss { plan.apply()? } else { plan.apply_lossless()? };
    command.out.text(&report)?;
    command.out.document(|| {
        let (planned, report) = (planned.transpose()?, to_json(&report).map(keys::normalize_keys)?);
        Ok(json!({ "needed": true, "plan": planned, "applied": true, "left": left, "report": report }))
    })?;
    let unfinished = refusal(&report.refused, "the repair was not finished of");
    verdict([unfinished, not_accepted(&left), unplanned])
}

fn shown(plan: &Repair) -> Result<Json, Failure> {
    to_json(plan).map(keys::normalize_keys)
}

fn not_accepted(left: &[String]) -> Option<String> {
    let names = left.join(", ");
    (!left.is_empty())
        .then(|| format!("not repaired: {names}; --accept-loss gives up what the plan says"))
}

fn refusal(refused: &[RefusedTable], what: &str) -> Option<String> {
    let names: Vec<&str> = refused.iter().map(|refused| refused.table.as_str()).collect();
    (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
}

fn verdict<const N: usize>(messages: [Option<String>; N]) -> Result<(), Failure> {
    let messages: Vec<String> = messages.into_iter().flatten().collect();
    if messages.is_empty() { Ok(()) } else { Err(Failure::failed(messages.join("; "))) }
}
