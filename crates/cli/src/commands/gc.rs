//! `lith gc`: one collection now, by the TTL that each table recorded. `--json`: `{"tables":[{"table":…,
//! "collected":{"segments":…,"keys":…,"bytes":…},"held_seconds":…}]}`.

use lithdb::GcReport;
use serde_json::json;

use crate::args::parse_table;
use crate::database::{Command, existing_table, names};
use crate::failure::Failure;
use crate::output::{count, counted, duration, size};

/// The arguments of `lith gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; all of them if none is named
    #[arg(value_parser = parse_table)]
    table: Option<String>,
    /// Collect by the TTL alone a table whose application also has a GC filter, which nobody can ask here
    #[arg(long)]
    force: bool,
    /// Say that the wall clock is right although it has jumped
    #[arg(long)]
    accept_clock: bool,
}

/// Collects what has expired.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open()?;
    let mut tables = Vec::new();
    for name in names(&db, args.table.as_deref())? {
        tables.push((existing_table(&db, &name)?, name));
    }
    // All are looked at before anything is collected.
    let filtered: Vec<&str> = tables
        .iter()
        .filter(|(table, _)| !args.force && table.has_gc_filter())
        .map(|(_, name)| name.as_str())
        .collect();
    if !filtered.is_empty() {
        return Err(Failure::failed(format_args!(
            "{}: the application keeps values by a GC filter, which cannot be asked here; nothing was collected \
             (--force goes by the TTL alone, or name another table)",
            filtered.join(", ")
        )));
    }
    let (mut answers, mut held) = (Vec::new(), Vec::new());
    for (table, name) in &tables {
        if args.accept_clock {
            table.accept_clock()?;
        }
        let report = if args.force { table.run_gc_without_filter()? } else { table.run_gc()? };
        let has_ttl = table.stats().ttl.is_some();
        command.out.text(format_args!("{name}: {}", describe(&report, has_ttl)))?;
        if report.held_for.is_some() {
            held.push(name.as_str());
        }
        answers.push(json!({
            "table": name,
            "collected": {
                "segments": report.segments,
                "keys": report.records,
                "bytes": report.bytes,
            },
            "held_seconds": report.held_for.map(|held| held.as_secs_f64()),
        }));
    }
    db.close()?;
    command.out.json(&json!({ "tables": answers }))?;
    command.out.flush()?;
    if held.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format_args!(
        "{}: the wall clock has jumped, nothing was collected; if it is right, say --accept-clock",
        held.join(", ")
    )))
}

fn describe(report: &GcReport, has_ttl: bool) -> String {
    if let Some(held) = report.held_for {
        return format!("held for {}", duration(held));
    }
    if !has_ttl {
        return "nothing expires: it has no TTL".to_owned();
    }
    if report.segments == 0 {
        return "nothing has expired".to_owned();
    }
    format!(
        "collected {}: {} keys, {}",
        counted(report.segments as u64, "segment"),
        count(report.records),
        size(report.bytes)
    )
}
