//! `lith gc`: one collection now, by the TTL that each table recorded. `--json`: `{"tables":[{"table":…,
//! "collected":{"segments":…,"keys":…,"bytes":…},"sealed":…,"held_seconds":…}]}`; a table whose filter was not asked has
//! `"filtered":true` instead, one that failed its `error`.

use std::time::Duration;

use lithdb::{Db, ErrorKind, GcReport, Maintenance, Table};
use serde_json::{Value as Json, json};

use crate::args::parse_table;
use crate::database::{Command, existing_table, names};
use crate::failure::Failure;
use crate::output::{count, counted, duration, print_note, size};

/// A table that could not be collected, and why.
type Refused = (String, lithdb::Error);

const FILTERED: &str = "the application keeps values by a GC filter, which cannot be asked here; --force goes by the TTL alone";

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

/// What became of the tables from which nothing was collected, and why.
#[derive(Default)]
struct Skipped {
    filtered: Vec<String>,
    held: Vec<String>,
    failed: Vec<Refused>,
}

/// Collects what has expired, table by table: one that cannot be collected does not keep the others from it.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open()?;
    let (mut answers, mut left) = (Vec::new(), Skipped::default());
    for name in names(&db, args.table.as_deref())? {
        match collect_from(args, &db, &name, command, &mut left) {
            Ok(answer) => answers.push(answer),
            Err(Failure::Refused(error)) => {
                command.out.text(format_args!("{name}: {error}"))?;
                answers.push(json!({ "table": name, "error": error.to_string() }));
                left.failed.push((name, error));
            }
            Err(failure) => return Err(failure),
        }
    }
    let closed = db.close();
    command.out.json(&json!({ "tables": answers }))?;
    closed?;
    left.verdict()
}

fn collect_from(
    args: &Args,
    db: &Db,
    name: &str,
    command: &mut Command,
    left: &mut Skipped,
) -> Result<Json, Failure> {
    let table = existing_table(db, name)?;
    if table.has_gc_filter() && !args.force {
        command.out.text(format_args!("{name}: not collected, {FILTERED}"))?;
        left.filtered.push(name.to_owned());
        return Ok(json!({ "table": name, "filtered": true }));
    }
    if args.accept_clock {
        table.accept_clock()?;
    }
    let (report, sealed) = collect(args, &table)?;
    let has_ttl = table.stats().ttl.is_some();
    command.out.text(format_args!("{name}: {}", describe(&report, has_ttl, sealed)))?;
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

impl Skipped {
    /// The verdict.
    fn verdict(&self) -> Result<(), Failure> {
        // Alone, an error keeps its kind.
        if let ([(_, error)], [], []) = (&self.failed[..], &self.filtered[..], &self.held[..]) {
            return Err(error.clone().into());
        }
        let failed: Vec<&str> = self.failed.iter().map(|(name, _)| name.as_str()).collect();
        let parts = [
            (failed.join(", "), "could not be collected"),
            (self.filtered.join(", "), FILTERED),
            (
                self.held.join(", "),
                "the wall clock has jumped and is not gone by; if it is right, say --accept-clock",
            ),
        ];
        let messages = parts.iter().filter(|(names, _)| !names.is_empty());
        let messages: Vec<String> =
            messages.map(|(names, what)| format!("{names}: {what}")).collect();
        if messages.is_empty() { Ok(()) } else { Err(Failure::failed(messages.join("; "))) }
    }
}

/// Collects, and seals a mutable segment that is old enough: unsealed, its values would never expire. Collecting first makes
/// room on a full disk, and nothing is sealed by a clock that has jumped.
fn collect(args: &Args, table: &Table) -> Result<(GcReport, bool), Failure> {
    let report = if args.force { table.run_gc_without_filter()? } else { table.run_gc()? };
    let may_seal = report.held_for.is_none() && table.stats().ttl.is_some();
    let sealed = may_seal && seal_if_old(table)?;
    Ok((report, sealed))
}

/// Seals the mutable segment if its age is up, as the application would do by and by. Says whether it was.
fn seal_if_old(table: &Table) -> Result<bool, Failure> {
    let by_age = Maintenance {
        flush_bytes: None,
        flush_after: None,
        idle_after: Duration::MAX,
        collect: false,
    };
    let before = table.stats().segments;
    match table.tick(&by_age) {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            print_note(format_args!("{error}; the mutable segment is not sealed"));
            return Ok(false);
        }
        done => done?,
    }
    if table.stats().segments == before {
        return Ok(false);
    }
    // The new mutable segment is empty: this only waits until the seal is done.
    table.seal()?;
    Ok(true)
}

fn describe(report: &GcReport, has_ttl: bool, sealed: bool) -> String {
    if let (Some(held), 0) = (report.held_for, report.segments) {
        let minutes = held.as_secs_f64() / 60.0;
        return format!("held for {}", duration(Duration::from_secs(60) * minutes.ceil() as u32));
    }
    if !has_ttl {
        return "nothing expires: it has no TTL".to_owned();
    }
    // A TTL counts from the moment at which a segment is sealed.
    let sealed =
        if sealed { "; sealed the mutable segment, which expires a TTL from now" } else { "" };
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
