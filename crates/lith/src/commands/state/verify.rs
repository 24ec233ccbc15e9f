//! `lith state verify`: checks a state store. `--json`: `{"sound":…,"level":…,"version":…,"root":…,
//! "records":…,"snapshots":…,"rows":…,"replay":…,"findings":[…],"time":…}`; `replay` is `null`, or
//! `{"base":…,"versions":…,"snapshots":[…],"locked":[…],"working":…,"rows":…}`.

use std::path::Path;

use lithdb_state::{StateDb, StateReplay, StateVerification, VerifyLevel};
use serde_json::Value as Json;

use crate::database::Context;
use crate::failure::Failure;
use crate::output::{Output, count, counted, to_json, with_fields};
use crate::progress::Progress;

/// The arguments of `lith state verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also read every byte of the snapshots
    #[arg(long)]
    files: bool,
    /// Also hash every row of the newest version; implies --files
    #[arg(long)]
    content: bool,
    /// Also replay the whole log, and compare every snapshot and the working copy; implies
    /// --content
    #[arg(long)]
    replay: bool,
}

pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let level = match args {
        Args { replay: true, .. } => VerifyLevel::Replay,
        Args { content: true, .. } => VerifyLevel::Content,
        Args { files: true, .. } => VerifyLevel::Files,
        Args { .. } => VerifyLevel::Light,
    };
    let mut bar = Progress::counting("verifying");
    let verified = StateDb::verify(dir, level, |done| bar.set(done, None))?;
    drop(bar);
    show(&verified, &mut ctx.out)?;
    ctx.out.document(|| {
        let sound = ("sound", Json::from(verified.is_ok()));
        Ok(with_fields(to_json(&verified)?, [sound]))
    })?;
    let problems = verified.findings.len() as u64;
    let message = format!("not sound: {} found", counted(problems, "problem"));
    Failure::from_messages([(problems > 0).then_some(message)])
}

fn show(verified: &StateVerification, out: &mut Output) -> Result<(), Failure> {
    let StateVerification { version, root, records, snapshots, rows, level, .. } = verified;
    let is_light = *level < VerifyLevel::Files;
    let depth = if is_light { "names and lengths of their files" } else { "every byte" };
    out.text(format_args!("version {version}\n  root {root}"))?;
    out.text(format_args!("  {} of the log", counted(*records, "record")))?;
    out.text(format_args!("  {}, {depth}", counted(*snapshots, "snapshot")))?;
    if *level >= VerifyLevel::Content {
        out.text(format_args!("  {} hashed", counted(*rows, "row")))?;
    }
    if let Some(replay) = &verified.replay {
        let StateReplay { base, versions, snapshots, locked, working, rows, .. } = replay;
        let snapshots = counted(snapshots.len() as u64, "snapshot");
        let working = match working {
            Some(version) => format!("the working copy of version {version}"),
            None => "no working copy".to_owned(),
        };
        out.text(format_args!("  {} replayed from version {base}", counted(*versions, "version")))?;
        out.text(format_args!("  {snapshots} and {working} compared"))?;
        out.text(format_args!("  {} compared", counted(*rows, "row")))?;
        for version in locked {
            out.text(format_args!("  snapshot {version} NOT compared: it was locked; retry"))?;
        }
    }
    for finding in &verified.findings {
        out.text(format_args!("WRONG: {finding}"))?;
    }
    match verified.findings.len() as u64 {
        0 => out.text("sound"),
        found => out.text(format_args!("NOT sound: {} found", count(found))),
    }
}
