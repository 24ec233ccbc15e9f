//! `lith ls`: lists the tables. `--json`: `{"tables":["a","b"]}`.

use serde_json::json;

use crate::database::{Context, Tables};
use crate::failure::Failure;

pub(crate) fn run(ctx: &mut Context) -> Result<(), Failure> {
    let db = ctx.open_read_only()?;
    let names = Tables { table: None }.names(&db)?;
    for name in &names {
        ctx.out.text(name)?;
    }
    ctx.out.json(&json!({ "tables": names }))
}
