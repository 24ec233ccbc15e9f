//! `lith rebuild-keymap`: the keymaps are derived from the key files, and this derives them again. `--json`:
//! `{"tables":[{"table":…,"records":…,"keys":…,"entries":…,"wrong":…,"sound":…,"rebuild_seconds":…,"check_seconds":…}]}`.

use std::time::Instant;

use lithdb::{KeymapReport, verify_keymap};
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

/// Rebuilds by opening for writing, and checks: every record is looked up, and the keymap has no more than it should.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let db = command.open()?;
    let (mut answers, mut wrong) = (Vec::new(), Vec::new());
    for name in names(&db, args.table.as_deref())? {
        let started = Instant::now();
        let table = existing_table(&db, &name)?;
        let rebuilt = started.elapsed();
        let started = Instant::now();
        let mut bar = Progress::new("checking the keymap", 0);
        let report = verify_keymap(&table, &mut |progress| {
            bar.set(progress.bytes_done, progress.bytes_total);
        })?;
        drop(bar);
        let checked = started.elapsed();
        command.out.text(&report)?;
        command.out.text(format_args!(
            "  rebuilt in {}, every record looked up in {}",
            duration(rebuilt),
            duration(checked)
        ))?;
        let sound = report.is_sound();
        answers.push(Answer {
            report,
            sound,
            rebuild_seconds: rebuilt.as_secs_f64(),
            check_seconds: checked.as_secs_f64(),
        });
        if !sound {
            wrong.push(name);
        }
    }
    db.close()?;
    command.out.document(|| Ok(json!({ "tables": keys::joinable(to_json(&answers)?) })))?;
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format_args!("keymap and key files disagree: {}", wrong.join(", "))))
}
