//! `lith state prune`: removes old snapshots. `--json`: `{"executed":…,"removed":[…],"kept":[…],
//! "floor":…}`, the versions of the snapshots that were or would be removed, and of those that could
//! not be; with `--abandoned` without `kept` and `floor`.

use std::path::Path;

use lithdb_state::{Prune, PrunePlan, PruneReport, StateDb};
use serde_json::json;

use super::{open, options, snapshots};
use crate::database::Context;
use crate::failure::{Failure, listed};
use crate::output::counted;

/// The arguments of `lith state prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    what: What,
    /// Show what would be removed and change nothing
    #[arg(long)]
    dry_run: bool,
}

// What to remove. Not a doc comment: clap would print it as the description of the command.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Remove the snapshots below this version, but never the newest
    #[arg(long, value_name = "VERSION")]
    below: Option<u64>,
    /// Keep N snapshots beside the newest
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Remove the snapshots of other branches that were moved to abandoned/
    #[arg(long)]
    abandoned: bool,
}

pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let prune = match args.what {
        What { below: Some(version), .. } => Prune::Below(version),
        What { keep: Some(keep), .. } => Prune::Beyond(keep),
        What { .. } => return remove_abandoned(args, dir, ctx),
    };
    if args.dry_run {
        return show_plan(&StateDb::inspect(dir)?.plan_prune(prune), ctx);
    }
    let db = open(dir, options())?;
    let pruned = db.prune_snapshots(prune);
    let closed = db.close();
    let PruneReport { removed, kept, floor, .. } = pruned?;
    let count = counted(removed.len() as u64, "snapshot");
    let versions = listed("", &removed).unwrap_or_default();
    ctx.out.text(format_args!("removed {count}{versions}"))?;
    ctx.out.text(format_args!("the log keeps the versions from {floor} on"))?;
    let document = json!({ "executed": true, "removed": removed, "kept": kept, "floor": floor });
    ctx.out.json(&document)?;
    closed?;
    Failure::from_messages([listed("snapshots that are in use or could not be removed", &kept)])
}

fn show_plan(plan: &PrunePlan, ctx: &mut Context) -> Result<(), Failure> {
    let removed: Vec<u64> = plan.removes.iter().map(|snapshot| snapshot.version).collect();
    ctx.out.text(format_args!("would remove {}", counted(removed.len() as u64, "snapshot")))?;
    for snapshot in &plan.removes {
        ctx.out.text(snapshots::line(snapshot))?;
    }
    let floor = plan.floor;
    ctx.out.text(format_args!("the log would keep the versions from {floor} on"))?;
    ctx.out.text("nothing was changed")?;
    ctx.out.json(&json!({ "executed": false, "removed": removed, "kept": [], "floor": floor }))
}

fn remove_abandoned(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let (removed, closed) = if args.dry_run {
        let found = StateDb::inspect(dir)?;
        (found.abandoned.into_iter().map(|(version, _path)| version).collect(), Ok(()))
    } else {
        let db = open(dir, options())?;
        let removed = db.prune_abandoned();
        let closed = db.close();
        (removed?, closed)
    };
    let count = counted(removed.len() as u64, "abandoned snapshot");
    let versions = listed("", &removed).unwrap_or_default();
    let verb = if args.dry_run { "would remove" } else { "removed" };
    ctx.out.text(format_args!("{verb} {count}{versions}"))?;
    ctx.out.json(&json!({ "executed": !args.dry_run, "removed": removed }))?;
    Ok(closed?)
}
