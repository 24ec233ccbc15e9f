//! The command line as a whole; what belongs to one command stands with it under `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use lithdb::TableName;

use crate::commands::{
    dump, gc, get, info, load, put, rebuild_keymap, repair, rollback, scan, tour, verify,
};
use crate::failure::Failure;

/// LithDB from a terminal: data that is written once, kept for a while and dropped in bulk.
#[derive(Debug, Parser)]
#[command(
    name = "lith",
    version,
    max_term_width = 80,
    after_help = "Keys are text, or 0x and hex digits. Commands that only read work beside a process that writes. \
                  Exit status: 0 done, 1 failed, 2 usage, 3 no such key."
)]
pub(crate) struct Cli {
    /// Before or behind the command, or both: see [`parse`].
    #[command(flatten)]
    pub(crate) roots: Roots,

    /// Answer in JSON: one document on one line; a line for each record from scan and dump. Errors, too
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Read files by pread instead of mapping them: a disk that cannot read is then an error, not a signal
    #[arg(long, global = true)]
    pub(crate) pread: bool,

    /// Log to standard error; twice for details. RUST_LOG rules if it is set
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

// Where the database is. Not a doc comment: clap would print it as what each command does.
#[derive(Debug, clap::Args)]
pub(crate) struct Roots {
    /// A root directory of the database; once for every root, in any order
    #[arg(long = "db", value_name = "DIR", id = "db")]
    pub(crate) dirs: Vec<PathBuf>,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the tables
    Ls,
    /// Describe a table, or all: keys, bytes, segments, age, keymap
    Info(info::Args),
    /// Store one value, from a file or standard input, and flush
    Put(put::Args),
    /// Write one value to standard output, byte for byte
    Get(get::Args),
    /// List records in the order in which they were put
    Scan(scan::Args),
    /// Store every file below a directory: the key is its path from there, the value its content
    Load(load::Args),
    /// Read every byte and check every checksum, chain, count and keymap entry
    Verify(verify::Args),
    /// Collect now what has expired by the TTL that the table recorded
    Gc(gc::Args),
    /// Print every record of a table's key files, also of damaged ones
    Dump(dump::Args),
    /// Make a damaged database open again: what loses nothing at once, what loses something if that is accepted
    Repair(repair::Args),
    /// Rewind a stopped database to an earlier point: all tables or none
    #[command(override_usage = "lith rollback [OPTIONS] --db <DIR> <POINT>")]
    Rollback(rollback::Args),
    /// Rebuild the keymaps from the key files and check them both ways
    RebuildKeymap(rebuild_keymap::Args),
    /// A guided demonstration on real files: load, compare, reopen, expire, read beside a writer, verify
    Tour(tour::Args),
}

/// Reads a command line. Roots may stand on both sides of the command; clap's own way for that would forget those in
/// front when there are any behind.
pub(crate) fn parse<T: Into<OsString> + Clone>(
    line: impl IntoIterator<Item = T>,
) -> Result<Cli, Failure> {
    let command = Cli::command().mut_subcommands(Roots::augment_args);
    let matches = command.try_get_matches_from(line).map_err(|error| explain(&error))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| explain(&error))?;
    if let Some((_, behind)) = matches.subcommand()
        && let Some(roots) = behind.get_many::<PathBuf>("db")
    {
        cli.roots.dirs.extend(roots.cloned());
    }
    Ok(cli)
}

/// Whether a command line asks for JSON, whatever else is wrong with it.
pub(crate) fn wants_json(line: &[OsString]) -> bool {
    line.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// What clap has to say, in the form of every other error.
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

/// The name of a table, checked before anything is opened.
pub(crate) fn parse_table(typed: &str) -> Result<String, String> {
    match TableName::new(typed) {
        Ok(name) => Ok(name.to_string()),
        Err(error) => Err(error.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_definitions_are_consistent() {
        Cli::command().mut_subcommands(Roots::augment_args).debug_assert();
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
