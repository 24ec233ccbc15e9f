//! `lith repair`: repairs a database that opening refuses. `--json`: `{"needed":…,"plan":…,
//! "applied":…,"left":[…],"report":…}`. Plan and report have `roots`, `tables`, and in `refused`
//! the tables that have none, each with its `error`. `left` names the roots and tables whose
//! repair loses data and was not accepted.

use std::path::PathBuf;

use lithdb::inspect::RefusedTable;
use lithdb::{Components, Db};
use serde_json::json;

use crate::database::{Context, parse_table};
use crate::failure::{Failure, listed};
use crate::keys;
use crate::output::to_json;
use crate::progress::Progress;

/// The arguments of `lith repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tables [default: all tables]
    #[arg(value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<String>,
    /// Replace a permanently lost root with this directory, which must be empty or not exist; name
    /// all other roots with --db
    #[arg(long, value_name = "DIR", conflicts_with = "tables")]
    lost_root: Vec<PathBuf>,
    /// Accept the loss of data that the plan shows. Damaged files are moved to damaged-…/
    #[arg(long, conflicts_with = "dry_run")]
    accept_loss: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Shows the plan, and repairs the roots and tables that lose nothing; the others only with
/// `--accept-loss`. If the repair of a root loses data, no table is repaired without it. A closed
/// standard output changes nothing. A needed repair that was not applied is a failure, except with
/// `--dry-run`.
pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let options = ctx.options()?;
    let named = (!args.tables.is_empty()).then_some(args.tables.as_slice());
    let plan = {
        let mut bar = Progress::new("examining");
        let progress = &mut bar.follow();
        match args.lost_root.as_slice() {
            [] => Db::plan_repair(&options, named, progress)?,
            lost => {
                let components = Components::default();
                Db::plan_repair_with_lost_roots(&options, &components, lost, progress)?
            }
        }
    };
    ctx.out.text(&plan)?;
    let unplanned = refusal(&plan.refused, "cannot plan a repair");
    if plan.is_empty() && unplanned.is_none() {
        return ctx.out.json(&json!({ "needed": false, "applied": false }));
    }
    // A plan that cannot be serialized is applied anyway.
    let planned = ctx.out.is_json().then(|| to_json(&plan).map(keys::normalize_keys));
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
            ctx.out.text("nothing was changed")?;
        }
        ctx.out.document(|| {
            let planned = planned.transpose()?;
            Ok(json!({ "needed": true, "plan": planned, "applied": false, "left": left }))
        })?;
        let left = if args.dry_run { None } else { not_accepted(&left) };
        return Failure::from_messages([left, unplanned]);
    }
    ctx.out.flush()?;
    let report = if args.accept_loss { plan.apply()? } else { plan.apply_lossless()? };
    ctx.out.text(&report)?;
    ctx.out.document(|| {
        let (planned, report) = (planned.transpose()?, to_json(&report).map(keys::normalize_keys)?);
        Ok(json!({ "needed": true, "plan": planned, "applied": true, "left": left, "report": report }))
    })?;
    let unfinished = refusal(&report.refused, "repair not finished");
    Failure::from_messages([unfinished, not_accepted(&left), unplanned])
}

fn not_accepted(left: &[String]) -> Option<String> {
    listed("not repaired without --accept-loss", left)
}

fn refusal(refused: &[RefusedTable], label: &str) -> Option<String> {
    listed(label, refused.iter().map(|refused| &refused.table))
}
