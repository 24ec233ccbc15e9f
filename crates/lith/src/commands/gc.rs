//! `lith gc`: collects once, by the recorded TTL of each table. `--json`: `{"tables":[{"table":…,
//! "collected":{"segments":…,"keys":…,"bytes":…},"sealed":…,"held_seconds":…}]}`; a table that was
//! skipped because of its GC filter has `"filtered":true` instead, one that failed its `error`.

use std::time::Duration;

use lithdb::{Db, ErrorKind, GcReport, Table};
use serde_json::{Value as Json, json};

use crate::database::{Context, Tables, existing_table};
use crate::failure::{Failure, listed};
use crate::output::{count, counted, duration, size};
use crate::stderr::print_note;

/// The arguments of `lith gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    tables: Tables,
    /// Also collect tables with a GC filter, by TTL alone (only the application can call the
    /// filter)
    #[arg(long)]
    force: bool,
    /// Accept the wall clock although it has jumped
    #[arg(long)]
    accept_clock: bool,
}

/// Tables that were not collected, by reason.
#[derive(Default)]
struct Skipped {
    filtered: Vec<String>,
    held: Vec<String>,
    failed: Vec<(String, lithdb::Error)>,
}

/// Collects table by table: one that fails does not stop the others.
pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open()?;
    let (mut answers, mut left) = (Vec::new(), Skipped::default());
    for name in args.tables.names(&db)? {
        match collect_from(args, &db, &name, ctx, &mut left) {
            Ok(answer) => answers.push(answer),
            Err(Failure::Refused(error)) => {
                ctx.out.text(format_args!("{name}: {error}"))?;
                answers.push(json!({ "table": name, "error": error.to_string() }));
                left.failed.push((name, error));
            }
            Err(failure) => return Err(failure),
        }
    }
    let closed = db.close();
    ctx.out.json(&json!({ "tables": answers }))?;
    closed?;
    Failure::from_tables(
        "cannot be collected",
        &left.failed,
        [
            listed(
                "skipped for their GC filter; to collect by TTL alone, use --force",
                &left.filtered,
            ),
            listed(
                "held because the wall clock jumped; if it is right, use --accept-clock",
                &left.held,
            ),
        ],
    )
}

fn collect_from(
    args: &Args,
    db: &Db,
    name: &str,
    ctx: &mut Context,
    left: &mut Skipped,
) -> Result<Json, Failure> {
    let table = existing_table(db, name)?;
    if table.has_gc_filter() && !args.force {
        ctx.out
            .text(format_args!("{name}: skipped: only the application can call its GC filter"))?;
        left.filtered.push(name.to_owned());
        return Ok(json!({ "table": name, "filtered": true }));
    }
    if args.accept_clock {
        table.accept_clock()?;
    }
    let (report, sealed) = collect(args, &table)?;
    let has_ttl = table.stats().ttl.is_some();
    ctx.out.text(format_args!("{name}: {}", describe(&report, has_ttl, sealed)))?;
    if report.held_for.is_some() {
        left.held.push(name.to_owned());
    }
    Ok(json!({
        "table": name,
        "collected": {
            "segments": report.segments,
            "keys": report.records,
            "bytes": report.bytes,
        },
        "sealed": sealed,
        "held_seconds": report.held_for.map(|held| held.as_secs_f64()),
    }))
}

/// Collects, then seals a mutable segment that is old enough: unsealed, its values would never
/// expire. Collecting first frees space on a full disk. Nothing is sealed under a clock that has
/// jumped.
fn collect(args: &Args, table: &Table) -> Result<(GcReport, bool), Failure> {
    let report = if args.force { table.run_gc_without_filter()? } else { table.run_gc()? };
    let may_seal = report.held_for.is_none() && table.stats().ttl.is_some();
    let sealed = may_seal && seal_if_old(table)?;
    Ok((report, sealed))
}

/// Seals the mutable segment if it has reached its age, as a running application would. Returns
/// whether it did.
fn seal_if_old(table: &Table) -> Result<bool, Failure> {
    match table.seal_if_old() {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            print_note(format_args!("mutable segment not sealed: {error}"));
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
        Ok(false) => return Ok(false),
        Ok(true) => {}
    }
    // The new mutable segment is empty: this only waits for the seal.
    table.seal()?;
    Ok(true)
}

fn describe(report: &GcReport, has_ttl: bool, sealed: bool) -> String {
    if let (Some(held), 0) = (report.held_for, report.segments) {
        let minutes = held.as_secs_f64() / 60.0;
        return format!("held for {}", duration(Duration::from_secs(60) * minutes.ceil() as u32));
    }
    if !has_ttl {
        return "no TTL, nothing expires".to_owned();
    }
    // A TTL counts from the seal of a segment.
    let sealed =
        if sealed { "; sealed the mutable segment, which expires one TTL from now" } else { "" };
    if report.segments == 0 {
        return format!("nothing has expired{sealed}");
    }
    format!(
        "collected {}: {} keys, {}{sealed}",
        counted(report.segments as u64, "segment"),
        count(report.records),
        size(report.bytes)
    )
}
