//! `lith state snapshots`: lists the snapshots. `--json`: `{"snapshots":[{"version":…,"root":…,
//! "class":…,"reason":…,"created":…,"bytes":…,"shared_bytes":…,"path":…}],"abandoned":[{
//! "version":…,"path":…}]}`; `created` is in milliseconds since 1970.
//!
//! `lith state snapshot`: takes one. `--json`: `{"version":…,"root":…,"bytes":…,"took_ms":…,
//! "path":…}`.

use std::path::Path;
use std::time::Duration;

use lithdb_env::{Clock, OsClock};
use lithdb_state::{SnapshotInfo, StateDb, StateInspection};
use serde_json::Value as Json;

use super::{open, options};
use crate::database::Context;
use crate::failure::Failure;
use crate::output::{age, duration, size, to_json};
use crate::progress::Spinner;

pub(super) fn list(dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let found = StateDb::inspect(dir)?;
    if found.snapshots.is_empty() && found.abandoned.is_empty() {
        ctx.out.text("no snapshots")?;
    }
    show(&found, ctx)?;
    ctx.out.document(|| {
        let mut found = to_json(&found)?;
        if let Json::Object(fields) = &mut found {
            fields.retain(|name, _| matches!(name.as_str(), "snapshots" | "abandoned"));
        }
        Ok(found)
    })
}

/// Prints one line for each snapshot, and why one cannot be used.
pub(super) fn show(found: &StateInspection, ctx: &mut Context) -> Result<(), Failure> {
    for snapshot in &found.snapshots {
        ctx.out.text(line(snapshot))?;
        if let Some(reason) = &snapshot.reason {
            ctx.out.text(format_args!("{:14}{reason}", ""))?;
        }
    }
    for (version, path) in &found.abandoned {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        ctx.out.text(format_args!("{version:>12}  moved aside to abandoned/{name}"))?;
    }
    Ok(())
}

/// A snapshot on one line.
pub(super) fn line(snapshot: &SnapshotInfo) -> String {
    let SnapshotInfo { version, class, bytes, shared_bytes, created, .. } = snapshot;
    let class = class.to_string();
    // Without its manifest nothing else is known.
    let Some(created) = created else { return format!("{version:>12}  {class}") };
    let (bytes, own) = (size(*bytes), size(bytes.saturating_sub(*shared_bytes)));
    let age = age(OsClock.now(), *created);
    format!("{version:>12}  {class:<9} {bytes:>10}, {own} not shared, taken {age} ago")
}

pub(super) fn take(dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let db = open(dir, options())?;
    let spinner = Spinner::new("taking a snapshot");
    let taken = db.snapshot()?.wait();
    let closed = db.close();
    drop(spinner);
    let taken = taken?;
    let took = duration(Duration::from_millis(taken.took_ms));
    ctx.out.text(format_args!(
        "snapshot of version {} in {took}: {}\n  root {}\n  {}",
        taken.version,
        size(taken.bytes),
        taken.root,
        taken.path.display()
    ))?;
    ctx.out.json(&taken)?;
    Ok(closed?)
}
