//! `lith ls`: the tables. `--json`: `{"tables":["a","b"]}`.

use serde_json::json;

use crate::database::{Command, names};
use crate::failure::Failure;

/// Lists the tables.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let db = command.open_read_only()?;
    let names = names(&db, None)?;
    for name in &names {
        command.out.text(name)?;
    }
    command.out.json(&json!({ "tables": names }))
}
