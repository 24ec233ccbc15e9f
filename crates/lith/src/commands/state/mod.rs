//! `lith state`: a versioned state store in a directory, whose log is its own. One file per
//! command, with its JSON.
//!
//! Commands that only read work beside a writer and lock nothing that it needs. The others open the
//! store for writing, without snapshots at intervals and without retention: those follow the
//! application's options, which are not recorded.

mod adopt;
mod apply;
mod diff;
mod export;
mod get;
mod import;
mod info;
mod input;
mod prune;
mod reset;
mod rollback;
mod root;
mod scan;
mod snapshots;
mod verify;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use lithdb_state::{
    ChangeSet, OpenReport, Reclone, Retention, StateDb, StateOptions, StoreName, View,
};

use crate::database::Context;
use crate::failure::Failure;
use crate::keys::{self, Key};
use crate::output::Purpose;
use crate::progress::Spinner;
use crate::stderr::print_note;

/// The arguments of `lith state`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the state store
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Describe the state store: version, root, log, stores, snapshots
    Info,
    /// Write one value to standard output, unmodified
    Get(get::Args),
    /// List the rows of a store in the order of their keys
    Scan(scan::Args),
    /// Commit versions from JSON lines
    #[command(after_help = apply::FORMAT)]
    Apply(apply::Args),
    /// List the snapshots
    Snapshots,
    /// Take a snapshot of the newest version
    Snapshot,
    /// Remove old snapshots, and let go of the log's versions that only they need
    Prune(prune::Args),
    /// Rewind a stopped state store to an earlier version
    Rollback(rollback::Args),
    /// Print the root of a version
    Root(root::Args),
    /// Check the log and the snapshots, and on request all rows and the history
    Verify(verify::Args),
    /// Make a state store of a flat layout: an engine without a log
    Adopt,
    /// List the rows in which two versions differ
    Diff(diff::Args),
    /// Write all rows of a version to a new file
    Export(export::Args),
    /// Make a state store of an export, where there is none
    Import(import::Args),
    /// Remove the state store from its directory, with its log and all snapshots
    Reset(reset::Args),
}

impl Args {
    /// What the output of the command is for.
    pub(crate) fn purpose(&self) -> Purpose {
        match &self.command {
            Command::Get(_) | Command::Scan(_) | Command::Root(_) | Command::Diff(_) => {
                Purpose::Result
            }
            _ => Purpose::Report,
        }
    }
}

pub(crate) fn run(args: &Args, ctx: &mut Context) -> Result<(), Failure> {
    if !ctx.roots.is_empty() {
        return Err(Failure::usage(
            "a state store is one directory: expected --dir DIR, found --db",
        ));
    }
    if ctx.pread {
        return Err(Failure::usage("expected no --pread: lith state does not support it"));
    }
    let Some(dir) = args.dir.as_deref() else {
        return Err(Failure::usage("expected --dir DIR, the directory of the state store"));
    };
    match &args.command {
        Command::Info => info::run(dir, ctx),
        Command::Get(args) => get::run(args, dir, ctx),
        Command::Scan(args) => scan::run(args, dir, ctx),
        Command::Apply(args) => apply::run(args, dir, ctx),
        Command::Snapshots => snapshots::list(dir, ctx),
        Command::Snapshot => snapshots::take(dir, ctx),
        Command::Prune(args) => prune::run(args, dir, ctx),
        Command::Rollback(args) => rollback::run(args, dir, ctx),
        Command::Root(args) => root::run(args, dir, ctx),
        Command::Verify(args) => verify::run(args, dir, ctx),
        Command::Adopt => adopt::run(dir, ctx),
        Command::Diff(args) => diff::run(args, dir, ctx),
        Command::Export(args) => export::run(args, dir, ctx),
        Command::Import(args) => import::run(args, dir, ctx),
        Command::Reset(args) => reset::run(args, dir, ctx),
    }
}

/// The options with which commands write: nothing happens that was not asked for.
fn options() -> StateOptions {
    StateOptions::new().create_if_missing(false).snapshot_interval(0).retention(Retention::Manual)
}

/// Opens the state store for writing, and notes what the user does not expect of an opening.
fn open(dir: &Path, options: StateOptions) -> Result<StateDb, Failure> {
    let spinner = Spinner::new("opening");
    let db = StateDb::open(dir, options)?;
    drop(spinner);
    note_opening(db.opened());
    Ok(db)
}

fn note_opening(report: &OpenReport) {
    if let Some(rollback) = &report.rollback {
        print_note("finished an interrupted rollback of the log:");
        rollback.to_string().lines().for_each(print_note);
    }
    if let Some(reason) = &report.recloned
        && *reason != Reclone::Absent
    {
        let base = report.base;
        print_note(format_args!("made the working copy again from version {base}: {reason}"));
    }
    for version in &report.abandoned {
        print_note(format_args!("moved snapshot {version} of another branch to abandoned/"));
    }
    for (version, reason) in &report.damaged {
        print_note(format_args!("snapshot {version} cannot be used: {reason}"));
    }
}

/// A view of a version, or of the newest.
fn view(dir: &Path, version: Option<u64>) -> Result<View, Failure> {
    let _spinner = Spinner::new("reading the log");
    Ok(StateDb::view_only(dir, version)?)
}

/// Refuses a store without rows: its name is probably mistyped.
fn require_store(view: &View, store: &StoreName) -> Result<(), Failure> {
    let stores = view.stores();
    if stores.iter().any(|(name, _keys, _bytes)| name == store) {
        return Ok(());
    }
    let names: Vec<&str> = stores.iter().map(|(name, _keys, _bytes)| name.as_str()).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let version = view.version();
    let message =
        format!("no such store: {store} has no rows in version {version}; stores: {found}");
    Err(lithdb::Error::new(lithdb::ErrorKind::Missing, message).into())
}

/// Parses the name of a store.
fn parse_store(typed: &str) -> Result<StoreName, String> {
    StoreName::new(typed).map_err(|error| error.message().to_owned())
}

/// Parses a key of a store.
fn parse_key(typed: &str) -> Result<Key, String> {
    let (key, max) = (keys::parse(typed)?, ChangeSet::MAX_KEY_LEN);
    if key.0.len() > max {
        return Err(format!("expected a key of 1 to {max} bytes, found {}", key.0.len()));
    }
    Ok(key)
}
