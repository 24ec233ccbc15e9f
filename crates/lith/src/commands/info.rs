//! `lith info`: statistics of tables. `--json`: `{"roots":[…],"tables":[…],"refused":[…]}`. Bytes,
//! seconds, and times in milliseconds since 1970 are numbers. A table that cannot be opened is in
//! `refused`, with its `error`.

use lithdb::{Db, TableStats};
use lithdb_env::{Clock, OsClock};
use serde_json::{Value as Json, json};

use crate::database::{Context, Tables, existing_table};
use crate::failure::Failure;
use crate::keys;
use crate::output::{age, count, counted, duration, size};

/// A table, and what `TableStats` does not have.
struct TableInfo {
    name: String,
    stats: TableStats,
    has_gc_filter: bool,
    oldest_key: Option<String>,
    newest_key: Option<String>,
}

pub(crate) fn run(args: &Tables, ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open_read_only()?;
    let names = args.names(&db)?;
    let (mut tables, mut refused) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            ctx.out.text("")?;
        }
        match TableInfo::read(&db, name) {
            Ok(info) => {
                info.show(ctx)?;
                tables.push(info.to_json());
            }
            // A damaged table does not hide the others.
            Err(error) => {
                ctx.out.text(format_args!("table {name}\n  cannot be opened: {error}"))?;
                refused.push((name.clone(), error));
            }
        }
    }
    let roots: Vec<String> = db.roots().iter().map(|root| root.display().to_string()).collect();
    if args.table.is_none() {
        if names.is_empty() {
            ctx.out.text("no tables")?;
        }
        ctx.out.text(format_args!("\nroots {}", roots.join(", ")))?;
    }
    ctx.out.document(|| {
        let refused = refused
            .iter()
            .map(|(table, error)| json!({ "table": table, "error": error.to_string() }));
        Ok(json!({ "roots": roots, "tables": tables, "refused": refused.collect::<Vec<_>>() }))
    })?;
    Failure::from_tables("cannot be opened", &refused, [])
}

impl TableInfo {
    fn read(db: &Db, name: &str) -> lithdb::Result<Self> {
        let table = existing_table(db, name)?;
        let shown = |key: Option<Vec<u8>>| key.map(|key| keys::show(&key));
        Ok(Self {
            name: name.to_owned(),
            stats: table.stats(),
            has_gc_filter: table.has_gc_filter(),
            oldest_key: shown(table.oldest_key()?),
            newest_key: shown(table.newest_key()?),
        })
    }

    fn keymap(&self) -> String {
        format!("{:?}", self.stats.keymap).to_lowercase()
    }

    fn to_json(&self) -> Json {
        let Self { name, stats, has_gc_filter, oldest_key, newest_key } = self;
        json!({
            "table": name,
            "keys": stats.keys,
            "values": stats.values,
            "bytes": stats.bytes,
            "waiting_bytes": stats.waiting_bytes,
            "segments": stats.segments,
            "oldest_segment": stats.oldest_segment.0,
            "watermark": stats.watermark.0,
            "created_unix_ms": stats.created.0,
            "oldest_segment_created_unix_ms": stats.oldest_created.map(|created| created.0),
            "ttl_seconds": stats.ttl.map(|ttl| ttl.as_secs_f64()),
            "has_gc_filter": has_gc_filter,
            "shards": stats.shards,
            "keymap": self.keymap(),
            "keymap_entries": stats.keymap_entries,
            "keymap_bytes": stats.keymap_bytes,
            "oldest_key": oldest_key,
            "newest_key": newest_key,
            "durable": stats.durable.to_string(),
            "log_end": stats.log_end.to_string(),
        })
    }

    fn show(&self, ctx: &mut Context) -> Result<(), Failure> {
        let (stats, now) = (&self.stats, OsClock.now());
        let ttl = stats.ttl.map_or("none, values never expire".to_owned(), duration);
        let filter = if self.has_gc_filter { ", and the application's GC filter" } else { "" };
        let oldest = match stats.oldest_created {
            Some(created) => {
                format!("segment {}, created {} ago", stats.oldest_segment.0, age(now, created))
            }
            None => "none".to_owned(),
        };
        let key = |key: &Option<String>| key.clone().unwrap_or_else(|| "none".to_owned());
        let dead = match stats.waiting_bytes {
            0 => String::new(),
            bytes => format!(", and {} dead, freed when their segments expire", size(bytes)),
        };
        let (segments, entries) = (stats.segments as u64, stats.keymap_entries as u64);
        let entries = counted(entries, "entry").replace("entrys", "entries");
        let (shards, roots) = (u64::from(stats.shards), stats.roots as u64);
        let lines = [
            ("keys", format!("{} for {}", count(stats.keys), counted(stats.values, "value"))),
            ("bytes", format!("{} in {}{dead}", size(stats.bytes), counted(segments, "segment"))),
            ("oldest", oldest),
            ("oldest key", key(&self.oldest_key)),
            ("newest key", key(&self.newest_key)),
            ("ttl", format!("{ttl}{filter}")),
            ("watermark", format!("segment {}, lowest readable", stats.watermark.0)),
            ("log end", stats.log_end.to_string()),
            (
                "keymap",
                format!("{}, {entries}, {}", self.keymap(), size(stats.keymap_bytes as u64)),
            ),
            ("layout", format!("{} over {}", counted(shards, "shard"), counted(roots, "root"))),
            ("created", format!("{} ago", age(now, stats.created))),
        ];
        ctx.out.text(format_args!("table {}", self.name))?;
        lines
            .into_iter()
            .try_for_each(|(label, value)| ctx.out.text(format_args!("  {label:<11} {value}")))
    }
}
