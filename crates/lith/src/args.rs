//! The command line: global options and the list of commands. The arguments of a command are in
//! its file under `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{dump, gc, get, load, put, repair, rollback, scan, state, tour};
use crate::database::Tables;
use crate::failure::Failure;

/// LithDB: a store for data that is written once, kept for a while and dropped in bulk.
#[derive(Debug, Parser)]
#[command(
    name = "lith",
    version,
    max_term_width = 80,
    after_help = "Keys are text, or 0x and hex digits. Commands that only read work while another \
                  process writes. Exit status: 0 done, 1 failed, 2 usage, 3 no such key."
)]
pub(crate) struct Cli {
    // Before the command, after it, or both: see `parse`.
    #[command(flatten)]
    pub(crate) roots: Roots,

    /// Print JSON: one document on one line; scan and dump print one line per record. Errors are
    /// JSON, too
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Read files with pread instead of mmap: a failed disk read is then an error instead of
    /// SIGBUS
    #[arg(long, global = true)]
    pub(crate) pread: bool,

    /// Log to standard error; -vv for details. RUST_LOG takes precedence
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

// The location of the database. Not a doc comment: clap would print it as the description of
// every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Roots {
    /// A root directory of the database; repeat it for each root, in any order
    #[arg(long = "db", value_name = "DIR", id = "db")]
    pub(crate) dirs: Vec<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the tables
    Ls,
    /// Show statistics of one table or all: keys, bytes, segments, age, keymap
    Info(Tables),
    /// Store one value, from a file or standard input, and flush
    Put(put::Args),
    /// Write one value to standard output, unmodified
    Get(get::Args),
    /// List records in write order
    Scan(scan::Args),
    /// Store every file below a directory: the key is the relative path, the value the content
    Load(load::Args),
    /// Verify every byte, checksum, chain link, count and keymap entry
    Verify(Tables),
    /// Delete segments that have expired by the recorded TTL
    Gc(gc::Args),
    /// Print every record of a table's key files, including damaged ones
    Dump(dump::Args),
    /// Repair a damaged database; a repair that loses data needs --accept-loss
    Repair(repair::Args),
    /// Roll a stopped database back to an earlier point, atomically over all tables
    #[command(override_usage = "lith rollback [OPTIONS] --db <DIR> <POINT>")]
    Rollback(rollback::Args),
    /// Rebuild the keymaps from the key files and check them in both directions
    RebuildKeymap(Tables),
    /// Read, change and rewind a versioned state store
    #[command(override_usage = "lith state [OPTIONS] --dir <DIR> <COMMAND>")]
    State(state::Args),
    /// Demonstrate LithDB on real files: load, compare, reopen, expire, read beside a writer, roll
    /// back, verify; and a state store, of which a writer is killed
    Tour(tour::Args),
}

/// The definition of the command line. `--db` may stand before and after the command; a global clap
/// option would drop those before it if there are any after it. A state store has no roots.
fn definition() -> clap::Command {
    Cli::command().mut_subcommands(|command| match command.get_name() {
        "state" => command,
        _ => Roots::augment_args(command),
    })
}

/// Parses a command line.
pub(crate) fn parse<T: Into<OsString> + Clone>(
    line: impl IntoIterator<Item = T>,
) -> Result<Cli, Failure> {
    let matches = definition().try_get_matches_from(line).map_err(|error| explain(&error))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| explain(&error))?;
    if let Some((_, after)) = matches.subcommand()
        && let Ok(Some(roots)) = after.try_get_many::<PathBuf>("db")
    {
        cli.roots.dirs.extend(roots.cloned());
    }
    Ok(cli)
}

/// Whether the command line contains `--json`, even if it is invalid otherwise.
pub(crate) fn wants_json(line: &[OsString]) -> bool {
    line.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// Converts an error of clap to one line that ends with where to find help.
fn explain(error: &clap::Error) -> Failure {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Failure::Help(error.to_string());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Failure::usage("expected a command; see lith --help");
        }
        _ => {}
    }
    let text = error.to_string();
    let message = text.split("\nUsage:").next().unwrap_or(&text);
    let message = message.split("\nFor more information").next().unwrap_or(message);
    let message: Vec<&str> =
        message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    Failure::usage(format_args!("{message}; see lith --help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_definitions_are_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn db_options_before_and_after_the_command_are_merged() {
        let cli = parse(["lith", "--db", "a", "ls", "--db=b", "--db", "c"]).unwrap();
        assert_eq!(cli.roots.dirs, ["a", "b", "c"].map(PathBuf::from));
        assert!(parse(["lith", "ls"]).unwrap().roots.dirs.is_empty());
    }

    #[test]
    fn command_line_error_is_one_line() {
        for line in
            [&["lith", "get"][..], &["lith", "scam"], &["lith", "scan", "t", "--nope"], &["lith"]]
        {
            match parse(line) {
                Err(Failure::Usage(message)) => {
                    assert!(!message.contains('\n') && message.contains("--help"), "{message}");
                    assert!(!message.contains("error:") && !message.contains("Usage"), "{message}");
                }
                other => panic!("{line:?}: {other:?}"),
            }
        }
    }
}
