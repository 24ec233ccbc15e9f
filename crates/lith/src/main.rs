//! `lith`: LithDB from a terminal.
//!
//! One file per command under `commands/`; what they share is here: arguments, output, progress, keys, walking trees.
//! A command answers on standard output, as text for people or as JSON for programs (`--json`). An error is one line on
//! standard error, text or JSON likewise. Exit status: 0 done, 1 failed, 2 the command line makes no sense, 3 no such key.

mod args;
mod commands;
mod database;
mod failure;
mod files;
mod keys;
mod output;
mod progress;
mod walk;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    // A line that makes no sense is said in the form that was asked for, too.
    output::set_json_errors(args::wants_json(&line));
    let ended = args::parse(line).and_then(commands::run);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
