//! `lith verify`: reads every byte and checks it. `--json`: `{"sound":…,"tables":[…],"keymaps":[…]}`; a table that is
//! damaged has no entry in `keymaps`.

use lithdb::{Db, DbOptions, KeymapReport, VerifyReport, verify_keymap};
use serde_json::json;

use crate::args::parse_table;
use crate::database::Command;
use crate::failure::Failure;
use crate::progress::Progress;

/// The arguments of `lith verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table; all of them if none is named
    #[arg(value_parser = parse_table)]
    table: Option<String>,
}

/// What was found.
pub(crate) struct Verified {
    /// The files of each table.
    pub(crate) tables: Vec<VerifyReport>,
    /// The keymap of each table whose files are sound.
    pub(crate) keymaps: Vec<KeymapReport>,
}

impl Verified {
    /// The tables that are not sound.
    pub(crate) fn unsound(&self) -> Vec<String> {
        let damaged = self.tables.iter().filter(|t| !t.is_sound()).map(|t| &t.table);
        let wrong = self.keymaps.iter().filter(|k| !k.is_sound()).map(|k| &k.table);
        damaged.chain(wrong).map(ToString::to_string).collect()
    }
}

/// Verifies the files, then that the keymap finds every record of those that are sound.
pub(crate) fn verify(options: &DbOptions, named: Option<&str>) -> Result<Verified, Failure> {
    let named = named.map(|name| [name.to_owned()]);
    let mut bar = Progress::new("verifying files", 0);
    let tables = Db::verify(options, named.as_ref().map(|names| &names[..]), &mut |progress| {
        bar.set(progress.bytes_done, progress.bytes_total);
    })?;
    drop(bar);
    let db = Db::open_read_only(options.clone())?;
    let mut keymaps = Vec::new();
    for report in tables.iter().filter(|report| report.is_sound()) {
        let table = db.existing_table(report.table.as_str())?;
        let mut bar = Progress::new("verifying keymaps", 0);
        keymaps.push(verify_keymap(&table, &mut |progress| {
            bar.set(progress.bytes_done, progress.bytes_total);
        })?);
    }
    Ok(Verified { tables, keymaps })
}

/// Verifies tables; damage is a failure.
pub(crate) fn run(args: &Args, command: &mut Command) -> Result<(), Failure> {
    let verified = verify(&command.options()?, args.table.as_deref())?;
    for table in &verified.tables {
        command.out.text(table)?;
        for keymap in verified.keymaps.iter().filter(|keymap| keymap.table == table.table) {
            command.out.text(keymap)?;
        }
    }
    let unsound = verified.unsound();
    command.out.json(&json!({
        "sound": unsound.is_empty(),
        "tables": verified.tables,
        "keymaps": verified.keymaps,
    }))?;
    command.out.flush()?;
    if unsound.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format_args!("not sound: {}; see lith repair", unsound.join(", "))))
}
