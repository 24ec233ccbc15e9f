//! `lith rebuild-keymap`: the keymaps are derived from the key files, and this derives them again. `--json`:
//! `{"tables":[{"table":…,"records":…,"keys":…,"entries":…,"wrong":…,"sound":…,"rebuild_seconds":…,"check_seconds":…}]}`;
//! one that could not be opened has `table`, `sound` and `error`.

use std::time::{Duration, Instant};

use lithdb::{Db, KeymapReport, verify_keymap};
use serde::Serialize;
use serde_json::json;

use crate::args::parse_table;
use crate::database::{Command, existing_table, names};
use crate::failure::Failure;
use crate::keys;
use crate::output::{duration, to_json};
use crate::progress::Progress;

/// The arguments of `lith rebuild-keymap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; all of them if none is named
    #[arg(value_parser = parse_table)]
    table: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    report: KeymapReport,
    sound: bool,
    rebuild_seconds: f64,
    check_seconds: f64,
}

/// Rebuilds by opening for writing, and checks: every record is looked up, and the keymap has no more than it should. A table
/// that cannot be opened does not keep the others from it.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open()?;
    let (mut answers, mut wrong, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for name in names(&db, args.table.as_deref())? {
        match rebuild(&db, &name) {
            Ok(answer) => {
                command.out.text(&answer.report)?;
                command.out.text(format_args!(
                    "  rebuilt in {}, every record looked up in {}",
                    duration(Duration::from_secs_f64(answer.rebuild_seconds)),
                    duration(Duration::from_secs_f64(answer.check_seconds))
                ))?;
                if !answer.sound {
                    wrong.push(name);
                }
                answers.push(keys::normalize_keys(to_json(&answer)?));
            }
            Err(error) => {
                command.out.text(format_args!("{name}: {error}"))?;
                answers.push(json!({ "table": name, "sound": false, "error": error.to_string() }));
                refused.push((name, error));
            }
        }
    }
    let closed = db.close();
    command.out.json(&json!({ "tables": answers }))?;
    closed?;
    // Alone, an error keeps its kind.
    if let ([(_, error)], []) = (&refused[..], &wrong[..]) {
        return Err(error.clone().into());
    }
    let refused: Vec<String> = refused.into_iter().map(|(name, _)| name).collect();
    let parts = [
        ("keymap and key files disagree", wrong.join(", ")),
        ("could not be opened or read", refused.join(", ")),
    ];
    let messages = parts.iter().filter(|(_, names)| !names.is_empty());
    let messages: Vec<String> = messages.map(|(what, names)| format!("{what}: {names}")).collect();
    if messages.is_empty() { Ok(()) } else { Err(Failure::failed(messages.join("; "))) }
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
