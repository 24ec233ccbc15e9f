//! `lith state info`: describes a state store. `--json`: `{"dir":…,"store":…,"initial_version":…,
//! "oldest_version":…,"version":…,"root":…,"floor":…,"engine":{"name":…,"version":…},
//! "snapshots":[…],"abandoned":[…],"reach":{"target":…,"base":…,"replays":…},"stores":[{"name":…,
//! "keys":…,"bytes":…,"hash":…}]}`. `floor` is the lowest version that a view or a rollback
//! reaches. `snapshots` and `abandoned` are those of `lith state snapshots`. `reach`, and with it
//! `stores`, is null if the newest version cannot be reached without a working copy.

use std::path::Path;

use lithdb_state::{Base, StateDb, StateInspection, StoreInspection};
use serde_json::Value as Json;

use super::snapshots;
use crate::database::Context;
use crate::failure::Failure;
use crate::output::{counted, size, to_json, with_fields};
use crate::progress::Spinner;

pub(super) fn run(dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let spinner = Spinner::new("reading the log");
    let found = StateDb::inspect_stores(dir)?;
    drop(spinner);
    show(dir, &found, ctx)?;
    ctx.out.document(|| {
        let dir = ("dir", Json::from(dir.display().to_string()));
        Ok(with_fields(to_json(&found)?, [dir]))
    })
}

fn show(dir: &Path, found: &StateInspection, ctx: &mut Context) -> Result<(), Failure> {
    let recovery = match found.reach {
        Some(reach) => {
            let base = match reach.base {
                Base::Empty { .. } => "the empty state".to_owned(),
                Base::Snapshot { version } => format!("snapshot {version}"),
                base => format!("version {}", base.version()),
            };
            let versions = counted(reach.replays, "version");
            format!("{versions} replayed from {base} if the working copy is lost")
        }
        None => "NOT possible if the working copy is lost: no usable snapshot".to_owned(),
    };
    let floor = match found.floor {
        Some(floor) => format!("version {floor} is the lowest to view or roll back to"),
        None => "NO version can be viewed or rolled back to".to_owned(),
    };
    let lines = [
        ("version", found.version.to_string()),
        ("root", found.root.to_string()),
        ("log", format!("versions {} to {}", found.oldest_version, found.version)),
        ("floor", floor),
        ("recovery", recovery),
        ("engine", found.engine.to_string()),
        ("id", found.store.to_string()),
    ];
    ctx.out.text(format_args!("state store {}", dir.display()))?;
    for (label, value) in lines {
        ctx.out.text(format_args!("  {label:<11} {value}"))?;
    }
    for StoreInspection { name, keys, bytes, hash, .. } in found.stores.iter().flatten() {
        ctx.out.text(format_args!("store {name}"))?;
        let rows = format!("{}, {} of keys and values", counted(*keys, "key"), size(*bytes));
        ctx.out.text(format_args!("  {:<11} {rows}", "rows"))?;
        ctx.out.text(format_args!("  {:<11} {hash}", "hash"))?;
    }
    let number = (found.snapshots.len() + found.abandoned.len()) as u64;
    ctx.out.text(counted(number, "snapshot"))?;
    snapshots::show(found, ctx)
}
