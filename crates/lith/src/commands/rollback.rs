//! `lith rollback`: rolls a stopped database back, atomically over all tables. `--json`:
//! `{"plan":…, "executed":…,"report":…}`; with `--finish`: `{"finished":…,"report":…}`.

use std::io::{BufRead, Write};
use std::ops::ControlFlow;

use clap::ValueEnum;
use lithdb::rollback::{
    PerTable, Phase, RollbackReport, max_be_u64, through_key, through_position, written_before,
};
use lithdb::{NoMatch, Position, RecordRef, Rollback, RollbackPlan, SegmentId, Verdict};
use lithdb_env::UnixMillis;
use lithdb_env::human::parsed;
use serde_json::json;

use crate::database::{Context, parse_table};
use crate::failure::Failure;
use crate::keys::{self, Key};
use crate::output::{duration, to_json};
use crate::progress::{Progress, Spinner};
use crate::stderr::print_note;

/// The arguments of `lith rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    to: Target,
    /// A table to roll back; repeat it for each [default: all tables]
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<String>,
    /// What to do with a table in which no record matches
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    no_match: OnNoMatch,
    /// Accept that values above the limit stay if they were put before the last kept key
    #[arg(long)]
    accept_out_of_order: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

// The point to roll back to. Not a doc comment: clap would print it as the description of the
// command.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Keep everything up to the newest record of this key
    #[arg(long, value_name = "KEY", value_parser = keys::parse)]
    through_key: Option<Key>,
    /// Keep everything up to the newest value whose primary key has, in the eight bytes at OFFSET,
    /// a big-endian number of at most VALUE; TABLE= limits it to that table, repeat it for each
    #[arg(long, value_name = "[TABLE=]OFFSET:VALUE", value_parser = parse_height)]
    max_be_u64: Vec<Height>,
    /// Keep what was flushed or sealed by this time: 2026-11-21T08:00:00Z, or @ and seconds since
    /// 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<UnixMillis>,
    /// Keep everything up to the record at this position, as `lith scan` and `lith dump` print it
    #[arg(long, value_name = "SEGMENT:OFFSET", value_parser = parse_position)]
    through_position: Option<Position>,
    /// Only finish an interrupted rollback
    #[arg(long, conflicts_with_all = ["tables", "no_match", "accept_out_of_order", "dry_run", "yes"])]
    finish: bool,
}

/// A limit for the number in the keys: of one table, or of all tables without their own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Height {
    table: Option<String>,
    offset: usize,
    max: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnNoMatch {
    /// Refuse and name the tables
    Refuse,
    /// Leave the table as it is
    Keep,
    /// Empty the table
    Clear,
}

fn parse_pair<A: std::str::FromStr, B: std::str::FromStr>(typed: &str) -> Option<(A, B)> {
    let (a, b) = typed.split_once(':')?;
    Some((parsed(a)?, parsed(b)?))
}

fn parse_height(typed: &str) -> Result<Height, String> {
    let (table, numbers) = match typed.split_once('=') {
        Some((table, numbers)) => (Some(parse_table(table)?), numbers),
        None => (None, typed),
    };
    match parse_pair(numbers) {
        Some((offset, max)) => Ok(Height { table, offset, max }),
        None => Err(format!("expected two numbers like 1:100 or blocks=1:100, found {typed:?}")),
    }
}

fn parse_position(typed: &str) -> Result<Position, String> {
    let pair = parse_pair(typed).map(|(id, offset)| Position::new(SegmentId(id), offset));
    pair.ok_or_else(|| format!("expected a position like 12:4096, found {typed:?}"))
}

/// Parses a time with its zone, or `@` and seconds since 1970.
fn parse_time(typed: &str) -> Result<UnixMillis, String> {
    let parsed = match typed.strip_prefix('@') {
        Some(secs) => parsed::<u64>(secs).and_then(|secs| secs.checked_mul(1000)),
        None => {
            let time = parsed::<jiff::Timestamp>(typed).map(|time| time.as_millisecond());
            time.filter(|millis| *millis >= 0).map(i64::unsigned_abs)
        }
    };
    parsed.map(UnixMillis).ok_or_else(|| {
        format!(
            "expected a time with zone like 2026-11-21T08:00:00Z, or @1795000000, found {typed:?}"
        )
    })
}

