//! `lith rebuild-keymap`: rebuilds the keymaps from the key files and checks them. `--json`:
//! `{"tables":[{"table":…,"records":…,"keys":…,"entries":…,"wrong":…,"sound":…,
//! "rebuild_seconds":…,"check_seconds":…}]}`; a table that cannot be opened or read has `table`,
//! `sound` and `error`.

use std::time::{Duration, Instant};

use lithdb::Db;
use lithdb::inspect::KeymapReport;
use serde_json::{Value as Json, json};

use crate::database::{Context, Tables, check_keymap, existing_table};
use crate::failure::{Failure, listed};
use crate::keys;
use crate::output::{duration, to_json, with_fields};

/// Opening for writing rebuilds the keymap. The check looks up every record, and looks for entries
/// without a record. A table that cannot be opened does not stop the others.
pub(crate) fn run(args: &Tables, ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open()?;
    let (mut answers, mut wrong, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for name in args.names(&db)? {
        match rebuild(&db, &name) {
            Ok((report, rebuilt, checked)) => {
                ctx.out.text(&report)?;
                ctx.out.text(format_args!(
                    "  rebuilt in {}, checked in {}",
                    duration(rebuilt),
                    duration(checked)
                ))?;
                let fields = [
                    ("sound", Json::from(report.is_sound())),
                    ("rebuild_seconds", Json::from(rebuilt.as_secs_f64())),
                    ("check_seconds", Json::from(checked.as_secs_f64())),
                ];
                answers.push(keys::normalize_keys(with_fields(to_json(&report)?, fields)));
                if !report.is_sound() {
                    wrong.push(name);
                }
            }
            Err(error) => {
                ctx.out.text(format_args!("{name}: {error}"))?;
                answers.push(json!({ "table": name, "sound": false, "error": error.to_string() }));
                refused.push((name, error));
            }
        }
    }
    let closed = db.close();
    ctx.out.json(&json!({ "tables": answers }))?;
    closed?;
    let wrong = listed("keymap does not match the key files", &wrong);
    Failure::from_tables("cannot be opened or read", &refused, [wrong])
}

/// Returns the report of the check, and how long the rebuild and the check took.
fn rebuild(db: &Db, name: &str) -> lithdb::Result<(KeymapReport, Duration, Duration)> {
    let started = Instant::now();
    let table = existing_table(db, name)?;
    let rebuilt = started.elapsed();
    let report = check_keymap(&table)?;
    Ok((report, rebuilt, started.elapsed() - rebuilt))
}
