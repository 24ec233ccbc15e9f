//! `lith state adopt`: makes a state store of a directory with a flat layout. `--json`:
//! `{"store":…,"version":…,"root":…,"rows":…}`.

use std::path::Path;

use lithdb_state::StateDb;

use super::options;
use crate::database::Context;
use crate::failure::Failure;
use crate::output::counted;
use crate::progress::Spinner;

pub(super) fn run(dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let spinner = Spinner::new("adopting");
    let adopted = StateDb::adopt(dir, options())?;
    drop(spinner);
    ctx.out.text(format_args!(
        "adopted {} of version {}\n  root {}",
        counted(adopted.rows, "row"),
        adopted.version,
        adopted.root
    ))?;
    ctx.out.json(&adopted)
}