/// Plans, shows the plan, asks, and rolls back.
pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    let options = ctx.options()?;
    if ctx.out.is_json() && !(args.yes || args.dry_run || args.to.finish) {
        return Err(Failure::usage(
            "--json cannot ask for confirmation: expected --yes or --dry-run",
        ));
    }
    let no_match = match args.no_match {
        OnNoMatch::Refuse => NoMatch::Refuse,
        OnNoMatch::Keep => NoMatch::Keep,
        OnNoMatch::Clear => NoMatch::Clear,
    };
    args.check_heights()?;
    let mut rollback = Rollback::new(options.roots).on_no_match(no_match);
    rollback = rollback.accept_out_of_order(args.accept_out_of_order);
    rollback = rollback.read_mode(options.read_mode);
    if !args.tables.is_empty() {
        rollback = rollback.tables(&args.tables);
    }
    if args.to.finish {
        return finish(&rollback, ctx);
    }
    let plan = match args.to.plan(&rollback) {
        // A decided rollback is finished whatever the user requests next.
        Err(error) if error.is_rollback_pending() && !args.dry_run => {
            if let Some(pending) = rollback.pending()? {
                ctx.out.text(pending)?;
            }
            print_note("finishing an interrupted rollback first");
            if let Some(report) = rollback.finish()? {
                ctx.out.text(report)?;
            }
            args.to.plan(&rollback)?
        }
        planned => planned?,
    };
    if let Some(position) = args.to.through_position {
        require_single_table(position, &plan)?;
    }
    if let Some(key) = &args.to.through_key
        && plan.tables.iter().all(|table| table.boundary.is_none())
    {
        // `--no-match` is for some tables; no table at all is a mistyped key.
        let message = format_args!(
            "key {}: expected in at least one table, found in none",
            keys::show(&key.0)
        );
        return Err(Failure::failed(message));
    }
    let planned = |name: &&str| plan.tables.iter().any(|table| table.table.as_str() == *name);
    if let Some(name) = args.to.named().find(|name| !planned(name)) {
        return Err(Failure::failed(format_args!("no such table: {name}, named by --max-be-u64")));
    }
    execute_plan(args, plan, ctx)
}

/// A position means a record only in one table: at the same position of another is an unrelated
/// record. An empty table has none.
fn require_single_table(position: Position, plan: &RollbackPlan) -> Result<(), Failure> {
    match &plan.tables[..] {
        [table] if table.boundary.is_some() => Ok(()),
        [table] => Err(Failure::failed(format_args!(
            "table {}: expected a record at {position}, found an empty table",
            table.table
        ))),
        tables => Err(Failure::usage(format_args!(
            "--through-position needs exactly one --table, found {} tables",
            tables.len()
        ))),
    }
}

fn finish(rollback: &Rollback, ctx: &mut Context) -> Result<(), Failure> {
    let report = rollback.finish()?;
    match &report {
        Some(report) => ctx.out.text(report)?,
        None => ctx.out.text("no rollback to finish")?,
    }
    ctx.out.document(|| Ok(json!({ "finished": report.is_some(), "report": to_json(&report)? })))
}

fn execute_plan(args: &Args, plan: RollbackPlan, ctx: &mut Context) -> Result<(), Failure> {
    // A plan that cannot be serialized is executed anyway.
    let shown = ctx.out.is_json().then(|| to_json(&plan));
    let done = |executed: bool, report: Option<RollbackReport>| {
        let (plan, report) = (shown.transpose()?, to_json(&report)?);
        Ok(json!({ "plan": plan, "executed": executed, "report": report }))
    };
    ctx.out.text(&plan)?;
    if let Err(error) = plan.check() {
        ctx.out.document(|| done(false, None))?;
        return Err(Failure::failed(format_args!("{error} (accept with --accept-out-of-order)")));
    }
    if plan.is_empty() || args.dry_run {
        let nothing = if plan.is_empty() { "nothing to roll back" } else { "nothing was changed" };
        ctx.out.text(nothing)?;
        return ctx.out.document(|| done(false, None));
    }
    ctx.out.flush()?;
    if !args.yes && !confirm("roll back")? {
        return Err(Failure::failed("nothing was changed"));
    }
    let mut bar = Progress::new("rolling back");
    let report = plan.execute_with(|progress| {
        if progress.phase == Phase::Applying {
            bar.set(progress.bytes_done, Some(progress.bytes_total));
        }
        ControlFlow::Continue(())
    })?;
    drop(bar);
    let report = report.ok_or_else(|| Failure::failed("nothing was changed"))?;
    ctx.out.text(&report)?;
    ctx.out.text(format_args!("rolled back in {}", duration(report.took)))?;
    ctx.out.document(|| done(true, Some(report)))
}

