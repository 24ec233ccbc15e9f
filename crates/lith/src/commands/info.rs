//! `lith info`: what can be said of tables in numbers. `--json`: `{"roots":[…],"tables":[…],"refused":[…]}`; bytes, seconds,
//! and times in milliseconds since 1970 are numbers, keys are as everywhere. A table that does not open is in `refused`, with
//! its `error`.

use lithdb::env::{Clock, OsClock};
use lithdb::{Db, TableStats};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::args::parse_table;
use crate::database::{Command, existing_table, names};
use crate::failure::Failure;
use crate::keys;
use crate::output::{age, count, counted, duration, size, to_json};

/// The arguments of `lith info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; all of them if none is named
    #[arg(value_parser = parse_table)]
    table: Option<String>,
}

#[derive(Serialize)]
struct TableInfo {
    table: String,
    keys: u64,
    values: u64,
    bytes: u64,
    waiting_bytes: u64,
    segments: usize,
    oldest_segment: u32,
    watermark: u32,
    created_unix_ms: u64,
    oldest_segment_created_unix_ms: Option<u64>,
    ttl_seconds: Option<f64>,
    has_gc_filter: bool,
    shards: u16,
    keymap: String,
    keymap_entries: usize,
    keymap_bytes: usize,
    oldest_key: Option<String>,
    newest_key: Option<String>,
    durable: String,
    log_end: String,
}

/// Describes tables.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open_read_only()?;
    let names = names(&db, args.table.as_deref())?;
    let (mut tables, mut refused) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            command.out.text("")?;
        }
        match describe(&db, name) {
            Ok((info, stats)) => {
                show(command, &info, &stats)?;
                tables.push(info);
            }
            // One that is damaged does not hide the others.
            Err(error) => {
                command.out.text(format_args!("table {name}\n  does not open: {error}"))?;
                refused.push((name, error));
            }
        }
    }
    let roots: Vec<String> = db.roots().iter().map(|root| root.display().to_string()).collect();
    if args.table.is_none() {
        if names.is_empty() {
            command.out.text("no tables")?;
        }
        command.out.text(format_args!("\nroots {}", roots.join(", ")))?;
    }
    command.out.document(|| {
        let refused_json = refused
            .iter()
            .map(|(table, error)| json!({ "table": table, "error": error.to_string() }));
        let refused_json: Vec<Json> = refused_json.collect();
        Ok(json!({ "roots": roots, "tables": to_json(&tables)?, "refused": refused_json }))
    })?;
    match &refused[..] {
        [] => Ok(()),
        // Alone, an error keeps its kind.
        [(_, error)] => Err(error.clone().into()),
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            Err(Failure::failed(format_args!("tables that do not open: {}", names.join(", "))))
        }
    }
}

fn describe(db: &Db, name: &str) -> lithdb::Result<(TableInfo, TableStats)> {
    let table = existing_table(db, name)?;
    let stats = table.stats();
    let shown = |key: Option<Vec<u8>>| key.map(|key| keys::show(&key));
    let info = TableInfo {
        table: name.to_owned(),
        keys: stats.keys,
        values: stats.values,
        bytes: stats.bytes,
        waiting_bytes: stats.waiting_bytes,
        segments: stats.segments,
        oldest_segment: stats.oldest_segment.0,
        watermark: stats.watermark.0,
        created_unix_ms: stats.created.0,
        oldest_segment_created_unix_ms: stats.oldest_created.map(|created| created.0),
        ttl_seconds: stats.ttl.map(|ttl| ttl.as_secs_f64()),
        has_gc_filter: table.has_gc_filter(),
        shards: stats.shards,
        keymap: format!("{:?}", stats.keymap).to_lowercase(),
        keymap_entries: stats.keymap_entries,
        keymap_bytes: stats.keymap_bytes,
        oldest_key: shown(table.oldest_key()?),
        newest_key: shown(table.newest_key()?),
        durable: stats.durable.to_string(),
        log_end: stats.log_end.to_string(),
    };
    Ok((info, stats))
}

fn show(command: &mut Command, info: &TableInfo, stats: &TableStats) -> Result<(), Failure> {
    let now = OsClock.now();
    let ttl = stats.ttl.map_or("none: kept for ever".to_owned(), duration);
    let filter = if info.has_gc_filter { ", and the application's GC filter" } else { "" };
    let oldest = match stats.oldest_created {
        Some(created) => {
            format!("segment {}, begun {} ago", info.oldest_segment, age(now, created))
        }
        None => "nothing yet".to_owned(),
    };
    let key = |key: &Option<String>| key.clone().unwrap_or_else(|| "none".to_owned());
    let waiting = match info.waiting_bytes {
        0 => String::new(),
        bytes => format!(", and {} that go with their segments", size(bytes)),
    };
    let lines = [
        ("keys", format!("{} for {}", count(info.keys), counted(info.values, "value"))),
        (
            "bytes",
            format!(
                "{} in {}{waiting}",
                size(info.bytes),
                counted(info.segments as u64, "segment")
            ),
        ),
        ("oldest", oldest),
        ("oldest key", key(&info.oldest_key)),
        ("newest key", key(&info.newest_key)),
        ("ttl", format!("{ttl}{filter}")),
        ("watermark", format!("segment {}: everything below was collected", info.watermark)),
        ("log end", info.log_end.clone()),
        (
            "keymap",
            format!(
                "{}, {}, {}",
                info.keymap,
                counted(info.keymap_entries as u64, "entry").replace("entrys", "entries"),
                size(info.keymap_bytes as u64)
            ),
        ),
        (
            "spread",
            format!(
                "{} over {}",
                counted(u64::from(info.shards), "shard"),
                counted(stats.roots as u64, "root")
            ),
        ),
        ("created", format!("{} ago", age(now, stats.created))),
    ];
    command.out.text(format_args!("table {}", info.table))?;
    for (label, value) in lines {
        command.out.text(format_args!("  {label:<11} {value}"))?;
    }
    Ok(())
}
