//! `lith`: LithDB from a terminal.
//!
//! One file per command under `commands/`; what they share is here: arguments, output, progress, keys, walking trees.
//! A command answers on standard output, as text for people or as JSON for programs (`--json`). An error is one line on
//! standard error. Exit status: 0 done, 1 failed, 2 the command line makes no sense.

mod args;
mod commands;
mod database;
mod failure;
mod files;
mod keys;
mod output;
mod progress;
mod walk;

use std::process::ExitCode;

fn main() -> ExitCode {
    let ended = args::parse(std::env::args_os()).and_then(commands::run);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