/// Asks for confirmation on standard error; anything but `y` or `yes` is a no.
pub(crate) fn confirm(action: &str) -> Result<bool, Failure> {
    let mut err = std::io::stderr();
    let asked = write!(err, "lith: this cannot be undone; {action}? [y/N] ");
    asked.and_then(|()| err.flush()).map_err(|e| Failure::io("ask for confirmation", &e))?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| Failure::io("read the answer", &e))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Decides for each record, newest first, whether it stays.
type Filter = Box<dyn FnMut(&RecordRef<'_>) -> lithdb::Result<Verdict>>;

impl Args {
    /// Each table has at most one limit, and only tables that are rolled back have one.
    fn check_heights(&self) -> Result<(), Failure> {
        for (n, Height { table, .. }) in self.to.max_be_u64.iter().enumerate() {
            if self.to.max_be_u64.iter().take(n).any(|before| before.table == *table) {
                return Err(Failure::usage("expected one --max-be-u64 per table, found several"));
            }
            if let Some(table) = table
                && !self.tables.is_empty()
                && !self.tables.contains(table)
            {
                let message =
                    format_args!("--max-be-u64 names table {table}: expected --table {table}, too");
                return Err(Failure::usage(message));
            }
        }
        Ok(())
    }
}

impl Target {
    /// The tables with their own limit.
    fn named(&self) -> impl Iterator<Item = &str> {
        self.max_be_u64.iter().filter_map(|height| height.table.as_deref())
    }

    fn plan(&self, rollback: &Rollback) -> lithdb::Result<RollbackPlan> {
        let _spinner = Spinner::new("planning");
        rollback.plan(self.filter())
    }

    fn filter(&self) -> Filter {
        match self {
            Self { through_key: Some(key), .. } => Box::new(through_key(key.0.clone())),
            Self { max_be_u64: heights, .. } if !heights.is_empty() => {
                let mut filter = PerTable::new();
                for Height { table, offset, max } in heights {
                    let height = max_be_u64(*offset, *max);
                    filter = match table {
                        Some(table) => filter.table(table, height),
                        None => filter.otherwise(height),
                    };
                }
                Box::new(filter.into_filter())
            }
            Self { before: Some(time), .. } => Box::new(written_before(*time)),
            Self { through_position: Some(at), .. } => Box::new(through_position(*at)),
            // Unreachable: clap requires one of them.
            Self { .. } => Box::new(|_| Ok(Verdict::Keep)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_zone_or_are_unix_seconds() {
        assert_eq!(parse_time("@1700000000"), Ok(UnixMillis(1_700_000_000_000)));
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Ok(UnixMillis(1500)));
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00"), Ok(UnixMillis(0)));
        for typed in ["yesterday", "1970-01-01T00:00:00", "@", "@-1", "1960-01-01T00:00:00Z"] {
            assert!(parse_time(typed).unwrap_err().contains(typed), "{typed}");
        }
    }

    #[test]
    fn pairs_of_numbers_parse() {
        let height =
            |table: Option<&str>| Height { table: table.map(Into::into), offset: 1, max: 100 };
        assert_eq!(parse_height("1:100"), Ok(height(None)));
        assert_eq!(parse_height("blocks=1:100"), Ok(height(Some("blocks"))));
        for typed in ["=1:100", "a b=1:100", "blocks=", "blocks=1", "blocks"] {
            assert!(parse_height(typed).is_err(), "{typed}");
        }
        assert_eq!(parse_position("3:64"), Ok(Position::new(SegmentId(3), 64)));
        for typed in ["", "1", "1:", ":1", "1:2:3", "-1:2", "4294967296:1"] {
            assert!(parse_position(typed).is_err(), "{typed}");
        }
    }
}
