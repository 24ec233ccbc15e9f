//! `lith rebuild-keymap`: rebuilds the keymaps from the key files and checks them. `--json`:
//! `{"tables":[{"table":…,"records":…,"keys":…,"entries":…,"wrong":…,"sound":…,
//! "rebuild_seconds":…,"check_seconds":…}]}`; a table that cannot be opened or read has `table`,
//! `sound` and `error`.

use std::time::{Duration, Instant};

use lithdb::{Db, KeymapReport, verify_keymap};
use serde::Serialize;
use serde_json::json;

use crate::database::{Context, Tables, existing_table};
use crate::failure::{Failure, listed};
use crate::keys;
use crate::output::{duration, to_json};
use crate::progress::Progress;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    report: KeymapReport,
    sound: bool,
    rebuild_seconds: f64,
    check_seconds: f64,
}

/// Opening for writing rebuilds the keymap. The check looks up every record, and looks for entries
/// without a record. A table that cannot be opened does not stop the others.
pub(crate) fn run(args: &Tables, ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open()?;
    let (mut answers, mut wrong, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for name in args.names(&db)? {
        match rebuild(&db, &name) {
            Ok(answer) => {
                ctx.out.text(&answer.report)?;
                ctx.out.text(format_args!(
                    "  rebuilt in {}, checked in {}",
                    duration(Duration::from_secs_f64(answer.rebuild_seconds)),
                    duration(Duration::from_secs_f64(answer.check_seconds))
                ))?;
                if !answer.sound {
                    wrong.push(name);
                }
                answers.push(keys::normalize_keys(to_json(&answer)?));
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

fn rebuild(db: &Db, name: &str) -> lithdb::Result<Answer> {
    let started = Instant::now();
    let table = existing_table(db, name)?;
    let rebuilt = started.elapsed();
    let started = Instant::now();
    let mut bar = Progress::new("checking the keymap", 0);
    let report = verify_keymap(&table, &mut |progress| {
        bar.set(progress.bytes_done, progress.bytes_total);
    })?;
    drop(bar);
    Ok(Answer {
        sound: report.is_sound(),
        report,
        rebuild_seconds: rebuilt.as_secs_f64(),
        check_seconds: started.elapsed().as_secs_f64(),
    })
}
